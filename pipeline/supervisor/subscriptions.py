"""Who is subscribed where. Pure.

Connection 1 is the primary and has what is wanted in ltp or quote mode, connection 2 the secondary and has what is
wanted in full mode, connection 3 the spare and has nothing. With fewer connections to use, the primary has it all.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pipeline.config import MAX_INSTRUMENTS, Mode, Universe

PRIMARY, SECONDARY, TERTIARY = 1, 2, 3

ROLES: dict[int, Literal["primary", "secondary", "tertiary"]] = {1: "primary", 2: "secondary", 3: "tertiary"}
MODES: dict[int, Mode] = {PRIMARY: "quote", SECONDARY: "full", TERTIARY: "quote"}


class Refusal(NamedTuple):
    """A token that was not subscribed, and why."""

    token: int
    reason: str


@dataclass
class Subscriptions:
    """Instruments and their modes, by connection."""

    max_connections: int
    by_connection: dict[int, dict[int, Mode]] = field(default_factory=dict)

    def connection_for(self, mode: Mode) -> int:
        """Return the connection that instruments of this mode belong to."""
        return SECONDARY if mode == "full" and self.max_connections >= SECONDARY else PRIMARY

    def find(self, token: int) -> int | None:
        """Return the connection that has this instrument."""
        return next((c for c, instruments in self.by_connection.items() if token in instruments), None)

    def add(self, tokens: Iterable[int], mode: Mode) -> list[Refusal]:
        """Subscribe each token once; return those that could not be."""
        connection_id = self.connection_for(mode)
        instruments = self.by_connection.setdefault(connection_id, {})
        refusals = []
        for token in dict.fromkeys(tokens):
            elsewhere = self.find(token)
            if elsewhere is not None:
                has_mode = self.by_connection[elsewhere][token]
                refusals.append(Refusal(token, f"already on connection {elsewhere} in {has_mode} mode"))
            elif len(instruments) >= MAX_INSTRUMENTS:
                refusals.append(Refusal(token, f"connection {connection_id} is full"))
            else:
                instruments[token] = mode
        return refusals

    def add_universe(self, universe: Universe) -> list[Refusal]:
        """Subscribe what the configuration wants at start."""
        return self.add(universe.primary, "quote") + self.add(universe.secondary, "full")

    def of(self, connection_id: int) -> dict[int, Mode]:
        """Return what this connection should have."""
        return self.by_connection.get(connection_id, {})

    @property
    def total(self) -> int:
        """How many instruments are subscribed."""
        return sum(map(len, self.by_connection.values()))


SESSION_S = 6.25 * 3600  # 09:15 to 15:30
LINE_BYTES: dict[Mode, int] = {"ltp": 200, "quote": 460, "full": 1580}  # of a typical stored line


def bytes_a_day(subscriptions: Subscriptions, ticks_per_second: float) -> int:
    """Return what a session costs on disk when each instrument ticks so often."""
    modes = [mode for instruments in subscriptions.by_connection.values() for mode in instruments.values()]
    return int(sum(LINE_BYTES[mode] for mode in modes) * SESSION_S * ticks_per_second)
