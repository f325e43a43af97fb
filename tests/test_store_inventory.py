"""Tests for what is told of each day: counts and times, in whatever form it is stored, without reading whole files."""

import sys
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from pipeline.files import event_file_name, parquet_folder, tick_file_name
from pipeline.store import files
from pipeline.store.keeping import inventory
from pipeline.store.keeping.closed import FirstOpen
from pipeline.store.keeping.counting import Counter
from pipeline.store.keeping.inventory import Total
from pipeline.store.keeping.removal import remove
from tests.builders import DAY, ZONE, event_line, tick_lines

polars = pytest.importorskip("polars")
NEXT = DAY + timedelta(days=1)


def stamp(second, day=DAY):
    return f"{day}T09:15:{second:02d}.123456+05:30"


def line(second, filler=0):
    return f'{{"filler":"{"x" * filler}","timestamp":"{stamp(second)}"}}\n'.encode()


def days(data_dir):
    return inventory.days(data_dir, Counter(data_dir), ZONE)


def write_parquet(data_dir, *parts, day=DAY):
    """Write a day's files, each with ticks of these seconds."""
    folder = parquet_folder(data_dir, day)
    folder.mkdir(parents=True)
    for number, seconds in enumerate(parts):
        times = [datetime.fromisoformat(stamp(second, day)) for second in seconds]
        kind = polars.Datetime("us", ZONE)
        frame = polars.DataFrame(
            {"last_price": 1.0, "timestamp": polars.Series(times).dt.convert_time_zone(ZONE).cast(kind)}
        )
        frame.write_parquet(folder / f"part-{number:05d}.parquet", row_group_size=2)
    return folder


def test_an_empty_folder_has_no_days(tmp_path):
    """Nor has one that is not there."""
    assert days(tmp_path) == days(tmp_path / "none") == []


def test_a_day_in_lines(tmp_path):
    """Whole lines, the times of the first and the last of them, and the events."""
    path = tmp_path / tick_file_name(DAY)
    path.write_bytes(line(1) + line(2) + line(3) + line(4)[:-1])
    (tmp_path / event_file_name(DAY)).write_bytes(event_line(1) + event_line(2))
    (day,) = days(tmp_path)
    assert (day.day, day.ticks, day.bytes, day.stored_as) == (DAY, 3, path.stat().st_size, "jsonl")
    assert (day.first, day.last) == (stamp(1), stamp(3))
    assert day.events.lines == 2


@pytest.mark.parametrize(
    ("content", "first", "last"),
    [
        (b"", None, None),
        (b'{"timestamp":"', None, None),
        (b"\n", None, None),
        (b"\n\n", None, None),
        (line(1), stamp(1), stamp(1)),
        (b"# hello\n" + line(1) + b"[1]\n", None, None),
        (line(1) + b'{"timestamp":5}\n', stamp(1), None),
        (line(1, 5000) + line(2, 40_000) + b"x" * 5000, stamp(1), stamp(2)),
        (b"x" * 5 * 2**20 + b"\n" + line(2), None, stamp(2)),
        (line(1) + b"x" * 5 * 2**20, stamp(1), stamp(1)),
        (line(1) + b"x" * 40 * 2**20, stamp(1), None),
        (b"\xff\xfe\n", None, None),
    ],
)
def test_the_first_and_the_last_whole_line_tell_the_times(tmp_path, content, first, last):
    """Long ones too; foreign ones tell none, and a file of rubbish is not read to its end."""
    (tmp_path / tick_file_name(DAY)).write_bytes(content)
    (day,) = days(tmp_path)
    assert (day.first, day.last, day.ticks) == (first, last, content.count(b"\n"))


def test_a_day_in_columns(tmp_path):
    """Counts and times come from the footers of all its files, in the form of stored lines."""
    folder = write_parquet(tmp_path, [5, 3, 4], [9, 7, 8])
    (day,) = days(tmp_path)
    assert (day.ticks, day.first, day.last, day.stored_as) == (6, stamp(3), stamp(9), "parquet")
    assert day.bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_a_day_in_both_forms_has_its_ticks_once(tmp_path):
    """The bytes are those of both."""
    folder = write_parquet(tmp_path, [1, 2])
    path = tmp_path / tick_file_name(DAY)
    path.write_bytes(line(1) + line(2))
    (day,) = days(tmp_path)
    assert (day.ticks, day.stored_as) == (2, "both")
    assert day.bytes == sum(found.stat().st_size for found in (path, *folder.iterdir()))


def test_what_came_after_the_lines_were_removed_counts_on_top(tmp_path):
    """Then the two forms have different ticks."""
    write_parquet(tmp_path, [1, 2])
    path = tmp_path / tick_file_name(DAY)
    path.write_bytes(line(1) + line(2))
    remove(path, FirstOpen(NEXT, ""), "compacted")
    path.write_bytes(line(7))
    (day,) = days(tmp_path)
    assert (day.ticks, day.first, day.last) == (3, stamp(1), stamp(7))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 1000, b"PAR1" + b"\xff" * 50 + b"PAR1"])
def test_a_parquet_file_that_is_none_has_no_count(tmp_path, content):
    """The day is listed, with its size; in the sums it is counted as unknown."""
    folder = write_parquet(tmp_path, [1])
    (folder / "part-00001.parquet").write_bytes(content)
    write_parquet(tmp_path, [1, 2], day=NEXT)
    found = days(tmp_path)
    assert [day.ticks for day in found] == [None, 2]
    assert (found[0].first, found[0].last) == (None, None)
    assert (Total.of(found).ticks, Total.of(found).unknown, Total.of(found).days) == (2, 1, 2)


def test_a_parquet_file_of_others_has_no_count(tmp_path):
    """It has no receive time."""
    folder = write_parquet(tmp_path, [1])
    polars.DataFrame({"a": [1]}).write_parquet(folder / "part-00001.parquet")
    assert days(tmp_path)[0].ticks is None


def test_without_pyarrow_parquet_has_no_count(tmp_path, monkeypatch):
    """What is in lines still has."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write_parquet(tmp_path, [1])
    (tmp_path / tick_file_name(NEXT)).write_bytes(line(1))
    assert [day.ticks for day in days(tmp_path)] == [None, 1]


def test_what_is_not_the_recorder_s_is_no_day(tmp_path):
    """Other names, folders without files, links."""
    (tmp_path / "market_data_old.jsonl").write_bytes(line(1))
    for name in ("date=2025-10-01", "date=2025-13-01", "date=2025-10-02.tmp", "date=2025-10-03"):
        (tmp_path / "parquet" / name).mkdir(parents=True)
    (tmp_path / "parquet" / "date=2025-13-01" / "part-00000.parquet").write_bytes(b"PAR1")
    (tmp_path / "parquet" / "date=2025-10-02.tmp" / "part-00000.parquet").write_bytes(b"PAR1")
    (tmp_path / "parquet" / "date=2025-10-03" / "other.parquet").write_bytes(b"PAR1")
    assert days(tmp_path) == []


def test_a_day_with_events_alone_is_listed(tmp_path):
    """It has no ticks."""
    (tmp_path / event_file_name(DAY)).write_bytes(event_line(1))
    (day,) = days(tmp_path)
    assert (day.ticks, day.stored_as, day.first, day.bytes) == (0, "none", None, 0)
    assert inventory.to_json([day])["total"] == {"days": 1, "ticks": 0, "bytes": 0, "unknown": 0}


def test_a_day_that_is_removed_meanwhile_is_left_out(tmp_path, monkeypatch):
    """The others are listed."""
    for day in (DAY, NEXT):
        (tmp_path / tick_file_name(day)).write_bytes(line(1))
    real = files.tick_files

    def list_and_remove(folder):
        found = real(folder)
        (tmp_path / tick_file_name(DAY)).unlink()
        return found

    monkeypatch.setattr(inventory, "tick_files", list_and_remove)
    assert [day.day for day in days(tmp_path)] == [NEXT]


def test_json_has_every_form(tmp_path):
    """In the order of days, with files relative to the data folder."""
    for day in (NEXT, DAY):
        write_parquet(tmp_path, [1], day=day)
    (tmp_path / tick_file_name(NEXT)).write_bytes(tick_lines(1, 2))
    first, second = inventory.to_json(days(tmp_path))["days"]
    assert (date.fromisoformat(first["date"]), first["jsonl"], first["events"]) == (DAY, None, None)
    assert first["parquet"] == {
        "file": f"parquet/date={DAY}",
        "bytes": first["bytes"],
        "ticks": 1,
        "first": stamp(1),
        "last": stamp(1),
    }
    assert second["jsonl"]["file"] == tick_file_name(NEXT)
    assert second["jsonl"]["ticks"] == second["ticks"] == 2


def test_times_are_in_the_storage_time_zone(tmp_path):
    """Parquet has instants."""
    write_parquet(tmp_path, [1])
    (day,) = inventory.days(tmp_path, Counter(tmp_path), "America/New_York")
    assert day.first
    assert datetime.fromisoformat(day.first) == datetime.fromisoformat(stamp(1))
    assert (
        datetime.fromisoformat(day.first).utcoffset()
        == datetime(2025, 10, 1, tzinfo=ZoneInfo("America/New_York")).utcoffset()
    )
