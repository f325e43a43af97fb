"""Tests for removing stored files on purpose: never an open day's, and always so that it is known."""

import errno
import os
from datetime import date, timedelta
from pathlib import Path

import pytest

from pipeline import removed
from pipeline.errors import MdsError
from pipeline.files import REMOVED, event_file_name, parquet_folder, tick_file_name
from pipeline.store.keeping.closed import FirstOpen
from pipeline.store.keeping.removal import StaysError, remove, remove_parquet
from tests.builders import DAY, tick_lines

OPEN = FirstOpen(DAY + timedelta(days=1), "the next day is not over")
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def path(tmp_path):
    """Return the path of a closed day's tick file."""
    path = tmp_path / tick_file_name(DAY)
    path.write_bytes(tick_lines(1, 10))
    return path


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a closed day in Parquet."""
    folder = parquet_folder(tmp_path, DAY)
    folder.mkdir(parents=True)
    for n in range(2):
        (folder / f"part-{n:05d}.parquet").write_bytes(b"PAR1")
    return folder


def noted(data_dir):
    return [(gone.file, gone.bytes, gone.ticks, gone.why) for gone in removed.read(data_dir / ".mds")]


def test_a_closed_day_s_file_goes_and_it_is_known(path):
    """Its bytes are returned, and a line tells of it."""
    size = path.stat().st_size
    assert remove(path, OPEN, "compacted", 10) == size
    assert not path.exists()
    assert noted(path.parent) == [(path.name, size, 10, "compacted")]
    assert removed.away(path.parent) == {path.name}


def test_lines_follow_each_other(tmp_path):
    """A second one does not replace the first; an event file may go as well."""
    names = [event_file_name(DAY), tick_file_name(DAY), tick_file_name(DAY)]
    for name in names:
        (tmp_path / name).write_bytes(b"{}\n")
        remove(tmp_path / name, OPEN, "clean")
    assert noted(tmp_path) == [(name, 3, None, "clean") for name in names]


def test_the_line_is_durable_before_the_file_goes(path, monkeypatch):
    """Killed in between, there is a line too many, and never a file too few."""
    steps = []

    def spy(name, real):
        def step(*arguments):
            steps.append((name, path.exists()))
            return real(*arguments)

        return step

    for module, name in ((os, "fsync"), (Path, "unlink")):
        monkeypatch.setattr(module, name, spy(name, getattr(module, name)))
    remove(path, OPEN, "clean")
    assert steps == [("fsync", True), ("fsync", True), ("unlink", True), ("fsync", False)]


@pytest.mark.parametrize("day", [OPEN.day, OPEN.day + timedelta(days=5)])
def test_an_open_day_stays(tmp_path, day):
    """And the reason is told."""
    path, folder = tmp_path / tick_file_name(day), parquet_folder(tmp_path, day)
    path.write_bytes(b"{}\n")
    folder.mkdir(parents=True)
    for stays, do in ((path, lambda: remove(path, OPEN, "clean")), (folder, lambda: remove_parquet(folder, OPEN))):
        with pytest.raises(StaysError, match="the next day is not over"):
            do()
        assert stays.exists()
    assert noted(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    ["market_data_2025-10-01.jsonl.bak", "market_data_2025-13-01.jsonl", "xmarket_data_2025-10-01.jsonl", "notes.txt"],
)
def test_what_has_another_name_stays(tmp_path, name):
    """Also if it is but nearly the recorder's."""
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(StaysError, match="not a name"):
        remove(tmp_path / name, OPEN, "clean")
    assert (tmp_path / name).read_bytes() == b"mine"


def test_links_and_folders_stay(tmp_path):
    """Neither the link nor what it leads to is removed."""
    target = tmp_path / "elsewhere"
    target.write_bytes(b"mine")
    link, folder = tmp_path / tick_file_name(DAY), tmp_path / event_file_name(DAY)
    link.symlink_to(target)
    folder.mkdir()
    for path in (link, folder):
        with pytest.raises(StaysError, match="no regular file"):
            remove(path, OPEN, "clean")
    assert link.is_symlink()
    assert (target.read_bytes(), folder.is_dir(), noted(tmp_path)) == (b"mine", True, [])


def test_a_file_that_is_gone_is_one_line(tmp_path):
    """Somebody else was faster."""
    with pytest.raises(MdsError, match="No such file"):
        remove(tmp_path / tick_file_name(DAY), OPEN, "clean")
    assert noted(tmp_path) == []


def test_a_full_disk_does_not_keep_a_file_from_making_room(path, monkeypatch):
    """The file goes first, and the line is written when there is room."""
    real, existed = os.write, []

    def write(fd, data):
        existed.append(path.exists())
        if path.exists():
            raise FULL
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    remove(path, OPEN, "clean")
    assert existed == [True, False]
    assert [name for name, *_ in noted(path.parent)] == [path.name]


def test_a_disk_that_fails_keeps_the_file(path, monkeypatch):
    """What cannot be noted is not removed."""

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(MdsError, match="cannot be removed: Input/output error") as error:
        remove(path, OPEN, "clean")
    assert not isinstance(error.value, StaysError)
    assert path.exists()


def test_a_torn_line_costs_no_other(path):
    """What follows begins on a line of its own; rubbish is passed over."""
    remembered = path.parent / ".mds" / REMOVED
    remembered.parent.mkdir()
    remembered.write_bytes(b'[]\n\xff\n{"file":1}\n{"file":"market_da')
    remove(path, OPEN, "clean")
    assert [name for name, *_ in noted(path.parent)] == [path.name]


def test_what_is_there_again_is_not_away(path):
    """A file that is as large as it was has not been removed; one with a little that came late is another."""
    data = path.read_bytes()
    remove(path, OPEN, "clean")
    path.write_bytes(data)
    assert removed.away(path.parent) == set()
    path.write_bytes(tick_lines(11, 12))
    assert removed.away(path.parent) == {path.name}


def test_a_day_in_parquet_goes_whole(folder):
    """Folder and files; the folder of all days stays."""
    assert remove_parquet(folder, OPEN, 7) == 8
    assert list(folder.parent.iterdir()) == []
    assert noted(folder.parent.parent) == [(f"parquet/date={DAY}", 8, 7, "clean")]


@pytest.mark.parametrize("foreign", ["mine.parquet", "part-1.parquet", "part-00000.parquet.tmp", "sub"])
def test_a_folder_with_something_foreign_stays_whole(folder, foreign):
    """Nothing of it goes."""
    (folder / foreign).mkdir() if foreign == "sub" else (folder / foreign).write_bytes(b"mine")
    with pytest.raises(StaysError, match=foreign):
        remove_parquet(folder, OPEN)
    assert len(list(folder.iterdir())) == 3


def test_nobody_sees_a_part_of_a_day(folder, monkeypatch):
    """Killed while it removes, all of the day is away under its name; the next one removes what was left."""
    real = Path.unlink

    def die(path, **options):
        if path.name == "part-00001.parquet":
            raise KeyboardInterrupt
        real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            remove_parquet(folder, OPEN)
    assert not folder.exists()
    assert list(folder.parent.iterdir())
    other = parquet_folder(folder.parent.parent, date(2025, 9, 1))
    for again in (folder, other):  # the same day once more, and another
        again.mkdir()
        (again / "part-00000.parquet").write_bytes(b"PAR1")
        remove_parquet(again, OPEN)
        assert list(folder.parent.iterdir()) == []
