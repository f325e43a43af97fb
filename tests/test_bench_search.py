"""The search for the highest rate, with recorders that are made up."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.rig.search import STEP, Attempt, ladder, search

LOWEST, HIGHEST = 20_000, 1_000_000
RUNGS = ladder(LOWEST, HIGHEST)
ROUNDING = 1.01  # of a rate, at most, to either side
MOST_ATTEMPTS = 32

Recorder = Callable[[Attempt], bool]


def run(holds: Recorder, rungs: list[int] = RUNGS) -> tuple[int | None, list[Attempt]]:
    """Search; return what was found and all that was tried."""
    steps, tried = search(rungs), []
    attempt = next(steps)
    while True:
        tried.append(attempt)
        try:
            attempt = steps.send(holds(attempt))
        except StopIteration as end:
            return end.value, tried


@given(st.integers(LOWEST, 2 * HIGHEST))
def test_finds_the_rung_below_the_capacity(capacity):
    """The answer is the highest rung that a steady recorder holds: never above, and within a step of what it can."""
    found, tried = run(lambda attempt: attempt.rate <= capacity)
    assert found == max(rate for rate in RUNGS if rate <= capacity)
    assert min(capacity, HIGHEST) < found * STEP * ROUNDING
    assert len(tried) <= MOST_ATTEMPTS


@given(st.integers(LOWEST, HIGHEST), st.floats(0.01, 100))
def test_full_trials_have_the_last_word(capacity, kindness):
    """Short trials that are kinder than full ones, or stricter, cost time and do not change the answer."""
    found, tried = run(lambda attempt: attempt.rate <= capacity * (1 if attempt.is_full else kindness))
    assert found == max(rate for rate in RUNGS if rate <= capacity)
    assert len(tried) <= MOST_ATTEMPTS


@given(st.integers(LOWEST, HIGHEST), st.integers(0, MOST_ATTEMPTS))
def test_one_hiccup_of_a_short_trial_changes_nothing(capacity, when):
    """A recorder that fails one short trial without reason gets the same answer."""
    numbers = itertools.count()
    found, _ = run(lambda attempt: attempt.rate <= capacity and (attempt.is_full or next(numbers) != when))
    assert found == max(rate for rate in RUNGS if rate <= capacity)


@given(st.data())
def test_an_answer_was_held_and_the_search_ends(data):
    """Whatever the trials say: the answer has held its full trial, and the number of trials is bounded."""
    held = set()

    def holds(attempt: Attempt) -> bool:
        is_held: bool = data.draw(st.booleans())
        if is_held and attempt.is_full:
            held.add(attempt.rate)
        return is_held

    found, tried = run(holds)
    assert found == max(held, default=None)
    assert len(tried) <= MOST_ATTEMPTS


def test_nothing_is_held():
    """Where not even the lowest rate is held there is no answer."""
    found, tried = run(lambda _: False)
    assert found is None
    assert {attempt.rate for attempt in tried} == {LOWEST}


def test_everything_is_held():
    """Where the highest rate is held that is the answer, and nothing lies above it."""
    found, tried = run(lambda _: True)
    assert found == HIGHEST
    assert tried[-1] == Attempt(HIGHEST, is_full=True)


def test_a_single_rate_is_tried_shortly_and_for_the_full_time():
    """From a rate to the same rate: does it hold that?"""
    assert run(lambda _: True, ladder(5000, 5000)) == (
        5000,
        [Attempt(5000, is_full=False), Attempt(5000, is_full=True)],
    )


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_a_ladder_has_both_ends_and_small_steps(lowest, more):
    """Rungs ascend from the lowest to the highest; above a hundred no step is larger than STEP and the rounding."""
    rungs = ladder(lowest, lowest + more)
    assert (rungs[0], rungs[-1]) == (lowest, lowest + more)
    for below, above in itertools.pairwise(rungs):
        assert below < above
        assert below < 100 or above / below < STEP * ROUNDING


@pytest.mark.parametrize("rungs", [ladder(1, 30), ladder(20_000, 20_500)])
def test_short_ladders(rungs):
    """Every rung of a short ladder can be the answer."""
    for place in range(len(rungs)):
        held = rungs[: place + 1]
        assert run(lambda attempt, held=held: attempt.rate in held, rungs)[0] == held[-1]  # type: ignore[misc]
