"""Tests for finding the recorder's files and reading them in whole lines."""

import fcntl
import threading
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store import files
from pipeline.store.files import (
    Block,
    EpochEvent,
    Fragment,
    GapEvent,
    date_of,
    decode_event,
    event_files,
    is_being_written,
    is_event_file,
    read_blocks,
    read_events,
    tick_files,
)

TIME = "2025-10-01T09:15:23.123456+05:30"
GAP = (
    f'{{"event":"gap","timestamp":"{TIME}","connection_id":1,"instruments":[408065],"from":"2025-10-01T09:15:20+05:30",'
    f'"to":"{TIME}","cause":"killed","source":"worker-1","epoch":1759290000000,"event_seq":2}}'
).encode()


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("market_data_2025-10-01.jsonl", date(2025, 10, 1)),
        ("events_2024-02-29.jsonl", date(2024, 2, 29)),
        ("events_2025-02-29.jsonl", None),
        ("market_data_2025-13-01.jsonl", None),
        ("market_data_20251001.jsonl", None),
        ("market_data_2025-10-01.jsonl.bak", None),
        ("market_data_2025-10-01.jsonl\n", None),
        ("my_market_data_2025-10-01.jsonl", None),
        ("market_data_2025-10-0١.jsonl", None),  # noqa: RUF001  a digit that is not ours is the point
        ("notes.jsonl", None),
    ],
)
def test_a_name_tells_its_day_or_is_not_ours(name, day):
    """Only the recorder's own names have a day."""
    assert date_of(Path(name)) == day


def test_files_are_listed_by_day_and_kind(tmp_path):
    """Folders, copies and files of others are passed over."""
    for name in ("market_data_2025-10-02.jsonl", "market_data_2025-10-01.jsonl", "events_2025-10-01.jsonl"):
        (tmp_path / name).touch()
    for name in ("market_data_2025-10-01.jsonl~", "market_data_old.jsonl", "events_.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "market_data_2025-10-03.jsonl").mkdir()
    assert [path.name for path in tick_files(tmp_path)] == [
        "market_data_2025-10-01.jsonl",
        "market_data_2025-10-02.jsonl",
    ]
    assert event_files(tmp_path) == [tmp_path / "events_2025-10-01.jsonl"]
    assert is_event_file(tmp_path / "events_2025-10-01.jsonl")
    assert not is_event_file(tmp_path / "market_data_2025-10-01.jsonl")


@settings(max_examples=300, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"")), max_size=12),
    tail=st.binary(max_size=10).map(lambda data: data.replace(b"\n", b"")),
    block_bytes=st.integers(1, 40),
    max_line=st.integers(1, 40),
)
def test_lines_come_back_whole_whatever_the_block_size(tmp_path_factory, lines, tail, block_bytes, max_line):
    """Each line comes once, in order, with its number and offset; what is no line comes as a fragment."""
    path = tmp_path_factory.mktemp("blocks") / "market_data_2025-10-01.jsonl"
    data = b"".join(line + b"\n" for line in lines) + tail
    path.write_bytes(data)
    found, torn = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK_BYTES", block_bytes)
        patch.setattr(files, "MAX_LINE_BYTES", max_line)
        for block in read_blocks(path, len(data)):
            if isinstance(block, Fragment):
                line = data[block.place.offset : block.place.offset + block.length]
                if block.kind == "torn":
                    torn.append((block.place.line, line))
                else:
                    assert len(line) > max_line
                    found.append((block.place.line, line.removesuffix(b"\n")))
            else:
                for index, line in enumerate(block.lines):
                    place = block.place(index)
                    assert data[place.offset : place.offset + len(line) + 1] == line + b"\n"
                    found.append((place.line, line))
                assert block.length == sum(len(line) + 1 for line in block.lines)
    assert found == list(enumerate(lines, 1))
    assert torn == ([(len(lines) + 1, tail)] if tail else [])


def test_reading_ends_at_the_size(tmp_path):
    """What was appended after the size was taken is not read."""
    path = tmp_path / "market_data_2025-10-01.jsonl"
    path.write_bytes(b"one\ntwo\nthree\n")
    assert [block.lines for block in read_blocks(path, 8) if isinstance(block, Block)] == [[b"one", b"two"]]


def test_a_file_that_has_become_shorter_ends_where_it_ends(tmp_path):
    """A writer may take back what it could not make durable."""
    path = tmp_path / "market_data_2025-10-01.jsonl"
    path.write_bytes(b"one\n")
    assert [block.lines for block in read_blocks(path, 100) if isinstance(block, Block)] == [[b"one"]]


@pytest.fixture
def writer_lock(tmp_path):
    """Hold the folder's lock, as a writer does."""
    (tmp_path / ".mds").mkdir()
    with (tmp_path / ".mds" / "writer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


@pytest.mark.usefixtures("writer_lock")
def test_a_line_that_is_being_written_is_read_to_its_end(tmp_path, monkeypatch):
    """A size in the middle of a line is no torn line while the writer lives, and nothing beyond that line is read."""
    monkeypatch.setattr(files, "LIVE_LINE_S", 60)
    path = tmp_path / "market_data_2025-10-01.jsonl"
    path.write_bytes(b"one\ntw")
    blocks = read_blocks(path, 6)
    assert next(blocks) == Block([b"one"], files.Place(path, 1, 0))

    def go_on():
        for data in (b"o", b"\nthree\n"):
            with path.open("ab") as file:
                file.write(data)

    thread = threading.Thread(target=go_on)
    thread.start()
    assert list(blocks) == [Block([b"two"], files.Place(path, 2, 4))]
    thread.join()


@pytest.mark.usefixtures("writer_lock")
def test_a_line_that_a_writer_never_ends_is_torn(tmp_path, monkeypatch):
    """Waiting for a writer that stands still has an end."""
    monkeypatch.setattr(files, "LIVE_LINE_S", 0.01)
    path = tmp_path / "market_data_2025-10-01.jsonl"
    path.write_bytes(b"tw")
    assert list(read_blocks(path, 2)) == [Fragment("torn", files.Place(path, 1, 0), 2)]


def test_a_folder_is_being_written_while_somebody_holds_its_lock(tmp_path, writer_lock):
    """Asking neither takes nor disturbs the lock."""
    assert is_being_written(tmp_path)
    fcntl.flock(writer_lock, fcntl.LOCK_UN)
    assert not is_being_written(tmp_path)
    fcntl.flock(writer_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not is_being_written(tmp_path / "elsewhere")


def test_a_gap_record_is_read_with_its_times():
    """Aware times, and the seconds between them."""
    gap = decode_event(GAP)
    assert isinstance(gap, GapEvent)
    assert (gap.cause, gap.instruments, gap.worker) == ("killed", [408065], 1)
    assert gap.seconds == pytest.approx(3.123456)


def test_an_epoch_event_is_read_with_what_it_says_of_the_one_before():
    """A first start has no predecessor: null, but there."""
    line = (
        f'{{"event":"epoch","timestamp":"{TIME}","connection_id":2,"previous_epoch":null,"previous_last_seq":null,'
        '"previous_last_event_seq":null,"previous_end":"none","source":"worker-2","epoch":5,"event_seq":1}'
    )
    event = decode_event(line.encode())
    assert isinstance(event, EpochEvent)
    assert (event.previous_epoch, event.previous_end) == (None, "none")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"event":"gap",', b""),
        (b'"source":"worker-1",', b""),
        (b',"event_seq":2', b""),
        (b'"event_seq":2', b'"event_seq":0'),
        (b'"event_seq":2', b'"event_seq":"2"'),
        (b'"epoch":1759290000000', b'"epoch":null'),
        (b".123456+05:30", b".123456"),
        (b"2025-10-01T09:15:23", b"2025-02-30T09:15:23"),
        (b'"connection_id":1', b'"connection_id":2'),
        (b'"connection_id":1,', b""),
        (b'"cause":"killed",', b""),
        (b"gap", b"g\xffp"),
        (b"}", b""),
        (GAP, b"[]"),
        (GAP, b""),
    ],
)
def test_what_is_no_event_is_refused_in_words(old, new):
    """Every key that an event needs is asked for, with its type."""
    assert old in GAP
    with pytest.raises(ValueError, match=r"\w+"):
        decode_event(GAP.replace(old, new))


def test_events_are_read_past_what_is_none(tmp_path):
    """Bad lines and a torn end do not stop a reader."""
    path = tmp_path / "events_2025-10-01.jsonl"
    path.write_bytes(GAP + b"\n\nnonsense\n" + b"[" * 100_000 + b"\n" + GAP + b"\n" + GAP[:20])
    assert [event.event for event in read_events(path)] == ["gap", "gap"]
