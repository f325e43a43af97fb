"""Short lines, batches, settings and models for tests."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pipeline.config import Config, Runtime, Storage
from pipeline.events import encode_event, source_of
from pipeline.records import Record
from pipeline.wire import Header, Mark

ZONE = "Asia/Kolkata"
T0_NS = 1_759_290_000_000_000_000  # 2025-10-01 09:10:00 +05:30
DAY = date(2025, 10, 1)
EPOCH = T0_NS // 1_000_000


def a_config(folder: Path, *, spool_max_mb: int = 64, timezone: str = ZONE) -> Config:
    """Return settings whose folders all lie in `folder`."""
    storage = Storage(data_dir=folder / "data", spool_max_mb=spool_max_mb, timezone=timezone)
    return Config(storage=storage, runtime=Runtime(run_dir=folder / "run")).resolved()


def tick_line(seq: int, *, connection_id: int = 1, epoch: int = EPOCH) -> bytes:
    """Return a line that ends as a tick does; lengths differ."""
    filler = "x" * (seq % 7)
    return f'{{"filler":"{filler}","connection_id":{connection_id},"epoch":{epoch},"seq":{seq}}}\n'.encode()


def tick_lines(first: int, last: int, *, connection_id: int = 1, epoch: int = EPOCH) -> bytes:
    """Return the lines of the ticks `first` to `last`."""
    return b"".join(tick_line(seq, connection_id=connection_id, epoch=epoch) for seq in range(first, last + 1))


def event_line(event_seq: int, *, connection_id: int = 1, epoch: int = EPOCH, event: str = "note") -> bytes:
    """Return the line of an event."""
    source = source_of(connection_id)
    return encode_event(event, "2025-10-01T09:10:00.000000+05:30", {}, source=source, epoch=epoch, event_seq=event_seq)


def encode_frames(connection_id: int, epoch: int, frames: Sequence[Record]) -> bytes:
    """Return the tick lines of spooled frames."""
    return b"".join(
        tick_lines(r.first_seq, r.first_seq + r.numbered - 1, connection_id=connection_id, epoch=epoch) for r in frames
    )


def a_batch(
    ticks: tuple[int, int] = (1, 0),
    events: tuple[int, int] = (1, 0),
    *,
    after: Mark | None = None,
    connection_id: int = 1,
    epoch: int = EPOCH,
    oldest_epoch: int | None = None,
    day: date = DAY,
) -> tuple[Header, bytes, bytes]:
    """Return the batch with the ticks and events of these numbers, both ends included; (n, n - 1) is none."""
    first = Mark(ticks[0], events[0])
    header = Header(
        connection_id=connection_id,
        day=day,
        epoch=epoch,
        oldest_epoch=epoch if oldest_epoch is None else oldest_epoch,
        after=after or Mark(first.seq - 1, first.event_seq - 1),
        first=first,
        tick_count=ticks[1] - ticks[0] + 1,
        event_count=events[1] - events[0] + 1,
    )
    lines = tick_lines(*ticks, connection_id=connection_id, epoch=epoch)
    event_lines = b"".join(
        event_line(n, connection_id=connection_id, epoch=epoch) for n in range(events[0], events[1] + 1)
    )
    return header, lines, event_lines


def partly(model: Any, **fields: Any) -> Any:
    """Return a pydantic model that has only these fields, unchecked."""
    return model.model_construct(**fields)
