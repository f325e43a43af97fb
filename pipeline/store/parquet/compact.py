"""Making Parquet of a closed day's JSONL, part by part: `mds compact`.

Parts are made in the state folder, each under a temporary name: written, made durable, read back and proved against the
JSONL tick for tick, and only then called by its name. When all parts of the day are there, their folder is moved to
where readers look, so a day appears whole or not at all. Killed at any moment, the next run goes on behind the last
part that has its name.

What came to the JSONL after that, late ticks, becomes further parts of the day. The JSONL is removed only if asked for,
and only if every byte of it is a tick in a part that has just been proved.

Memory: a few times `GROUP_BYTES`, whatever the size of the day.
"""

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final, Literal

from pipeline import role
from pipeline.config import Config
from pipeline.durable import sync_folder
from pipeline.errors import MdsError
from pipeline.files import COMPACT_LOCK, COMPACTING, event_file_name, parquet_folder, tick_file_name
from pipeline.store.bad import BadLine
from pipeline.store.files import Place, date_of, tick_files
from pipeline.store.format import require_known
from pipeline.store.keeping import closed
from pipeline.store.keeping.removal import remove
from pipeline.store.parquet.files import is_part
from pipeline.store.parquet.io import Part, chain, head_of, read_footer, read_parts
from pipeline.store.parquet.part import PART_BYTES, Source, prove_part, write_part
from pipeline.store.seek import end_of_lines

LEAST_RATIO: Final = 4  # a part is at most this share of its JSONL, as far as room is made sure of
BAD_NAMED: Final = 20  # of a day; all are counted

Result = Literal["compacted", "nothing new", "JSONL is gone"]
Progress = Callable[[int, int], None]  # bytes read so far, and bytes to read in all


@dataclass
class Outcome:
    """What became of a day."""

    day: date
    result: Result
    ticks: int = 0  # in all its parts
    jsonl_bytes: int = 0
    parquet_bytes: int = 0
    parts: int = 0
    new_ticks: int = 0  # of this run
    seconds: float = 0.0
    bad_lines: int = 0
    torn_bytes: int = 0  # behind the last whole line
    strays: int = 0  # ticks of another day
    named: list[BadLine] = field(default_factory=list)
    source_deleted: bool = False
    source_kept: str = ""  # why, where it was to be deleted

    def to_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        values = {name: value for name, value in vars(self).items() if name not in ("day", "named")}
        return {"date": self.day.isoformat(), **values, "bad": [str(bad) for bad in self.named]}


def closed_days(config: Config) -> list[date]:
    """Return the days that have a JSONL and are closed, oldest first."""
    first = closed.first_open(config)
    return [day for path in tick_files(config.storage.data_dir) if (day := date_of(path)) and day < first.day]


def lock(config: Config) -> role.Lock:
    """Claim the data folder for compacting. Raises AlreadyRunningError where another process does it."""
    role.make_folder("storage.data_dir", config.state_dir)
    found = role.Lock(config.state_dir / COMPACT_LOCK)
    found.acquire(config.hash)
    return found


def compact(
    config: Config, day: date, *, delete_source: bool = False, on_progress: Progress = lambda _done, _all: None
) -> Outcome:
    """Make Parquet of what a day's JSONL has and its parts have not. The caller holds the `lock`.

    Raises MdsError, with nothing lost or half done, where the day is not closed, there is no room, a part is damaged,
    or what was written does not read back as it should.
    """
    began_s = time.monotonic()
    work = _Work(config, day, on_progress)
    try:
        outcome = work.run(delete_source=delete_source)
    except OSError as error:
        where = error.filename or work.folder
        raise MdsError(
            f"{day}: cannot be compacted: {where}: {error.strerror or error}; the JSONL is untouched, and the next "
            "mds compact goes on from here"
        ) from None
    outcome.seconds = time.monotonic() - began_s
    return outcome


class _Work:
    """The compaction of one day."""

    def __init__(self, config: Config, day: date, on_progress: Progress) -> None:
        self._config = config
        self._day = day
        self._on_progress = on_progress
        self._source = config.storage.data_dir / tick_file_name(day)
        self._published = parquet_folder(config.storage.data_dir, day)
        self.folder = config.state_dir / COMPACTING / self._published.name
        self._read_bytes = self._to_read_bytes = 0
        self._proved: set[str] = set()  # names of the parts that were proved in this run

    def run(self, *, delete_source: bool) -> Outcome:
        first_open = closed.first_open(self._config)
        if first_open.day <= self._day:
            raise MdsError(f"{self._day}: is not closed, and only closed days are compacted: {first_open.why}")
        events = self._source.with_name(event_file_name(self._day))
        require_known({self._source.parent}, [events] if events.exists() else [])
        try:
            size = self._source.stat().st_size
        except FileNotFoundError:
            return self._without_source()
        end = end_of_lines(self._source, size)
        timezone = self._config.storage.timezone
        source = Source(self._source, self._day, timezone, head_of(self._source), end)
        known = self._known(source.head)
        made = self._resume(source.head, known)
        resumed = len(made)
        self._to_read_bytes = self._reading(known + made, end, delete_source=delete_source)
        while not (known or made) or (known + made)[-1].footer.end < end:
            made.append(self._make(source, known + made))
        self._publish(made)
        found = known + [Part(self._published / part.path.name, part.footer) for part in made]
        outcome = self._outcome(found, size, end)
        if made:
            outcome.result = "compacted"
            outcome.new_ticks = sum(part.footer.ticks for part in made[resumed:])
        if delete_source:
            outcome.source_kept = self._delete_source(found, outcome)
            outcome.source_deleted = not outcome.source_kept
        return outcome

    def _without_source(self) -> Outcome:
        found = read_parts(self._published)
        if not found:
            raise MdsError(f"{self._day}: nothing was recorded, there is no {self._source}")
        ticks = sum(part.footer.ticks for part in found)
        return Outcome(self._day, "JSONL is gone", ticks, 0, _bytes(found), len(found))

    def _reading(self, there: list[Part], end: int, *, delete_source: bool) -> int:
        """Return how many bytes of JSONL have to be read."""
        done = there[-1].footer.end if there else 0
        return 2 * (end - done) + (done if delete_source else 0)

    def _read(self, count: int) -> None:
        self._read_bytes += count
        self._on_progress(self._read_bytes, self._to_read_bytes)

    def _outcome(self, found: list[Part], size: int, end: int) -> Outcome:
        footers = [part.footer for part in found]
        named = [BadLine(Place(self._source, bad.line, bad.offset), bad.why) for one in footers for bad in one.named]
        return Outcome(
            self._day,
            "nothing new",
            ticks=sum(footer.ticks for footer in footers),
            jsonl_bytes=size,
            parquet_bytes=_bytes(found),
            parts=len(found),
            bad_lines=sum(footer.bad for footer in footers),
            torn_bytes=size - end,
            strays=sum(footer.strays for footer in footers),
            named=named[:BAD_NAMED],
        )

    # What is there already.

    def _known(self, head: str) -> list[Part]:
        """Return the published parts of this JSONL."""
        found = read_parts(self._published)
        chained = chain(found, head)
        if len(chained) < sum(part.footer.head == head for part in found):
            raise MdsError(
                f"{self._published}: a part of the day is missing, or there twice; remove the folder and run mds "
                f"compact {self._day} again, {self._source.name} has it all"
            )
        return chained

    def _resume(self, head: str, known: list[Part]) -> list[Part]:
        """Return the parts that an earlier run has finished and not published; clear away what else it has left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        found = []
        for path in sorted(self.folder.iterdir()):
            if is_part(path) and not (self._published / path.name).exists():
                try:
                    found.append(Part(path, read_footer(path)))
                    continue
                except MdsError:  # damaged, or of another version: it is made again
                    pass
            path.unlink()
        made = chain([*known, *found], head)[len(known) :]
        for part in found:
            if part not in made:
                part.path.unlink()
        return made

    # A part.

    def _make(self, source: Source, before: list[Part]) -> Part:
        """Write the part that follows those before, and prove it."""
        last = before[-1].footer if before else None
        start = Place(self._source, last.line + last.lines, last.end) if last else Place(self._source, 1, 0)
        self._make_sure_of_room(min(source.end - start.offset, PART_BYTES) // LEAST_RATIO)
        path = self.folder / f"part-{_next_number(self._published, self.folder):05}.parquet"
        temporary = path.with_suffix(".new")
        try:
            footer = write_part(temporary, source, start, self._read)
            prove_part(Part(temporary, footer), self._source, self._read)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._proved.add(path.name)
        return Part(path, footer)

    def _make_sure_of_room(self, part_bytes: int) -> None:
        """Leave the recorder its reserve: where that is gone it stops storing."""
        needed_mb = self._config.storage.reserve_mb + part_bytes // 2**20
        free_mb = shutil.disk_usage(self.folder).free // 2**20
        if free_mb < needed_mb:
            raise MdsError(
                f"{self._day}: cannot be compacted: {self.folder} has {free_mb:,} MB free, and {needed_mb:,} MB are "
                "needed, storage.reserve_mb among them; make room, the next mds compact goes on from here"
            )

    # The day.

    def _publish(self, made: list[Part]) -> None:
        """Let readers see the parts."""
        sync_folder(self.folder)
        if not self._published.exists():
            self._published.parent.mkdir(exist_ok=True)
            sync_folder(self._published.parent.parent)
            self.folder.rename(self._published)
        else:
            for part in made:
                part.path.rename(self._published / part.path.name)
            sync_folder(self._published)
            self.folder.rmdir()
        sync_folder(self._published.parent)

    def _delete_source(self, found: list[Part], outcome: Outcome) -> str:
        """Remove the JSONL if all of it is in the parts; return why it stays."""
        if outcome.bad_lines or outcome.torn_bytes:
            what = f"{outcome.bad_lines:,} lines" if outcome.bad_lines else f"the last {outcome.torn_bytes:,} bytes"
            return f"{what} of it are no ticks, and nowhere else"
        if outcome.strays:
            return f"{outcome.strays:,} ticks of it are of another day: mds verify names them"
        for part in found:
            if part.path.name not in self._proved:
                prove_part(part, self._source, self._read)
        size = self._source.stat().st_size
        if size != outcome.jsonl_bytes:
            return f"it has grown by {size - outcome.jsonl_bytes:,} bytes meanwhile"
        try:
            remove(self._source, closed.first_open(self._config), "compacted", outcome.ticks)
        except MdsError as error:
            return str(error)
        return ""


def _bytes(found: Iterable[Part]) -> int:
    return sum(part.path.stat().st_size for part in found)


def _next_number(*folders: Path) -> int:
    names = (path.stem for folder in folders if folder.is_dir() for path in folder.iterdir() if is_part(path))
    return max((int(name.removeprefix("part-")) for name in names), default=-1) + 1
