"""What options of several benchmarks have in common."""

from collections.abc import Callable
from typing import Any

import click


def listed(each: Any) -> Callable[[click.Context, click.Parameter, str], tuple[Any, ...]]:
    """Return the callback of an option that takes values with commas between them, each once.

    `each` is the click type of one value; where one is wrong or missing it says so, and the command ends with 2.
    """

    def read(context: click.Context, parameter: click.Parameter, text: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(each.convert(word.strip(), parameter, context) for word in text.split(",")))

    return read
