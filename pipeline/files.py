"""The day files in the data folder, and what lies in its state folder: the only place that knows their names."""

import re
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import NamedTuple

from pipeline.durable import replace_durably
from pipeline.errors import ConfigError, FormatError

FORMAT = 1  # of all that is recorded; `events` says what another one would be
WRITTEN_FORMAT = "format"  # in the state folder: the newest in which something may be there; without it, 1
WRITER_LOCK = "writer.lock"  # in the state folder: a data folder has one writer, whatever run folder it belongs to
SERVICE_LOCK = "service.lock"  # likewise one service
CHECKPOINT = "checkpoint.json"  # likewise; the writer's
COUNTS = "counts.json"  # likewise: of the files that the checkpoint names no more
COUNTED = "counted.json"  # what readers have counted
REMOVED = "removed.jsonl"  # what was removed on purpose
COMPACT_LOCK = "compact.lock"  # one process makes Parquet
COMPACTING = "compact"  # folder in the state folder: parts of days that are being made
INSTRUMENTS = "instruments.json"  # likewise: where the latest list of instruments has come from
INSTRUMENTS_LOCK = "instruments.lock"  # one process fetches it
DATA_FILE = re.compile(r"(market_data|events)_(\d{4}-\d{2}-\d{2})\.jsonl")
INSTRUMENTS_FILE = re.compile(r"instruments_(\d{4}-\d{2}-\d{2})\.csv(\.gz|\.zst)?")


def claim_format(state_dir: Path) -> None:
    """Write to this folder in our format from now on. Raises FormatError where a newer one was in use.

    Whoever writes to a spool or a data file calls this first: what it does not know, it would take for damage.
    """
    written = written_format(state_dir)
    if written > FORMAT:
        raise newer_format(state_dir.parent, written)
    if written < FORMAT:
        try:
            replace_durably(state_dir / WRITTEN_FORMAT, b"%d\n" % FORMAT)
        except OSError as error:
            raise ConfigError(f"{state_dir / WRITTEN_FORMAT}: {error.strerror}") from None


def written_format(state_dir: Path) -> int:
    """Return the newest format in which something may be in the folder of this state folder."""
    with suppress(OSError, ValueError):
        return int((state_dir / WRITTEN_FORMAT).read_bytes())
    return 1


def newer_format(path: Path, found: int) -> FormatError:
    """Return the error that says so."""
    return FormatError(
        f"{path}: recorded in format {found} by a newer version; this one knows formats up to {FORMAT}, and has left "
        "it as it is: use the version that recorded it, or a newer one"
    )


class Extent(NamedTuple):
    """How far a file goes: the first `bytes` of it have `lines` newlines, foreign lines among them; None: unknown."""

    bytes: int
    lines: int | None


def tick_file_name(day: date) -> str:
    """Return the name of the file with the ticks received on `day`."""
    return f"market_data_{day.isoformat()}.jsonl"


def is_tick_file_name(name: str) -> bool:
    """Tell a tick file from an event file by its name."""
    return name.startswith("market_data_")


def parquet_folder(data_dir: Path, day: date) -> Path:
    """Return the folder with the ticks received on `day` as Parquet; `date=` is what engines read a partition from."""
    return data_dir / "parquet" / f"date={day.isoformat()}"


def event_file_name(day: date) -> str:
    """Return the name of the file with the events of `day`."""
    return f"events_{day.isoformat()}.jsonl"


def instruments_file_name(day: date) -> str:
    """Return the name of the file with Kite's list of instruments of `day`, as it is written."""
    return f"instruments_{day.isoformat()}.csv.zst"
