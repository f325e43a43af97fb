"""The rules and the dashboard of deploy/, as those read them who check them."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "mds.json"


class Query(NamedTuple):
    """One of a panel's questions."""

    panel: str
    expr: str
    legend: str


def rules() -> list[dict[str, Any]]:
    """Return all rules, in their order."""
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Return the rules that alert, by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_bytes())
    return found


def panels() -> list[dict[str, Any]]:
    """Return the panels that show something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Query]:
    """Yield what the dashboard asks, variables and all."""
    for panel in panels():
        for target in panel["targets"]:
            yield Query(panel["title"], target["expr"], target["legendFormat"])
    for annotation in dashboard()["annotations"]["list"]:
        yield Query(annotation["name"], annotation["expr"], "")


def filled(expr: str, variables: Mapping[str, str]) -> str:
    """Return a query with its variables filled in; KeyError where one is not known."""
    return re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda name: variables[name[1] or name[2]], expr)
