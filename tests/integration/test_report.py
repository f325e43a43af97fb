"""A real failover, read back: what was missed, and the page about it in a browser that has no network."""

import json
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route

from pipeline import MarketDataService
from tests.integration.browser import PHONE, ColorScheme, Window, chromium
from tests.integration.conftest import Begin, NewService
from tests.integration.drills import PRIMARY, SECONDARY, SETTINGS, end, size, until_on_disk, wait_until_home
from tests.integration.kite import Kite
from tests.integration.service import until

CHARTS = {"rates", "latency", "latencies", "busiest", "silent"}

# Of each chart the number of points of its traces, and of the shapes that are drawn.
_DRAWN = """() => Object.fromEntries([...document.querySelectorAll(".plot")].map((box) => [box.id, {
    points: box.data.map((trace) => trace.x.filter((x) => x !== null).length),
    shapes: box.querySelectorAll("svg .trace path, svg .trace .point, svg .bars path, svg .js-line").length,
}]))"""


@pytest.fixture
def recording(kite: Kite, new_service: NewService, begin: Begin) -> Path:
    """A folder in which `mds run` has recorded 2,000 ticks/s while worker 1 was killed, and the page about it."""
    service = new_service(**SETTINGS)
    kite.load(2000)
    begin(service)
    until_on_disk(service, 1, size(service))
    service.send("worker-1", signal.SIGKILL)
    until_on_disk(service, 3, size(service))
    wait_until_home(kite, service)
    end(kite, service, cut=1)

    [gap] = service.events("gap")
    _, verified = service.verify()
    [day] = verified["completeness"]["days"]
    assert (day["whole"], day["missed"], day["never_ticked"]) == (len(SECONDARY), len(PRIMARY), [])
    assert day["recorded"]["ended"] == "in order"
    [loss] = day["losses"]
    assert loss["instruments"] == sorted(PRIMARY)
    missed = {"connection_id": 1, "cause": "killed", "from": gap["from"], "to": gap["to"], "over": True}
    assert loss["missed"] == [missed]
    assert 0 < loss["seconds"] < 5
    states = [one["state"] for one in day["connections"]["3"]]
    assert [state for state in states if state != "live"] == ["idle", "failover", "idle"]

    told = service.mds("verify").stdout
    assert f"received whole: {len(SECONDARY)} instruments; {len(PRIMARY)} missed something" in told
    exported = json.loads(service.mds("report", "--json").stdout)
    assert (exported["total_rows"], exported["service_metrics"]) == (verified["ticks"], None)
    assert exported["completeness"]["days"] == [day]
    written = service.mds("report", "--html", "page.html")
    assert (written.returncode, written.stdout) == (0, ""), written
    return service.folder


def look(page: Page, scheme: ColorScheme) -> None:
    """Wait until the page is drawn in a scheme."""
    page.emulate_media(color_scheme=scheme)
    page.wait_for_selector(f"body[data-drawn={scheme}]")


def test_a_failover_is_told_and_drawn(recording: Path):
    """Instruments, cause and duration; every chart has something in it, in light and dark, on a desktop and a phone."""
    asked: list[str] = []

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.abort()

    url = (recording / "page.html").as_uri()
    with chromium() as browser:
        for name, dimensions in {"desktop": (1440, 900), "phone": PHONE}.items():
            window = Window(browser, url, size=dimensions)
            window.context.set_offline(offline=True)
            window.context.route(lambda address: address != url, refuse)
            page = window.open()
            for scheme in ("light", "dark"):
                look(page, scheme)
                window.picture(f"report-{name}-{scheme}", scheme=scheme)
            drawn = page.evaluate(_DRAWN)
            assert set(drawn) >= CHARTS
            assert len([chart for chart in drawn if chart.startswith("price-")]) == 3
            for chart, found in drawn.items():
                assert all(found["points"]), f"{chart} has an empty trace: {found}"
                assert found["shapes"] >= len(found["points"]), f"{chart} is not drawn: {found}"
            assert window.overflow() <= 0
            assert window.illegible() == []
            assert page.get_by_text("missed something").count() > 0
            assert page.locator("td", has_text="killed").count() == 1
            assert (window.complaints, asked, window.requests) == ([], [], [url])
            window.close()


def test_a_running_service_exports_its_day(tmp_path: Path):
    """Written by the object that started it, while it goes on."""
    with MarketDataService("key", "token", tmp_path / "data", run_dir=tmp_path / "run", simulate=True) as service:
        assert service.subscribe_instruments([408065, 738561])["success"]
        until(lambda: service.get_storage_status()["total_ticks_today"] > 20, "something is recorded")
        found = service.export_data_analysis(tmp_path / "analysis_report.json")
        assert json.loads((tmp_path / "analysis_report.json").read_bytes()) == found
    assert found["total_rows"] > 20
    assert found["health_status"]["status"] != "down"
    assert found["connection_status"]["connections"]["1"]["subscribed_instruments"] == 2
    assert found["completeness"]["total"] == {"instruments": 2, "whole": 2, "missed": 0, "days_not_known": []}
    assert found["completeness"]["days"][0]["recorded"]["ended"] == "running"
