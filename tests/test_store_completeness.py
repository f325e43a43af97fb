"""Which instruments were received whole: event logs made by hand, and random ones against a count by the second."""

from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given

from pipeline.store.completeness import completeness
from pipeline.store.completeness import words as completeness_report
from pipeline.store.completeness.completeness import judge, read
from pipeline.store.completeness.entries import decode
from pipeline.store.completeness.timeline import follow
from pipeline.store.completeness.words import lines, summary, to_json
from tests.builders import DAY, ZONE
from tests.histories import (
    END,
    T0_US,
    TOKENS,
    downs,
    event,
    gap,
    history,
    lost,
    request,
    stamp,
    started,
    stopped,
    subscribed,
)

INDIA = ZoneInfo(ZONE)
NIGHT = 20 * 3600  # s to the morning of the next day


def day_of(log, *, now=None, ticked=None, day=DAY):
    """Return what a log tells of a day."""
    moment = None if now is None else T0_US + now * 1_000_000
    found = None if ticked is None else {day: ticked}
    return judge(follow(decode(log), moment), [day], INDIA, found)[0]


def missed(found):
    """Return how many seconds each instrument missed, None where nobody knows."""
    return {
        token: None if loss.microseconds is None else loss.microseconds / 1e6
        for loss in found.losses
        for token in loss.tokens
    }


def recording(*happenings, end=50):
    """Return a log in which connection 1 has the instruments 1 and 2, and connection 2 has 3."""
    return [started(), subscribed(1, 1, [1, 2]), subscribed(1, 2, [3]), *happenings, stopped(end)]


@given(downs())
def test_missed_is_what_no_connection_received(down):
    """By the second; whole and missed are all there is, and each instrument is in one loss."""
    found = day_of(history(down))
    expected: dict[int, int] = {}
    for second in range(1, END):
        is_down = {c: any(since <= second < until for since, _, until in some) for c, some in down.items()}
        for token in set().union(*TOKENS.values()):
            if all(is_down[c] for c, tokens in TOKENS.items() if token in tokens):
                expected[token] = expected.get(token, 0) + 1
    assert missed(found) == expected
    assert found.instruments == set().union(*TOKENS.values())
    assert found.whole + found.missed == len(found.instruments)
    assert len(missed(found)) == sum(len(loss.tokens) for loss in found.losses)


def test_an_interruption_is_missed_by_its_instruments_alone():
    """With its cause and connection; the longest loss comes first."""
    found = day_of(recording(gap(10, 12.5, 1, [1, 2], "silent"), gap(20, 21, 1, [2], "suspended")))
    assert (found.whole, found.missed, missed(found)) == (1, 2, {2: 3.5, 1: 2.5})
    assert [(part.cause, part.connection_id) for part in found.losses[0].parts] == [("silent", 1), ("suspended", 1)]


@pytest.mark.parametrize(
    ("also", "seconds"),
    [
        ([subscribed(2, 3, [1])], None),
        ([subscribed(2, 3, [1]), gap(11, 11.5, 3, [1])], 0.5),
        ([subscribed(11, 3, [1])], 1),
        ([subscribed(2, 3, [1]), event("resubscribed", 11, 3, instruments={}, dropped=[1])], 1),
        ([subscribed(2, 3, [1]), lost(30, 3), gap(9, 40, 3, [1], "silent")], 2),
        ([subscribed(2, 3, [9])], 2),
    ],
)
def test_covered_is_what_another_connection_had_all_the_time(also, seconds):
    """Subscribed there, and with no gap there; what it had for a part of the time was missed for the rest."""
    found = day_of(recording(gap(10, 12, 1, [1]), *also))
    assert missed(found).get(1) == seconds
    assert [cut.covered for cut in found.cuts if cut.gap.connection_id == 1] == [seconds is None]


def test_what_is_not_over_counts_until_now():
    """A connection that is down has no gap record yet, and one that never came has nothing at all."""
    log = [started(), request("subscribe", 1, [7]), subscribed(1, 1, [1]), lost(40, 1)]
    found = day_of(log, now=60)
    assert missed(found) == {1: 30.0, 7: 59.0}  # the loss may have been noticed late
    assert found.recorded
    assert found.recorded.ended == "running"
    assert day_of([*log, subscribed(41, 3, [1])], now=60).missed == 2


def test_a_gap_without_a_beginning_or_instruments():
    """Nobody knows how long, or which: then it was all that the connection had."""
    found = day_of(recording(gap(None, 10, 1, [], "spool lost")))
    assert missed(found) == {1: None, 2: None}
    assert "for a time that nobody knows" in completeness_report.verdict(found)


def test_a_gap_without_a_length_has_lost_something_all_the_same():
    """One frame of a damaged spool, for instance."""
    assert day_of(recording(gap(10, 10, 1, [1], "spool damaged"))).missed == 1


def test_the_night_is_not_missed():
    """A service that was stopped in the evening and started in the morning, both in order."""
    evening = recording(event("stopped", 50, 1, last_seq=1), event("stopped", 50, 2, last_seq=1))
    morning = [
        started(NIGHT),
        subscribed(NIGHT + 1, 1, [1, 2]),
        gap(49.5, NIGHT + 1, 1, [1, 2], "stopped"),
        stopped(NIGHT + 50),
    ]
    first, second = judge(follow(decode([*evening, *morning])), [DAY, DAY + timedelta(1)], INDIA)
    assert (first.missed, second.missed, second.whole) == (0, 0, 2)
    assert first.recorded
    assert second.recorded
    assert (first.recorded.ended, second.recorded.ended) == ("in order", "in order")
    assert [day.recorded.end - day.recorded.begin for day in (first, second) if day.recorded] == [50e6, 50e6]
    refused = event("not_connected", NIGHT + 0.5, 1, cause="refused", reason="", retry_in_s=1)
    assert judge(follow(decode([*evening, refused, *morning])), [DAY + timedelta(1)], INDIA)[0].missed == 2


def test_a_break_within_the_day_is_missed():
    """Stopped at noon and started again: nobody received anything meanwhile."""
    log = [*recording(), started(60), subscribed(61, 1, [1, 2]), gap(49, 61, 1, [1, 2], "stopped"), stopped(90)]
    assert missed(day_of(log)) == {1: 12.0, 2: 12.0}


def test_what_died_and_was_started_on_another_day():
    """The rest of the first day was missed, the next one begins with the start."""
    log = recording(gap(20, NIGHT + 1, 1, [1, 2], "killed"))[:-1]
    log += [started(NIGHT), subscribed(NIGHT + 1, 1, [1, 2]), stopped(NIGHT + 50)]
    first, second = judge(follow(decode(log)), [DAY, DAY + timedelta(1)], INDIA)
    assert (first.missed, second.missed) == (2, 0)
    assert first.recorded
    assert first.recorded.ended == "not in order"


def test_through_midnight():
    """One recording, two days, a gap on both."""
    midnight = 14 * 3600 + 50 * 60
    log = recording(gap(midnight - 3, midnight + 5, 1, [1]), end=midnight + 60)
    first, second = judge(follow(decode(log)), [DAY, DAY + timedelta(1)], INDIA)
    assert (missed(first), missed(second)) == ({1: 3.0}, {1: 5.0})
    assert first.recorded
    assert first.recorded.ended == "next day"


def test_who_never_ticked_is_named():
    """Of those that were subscribed, where it is known what ticked."""
    assert day_of(recording(), ticked={1, 3, 99}).never_ticked == [2]
    assert day_of(recording(), ticked={1, 3, 99}).instruments == {1, 2, 3, 99}
    assert day_of(recording()).never_ticked is None


@pytest.mark.parametrize("log", [[], [b"rubbish"]])
def test_no_event_log_is_not_whole(log):
    """Nobody knows, whatever ticked."""
    found = day_of(log, ticked={1, 2})
    assert (found.recorded, found.missed) == (None, 0)
    assert to_json([found], INDIA)["days"][0]["whole"] is None
    assert to_json([found], INDIA)["total"] == {
        "instruments": 2,
        "whole": None,
        "missed": 0,
        "days_not_known": [str(DAY)],
    }
    assert "nobody knows" in next(summary([found], INDIA))


def test_one_event_or_none_of_the_supervisor_is_enough():
    """A log that begins in the middle of a recording is judged from there."""
    found = day_of([subscribed(5, 1, [1]), gap(7, 9, 1, [1])])
    assert missed(found) == {1: 2.0}
    assert found.recorded
    assert found.recorded.begin == T0_US + 5_000_000


def test_in_words():
    """A line for a day, and one for each of the gaps that cost most."""
    whole = day_of(recording(), ticked={1, 3})
    assert list(lines([whole], INDIA, lambda token: f"NSE:{token}")) == [
        "2025-10-01, recorded 09:10:00 to 09:10:50: received whole: 3 instruments.",
        "  subscribed, and never ticked: 1 instrument (NSE:2)",
    ]
    lacking = day_of(recording(*(gap(10 + i, 10.25 + i, 1, [1, 2], "silent") for i in range(5))))
    assert list(lines([lacking], INDIA, str)) == [
        "2025-10-01, recorded 09:10:00 to 09:10:50: received whole: 1 instrument; 2 missed something, up to 1.250 s.",
        *(f"  connection 1, 09:10:1{i}.000 to 09:10:1{i}.250 (0.250 s): silent, 2 instruments" for i in (0, 1, 2)),
        "  and 2 more; mds gaps --date 2025-10-01 lists them",
    ]
    assert len(list(summary([whole] * 40, INDIA))) == 1


def test_as_json():
    """With times as they stand in the event log."""
    answer = to_json([day_of(recording(gap(10, 12, 1, [1, 2])))], INDIA)
    assert answer["total"] == {"instruments": 3, "whole": 1, "missed": 2, "days_not_known": []}
    day = answer["days"][0]
    assert day["recorded"] == {"from": stamp(0), "to": stamp(50), "ended": "in order"}
    assert day["losses"] == [
        {
            "instruments": [1, 2],
            "seconds": 2.0,
            "missed": [{"connection_id": 1, "cause": "closed", "from": stamp(10), "to": stamp(12), "over": True}],
        }
    ]
    assert (day["instrument_seconds"], day["causes"]) == (4.0, {"closed": {"instruments": 2, "longest_seconds": 2.0}})


def test_files(tmp_path):
    """Days before and after are read too; torn ends and days without a file are no errors."""
    log = recording(gap(10, 12, 1, [1]))
    (tmp_path / "events_2025-09-30.jsonl").write_bytes(b'{"event": "torn')
    (tmp_path / f"events_{DAY}.jsonl").write_bytes(b"\n".join(log[:3]) + b"\n")
    (tmp_path / f"events_{DAY + timedelta(1)}.jsonl").write_bytes(b"\n".join(log[3:]) + b"\n")
    assert missed(read([tmp_path], [DAY], INDIA, {})[0]) == {1: 2.0}
    assert [day.recorded for day in read([tmp_path], [date(2024, 1, 1), date.max], INDIA, {})] == [None]
    assert read([tmp_path], [], INDIA, {}) == []
    assert completeness.read([], [DAY], INDIA, {DAY: {1}})[0].recorded is None
