"""Tests for the questions about the tick files, with files that are being written, cut and replaced."""

import fcntl
import json
import logging
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

import pipeline.store
from pipeline.files import parquet_folder
from pipeline.spool import Incoming, Spool
from pipeline.store import files as store_files
from pipeline.store.bad import LOGGED
from pipeline.store.manager import StorageManager
from tests.builders import ZONE, tick_line, tick_lines

NAME = "market_data_2025-10-01.jsonl"
EDGES = ("Pacific/Kiritimati", "Pacific/Niue")  # 25 hours apart: it is never the same day in both


@pytest.fixture
def store(tmp_path):
    return StorageManager(tmp_path)


def test_at_hand():
    """It is to be had from the package of what it is a part of, too."""
    assert pipeline.StorageManager is pipeline.store.StorageManager is StorageManager


def test_names_follow_the_day(store, tmp_path):
    """A day's file is where the recorder writes it."""
    assert store.get_filename_for_date(date(2025, 10, 1)) == NAME
    assert store.get_filepath_for_date(date(2025, 10, 1)) == tmp_path / NAME


def test_today_is_the_day_of_the_time_zone(tmp_path):
    """At any moment, at the two ends of the earth, it is the day that a calendar there shows."""
    names = []
    for zone in EDGES:
        before, found = datetime.now(ZoneInfo(zone)).date(), StorageManager(tmp_path, timezone=zone)
        assert before <= date.fromisoformat(found.get_current_filename()[12:22]) <= datetime.now(ZoneInfo(zone)).date()
        assert found.get_current_filepath() == tmp_path / found.get_current_filename()
        names.append(found.get_current_filename())
    assert names[0] > names[1]


def test_a_folder_that_is_not_there_has_no_ticks(tmp_path, caplog):
    """Nothing is made, nothing raises; only reading a file that is not there is worth a word."""
    store = StorageManager(tmp_path / "none")
    path = tmp_path / "none" / NAME
    assert (store.list_all_files(), store.count_files(), store.count_ticks_today()) == ([], 0, 0)
    assert (store.count_ticks_in_file(path), store.get_file_size(path), store.get_file_size_mb(path)) == (0, 0, 0)
    assert store.get_file_info(path) == {"exists": False}
    assert store.get_storage_summary()["total_ticks"] == 0
    assert not caplog.records
    assert (store.read_ticks_today(), store.read_ticks_from_file(path)) == ([], [])
    assert [str(path) in record.message for record in caplog.records] == [False, True]
    assert not (tmp_path / "none").exists()


def test_a_day_that_is_parquet_only(store, tmp_path, caplog):
    """Its file is gone, and nobody says that its ticks are."""
    folder = parquet_folder(tmp_path, date(2025, 10, 1))
    folder.mkdir(parents=True)
    (folder / "part-00000.parquet").touch()
    assert store.read_ticks_from_file(tmp_path / NAME) == []
    assert 'the day is there as Parquet, pipeline.read_ticks("2025-10-01") reads it' in caplog.text


def test_the_day_s_file_is_read_and_counted(tmp_path):
    """Today's ticks come as dicts in their order; paths may be text."""
    store = StorageManager(str(tmp_path))
    path = store.get_current_filepath()
    path.write_bytes(tick_lines(1, 5))
    assert store.count_ticks_today() == store.count_ticks_in_file(str(path)) == 5
    assert [tick["seq"] for tick in store.read_ticks_today()] == [1, 2, 3, 4, 5]
    assert store.read_ticks_from_file(str(path), max_ticks=2) == store.read_ticks_today()[:2]
    assert store.read_ticks_today(max_ticks=0) == []


def test_the_summary_is_over_the_tick_files_alone(tmp_path):
    """Event files, copies and folders are none; sizes and counts are sums."""
    store = StorageManager(tmp_path)
    today = store.get_current_filename()
    first, second = tick_lines(1, 3), tick_lines(4, 4)
    (tmp_path / NAME).write_bytes(first)
    (tmp_path / today).write_bytes(second)
    for name in (f"{NAME}.bak", "events_2025-10-01.jsonl", "market_data_old.jsonl"):
        (tmp_path / name).write_bytes(first)
    (tmp_path / "market_data_2025-10-02.jsonl").mkdir()

    assert store.list_all_files() == [tmp_path / NAME, tmp_path / today]
    assert store.get_storage_summary() == {
        "data_directory": str(tmp_path),
        "total_files": 2,
        "total_size_bytes": len(first + second),
        "total_size_mb": 0.0,
        "total_ticks": 4,
        "files": [NAME, today],
        "current_file": today,
        "current_file_ticks": 1,
    }


def test_the_facts_of_a_file(tmp_path):
    """Sizes, the tick count, and times with an offset: of the first tick, and of the last change."""
    store = StorageManager(tmp_path, timezone=ZONE)
    path = tmp_path / NAME
    began = datetime.now(ZoneInfo(ZONE)) - timedelta(seconds=1)
    line = json.dumps({"timestamp": "2025-10-01T09:10:00.000000+05:30", "filler": "x" * 2**20}).encode() + b"\n"
    path.write_bytes(line + tick_line(2))
    info = store.get_file_info(path)

    modified = datetime.fromisoformat(info.pop("modified"))
    assert began <= modified <= datetime.now(ZoneInfo(ZONE)) + timedelta(seconds=1)
    assert modified.utcoffset() == timedelta(hours=5, minutes=30)
    size = len(line + tick_line(2))
    assert info == {
        "exists": True,
        "filename": NAME,
        "path": str(path),
        "size_bytes": size,
        "size_mb": size / 2**20,
        "created": "2025-10-01T09:10:00.000000+05:30",
        "tick_count": 2,
    }
    assert store.get_file_size_mb(path) == info["size_mb"]


def test_a_line_that_is_being_written_does_not_count_yet(store, tmp_path):
    """It counts when it has its end, and is read then."""
    path = tmp_path / NAME
    line = tick_line(2)
    with path.open("ab", buffering=0) as file:
        file.write(tick_line(1) + line[:5])
        assert (store.count_ticks_in_file(path), len(store.read_ticks_from_file(path))) == (1, 1)
        file.write(line[5:-1])
        assert store.count_ticks_in_file(path) == 1
        file.write(line[-1:])
        assert (store.count_ticks_in_file(path), len(store.read_ticks_from_file(path))) == (2, 2)


def test_a_writer_that_stands_still_in_a_line_does_not_hold_up_a_count(store, tmp_path, monkeypatch):
    """Counting never waits for the end of a line."""
    monkeypatch.setattr(store_files, "LIVE_LINE_S", 1000)
    (tmp_path / ".mds").mkdir()
    path = tmp_path / NAME
    path.write_bytes(tick_line(1) + b'{"half')
    with (tmp_path / ".mds" / "writer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert store.count_ticks_in_file(path) == 1
        assert store.get_storage_summary()["total_ticks"] == 1


def test_bad_lines_are_passed_over_and_named(store, tmp_path, caplog):
    """The ticks around them are read; file and line of each are in the log, and the reason."""
    path = tmp_path / NAME
    bad = [b'{"half', b"[1]", b"", b"\xff", b"null"]
    path.write_bytes(b"".join(tick_line(seq) + line + b"\n" for seq, line in enumerate(bad, 1)) + b'{"torn')
    assert [tick["seq"] for tick in store.read_ticks_from_file(path)] == [1, 2, 3, 4, 5]
    words = [record.message for record in caplog.records]
    assert [word.partition(",")[0] for word in words] == [f"{path} line {line}" for line in (2, 4, 6, 8, 10)]
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert "not a JSON object" in words[1]


def test_a_file_full_of_bad_lines_does_not_fill_the_log(store, tmp_path, caplog):
    """The first ones are named, the rest are counted."""
    path = tmp_path / NAME
    path.write_bytes(b"nonsense\n" * 1000)
    assert store.read_ticks_from_file(path) == []
    assert len(caplog.records) == LOGGED + 1
    assert "1000 lines" in caplog.records[-1].message


def test_a_line_too_long_for_a_tick_is_passed_over(store, tmp_path, caplog, monkeypatch):
    """It is a bad line as well."""
    monkeypatch.setattr(store_files, "MAX_LINE_BYTES", 200)
    monkeypatch.setattr(store_files, "BLOCK_BYTES", 100)
    path = tmp_path / NAME
    path.write_bytes(tick_line(1) + b"x" * 1000 + b"\n" + tick_line(2))
    assert [tick["seq"] for tick in store.read_ticks_from_file(path)] == [1, 2]
    assert f"{path} line 2, byte {len(tick_line(1))}: no tick: a line of 1001 bytes" in caplog.text


def test_old_files_are_cleaned_up(tmp_path, caplog):
    """As `mds files clean` does: how many files are gone is returned; what stays against that is in the log."""
    caplog.set_level(logging.INFO)
    store = StorageManager(tmp_path, timezone=ZONE)
    today = datetime.now(ZoneInfo(ZONE)).date()
    old, young = today - timedelta(days=9), today - timedelta(days=3)
    for day in (old, young, today):
        store.get_filepath_for_date(day).write_bytes(tick_lines(1, 3))
    (tmp_path / f"events_{old}.jsonl").write_bytes(b"{}\n")
    (tmp_path / f"market_data_{old}.jsonl.bak").write_bytes(b"mine")
    link = store.get_filepath_for_date(old - timedelta(days=1))
    link.symlink_to("elsewhere")
    assert store.cleanup_old_files() == 0
    assert store.cleanup_old_files(days_to_keep=5) == 2
    assert store.list_all_files() == [store.get_filepath_for_date(young), store.get_filepath_for_date(today)]
    assert link.is_symlink()
    assert str(link) in caplog.text
    assert store.cleanup_old_files(0) == 1
    with pytest.raises(ValueError, match="negative"):
        store.cleanup_old_files(-1)
    assert StorageManager(tmp_path / "none").cleanup_old_files() == 0


def test_a_spool_elsewhere_holds_its_day_open(tmp_path):
    """What the recorder has still to store is not known from the data folder alone."""
    old = datetime.now(ZoneInfo(ZONE)) - timedelta(days=9)
    spool = Spool.create(tmp_path / "spools" / "1" / "1", 10**6)
    spool.append_frames([Incoming(int(old.timestamp()) * 10**9, 1, b"x")])
    store = StorageManager(tmp_path, ZONE, tmp_path / "spools")
    store.get_filepath_for_date(old.date()).write_bytes(tick_lines(1, 3))
    assert store.cleanup_old_files(0) == 0
    assert StorageManager(tmp_path, ZONE).cleanup_old_files(0) == 1


def test_nothing_is_changed(store, tmp_path):
    """All questions together leave every file and folder as it was."""
    (tmp_path / NAME).write_bytes(tick_lines(1, 3) + b'{"torn')
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}
    store.get_storage_summary()
    store.get_file_info(tmp_path / NAME)
    store.read_ticks_from_file(tmp_path / NAME)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(tmp_path).iterdir()} == before
