"""A file that grows: whole lines, each block from where the last one ended, whatever becomes of the file in between."""

import os
from pathlib import Path

import pytest

from pipeline.store import growing
from pipeline.store.growing import Chunk, GrowingFile
from tests.tick_lines import ltp


@pytest.fixture
def path(tmp_path):
    return tmp_path / "market_data_2025-10-01.jsonl"


@pytest.fixture
def file(path):
    return GrowingFile(path)


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


def lines(file):
    """Return the lines that are new, as they stand in the file."""
    size = file.look()
    return [] if size is None else [line + b"\n" for chunk in file.read(size) for line in chunk.lines]


def test_a_file_is_read_as_it_grows(file, path):
    """It need not be there yet; what has no newline yet waits for it."""
    assert lines(file) == []
    append(path, ltp(1) + ltp(2)[:50])
    assert lines(file) == [ltp(1)]
    assert lines(file) == []
    append(path, ltp(2)[50:-1])
    assert lines(file) == []
    append(path, b"\n" + ltp(3))
    assert lines(file) == [ltp(2), ltp(3)]


def test_lines_are_read_in_blocks_with_their_places(path, monkeypatch):
    """A block ends with a line, at any size of blocks; places are bytes of the file."""
    everything = [ltp(seq) for seq in range(1, 30)]
    path.write_bytes(b"".join(everything))
    for block_bytes in (1, 100, 200, 1000, 10**6):
        monkeypatch.setattr(growing, "BLOCK_BYTES", block_bytes)
        chunks = list(GrowingFile(path).read(path.stat().st_size))
        assert [line + b"\n" for chunk in chunks for line in chunk.lines] == everything
        places = [chunk.offset_of(index) for chunk in chunks for index in range(len(chunk.lines))]
        assert [path.read_bytes()[place:].partition(b"\n")[0] + b"\n" for place in places] == everything


def test_only_what_is_within_the_size_is_read(file, path):
    """A line that it cuts is not, until it is asked for."""
    path.write_bytes(ltp(1) + ltp(2) + ltp(3))
    assert list(file.read(len(ltp(1)) + 5)) == [Chunk(0, [ltp(1)[:-1]])]
    assert list(file.read(len(ltp(1)) + 5)) == []
    assert lines(file) == [ltp(2), ltp(3)]


def test_reading_may_begin_behind_a_line(path):
    """What is before is not read."""
    path.write_bytes(ltp(1) + ltp(2))
    file = GrowingFile(path, len(ltp(1)))
    assert lines(file) == [ltp(2)]
    append(path, ltp(3))
    assert lines(file) == [ltp(3)]


@pytest.mark.parametrize("regrown", ["shorter", "as long", "longer"])
def test_a_file_that_was_cut_is_read_again_from_there(file, path, regrown, caplog):
    """Whatever its size is when it is looked at next: from the last place up to which it is what it was."""
    path.write_bytes(ltp(1))
    assert lines(file) == [ltp(1)]
    append(path, ltp(2, connection_id=1) + ltp(2, connection_id=2))
    assert len(lines(file)) == 2
    again = ltp(2, connection_id=2) + {"shorter": b"", "as long": ltp(2), "longer": ltp(2) + ltp(3)}[regrown]
    os.truncate(path, len(ltp(1)))
    append(path, again)
    os.utime(path, ns=(0, 1))  # within one step of the clock a change to the same size cannot be seen
    assert b"".join(lines(file)) == again
    assert "cut or replaced" in caplog.text
    append(path, ltp(9))
    assert lines(file) == [ltp(9)]


def test_a_file_that_was_cut_and_not_written_again(file, path):
    """Lines that were read together come together again: who reads knows them by their numbers."""
    path.write_bytes(ltp(1) + ltp(2))
    assert len(lines(file)) == 2
    os.truncate(path, len(ltp(1)))
    assert lines(file) == [ltp(1)]
    append(path, ltp(2))
    assert lines(file) == [ltp(2)]


def test_a_file_that_is_written_again_the_same_is_not_read_again(file, path):
    """As the recovery of a writer does it, or somebody who puts back a copy."""
    path.write_bytes(ltp(1) + ltp(2))
    assert len(lines(file)) == 2
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes() + ltp(3))
    copy.rename(path)
    assert lines(file) == [ltp(3)]


def test_a_file_that_is_gone_may_come_back(file, path, caplog):
    """It is said once; another one in its place is read from its beginning."""
    path.write_bytes(ltp(1) + ltp(2))
    assert len(lines(file)) == 2
    path.unlink()
    assert [lines(file), lines(file)] == [[], []]
    assert caplog.text.count(": gone; ") == 1
    path.write_bytes(ltp(1, epoch=7))
    assert lines(file) == [ltp(1, epoch=7)]


def test_more_readings_than_marks_cost_reading_the_file_once_more(file, path):
    """It is the beginning then to which it goes back."""
    for seq in range(1, growing.MARKS + 10):
        append(path, ltp(seq))
        assert lines(file) == [ltp(seq)]
    os.truncate(path, len(ltp(1)) + len(ltp(2)))
    append(path, ltp(3, epoch=7))
    assert lines(file) == [ltp(1), ltp(2), ltp(3, epoch=7)]


def test_a_line_that_is_too_long_is_passed_over(file, path, monkeypatch, caplog):
    """It is said once, does not fill the memory, and the next line is read; it may be cut, too."""
    monkeypatch.setattr(growing, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(growing, "MAX_LINE_BYTES", 4000)
    path.write_bytes(ltp(1) + b"x" * 10_000)
    assert lines(file) == [ltp(1)]
    append(path, b"x" * 10_000)
    assert lines(file) == []
    append(path, b"x\n" + ltp(2))
    assert lines(file) == [ltp(2)]
    assert caplog.text.count("no tick is that long") == 1
    append(path, b"x" * 10_000)
    assert lines(file) == []
    os.truncate(path, len(ltp(1)))
    append(path, ltp(3))
    assert lines(file) == [ltp(3)]


def test_it_is_open_only_while_a_block_is_read(file, path, monkeypatch):
    """Who takes his time between two blocks keeps no file that was deleted."""
    monkeypatch.setattr(growing, "BLOCK_BYTES", 200)
    path.write_bytes(b"".join(ltp(seq) for seq in range(1, 9)))
    opened = set(Path("/proc/self/fd").iterdir())
    reading = file.read(path.stat().st_size)
    next(reading)
    assert set(Path("/proc/self/fd").iterdir()) == opened
    path.unlink()
    assert list(reading) == []
