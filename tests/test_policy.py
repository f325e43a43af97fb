"""When to restart what has died: histories of lives, in seconds."""

import pytest

from pipeline.supervisor.policy import CAP_S, FIRST_S, FORGIVEN_S, WRITER_CAP_S, Restarts


def test_the_writer_is_restarted_at_once_and_then_within_its_cap():
    """Every worker waits for the writer: its first restart has no delay, and none is above a second."""
    restarts = Restarts(is_writer=True)
    delays = [restarts.died(0.0) for _ in range(20)]
    assert delays[0] == 0.0
    assert all(0 < delay_s <= WRITER_CAP_S for delay_s in delays[1:])
    assert restarts.count == 20


def test_a_worker_backs_off_to_its_cap():
    """A worker that dies again and again waits longer each time, up to the cap."""
    restarts = Restarts(is_writer=False)
    delays = [restarts.died(1.0) for _ in range(20)]
    assert FIRST_S / 2 <= delays[0] <= FIRST_S
    assert CAP_S / 2 <= delays[-1] <= CAP_S


@pytest.mark.parametrize(("is_writer", "longest_s"), [(True, 0.0), (False, FIRST_S)])
def test_who_ran_long_begins_anew(is_writer, longest_s):
    """After a long life a death counts as the first one, while the count goes on."""
    restarts = Restarts(is_writer=is_writer)
    for _ in range(10):
        restarts.died(0.0)
    assert restarts.died(FORGIVEN_S + 1) <= longest_s
    assert restarts.count == 11
