"""What options of several benchmarks have in common."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def listed(each: Any) -> Callable[[click.Context, click.Parameter, str], tuple[Any, ...]]:
    """Return the callback of an option that takes values with commas between them, each once.

    `each` is the click type of one value; where one is wrong or missing it says so, and the command ends with 2.
    """

    def read(context: click.Context, parameter: click.Parameter, text: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(each.convert(word.strip(), parameter, context) for word in text.split(",")))

    return read


def of_drills(command: _Command) -> _Command:
    """Add what all drills take."""
    keep = click.option("--keep", is_flag=True, help="Keep the folder with files and logs; it can have gigabytes.")
    as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    return keep(as_json(command))
