"""Starting: one service for a run folder and a data folder, and what it costs."""

import json
import signal
import time

from tests.integration.conftest import NewService
from tests.integration.kite import Kite
from tests.integration.service import until

RESIDENT_MAX_MB = 400
INSTRUMENTS = [[*range(base + 1, base + 1 + 3000 * 0x100, 0x100)] for base in (0x100000, 0x400000)]
SMALL = {"primary": [408065], "secondary": [738561]}


def test_a_second_run_is_refused(kite: Kite, new_service: NewService):
    """On the same run folder, or the same data folder with another: exit 2, one line, and the first records on."""
    first = new_service(universe=SMALL)
    kite.load(1000)
    first.start()
    first.wait_until_live(1, 2)
    before = sorted(first.processes())
    other = new_service(universe=SMALL, storage={"data_dir": str(first.data_dir)})
    second = first.mds("run")
    third = other.mds("run")

    for refused in (second, third):
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith("mds: ")
        assert refused.stderr.count("\n") == 1
    assert sorted(first.processes()) == before
    assert other.processes() == []
    stored = first.stored()
    until(lambda: first.stored() > stored + 500, "the first goes on recording")
    assert first.stop() == 0
    first.assert_verified()
    assert first.events("gap") == []


def test_six_thousand_instruments_fit_in_memory(kite: Kite, new_service: NewService):
    """Both connections full: every instrument ticks, and all processes together stay below 400 MB."""
    service = new_service(universe=dict(zip(("primary", "secondary"), INSTRUMENTS, strict=True)))
    kite.load(6000, frame=50)
    service.start()
    live = service.wait_until_live(1, 2)
    assert [live["connections"][c]["capacity_remaining"] for c in ("1", "2", "3")] == [0, 0, 3000]
    service.wait_for(lambda s: all(i["tick_count"] for i in s["instruments"]), "every instrument has ticked")
    resident = service.resident_kb()
    print(json.dumps({name: f"{kb / 1024:.0f} MB" for name, kb in resident.items()}))  # noqa: T201  the figure
    assert resident["Rss"] < RESIDENT_MAX_MB * 1024
    assert service.stop() == 0
    service.assert_verified()


def test_the_first_tick_comes_soon(kite: Kite, new_service: NewService):
    """From `mds run` to the first tick in the data file; how long it took is printed."""
    kite.load(1000)
    service = new_service(universe=SMALL)
    began_s = time.monotonic()
    service.start()
    until(service.stored, "a tick is stored")
    print(f"first tick on disk after {time.monotonic() - began_s:.2f} s")  # noqa: T201  the figure
    assert service.stop() == 0


def test_a_run_that_ends_while_it_begins_hands_on_what_was_left(kite: Kite, new_service: NewService):
    """Ended before its workers have begun, it lets them begin and end in order: nothing stays in the spools."""
    service = new_service(universe=SMALL)
    kite.load(4000, frame=10)
    service.start()
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 1000, "ticks are stored")
    service.send("writer", signal.SIGSTOP)
    service.wait_for(lambda s: all(s["connections"][c]["ticks_pending"] > 500 for c in "12"), "the spools fill")
    service.kill_all()
    kite.tell("pause")
    service.start()
    until(lambda: service.pid("worker-1"), "worker 1 begins")
    assert service.stop() == 0
    assert list(service.spool_dir.iterdir()) == []
    assert service.output().endswith(", still spooled 0\n")
    service.assert_verified()
