"""What a connection writes into the event log, and says to people in the same moment."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.config import Mode
from pipeline.days import NS_PER_S
from pipeline.gaps import Gap
from pipeline.kite.feed import StateChange, TextMessage
from pipeline.kite.packets import Reject
from pipeline.uplink import Uplink
from pipeline.wire import by_mode

log = logging.getLogger(__name__)

REJECTS_EACH = 20  # of one frame, in an event of their own
REJECT_BYTES = 2**18  # of the others, in one
TEXT_EVENTS = {"order": "order_update", "error": "kite_error"}


class Logbook:
    """The events of one connection. What each of them has is listed in `events`."""

    def __init__(self, uplink: Uplink, connection_id: int) -> None:
        self.rejected = 0  # parts of frames that were no packets
        self.reconnects = 0  # sockets opened again after one was lost
        self.gap_count = 0  # gap records
        self._uplink = uplink
        self._connection_id = connection_id
        self._stamp = uplink.calendar.timestamp
        self._told: dict[int, Mode] | None = None  # the subscription on this socket, as far as it is on record
        self._was_lost = False  # a socket, since the last one was opened
        self._rejects_told_ns = 0  # when people last heard of them

    def log(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write one event."""
        self._uplink.log_event(event, {"connection_id": self._connection_id, **fields})

    def text(self, message: TextMessage) -> None:
        """Write down a text message."""
        known = TEXT_EVENTS.get(message.kind)
        if known:
            self.log(known, {"data": message.data})
        else:
            content = {"text": message.text} if message.data is None else {"data": message.data}
            self.log("kite_message", {"type": message.kind, **content})

    def connected(self) -> None:
        """Begin with a new socket."""
        self._told = None
        self.reconnects += self._was_lost
        self._was_lost = False
        self.log("connected", {})

    def ended(self, change: StateChange, *, was_live: bool) -> None:
        """Write down how a socket, or the attempt to have one, has ended."""
        self._was_lost = self._was_lost or was_live
        fields = {"cause": change.cause, "reason": change.reason, "retry_in_s": change.retry_in_s}
        optional = {"http_status": change.http_status, "close_code": change.close_code}
        known = {key: value for key, value in optional.items() if value is not None}
        self.log("disconnected" if was_live else "not_connected", fields | known)
        level, retry = logging.WARNING, "next try at once"
        if change.retry_in_s is None:
            level, retry = logging.ERROR, "no further try"
        elif change.retry_in_s:
            retry = f"next try in {change.retry_in_s:.1f} s"
        log.log(level, "%s: %s; %s", change.cause, change.reason, retry)

    def subscribed(self, wanted: Mapping[int, Mode]) -> None:
        """Write down what Kite sends from now on, or what is different of it."""
        before, self._told = self._told, dict(wanted)
        if before is None and wanted:
            self.log("subscribed", {"instruments": by_mode(wanted)})
            log.info("subscribed to %d instruments", len(wanted))
        elif before is not None:
            changed = {token: mode for token, mode in wanted.items() if before.get(token) != mode}
            dropped = [token for token in before if token not in wanted]
            if changed or dropped:
                self.log("resubscribed", {"instruments": by_mode(changed), "dropped": dropped})

    def unsubscribed(self) -> None:
        """Write down that Kite sends nothing from now on, unless that is on record."""
        if self._told:
            self.subscribed({})

    def returning(self, tokens: Iterable[int]) -> None:
        """Write down that these had left this socket, as they are subscribed there anew, unless that is on record."""
        told = self._told or {}
        returning = told.keys() & tokens
        if returning:
            self.subscribed({token: mode for token, mode in told.items() if token not in returning})

    def gaps(self, gaps: Iterable[Gap]) -> None:
        """Write down what was missed."""
        for gap in gaps:
            self.gap(gap)

    def gap(self, gap: Gap, **fields: Any) -> None:
        """Write down one gap, with more fields."""
        self.gap_count += 1
        record = {
            "instruments": list(gap.instruments),
            "from": self._stamp(gap.from_ns) if gap.from_ns else None,
            "to": self._stamp(gap.to_ns),
            "cause": gap.cause,
        }
        self.log("gap", record | fields)
        how_long = f"for {(gap.to_ns - gap.from_ns) / NS_PER_S:.3f} s" if gap.from_ns else "for an unknown time"
        log.warning("gap: %d instruments were not recorded %s (%s)", len(gap.instruments), how_long, gap.cause)

    def rejects(self, recv_ns: int, rejects: Sequence[Reject]) -> None:
        """Keep what is no packet; of a frame with many of them, the later ones in one event."""
        self.rejected += len(rejects)
        received = self._stamp(recv_ns)
        for reject in rejects[:REJECTS_EACH]:
            fields = {"received": received, "offset": reject.offset, "reason": reject.reason, "raw": reject.raw.hex()}
            self.log("reject", fields)
        if rest := rejects[REJECTS_EACH:]:
            raw = b"".join(reject.raw for reject in rest)[:REJECT_BYTES]
            fields = {"received": received, "offset": rest[0].offset, "reason": f"{len(rest)} more", "raw": raw.hex()}
            self.log("reject", fields)
        if recv_ns >= self._rejects_told_ns + NS_PER_S:
            self._rejects_told_ns = recv_ns
            log.warning("%d parts of frames were no packets by now, they are in the event log", self.rejected)
