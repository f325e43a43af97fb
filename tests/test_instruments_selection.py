"""Which derivatives a rule picks."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.instruments.selection import pick, underlying
from pipeline.rules import parse_rule
from tests.instrument_list import FakeList, a_future, a_share, options

TODAY = date(2025, 10, 7)
WEEKS = [date(2025, 10, 7), date(2025, 10, 14), date(2025, 10, 28), date(2025, 11, 4), date(2025, 11, 25)]
STRIKES = range(24_000, 26_000, 50)
NIFTY = a_share(256265, "NIFTY 50")
CHAIN = [
    *(option for n, day in enumerate(WEEKS) for option in options(1000 * (n + 1), "NIFTY", day, STRIKES)),
    a_future(1, "NIFTY", WEEKS[2]),
    a_future(2, "NIFTY", WEEKS[4]),
]


def picked(text, spot=24_910.0, today=TODAY, chain=CHAIN):
    """Return expiry, strike and type of what a rule picks."""
    return [(i.expiry, i.strike, i.instrument_type) for i in pick(parse_rule(text), chain, spot, today)]


def test_around_the_money():
    """Calls and puts of the strike next to the spot, and of so many to each side."""
    day = WEEKS[0]
    strikes = (24_800, 24_850, 24_900, 24_950, 25_000)
    assert picked("NFO:NIFTY:options:weekly:2") == [(day, strike, kind) for strike in strikes for kind in ("CE", "PE")]
    assert picked("NFO:NIFTY:options:weekly:0") == [(day, 24_900, "CE"), (day, 24_900, "PE")]
    assert picked("NFO:NIFTY:options:weekly:0", spot=24_925.0)[0][1] == 24_900  # halfway: the lower one


@pytest.mark.parametrize(
    ("expiry", "today", "day"),
    [
        ("weekly", TODAY, WEEKS[0]),
        ("weekly", TODAY + timedelta(days=1), WEEKS[1]),
        ("weekly+1", TODAY, WEEKS[1]),
        ("weekly+2", TODAY, WEEKS[2]),
        ("monthly", TODAY, WEEKS[2]),
        ("monthly", WEEKS[2], WEEKS[2]),
        ("monthly", WEEKS[2] + timedelta(days=1), WEEKS[4]),
        ("monthly+1", TODAY, WEEKS[4]),
    ],
)
def test_expiries(expiry, today, day):
    """The next one counts until the end of its day; a monthly one is the last of its month."""
    assert {found for found, _, _ in picked(f"NFO:NIFTY:options:{expiry}:1", today=today)} == {day}


def test_futures():
    """They need no spot."""
    assert picked("NFO:NIFTY:futures:monthly", spot=None) == [(WEEKS[2], 0.0, "FUT")]
    assert picked("NFO:NIFTY:futures:monthly+1", spot=None) == [(WEEKS[4], 0.0, "FUT")]


def test_nothing_to_pick():
    """Without a spot, without derivatives, beyond the last expiry."""
    assert picked("NFO:NIFTY:options:weekly:2", spot=None) == []
    assert picked("NFO:NIFTY:options:weekly:2", chain=[]) == []
    assert picked("NFO:NIFTY:options:weekly+9:2") == []
    assert picked("NFO:NIFTY:options:weekly:2", today=date(2026, 1, 1)) == []


@given(st.floats(1.0, 60_000.0), st.integers(0, 60))
def test_it_is_around_any_spot(spot, strikes):
    """It is one unbroken range of strikes with the nearest in it, and no more than so many to each side."""
    found = sorted({strike for _, strike, _ in picked(f"NFO:NIFTY:options:weekly:{strikes}", spot=spot)})
    nearest = min(STRIKES, key=lambda strike: abs(strike - spot))
    assert nearest in found
    assert found == [strike for strike in STRIKES if found[0] <= strike <= found[-1]]
    assert sum(strike < nearest for strike in found) <= strikes
    assert sum(strike > nearest for strike in found) <= strikes
    assert len(found) == 2 * strikes + 1 or found[0] == STRIKES[0] or found[-1] == STRIKES[-1]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("NFO:NIFTY:options:weekly:2", NIFTY),
        ("NFO:INFY:options:monthly:2", a_share(408065, "INFY")),
        ("BFO:SENSEX:options:weekly:2", a_share(265, "SENSEX", "BSE")),
        ("MCX:GOLD:options:monthly:2", a_future(9, "GOLD", WEEKS[2], "MCX")),
        ("NFO:NOBODY:options:weekly:2", None),
    ],
)
def test_the_underlying(rule, expected):
    """An index, a share, or where there is neither the next future."""
    gold = [a_future(9, "GOLD", WEEKS[2], "MCX"), a_future(10, "GOLD", WEEKS[4], "MCX")]
    gold.insert(0, a_future(8, "GOLD", TODAY - timedelta(days=1), "MCX"))
    listed = FakeList(NIFTY, a_share(408065, "INFY"), a_share(265, "SENSEX", "BSE"), *gold)
    parsed = parse_rule(rule)
    assert underlying(parsed, listed.derivatives(parsed.exchange, parsed.name), listed.by_symbol, TODAY) == expected
