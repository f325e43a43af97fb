"""Faults on request: what can be asked for, when each is in force, and how a message is damaged. Pure.

    KIND[=VALUE][:CONNECTION][@START][+DURATION]       silence:1@5   abort:2@10   malformed=50   refuse=429@0+30

`silence` sends nothing more, `abort` drops the TCP connection without a closing handshake, `malformed` damages every
VALUE-th message (default 100), `refuse` answers connects with HTTP VALUE (default 403), `profile` does the same to the
REST API's GET /user/profile. CONNECTION is a number (1, 2, 3 ... in order of acceptance) or * for all, the default.
START is in seconds after the simulator's, DURATION in seconds; without one a fault stays. All times here are seconds
since the start of the simulator.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.errors import ConfigError

KINDS: Final = ("silence", "abort", "malformed", "refuse", "profile")
STATUSES: Final = {"refuse": (403, 429), "profile": (403, 429, 503)}  # of those that are not about a connection
_VALUE_NAMES: Final = {"malformed": "every", "refuse": "status", "profile": "status"}
_DEFAULT_VALUES: Final = {"malformed": 100, "refuse": 403, "profile": 403}
_REFUSED: Final = {"refuse": "a connect", "profile": "a profile"}
_GRAMMAR: Final = re.compile(
    r"(?P<do>[a-z]+)(=(?P<value>[^:@+]*))?(:(?P<connection>[^@+]*))?(@(?P<after>[^+]*))?(\+(?P<for>.*))?"
)
_FORM: Final = "KIND[=VALUE][:CONNECTION][@START][+DURATION], like silence:1@5"

# Texts that are valid JSON and no message, and one that is no JSON.
ODD_TEXTS: Final = ("[]", "null", '"x"', '{"type": "error", "da')


@dataclass(frozen=True)
class Fault:
    """One fault; `connection` None is all of them, `end_s` None is never."""

    kind: str
    value: int
    connection: int | None
    start_s: float
    end_s: float | None

    def __str__(self) -> str:
        value = f"={self.value}" if self.kind in _DEFAULT_VALUES else ""
        connection = "" if self.kind in STATUSES else f":{self.connection or '*'}"
        duration = "" if self.end_s is None else f"+{self.end_s - self.start_s:g}"
        return f"{self.kind}{value}{connection}@{self.start_s:g}{duration}"

    def concerns(self, connection: int | None) -> bool:
        """Tell whether the fault is about this connection."""
        return self.connection in (None, connection)

    def is_on(self, now_s: float) -> bool:
        """Tell whether the fault has begun and not ended."""
        return self.start_s <= now_s and not self.is_over(now_s)

    def is_over(self, now_s: float) -> bool:
        """Tell whether the fault has ended."""
        return self.end_s is not None and self.end_s <= now_s


class Faults:
    """The faults that were asked for."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._faults = list(faults)

    def add(self, fault: Fault) -> None:
        """Add one. The latest of two that contradict each other holds."""
        self._faults.append(fault)

    def clear(self) -> None:
        """End all faults, those to come included."""
        self._faults.clear()

    def pending(self, now_s: float) -> list[Fault]:
        """Return what is in force now or will be."""
        self._faults = [f for f in self._faults if not f.is_over(now_s)]
        return list(self._faults)

    def find(self, kind: str, now_s: float, connection: int | None = None) -> Fault | None:
        """Return the fault of this kind that is in force for the connection, or None."""
        for fault in reversed(self._faults):
            if fault.kind == kind and fault.concerns(connection) and fault.is_on(now_s):
                return fault
        return None

    def take_aborts(self, now_s: float) -> list[Fault]:
        """Return the aborts whose time has come, once."""
        due = [f for f in self._faults if f.kind == "abort" and f.start_s <= now_s]
        if due:
            self._faults = [f for f in self._faults if f not in due]
        return due


def parse(text: str) -> Fault:
    """Return the fault that `text` asks for in the grammar above. Raises ConfigError."""
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise ConfigError(f"fault {text!r}: cannot be read, it has the form {_FORM}")
    fields = {name: part for name, part in match.groupdict().items() if part is not None}
    if "value" in fields and fields["do"] in KINDS:
        if fields["do"] not in _VALUE_NAMES:
            raise ConfigError(f"fault {text!r}: {fields['do']} takes no value, it has the form {_FORM}")
        fields[_VALUE_NAMES[fields["do"]]] = fields.pop("value")
    try:
        return from_fields(fields, 0.0)
    except ConfigError as error:
        raise ConfigError(f"fault {text!r}: {error}") from None


def from_fields(fields: Mapping[str, str], now_s: float) -> Fault:
    """Return the fault that the fields of a query ask for: `do`, `connection`, `after`, `for`, `every` or `status`.

    `after` counts from `now_s`. Raises ConfigError.
    """
    kind = fields.get("do", "")
    if kind not in KINDS:
        raise ConfigError(f"no fault is called {kind!r}, there are {', '.join(KINDS)}")
    known = {"do", "after"} | {_VALUE_NAMES.get(kind, "do")}
    known |= {"connection"} if kind not in STATUSES else set()
    known |= {"for"} if kind != "abort" else set()
    for name in fields:
        if name not in known:
            raise ConfigError(f"{kind} takes no {name!r}, it takes {', '.join(sorted(known - {'do'})) or 'nothing'}")
    value = _integer(fields, _VALUE_NAMES[kind], _DEFAULT_VALUES[kind]) if kind in _VALUE_NAMES else 0
    if value not in STATUSES.get(kind, (value,)):
        *some, last = STATUSES[kind]
        raise ConfigError(f"{_REFUSED[kind]} is refused with {', '.join(map(str, some))} or {last}, not {value}")
    connection = None if fields.get("connection", "*") == "*" else _integer(fields, "connection", 1)
    start_s = now_s + _seconds(fields, "after", 0.0)
    end_s = start_s + _seconds(fields, "for", 0.0) if "for" in fields else None
    return Fault(kind, value, connection, start_s, end_s)


def damage(message: bytes, turn: int) -> tuple[bytes | str, int]:
    """Return what is sent in place of a message of ticks on the `turn`-th occasion, and its number of whole packets.

    In turn: cut within the last packet, a count that is too high, one that is too low (bytes are left over), a
    last packet of unknown length, and texts that are no messages.
    """
    packets = int.from_bytes(message[:2], "big")
    last = 2
    for _ in range(packets - 1):
        last += 2 + int.from_bytes(message[last : last + 2], "big")
    head, size = message[2:last], int.from_bytes(message[last : last + 2], "big")
    damages: tuple[tuple[bytes | str, int], ...] = (
        (message[: last + 2 + size // 2], packets - 1),
        ((packets + 1).to_bytes(2, "big") + message[2:], packets),
        ((packets - 1).to_bytes(2, "big") + message[2:], packets - 1),
        (message[:2] + head + (size + 3).to_bytes(2, "big") + message[last + 2 :] + b"???", packets - 1),
        *((text, 0) for text in ODD_TEXTS),
    )
    return damages[turn % len(damages)]


def _integer(fields: Mapping[str, str], name: str, default: int) -> int:
    text = fields.get(name, str(default))
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise ConfigError(f"{name} is a whole number from 1 on, not {text!r}")
    return int(text)


def _seconds(fields: Mapping[str, str], name: str, default: float) -> float:
    text = fields.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", text):
        raise ConfigError(f"{name} is a number of seconds, not {text!r}")
    return float(text)
