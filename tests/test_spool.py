"""Tests for the spool: what was appended is read back, whatever was cut, damaged or found no room."""

import errno
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import spool as spool_module
from pipeline.errors import SpoolFullError
from pipeline.records import HEADER_BYTES, Damage, Kind, Record, encode_record, encode_segment, parse
from pipeline.spool import EVENT_RESERVE_BYTES, Incoming, Spool
from pipeline.wire import Mark

LARGE = 10**6
SMALL_LIMIT = 2000  # bytes: segments of 250

FRAMES = st.lists(st.tuples(st.just("frame"), st.integers(0, 4), st.binary(max_size=60)), min_size=1, max_size=4)
EVENTS = st.tuples(st.just("event"), st.binary(min_size=1, max_size=40))
STEPS = st.lists(FRAMES | EVENTS | st.just("idle"), max_size=25)


@pytest.fixture
def small_segments(monkeypatch):
    """Make segments of two or three records."""
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 200)


def fill(spool, steps, start_ns=1000):
    """Append and return the records, in order."""
    records, now_ns = [], start_ns
    for step in steps:
        now_ns += 10
        if step == "idle":
            spool.append_wanted(now_ns, wanted=False)
        elif isinstance(step, list):
            records += spool.append_frames([Incoming(now_ns, ticks, raw) for _, ticks, raw in step])
        else:
            records.append(spool.append_event(now_ns, step[1]))
    return records


def read_all(spool, place=None, max_bytes=LARGE):
    """Return all frames and events from `place` on."""
    records, place = [], place if place is not None else spool.seek(Mark())
    while place != spool.end:
        chunk = spool.read(place, max_bytes)
        assert chunk.next != place or chunk.next == spool.end, "no headway"
        records += [record for record in chunk.records if record.kind <= Kind.EVENT]
        place = chunk.next
    return records


def behind(records, mark):
    """Return the records that a reader who has everything up to `mark` still wants."""
    return [
        r
        for r in records
        if (r.kind == Kind.FRAME and r.first_seq + r.numbered - 1 > mark.seq)
        or (r.kind == Kind.EVENT and r.first_seq > mark.event_seq)
    ]


def segments(spool):
    """Return the spool's files in order."""
    return sorted(spool.folder.glob("*.spool"))


def a_spool(folder, count=12):
    """Make a spool of several segments and leave it as a killed worker does; return its records."""
    spool = Spool.create(folder, LARGE)
    steps = [[("frame", n % 3 + 1, bytes([n]) * (5 + n))] if n % 4 else ("event", b"e%d\n" % n) for n in range(count)]
    records = fill(spool, steps)
    spool.close()
    return records, spool


# Writing and reading.


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, parts=st.data(), max_bytes=st.sampled_from([1, 37, 100, 1000, LARGE]))
def test_what_is_behind_a_mark_and_still_held_is_read_in_order(steps, parts, max_bytes):
    """After trimming at any mark, reading from any later one finds all that lies behind it, in parts of any size."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(spool_module, "SEGMENT_BYTES", 200):
        spool = Spool.create(Path(folder) / "1", LARGE)
        half = len(steps) // 2
        records = fill(spool, steps[:half])
        durable = Mark(parts.draw(st.integers(0, spool.last.seq)), parts.draw(st.integers(0, spool.last.event_seq)))
        spool.trim(durable)
        records += fill(spool, steps[half:], start_ns=5000)
        wanted = Mark(
            parts.draw(st.integers(durable.seq, spool.last.seq)),
            parts.draw(st.integers(durable.event_seq, spool.last.event_seq)),
        )
        found = behind(read_all(spool, spool.seek(wanted), max_bytes), wanted)
        assert found == behind(records, wanted)
        assert spool.bytes == sum(path.stat().st_size for path in segments(spool))
        spool.close()
        reopened = Spool.open(spool.folder)
        assert (reopened.last, reopened.last_recv_ns) == (spool.last, spool.last_recv_ns)
        assert reopened.bytes == spool.bytes
        assert behind(read_all(reopened, reopened.seek(wanted), max_bytes), wanted) == found
        reopened.trim(durable)
        assert behind(read_all(reopened, reopened.seek(wanted), max_bytes), wanted) == found


def test_appending_numbers_ticks_and_events_apart(tmp_path):
    """Each frame gets as many numbers as it has ticks, a heartbeat none; events have numbers of their own."""
    spool = Spool.create(tmp_path / "1", LARGE)
    frames = spool.append_frames([Incoming(5, 3, b"abc"), Incoming(6, 0, b"\0"), Incoming(7, 2, b"de")])
    event = spool.append_event(8, b"e\n")
    assert [(r.first_seq, r.numbered) for r in frames] == [(1, 3), (4, 0), (4, 2)]
    assert event == Record(Kind.EVENT, 1, 1, 8, b"e\n")
    assert spool.last == Mark(5, 1)
    assert spool.last_recv_ns == 7


def test_a_record_on_disk_never_changes():
    """A record is these bytes, which an earlier or later version has left in a spool, and are read as what they are."""
    record = Record(Kind.EVENT, 0x0102030405060708, 0x0A0B, 0x1112131415161718, b"e\n")
    data = encode_record(record.kind, record.first_seq, record.numbered, record.recv_ns, record.payload)
    assert data == bytes.fromhex(
        "4d 44 52 31  ca 92 95 d3  02 00 00 00  01  00 00 00  0b 0a 00 00"
        "08 07 06 05 04 03 02 01  18 17 16 15 14 13 12 11  65 0a"
    )
    assert list(parse(data)) == [(record, len(data))]
    assert encode_segment(Mark(0x0203, 0x0405), 7)[HEADER_BYTES:] == bytes.fromhex("05 04 00 00 00 00 00 00")


def test_a_connection_without_instruments_has_nothing_to_miss(tmp_path):
    """Idle sets the last receive time to 0, also for who opens the spool later; the next frame sets it again."""
    spool = Spool.create(tmp_path / "1", LARGE)
    spool.append_frames([Incoming(5, 1, b"a")])
    spool.append_wanted(6, wanted=False)
    assert (spool.last_recv_ns, Spool.open(spool.folder).last_recv_ns) == (0, 0)
    spool.append_frames([Incoming(9, 1, b"a")])
    assert Spool.open(spool.folder).last_recv_ns == 9


def test_frames_that_are_not_of_all_instruments_do_not_count_as_complete(tmp_path):
    """Whoever is killed meanwhile leaves word since when something is missing."""
    spool = Spool.create(tmp_path / "1", LARGE)
    spool.append_frames([Incoming(5, 1, b"a")])
    records = spool.append_frames([Incoming(8, 1, b"b"), Incoming(9, 1, b"c")], missing_since_ns=5)
    assert [record.first_seq for record in records] == [2, 3]
    assert (spool.last_recv_ns, Spool.open(spool.folder).last_recv_ns) == (5, 5)
    spool.append_frames([Incoming(12, 1, b"d")])
    assert (spool.last_recv_ns, Spool.open(spool.folder).last_recv_ns) == (12, 12)


def test_the_last_receive_time_is_taken_over_until_a_frame_comes(tmp_path):
    """An epoch that is killed before its first frame still tells since when nothing was recorded."""
    spool = Spool.create(tmp_path / "1", LARGE, last_recv_ns=77)
    spool.append_event(90, b"e\n")
    spool.close()
    assert Spool.open(spool.folder).last_recv_ns == 77


@pytest.mark.usefixtures("small_segments")
def test_trimming_keeps_the_numbers(tmp_path):
    """With all of it durable one segment is left, and from it `last` and the last receive time are still known."""
    _, spool = a_spool(tmp_path / "1")
    assert len(segments(spool)) > 3
    spool.trim(spool.last)
    assert len(segments(spool)) == 1
    assert (Spool.open(spool.folder).last, Spool.open(spool.folder).last_recv_ns) == (spool.last, spool.last_recv_ns)


@pytest.mark.usefixtures("small_segments")
def test_removing_leaves_nothing(tmp_path):
    """The folder goes with the segments."""
    _, spool = a_spool(tmp_path / "1")
    spool.remove()
    assert list(tmp_path.iterdir()) == []
    assert spool.bytes == 0


# Cut and damaged.


def test_a_cut_at_every_byte_of_the_last_records_keeps_the_whole_ones(tmp_path, caplog, monkeypatch):
    """Where the last segment is cut, exactly the records before the cut are found, and no file counts as damaged."""
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 400)
    records, spool = a_spool(tmp_path / "1", count=22)
    path = segments(spool)[-1]
    data = path.read_bytes()
    ends = [end for _, end in parse(data)]
    assert len(ends) >= 4, "three records and the segment's first are wanted"
    in_last = len(ends) - 1
    for cut in range(ends[-4], len(data)):
        path.write_bytes(data[:cut])
        caplog.clear()
        cut_spool = Spool.open(spool.folder)
        whole = records[: len(records) - in_last + sum(end <= cut for end in ends[1:])]
        assert read_all(cut_spool) == whole
        assert cut_spool.last == last_of(whole)
        assert cut_spool.last_recv_ns == max(r.recv_ns for r in whole if r.kind == Kind.FRAME)
        assert not [r for r in caplog.records if r.levelname == "ERROR"]
        assert sum("cut at byte" in r.message for r in caplog.records) == (cut not in ends)
    cut_spool.remove()
    assert list(tmp_path.iterdir()) == []


def last_of(records):
    """Return the numbers given last."""
    return Mark(
        max((r.first_seq + r.numbered - 1 for r in records if r.kind == Kind.FRAME), default=0),
        max((r.first_seq for r in records if r.kind == Kind.EVENT), default=0),
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data(), change=st.binary(min_size=1, max_size=30), max_bytes=st.sampled_from([37, 100, LARGE]))
def test_overwritten_bytes_cost_the_records_that_they_hit(data, change, max_bytes):
    """All other records are found, and a damaged file is kept beside the spool when the rest of it is removed."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(spool_module, "SEGMENT_BYTES", 200):
        records, spool = a_spool(Path(folder) / "1")
        path = data.draw(st.sampled_from(segments(spool)))
        content = path.read_bytes()
        at = data.draw(st.integers(0, len(content) - 1))
        damaged = (content[:at] + change + content[at + len(change) :])[: len(content)]
        path.write_bytes(damaged)
        start, hit, in_last = 0, [], path == segments(spool)[-1]
        for found, end in parse(content):
            assert isinstance(found, Record)
            if damaged[start:end] != content[start:end]:
                hit.append((found, end))
            start = end
        lost = [found for found, _ in hit]
        reopened = Spool.open(spool.folder)
        assert read_all(reopened, max_bytes=max_bytes) == [r for r in records if r not in lost]
        if not in_last:
            assert reopened.last == spool.last
        torn = in_last and hit and hit[-1][1] == len(content)
        reopened.remove()
        kept = [p.name for p in Path(folder).iterdir()]
        if hit and not torn:
            assert kept == [f"1-{path.stem}.damaged"]
            assert (Path(folder) / kept[0]).read_bytes() == damaged
        elif not hit:
            assert kept == []


@given(st.binary(max_size=300))
def test_garbage_is_damage_and_nothing_else(data):
    """Any bytes parse, without an error, into runs that cover them."""
    found = list(parse(data))
    assert [end for _, end in found][-1:] == ([len(data)] if data else [])
    assert all(isinstance(item, Damage) for item, _ in found)


def test_a_record_behind_garbage_is_found():
    """The magic inside garbage misleads nobody."""
    record = encode_record(Kind.FRAME, 5, 2, 9, b"payload")
    junk = b"xxMDR1MDR1" + record[:20]
    assert list(parse(junk + record)) == [
        (Damage(0, len(junk)), len(junk)),
        (Record(Kind.FRAME, 5, 2, 9, b"payload"), len(junk + record)),
    ]


@pytest.mark.usefixtures("small_segments")
def test_a_missing_first_segment_leaves_the_rest(tmp_path):
    """The records of the others are read, and the end is known."""
    records, spool = a_spool(tmp_path / "1")
    first = segments(spool)[0]
    gone = [found for found, _ in parse(first.read_bytes())]
    first.unlink()
    reopened = Spool.open(spool.folder)
    assert read_all(reopened) == [r for r in records if r not in gone]
    assert reopened.last == spool.last


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("which", [0, 1, -2, -1])
@pytest.mark.parametrize("found_is", ["damaged", "empty", "half its first record"])
def test_a_segment_without_its_first_record(tmp_path, which, found_is):
    """What is in the others is read from every mark; the end is known as far as any record tells."""
    records, spool = a_spool(tmp_path / "1")
    path = segments(spool)[which]
    content = path.read_bytes()
    first_end = next(end for _, end in parse(content))
    held = [found for found, _ in parse(content)][1:]
    changed = {"damaged": b"\xff" * 9 + content[9:], "empty": b"", "half its first record": content[: first_end // 2]}
    path.write_bytes(changed[found_is])
    left = records if found_is == "damaged" else [r for r in records if r not in held]
    reopened = Spool.open(spool.folder)
    assert reopened.last == (last_of(left) if which == -1 else spool.last)
    for mark in (Mark(), Mark(3, 1), Mark(9, 2), spool.last):
        assert behind(read_all(reopened, reopened.seek(mark)), mark) == behind(left, mark)
    reopened.trim(Mark(5, 1))
    assert behind(read_all(reopened), Mark(5, 1)) == behind(left, Mark(5, 1))


@pytest.mark.usefixtures("small_segments")
def test_the_end_is_known_when_the_last_segment_was_only_begun(tmp_path):
    """Killed between making a segment's file and writing to it: the numbers are those of the segment before."""
    records, spool = a_spool(tmp_path / "1")
    number = int(segments(spool)[-1].stem)
    (spool.folder / f"{number + 1:08d}.spool").touch()
    (spool.folder / f"{number + 2:08d}.spool").touch()
    reopened = Spool.open(spool.folder)
    assert (reopened.last, reopened.last_recv_ns) == (spool.last, spool.last_recv_ns)
    assert read_all(reopened) == records


def test_strange_files_in_the_folder_are_passed_over(tmp_path):
    """Only files with a segment's name are read."""
    records, spool = a_spool(tmp_path / "1")
    for name in ("notes.txt", "notes.spool", "²3.spool", ".spool", "00000001.spool~"):
        (spool.folder / name).write_bytes(b"not ours")
    (spool.folder / "00000099.spool").mkdir()
    reopened = Spool.open(spool.folder)
    assert read_all(reopened) == records
    assert reopened.last == spool.last


@pytest.mark.parametrize("name", [None, "00000001.spool"])
def test_a_spool_that_was_never_begun(tmp_path, name):
    """A folder without a record has nothing to hand on, and says that it was not begun."""
    folder = tmp_path / "1"
    folder.mkdir()
    if name:
        (folder / name).touch()
    spool = Spool.open(folder)
    assert not spool.begun
    assert read_all(spool) == []
    spool.remove()
    assert Spool.create(folder, LARGE).begun


# No room.


def test_past_the_limit_frames_are_refused_and_events_are_not(tmp_path):
    """Nothing of refused frames is kept; what says so still finds room, up to a reserve; trimming makes room again."""
    spool = Spool.create(tmp_path / "1", SMALL_LIMIT)
    frame = Incoming(5, 1, b"x" * 150)
    taken = 0
    while spool.bytes + 2 * 186 <= SMALL_LIMIT:
        spool.append_frames([frame])
        taken += 1
    before = (spool.last, spool.bytes, spool.last_recv_ns)
    with pytest.raises(SpoolFullError, match="spool_max_mb"):
        spool.append_frames([Incoming(9, 1, frame.raw)] * 3)
    assert (spool.last, spool.bytes, spool.last_recv_ns) == before
    event = spool.append_event(6, b"e" * SMALL_LIMIT)
    assert [r.kind for r in read_all(spool)] == [Kind.FRAME] * taken + [Kind.EVENT]
    with pytest.raises(SpoolFullError):
        spool.append_event(7, b"e" * EVENT_RESERVE_BYTES)
    spool.append_wanted(8, wanted=False)
    assert spool.last == Mark(taken, event.first_seq)
    spool.trim(spool.last)
    assert spool.append_frames([frame])[0].first_seq == taken + 1


class Disk:
    """A disk with so much room; a write that does not fit is cut short, or fails."""

    def __init__(self, monkeypatch, *, fails):
        self.room = 10**9
        self._fails = fails
        self._write = os.write
        monkeypatch.setattr("os.write", self.write)

    def write(self, fd, data):
        if len(data) > self.room and self._fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, data[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("room", [0, 1, 35, 36, 60, 86, 100, 140])
@pytest.mark.usefixtures("small_segments")
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, fails, room):
    """A refused append leaves no trace, a segment that cannot be begun is not there; with room all goes on."""
    spool = Spool.create(tmp_path / "1", LARGE)
    records = spool.append_frames([Incoming(5, 1, b"x" * 30)])
    open_files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  a count
    disk = Disk(monkeypatch, fails=fails)
    for n in range(20):
        disk.room = room
        before = (spool.last, spool.bytes)
        try:
            records += spool.append_frames([Incoming(6 + n, 1, b"y" * 50)])
        except SpoolFullError:
            assert (spool.last, spool.bytes) == before
        assert spool.bytes == sum(path.stat().st_size for path in segments(spool))
        assert all(isinstance(found, Record) for path in segments(spool) for found, _ in parse(path.read_bytes()))
    assert len(os.listdir("/proc/self/fd")) == open_files  # noqa: PTH208  a count
    disk.room = 10**9
    records += spool.append_frames([Incoming(50, 2, b"z"), Incoming(51, 0, b"")])
    spool.append_event(52, b"e\n")
    assert [r for r in read_all(Spool.open(spool.folder)) if r.kind == Kind.FRAME] == records


def test_a_file_system_without_room(tmp_path):
    """The same on a real one of 64 kB: what was acknowledged is there, the rest was refused, and later it goes on."""
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("a file system of its own needs root and mount")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.decode().strip()}")
    try:
        spool = Spool.create(tmp_path / "1", LARGE)
        records = []
        with pytest.raises(SpoolFullError, match="No space left"):  # noqa: PT012  it fills step by step
            while True:
                records += spool.append_frames([Incoming(5, 1, b"x" * 3000)])
        assert len(records) > 5
        with pytest.raises(SpoolFullError):
            spool.append_frames([Incoming(6, 1, b"x" * 3000)] * 2)
        assert read_all(Spool.open(spool.folder)) == records
        subprocess.run([mount, "-o", "remount,size=128k", tmp_path], check=True)
        records += spool.append_frames([Incoming(7, 1, b"x" * 3000)])
        assert read_all(Spool.open(spool.folder)) == records
        spool.close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_last_segment_that_cannot_be_read_is_kept(tmp_path, monkeypatch):
    """Unreadable is not torn: what could not be handed on is set aside when the spool is removed, not deleted."""
    spool = Spool.create(tmp_path / "1" / "5", 2**20)
    spool.append_frames([Incoming(1, 2, b"first"), Incoming(2, 2, b"second")])
    spool.close()
    left = Spool.open(tmp_path / "1" / "5")
    content = (tmp_path / "1" / "5" / "00000001.spool").read_bytes()
    monkeypatch.setattr(spool_module, "_read", lambda *_: b"")
    chunk = left.read(left.seek(Mark()), 1000)
    assert (chunk.records, chunk.next) == ([], left.end)
    left.remove()
    assert (tmp_path / "1" / "5-00000001.damaged").read_bytes() == content
