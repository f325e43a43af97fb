"""Figures as people read them."""

import pytest

from pipeline import readable
from tests.overviews import an_overview

NOW = "2025-10-03T16:00:00.000000+05:30"  # a Friday


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        ("2025-10-03T23:30:00+05:30", "23:30"),
        ("2025-10-06T09:15:00+05:30", "Mon 09:15"),
        ("2025-10-09T09:15:00+05:30", "Thu 09:15"),
        ("2025-10-10T09:15:00+05:30", "2025-10-10 09:15"),
        ("2025-10-02T09:15:00+05:30", "2025-10-02 09:15"),
        ("tomorrow", "tomorrow"),
    ],
)
def test_when(timestamp, text):
    """A time to come has its day where that is another, and its date where the name of the day would not do."""
    assert readable.when(timestamp, NOW) == text


MONDAY = "2025-10-06T09:15:00+05:30"
RESTING = "connections are closed until Mon 08:55"


@pytest.mark.parametrize(
    ("health", "text"),
    [
        ({"market": "unknown"}, ""),
        ({"market": "open"}, ""),
        ({"market": "open", "market_until": MONDAY}, "market open until Mon 09:15"),
        ({"market": "closed", "market_until": MONDAY}, "market closed until Mon 09:15"),
        ({"market": "closed"}, "market closed"),
        ({"market": "closed", "market_until": MONDAY, "resting": RESTING}, f"market closed until Mon 09:15, {RESTING}"),
        ({"market": "open", "resting": RESTING}, RESTING),
    ],
)
def test_the_market(health, text):
    """A phrase that says what there is to say, in the line of a service, too."""
    overview = an_overview(timestamp=NOW, **health)
    assert readable.market(overview.health) == text
    assert (f", {text}" if text else "") in readable.line(overview)
