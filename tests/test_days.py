"""Days and timestamps: everything is compared with what datetime says."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.days import NS_PER_S, Calendar

ZONES = (
    "Asia/Kolkata",
    "UTC",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour of summer time
    "America/Santiago",  # summer time begins at midnight: days without 00:00
    "Asia/Kathmandu",
    "Pacific/Apia",  # has skipped a day
)
CHANGES = [  # UTC seconds of changes to and from summer time, and of the skipped day
    datetime.fromisoformat(text).timestamp()
    for text in (
        "2024-03-10T07:00:00+00:00",
        "2024-11-03T06:00:00+00:00",
        "2024-04-06T15:00:00+00:00",
        "2024-10-05T15:30:00+00:00",
        "2024-09-08T04:00:00+00:00",
        "2024-04-07T03:00:00+00:00",
        "2011-12-30T10:00:00+00:00",
    )
]
END_S = int(datetime.fromisoformat("2100-01-01T00:00:00+00:00").timestamp())

zones = st.sampled_from(ZONES)
moments = st.integers(0, END_S * NS_PER_S)
near_changes = st.builds(
    lambda change_s, off_ns: int(change_s) * NS_PER_S + off_ns,
    st.sampled_from(CHANGES),
    st.integers(-3 * 86_400 * NS_PER_S, 3 * 86_400 * NS_PER_S),
)


@given(zones, st.lists(moments | near_changes, min_size=1, max_size=20))
def test_day_is_what_datetime_says(zone, moments_ns):
    """The day of any moment is its calendar date in the zone, in whatever order moments are asked for."""
    calendar = Calendar(zone)
    for recv_ns in moments_ns:
        assert calendar.day_of(recv_ns) == datetime.fromtimestamp(recv_ns // NS_PER_S, ZoneInfo(zone)).date()


@given(zones, moments | near_changes)
def test_timestamp_reads_back(zone, recv_ns):
    """A timestamp parses to the same microsecond, and has the zone's offset at that moment."""
    text = Calendar(zone).timestamp(recv_ns)
    parsed = datetime.fromisoformat(text)
    seconds, rest_ns = divmod(recv_ns, NS_PER_S)
    assert parsed.astimezone(UTC) == datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=rest_ns // 1000)
    assert parsed.utcoffset() == datetime.fromtimestamp(seconds, ZoneInfo(zone)).utcoffset()
    assert parsed.date() == Calendar(zone).day_of(recv_ns)


@given(zones, st.lists(st.integers(1, 2**32 - 1), min_size=1))
def test_second_reads_back(zone, seconds):
    """The wire's seconds get the zone's offset too, remembered or not."""
    calendar = Calendar(zone)
    for second in seconds + seconds:
        text = calendar.second(second)
        assert text is not None
        assert text == datetime.fromtimestamp(second, ZoneInfo(zone)).isoformat()
        assert datetime.fromisoformat(text).timestamp() == second


@pytest.mark.parametrize("zone", ZONES)
def test_a_day_ends_at_its_last_nanosecond(zone):
    """One nanosecond before midnight is the old day, midnight itself the new one."""
    calendar = Calendar(zone)
    midnight = datetime(2025, 10, 2, tzinfo=ZoneInfo(zone))
    midnight_ns = int(midnight.timestamp()) * NS_PER_S
    assert calendar.day_of(midnight_ns - 1) == date(2025, 10, 1)
    assert calendar.day_of(midnight_ns) == date(2025, 10, 2)
    assert calendar.day_of(midnight_ns - 1) == date(2025, 10, 1)
    assert calendar.timestamp(midnight_ns - 1).startswith("2025-10-01T23:59:59.999999")
    assert calendar.timestamp(midnight_ns).startswith("2025-10-02T00:00:00.000000")


def test_timestamp_is_written_as_promised():
    """Microseconds are always there, and the offset with its colon."""
    calendar = Calendar("Asia/Kolkata")
    seconds = int(datetime.fromisoformat("2025-10-01T09:15:23+05:30").timestamp())
    assert calendar.timestamp(seconds * NS_PER_S + 123_456_789) == "2025-10-01T09:15:23.123456+05:30"
    assert calendar.timestamp(seconds * NS_PER_S) == "2025-10-01T09:15:23.000000+05:30"
    assert calendar.second(seconds) == "2025-10-01T09:15:23+05:30"


def test_no_time_is_none():
    """The wire's 0 means that no time is known: null, not 1970; also after the memory was emptied."""
    calendar = Calendar("Asia/Kolkata")
    assert calendar.second(0) is None
    for second in range(1, 100_002):
        calendar.second(second)
    assert calendar.second(0) is None
