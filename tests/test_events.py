"""The lines of the event log."""

import orjson
import pytest

from pipeline.events import encode_event, source_of


@pytest.mark.parametrize(
    ("connection_id", "source"), [(0, "supervisor"), (1, "worker-1"), (2, "worker-2"), (3, "worker-3")]
)
def test_source(connection_id, source):
    """A stream's events are told by its worker, those of stream 0 by the supervisor."""
    assert source_of(connection_id) == source


def test_one_line_that_ends_with_its_number():
    """An event is one line; what it is comes first, and source, epoch and number last, in this order."""
    line = encode_event("gap", "2025-10-01T09:15:23.123456+05:30", {"cause": "a\nb"}, source="w", epoch=7, event_seq=3)
    assert line.endswith(b',"source":"w","epoch":7,"event_seq":3}\n')
    assert line.startswith(b'{"event":"gap","timestamp":"2025-10-01T09:15:23.123456+05:30",')
    assert line.count(b"\n") == 1
    assert orjson.loads(line)["cause"] == "a\nb"
