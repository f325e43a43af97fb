"""From one day to the next: what has expired, what is called otherwise, and what words mean today. Pure.

Kite reuses the tokens of what has expired, so an instrument is what its symbol says, and the token is looked up anew
each day.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final, NamedTuple, Protocol

from pipeline.instruments.instrument import Instrument
from pipeline.instruments.listing import SymbolError

NO_LIST: Final = "{}: there is no list of instruments to look it up in yet: mds instruments sync"


class Listed(Protocol):
    """What is asked of a list of instruments; `listing.Listing` is one."""

    def token(self, word: str, *, near: bool = True) -> int:
        """Return the token of a word. Raises SymbolError."""

    def by_token(self, token: int) -> Instrument | None:
        """Return the instrument with this token."""

    def by_symbol(self, symbol: str) -> Instrument | None:
        """Return the instrument of this name, `NSE:INFY`."""

    def derivatives(self, exchange: str, name: str) -> Sequence[Instrument]:
        """Return the futures and options of an underlying."""


class Identity(NamedTuple):
    """Who a token was when it was subscribed."""

    symbol: str
    expiry: date | None


@dataclass(frozen=True)
class Roll:
    """What a day changes for instruments that are subscribed."""

    expired: dict[int, Identity] = field(default_factory=dict)
    moved: dict[int, Instrument] = field(default_factory=dict)  # by its token until now
    named: dict[int, Identity] = field(default_factory=dict)  # what was not known, or is called otherwise now


def roll(known: Mapping[int, Identity | None], listed: Listed | None, wanted: Iterable[int], today: date) -> Roll:
    """Compare what is subscribed with the list of the day.

    `wanted` are tokens that somebody has named today, by number or by symbol: one that was another instrument's until
    now is this one's.
    """
    found = Roll()
    fresh = set(wanted)
    for token, was in known.items():
        now = listed.by_token(token) if listed else None
        if was is None:
            if now is not None:
                found.named[token] = identity(now)
            continue
        if was.expiry is not None and was.expiry < today:
            if token in fresh and now is not None and now.symbol != was.symbol:
                found.named[token] = identity(now)
            else:
                found.expired[token] = was
            continue
        elsewhere = listed.by_symbol(was.symbol) if listed else None
        is_itself = now is not None and now.symbol == was.symbol  # two of one name on an exchange are not mistaken
        if elsewhere is not None and elsewhere.token != token and not is_itself:
            found.moved[token] = elsewhere
        elif now is not None and identity(now) != was:
            found.named[token] = identity(now)
    return found


def identity(instrument: Instrument) -> Identity:
    """Return what is kept of an instrument with its subscription."""
    return Identity(instrument.symbol, instrument.expiry)


class ExpiredError(SymbolError):
    """A word names an instrument that no longer trades; `day` was its last."""

    def __init__(self, word: str, day: date) -> None:
        super().__init__(f"{word} has expired on {day}")
        self.day = day


def token_of(
    word: str, listed: Listed | None, subscribed: Callable[[str], int | None], today: date, *, near: bool = True
) -> int:
    """Return the token that a word means today.

    What is not on the list may be `subscribed`, and has a name from there. Raises ExpiredError, and SymbolError saying
    what is `near` it, unless that is not asked for: it takes a moment.
    """
    token = subscribed(word)
    if listed is None:
        if token is None:
            raise SymbolError(NO_LIST.format(word))
        return token
    try:
        found = listed.token(word, near=near)
    except SymbolError:
        if token is None:
            raise
        return token
    instrument = listed.by_token(found)
    if instrument is not None and instrument.expiry is not None and instrument.expiry < today:
        raise ExpiredError(word, instrument.expiry)
    return found
