"""Rules, dashboard and provisioning: Prometheus and Grafana can read them, and they ask for what is exported."""

import enum
import json
import re
import shutil
import subprocess
import typing
from collections import Counter, defaultdict
from itertools import combinations
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units
from prometheus_client.parser import text_string_to_metric_families

from pipeline.web import prometheus
from tests import monitoring
from tests.monitoring import DEPLOY, PROMETHEUS
from tests.overviews import T0, an_overview

TESTS = ("rules.test.yml", "rules.days.test.yml")
OF_PROMETHEUS = {  # what it knows by itself
    "up": {"job", "instance"},
    "ALERTS": {"job", "instance", "alertname", "alertstate", "severity"},
}
VARIABLES = {"instance": "127.0.0.1:8080", "__rate_interval": "1m", "__interval": "15s", "__range": "6h"}
UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}
COLUMNS = 24
UNITS_OF = {  # metrics by the end of their names; a panel that shows more than one kind has no unit of its own
    "ratio": {"percentunit"},
    "seconds": {"s", "dtdurations", "dateTimeAsIso"},
    "seconds_bucket": {"s"},
    "bytes": {"bytes"},
    "bytes_written_total": {"binBps"},
}
PROVISIONING = {  # the keys that Grafana has for an entry; it passes over what it does not know
    "datasources": {
        *("name", "type", "uid", "access", "orgId", "url", "user", "database", "basicAuth", "basicAuthUser"),
        *("withCredentials", "isDefault", "jsonData", "secureJsonData", "version", "editable"),
    },
    "providers": {
        *("name", "orgId", "folder", "folderUid", "type", "disableDeletion", "updateIntervalSeconds"),
        *("allowUiUpdates", "options"),
    },
}


@pytest.fixture(scope="module")
def exported():
    """The names that the service exports, each with its labels and those that Prometheus adds."""
    everything = an_overview(market="open", market_until=T0, token_expires=T0)
    found: defaultdict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(prometheus.text(everything).decode()):
        for sample in family.samples:
            found[sample.name] |= {"job", "instance", *sample.labels}
    return dict(found)


@pytest.fixture(scope="module")
def known(exported):
    """All names that a query may have, those of recording rules included."""
    recorded = {rule["record"]: {"job", "instance"} for rule in monitoring.rules() if "record" in rule}
    return exported | recorded | OF_PROMETHEUS


def promtool(*arguments):
    """Run Prometheus's own checker in its folder; it has to be content."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: it comes with Prometheus")
    done = subprocess.run(
        ["promtool", *arguments], cwd=PROMETHEUS, check=False, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr


def metrics_of(expr):
    """Return the names of the metrics in a query, and the names and values of the labels that it asks each for."""
    found: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for name, selector in re.findall(r"\b((?:mds[_:][\w:]+)|up|ALERTS)\b(?:\{([^}]*)\})?", expr):
        found[name] |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"", selector or ""))
    return dict(found)


def grouping_of(expr):
    """Return the labels that a query groups or matches by."""
    lists = re.findall(r"\b(?:by|on|ignoring|without)\s*\(([\w\s,]*)\)", expr)
    return {label for names in lists for label in re.findall(r"\w+", names)}


# Prometheus.


def test_the_settings_are_right():
    """Prometheus takes them, with the rules that they name."""
    promtool("check", "config", "prometheus.yml")


@pytest.mark.parametrize("file", TESTS)
def test_rules(file):
    """Each alert fires when it should, says what it should, and does not fire in the near cases."""
    promtool("test", "rules", file)


def test_each_alert_is_tested_both_ways():
    """There is a case in which it fires, and one in which it does not."""
    fires: set[str] = set()
    silent: set[str] = set()
    for file in TESTS:
        for test in yaml.safe_load((PROMETHEUS / file).read_text())["tests"]:
            for case in test["alert_rule_test"]:
                (fires if case["exp_alerts"] else silent).add(case["alertname"])
    assert fires == silent == set(monitoring.alerts())


def test_every_series_of_the_tests_is_exported(known):
    """A test with a name or a label that nobody exports would prove nothing."""
    for file in TESTS:
        for test in yaml.safe_load((PROMETHEUS / file).read_text())["tests"]:
            for series in test["input_series"]:
                for name, labels in metrics_of(series["series"]).items():
                    assert {label for label, _ in labels} == known[name] - {"le"}, (test["name"], series)


@pytest.mark.parametrize("rule", monitoring.rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_ask_for_what_is_exported(rule, known):
    """Names, labels and states in a rule exist."""
    check_query(rule["expr"], known)
    for text in rule.get("annotations", {}).values():
        labels = set(re.findall(r"\$labels\.(\w+)", text))
        offered = set.union(*(known[name] for name in metrics_of(rule["expr"])))
        assert labels <= offered, text


@pytest.mark.parametrize("name", list(monitoring.alerts()))
def test_alerts_say_all_that_is_wanted(name):
    """A severity, what it is about in a line, more of it, and where to read on."""
    alert = monitoring.alerts()[name]
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"deploy/RUNBOOK.md#{name.lower()}"
    assert "$labels.instance" in alert["annotations"]["summary"] or "absent(" in alert["expr"]


def test_a_spare_that_could_not_take_over_is_told():
    """Whatever state it is in, but those in which it can, or is about to, or is not meant to."""
    fine = {"off", "starting", "idle", "standby", "connecting", "live"}
    (told,) = re.findall(r'state=~"([\w|]+)"', monitoring.alerts()["MdsNoSpare"]["expr"])
    assert sorted(told.split("|")) == sorted({*prometheus.STATES} - fine)


def test_recording_rules_are_for_the_dashboard():
    """Nobody computes what nobody shows."""
    shown = {name for query in monitoring.queries() for name in metrics_of(query.expr)}
    assert {rule["record"] for rule in monitoring.rules() if "record" in rule} <= shown


def check_query(expr, known):
    """Check names, labels, and the values of labels that have a fixed set of them."""
    metrics = metrics_of(expr)
    assert metrics, expr
    values = {
        "state": {*prometheus.STATES},
        "status": {*prometheus.HEALTH},
        "connection": {"1", "2", "3"},
        "job": {"mds"},
        "alertstate": {"firing"},
    }
    for name, labels in metrics.items():
        assert name in known, f"nobody exports {name}: {expr}"
        for label, value in labels:
            assert label in known[name], f"{name} has no label {label}: {expr}"
            assert label not in values or set(value.split("|")) <= values[label], expr
    assert grouping_of(expr) <= set.union(*(known[name] for name in metrics)), expr


# Grafana.


@pytest.mark.parametrize("query", list(monitoring.queries()), ids=lambda query: query.panel)
def test_the_dashboard_asks_for_what_is_exported(query, known):
    """Names, labels and states in a query exist, and so do the labels that name its series."""
    check_query(query.expr, known)
    labels = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    assert labels <= set.union(*(known[name] for name in metrics_of(query.expr))), query


def test_queries_are_understood(tmp_path):
    """With its variables filled in, each is PromQL."""
    exprs = [monitoring.filled(query.expr, VARIABLES) for query in monitoring.queries()]
    as_rules = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": as_rules}]}))
    promtool("check", "rules", str(file))


def test_what_is_exported_is_shown(exported):
    """There is no metric that the dashboard leaves out."""
    asked = {name for query in monitoring.queries() for name in metrics_of(query.expr)}
    parts = {"mds_commit_duration_seconds_count", "mds_commit_duration_seconds_sum"}  # of what is shown by its buckets
    assert exported.keys() - asked == parts


def test_the_dashboard_is_what_grafana_knows():
    """Its models lose nothing of it, so there is no key that they do not know, and every choice is one of theirs."""
    plugins.register_default_plugins()
    raw = monitoring.dashboard()
    model = models.Dashboard.from_json(raw)
    assert_within(raw, json.loads(encoder.JSONEncoder().encode(model)))
    assert_choices(model)
    assert raw["schemaVersion"] == models.Dashboard().schema_version
    assert raw["uid"] == monitoring.DASHBOARD.stem  # links to it hold
    # Variables in the place of a data source are all that ties it to one Grafana.
    sources = {target["datasource"]["uid"] for panel in monitoring.panels() for target in panel["targets"]}
    assert sources == {"${datasource}"}


def test_the_variables_are_there(known):
    """All that queries ask with, and no other; what there is to choose from is exported."""
    variables = {variable["name"]: variable for variable in monitoring.dashboard()["templating"]["list"]}
    asked = {name for query in monitoring.queries() for name in re.findall(r"\$\{?(\w+)", query.expr)}
    assert {name for name in asked if not name.startswith("__")} | {"datasource"} == set(variables)
    (choice,) = re.findall(r"^label_values\((\w+), (\w+)\)$", variables["instance"]["query"]["query"])
    assert choice[1] in known[choice[0]]


def assert_within(given, kept, path="dashboard"):
    """Check that all that was given has been kept."""
    if isinstance(given, dict):
        assert given.keys() <= kept.keys(), path
        for key, value in given.items():
            assert_within(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list):
        assert len(given) == len(kept), path
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            assert_within(one, other, f"{path}[{number}]")
    else:
        assert given == kept, path


def assert_choices(model):
    """Check that what the models have as a choice is one of them; they take any text for it."""
    for name, hint in typing.get_type_hints(type(model)).items():
        value = getattr(model, name, None)
        hints = (hint, *typing.get_args(hint))
        choices: list[list[Any]] = [list(kind) for kind in hints if isinstance(kind, enum.EnumMeta)]
        if value is not None and choices:
            assert any(value in kind for kind in choices), (type(model), name, value)
        for part in value if isinstance(value, list) else [value]:
            if type(part).__module__.startswith("grafana_foundation_sdk.models") and not isinstance(part, enum.Enum):
                assert_choices(part)


@pytest.mark.parametrize("panel", monitoring.panels(), ids=lambda panel: panel["title"])
def test_panels_are_complete(panel):
    """Each says what it is, in which unit, and asks something."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    assert unit in UNITS or unit.startswith("suffix:"), unit
    assert panel["title"]
    assert panel["description"].endswith("."), panel["description"]
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None


@pytest.mark.parametrize("panel", monitoring.panels(), ids=lambda panel: panel["title"])
def test_units_fit(panel):
    """A ratio is not shown as seconds, nor bytes as a count."""
    names = {name for target in panel["targets"] for name in metrics_of(target["expr"])}
    fitting = [units for name in names for end, units in UNITS_OF.items() if re.search(rf"[_:]{end}$", name)]
    assert all(panel["fieldConfig"]["defaults"]["unit"] in units for units in fitting)


def test_panels_have_places_of_their_own():
    """None lies upon another or beyond the edge, rows are filled, and numbers and titles are there once."""
    every = monitoring.dashboard()["panels"]
    taken: Counter[tuple[int, int]] = Counter()
    for panel in every:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= COLUMNS, panel["title"]
        taken.update(
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        )
    assert max(taken.values()) == 1
    height = max(y for _, y in taken) + 1
    assert len(taken) == COLUMNS * height, "there are holes"
    for one, other in combinations(every, 2):
        assert one["id"] != other["id"]
        assert one["title"] != other["title"]


def provisioned(name: str) -> Any:
    """Return what a file of Grafana's provisioning says."""
    return yaml.safe_load((DEPLOY / "grafana" / "provisioning" / name).read_text())


@pytest.mark.parametrize("name", ["datasources/prometheus.yaml", "dashboards/mds.yaml"])
def test_provisioning_is_what_grafana_knows(name):
    """In the one version that there is."""
    ((key, entries),) = ((key, value) for key, value in provisioned(name).items() if key != "apiVersion")
    assert provisioned(name)["apiVersion"] == 1
    assert all(entry.keys() <= PROVISIONING[key] for entry in entries)


def test_provisioning():
    """Grafana finds the data source that the dashboard asks by default, and the folder that it lies in."""
    (source,) = provisioned("datasources/prometheus.yaml")["datasources"]
    (by_default,) = (v for v in monitoring.dashboard()["templating"]["list"] if v["type"] == "datasource")
    assert (source["type"], source["uid"], source["name"]) == (
        by_default["query"],
        by_default["current"]["value"],
        by_default["current"]["text"],
    )
    assert (source["access"], source["isDefault"]) == ("proxy", True)  # a browser does not reach Prometheus itself
    assert source["url"] == "${PROMETHEUS_URL}"  # Grafana knows no default for a variable
    settings = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == settings["global"]["scrape_interval"]
    (provider,) = provisioned("dashboards/mds.yaml")["providers"]
    assert (provider["type"], provider["options"]) == ("file", {"path": "/etc/grafana/dashboards"})


# The runbook.


def test_each_alert_has_its_section():
    """And each section its alert: under "Alerts", until the next heading of that level."""
    text = (DEPLOY / "RUNBOOK.md").read_text(encoding="utf-8")
    part = re.split(r"^## ", text.split("## Alerts\n", 1)[1], flags=re.MULTILINE)[0]
    assert re.findall(r"^### (.+)$", part, re.MULTILINE) == list(monitoring.alerts())
