"""`deploy/compose.yaml` as Compose reads it: with variables in their places, for tests."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values

DEPLOY = Path(__file__).parents[1] / "deploy"
FILE = DEPLOY / "compose.yaml"
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?:(:[-?])([^}]*))?\})")


class MissingVariableError(Exception):
    """A variable that has to be set is not; the message is the file's own."""


def demo() -> dict[str, str]:
    """Return what `--env-file deploy/demo.env` sets."""
    return {name: value or "" for name, value in dotenv_values(DEPLOY / "demo.env").items()}


def load(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the file as these variables make it. Raises MissingVariableError."""
    loaded: dict[str, Any] = _filled(yaml.safe_load(FILE.read_text()), variables)
    return loaded


def environment(service: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, str]:
    """Return what is set in a container of this service: what has no value is handed through, where it is set."""
    given = service["environment"]
    passed = {name: variables[name] for name, value in given.items() if value is None and name in variables}
    return passed | {name: value for name, value in given.items() if value is not None}


def secrets(loaded: Mapping[str, Any], service: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files that a container of this service finds in /run/secrets, by their names there."""
    wanted = [{"source": given, "target": given} if isinstance(given, str) else given for given in service["secrets"]]
    return {each["target"]: DEPLOY / loaded["secrets"][each["source"]]["file"] for each in wanted}


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, variables) for item in value]
    return _VARIABLE.sub(lambda found: _value(found, variables), value) if isinstance(value, str) else value


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    dollar, name, operator, text = found.groups()
    if dollar:
        return "$"
    if set_to := variables.get(name):
        return set_to
    if operator == ":?":
        raise MissingVariableError(f"{name}: {text}")
    return text if operator == ":-" else ""
