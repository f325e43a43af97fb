"""Each benchmark runs, as a user would start it, with the smallest load that shows anything; speeds are not judged.

What a figure is depends on the machine and on what else it does. What is checked is that the commands end well, count
right, and say what they measured.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120.0  # for one of them; none is expected to take a quarter of it


def bench(name: str, *words: str, code: int = 0) -> dict[str, Any]:
    """Run a benchmark and return what it prints with --json."""
    command = [sys.executable, "-m", f"bench.{name}", *words, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == code, done.stderr
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


def test_capacity():
    """A rate that is asked for is tried, its ticks are compared with what was sent, and the floor is measured."""
    words = ("--mode", "quote", "--hold", "1", "--from", "5000", "--to", "5000", "--instruments", "20", "--no-baseline")
    found = held_or_slow("capacity", *words)
    if found:
        (quote,) = found["modes"].values()
        assert quote["pipeline"]["ticks_per_s"] == 5000
        assert quote["floor"]["us_per_tick"] > quote["floor"]["decode_encode_us_per_tick"] == 0.3


def test_baseline():
    """Both recorders store everything of a flood, and their costs are compared."""
    words = ("--mode", "full", "--seconds", "1", "--rounds", "1", "--to", "20000", "--instruments", "20")
    found = held_or_slow("baseline", *words)
    if found:
        (full,) = found["modes"].values()
        assert {side["lost"] + side["repeated"] for side in full["flooded"].values()} == {0}
        assert full["times_less_cpu"] > 0


def held_or_slow(name: str, *words: str) -> dict[str, Any] | None:
    """Run a benchmark that asks whether a rate is held; None where this machine was too busy even for that."""
    try:
        return bench(name, *words)
    except AssertionError as error:
        if "were held" not in str(error):
            raise
        return None


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
