"""Tests for removing old days: which files go, which stay, and that a dry run tells the same."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import removed
from pipeline.files import event_file_name, parquet_folder, tick_file_name
from pipeline.spool import Incoming, Spool
from pipeline.store.keeping import cleaning
from pipeline.store.keeping.cleaning import clean
from tests.builders import ZONE, a_config, tick_lines


@pytest.fixture
def config(tmp_path):
    config = a_config(tmp_path)
    config.storage.data_dir.mkdir()
    return config


@pytest.fixture
def today(monkeypatch):
    """Return the day of the tests; it does not end within one."""
    now = datetime.now(ZoneInfo(ZONE)).replace(hour=12)

    class Noon(datetime):
        @classmethod
        def now(cls, tz=None):
            return now.astimezone(tz)

    monkeypatch.setattr(cleaning, "datetime", Noon)
    monkeypatch.setattr("pipeline.store.keeping.closed.datetime", Noon)
    return now.date()


def store(config, day, *forms):
    """Make files of a day."""
    data_dir = config.storage.data_dir
    if "t" in forms:
        (data_dir / tick_file_name(day)).write_bytes(tick_lines(1, 10))
    if "e" in forms:
        (data_dir / event_file_name(day)).write_bytes(b"{}\n")
    if "p" in forms:
        parquet_folder(data_dir, day).mkdir(parents=True)
        (parquet_folder(data_dir, day) / "part-00000.parquet").write_bytes(b"PAR1")


def stored(config):
    """Return all files and folders there are but for what the tools remember."""
    data_dir = config.storage.data_dir
    return {str(path.relative_to(data_dir)) for path in data_dir.rglob("*") if ".mds" not in path.parts}


def names(outcomes, what="removed"):
    return [outcome.path.name for outcome in outcomes if outcome.what == what]


def test_days_older_than_asked_go_and_the_others_stay(config, today):
    """Today and the N days before it stay; ticks and events of older ones go, oldest first, with their counts."""
    days = [today - timedelta(days=n) for n in range(5)]
    for day in days:
        store(config, day, "t", "e")
    outcomes = list(clean(config, 2))
    expected = [name(day) for day in (days[4], days[3]) for name in (tick_file_name, event_file_name)]
    assert names(outcomes) == expected
    assert [outcome.ticks for outcome in outcomes] == [10, None, 10, None]
    assert stored(config) == {name(day) for day in days[:3] for name in (tick_file_name, event_file_name)}
    assert [gone.file for gone in removed.read(config.state_dir)] == expected
    assert list(clean(config, 2)) == []


@pytest.mark.parametrize("keep_days", [0, 1, 10**9])
def test_today_always_stays(config, today, keep_days):
    """With nothing to be kept, and with more days than the calendar has; so does what lies ahead."""
    days = [today + timedelta(days=n) for n in (-1, 0, 1)]
    for day in days:
        store(config, day, "t")
    assert names(clean(config, keep_days)) == ([tick_file_name(days[0])] if keep_days == 0 else [])


def test_a_day_that_a_spool_holds_open_stays_with_its_reason(config, today):
    """And all days after it; those before go."""
    old, held = today - timedelta(days=9), today - timedelta(days=8)
    for day in (old, held):
        store(config, day, "t", "e", "p")
    noon_ns = int(datetime(held.year, held.month, held.day, 12, tzinfo=ZoneInfo(ZONE)).timestamp()) * 10**9
    Spool.create(config.spool_dir / "1" / "1", 10**6).append_frames([Incoming(noon_ns, 1, b"x")])
    outcomes = list(clean(config, 3, parquet=True))
    assert names(outcomes) == [tick_file_name(old), f"date={old}", event_file_name(old)]
    assert names(outcomes, "kept") == [tick_file_name(held), f"date={held}"]
    assert all("spool" in (outcome.why or "") for outcome in outcomes if outcome.what == "kept")
    assert {tick_file_name(held), event_file_name(held)} <= stored(config)


@pytest.mark.parametrize("forms", ["t", "e", "p", "te", "tp", "ep", "tep"])
@pytest.mark.parametrize("parquet", [False, True])
@pytest.mark.parametrize("dry_run", [False, True])
def test_events_go_with_the_last_ticks(config, today, forms, parquet, dry_run):
    """Parquet stays unless it is asked for, and keeps the events; a dry run tells the same, and does nothing."""
    day = today - timedelta(days=40)
    store(config, day, *forms)
    before = stored(config)
    gone = [name for form, name in (("t", tick_file_name(day)), ("p", f"date={day}")) if form in forms]
    if not parquet and "p" in forms:
        gone.remove(f"date={day}")
    if "e" in forms and (parquet or "p" not in forms):
        gone.append(event_file_name(day))
    assert names(clean(config, 30, parquet=parquet, dry_run=dry_run)) == gone
    if dry_run:
        assert stored(config) == before
        assert not config.state_dir.exists()
    else:
        left = {name.split("/")[1] if name.startswith("parquet/") else name for name in stored(config)}
        there = {tick_file_name(day): "t", event_file_name(day): "e", f"date={day}": "p"}
        assert left - {"parquet"} == {name for name, form in there.items() if form in forms and name not in gone}


def test_what_is_not_the_recorder_s_is_never_touched(config, today):
    """Other names, links, folders: the last two are told of where they have a day's name, and keep their events."""
    data_dir = config.storage.data_dir
    day = today - timedelta(days=50)
    for name in (f"{tick_file_name(day)}.gz", "market_data_2020-02-30.jsonl", "notes.txt", f"x{tick_file_name(day)}"):
        (data_dir / name).write_bytes(b"mine")
    (data_dir / "elsewhere").write_bytes(b"mine")
    (data_dir / tick_file_name(day)).symlink_to(data_dir / "elsewhere")
    (data_dir / tick_file_name(day - timedelta(days=1))).mkdir()
    store(config, day, "e")
    before = stored(config)
    outcomes = list(clean(config, 0))
    assert names(outcomes, "kept") == [tick_file_name(day - timedelta(days=1)), tick_file_name(day)]
    assert names(outcomes) == []
    assert stored(config) == before


def test_one_that_cannot_be_removed_does_not_stop_the_rest(config, today, monkeypatch):
    """It is told of, and its events stay; the others go."""
    days = [today - timedelta(days=n) for n in (43, 42, 41)]
    for day in days:
        store(config, day, "t", "e")
    real = removed.note

    def note(state_dir, record):
        if record.file == tick_file_name(days[1]):
            raise PermissionError(13, "Permission denied")
        real(state_dir, record)

    monkeypatch.setattr(removed, "note", note)
    outcomes = list(clean(config, 30))
    assert [outcome.what for outcome in outcomes] == ["removed", "removed", "failed", "removed", "removed"]
    assert "Permission denied" in (outcomes[2].why or "")
    assert stored(config) == {tick_file_name(days[1]), event_file_name(days[1])}


FORMS = st.sets(st.sampled_from("tep"), min_size=1)


@settings(max_examples=50)
@given(days=st.dictionaries(st.integers(-1, 60), FORMS), keep_days=st.integers(0, 60), parquet=st.booleans())
def test_what_is_told_is_what_is_done(in_memory, days, keep_days, parquet):
    """The dry run names what then goes; nothing young goes, and no day keeps events alone that had ticks."""
    config = a_config(in_memory())
    config.storage.data_dir.mkdir()
    today = datetime.now(ZoneInfo(ZONE)).date()
    for ago, forms in days.items():
        store(config, today - timedelta(days=ago), *forms)
    told = list(clean(config, keep_days, parquet=parquet, dry_run=True))
    done = list(clean(config, keep_days, parquet=parquet))
    if datetime.now(ZoneInfo(ZONE)).date() == today:
        assert told == done
    assert all(not outcome.path.exists() and (today - outcome.day).days >= keep_days for outcome in done)
    left = stored(config)
    for ago, forms in days.items():
        day = today - timedelta(days=ago)
        if ago < keep_days:
            assert (tick_file_name(day) in left, event_file_name(day) in left) == ("t" in forms, "e" in forms)
        if ago > keep_days:
            assert tick_file_name(day) not in left
            assert (event_file_name(day) in left) == ("e" in forms and "p" in forms and not parquet)
