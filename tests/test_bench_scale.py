"""`bench.scale`: which points are measured when, what several rounds say of one, and how that is shown."""

import json
import struct
from itertools import pairwise
from pathlib import Path
from subprocess import TimeoutExpired
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench import scale
from bench.rig import plots
from bench.rig.points import PARTS, Cost, Point, Run, cost_of, visits
from bench.rig.stretch import Stretch
from pipeline.errors import MdsError

ROLES = ("supervisor", "writer", "worker-1", "worker-2", "worker-3", "simulator")


def a_run(us: float, *, rate: int = 1000, memory_mb: float = 100.0) -> Run:
    """Return a round of ten seconds in which every role took as much, `us` in all for a tick, 1 % of a core idle."""
    sent = rate * 10
    each_s = us * sent / 1e6 / 5 if sent else 0.02
    used, share = dict.fromkeys(ROLES, each_s), dict.fromkeys(ROLES, each_s / 10)
    return Run(Stretch(rate, 10.0, 0.0, sent, sent, 0.0, used, share), memory_mb)


def a_cost(us: float, instruments: int = 90, rate: int = 1000) -> Cost:
    """Return a cost of one round."""
    return cost_of(Point(instruments, rate), [a_run(us, rate=rate)])


points = st.lists(st.builds(Point, st.integers(1, 6000), st.integers(0, 10**6)), min_size=1, max_size=8)


@given(points, st.integers(1, 5))
def test_every_point_has_its_turn_in_every_round(some: list[Point], rounds: int) -> None:
    """Each once in a round, whatever is asked for twice, and each round begins where the one before has ended."""
    order = visits(some, rounds)
    size = len(set(some))
    each = [order[first : first + size] for first in range(0, len(order), size)]
    assert len(each) == rounds
    assert all(set(some) == set(one) for one in each)
    assert all(one == before[::-1] for before, one in pairwise(each))


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=7))
def test_the_round_in_the_middle_is_shown_whole(us: list[float]) -> None:
    """Parts add up to the whole, which one of the rounds had; as many were dearer as cheaper."""
    cost = cost_of(Point(90, 1000), [a_run(value) for value in us])
    total = sorted(us)[(len(us) - 1) // 2]
    assert cost.total_us == pytest.approx(total)
    assert cost.us["workers"] == pytest.approx(total * 2 / 5)
    assert cost.us["spare"] == pytest.approx(total / 5)
    assert cost.least_us == pytest.approx(min(us))
    assert cost.most_us == pytest.approx(max(us))
    assert cost.total_share == pytest.approx(total * 1000 / 1e6)


def test_every_part_of_the_recorder_counts_and_nothing_else():
    """The simulator is not the recorder's; all its processes are in one part each."""
    assert sorted(role for roles in PARTS.values() for role in roles) == sorted(set(ROLES) - {"simulator"})


def test_without_ticks_there_is_no_cost_of_one():
    """Only the share of a core, and the memory."""
    told = cost_of(Point(90, 0), [a_run(0, rate=0, memory_mb=mb) for mb in (3, 1, 2)]).as_dict()
    assert (told["us_per_tick"], told["us_per_tick_by_part"]) == (None, {})
    assert told["share_of_a_core"] == pytest.approx(0.01)
    assert told["memory_mb"] == 2


@pytest.mark.parametrize(("sent", "rate"), [(9_990, 1000), (9_810, 1000), (9_700, 970)])
def test_a_rate_that_could_not_be_sent_is_not_shown_as_if(sent: int, rate: float) -> None:
    """Within two per cent it is the rate that was asked for."""
    run = a_run(1.0)
    short = Run(Stretch(1000, 10.0, 0.0, sent, sent, 0.0, run.stretch.cpu_s, run.stretch.share), 1.0)
    assert cost_of(Point(90, 1000), [short]).rate == rate


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0.001, 0.3))
def test_labels_are_apart(places: list[float], step: float) -> None:
    """By at least the step, none below its line, in the order of the lines; those with room stay where they are."""
    moved = plots.spread_out(places, step)
    ordered = sorted(moved)
    assert all(high - low >= step * 0.999 for low, high in pairwise(ordered))
    assert all(after >= before for before, after in zip(places, moved, strict=True))
    assert sorted(range(len(places)), key=lambda n: places[n]) == sorted(range(len(places)), key=lambda n: moved[n])
    assert min(moved) == min(places)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0481, "0.048"), (2.53, "2.5"), (9.96, "10"), (77.2, "77"), (999, "999"), (199_873, "200,000")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    """As a title or a label says them."""
    assert plots.short(value) == text


def run_scale(monkeypatch, folder: Path, measured: Any, *words: str) -> tuple[int, str, str]:
    """Run the command with this for a measurement; return exit code, stdout, stderr."""
    monkeypatch.setattr(scale, "measured", measured)
    done = CliRunner().invoke(scale.main, ["--out", str(folder / "out"), *words])
    return done.exit_code, done.stdout, done.stderr


def as_if(point: Point, *_: object) -> Run:
    """Return a round of a point, in which a tick costs the more the more instruments there are."""
    return a_run(2.0 + point.instruments / 3000, rate=point.rate)


def test_one_object_of_json_and_two_pictures(monkeypatch, tmp_path):
    """Every point is in it, and the ratio is that of the most instruments to the fewest."""
    words = ("--instruments", "6000,3000", "--rates", "20000,1000", "--rounds", "2", "--json")
    code, out, err = run_scale(monkeypatch, tmp_path, as_if, *words)
    told = json.loads(out)
    assert code == 0
    assert [(point["instruments"], point["ticks_per_second"]) for point in told["points"]] == [
        (6000, 20_000),
        (3000, 20_000),
        (3000, 1000),
        (6000, 0),
    ]
    assert told["most_to_fewest"] == pytest.approx(4 / 3)
    assert told["idle_share"] == pytest.approx(0.01)
    for name in told["pictures"]:
        width, height = struct.unpack(">II", Path(name).read_bytes()[16:24])  # of a PNG
        assert width >= 1000 > height / 2
        assert f"drawn: {name}" in err


def test_tables(monkeypatch, tmp_path):
    """Each point has a line, and what was to be reached stands beside what was measured."""
    code, out, _ = run_scale(monkeypatch, tmp_path, as_if, "--instruments", "3000,6000", "--rates", "1000,200000")
    assert code == 0
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "a tick with 6,000 instruments, to 3,000 1.33 x 1.2 x" in rows
    assert "idle with 6,000 instruments, of a core 1.00% 2%" in rows
    assert "200,000 3.00 3.00 3.00 1.20 0.60 0.60 0.60 60.0%" in rows
    code, out, _ = run_scale(monkeypatch, tmp_path, as_if, "--instruments", "90", "--rates", "1000")
    assert code == 0
    assert "to 90" not in out


@pytest.mark.parametrize("stored", [99, 101, 0])
def test_loss_and_repetition_end_it(stored: int) -> None:
    """What is not stored once makes the cost worthless; the message has both numbers, and how the storage is."""
    recorder: Any = SimpleNamespace(lines=lambda: stored, status=lambda: {"storage": {"state": "paused"}})
    scale.check_stored(Point(90, 1000), stored, recorder)
    with pytest.raises(AssertionError, match=f"100 ticks were sent, {stored} are stored; storage is paused"):
        scale.check_stored(Point(90, 1000), 100, recorder)


@pytest.mark.parametrize(
    "error",
    [AssertionError("died"), MdsError("no answer"), OSError(28, "No space left"), TimeoutExpired("mds stop", 60)],
)
def test_what_cannot_be_measured_is_told(monkeypatch, tmp_path, error):
    """One line and exit 1, and no figures."""

    def fails(*_: object) -> Run:
        raise error

    code, out, err = run_scale(monkeypatch, tmp_path, fails)
    assert (code, out) == (1, "")
    assert f"Error: {error}" in err


@pytest.mark.parametrize(
    "words",
    [
        ("--rates", "0"),
        ("--rates", "1,000"),
        ("--rates", "2000001"),
        ("--instruments", "6001"),
        ("--instruments", ""),
        ("--seconds", "0"),
        ("--mode", "depth"),
        ("--out", __file__),
        ("--out", "/proc/none"),
    ],
)
def test_wrong_usage(monkeypatch, tmp_path, words: tuple[str, str]) -> None:
    """The message names the option; exit 2, before anything is measured."""
    code, out, err = run_scale(monkeypatch, tmp_path, None, *words)
    assert (code, out) == (2, "")
    assert words[0] in err
