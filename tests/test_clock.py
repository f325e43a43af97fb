"""Receive times, with clocks that a test sets."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.clock import STEP_NS, SUSPENDED_NS, ClockStep, ReceiveClock
from pipeline.days import NS_PER_S

START_NS = 1_760_000_000 * NS_PER_S


class Machine:
    """A machine's three clocks."""

    def __init__(self) -> None:
        self.wall_ns, self.boot_ns, self.monotonic_ns = START_NS, 77 * NS_PER_S, 55 * NS_PER_S

    def clock(self) -> ReceiveClock:
        return ReceiveClock(lambda: self.wall_ns, lambda: self.boot_ns, lambda: self.monotonic_ns)

    def run(self, ns: int) -> None:
        self.wall_ns, self.boot_ns, self.monotonic_ns = self.wall_ns + ns, self.boot_ns + ns, self.monotonic_ns + ns

    def sleep(self, ns: int) -> None:
        self.wall_ns, self.boot_ns = self.wall_ns + ns, self.boot_ns + ns


def test_it_is_the_wall_clock_while_nobody_sets_it():
    """Receive time goes with the wall clock, and there is nothing to report."""
    machine = Machine()
    clock = machine.clock()
    machine.run(3 * NS_PER_S)
    assert clock.now_ns() == machine.wall_ns
    assert clock.check() is None
    assert clock.suspended_ns() == 0


def test_a_step_forward_is_followed():
    """After the wall clock was set forward, receive time agrees with it again, and says so once."""
    machine = Machine()
    clock = machine.clock()
    machine.wall_ns += 7 * NS_PER_S
    assert clock.now_ns() == START_NS
    assert clock.check() == ClockStep(7 * NS_PER_S, followed=True)
    assert clock.now_ns() == machine.wall_ns
    assert clock.check() is None


def test_a_step_back_is_held():
    """After the wall clock was set back, receive time goes on as before, and says so once."""
    machine = Machine()
    clock = machine.clock()
    machine.wall_ns -= 3600 * NS_PER_S
    assert clock.check() == ClockStep(-3600 * NS_PER_S, followed=False)
    machine.run(NS_PER_S)
    assert clock.check() is None
    assert clock.now_ns() == START_NS + NS_PER_S


def test_a_second_step_back_is_reported_too():
    """Each step is news, also where an earlier one is not yet made up."""
    machine = Machine()
    clock = machine.clock()
    machine.wall_ns -= 2 * NS_PER_S
    clock.check()
    machine.wall_ns -= 2 * NS_PER_S
    assert clock.check() == ClockStep(-4 * NS_PER_S, followed=False)


def test_coming_back_from_behind_is_quiet():
    """A wall clock that was set back and then right again needs no step: receive time was right all along."""
    machine = Machine()
    clock = machine.clock()
    machine.wall_ns -= 2 * NS_PER_S
    clock.check()
    machine.wall_ns += 2 * NS_PER_S
    assert clock.check() is None
    assert clock.now_ns() == machine.wall_ns


def test_drift_is_left_alone():
    """A difference below the threshold is slewed away by the system: no step, no report."""
    for offset_ns in (STEP_NS - 1, -(STEP_NS - 1)):
        machine = Machine()
        clock = machine.clock()
        machine.wall_ns += offset_ns
        assert clock.check() is None
        assert clock.now_ns() == START_NS


def test_suspension_is_seen_once_and_is_no_step():
    """A pause of the machine is told once, with its length; the boot-time clock has gone on meanwhile."""
    machine = Machine()
    clock = machine.clock()
    machine.sleep(30 * NS_PER_S)
    assert clock.check() is None
    assert clock.now_ns() == machine.wall_ns
    assert clock.suspended_ns() == 30 * NS_PER_S
    assert clock.suspended_ns() == 0
    machine.sleep(SUSPENDED_NS - 1)
    assert clock.suspended_ns() == 0


steps = st.one_of(
    st.tuples(st.just("run"), st.integers(0, 10 * NS_PER_S)),
    st.tuples(st.just("sleep"), st.integers(0, 10 * NS_PER_S)),
    st.tuples(st.just("set"), st.integers(-100 * NS_PER_S, 100 * NS_PER_S)),
    st.tuples(st.just("check"), st.just(0)),
)


@given(st.lists(steps, max_size=40))
def test_it_never_steps_back(history):
    """Whatever is done to the wall clock, receive time only grows, and is never behind it by a step after a check."""
    machine = Machine()
    clock = machine.clock()
    last_ns = clock.now_ns()
    for what, ns in history:
        if what == "set":
            machine.wall_ns += ns
        elif what == "check":
            clock.check()
            assert machine.wall_ns - clock.now_ns() < STEP_NS
        else:
            getattr(machine, what)(ns)
        assert clock.now_ns() >= last_ns
        last_ns = clock.now_ns()


def test_each_step_back_is_told_however_often_it_comes():
    """Once the clocks have agreed again, the same step back is a new one."""
    machine = Machine()
    clock = machine.clock()
    steps = []
    for offset_ns in (-9 * NS_PER_S, 9 * NS_PER_S, -9 * NS_PER_S):
        machine.wall_ns += offset_ns
        steps.append(clock.check())
    assert steps == [ClockStep(-9 * NS_PER_S, followed=False), None, ClockStep(-9 * NS_PER_S, followed=False)]
