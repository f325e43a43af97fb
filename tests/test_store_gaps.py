"""Gap records: which are read, and what they have cost."""

from datetime import date

import pytest

from pipeline.errors import ConfigError, MdsError
from pipeline.events import encode_event
from pipeline.store import gaps
from pipeline.store.gaps import Total, read, to_json, totals

FIRST, SECOND = date(2025, 10, 1), date(2025, 10, 2)
OPENING, NOON = "2025-10-02T09:00:00.000000+05:30", "2025-10-02T12:00:00.500000+05:30"
CLOSE = "2025-10-01T15:30:00.000000+05:30"


def gap(since, until, cause, instruments, *, connection_id=1, event_seq=1, **fields):
    """Return the line of a gap that is recorded when it ends."""
    known = {"connection_id": connection_id, "instruments": instruments, "from": since, "to": until, "cause": cause}
    source = f"worker-{connection_id}"
    return encode_event("gap", until, known | fields, source=source, epoch=7, event_seq=event_seq)


def other(event, timestamp):
    """Return the line of an event that is no gap."""
    return encode_event(event, timestamp, {"connection_id": 0}, source="supervisor", epoch=7, event_seq=1)


@pytest.fixture
def data_dir(tmp_path):
    """Two days: nothing on the first, and a night, a lost spool and a kill on the second, the kill written first."""
    (tmp_path / f"events_{FIRST}.jsonl").write_bytes(other("service_started", CLOSE))
    killed = gap("2025-10-02T11:59:58.250000+05:30", NOON, "killed", [1, 2, 3, 4], connection_id=2)
    lost = gap(None, "2025-10-02T09:00:01.000000+05:30", "spool lost", [5], event_seq=2, gap_epoch=6)
    night = gap(CLOSE, OPENING, "stopped", [1, 2])
    lines = killed + night + other("service_started", OPENING) + b"nonsense\n" + lost + killed[:30]
    (tmp_path / f"events_{SECOND}.jsonl").write_bytes(lines)
    return tmp_path


def test_gaps_are_read_as_they_were_recorded(data_dir):
    """Of all days, or of the one on which they ended; other events and broken lines are passed over."""
    assert [gap.cause for gap in read(data_dir)] == ["stopped", "spool lost", "killed"]
    assert read(data_dir, SECOND) == read(data_dir)
    assert read(data_dir, FIRST) == []


def test_what_a_gap_has_cost(data_dir):
    """Seconds times instruments; unknown where nobody knows when it began."""
    found = read(data_dir)
    assert [gaps.seconds(gap) for gap in found] == [17.5 * 3600, None, 2.25]
    assert [gaps.instrument_seconds(gap) for gap in found] == [35 * 3600, None, 9.0]


def test_sums_over_all_and_by_cause(data_dir):
    """What is not known is in no sum, and counted."""
    total, by_cause = totals(read(data_dir))
    assert total == Total(3, 63002.25, 126009.0, 1)
    assert by_cause == {
        "killed": Total(1, 2.25, 9.0),
        "spool lost": Total(1, 0.0, 0.0, 1),
        "stopped": Total(1, 63000.0, 126000.0),
    }
    assert totals([]) == (Total(), {})


def test_json_has_the_times_as_they_were_written(data_dir):
    """With all instruments and, of ticks that had a number, the epoch and the numbers."""
    answer = to_json(read(data_dir))
    assert [(gap["from"], gap["to"]) for gap in answer["gaps"][:2]] == [
        (CLOSE, OPENING),
        (None, "2025-10-02T09:00:01.000000+05:30"),
    ]
    assert answer["gaps"][2] == {
        "connection_id": 2,
        "epoch": 7,
        "from": "2025-10-02T11:59:58.250000+05:30",
        "to": NOON,
        "seconds": 2.25,
        "cause": "killed",
        "instruments": [1, 2, 3, 4],
        "instrument_seconds": 9.0,
        "gap_epoch": None,
        "first_seq": None,
        "last_seq": None,
    }
    assert answer["gaps"][1]["gap_epoch"] == 6
    assert answer["totals"]["instrument_seconds"] == 126009.0
    assert answer["totals"]["by_cause"]["killed"] == {
        "gaps": 1,
        "seconds": 2.25,
        "instrument_seconds": 9.0,
        "unknown": 0,
    }


def test_nothing_recorded_is_not_no_gaps(data_dir, tmp_path_factory):
    """No event file, none of that day, no folder: each is an error that says so."""
    with pytest.raises(MdsError, match=r"nothing was recorded on 2025-10-03, there is no events_2025-10-03\.jsonl"):
        read(data_dir, date(2025, 10, 3))
    with pytest.raises(MdsError, match=r"nothing was recorded, there is no events_YYYY-MM-DD\.jsonl"):
        read(tmp_path_factory.mktemp("empty"))
    with pytest.raises(ConfigError, match=r"none: no such folder; storage\.data_dir names"):
        read(data_dir / "none")
