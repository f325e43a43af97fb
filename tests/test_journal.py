"""Tests for the data files: what continues a stream is written once, and a torn, foreign or full file is survived."""

import errno
import os
import shutil
from datetime import date, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import journal as journal_module
from pipeline.checkpoint import Checkpoint, peek
from pipeline.counts import read_counts
from pipeline.days import Calendar
from pipeline.files import CHECKPOINT, Extent, event_file_name, tick_file_name
from pipeline.journal import DiskFullError, Journal, Verdict
from pipeline.store.keeping.closed import FirstOpen
from pipeline.store.keeping.removal import remove
from pipeline.wire import Mark, StreamId
from tests.builders import DAY, EPOCH, ZONE, a_batch, event_line, tick_line, tick_lines

STREAM = StreamId(1, EPOCH)
WRITER_EPOCH = 5


@pytest.fixture
def folder(in_memory):
    """Return a data folder with its state folder."""
    folder = in_memory()
    (folder / ".mds").mkdir()
    return folder


def a_journal(folder, epoch=WRITER_EPOCH):
    """Return a recovered journal."""
    journal = Journal(folder, folder / ".mds", Calendar(ZONE), epoch)
    journal.recover()
    return journal


def commit(journal, *, checkpoint=False):
    """Make everything durable."""
    commit = journal.begin_commit(checkpoint=checkpoint)
    commit.sync()
    journal.committed(commit)


def ticks_in(folder, day=DAY):
    """Return the content of a day's tick file."""
    path = folder / tick_file_name(day)
    return path.read_bytes() if path.exists() else b""


def events_in(folder, day=DAY):
    """Return the content of a day's event file."""
    path = folder / event_file_name(day)
    return path.read_bytes() if path.exists() else b""


def own_events(folder):
    """Return what the writer itself has logged, by name."""
    lines = b"".join(path.read_bytes() for path in sorted(folder.glob("events_*.jsonl"))).splitlines()
    return [event["event"] for event in map(orjson.loads, lines) if event.get("source") == "writer"]


# What is taken.


def test_batches_are_taken_once_and_in_order(folder):
    """What continues is stored, what is known dropped, of an overlap the new lines are taken, a hole is refused."""
    journal = a_journal(folder)
    assert journal.accept(*a_batch((1, 5), (1, 2))) is Verdict.STORED
    assert journal.accept(*a_batch((1, 5), (1, 2))) is Verdict.KNOWN
    assert journal.accept(*a_batch((3, 8), (2, 3))) is Verdict.STORED
    assert journal.accept(*a_batch((10, 12), (4, 3))) is Verdict.HOLE
    assert journal.accept(*a_batch((9, 8), (5, 5))) is Verdict.HOLE
    assert journal.high == {STREAM: Mark(8, 3)}
    assert ticks_in(folder) == tick_lines(1, 8)
    assert events_in(folder) == b"".join(map(event_line, (1, 2, 3)))


def test_what_the_worker_no_longer_holds_is_passed_over(folder):
    """`after` below `first - 1` says that the ticks between are lost: the worker has named them, the writer goes on."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 5)))
    assert journal.accept(*a_batch((9, 12), after=Mark(5, 0))) is Verdict.STORED
    assert journal.high[STREAM] == Mark(12, 0)
    assert ticks_in(folder) == tick_lines(1, 5) + tick_lines(9, 12)
    assert own_events(folder) == []


def test_of_a_retired_epoch_nothing_is_written(folder):
    """A stale batch of an epoch that is stored and removed is known, before and after the next start."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 3)))
    commit(journal)
    journal.accept(*a_batch((1, 1), epoch=EPOCH + 1, oldest_epoch=EPOCH + 1))
    before = ticks_in(folder)
    for _ in range(2):
        assert journal.accept(*a_batch((1, 9))) is Verdict.KNOWN
        assert STREAM not in journal.high
        assert ticks_in(folder) == before
        commit(journal, checkpoint=True)
        journal.close()
        journal = a_journal(folder)
    assert journal.retired == {1: EPOCH + 1}


def test_an_epoch_with_older_ones_left_retires_nothing(folder):
    """As long as an older epoch has a spool, its batches are taken beside the new one's."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 1), epoch=EPOCH + 1, oldest_epoch=EPOCH))
    assert journal.accept(*a_batch((1, 3))) is Verdict.STORED
    assert journal.high == {StreamId(1, EPOCH + 1): Mark(1, 0), STREAM: Mark(3, 0)}


# Torn ends.


@pytest.mark.parametrize("checkpoint", ["older", "newer", "missing", "corrupt"])
@pytest.mark.parametrize("kind", ["ticks", "events"])
def test_a_cut_at_every_byte_of_the_last_lines_is_mended(folder, kind, checkpoint):
    """Exactly the torn part is cut and kept, the marks are right, and what is sent again makes the file whole."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 4), (1, 4)))
    commit(journal)
    journal.checkpoint()
    journal.accept(*a_batch((5, 7), (5, 7)))
    commit(journal)
    journal.close()
    if checkpoint == "missing":
        (folder / ".mds" / CHECKPOINT).unlink()
    path = folder / (tick_file_name(DAY) if kind == "ticks" else event_file_name(DAY))
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = [sum(map(len, lines[:n])) for n in range(len(lines) + 1)]
    start = ends[4]
    saved = (folder / ".mds" / CHECKPOINT).read_bytes() if checkpoint != "missing" else b""
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        if checkpoint == "missing":
            (folder / ".mds" / CHECKPOINT).unlink(missing_ok=True)
        else:
            (folder / ".mds" / CHECKPOINT).write_bytes(saved if checkpoint != "corrupt" else saved[:-9])
        if checkpoint == "newer":  # written after what is there now: names the whole lines before the cut
            size = max(end for end in ends if end <= cut)
            name_up_to(folder, path.name, size, ends.index(size), kind)
        check_mended(path, kind, whole, ends, cut)


def name_up_to(folder, name, size, reached, kind):
    """Write a checkpoint that has `name` settled up to `size`."""
    mark = Mark(reached, 0) if kind == "ticks" else Mark(0, reached)
    other = event_file_name(DAY) if kind == "ticks" else tick_file_name(DAY)
    found = Checkpoint({name: Extent(size, None), other: Extent(0, 0)}, {STREAM: mark}, {})
    (folder / ".mds" / CHECKPOINT).write_bytes(found.encode())


def check_mended(path, kind, whole, ends, cut):
    """Recover, compare with the truth, send again, compare with the whole."""
    folder = path.parent
    journal = a_journal(folder)
    settled = max(end for end in ends if end <= cut)
    complete = cut + 1 in ends  # only the newline is missing
    reached = ends.index(settled) + complete
    mark = journal.high[STREAM]
    assert mark == (Mark(reached, 7) if kind == "ticks" else Mark(7, reached))
    assert path.read_bytes() == whole[: ends[reached]]
    kept = folder / ".mds" / f"{path.name}-{settled}.cut"
    if cut > settled and not complete:
        assert kept.read_bytes() == whole[settled:cut]
        kept.unlink()
    else:
        assert not kept.exists()
    assert own_events(folder).count("torn_end") == (cut > settled)
    journal.accept(*a_batch((reached + 1, 7), (8, 7)) if kind == "ticks" else a_batch((8, 7), (reached + 1, 7)))
    journal.close()
    assert path.read_bytes() == whole
    for other in folder.glob("events_*.jsonl"):  # the writer's own words, in today's file
        if other.name != event_file_name(DAY):
            other.unlink()


def test_foreign_lines_are_left_as_they_are(folder):
    """Neither a line that is not ours nor one at the end without a newline is changed; ours begin on a new line."""
    path = folder / tick_file_name(DAY)
    foreign = b"# hello\n" + tick_line(1) + b'{"a":1}\nthe end'
    path.write_bytes(foreign)
    journal = a_journal(folder)
    assert journal.high == {STREAM: Mark(1, 0)}
    assert path.read_bytes() == foreign
    assert "foreign_lines" in own_events(folder)
    journal.accept(*a_batch((1, 3)))
    assert path.read_bytes() == foreign + b"\n" + tick_lines(2, 3)
    journal.roll_back()
    assert path.read_bytes() == foreign + b"\n"


def test_zeros_at_the_end_are_cut(folder):
    """What a file system leaves after a power loss is no line of anybody's."""
    path = folder / tick_file_name(DAY)
    path.write_bytes(tick_lines(1, 2) + b"\0" * 50)
    assert a_journal(folder).high == {STREAM: Mark(2, 0)}
    assert path.read_bytes() == tick_lines(1, 2)


@pytest.mark.parametrize("left", [None, 0, 30])
def test_a_file_that_somebody_has_cut_or_removed_is_reported(folder, left):
    """What was durable is not asked for again, and the event log says what became of it."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 9)))
    commit(journal)
    journal.checkpoint()
    journal.close()
    path = folder / tick_file_name(DAY)
    if left is None:
        path.unlink()
    else:
        os.truncate(path, left)
    journal = a_journal(folder)
    assert journal.high == {STREAM: Mark(9, 0)}
    assert own_events(folder) == ["file_missing" if left is None else "file_shortened"]
    journal.accept(*a_batch((10, 11)))
    assert ticks_in(folder).splitlines(keepends=True)[-2:] == [tick_line(10), tick_line(11)]


def test_a_corrupt_checkpoint_is_kept(folder):
    """It is set aside, and all files are read instead."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 3)))
    journal.close()
    (folder / ".mds" / CHECKPOINT).write_bytes(b'{"version":1}')
    assert a_journal(folder).high == {STREAM: Mark(3, 0)}
    assert (folder / ".mds" / "checkpoint.damaged").read_bytes() == b'{"version":1}'


# A disk that is full or fails.


@pytest.mark.parametrize("part", ["events", "market_data"])
@pytest.mark.parametrize("written", [0, 1, 40])
def test_a_full_disk_keeps_nothing_of_a_batch(folder, monkeypatch, part, written):
    """Whichever of the two files finds no room, both stay as they were, and later the batch is taken."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 2), (1, 1)))
    before = ticks_in(folder), events_in(folder), dict(journal.high)
    real = os.write

    def write(fd, data):
        if part in os.readlink(f"/proc/self/fd/{fd}"):  # noqa: PTH115  a descriptor is not a path
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd, data[:written])
        return real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr("os.write", write)
        with pytest.raises(DiskFullError):
            journal.accept(*a_batch((3, 5), (2, 4)))
    assert (ticks_in(folder), events_in(folder), journal.high) == before
    assert journal.accept(*a_batch((3, 5), (2, 4))) is Verdict.STORED
    assert ticks_in(folder) == tick_lines(1, 5)


def test_a_full_disk_at_the_start_can_be_tried_again(folder, monkeypatch):
    """`recover` says that the disk is full, and succeeds when there is room."""
    (folder / tick_file_name(DAY)).write_bytes(tick_lines(1, 3)[:-1])
    journal = Journal(folder, folder / ".mds", Calendar(ZONE), WRITER_EPOCH)

    def full(_fd, _data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        with pytest.raises(DiskFullError):
            journal.recover()
    journal.recover()
    assert journal.high == {STREAM: Mark(3, 0)}
    assert ticks_in(folder) == tick_lines(1, 3)


def test_after_a_failed_sync_the_files_are_as_they_were_committed(folder):
    """Ticks go back to the last commit, to be sent again; the writer's own events, which nobody would send, stay."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 2)))
    journal.log_event("first", {})
    commit(journal)
    journal.accept(*a_batch((3, 6), (1, 2)))
    journal.log_event("second", {})
    journal.begin_commit(checkpoint=True)
    journal.roll_back()
    assert journal.high == journal.durable == {STREAM: Mark(2, 0)}
    assert ticks_in(folder) == tick_lines(1, 2)
    assert events_in(folder) == b""
    assert own_events(folder) == ["first", "second"]
    assert journal.dirty
    assert journal.accept(*a_batch((3, 6), (1, 2))) is Verdict.STORED
    commit(journal)
    journal.roll_back()
    assert journal.durable == {STREAM: Mark(6, 2)}
    assert own_events(folder) == ["first", "second"]


# Days.


def test_more_days_than_are_kept_open(folder, monkeypatch):
    """Two streams that write to many days in turn: each line is in its day's file, and a new start finds all marks."""
    monkeypatch.setattr(journal_module, "OPEN_FILES", 3)
    journal = a_journal(folder)
    days = [DAY + timedelta(days=n) for n in range(12)]
    for n, day in enumerate(days):
        for connection_id, shift in ((1, 0), (2, 3)):
            at = days[(n + shift) % len(days)] if n + shift < len(days) else day
            journal.accept(*a_batch((n + 1, n + 1), (n + 1, n + 1), connection_id=connection_id, day=at))
        if n % 3 == 2:
            commit(journal, checkpoint=n % 2 == 0)
    commit(journal)
    journal.checkpoint()
    journal.close()
    assert sum(ticks_in(folder, day).count(b"\n") for day in days) == 24
    assert a_journal(folder).high == {StreamId(c, EPOCH): Mark(12, 12) for c in (1, 2)}


def test_the_older_day_is_synced_before_a_stream_goes_on_in_the_next(folder, monkeypatch):
    """A power loss may cut the file of today, never that of yesterday alone."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 3), (1, 1)))
    synced = []
    real = os.fdatasync

    def fdatasync(fd):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))  # noqa: PTH115, PTH119  a descriptor
        real(fd)

    monkeypatch.setattr("os.fdatasync", fdatasync)
    journal.accept(*a_batch((4, 5), (2, 1), day=DAY + timedelta(days=1)))
    assert sorted(synced) == [event_file_name(DAY), tick_file_name(DAY)]
    assert journal.durable == {}


def test_an_early_day_of_a_clock_that_was_set_back(folder):
    """A new epoch on the day before writes to that day's file; nothing of the later one is touched."""
    journal = a_journal(folder)
    yesterday = date(2025, 9, 30)
    journal.accept(*a_batch((1, 3)))
    journal.accept(*a_batch((1, 2), epoch=EPOCH + 1, oldest_epoch=EPOCH + 1, day=yesterday))
    assert ticks_in(folder) == tick_lines(1, 3)
    assert ticks_in(folder, yesterday) == tick_lines(1, 2, epoch=EPOCH + 1)


# Files that go astray while they are written to.


def taken_away(path, how):
    """Let a file that is open be no longer where it was."""
    if how == "moved":
        path.replace(path.with_name("moved"))
    else:
        path.unlink()
    if how == "replaced":
        path.write_bytes(b"a backup\n")


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
@pytest.mark.parametrize("name", [tick_file_name(DAY), event_file_name(DAY)])
def test_a_file_that_somebody_takes_away_comes_back(folder, name, how):
    """All that was written to it is there again, durable or not, and what comes then; what took its place is kept."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 5), (1, 2)))
    commit(journal, checkpoint=True)
    journal.accept(*a_batch((6, 7), (3, 3)))
    assert journal.keep_in_place()
    taken_away(folder / name, how)
    journal.accept(*a_batch((8, 8), (4, 4)))
    assert journal.keep_in_place()
    journal.accept(*a_batch((9, 9), (5, 5)))
    whole = tick_lines(1, 9), b"".join(map(event_line, range(1, 6)))
    assert (ticks_in(folder), events_in(folder)) == whole
    assert own_events(folder) == ["file_restored"]
    assert [path.read_bytes() for path in folder.glob(".mds/*.aside")] == [b"a backup\n"] * (how == "replaced")
    journal.roll_back()
    assert ticks_in(folder) == tick_lines(1, 5)
    journal.accept(*a_batch((6, 9), (3, 5)))
    commit(journal, checkpoint=True)
    assert journal.keep_in_place()
    journal.close()
    assert a_journal(folder).high == {STREAM: Mark(9, 5)}
    assert (ticks_in(folder), events_in(folder)) == whole
    assert own_events(folder) == ["file_restored"]
    assert list(folder.glob(".mds/*.restored")) == []


def test_where_inodes_change_nothing_is_put_back_again_and_again(folder, monkeypatch):
    """Some network file systems have no lasting ones: then nobody can tell, and no file is copied for ever."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 5), (1, 2)))
    commit(journal, checkpoint=True)
    monkeypatch.setattr("pipeline.journal.is_in_place", lambda *_: False)
    assert journal.keep_in_place()
    assert journal.keep_in_place()
    assert len([*folder.glob(".mds/*.aside")]) == 2  # once of each of the two files
    commit(journal, checkpoint=True)
    assert ticks_in(folder) == tick_lines(1, 5)


def test_a_folder_that_is_gone_comes_back(folder):
    """With what was in hand of it."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 5), (1, 2)))
    shutil.rmtree(folder)
    assert journal.keep_in_place()
    commit(journal, checkpoint=True)
    assert ticks_in(folder) == tick_lines(1, 5)
    assert own_events(folder) == ["file_restored"] * 2


def test_a_file_that_cannot_come_back_is_begun_again(folder, monkeypatch):
    """The event log says what is lost; what was not durable is asked for again."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 5), (1, 2)))
    commit(journal, checkpoint=True)
    journal.accept(*a_batch((6, 7)))
    (folder / tick_file_name(DAY)).unlink()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.pread", full)
        assert not journal.keep_in_place()
    journal.roll_back()
    assert journal.high == {STREAM: Mark(5, 2)}
    assert journal.accept(*a_batch((6, 8))) is Verdict.STORED
    commit(journal, checkpoint=True)
    assert ticks_in(folder) == tick_lines(6, 8)
    assert own_events(folder) == ["file_missing"]
    journal.close()
    assert a_journal(folder).high == {STREAM: Mark(8, 2)}
    assert own_events(folder) == ["file_missing"]


@pytest.mark.parametrize("first", ["looked for", "written to"])
def test_a_file_that_is_removed_while_it_is_not_open_is_missed(folder, first):
    """Once, whether it is noticed by the look or by what comes next."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 5)))
    commit(journal, checkpoint=True)
    journal.close()
    journal = a_journal(folder)
    (folder / tick_file_name(DAY)).unlink()
    if first == "looked for":
        assert journal.keep_in_place()
    journal.accept(*a_batch((6, 6)))
    assert journal.keep_in_place()
    commit(journal, checkpoint=True)
    journal.close()
    assert a_journal(folder).high == {STREAM: Mark(6, 0)}
    assert own_events(folder) == ["file_missing"]
    assert ticks_in(folder) == tick_line(6)


def test_a_file_that_is_removed_on_purpose_stays_away(folder):
    """It is let go at once, which gives its room back."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 5), (1, 2)))
    commit(journal)
    removed(folder)
    assert journal.keep_in_place()
    assert list(folder.glob("*.jsonl")) == []
    assert journal.accept(*a_batch((5, 5))) is Verdict.KNOWN
    journal.checkpoint()
    assert peek(folder / ".mds" / CHECKPOINT).files == {}


def test_a_file_that_is_cut_while_it_is_written_to_is_reported(folder):
    """Once, and it is gone on with from where it ends now, whatever is rolled back."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 5)))
    commit(journal, checkpoint=True)
    os.truncate(folder / tick_file_name(DAY), len(tick_line(1)))
    for _ in range(2):
        assert journal.keep_in_place()
    journal.accept(*a_batch((6, 6)))
    journal.roll_back()
    assert ticks_in(folder) == tick_line(1)
    journal.accept(*a_batch((6, 7)))
    commit(journal, checkpoint=True)
    journal.close()
    assert a_journal(folder).high == {STREAM: Mark(7, 0)}
    assert ticks_in(folder) == tick_line(1) + tick_lines(6, 7)
    assert own_events(folder) == ["file_shortened"]


# What was removed on purpose.


def removed(folder, day=DAY):
    """Remove a day's files as `mds files clean` does."""
    for name in (tick_file_name(day), event_file_name(day)):
        if (folder / name).exists():
            remove(folder / name, FirstOpen(day + timedelta(days=1), ""), "clean")


def test_a_file_that_was_removed_on_purpose_is_not_missed(folder):
    """The next start says nothing, and the checkpoint names it no longer."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 9), (1, 2)))
    commit(journal)
    journal.checkpoint()
    removed(folder)
    journal.close()
    journal = a_journal(folder)
    assert own_events(folder) == []
    assert journal.high == {STREAM: Mark(9, 2)}
    journal.checkpoint()
    assert not {tick_file_name(DAY), event_file_name(DAY)} & set(peek(folder / ".mds" / CHECKPOINT).files)


def test_of_a_file_that_was_removed_only_in_part_the_rest_is_missed(folder):
    """What was stored after it had been removed, and begun again, is not what was removed."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 1)))
    commit(journal)
    journal.checkpoint()
    journal.close()
    removed(folder)
    journal = a_journal(folder)
    journal.accept(*a_batch((2, 50)))
    commit(journal)
    journal.checkpoint()
    journal.close()
    (folder / tick_file_name(DAY)).unlink()
    a_journal(folder)
    assert own_events(folder) == ["file_missing"]


@pytest.mark.parametrize("settled", ["open", "closed", "named", "forgotten"])
@pytest.mark.parametrize("dies", [False, True])
def test_what_comes_late_for_a_removed_day_begins_a_new_file(folder, settled, dies, monkeypatch):
    """Whether the old one was still open or only named, nothing of it is lost or stored twice, though it is killed."""
    monkeypatch.setattr(journal_module, "OPEN_FILES", 3 if settled == "closed" else 8)
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 9)))
    commit(journal)
    for n in (1, 2) if settled == "closed" else (5, 6, 7) if settled == "forgotten" else ():
        journal.accept(*a_batch((1, 1), (1, 1), connection_id=2, day=DAY + timedelta(days=n)))
        commit(journal)
    journal.checkpoint()
    if settled in ("named", "forgotten"):
        journal.close()
        journal = a_journal(folder)
    removed(folder)

    late = EPOCH + 1  # the clock was set back, and a worker started
    journal.accept(*a_batch((1, 3), epoch=late, oldest_epoch=late))
    commit(journal)
    if dies:
        journal.close()
        journal = a_journal(folder)
        assert own_events(folder) == []
        assert journal.high[StreamId(1, late)] == Mark(3, 0)
    assert journal.accept(*a_batch((2, 5), epoch=late, oldest_epoch=late)) is Verdict.STORED
    commit(journal)
    journal.checkpoint()
    assert ticks_in(folder) == tick_lines(1, 5, epoch=late)
    assert peek(folder / ".mds" / CHECKPOINT).files[tick_file_name(DAY)] == (len(ticks_in(folder)), 5)


# Counting along.


def assert_counted(folder):
    """Check that the checkpoint has the right counts; return the names of files of which it knows none."""
    files = peek(folder / ".mds" / CHECKPOINT).files
    for name, (size, lines) in files.items():
        data = (folder / name).read_bytes()[:size]
        assert len(data) == size
        assert lines in (None, data.count(b"\n")), name
    return {name for name, (_, lines) in files.items() if lines is None}


STEPS = st.one_of(
    st.tuples(st.just("accept"), st.integers(0, 4), st.integers(0, 3), st.integers(0, 5)),
    st.tuples(st.sampled_from(["event", "commit", "begin", "roll back", "checkpoint"])),
    st.tuples(st.just("die"), st.integers(0, 80), st.sampled_from([b"", b"# foreign\n", b"# no end"])),
    st.tuples(st.just("full"), st.integers(0, 40)),
)


@given(steps=st.lists(STEPS, max_size=25))
def test_the_checkpoint_has_the_number_of_lines(in_memory, steps):
    """After any batches, failed writes, roll-backs, deaths with torn ends, and lines of others, over many days."""
    folder = in_memory()
    (folder / ".mds").mkdir()
    journal = a_journal(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "OPEN_FILES", 3)
        for step, *details in [*steps, ("commit",), ("checkpoint",)]:
            mark = journal.high.get(STREAM, Mark())
            if step == "accept":
                ticks, events, days = details
                more = (mark.seq + 1, mark.seq + ticks), (mark.event_seq + 1, mark.event_seq + events)
                journal.accept(*a_batch(*more, day=DAY + timedelta(days=days)))
            elif step == "full":
                fail_within(journal, mark, details[0])
            elif step == "event":
                journal.log_event("note", {})
            elif step == "commit":
                commit(journal, checkpoint=True)
            elif step == "begin":
                journal.begin_commit(checkpoint=False)
                journal.roll_back()
            elif step == "roll back":
                journal.roll_back()
            elif step == "checkpoint":
                journal.checkpoint()
            else:
                journal.close()
                hurt(folder, *details)
                journal = a_journal(folder)
            assert assert_counted(folder) == set()


def fail_within(journal, mark, written):
    """Offer a batch of which only so many bytes find room."""
    real = os.write
    batch = a_batch((mark.seq + 1, mark.seq + 2), (mark.event_seq + 1, mark.event_seq + 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.write", lambda fd, data: real(fd, data[: min(written, len(data) - 1)]))
        with pytest.raises(DiskFullError):
            journal.accept(*batch)


def hurt(folder, torn, foreign):
    """Cut the newest tick file behind what the checkpoint has, and append what is not ours."""
    paths = sorted(folder.glob("market_data_*"))
    if paths:
        settled = peek(folder / ".mds" / CHECKPOINT).files.get(paths[-1].name, Extent(0, 0)).bytes
        os.truncate(paths[-1], max(paths[-1].stat().st_size - torn, settled))
        with paths[-1].open("ab") as file:
            file.write(foreign)


def test_an_old_checkpoint_has_no_counts_and_they_come_with_new_files(folder):
    """Nothing is read for them: the file that was begun before stays uncounted, others have their count."""
    (folder / tick_file_name(DAY)).write_bytes(tick_lines(1, 3))
    old = Checkpoint({tick_file_name(DAY): Extent(len(tick_lines(1, 3)), None)}, {STREAM: Mark(3, 0)}, {})
    (folder / ".mds" / CHECKPOINT).write_bytes(old.encode())
    journal = a_journal(folder)
    journal.accept(*a_batch((4, 5)))
    journal.accept(*a_batch((6, 7), day=DAY + timedelta(days=1)))
    journal.accept(*a_batch((8, 8), day=DAY + timedelta(days=1)))
    journal.roll_back()
    commit(journal)
    journal.checkpoint()
    assert assert_counted(folder) == {tick_file_name(DAY)}


def test_a_new_checkpoint_can_be_read_by_an_older_program():
    """The version and the keys that it knows are as they were; the counts stand in a key of their own."""
    outer = orjson.loads(Checkpoint({"a": Extent(10, 2), "b": Extent(5, None)}, {STREAM: Mark(3, 1)}, {1: 9}).encode())
    inner = orjson.loads(outer["body"])
    assert outer["version"] == 1
    assert inner.pop("lines") == {"a": 2}
    assert inner == {"files": {"a": 10, "b": 5}, "streams": [[1, EPOCH, 3, 1]], "retired": [[1, 9]]}


def test_a_file_that_somebody_has_cut_has_no_count(folder):
    """Nobody has counted what is left of it."""
    journal = a_journal(folder)
    journal.accept(*a_batch((1, 9)))
    commit(journal)
    journal.checkpoint()
    journal.close()
    os.truncate(folder / tick_file_name(DAY), 30)
    journal = a_journal(folder)
    journal.accept(*a_batch((10, 11)))
    commit(journal)
    journal.checkpoint()
    assert assert_counted(folder) == {tick_file_name(DAY)}


def test_what_leaves_the_checkpoint_goes_into_the_index(folder, monkeypatch):
    """With its count, before the checkpoint names it no more; it is taken up where it is written to again."""
    monkeypatch.setattr(journal_module, "OPEN_FILES", 2)
    journal = a_journal(folder)
    days = [DAY + timedelta(days=n) for n in range(6)]
    for n, day in enumerate(days, 1):
        journal.accept(*a_batch((n, n), day=day))
        commit(journal, checkpoint=True)
    named = peek(folder / ".mds" / CHECKPOINT).files
    assert set(named) == {tick_file_name(day) for day in days[-3:]}
    size = len(tick_line(1))
    assert read_counts(folder / ".mds")[tick_file_name(DAY)] == (size, 1)

    journal.accept(*a_batch((1, 2), connection_id=2, day=DAY))
    commit(journal)
    journal.checkpoint()
    assert assert_counted(folder) == set()
    assert peek(folder / ".mds" / CHECKPOINT).files[tick_file_name(DAY)] == (len(ticks_in(folder)), 3)


def test_of_files_that_are_gone_the_index_has_nothing(folder, monkeypatch):
    """It does not grow for ever."""
    monkeypatch.setattr(journal_module, "OPEN_FILES", 2)
    journal = a_journal(folder)
    for n in range(1, 9):
        day = DAY + timedelta(days=n)
        journal.accept(*a_batch((n, n), day=day))
        commit(journal, checkpoint=True)
        (folder / tick_file_name(day - timedelta(days=4))).unlink(missing_ok=True)
    left = [tick_file_name(DAY + timedelta(days=n)) for n in (4, 5)]
    assert sorted(read_counts(folder / ".mds")) == left  # of one of them the next day will see that it is gone


def test_an_index_that_cannot_be_written_stops_nothing(folder, monkeypatch):
    """The checkpoint goes on; the count is lost."""
    monkeypatch.setattr(journal_module, "OPEN_FILES", 2)
    (folder / ".mds" / "counts.json").mkdir()
    journal = a_journal(folder)
    for n in range(1, 7):
        journal.accept(*a_batch((n, n), day=DAY + timedelta(days=n)))
        commit(journal, checkpoint=True)
    journal.checkpoint()
    assert tick_file_name(DAY + timedelta(days=6)) in peek(folder / ".mds" / CHECKPOINT).files
    assert read_counts(folder / ".mds") == {}
