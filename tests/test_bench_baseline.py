"""The baseline stores what the design that it stands for stores, at the cost that this has, and can be measured."""

import itertools
import json
import os
import signal
from datetime import date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import baseline
from bench.rig import baseline_program
from bench.rig.baseline import Backlog, Baseline
from bench.rig.baseline_program import Storage
from bench.rig.highest import Highest
from bench.rig.recorder import silence
from bench.rig.simulator import Simulator, plan
from bench.rig.stretch import Stretch, stretch
from bench.rig.trial import Feed, Trial
from tests.integration.service import until

QUOTE = {"mode": "quote", "instrument_token": 408065, "last_price": 2500.5, "ohlc": {"open": 1.0}}
NAIVE = datetime(2025, 10, 1, 9, 15)  # noqa: DTZ001  as KiteTicker has it
FULL = QUOTE | {"mode": "full", "last_trade_time": NAIVE, "exchange_timestamp": None}


@pytest.fixture
def days(monkeypatch):
    """Yield a list whose last entry is today."""
    found = [date(2025, 10, 1)]

    class Date(date):
        @classmethod
        def today(cls):
            return found[-1]

    monkeypatch.setattr(baseline_program, "date", Date)
    return found


@pytest.mark.usefixtures("days")
def test_stores_ticks_as_lines(tmp_path):
    """Each tick is a line with what KiteTicker has made of it, and when and by whom it was received, at once."""
    ticks = [dict(QUOTE), dict(FULL)]
    Storage(tmp_path).store(ticks, 2)
    lines = (tmp_path / "market_data_2025-10-01.jsonl").read_text().splitlines()
    stored = [json.loads(line) for line in lines]
    stamp = {"timestamp": stored[0]["timestamp"], "connection_id": 2}
    assert lines == [json.dumps(tick | stamp, default=str) for tick in (QUOTE, FULL)]
    assert stored[1]["last_trade_time"] == "2025-10-01 09:15:00"
    assert datetime.fromisoformat(stamp["timestamp"]).tzinfo is None
    assert ticks == [QUOTE, FULL]


def test_begins_a_file_at_midnight_and_appends(tmp_path, days):
    """What is received on another day is in another file; a file that is there is gone on with."""
    storage = Storage(tmp_path)
    for day, connection_id in ((1, 1), (1, 2), (2, 1)):
        days.append(date(2025, 10, day))
        storage.store([QUOTE], connection_id)
    Storage(tmp_path).store([QUOTE, QUOTE], 1)
    counts = {path.name: len(path.read_text().splitlines()) for path in tmp_path.iterdir()}
    assert counts == {"market_data_2025-10-01.jsonl": 2, "market_data_2025-10-02.jsonl": 3}


def test_records_all_that_is_sent(tmp_path):
    """On two connections, in all modes, it stores every tick, has used CPU time for it, and ends when it is told to."""
    with Simulator(tmp_path, instruments=30) as simulator:
        recorder = Baseline(tmp_path, simulator, plan(simulator.tokens(), 2, "mixed"))
        try:
            silence(simulator, recorder, 2)
            done = stretch(simulator, recorder, rate=2000, connections=2, seconds=0.5)
            recorder.stop()
        finally:
            recorder.kill()
        assert done.stored == done.sent > 0
        assert done.us_per_tick("baseline") > 0
        assert recorder.lines() == simulator.sent
    stored = [json.loads(line) for path in recorder.data_dir.iterdir() for line in path.read_text().splitlines()]
    assert {tick["connection_id"] for tick in stored} == {1, 2}
    assert {tick["mode"] for tick in stored} == {"ltp", "quote", "full"}


def test_does_not_outlive_who_has_started_it(tmp_path):
    """When the pipe to it is closed it ends, whatever became of the other end."""
    with Simulator(tmp_path, instruments=2) as simulator:
        recorder = Baseline(tmp_path, simulator, plan(simulator.tokens(), 2, "quote"))
        try:
            pid = recorder.pids["baseline"]
            assert recorder._process.stdin is not None
            recorder._process.stdin.close()
            until(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), "it has ended")
        finally:
            recorder.kill()


def test_one_that_was_killed_has_failed(tmp_path):
    """A baseline that did not end by itself is not taken for one that did."""
    with Simulator(tmp_path, instruments=2) as simulator:
        recorder = Baseline(tmp_path, simulator, plan(simulator.tokens(), 2, "quote"))
        try:
            os.kill(recorder.pids["baseline"], signal.SIGKILL)
            with pytest.raises(AssertionError, match="ended with -9"):
                recorder.stop()
        finally:
            recorder.kill()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=50))
def test_backlog(steps):
    """A wait is never overstated, and understated by no more than the time between two looks."""
    backlog, sent_at = Backlog(), [0.0]
    stored = 0
    for now, (sends, stores) in enumerate(steps, start=1):
        sent_at += [now - 0.5] * sends  # between the looks
        stored = min(stored + stores, len(sent_at) - 1)
        waited = now - sent_at[stored + 1] if stored < len(sent_at) - 1 else 0.0
        found = backlog.look(now, len(sent_at) - 1, stored)
        assert found <= waited <= found + 1


def flood(us_per_tick: float, *, stored: int = 1000) -> Trial:
    """Return a trial that has cost so much, in which 1,000 ticks were sent."""
    cpu_s = {"recorder": us_per_tick / 1000, "simulator": 1.0}
    return Trial(Stretch(2_000_000, 1.0, 0.5, 1000, stored, 0.1, cpu_s, cpu_s), 400_000, 1.5)


def found(*floods: Trial) -> dict[str, Any]:
    """Return what is told of floods of the pipeline, where the baseline costs 12 us a tick and holds 100,000/s."""
    cpu_s = {"recorder": 1.0}
    held = Trial(Stretch(100_000, 1.0, 0.1, 100_000, 100_000, 0.1, cpu_s, cpu_s), 400_000, 1.0)
    rates = {"pipeline": Highest(held, 1), "baseline": Highest(held, 1)}
    return baseline.compared(
        {"pipeline": floods, "baseline": [flood(12.0)]}, rates, Feed("quote", 10, 2, frame_ticks=100)
    )


@pytest.mark.parametrize("costs", list(itertools.permutations([3.0, 2.0, 40.0])))
def test_compares_the_middle_flood(costs):
    """One round on a busy machine does not change what is told."""
    figures = found(*map(flood, costs))
    assert figures["flooded"]["pipeline"]["us_per_tick"] == 3.0
    assert figures["flooded"]["pipeline"]["us_per_tick_of_rounds"] == list(costs)
    assert figures["times_less_cpu"] == 4.0
    assert figures["times_the_rate"] == 1.0
    assert list(baseline.complaints({"quote": figures}, 10)) == []


def test_a_loss_is_told():
    """A tick that is missing, or there twice, in any round is a complaint."""
    figures = found(flood(3.0), flood(2.0, stored=998), flood(4.0, stored=1001))
    assert list(baseline.complaints({"quote": figures}, 10)) == [
        "quote, pipeline: 2 ticks lost in the floods",
        "quote, pipeline: 1 ticks repeated in the floods",
    ]
