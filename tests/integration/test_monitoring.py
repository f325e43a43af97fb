"""A real Prometheus beside a real recorder: the rules and the dashboard of deploy/ see what happens."""

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import monitoring
from tests.integration.conftest import Begin, NewService
from tests.integration.drills import UNIVERSE
from tests.integration.kite import Kite
from tests.integration.service import DEADLINE_S, Service, free_port, until
from tests.integration.test_http import listening

EMPTY = {  # what the dashboard asks for and rightly gets no answer to here, and why
    "mds_market_change_timestamp_seconds": "the market of this test has no calendar: it is always open",
    "ALERTS": "nothing is wrong",
    "changes(mds_start_time_seconds": "the service is started once",
}
HASTENED = {"MdsGapOpen", "MdsRecordingDown"}  # the alerts that fire here; the others keep their patience


class Prometheus:
    """Prometheus with the rules of deploy/, which asks a recorder twice a second. A context manager."""

    def __init__(self, folder: Path, target: str) -> None:
        if shutil.which("prometheus") is None:
            pytest.skip("prometheus is not installed")
        folder.mkdir()
        settings = yaml.safe_load((monitoring.PROMETHEUS / "prometheus.yml").read_text())
        rules = yaml.safe_load((monitoring.PROMETHEUS / "rules.yml").read_text())
        settings["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        settings["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        for group in rules["groups"]:
            group.pop("interval", None)
            for rule in group["rules"]:
                if rule.get("alert") in HASTENED:
                    rule["for"] = "1s"
                    rule.pop("keep_firing_for")
        (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        (folder / "rules.yml").write_text(yaml.safe_dump(rules))
        self._folder = folder
        self._port = free_port()

    def __enter__(self) -> "Prometheus":
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log,
                stderr=log,
            )
        until(self._is_ready, "Prometheus is ready")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(DEADLINE_S)
        print((self._folder / "log").read_text()[-4000:])  # noqa: T201  pytest shows it with a failure

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
            return json.load(answer)["data"]

    def values(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Return what a query gives now: labels and value of each series."""
        result = self.ask("query", query=expr)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def firing(self) -> list[dict[str, Any]]:
        """Return the alerts that fire."""
        return [alert for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"]

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            return bool(self.ask("status/runtimeinfo"))
        except (urllib.error.URLError, ConnectionError):
            return False


@pytest.fixture
def recorder(new_service: NewService, begin: Begin, kite: Kite) -> tuple[Service, str]:
    """A recorder under way at 1,000 ticks/s, and where it is asked."""
    port = free_port()
    service = new_service(universe=UNIVERSE, http=listening(port))
    kite.load(1000)
    begin(service)
    service.wait_for(lambda s: s["processes"]["http"]["state"] == "running", "the HTTP process runs")
    return service, f"127.0.0.1:{port}"


@pytest.fixture
def prometheus(recorder: tuple[Service, str], tmp_path: Path) -> Iterator[Prometheus]:
    """Prometheus, which watches it."""
    with Prometheus(tmp_path / "prometheus", recorder[1]) as running:
        yield running


def test_the_dashboard_and_the_rules_see_a_recorder(recorder: tuple[Service, str], prometheus: Prometheus, kite: Kite):
    """Each panel has data, each rule works; where connections are barred, a gap is told until they are back."""
    service, instance = recorder
    assert service.mds("token", "set", stdin="another-made-up-token\n").returncode == 0  # its age is known from now on
    variables = {"instance": instance, "__rate_interval": "3s", "__interval": "1s", "__range": "1m"}
    for query in monitoring.queries():
        expr = monitoring.filled(query.expr, variables)
        if not any(part in query.expr for part in EMPTY):
            until(partial(prometheus.values, expr), f"{query.panel} has data: {expr}")
    for part in EMPTY:
        (query,) = (query for query in monitoring.queries() if part in query.expr)
        assert not prometheus.values(monitoring.filled(query.expr, variables)), query
    assert_sound(prometheus, instance)

    groups = prometheus.ask("rules")["groups"]
    seen = {rule["name"]: (rule["health"], rule.get("lastError", "")) for group in groups for rule in group["rules"]}
    names = {rule.get("alert") or rule["record"] for rule in monitoring.rules()}
    assert seen == dict.fromkeys(names, ("ok", ""))
    assert not prometheus.firing()

    kite.tell("bar", how=503)
    for connection in kite.connections():
        if connection["open"]:
            kite.tell("abort", connection=connection["number"])
    until(lambda: names_of(prometheus.firing()) >= HASTENED, "the gap is told")
    gaps = [alert for alert in prometheus.firing() if alert["labels"]["alertname"] == "MdsGapOpen"]
    expected = {"alertname": "MdsGapOpen", "severity": "critical", "job": "mds", "instance": instance}
    assert {a["labels"].pop("connection") for a in gaps} <= {"1", "2", "3"}
    assert all(alert["labels"] == expected for alert in gaps)
    assert names_of(prometheus.firing()) == HASTENED
    (query,) = (query for query in monitoring.queries() if "ALERTS" in query.expr)
    until(lambda: prometheus.values(monitoring.filled(query.expr, variables)), "the dashboard shows alerts")

    kite.tell("bar", how=None)
    until(lambda: not prometheus.firing(), "it records again")


def assert_sound(prometheus: Prometheus, instance: str) -> None:
    """Check that what the panels show of a recorder that does well says so."""
    assert prometheus.values("mds:coverage:ratio") == [
        ({"__name__": "mds:coverage:ratio", "job": "mds", "instance": instance}, 1.0)
    ]
    until(partial(prometheus.values, "sum(rate(mds_ticks_received_total[5s])) > 500"), "half of the ticks are seen")
    ((_, left_s),) = prometheus.values("mds_kite_token_expiry_timestamp_seconds - time()")
    assert 0 < left_s <= 86400


def names_of(alerts: list[dict[str, Any]]) -> set[str]:
    """Return their names."""
    return {alert["labels"]["alertname"] for alert in alerts}
