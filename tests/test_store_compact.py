"""Days become Parquet: whole or not at all, whatever happens; and their JSONL goes only when that is proved."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.config import Config
from pipeline.errors import AlreadyRunningError, MdsError
from pipeline.events import encode_event
from pipeline.files import COMPACT_LOCK, event_file_name, parquet_folder, tick_file_name
from pipeline.store.keeping import closed
from pipeline.store.parquet import compact, part
from pipeline.store.parquet import io as parquet
from pipeline.store.parquet.compact import Outcome
from pipeline.store.parquet.files import parts
from pipeline.store.schema import to_ticks
from pipeline.ticks import StoredTick, encode_lines
from tests.builders import a_config
from tests.stored import EPOCH, FIRST, KINDS, ZONE, tick_at

DAY = date(2025, 10, 1)


def some(first: int, count: int, **fields: Any) -> list[StoredTick]:
    """Return ticks of all kinds, a millisecond apart."""
    kinds = list(KINDS)
    return [
        tick_at(FIRST + timedelta(milliseconds=n), kinds[n % 5], seq=n, **fields) for n in range(first, first + count)
    ]


TICKS = some(1, 200)
LINES = encode_lines(TICKS)


class Day:
    """A data folder with the JSONL of a day."""

    def __init__(self, folder: Path, lines: bytes = LINES) -> None:
        self.config: Config = a_config(folder)
        self.data_dir = self.config.storage.data_dir
        self.source = self.data_dir / tick_file_name(DAY)
        self.folder = parquet_folder(self.data_dir, DAY)
        self.work = self.config.state_dir / "compact" / self.folder.name
        self.data_dir.mkdir(parents=True)
        self.config.state_dir.mkdir()
        self.source.write_bytes(lines)

    def compact(self, **options: Any) -> Outcome:
        """Compact it."""
        return compact.compact(self.config, DAY, **options)

    def add(self, lines: bytes) -> None:
        """Let lines come late."""
        with self.source.open("ab") as file:
            file.write(lines)

    @property
    def parts(self) -> list[str]:
        """The names of all that is in the day's folder."""
        return sorted(path.name for path in self.folder.iterdir())

    @property
    def lines(self) -> list[bytes]:
        """What readers of the data folder get, sorted."""
        found = pipeline.read_ticks(DAY, data_dir=self.data_dir, timezone=ZONE).collect()
        return sorted(encode_lines([tick]) for tick in to_ticks(found))


@pytest.fixture
def day(tmp_path: Path) -> Day:
    return Day(tmp_path)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a part be made of about a third of `LINES`, in several groups."""
    monkeypatch.setattr(part, "CHUNK_BYTES", len(LINES) // 12)
    monkeypatch.setattr(part, "GROUP_BYTES", len(LINES) // 6)
    monkeypatch.setattr(part, "PART_BYTES", len(LINES) // 3)


def test_a_day_becomes_parquet(day: Day) -> None:
    """All of it, and the JSONL stays."""
    outcome = day.compact()
    assert (outcome.result, outcome.ticks, outcome.new_ticks, outcome.parts) == ("compacted", 200, 200, 1)
    assert (outcome.bad_lines, outcome.torn_bytes, outcome.strays) == (0, 0, 0)
    assert outcome.jsonl_bytes == len(LINES) == day.source.stat().st_size
    assert outcome.parquet_bytes == sum(path.stat().st_size for path in parts(day.folder))
    assert day.lines == sorted(LINES.splitlines(keepends=True))
    assert list((day.config.state_dir / "compact").iterdir()) == []


def test_ways_to_name_what_was_compacted(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day's file or folder, or the folder of all days; each with the events of its day, which tell of snapshots."""
    first, again, repeat = (tick_at(FIRST + timedelta(minutes=10 * n), "ltp", seq=1 + n) for n in range(3))
    day.source.write_bytes(encode_lines([first, again, repeat]))
    stamp = (FIRST + timedelta(minutes=19)).isoformat(timespec="microseconds")
    event = encode_event("connected", stamp, {"connection_id": 1}, source="worker-1", epoch=EPOCH, event_seq=1)
    (day.data_dir / event_file_name(DAY)).write_bytes(event)
    day.compact(delete_source=True)
    monkeypatch.chdir(day.folder.parent)
    for source in (day.folder / "part-00000.parquet", day.folder, day.folder.parent, Path(day.folder.name)):
        assert pipeline.read_ticks(source, timezone=ZONE).collect()["seq"].to_list() == [1, 2, 3]
        assert pipeline.read_ticks(source, dedupe=True, timezone=ZONE).collect()["seq"].to_list() == [1, 2]
        assert [tick["seq"] for tick in pipeline.iter_ticks(source, timezone=ZONE)] == [1, 2, 3]


@pytest.mark.usefixtures("small_parts")
def test_a_large_day_has_parts_that_follow_each_other(day: Day) -> None:
    """Of several row groups each; the last says that it is."""
    outcome = day.compact()
    found = parquet.read_parts(day.folder)
    assert outcome.parts == len(found) > 2
    assert [p.footer.is_last for p in found] == [False] * (len(found) - 1) + [True]
    assert [p.footer.first for p in found] == [0, *(p.footer.end for p in found[:-1])]
    assert all(len(p.footer.groups) > 1 for p in found[:-1])
    lines = [p.footer.lines for p in found]
    assert [p.footer.line for p in found] == [1 + sum(lines[:n]) for n in range(len(lines))]
    assert day.lines == sorted(LINES.splitlines(keepends=True))
    runs = [s.runs for p in found for s in p.footer.streams]
    assert (runs[0][0][0], runs[-1][-1][1], all(len(some) == 1 for some in runs)) == (1, 200, True)


def test_again_there_is_nothing_to_do(day: Day) -> None:
    """What is there is not made again."""
    day.compact()
    before = {path: path.stat().st_mtime_ns for path in parts(day.folder)}
    outcome = day.compact()
    assert (outcome.result, outcome.ticks, outcome.new_ticks) == ("nothing new", 200, 0)
    assert {path: path.stat().st_mtime_ns for path in parts(day.folder)} == before


def test_late_ticks_become_another_part(day: Day) -> None:
    """Until then the day is read from the JSONL."""
    day.compact()
    late = some(201, 10)
    day.add(encode_lines(late))
    everything = sorted(encode_lines([*TICKS, *late]).splitlines(keepends=True))
    assert day.lines == everything
    outcome = day.compact()
    assert (outcome.result, outcome.ticks, outcome.new_ticks, outcome.parts) == ("compacted", 210, 10, 2)
    day.source.unlink()
    assert day.lines == everything


def test_ticks_that_come_after_the_jsonl_was_removed(day: Day) -> None:
    """They begin another JSONL under the same name: both are read, and both become parts of the day."""
    assert day.compact(delete_source=True).source_deleted
    late = some(201, 10)
    day.add(encode_lines(late))
    everything = sorted(encode_lines([*TICKS, *late]).splitlines(keepends=True))
    assert day.lines == everything
    iterated = list(pipeline.iter_ticks(DAY, data_dir=day.data_dir, timezone=ZONE))
    assert [tick["seq"] for tick in iterated] == list(range(1, 211))
    outcome = day.compact(delete_source=True)
    assert (outcome.new_ticks, outcome.source_deleted) == (10, True)
    assert day.lines == everything


def test_an_empty_file(tmp_path: Path) -> None:
    """A day without ticks is one, and its JSONL may go."""
    day = Day(tmp_path, b"")
    assert day.compact(delete_source=True).source_deleted
    assert day.lines == []
    assert day.compact().result == "JSONL is gone"


def test_a_jsonl_that_must_not_be_removed(day: Day, tmp_path: Path) -> None:
    """It is compacted all the same: a link stays, and what it points to."""
    elsewhere = tmp_path / "elsewhere.jsonl"
    day.source.rename(elsewhere)
    day.source.symlink_to(elsewhere)
    outcome = day.compact(delete_source=True)
    assert (outcome.result, outcome.ticks, outcome.source_deleted) == ("compacted", 200, False)
    assert "no regular file" in outcome.source_kept
    assert (day.source.is_symlink(), elsewhere.read_bytes()) == (True, LINES)


@pytest.mark.parametrize(("torn", "read"), [(1, 200), (100, 199)])
def test_a_torn_end_is_left_out(tmp_path: Path, torn: int, read: int) -> None:
    """What is whole is compacted; the JSONL stays and is what is read: a line that lacks its newline only is a tick."""
    day = Day(tmp_path, LINES[:-torn])
    outcome = day.compact(delete_source=True)
    assert (outcome.ticks, outcome.source_deleted) == (199, False)
    assert outcome.torn_bytes > 0
    assert "are no ticks" in outcome.source_kept
    assert len(day.lines) == read
    assert day.compact().result == "nothing new"


@pytest.mark.parametrize(
    "bad",
    [b"hello\n", b"\n", b"{}\n", b'"\xff"\n', b"x" * 5_000_000 + b"\n", LINES.splitlines()[0][:-4] + b"\n"],
    ids=["text", "empty", "object", "not utf-8", "endless", "cut"],
)
@pytest.mark.parametrize("at", [0, 100, 200])
@pytest.mark.usefixtures("small_parts")
def test_a_bad_line_is_named_and_stays(tmp_path: Path, bad: bytes, at: int) -> None:
    """The ticks around it are compacted; nothing removes the only copy of it."""
    lines = LINES.splitlines(keepends=True)
    lines.insert(at, bad)
    day = Day(tmp_path, b"".join(lines))
    outcome = day.compact(delete_source=True)
    assert (outcome.ticks, outcome.bad_lines, outcome.source_deleted) == (200, 1, False)
    assert [(b.place.line, b.place.offset) for b in outcome.named] == [(at + 1, len(b"".join(lines[:at])))]
    assert day.source.exists()
    assert day.lines == sorted(LINES.splitlines(keepends=True))
    assert day.compact().result == "nothing new"


def test_nothing_but_bad_lines(tmp_path: Path) -> None:
    """A part without rows says so."""
    day = Day(tmp_path, b"hello\n" * 30)
    outcome = day.compact(delete_source=True)
    assert (outcome.ticks, outcome.bad_lines, outcome.source_deleted) == (0, 30, False)
    assert len(outcome.named) < 30
    assert day.lines == []


def test_ticks_of_another_day_are_kept_and_told(tmp_path: Path) -> None:
    """They are ticks; but something is wrong with such a file."""
    day = Day(tmp_path)
    day.add(encode_lines([tick_at(FIRST + timedelta(days=1), seq=201)]))
    outcome = day.compact(delete_source=True)
    assert (outcome.ticks, outcome.strays, outcome.source_deleted) == (201, 1, False)
    assert "another day" in outcome.source_kept


def test_ticks_of_another_time_zone_are_refused(tmp_path: Path) -> None:
    """A column has instants, and would give them back in another zone than they were stored in."""
    day = Day(tmp_path, LINES.replace(b"+05:30", b"+05:00"))
    with pytest.raises(MdsError, match=r"storage\.timezone.*untouched"):
        day.compact()
    assert not day.folder.exists()
    assert list(day.work.iterdir()) == []


@pytest.mark.parametrize("ago", [0, 1], ids=["today", "tomorrow"])
def test_a_day_that_is_not_over_is_refused(day: Day, monkeypatch: pytest.MonkeyPatch, ago: int) -> None:
    """Its JSONL may grow."""
    first = closed.FirstOpen(DAY - timedelta(days=ago), "it is not over")
    monkeypatch.setattr(closed, "first_open", lambda _config: first)
    with pytest.raises(MdsError, match=r"not closed.*it is not over"):
        day.compact()
    assert not day.folder.exists()
    assert compact.closed_days(day.config) == []


def test_a_day_that_is_not_there(day: Day) -> None:
    """Said with the file that is missing."""
    with pytest.raises(MdsError, match="nothing was recorded"):
        compact.compact(day.config, DAY - timedelta(days=1))


def test_one_at_a_time(day: Day) -> None:
    """Two would write the same parts."""
    with (day.config.state_dir / COMPACT_LOCK).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunningError, match=COMPACT_LOCK):
            compact.lock(day.config)


def fail_at(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Callable[[], BaseException], at: int
) -> None:
    """Let a step fail when it is taken for the `at`th time."""
    step = getattr(owner, name)
    calls = [0]

    def take(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            raise error()
        return step(*arguments, **options)

    monkeypatch.setattr(owner, name, take)


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", "somewhere")


@pytest.mark.parametrize(
    "failing",
    [
        (parquet.Writer, "add", 1),
        (parquet.Writer, "add", 4),
        (parquet.Writer, "close", 2),
        (Path, "rename", 1),
        (compact, "sync_folder", 1),
    ],
)
@pytest.mark.usefixtures("small_parts")
def test_a_full_disk(day: Day, monkeypatch: pytest.MonkeyPatch, failing: tuple[Any, str, int]) -> None:
    """One clear line, no temporary file, the JSONL untouched; a later run goes on behind what was finished."""
    owner, name, at = failing
    with monkeypatch.context() as patched:
        fail_at(patched, owner, name, full_disk, at)
        with pytest.raises(MdsError, match=r"2025-10-01: cannot be compacted: somewhere: No space left.*goes on"):
            day.compact(delete_source=True)
    assert day.source.read_bytes() == LINES
    assert not day.folder.exists()
    assert [path.name for path in day.work.iterdir() if path.suffix != ".parquet"] == []
    finished = len(list(day.work.iterdir()))
    assert finished == (3 if owner in (Path, compact) else 0 if at == 1 else 1)
    outcome = day.compact(delete_source=True)
    assert (outcome.ticks, outcome.source_deleted) == (200, True)
    assert day.lines == sorted(LINES.splitlines(keepends=True))


def test_the_recorders_reserve_is_left(day: Day) -> None:
    """Compaction must not fill the disk under a running recorder."""
    config = day.config.with_changes(storage={"reserve_mb": 2**40})
    with pytest.raises(MdsError, match=r"storage\.reserve_mb"):
        compact.compact(config, DAY)
    assert not day.folder.exists()


def test_what_is_proved_otherwise_is_not_published(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written wrong by whatever fault: the part is thrown away and the JSONL untouched."""
    add = parquet.Writer.add
    monkeypatch.setattr(parquet.Writer, "add", lambda self, rows: add(self, rows.with_columns(rows["oi"] + 1)))
    with pytest.raises(MdsError, match=r"reads back as.*untouched"):
        day.compact(delete_source=True)
    assert not day.folder.exists()
    assert list(day.work.iterdir()) == []
    assert day.source.read_bytes() == LINES


def test_parts_of_an_earlier_run_are_proved_before_the_jsonl_goes(day: Day) -> None:
    """One that is damaged or does not fit any more: the JSONL stays."""
    day.compact()
    path = parts(day.folder)[0]
    data = path.read_bytes()
    other = LINES.replace(b"571.45", b"571.40")
    assert len(other) == len(LINES)
    line = LINES.index(b"\n") + 1
    day.source.write_bytes(LINES[:line] + other[line:])
    with pytest.raises(MdsError, match="is not what"):
        day.compact(delete_source=True)
    day.source.write_bytes(LINES)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(MdsError, match="cannot be read as a part"):
        day.compact(delete_source=True)
    path.write_bytes(data)
    assert day.compact(delete_source=True).source_deleted


def test_a_jsonl_that_grows_meanwhile_stays(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come is in no part."""
    prove = part.prove_part

    def slow(*arguments: Any) -> None:
        prove(*arguments)
        day.add(encode_lines(some(201, 1)))

    monkeypatch.setattr(compact, "prove_part", slow)
    assert "grown" in day.compact(delete_source=True).source_kept
    monkeypatch.undo()
    assert day.compact(delete_source=True).source_deleted
    assert len(day.lines) == 201


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_is_missing_is_told(day: Day) -> None:
    """Parts behind the hole are not taken for the whole, nor made twice."""
    day.compact()
    parts(day.folder)[1].unlink()
    assert len(day.lines) == 200
    with pytest.raises(MdsError, match="missing"):
        day.compact()


def test_rubbish_in_the_folder_of_work_is_cleared_away(day: Day) -> None:
    """What a killed run, an older program or somebody else has left there."""
    day.work.mkdir(parents=True)
    (day.work / "part-00000.parquet").write_bytes(b"rubbish")
    (day.work / "part-00001.new").write_bytes(b"half of it")
    day.compact()
    assert day.parts == ["part-00000.parquet"]


def test_the_removal_is_on_record(day: Day) -> None:
    """For those who would miss the file."""
    day.compact(delete_source=True)
    [line] = (day.config.state_dir / "removed.jsonl").read_text().splitlines()
    assert f'"{day.source.name}"' in line
    assert '"why":"compacted"' in line


@pytest.mark.usefixtures("small_parts")
def test_progress_comes_to_its_end(day: Day) -> None:
    """Each byte is read twice: to write it, and to prove it."""
    seen: list[tuple[int, int]] = []
    day.compact(on_progress=lambda done, all_: seen.append((done, all_)))
    assert seen == sorted(seen)
    assert seen[-1] == (2 * len(LINES), 2 * len(LINES))


def test_killed_at_any_moment_the_next_run_goes_on(in_memory: Callable[[], Path]) -> None:
    """Before each step in turn: a day is there whole or not at all, and after the next run nothing is missing."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.compact_killer", in_memory() / "data"],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
        env=os.environ | {"POLARS_MAX_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 12


def test_now_is_later_than_the_days_of_these_tests() -> None:
    """Else they would not be closed."""
    assert datetime.now(UTC).date() > DAY
