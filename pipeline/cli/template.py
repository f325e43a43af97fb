"""The settings file that `mds init` writes: `mds.toml` beside this module, filled in. Pure but for reading that.

The template has every key of every section at its default, behind a `#`; prose stands behind a `#` and a blank. Here no
key is known by name, so that what a setting is for is said in the template alone.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

TEMPLATE = Path(__file__).with_name("mds.toml")
LINE_CHARS = 100  # a list that makes its line longer has a line for each element

Value = str | int | tuple[int | str, ...]

_SECTION = re.compile(r"\[(\w+)\]")
_KEY = re.compile(r"#(\w+) = ")


def fill(template: str, settings: Mapping[tuple[str, str], Value]) -> str:
    """Return the template with these settings, by section and key, in the places of their defaults.

    Raises KeyError where the template has no such key.
    """
    left = dict(settings)
    lines, section = [], ""
    for line in template.splitlines():
        if header := _SECTION.fullmatch(line):
            section = header[1]
        key = _KEY.match(line)
        if key and (section, key[1]) in left:
            lines.append(f"{key[1]} = {_toml(left.pop((section, key[1])))}")
        else:
            lines.append(line)
    if left:
        raise KeyError(*left)
    return "\n".join(lines) + "\n"


def _toml(value: Value) -> str:
    """Write a value as TOML does (https://toml.io/en/v1.0.0)."""
    if isinstance(value, tuple):
        elements = [_toml(element) for element in value]
        line = f"[{', '.join(elements)}]"
        return line if len(line) <= LINE_CHARS else "\n".join(("[", *(f"    {element}," for element in elements), "]"))
    if isinstance(value, int):
        return str(value)
    # TOML's basic strings are JSON's, but for one control character that JSON takes as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
