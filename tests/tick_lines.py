"""Lines of tick files as the recorder writes them, for tests of what reads them back."""

from datetime import UTC, datetime, timedelta, timezone

from pipeline.ticks import Depth as Levels
from pipeline.ticks import DepthLevel, FullTick, LtpTick, Ohlc, QuoteTick, StoredTick, encode_lines
from tests.builders import EPOCH, T0_NS

KOLKATA = timezone(timedelta(hours=5, minutes=30))
INFY, RELIANCE = 408065, 738561
OHLC = Ohlc(1500.0, 1520.0, 1490.0, 1496.5)


def time_of(seq: int) -> str:
    """Return the receive time of a tick: the first of a stream comes at 09:10:00, then one a second."""
    moment = datetime.fromtimestamp(T0_NS // 10**9, UTC) + timedelta(seconds=seq - 1)
    return moment.astimezone(KOLKATA).isoformat(timespec="microseconds")


def ltp(seq: int, token: int = INFY, *, connection_id: int = 1, epoch: int = EPOCH, timestamp: str = "") -> bytes:
    """Return the line of a tick in ltp mode, newline included; lengths differ."""
    return _line(LtpTick(True, token, 1500.0 + seq / 7, timestamp or time_of(seq), connection_id, epoch, seq))


def quote(seq: int, token: int = INFY, *, connection_id: int = 1, epoch: int = EPOCH) -> bytes:
    """Return the line of a tick in quote mode."""
    trade = (5, 1499.25, 1_234_567, 100, 200)
    return _line(QuoteTick(True, token, 1504.35, *trade, OHLC, 0.5245, time_of(seq), connection_id, epoch, seq))


def full(seq: int, token: int = RELIANCE, *, connection_id: int = 2, epoch: int = EPOCH) -> bytes:
    """Return the line of a tick in full mode."""
    depth = Levels(
        tuple(DepthLevel(100 + n, 1504.3 - n, n + 1) for n in range(5)),  # type: ignore[arg-type]
        tuple(DepthLevel(50 + n, 1504.4 + n, n + 1) for n in range(5)),  # type: ignore[arg-type]
    )
    trade = (5, 1499.25, 1_234_567, 100, 200)
    times = ("2025-10-01T09:10:00+05:30", 0, 0, 0, "2025-10-01T09:10:00+05:30")
    return _line(
        FullTick(True, token, 1504.35, *trade, OHLC, 0.5245, *times, depth, time_of(seq), connection_id, epoch, seq)
    )


def _line(tick: StoredTick) -> bytes:
    return encode_lines([tick])
