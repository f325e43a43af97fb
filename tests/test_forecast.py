"""What a day takes on disk."""

import json
from collections import defaultdict
from datetime import datetime, timedelta

import pytest

from pipeline.forecast import SESSION_S, bytes_a_day
from pipeline.ticks import encode_lines
from tests.recorded import market_ticks


def test_the_cost_of_a_day_grows_with_ticks():
    """Twice the ticks take twice the disk, full mode takes more than quote, and nothing subscribed takes nothing."""
    assert bytes_a_day([], 1) == 0
    assert bytes_a_day(["quote"], 2) == 2 * bytes_a_day(["quote"], 1) > 0
    assert bytes_a_day(["full"], 1) > bytes_a_day(["quote"], 1) > bytes_a_day(["ltp"], 1)


@pytest.mark.parametrize("mode", ["ltp", "quote", "full"])
def test_it_is_what_a_market_takes(mode):
    """Within a tenth of the lines that are stored of shares and their derivatives; indices have less to say."""
    sizes = defaultdict(list)
    begin = datetime.fromisoformat("2025-10-01T09:15:00+05:30")
    for tick in market_ticks(begin, instruments=300, rounds=5, every=timedelta(seconds=1)):
        line = encode_lines([tick])
        stored = json.loads(line)
        if stored["tradable"]:
            sizes[stored["mode"]].append(len(line))
    assert bytes_a_day([mode], 1) / SESSION_S == pytest.approx(sum(sizes[mode]) / len(sizes[mode]), rel=0.1)
