"""Whether a rate was held, and what was the limit."""

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from bench import capacity
from bench.rig.floor import C_DECODE_ENCODE_US, Floor, measured_floor
from bench.rig.highest import Highest
from bench.rig.stretch import Stretch
from bench.rig.trial import Feed, Trial, limit, require_room, why_not_held
from bench.rig.workplace import workplace

FEED = Feed("quote", 3000, 2, frame_ticks=100)
CPU_S = {"writer": 4.0, "worker-1": 6.0, "simulator": 5.0}


def a_trial(
    *, rate=100_000, seconds=20.0, sent=None, stored=None, behind=0.06, drain=0.1, cpu=CPU_S, busy=1.2
) -> Trial:
    """Return a trial in which all went well, but for what is given."""
    sent = round(rate * seconds) if sent is None else sent
    share = {role: used / seconds for role, used in cpu.items()}
    done = Stretch(rate, seconds, drain, sent, sent if stored is None else stored, behind, cpu, share)
    return Trial(done, 400 * sent, busy)


@pytest.mark.parametrize(
    ("trial", "why"),
    [
        (a_trial(), ""),
        (a_trial(sent=1_960_000), ""),
        (a_trial(sent=1_940_000), "only 97,000 ticks/s could be sent"),
        (a_trial(seconds=1.0, sent=98_000 - 3200), ""),  # what waits for the simulator's next turn, or a whole frame
        (a_trial(stored=1_999_999), "2,000,000 ticks were sent, 1,999,999 are stored"),
        (a_trial(stored=2_000_001), "2,000,000 ticks were sent, 2,000,001 are stored"),
        (a_trial(behind=0.5, drain=0.5), ""),
        (a_trial(behind=0.51), "up to 0.51 s behind, 0.10 s at the end; 0.50 s are allowed"),
        (a_trial(behind=float("inf")), "up to inf s behind, 0.10 s at the end; 0.50 s are allowed"),
        (a_trial(drain=0.6), "up to 0.06 s behind, 0.60 s at the end; 0.50 s are allowed"),
        (a_trial(seconds=3.0, drain=0.4), "up to 0.06 s behind, 0.40 s at the end; 0.30 s are allowed"),
    ],
)
def test_why_a_rate_is_not_held(trial, why):
    """A rate is held that could be sent, was stored exactly, and without falling behind."""
    assert why_not_held(trial, FEED) == why


@pytest.mark.parametrize(
    ("cpu", "busy", "start"),
    [
        ({"writer": 4.0, "worker-1": 19.0, "simulator": 5.0}, 1.5, "worker-1: 95% of a core"),
        ({"writer": 4.0, "worker-1": 6.0, "simulator": 19.5}, 2.0, "simulator: 98% of a core"),
        (
            CPU_S,
            1.96,
            "the machine: all cores are busy (worker-1 30%, simulator 25%, writer 20%, others and the kernel",
        ),
        (CPU_S, 1.2, "no process uses a whole core, and the machine 1.2 of 2 cores (worker-1 30%, simulator 25%"),
    ],
)
def test_the_limit(cpu, busy, start):
    """It is a process that has a whole core, else the machine if it is full, else what nobody computes on."""
    assert limit(a_trial(cpu=cpu, busy=busy), cores=2).startswith(start)


def test_the_limit_is_told_of_the_slowest_rate_that_failed_above_the_held_one():
    """A rate that failed first and was held later is none that was not held."""
    highest = Highest()
    for rate, is_held, is_full in ((200, True, False), (400, False, False), (300, False, False), (300, False, False)):
        highest.tell(a_trial(rate=rate), is_held=is_held, is_full=is_full)
    assert (highest.rate, told(highest)) == (0, 300)
    for rate, is_held in ((200, True), (300, True), (310, False)):
        highest.tell(a_trial(rate=rate), is_held=is_held, is_full=True)
    assert (highest.rate, told(highest), highest.trials) == (300, 310, 7)


def told(highest: Highest) -> int:
    """Return the rate that was not held."""
    assert highest.refused
    return highest.refused.stretch.rate


@pytest.mark.parametrize(("instruments", "connections"), [(1, 2), (3001, 1), (6001, 2)])
def test_a_feed_that_connections_cannot_have(instruments, connections):
    """It is wrong usage to ask for more than Kite allows, or for a connection without an instrument."""
    with pytest.raises(click.UsageError, match="connections take"):
        Feed("quote", instruments, connections, frame_ticks=100)


def test_a_full_disk_is_noticed_before(monkeypatch):
    """There must be room for what will be recorded, and some to spare."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**10}))
    require_room(["quote"], 400_000, 20)
    for modes, seconds in ((["quote"], 60), (["quote", "full"], 30)):
        with pytest.raises(click.UsageError, match=r"has 10\.0 GB free, .* TMPDIR"):
            require_room(modes, 400_000, seconds)


@pytest.mark.parametrize("error", [AssertionError("why"), OSError("why"), subprocess.SubprocessError("why")])
def test_what_fails_ends_the_command(error):
    """It says why, exits with 1, and leaves no folder behind."""

    def fail():
        with workplace() as folder:
            folders.append(folder)
            raise error

    folders: list[Path] = []
    with pytest.raises(click.ClickException, match="why") as raised:
        fail()
    assert raised.value.exit_code == 1
    assert not folders[0].exists()


def test_the_floor_is_measured(tmp_path):
    """What is measured costs something, what is assumed is added, and nothing stays."""
    floor = measured_floor(tmp_path, "full", 1400.0, 100)
    assert floor.transport_us > 0
    assert floor.us == floor.transport_us + C_DECODE_ENCODE_US["full"]
    assert not list(tmp_path.iterdir())


def test_capacity_of_a_recorder_that_holds_nothing():
    """Without a rate there is no ratio and no floor, but the reason."""
    nothing = Highest()
    nothing.tell(a_trial(drain=1.0), is_held=False, is_full=True)
    figures = capacity.figures_of({"pipeline": nothing, "baseline": nothing}, FEED, None)
    assert figures["pipeline"]["ticks_per_s"] == 0
    assert "1.00 s at the end" in figures["pipeline"]["not_held"]["why"]
    assert not {"floor", "times_the_baseline"} & figures.keys()
    for columns, rows in capacity.tables_of(figures, "quote"):
        assert {len(row) for row in rows} <= {columns.count("|") + 1}


def test_capacity_in_ratios():
    """The pipeline is set against the baseline and against the floor."""
    found = {"pipeline": Highest(a_trial(rate=500_000)), "baseline": Highest(a_trial())}
    figures = capacity.figures_of(found, FEED, Floor(0.7, 0.3))
    assert figures["times_the_baseline"] == 5.0
    assert figures["pipeline"]["us_per_tick"] == 1.0
    assert figures["floor"]["pipeline_times_the_floor"] == 1.0
