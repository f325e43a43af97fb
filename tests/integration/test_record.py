"""A whole recording: what is stored is what was sent, each tick once, in order, as the official client reads it."""

import json
import re
import signal
from datetime import datetime
from pathlib import Path

import pytest

from tests.integration.conftest import SCALE, NewService
from tests.integration.kite import Kite, comparable, id_of
from tests.integration.service import until

NSE, CDS, BCD, INDEX = 408065, 0x1203, 0x1306, 0x10009
PRIMARY = [NSE, CDS, BCD, INDEX, *range(0x200001, 0x201001, 0x100)]
SECONDARY = [738561, 0x2203, 0x2306, 0x20009, 0x2000C, *range(0x300001, 0x301001, 0x100)]
LTP = [0x30001, 0x30003, 0x30006, 0x30009]
OURS = ("timestamp", "connection_id", "epoch", "seq")


def test_what_is_stored_is_what_was_sent(kite: Kite, new_service: NewService):
    """1,000 ticks/s in every mode and segment: stored = sent, field by field as the official client has them."""
    service = new_service(universe={"primary": PRIMARY, "secondary": SECONDARY})
    number = round(3000 * SCALE)
    kite.load(1000, ltp=LTP, limit=number)
    began = datetime.now().astimezone()
    service.start()
    until(lambda: [c["ticks"] for c in kite.connections()] == [number, number], "all ticks are sent")
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] == 2 * number, "all ticks are stored")
    assert service.stop() == 0
    ended = datetime.now().astimezone()

    assert [kite.of(token)[0]["version"] for token in (NSE, 738561)] == ["3", "3"]
    streams = service.streams()
    assert [connection_id for connection_id, _ in streams] == [1, 2]
    for (connection_id, _), ticks in streams.items():
        connection = kite.of({1: NSE, 2: 738561}[connection_id])[0]
        stored = [comparable({key: tick[key] for key in tick if key not in OURS}) for tick in ticks]
        assert stored == kite.ticks(connection["number"])
        assert {tick["mode"] for tick in stored} >= {"ltp", {1: "quote", 2: "full"}[connection_id]}
        times = [tick["timestamp"] for tick in ticks]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+05:30", time) for time in times)
        assert times == sorted(times)
        assert began <= datetime.fromisoformat(times[0]) <= datetime.fromisoformat(times[-1]) <= ended
    assert list(service.spool_dir.iterdir()) == []
    report = service.assert_verified(ticks=2 * number, files=1)
    assert report["problems"] == []
    assert service.output() == f"received {2 * number:,} ticks, stored {2 * number:,}, still spooled 0\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_under_load_ends_in_order(kite: Kite, new_service: NewService, number: int):
    """Whatever was handed to the sockets before they closed is stored; exit 0, a summary, nothing left behind."""
    service = new_service(universe={"primary": PRIMARY, "secondary": SECONDARY})
    kite.load(5000, frame=5)
    service.start()
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 2000, "ticks are stored")
    assert service.stop(number) == 0

    for (connection_id, _), ticks in service.streams().items():
        connection = kite.of({1: NSE, 2: 738561}[connection_id])[0]
        assert [id_of(tick) for tick in ticks] == kite.ids(connection["number"])
    stored = service.assert_verified()["ticks"]
    assert service.output() == f"received {stored:,} ticks, stored {stored:,}, still spooled 0\n"
    assert list(service.spool_dir.iterdir()) == []


def test_the_status_is_that_of_the_running_service(kite: Kite, new_service: NewService):
    """`mds status --json` has every connection and every process, with pids that exist."""
    service = new_service(universe={"primary": PRIMARY, "secondary": SECONDARY})
    kite.load(1000)
    service.start()
    service.wait_until_live(1, 2)
    status = json.loads(service.mds("status", "--json").stdout)

    assert {name: c["subscribed_instruments"] for name, c in status["connections"].items()} == {
        "1": len(PRIMARY),
        "2": len(SECONDARY),
        "3": 0,
    }
    running = {role: p["pid"] for role, p in status["processes"].items() if p["state"] == "running"}
    assert set(running) == {"supervisor", "writer", "worker-1", "worker-2", "worker-3"}
    assert sorted(running.values()) == sorted(service.processes())
    assert running == {role: service.pid(role) for role in running}
    assert all(b"made-up" not in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in running.values())
    assert service.stop() == 0
