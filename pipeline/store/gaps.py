"""What could not be recorded, by the gap records of the event log, and what it has cost.

The cost of a gap is its seconds times its instruments: instrument-seconds. Where nobody knows when it began, it has
none, and is counted apart. Two connections that are interrupted at the same time have a gap each.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import MdsError
from pipeline.files import event_file_name
from pipeline.store.files import GapEvent, event_files, read_events, require_folder
from pipeline.store.format import require_known


@dataclass
class Total:
    """Several gaps."""

    gaps: int = 0
    seconds: float = 0.0
    instrument_seconds: float = 0.0
    unknown: int = 0  # gaps of which nobody knows how long they were, and not in the sums

    def add(self, gap: GapEvent) -> None:
        """Count one more."""
        self.gaps += 1
        self.unknown += seconds(gap) is None
        self.seconds = round(self.seconds + (seconds(gap) or 0.0), 6)
        self.instrument_seconds = round(self.instrument_seconds + (instrument_seconds(gap) or 0.0), 6)


def read(data_dir: Path, day: date | None = None) -> list[GapEvent]:
    """Return the gaps of all days or those recorded on one, which may have begun before, as they were recorded.

    Raises MdsError where nothing was recorded: that is not the same as no gaps, or where a newer version has recorded.
    OSError where a file cannot be read.
    """
    require_folder(data_dir)
    paths = [path for path in event_files(data_dir) if day is None or path.name == event_file_name(day)]
    if not paths:
        name = event_file_name(day) if day else "events_YYYY-MM-DD.jsonl"
        raise MdsError(f"{data_dir}: nothing was recorded{f' on {day}' if day else ''}, there is no {name}")
    require_known({data_dir}, paths)
    found = [event for path in paths for event in read_events(path) if isinstance(event, GapEvent)]
    return sorted(found, key=lambda gap: gap.timestamp)


def seconds(gap: GapEvent) -> float | None:
    """Return how long a gap was; None where nobody knows."""
    return gap.seconds if gap.since and gap.until else None


def instrument_seconds(gap: GapEvent) -> float | None:
    """Return what a gap has cost; None where nobody knows."""
    lasted = seconds(gap)
    return None if lasted is None else round(lasted * len(gap.instruments), 6)


def totals(gaps: Iterable[GapEvent]) -> tuple[Total, dict[str, Total]]:
    """Return the sums over all, and by cause."""
    total: Total = Total()
    by_cause: dict[str, Total] = {}
    for gap in gaps:
        total.add(gap)
        by_cause.setdefault(gap.cause, Total()).add(gap)
    return total, dict(sorted(by_cause.items()))


def to_json(gaps: Iterable[GapEvent]) -> dict[str, Any]:
    """Return gaps and sums for `--json`, with times as they stand in the event log."""
    listed = list(gaps)
    total, by_cause = totals(listed)
    return {
        "gaps": [_one(gap) for gap in listed],
        "totals": asdict(total) | {"by_cause": {cause: asdict(some) for cause, some in by_cause.items()}},
    }


def _one(gap: GapEvent) -> dict[str, Any]:
    return {
        "connection_id": gap.connection_id,
        "epoch": gap.epoch,
        "from": _stamp(gap.since),
        "to": _stamp(gap.until),
        "seconds": seconds(gap),
        "cause": gap.cause,
        "instruments": gap.instruments,
        "instrument_seconds": instrument_seconds(gap),
        "gap_epoch": gap.gap_epoch,
        "first_seq": gap.first_seq,
        "last_seq": gap.last_seq,
    }


def _stamp(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="microseconds") if moment else None
