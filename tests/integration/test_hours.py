"""Connections that open and close by the clock, with a real service: what it tells, and what it does not call a gap."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.integration.conftest import SCALE, NewService
from tests.integration.kite import Kite
from tests.integration.service import Service

PRIMARY, SECONDARY = [408065, 5633], [738561]
OPENS_S, CLOSES_S = 6.0 * SCALE, 14.0 * SCALE  # after the service is started: time enough for what has to happen before


def noon() -> str:
    """Return a time zone in which it is noon: the day does not end meanwhile."""
    ahead = 12 - datetime.now(UTC).hour
    return f"Etc/GMT{-ahead:+d}"


def states(status) -> list[str]:
    """Return the states of the connections."""
    return [c["state"] for c in status["connections"].values()]


def wait_until_resting(service: Service):
    """Wait until all connections are closed by the clock; return the status."""
    return service.wait_for(lambda s: s["health"]["resting"] and states(s) == ["idle", "idle", "standby"], "it rests")


@pytest.mark.timeout(120 * SCALE)
def test_a_window(new_service: NewService, kite: Kite):
    """It rests until the window opens and from when it closes, through kills, too; none of this is a gap."""
    zone = noon()
    now = datetime.now(ZoneInfo(zone))
    connect, disconnect = ((now + timedelta(seconds=s)).time().isoformat("seconds") for s in (OPENS_S, CLOSES_S))
    service = new_service(
        universe={"primary": PRIMARY, "secondary": SECONDARY},
        storage={"timezone": zone},
        market={"calendar": "", "connect": connect, "disconnect": disconnect},
    )
    kite.load(200)
    service.start()
    resting = wait_until_resting(service)
    assert (resting["health"]["status"], resting["health"]["reasons"]) == ("healthy", [])
    assert f"connections are closed until {connect[:5]}" in service.mds("health").stdout
    assert [c["subscribed_instruments"] for c in resting["connections"].values()] == [2, 1, 0]

    live = service.wait_until_live(1, 2)
    assert live["health"]["resting"] == ""

    wait_until_resting(service)
    service.kill("worker-1")
    service.kill("supervisor")
    service.start()
    resting = wait_until_resting(service)
    assert resting["processes"]["worker-1"]["state"] == "running"
    done = service.mds("subscribe", "1270529")
    assert (done.returncode, "connections are closed until" in done.stdout) == (0, True)
    assert service.mds("failover", "1").returncode == 1
    assert service.stop() == 0

    told = [e["event"] for e in service.events() if e["event"].startswith("market_")]
    assert told == ["market_closed", "market_opened", "market_closed"]
    opened, closed = (service.events(event)[-1]["timestamp"] for event in ("market_opened", "market_closed"))
    connected = service.events("connected")
    assert [e["connection_id"] for e in sorted(connected, key=lambda e: e["connection_id"])] == [1, 2]
    assert all(opened < e["timestamp"] < closed for e in connected)
    assert {e["connection_id"] for e in service.events("idle")} == {1, 2}
    assert all(e["timestamp"] >= closed for e in service.events("idle"))
    assert service.events("gap") == []
    assert service.events("disconnected") == []
    assert [e["status"] for e in service.events("health") if e["status"] == "down"] == []
    service.assert_verified()
