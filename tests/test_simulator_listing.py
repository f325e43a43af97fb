"""The simulator's list of instruments: what is on it, on which day."""

import csv
from datetime import date, timedelta
from io import StringIO
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.simulator import names
from pipeline.simulator.listing import STRIKES_MIN, build
from pipeline.simulator.market import SEGMENTS, Market, is_known, tokens

DAY = date(2025, 10, 1)
days = st.dates(date(2024, 1, 1), date(2035, 12, 31))


def rows_of(seed: int = 1, day: date = DAY, number: int = 100, listed: int = 0) -> list[dict[str, str]]:
    """Return the rows of a list as a reader of CSV has them."""
    return list(csv.DictReader(StringIO(build(seed, day, number, listed).csv())))


def by_symbol(rows: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return rows by `EXCHANGE:TRADINGSYMBOL`."""
    return {f"{row['exchange']}:{row['tradingsymbol']}": row for row in rows}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 50), days, st.sampled_from([1, 100, 6000]), st.sampled_from([0, 12_000]))
@example(1, date(2025, 12, 31), 6000, 12_000)
@example(1, date(2028, 2, 29), 100, 0)
def test_every_list_is_sound(seed, day, number, listed):
    """Symbols are unique on their exchange, tokens everywhere; each can be subscribed; nothing on it has expired."""
    rows = rows_of(seed, day, number, listed)
    assert len(rows) >= listed
    assert len(by_symbol(rows)) == len(rows)
    found = {int(row["instrument_token"]) for row in rows}
    assert len(found) == len(rows)
    assert all(map(is_known, found))
    assert found >= set(tokens(number))
    for row in rows:
        token = int(row["instrument_token"])
        assert int(row["exchange_token"]) == token >> 8
        segment = next(name for name, segment in SEGMENTS.items() if segment.code == token & 0xFF)
        assert row["segment"].partition("-")[0].lower() == segment
        assert row["last_price"] == "0"
        assert (row["instrument_type"] == "EQ") == (row["expiry"] == "")
        assert row["expiry"] == "" or date.fromisoformat(row["expiry"]) >= day
        assert (float(row["strike"]) > 0) == (row["instrument_type"] in ("CE", "PE"))


def test_names_that_people_know():
    """Indices and shares have the tokens that they have at Kite, and derivatives are called as there."""
    known = by_symbol(rows_of())
    wanted = {
        "NSE:NIFTY 50": 256265,
        "NSE:NIFTY BANK": 260105,
        "BSE:SENSEX": 265,
        "NSE:INFY": 408065,
        "NSE:RELIANCE": 738561,
        "BSE:INFY": 128053508,
        "NSE:M&M": 519937,
    }
    assert {symbol: int(known[symbol]["instrument_token"]) for symbol in wanted} == wanted
    assert known["NSE:NIFTY 50"]["segment"] == known["BSE:SENSEX"]["segment"] == "INDICES"
    expiries = {
        "NFO:NIFTY25OCTFUT": "2025-10-28",
        "NFO:BANKNIFTY25DECFUT": "2025-12-30",
        "NFO:NIFTY25O0744000CE": "2025-10-07",
        "NFO:NIFTY25O1444000PE": "2025-10-14",
        "NFO:NIFTY25OCT44000CE": "2025-10-28",
        "BFO:SENSEX25O0234000PE": "2025-10-02",
        "BFO:SENSEX25NOV34000CE": "2025-11-27",
        "MCX:GOLD25OCTFUT": "2025-10-03",
        "MCX:CRUDEOIL25NOVFUT": "2025-11-19",
        "CDS:USDINR25OCTFUT": "2025-10-27",
    }
    assert {symbol: known[symbol]["expiry"] for symbol in expiries} == expiries
    assert known["NFO:NIFTY25O0744000CE"]["name"] == "NIFTY"
    assert known["NFO:NIFTY25O0744000CE"]["strike"] == "44000"


def test_weekly_and_monthly_expiries():
    """There are four weekly expiries from the day on, and three monthly ones, the last of which are no weekly ones."""
    for day in (DAY + timedelta(days=n) for n in range(0, 40, 3)):
        options = [row for row in rows_of(day=day) if row["name"] == "NIFTY" and row["instrument_type"] == "CE"]
        expiries = sorted({date.fromisoformat(row["expiry"]) for row in options})
        assert all(expiry.weekday() == 1 for expiry in expiries)
        assert [(expiry - expiries[0]).days for expiry in expiries[:4]] == [0, 7, 14, 21]
        assert 0 <= (expiries[0] - day).days < 7
        ends = [expiry for expiry in expiries if (expiry + timedelta(days=7)).month != expiry.month]
        assert len(ends) == 3
        for row in options:
            is_monthly = date.fromisoformat(row["expiry"]) in ends
            assert row["tradingsymbol"][len("NIFTY25") : len("NIFTY25OCT")].isalpha() is is_monthly


@pytest.mark.parametrize("underlying", names.UNDERLYINGS, ids=lambda underlying: underlying.name)
@pytest.mark.parametrize("seed", [1, 2])
def test_strikes_surround_the_money(underlying, seed):
    """Wherever the simulated price may go on the day, there are strikes to both sides of it, evenly spaced."""
    market = Market(seed)
    (row,) = market.rows([underlying.token], 0)
    bounds = [market.state[name][row] / 100 for name in ("lower", "upper")]
    options = [row for row in rows_of(seed) if row["name"] == underlying.name and row["instrument_type"] == "PE"]
    assert options
    for expiry in {row["expiry"] for row in options}:
        strikes = sorted(float(row["strike"]) for row in options if row["expiry"] == expiry)
        assert len({b - a for a, b in pairwise(strikes)}) == 1
        for price in bounds:
            assert sum(strike < price for strike in strikes) >= STRIKES_MIN
            assert sum(strike > price for strike in strikes) >= STRIKES_MIN


def test_the_same_list_for_the_same_day():
    """Seed, day and number determine the list, and from day to day what is still on it keeps its token."""
    assert build(1, DAY, 100).csv() == build(1, DAY, 100).csv()
    today = build(1, DAY, 100).tokens
    later = build(1, DAY + timedelta(days=30), 100).tokens
    both = today.keys() & later.keys()
    assert {symbol: today[symbol] for symbol in both} == {symbol: later[symbol] for symbol in both}
    assert "NFO:NIFTY25O0744000CE" in today.keys() - later.keys()
    assert "NFO:NIFTY25NOVFUT" in both


def test_one_exchange():
    """The rows of the exchanges are those of the whole list, under the same header."""
    listing = build(1, DAY, 100)
    whole = listing.csv().splitlines()
    parts = [listing.csv(exchange).splitlines() for exchange in listing.exchanges]
    assert all(part[0] == whole[0] for part in parts)
    assert [row for part in parts for row in part[1:]] == whole[1:]
    assert len(listing) == len(listing.tokens) == len(whole) - 1


def test_a_long_list():
    """It is padded with options, to a hundred thousand rows where so many are wanted."""
    listing = build(1, DAY, 100, 100_000)
    assert 100_000 <= len(listing) < 100_500
    assert len(listing.tokens) == len(set(listing.tokens.values())) == len(listing)
    assert build(1, DAY, 100).tokens.items() <= listing.tokens.items()
