"""`bench.soak`: what it makes of samples and counts, and the check of lines while they are written."""

import os
import random
import shutil
import tracemalloc
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import soak
from bench.rig import room, soaked, soaking
from bench.rig.compare import difference, owners
from bench.rig.growth import LEAST_S, WARM_UP_S, growth
from bench.rig.room import bytes_per_tick
from bench.rig.soaked import ALL, Sample, Soak, Use
from bench.rig.spread import Spread, bar, histogram
from bench.rig.stored import PAGE_BYTES, StoredTicks, punch
from pipeline.files import tick_file_name
from pipeline.ticks import LtpTick, encode_lines
from pipeline.wire import StreamId

NOON = datetime(2025, 10, 1, 12, tzinfo=UTC)
DAY = NOON.date()


def lines(*numbers: int, connection_id: int = 1, epoch: int = 5) -> bytes:
    """Return stored ticks with these numbers."""
    received = f"{DAY}T12:00:00.000000+05:30"
    return encode_lines([LtpTick(True, 408065, 1.0, received, connection_id, epoch, seq) for seq in numbers])


def sample(seconds: float, **uses: Use) -> Sample:
    """Return a sample with what these processes used."""
    return Sample(
        seconds, sent=0, stored=0, wrong=0, behind_s=0.0, kills=0, free_gb=1.0, uses={"writer": Use(1, 1, 1, 1)} | uses
    )


# Growth.


@given(
    slope=st.floats(-1e-2, 1e-2),
    level=st.floats(10, 500),
    hours=st.floats(0.5, 48),
    peak=st.floats(0, 1000),
)
def test_a_line_is_found_as_it_is_and_what_the_warm_up_did_does_not_count(
    slope: float, level: float, hours: float, peak: float
):
    """Slope and rise are those of the line behind the warm-up, and more than is allowed is not flat."""
    seconds = [hours * 3600 * n / 100 for n in range(101)]
    warm_s = min(WARM_UP_S, 0.1 * seconds[-1])
    points = [(t, level + slope * t + (peak if t < warm_s else 0)) for t in seconds]
    found = growth(points, allowed=1.0)
    assert found is not None
    judged = [point for point in points if point[0] >= warm_s]
    assert found.per_hour == pytest.approx(slope * 3600, abs=1e-6)
    rise = slope * (judged[-1][0] - judged[0][0])
    assert found.rise == pytest.approx(rise, abs=1e-6)
    assert (found.first, found.last) == (judged[0][1], judged[-1][1])
    assert found.largest == max(value for _, value in judged)
    if abs(rise - 1.0) > 1e-3:
        assert found.is_flat is (rise <= 1.0)


def test_noise_on_a_level_is_flat_and_a_leak_within_the_noise_is_not():
    """The line goes through all points: one sample that is high or low decides nothing."""
    chance = random.Random(3)
    noise = [(10.0 * n, 100 + chance.uniform(-3, 3)) for n in range(360)]
    level, leak = growth(noise, allowed=1.0), growth([(t, mb + t / 600) for t, mb in noise], allowed=1.0)
    assert level is not None
    assert level.is_flat
    assert leak is not None
    assert leak.is_flat is False
    share = growth([(t, mb + t / 600) for t, mb in noise], allowed=1.0, allowed_share=0.1)
    assert share is not None
    assert share.is_flat


@pytest.mark.parametrize("points", [[(0.0, 5.0)], [(0.0, 5.0), (1.0, 50.0)], [(n, n) for n in range(int(LEAST_S))]])
def test_a_short_run_tells_nothing(points: list[tuple[float, float]]):
    """However steep it is."""
    found = growth(points, allowed=1.0)
    assert found is not None
    assert found.is_flat is None


def test_without_samples_there_is_no_growth():
    """Neither of one process nor of all."""
    assert growth([], allowed=1.0) is None
    assert soaked.memory(Soak()) == soaked.files(Soak()) == {}


def test_with_kills_a_role_is_judged_by_its_longest_life():
    """Memory that a killed process had gives no line with that of its successor."""
    samples = [sample(n, supervisor=Use(10 if n < 2 else 20 if n < 9 else 30, n, n, n)) for n in range(12)]
    assert [seconds for seconds, _ in soaked.life(samples, "supervisor")] == [2, 3, 4, 5, 6, 7, 8]
    seen = Soak(samples=samples)
    assert soaked.memory(seen)["supervisor"].last == 8
    assert soaked.memory(seen)[ALL].last == 12  # with the writer's
    assert "worker-1" not in soaked.memory(seen)


# Verdicts.


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Soak(sent=10, stored=10), []),
        (Soak(sent=10, stored=9), ["1 of 10 ticks are lost"]),
        (Soak(sent=10, stored=11), ["1 ticks are stored that were never sent"]),
        (Soak(sent=10, stored=9, kills=Counter({"writer": 5, "supervisor": 1})), ["1 of 10 ticks are lost"]),
        (Soak(sent=10, stored=9, kills=Counter({"worker-1": 1}), gaps=1), []),
        (Soak(sent=10, stored=9, kills=Counter({"worker-1": 1})), ["without a gap record"]),
        (Soak(sent=10, stored=10, missing=3), ["3 numbers of ticks are missing"]),
        (Soak(sent=10, stored=10, wrong=Counter({"duplicate": 2})), ["2 lines are duplicate"]),
    ],
)
def test_what_is_lost_is_a_problem(seen: Soak, words: list[str]):
    """What was on its way to a worker that was killed is none, if it is on record."""
    seen.judge()
    assert len(seen.problems) == len(words)
    assert all(word in problem for word, problem in zip(words, seen.problems, strict=True))


def test_all_figures_can_be_shown_of_a_run_that_ended_at_once():
    """Nobody has answered, nothing was sampled."""
    assert soaked.figures(Soak())["behind_s"] is None
    assert soaked.figures(Soak())["is_flat"] is None
    assert soaked.tables(Soak())


def test_flat_is_what_all_processes_are():
    """One that grows is enough; so is one that cannot be told."""
    times = [10.0 * n for n in range(360)]
    flat = [sample(t, **{"worker-1": Use(2, 50, 50, 20)}) for t in times]
    assert soaked.is_flat(Soak(samples=flat)) is True
    leak = [sample(t, **{"worker-1": Use(2, 50 + t / 100, 50, 20)}) for t in times]
    assert soaked.is_flat(Soak(samples=leak)) is False
    handles = [sample(t, **{"worker-1": Use(2, 50, 50, 20 + int(t / 100))}) for t in times]
    assert soaked.is_flat(Soak(samples=handles)) is False


# The check of lines.


@given(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=40), st.data())
def test_lines_are_counted_once_however_they_come(
    tmp_path_factory: pytest.TempPathFactory, who: list[int], data: st.DataObject
):
    """In whatever pieces they are written and looked at, over streams that take turns, and midnight between."""
    folder = tmp_path_factory.mktemp("data")
    counts: Counter[int] = Counter()
    text = b""
    for connection_id in who:
        counts[connection_id] += 1
        text += lines(counts[connection_id], connection_id=connection_id)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    checked = StoredTicks(folder)
    assert checked() == 0
    with (folder / tick_file_name(DAY)).open("wb", buffering=0) as file:
        for since, to in zip([0, *cuts], [*cuts, len(text)], strict=True):
            file.write(text[since:to])
            assert checked() == text[:to].count(b"\n")
    assert checked() == len(who)
    assert (checked.missing, checked.wrong.total()) == (0, 0)


@pytest.mark.parametrize(
    ("text", "count", "missing", "wrong"),
    [
        (lines(1, 2, 4), 3, 1, {}),
        (lines(3), 1, 2, {}),
        (lines(1, 2, 2), 3, 0, {"duplicate": 1}),
        (lines(1, 3, 2), 3, 0, {"out of order": 1}),
        (lines(1) + b"{}\n" + lines(2), 2, 0, {"no tick": 1}),
        (lines(1) + b"\0" * 10 + b"\n" + lines(2), 2, 0, {"no tick": 1}),
        (lines(1).replace(b"2025-10-01", b"2025-10-02"), 1, 0, {"of another day": 1}),
    ],
)
def test_what_is_wrong_is_seen(tmp_path: Path, text: bytes, count: int, missing: int, wrong: dict[str, int]):
    """Numbers left out, repeated or late, and lines that are no ticks of this day."""
    (tmp_path / tick_file_name(DAY)).write_bytes(text)
    checked = StoredTicks(tmp_path)
    assert checked() == count
    assert (checked.missing, checked.wrong) == (missing, wrong)


def test_what_was_checked_is_freed_and_its_end_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The size is what it was, nothing is checked again, and what comes afterwards is."""
    monkeypatch.setattr("bench.rig.stored.KEPT_BYTES", 2 * PAGE_BYTES)
    path = tmp_path / tick_file_name(DAY)
    path.write_bytes(lines(*range(1, 1001)))
    size = path.stat().st_size
    checked = StoredTicks(tmp_path)
    checked()
    for _ in range(2):
        checked.discard()
    freed = (size - 2 * PAGE_BYTES) // PAGE_BYTES * PAGE_BYTES
    data = path.read_bytes()
    assert len(data) == size
    assert data[:freed] == bytes(freed)
    assert data[freed:] == lines(*range(1, 1001))[freed:]
    with path.open("ab") as file:
        file.write(lines(1001, 1003))
    assert (checked(), checked.missing, checked.wrong.total()) == (1002, 1, 0)


def test_where_nothing_can_be_freed_it_says_so():
    """A folder, a file that may not be written, a file system without it: all are an OSError."""
    with pytest.raises(OSError, match="directory"):
        punch(Path("/"), 0, PAGE_BYTES)


# Kills and room.


def test_kills_come_at_random_and_as_often_as_asked_for():
    """All roles come up; without a rate nobody is ever killed."""
    kills = soaking.Kills(3600)
    due = [role for second in range(20_000) if (role := kills.due(float(second)))]
    assert set(due) == set(soaking.VICTIMS)
    assert 8_000 < len(due) < 14_000  # one a second on average, and no more than one at a look
    assert not any(soaking.Kills(0).due(float(second)) for second in range(0, 10**9, 10**6))


def test_a_run_that_does_not_fit_is_refused_before_it_begins():
    """It says what is needed, and what to do."""
    with pytest.raises(click.UsageError, match=r"too little room: .* GB are needed, .*--discard needs little"):
        soak.require_room(10**9, 10_000, "mixed", 10, discard=False)
    soak.require_room(3600, 0, "mixed", 10, discard=False)


def test_a_run_whose_comparison_does_not_fit_in_memory_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch):
    """It says what is needed, and what to do; what is discarded is not compared."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**13))
    monkeypatch.setattr(room, "free_memory", lambda: 4 * 10**9)
    soak.require_room(3000, 10_000, "mixed", 10, discard=False)
    with pytest.raises(click.UsageError, match=r"too little memory: .* 4\.7 GB, 4\.0 are free; .*--discard"):
        soak.require_room(3600, 10_000, "mixed", 10, discard=False)
    soak.require_room(36_000, 10_000, "mixed", 10, discard=True)


@pytest.mark.parametrize(("lost", "most"), [(0, 40), (1, 130)])
def test_comparing_takes_no_more_memory_than_is_said(lost: int, most: int):
    """A run would be killed at its end, after hours."""
    ticks = 200_000
    sent = np.random.default_rng(1).integers(0, 2**63, ticks).astype(np.uint64)
    stored = np.delete(sent, np.arange(ticks // 2, ticks // 2 + lost))
    tracemalloc.start()
    try:
        assert owners([sent], {StreamId(1, 1): stored}) == [StreamId(1, 1)]
        assert difference([sent], stored).lost == lost
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 16 + peak / ticks <= most * 1.02 <= room.COMPARED_BYTES * 1.02  # 16: both digests


def test_free_memory_is_some_of_the_machine():
    """At least a few megabytes, or nothing would run."""
    assert 2**20 < room.free_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_tick_takes_what_its_mode_takes():
    """More in full mode than in quote, more in that than in ltp; mixed is their mean."""
    (ltp, _), (quote, quote_wire), (full, _) = (bytes_per_tick((mode,)) for mode in ("ltp", "quote", "full"))
    assert 100 < ltp < quote < full < 2000
    assert quote_wire == pytest.approx(46, abs=0.1)
    assert bytes_per_tick(("ltp", "quote", "full"))[0] == pytest.approx((ltp + quote + full) / 3, rel=1e-3)


def test_what_a_process_uses_is_that_of_a_process():
    """Of this one; None of one that is not there."""
    used = soaking.use_of(os.getpid())
    assert used is not None
    assert used.resident_mb >= used.proportional_mb > 1
    assert used.files > 2
    assert soaking.use_of(2**22 + 1) is None


# Spread.


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300))
def test_a_spread_is_ordered_and_a_histogram_has_every_value_once(values: list[float]):
    """Classes join, from the least value to the largest."""
    spread = Spread.of(values)
    ordered = [min(values), spread.p50, spread.p90, spread.p99, spread.max]
    assert all(one <= other or one == pytest.approx(other) for one, other in pairwise(ordered))
    assert spread.max == max(values)
    assert spread.count == len(values)
    classes = histogram(values)
    assert sum(count for _, _, count in classes) == len(values)
    assert (classes[0][0], classes[-1][1]) == (min(values), max(values))
    assert all(one[1] == other[0] for one, other in pairwise(classes))


def test_a_bar_shows_whatever_there_is():
    """One of a thousand is still something, none is nothing."""
    assert (len(bar(1000, 1000)), bar(1, 1000), bar(0, 1000)) == (40, "#", "")
    assert histogram([]) == []
