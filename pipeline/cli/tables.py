"""What commands share that print tables, or show how far reading files is."""

from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

WIDE = 100  # columns of a terminal
COLOURS = {
    **dict.fromkeys(("healthy", "live", "running", "recording", "done"), "green"),
    **dict.fromkeys(("degraded", "starting", "connecting", "restarting", "waiting", "rate_limited"), "yellow"),
    **dict.fromkeys(("down", "failed", "paused", "refused", "silent", "stopped", "unauthorised"), "red"),
}
_BOUNDLESS = 10_000  # columns, to ask what a table would take


def table(*columns: str) -> Table:
    """Return a table whose columns are written `name`, or `>name` where they hold numbers."""
    spaces = 3 if Console().width >= WIDE else 1
    made = Table(box=None, padding=(0, spaces, 0, 0), pad_edge=False, show_header=any(columns))
    for column in columns:
        name = column.removeprefix(">")
        made.add_column(name, justify="right" if name != column else "left", no_wrap=True)
    return made


def coloured(word: str) -> Text:
    """Return a state, in its colour if it has one."""
    return Text(word, style=COLOURS.get(word, ""))


Row = Mapping[str, Text | str]


def widths(rows: Sequence[Row], names: Sequence[str]) -> list[int]:
    """Return how wide columns have to be, each row a cell by the column's name."""
    cells = ([name.removeprefix(">"), *(str(row[name]) for row in rows)] for name in names)
    return [max(map(cell_len, column)) for column in cells]


def fitting(rows: Sequence[Row], least: Sequence[str], columns: int) -> list[str]:
    """Return the names of the columns that fit into a terminal beside each other, one blank between them.

    `least` are those that may be left out, the one that is missed least first.
    """
    kept = list(rows[0])
    for name in least:
        if sum(widths(rows, kept)) + len(kept) - 1 <= columns:
            break
        kept.remove(name)
    return kept


def width(console: Console, made: Table) -> int:
    """Return how many columns of a terminal a table needs."""
    return Measurement.get(console, console.options.update(width=_BOUNDLESS), made).maximum


def show(console: Console, made: Table) -> None:
    """Print a table, closer where the terminal is narrow; where it is too narrow its lines are wrapped, and not cut."""
    if width(console, made) > console.width:
        made.padding = (0, 1, 0, 0)
    Console(width=max(console.width, width(console, made))).print(made)


def progress(console: Console, what: str) -> Progress:
    """Return the bar that shows how many bytes of all are done; nothing is left of it in the end."""
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)
