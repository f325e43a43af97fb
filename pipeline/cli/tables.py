"""What commands share that print tables."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDE = 100  # columns of a terminal
_BOUNDLESS = 10_000  # columns, to ask what a table would take


def table(*columns: str) -> Table:
    """Return a table whose columns are written `name`, or `>name` where they hold numbers."""
    spaces = 3 if Console().width >= WIDE else 1
    made = Table(box=None, padding=(0, spaces, 0, 0), pad_edge=False, show_header=any(columns))
    for column in columns:
        name = column.removeprefix(">")
        made.add_column(name, justify="right" if name != column else "left", no_wrap=True)
    return made


def width(console: Console, made: Table) -> int:
    """Return how many columns of a terminal a table needs."""
    return Measurement.get(console, console.options.update(width=_BOUNDLESS), made).maximum


def show(console: Console, made: Table) -> None:
    """Print a table; where the terminal is too narrow its lines are wrapped, and nothing of them is cut off."""
    Console(width=max(console.width, width(console, made))).print(made)
