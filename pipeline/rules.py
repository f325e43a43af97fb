"""Two small notations of the settings: rules for derivatives, and trading sessions that no calendar knows. Pure.

A rule is `EXCHANGE:NAME:options:EXPIRY:STRIKES[:MODE]` or `EXCHANGE:NAME:futures:EXPIRY[:MODE]`:

    NFO:NIFTY:options:weekly:2           calls and puts of the next expiry, at the money and two strikes to each side
    NFO:BANKNIFTY:options:monthly:5:full the same of the last expiry of a month, in full mode
    NFO:NIFTY:options:weekly+1:2         of the expiry after the next one
    MCX:GOLD:futures:monthly             the future of the next expiry of its month

NAME is what Kite's list of instruments has in its column `name`. A mode is quote where none is given.
"""

import re
from datetime import date, time
from typing import Literal, NamedTuple, cast, get_args

Kind = Literal["options", "futures"]
Cycle = Literal["weekly", "monthly"]
Mode = Literal["ltp", "quote", "full"]

MAX_STRIKES = 200  # to each side: both sides of both kinds still fit a connection
MAX_LATER = 20
_EXPIRY = re.compile(r"(weekly|monthly)(?:\+([0-9]{1,2}))?")
_SESSION = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}) ([0-9]{2}:[0-9]{2})-([0-9]{2}:[0-9]{2})")


class Rule(NamedTuple):
    """Which derivatives of an underlying are wanted."""

    text: str  # as it was written
    exchange: str
    name: str
    kind: Kind
    cycle: Cycle
    later: int  # expiries after the next one
    strikes: int  # to each side of the money; 0 with futures
    mode: Mode


class Session(NamedTuple):
    """A time of trading on one day, by the clock of the exchange."""

    day: date
    opens: time
    closes: time


def parse_rule(text: str) -> Rule:
    """Read a rule. Raises ValueError saying what is wrong with which."""
    parts = [part.strip() for part in text.split(":")]
    kind = parts[2] if len(parts) > 2 else ""
    least = {"options": 5, "futures": 4}.get(kind)
    if least is None or len(parts) not in (least, least + 1) or not all(parts):
        raise ValueError(
            f"{text!r} is no rule: NFO:NIFTY:options:weekly:2 is one for options, NFO:NIFTY:futures:monthly for futures"
        )
    expiry = _EXPIRY.fullmatch(parts[3])
    later = int(expiry[2] or 0) if expiry else 0
    if expiry is None or later > MAX_LATER:
        raise ValueError(f"{text!r}: {parts[3]!r} is no expiry: weekly, monthly, weekly+1 (the one after), ...")
    strikes = 0
    if kind == "options":
        strikes = int(parts[4]) if parts[4].isascii() and parts[4].isdecimal() and len(parts[4]) < 5 else -1
        if not 0 <= strikes <= MAX_STRIKES:
            raise ValueError(f"{text!r}: {parts[4]!r} is no number of strikes to each side, 0 to {MAX_STRIKES}")
    mode = parts[least] if len(parts) > least else "quote"
    if mode not in get_args(Mode):
        raise ValueError(f"{text!r}: {mode!r} is no mode: {', '.join(get_args(Mode))}")
    return Rule(
        text,
        parts[0].upper(),
        parts[1].upper(),
        cast("Kind", kind),
        cast("Cycle", expiry[1]),
        later,
        strikes,
        cast("Mode", mode),
    )


def parse_session(text: str) -> Session:
    """Read a session, `2026-11-08 18:00-19:15`. Raises ValueError."""
    found = _SESSION.fullmatch(text.strip())
    try:
        if found:
            day, opens, closes = found.groups()
            session = Session(date.fromisoformat(day), time.fromisoformat(opens), time.fromisoformat(closes))
            if session.opens < session.closes:
                return session
    except ValueError:
        pass
    raise ValueError(f"{text!r} is no session, which is written 2026-11-08 18:00-19:15") from None
