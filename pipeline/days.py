"""Days and timestamps in the storage time zone: nanoseconds since the epoch in, dates and ISO 8601 text out."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
_CACHE_MAX = 100_000  # seconds kept as text: more than a trading day has


class Calendar:
    """Dates and timestamps of one time zone, with what is asked often kept at hand.

    Not thread-safe; one for each thread.
    """

    def __init__(self, timezone: str) -> None:
        self.zone = ZoneInfo(timezone)
        self._day = date.min
        self._day_from_ns = 0  # [from, to) of the day asked for last
        self._day_to_ns = 0
        self._seconds: dict[int, str | None] = {0: None}
        self._receive_s = -1
        self._receive_prefix = ""
        self._receive_offset = ""

    def day_of(self, recv_ns: int) -> date:
        """Return the date on which `recv_ns` (nanoseconds since the epoch) falls here."""
        if not self._day_from_ns <= recv_ns < self._day_to_ns:
            self._day = datetime.fromtimestamp(recv_ns // NS_PER_S, self.zone).date()
            self._day_from_ns = self._midnight_ns(self._day)
            self._day_to_ns = self._midnight_ns(self._day + timedelta(days=1))
        return self._day

    def timestamp(self, recv_ns: int) -> str:
        """Return `recv_ns` as `2025-10-01T09:15:23.123456+05:30`."""
        seconds, rest_ns = divmod(recv_ns, NS_PER_S)
        if seconds != self._receive_s:
            text = datetime.fromtimestamp(seconds, self.zone).isoformat()
            self._receive_s, self._receive_prefix, self._receive_offset = seconds, text[:19], text[19:]
        return f"{self._receive_prefix}.{rest_ns // 1000:06d}{self._receive_offset}"

    def second(self, seconds: int) -> str | None:
        """Return Unix `seconds` as `2025-10-01T09:15:23+05:30`, and the wire's 0 (no time known) as None."""
        try:
            return self._seconds[seconds]
        except KeyError:
            if len(self._seconds) >= _CACHE_MAX:
                self._seconds = {0: None}
            text = self._seconds[seconds] = datetime.fromtimestamp(seconds, self.zone).isoformat()
            return text

    def now(self) -> datetime:
        """Return the wall clock's time here."""
        return datetime.now(self.zone)

    def _midnight_ns(self, day: date) -> int:
        midnight = datetime(day.year, day.month, day.day, tzinfo=self.zone).astimezone(UTC)
        return int(midnight.timestamp()) * NS_PER_S
