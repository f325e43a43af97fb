"""Each benchmark runs, as a user would start it, with the smallest load that shows anything; speeds are not judged.

What a figure is depends on the machine and on what else it does. What is checked is that the commands end well, count
right, and say what they measured.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.integration.service import until

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120.0  # for one of them; none is expected to take a quarter of it


def bench(name: str, *words: str) -> dict[str, Any]:
    """Run a benchmark and return what it prints with --json."""
    done = run(name, *words)
    assert done.returncode == 0, done.stderr
    return told(done)


def run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a benchmark with --json until it ends."""
    command = [sys.executable, "-m", f"bench.{name}", *words, "--json"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return what it has printed."""
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert {"date", "commit", "processor", "cores"} <= found["conditions"].keys()
    return found


def test_load():
    """All that was sent is stored, as it was sent, and everything about it is told."""
    found = bench("load", "--rate", "500", "--seconds", "1", "--instruments", "60")
    assert found["sent"] == found["stored"] > 400
    assert {found[name] for name in ("lost", "repeated", "out_of_order", "foreign", "problems")} == {0}
    assert found["failures"] == []
    for latency in (found["written_ms"], found["durable_ms"]):
        assert latency["count"] > 0 == latency["not_seen"]
        assert 0 <= latency["p50"] <= latency["p99"] <= latency["max"]
    assert set(found["cpu_s"]) == {"supervisor", "writer", "worker-1", "worker-2", "worker-3", "simulator"}
    assert found["service_peak_mb"] > 50


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(tmp_path, number):
    """No process goes on that the benchmark has started, and what was recorded is deleted."""
    words = ("--rate", "500", "--seconds", "60", "--instruments", "60")
    with subprocess.Popen(
        ["env", "--default-signal=HUP", sys.executable, "-m", "bench.load", *words],  # these tests may run by nohup
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},  # by which its processes are known, too
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert any("recording" in line for line in process.stderr)
            children = working_for(tmp_path)
            assert len(children) > 5
            process.send_signal(number)
            assert process.wait(DEADLINE_S) == 1
        finally:
            process.kill()
    until(lambda: not working_for(tmp_path), f"the end of {children}")  # a process that is dying is there for a moment
    assert not list(tmp_path.iterdir())


def working_for(folder: Path) -> list[int]:
    """Return the processes that have this as their temporary folder."""
    mark, found = f"TMPDIR={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def test_capacity():
    """A rate that is asked for is tried, its ticks are compared with what was sent, and the floor is measured."""
    words = ("--mode", "quote", "--hold", "1", "--from", "5000", "--to", "5000", "--instruments", "20", "--no-baseline")
    found, is_held = held_or_slow("capacity", *words)
    (quote,) = found["modes"].values()
    if is_held:
        assert quote["pipeline"]["ticks_per_s"] == 5000
        assert quote["floor"]["us_per_tick"] > quote["floor"]["decode_encode_us_per_tick"] == 0.3


def test_baseline():
    """Both recorders store everything of a flood, and their costs are compared.

    On a busy machine the official client may be so slow that it is disconnected in the flood; that is said then.
    """
    words = ("--mode", "full", "--seconds", "1", "--rounds", "1", "--to", "20000", "--instruments", "20")
    found, is_held = held_or_slow("baseline", *words)
    (full,) = found["modes"].values()
    missed = {name: side["lost"] + side["repeated"] for name, side in full["flooded"].items()}
    assert missed == {"pipeline": 0, "baseline": 0 if is_held else missed["baseline"]}
    assert full["times_less_cpu"] > 0


def held_or_slow(name: str, *words: str) -> tuple[dict[str, Any], bool]:
    """Run a benchmark that asks whether a rate is held; return what it prints, and whether all rates were.

    This machine may be too busy even for that. Then being late must be all that was wrong.
    """
    done = run(name, *words)
    assert done.returncode in (0, 1), done.stderr
    found = told(done)
    if done.returncode == 0:
        return found, True
    searches = [side.get("highest", side) for side in found["modes"].values()]
    sides = [side for search in searches for key, side in search.items() if key in ("pipeline", "baseline")]
    reasons = [side["not_held"]["why"] for side in sides if "not_held" in side]
    assert reasons, done.stderr
    assert all("could be sent" in why or "are allowed" in why for why in reasons), reasons
    assert "are stored" not in done.stderr  # of trials before that, either
    return found, False


def test_decode():
    """What the three ways make of the same frames is the same, and each has its time."""
    found = bench("decode", "--frames", "1,100", "--modes", "quote,full", "--packets", "500", "--rounds", "1")
    assert len(found["cases"]) == 4
    assert all(each["median"] > 0 for case in found["cases"] for each in case["us_per_tick"].values())


def test_scale(tmp_path):
    """Each point is measured, and both pictures are there."""
    words = ("--instruments", "90", "--rates", "1000", "--seconds", "0.5", "--rounds", "1", "--out", str(tmp_path))
    found = bench("scale", *words)
    assert found["most_to_fewest"] == pytest.approx(1.0)
    assert [point["ticks_per_second"] > 0 for point in found["points"]] == [True, True, False]
    assert {path.name for path in tmp_path.iterdir()} == {"scale-instruments.png", "scale-rate.png"}


def test_failover():
    """A failure has its phases and its gap record."""
    found = bench("failover", "--kills", "1", "--connection", "1")
    assert found["failures"] == found["gaps"] == found["phases"]["kill"]["total_ms"]["count"] == 1
    assert found["stored"] <= found["sent"]


def test_soak():
    """All that was sent is stored, the files are verified, and memory and open files have been followed."""
    found = bench("soak", "--hours", "0.001", "--instruments", "90", "--rate", "2000", "--every", "1")
    assert found["sent"] == found["stored"] > 0
    assert (found["complete"], found["verified"], found["problems"]) == (True, True, [])
    assert {"writer", "worker-1", "all together"} <= found["memory_mb"].keys()
    assert found["is_flat"] is None
