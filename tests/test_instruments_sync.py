"""Fetching the list of instruments: by the official client, when, what is refused, and who else does it."""

import logging
import os
import signal
import subprocess
import sys
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from pipeline.config import Config
from pipeline.errors import AlreadyRunningError
from pipeline.instruments import sync as syncing
from pipeline.instruments.listing import newest, read
from pipeline.instruments.sync import (
    RefusedSyncError,
    State,
    SyncError,
    due,
    is_due,
    read_state,
    source_of,
    sync,
    usable,
)
from pipeline.role import Lock
from tests.kite_list import LIST, ROWS, csv_of, serving

ZONE = ZoneInfo("Asia/Kolkata")
DAY = date(2025, 10, 1)
SYNC_AT = time(8, 30)
KITE = "https://api.kite.trade"
KEY, TOKEN = "k3y-of-the-app", "t0ken-of-the-day"
DEADLINE_S = 60


@pytest.fixture
def kite():
    with serving() as found:
        yield found


@pytest.fixture
def settings(tmp_path, no_settings, kite):  # noqa: ARG001  it has none of the environment
    config = Config().with_changes(kite={"api_url": kite.url}, storage={"data_dir": tmp_path / "data"}).resolved()
    return config.model_copy(update={"api_key": SecretStr(KEY), "access_token": SecretStr(TOKEN)})


def kept(settings):
    """Return the files of the data folder and of its state folder."""
    folders = (settings.storage.data_dir, settings.state_dir)
    return {path.name: path.read_bytes() for folder in folders for path in folder.glob("*") if path.is_file()}


def newest_list(settings):
    """Return the list that is read."""
    path = newest(settings.storage.data_dir)
    assert path is not None
    return path


def remembered(settings):
    """Return where it has come from."""
    known = read_state(settings)
    assert known is not None
    return known


# When.


def state(day=DAY, at="08:45", source=KITE, *, simulated=False):
    fetched_at = datetime.fromisoformat(f"{day}T{at}").replace(tzinfo=ZONE)
    return State(day=day, source=source, fetched_at=fetched_at, simulated=simulated)


YESTERDAY = DAY - timedelta(days=1)
SIMULATOR = "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("known", "now", "simulated", "wanted"),
    [
        (None, "07:00", False, True),
        (state(YESTERDAY), "07:00", False, True),
        (state(at="08:45"), "09:00", False, False),
        (state(at="07:00"), "08:29", False, False),
        (state(at="07:00"), "08:30", False, True),
        (state(at="08:30"), "08:31", False, False),
        (state(at="20:00"), "23:59", False, False),
        (state(simulated=True, source=SIMULATOR), "09:00", False, True),
        (state(source="https://elsewhere"), "09:00", False, True),
        (None, "09:00", True, False),
        (state(YESTERDAY), "09:00", True, False),
        (state(at="07:00"), "09:00", True, False),
        (state(at="07:00", simulated=True, source=SIMULATOR), "09:00", True, False),
        (state(YESTERDAY, simulated=True, source=SIMULATOR), "09:00", True, True),
        (state(simulated=True, source="http://127.0.0.1:5001"), "09:00", True, True),
    ],
)
def test_when_another_list_is_wanted(known, now, simulated, wanted):
    """Once a day of Kite's, and again from `sync_at` on; with a simulator as seldom as can be; always without one."""
    at = datetime.fromisoformat(f"{DAY}T{now}").replace(tzinfo=ZONE)
    source = SIMULATOR if simulated else KITE
    assert is_due(known, at, SYNC_AT, source=source, simulated=simulated, has_list=True) is wanted
    assert is_due(known, at, SYNC_AT, source=source, simulated=simulated, has_list=False)


@given(st.datetimes(datetime(2025, 1, 1), datetime(2026, 1, 1)), st.times(), st.booleans())  # noqa: DTZ001  in ZONE
def test_what_has_just_been_fetched_is_not_due(now, sync_at, simulated):
    """At whatever time, or it would be fetched for ever."""
    at = now.replace(tzinfo=ZONE)
    known = State(day=at.date(), source=KITE, fetched_at=at, simulated=simulated)
    assert not is_due(known, at, sync_at, source=KITE, simulated=simulated, has_list=True)


def test_the_data_folder_tells_whether_it_is_due(settings):
    """It is until it was fetched, and again when the list is gone or its state is damaged."""
    now = datetime.combine(DAY, time(9), ZONE)
    assert due(settings, now, simulated=False)
    assert due(settings, now, simulated=True)
    path = sync(settings, DAY).path
    fetched_at = remembered(settings).fetched_at
    assert not due(settings, max(now, fetched_at.replace(year=2025, month=10, day=1)), simulated=False)
    assert not due(settings, now, simulated=True)
    path.unlink()
    assert due(settings, now, simulated=False)
    sync(settings, DAY)
    (settings.state_dir / "instruments.json").write_text("{")
    assert due(settings, now, simulated=False)
    assert not due(settings, now, simulated=True)


def test_the_list_of_a_simulator_does_not_tell_what_to_ask_kite_for(settings):
    """Nobody would notice that other instruments are recorded; until Kite's is there, there is none."""
    assert usable(settings, DAY, simulated=False) is None
    simulated = sync(settings, DAY, simulated=True).path
    assert usable(settings, DAY, simulated=True) == simulated
    assert usable(settings, DAY, simulated=False) is None
    assert sync(settings, DAY).path == usable(settings, DAY, simulated=False) == usable(settings, DAY, simulated=True)


def test_a_list_of_another_day_does_not_tell_what_symbols_mean_today(settings):
    """One of a day to come would hide the list of every day before."""
    path = sync(settings, DAY).path
    path.with_name("instruments_2099-01-01.csv").write_text(LIST)
    assert usable(settings, DAY, simulated=False) == path


def test_a_password_in_the_url_is_not_remembered(settings):
    assert source_of(settings.with_changes(kite={"api_url": "http://me:pass@host:1/api"})) == "http://host:1/api"
    assert source_of(settings.with_changes(kite={"api_url": KITE})) == KITE


# What.


def test_the_list_is_fetched_and_kept(settings, kite):
    """With the credentials, compared with the one before, and what it is from is remembered."""
    first = sync(settings, DAY)
    assert kite.asked == [f"token {KEY}:{TOKEN}"]
    assert (first.instruments, first.before, first.bytes) == (len(ROWS), None, first.path.stat().st_size)
    assert first.exchanges == {"NFO": 5, "NSE": 4, "BSE": 1, "MCX": 1}
    assert read(first.path).token("NSE:INFY") == 408065
    kite.body = csv_of(
        *ROWS[1:], "7,1,NEW,NEW,0.0,,0,0.05,1,EQ,NSE,NSE", "8,1,NEWER,N,0.0,,0,0.05,1,EQ,NSE,NSE"
    ).encode()
    second = sync(settings, DAY + timedelta(days=1), simulated=True)
    assert (second.new, second.gone, second.before) == (2, 1, first.path)
    assert newest(settings.storage.data_dir) == second.path != first.path
    known = remembered(settings)
    assert (known.day, known.source, known.simulated) == (DAY + timedelta(days=1), kite.url, True)
    assert known.fetched_at.utcoffset() == timedelta(hours=5.5)
    assert not any(secret.encode() in data for data in kept(settings).values() for secret in (KEY, TOKEN))


def test_without_credentials(settings, kite):
    """Kite gives its list to everyone."""
    nobody = settings.model_copy(update={"api_key": SecretStr(""), "access_token": SecretStr("")})
    assert sync(nobody, DAY).instruments == len(ROWS)
    assert kite.asked == [""]


def test_a_token_that_has_died_in_the_night(settings, kite):
    """The list is asked for without it."""
    kite.refused = {f"token {KEY}:{TOKEN}"}
    assert sync(settings, DAY).instruments == len(ROWS)
    assert len(kite.asked) == 2


@pytest.mark.parametrize(
    ("body", "content_type", "told"),
    [
        ("", "text/csv", "no list of instruments"),
        (csv_of(), "text/csv", "no list of instruments"),
        ("instrument_token,tradingsymbol,exchange\n", "text/csv", "no list of instruments"),
        (LIST.replace(",NSE\n", ",\n"), "text/csv", "no list of instruments"),
        (LIST.replace("exchange\n", "place\n"), "text/csv", "no list of instruments"),
        ("<html>", "text/csv", "."),
        ("<html>", "text/html", "not Kite's API"),
        (LIST.replace("408065", "x"), "text/csv", "not Kite's API"),
        (csv_of(*ROWS[:4]), "text/csv", "a list of 4 instruments only, and .* has 11: .* --force takes it"),
    ],
)
def test_what_is_no_list_replaces_none(settings, kite, body, content_type, told):
    """It is told in one line, and what is kept is as it was."""
    sync(settings, DAY)
    before = kept(settings)
    kite.body, kite.content_type = body.encode(), content_type
    with pytest.raises(SyncError, match=told) as error:
        sync(settings, DAY)
    assert "\n" not in str(error.value)
    assert not error.value.refused
    assert kept(settings) == before


def test_a_shorter_list_is_taken_where_it_is_wanted(settings, kite):
    """With `force`, or in place of a simulator's."""
    sync(settings, DAY)
    kite.body = csv_of(*ROWS[:4]).encode()
    assert sync(settings, DAY, force=True, simulated=True).instruments == 4
    kite.body = csv_of(*ROWS[:1]).encode()
    assert sync(settings, DAY).instruments == 1


def test_kite_refuses_or_is_not_there(settings, kite):
    """Told apart, without a secret."""
    kite.refused = {f"token {KEY}:{TOKEN}", ""}
    with pytest.raises(RefusedSyncError, match="mds login") as refused:
        sync(settings, DAY)
    assert refused.value.refused
    nowhere = settings.with_changes(kite={"api_url": "http://127.0.0.1:1"})
    with pytest.raises(SyncError, match="was not fetched") as failed:
        sync(nowhere, DAY)
    assert not failed.value.refused
    for error in (refused, failed):
        assert not any(secret in str(error.value) for secret in (KEY, TOKEN))
    assert newest(settings.storage.data_dir) is None


def test_one_at_a_time(settings):
    """A second one is told so, and changes nothing."""
    sync(settings, DAY)
    before = kept(settings)
    held = Lock(settings.state_dir / "instruments.lock")
    held.acquire("hash")
    try:
        with pytest.raises(AlreadyRunningError, match="being fetched by another process"):
            sync(settings, DAY)
    finally:
        held.release()
    assert {**kept(settings), "instruments.lock": b""} == {**before, "instruments.lock": b""}
    sync(settings, DAY)


def test_a_damaged_list_is_replaced(settings, caplog):
    """There is nothing to compare with, but no reason to go without a list."""
    path = sync(settings, DAY).path
    path.write_bytes(path.read_bytes()[:-9])
    assert sync(settings, DAY).before is None
    assert "damaged" in caplog.text


def test_what_somebody_has_put_there_stays_and_is_named(settings, caplog):
    """It goes before what is fetched, so that nobody wonders."""
    settings.storage.data_dir.mkdir()
    own = settings.storage.data_dir / f"instruments_{DAY}.csv"
    own.write_text(LIST)
    with caplog.at_level(logging.WARNING):
        sync(settings, DAY)
    assert f"{own} goes before" in caplog.text


def test_no_room(settings, monkeypatch):
    """One line names the folder, and the list before is still there."""
    before = sync(settings, DAY).path.read_bytes()

    def full(path, _data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("pipeline.instruments.listing.replace_durably", full)
    with pytest.raises(SyncError, match="cannot be written: No space left on device"):
        sync(settings, DAY)
    assert newest_list(settings).read_bytes() == before


# The process.


def errand(settings, *words):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MDS_", "KITE_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.instruments.sync", *words],
        env=environment | settings.to_child(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_the_errand_tells_one_line(settings, kite):
    """What has become of it, as an event's fields; no secret is told or logged."""
    with errand(settings, "--simulated") as process:
        told, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, log
    path = newest_list(settings)
    day = path.name[12:22]
    assert orjson.loads(told) == {
        "event": "instruments_synced",
        "date": day,
        "instruments": len(ROWS),
        "bytes": path.stat().st_size,
        "file": path.name,
    }
    assert remembered(settings).simulated
    kite.refused = {f"token {KEY}:{TOKEN}", ""}
    with errand(settings) as process:
        refused, log_of_refusal = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    fields = orjson.loads(refused)
    assert (fields["event"], fields["refused"], "mds login" in fields["reason"]) == ("instruments_failed", True, True)
    assert not any(secret.encode() in each for each in (told, log, refused, log_of_refusal) for secret in (KEY, TOKEN))


def test_killed_in_the_middle(settings, kite):
    """What was kept stays, and the next one is not locked out."""
    sync(settings, DAY)
    before = kept(settings)
    kite.asked.clear()
    kite.hold.clear()
    with errand(settings) as process:
        while not kite.asked:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert kept(settings).keys() == before.keys()
    assert newest_list(settings).read_bytes() == before[f"instruments_{DAY}.csv.zst"]
    kite.hold.set()
    assert sync(settings, DAY).instruments == len(ROWS)


def test_the_official_client_is_imported_late():
    """Whoever asks only whether a list is due does not pay for it."""
    program = "import sys, pipeline.instruments.sync; print('kiteconnect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert syncing.ROLE == "instruments"
