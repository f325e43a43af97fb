"""Market hours: what trades when, and when connections should be open."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Market
from pipeline.market import SATURDAY, Almanac, Hours

ZONE = ZoneInfo("Asia/Kolkata")
MONDAY = date(2026, 11, 23)
HOLIDAY = MONDAY + timedelta(days=1)  # a weekday without a session
SATURDAY_SESSION = MONDAY + timedelta(days=5)
NSE, CDS, BSE, BCD, MCX, INDICES, NCO = 1, 3, 4, 6, 7, 9, 12
SHARES, COMMODITY = (NSE, BSE, INDICES), (MCX, NCO)
WINDOW: dict[str, Any] = {"connect": time(8, 55), "disconnect": time(15, 35)}
STEP = timedelta(seconds=1)


def at(text, day=MONDAY):
    """Return this time of the exchange's clock."""
    return datetime.combine(day, time.fromisoformat(text), ZONE)


def an_almanac(*, known_until=MONDAY + timedelta(days=60)):
    """Return one with weekdays, a holiday, and a session on a Saturday."""
    first = MONDAY - timedelta(days=10)
    days = (first + timedelta(days=n) for n in range((known_until - first).days + 1))
    trading = [d for d in days if (d.weekday() < SATURDAY and d != HOLIDAY) or d == SATURDAY_SESSION]
    return Almanac({d: (at("09:15", d), at("15:30", d)) for d in trading}, first, known_until)


ALMANAC = an_almanac()


def hours(almanac: Almanac | None = ALMANAC, **changes: Any):
    """Return hours with these settings."""
    return Hours(Market(**changes), ZONE, almanac)


def trades(found, segment, now):
    """Tell whether a segment is known to trade."""
    return found.state(now, (segment,)) == "open"


TABLE = {
    "before the session": (at("09:14:59"), NSE, False),
    "at its beginning": (at("09:15"), NSE, True),
    "at its end": (at("15:30"), NSE, False),
    "an index": (at("12:00"), INDICES, True),
    "a segment that nobody has heard of": (at("12:00"), 77, True),
    "a holiday": (at("12:00", HOLIDAY), NSE, False),
    "a Saturday with a session": (at("12:00", SATURDAY_SESSION), NSE, True),
    "a Sunday": (at("12:00", MONDAY + timedelta(days=6)), NSE, False),
    "currencies begin earlier": (at("09:01"), CDS, True),
    "and end later": (at("16:59"), BCD, True),
    "but not on a holiday": (at("12:00", HOLIDAY), CDS, False),
    "commodities in the evening": (at("23:29"), MCX, True),
    "and not at night": (at("23:30"), MCX, False),
    "on a holiday not by day": (at("12:00", HOLIDAY), MCX, False),
    "but in the evening": (at("17:00", HOLIDAY), NCO, True),
    "and not on a Saturday, though shares trade": (at("12:00", SATURDAY_SESSION), MCX, False),
}


@pytest.mark.parametrize(("now", "segment", "is_open"), TABLE.values(), ids=TABLE.keys())
def test_what_trades_when(now, segment, is_open):
    """Segments have hours of their own."""
    assert trades(hours(), segment, now) == is_open
    assert hours().state(now, [segment]) == ("open" if is_open else "closed")


def test_a_holiday_of_commodities():
    """On it they do not trade at all."""
    assert not trades(hours(commodity_holidays=(HOLIDAY,)), MCX, at("18:00", HOLIDAY))
    assert not trades(hours(commodity_holidays=(MONDAY,)), MCX, at("12:00"))


def test_what_is_subscribed_counts():
    """It is open while a part of it trades; nothing means shares."""
    evening = at("20:00")
    assert [hours().state(evening, segments) for segments in ((), SHARES, COMMODITY, (NSE, MCX))] == [
        "closed",
        "closed",
        "open",
        "open",
    ]


def test_the_next_change():
    """It is the end of what trades last, or the beginning of the next session, over nights, weekends and holidays."""
    assert hours().outlook(at("12:00")).until == at("15:30")
    assert hours().outlook(at("12:00"), (NSE, MCX)).until == at("23:30")
    assert hours().outlook(at("16:00")).until == at("09:15", MONDAY + timedelta(days=2))
    assert hours().outlook(at("16:00"), (MCX,)).until == at("23:30")
    assert hours().outlook(at("16:00", MONDAY - timedelta(days=3))).until == at("09:15")


def test_without_an_almanac_nobody_knows():
    """Nothing is judged then; without a calendar the market is always open."""
    unknown, always = hours(None), hours(None, calendar="")
    assert (unknown.state(at("12:00")), unknown.outlook(at("12:00")).until) == ("unknown", None)
    assert not trades(unknown, NSE, at("12:00"))
    assert (always.state(at("03:00")), always.outlook(at("03:00")).until) == ("open", None)
    assert trades(always, MCX, at("03:00"))


def test_beyond_what_the_almanac_knows():
    """Every weekday counts as one with a session at the usual hours."""
    short = hours(an_almanac(known_until=MONDAY))
    assert short.state(at("12:00", HOLIDAY)) == "open"
    assert short.outlook(at("12:00", HOLIDAY)).until == at("15:30", HOLIDAY)
    assert short.state(at("12:00", SATURDAY_SESSION)) == "closed"
    ended = hours(Almanac({}, MONDAY, MONDAY - timedelta(days=100)))
    assert ended.state(at("12:00")) == "open"


def test_an_extra_session_opens_everything():
    """Whatever the calendar says."""
    muhurat = hours(extra_sessions=("2026-11-29 18:00-19:15",))
    sunday = date(2026, 11, 29)
    assert [trades(muhurat, s, at("18:00", sunday)) for s in (NSE, CDS, MCX)] == [True, True, True]
    assert muhurat.outlook(at("18:30", sunday)).until == at("19:15", sunday)


def test_connections_without_a_window():
    """They are always open."""
    assert hours().window(at("03:00")).is_open
    assert hours().rests(at("03:00")) == []


def test_the_window():
    """Connections are open in it, on days on which something that is subscribed trades."""
    found = hours(**WINDOW)
    assert [found.window(at(t)).is_open for t in ("08:54", "08:55", "12:00", "15:35")] == [False, True, True, False]
    assert not found.window(at("12:00", HOLIDAY)).is_open
    assert found.window(at("12:00", HOLIDAY), (MCX,)).is_open
    assert found.window(at("16:00")) == (False, at("15:35"), at("08:55", MONDAY + timedelta(days=2)))
    assert found.window(at("09:00")) == (True, at("08:55"), at("15:35"))


def test_the_window_of_an_extra_session():
    """It is open a while before and after, on days without a window of their own, too."""
    found = hours(**WINDOW, extra_sessions=("2026-11-29 18:00-19:15",))
    sunday = date(2026, 11, 29)
    assert not found.window(at("12:00", sunday)).is_open
    assert found.window(at("18:00", sunday)) == (True, at("17:40", sunday), at("19:35", sunday))


def test_the_window_while_nobody_knows():
    """It follows weekdays."""
    found = hours(None, **WINDOW)
    assert found.window(at("12:00")).is_open
    assert found.window(at("12:00", HOLIDAY)).is_open
    assert not found.window(at("12:00", SATURDAY_SESSION)).is_open


def test_rests():
    """They are the times between the windows, up to the one that is going on."""
    after = at("16:00")
    *_, friday_to_monday, present = hours(**WINDOW).rests(after)
    assert friday_to_monday == (at("15:35", MONDAY - timedelta(days=3)), at("08:55"))
    assert present == (at("15:35"), at("08:55", MONDAY + timedelta(days=2)))
    assert hours(**WINDOW).rests(at("12:00"))[-1] == friday_to_monday


def test_daylight_saving():
    """Hours are by the clock on the wall, where clocks change, too."""
    zone = ZoneInfo("America/New_York")
    found = Hours(Market(calendar="X", connect=time(1), disconnect=time(3, 30)), zone)
    sunday = datetime(2026, 11, 2, 12, tzinfo=zone)  # a Monday after the change of the day before
    assert found.window(sunday).until == datetime(2026, 11, 3, 1, tzinfo=zone)
    assert all(begin < end for begin, end in found.rests(sunday))


def test_the_almanac_goes_over_a_pipe():
    """What it becomes as JSON types is read as the same."""
    assert Almanac.read(ALMANAC.fields()) == ALMANAC
    with pytest.raises(KeyError):
        Almanac.read({"error": "no"})


MOMENTS = st.integers(-3 * 86_400, 12 * 86_400).map(lambda s: at("00:00") + timedelta(seconds=s))
SEGMENTS = st.sets(st.sampled_from([NSE, CDS, BSE, BCD, MCX, INDICES, NCO]), max_size=3).map(tuple)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "commodity_holidays": st.just((MONDAY,)),
        "extra_sessions": st.sampled_from([("2026-11-29 18:00-19:15",), ("2026-11-23 15:00-16:00",)]),
        "currency_open": st.just(time(18)),  # after they close: they do not trade
    },
)


@settings(max_examples=200)
@given(SETTINGS, MOMENTS, SEGMENTS, st.floats(0, 1))
def test_nothing_changes_until_the_next_change(changes, now, segments, part):
    """Up to it the state is the same, and from it on another; so for the window."""
    for found in (hours(**changes), hours(**changes, **WINDOW)):
        change = found.outlook(now, segments).until
        if change is None:  # it never trades, but in an extra session that is over
            assert found.state(now, segments) == "closed"
            continue
        assert change > now
        between = now + (change - STEP - now) * part
        assert found.state(between, segments) == found.state(now, segments) != found.state(change, segments)
        window = found.window(now, segments)
        if window.until is not None:
            assert found.window(window.until - STEP, segments).is_open == window.is_open or window.until - STEP < now
            assert found.window(window.until, segments).is_open != window.is_open


@settings(max_examples=200)
@given(SETTINGS, st.lists(st.tuples(MOMENTS, SEGMENTS), min_size=1, max_size=8))
def test_what_it_was_asked_before_makes_no_difference(changes, questions):
    """It answers as one does that was never asked: a clock may be set back."""
    asked = hours(**changes, **WINDOW)
    for now, segments in questions:
        fresh = hours(**changes, **WINDOW)
        assert asked.outlook(now, segments).state == fresh.outlook(now, segments).state
        assert asked.outlook(now, segments).until == fresh.outlook(now, segments).until
        assert asked.window(now, segments).is_open == fresh.window(now, segments).is_open


@settings(max_examples=200)
@given(SETTINGS, MOMENTS, SEGMENTS)
def test_what_follows_from_open(changes, now, segments):
    """Some segment is open then, and another zone tells the same."""
    found = hours(**changes)
    is_open = found.state(now, segments) == "open"
    assert is_open == any(trades(found, segment, now) for segment in segments or SHARES)
    assert found.state(now.astimezone(UTC), segments) == found.state(now, segments)


@settings(max_examples=100)
@given(MOMENTS, SEGMENTS)
def test_rests_are_where_nobody_should_connect(now, segments):
    """Each begins and ends where that changes, and the present is in the last one or in none."""
    found = hours(**WINDOW)
    rests = found.rests(now, segments)
    for begin, end in rests:
        assert begin < end
        assert not found.window(begin, segments).is_open
        assert found.window(end, segments).is_open or end > now + timedelta(days=10)
    assert any(begin <= now < end for begin, end in rests) != found.window(now, segments).is_open
