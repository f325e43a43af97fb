"""`mds tail`: the ticks as they are stored."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from pipeline import config, readable
from pipeline.cli.options import MODE, config_option, json_option
from pipeline.cli.watch import pause, until_unwanted
from pipeline.days import Calendar
from pipeline.errors import MdsError
from pipeline.instruments.symbols import Symbols
from pipeline.store.files import tick_files
from pipeline.store.follow import POLL_S, Follower
from pipeline.store.selection import Found, Selection

LINES, LINES_MAX = 10, 10_000
TIME = slice(0, 23)  # of a timestamp: to milliseconds


@click.command()
@click.argument("words", nargs=-1, metavar="[TOKEN|SYMBOL]...")
@click.option("--mode", "modes", type=MODE, multiple=True, help="Only ticks in this mode; may be given again.")
@click.option(
    "--lines",
    type=click.IntRange(0, LINES_MAX),
    metavar="N",
    help=f"Begin with the last N that are stored.  [default: {LINES}]",
)
@click.option("--from-start", is_flag=True, help="Begin with all of today.")
@click.option("--no-follow", is_flag=True, help="End with what is stored by now.")
@config_option
@json_option
def tail(
    words: tuple[str, ...],
    *,
    modes: tuple[str, ...],
    lines: int | None,
    from_start: bool,
    no_follow: bool,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Print the ticks of all or some instruments as they are stored, until Ctrl-C.

    A SYMBOL is NSE:INFY, or INFY where only one exchange has it; it is looked up in the newest list of instruments in
    the data folder, which `mds instruments sync` fetches.

    It reads the JSONL files and goes on over midnight and restarts of the service, which need not be running. With
    --json it prints the lines as they are stored.
    """
    if from_start and lines is not None:
        raise click.UsageError("--from-start and --lines cannot go together", click.get_current_context())
    storage = config.load(config_file).storage
    symbols = Symbols(storage.data_dir)
    selection = Selection(symbols.resolve(words) if words else None, modes or None)
    output = _Output(symbols, as_json=as_json)
    with until_unwanted():
        if not tick_files(storage.data_dir):
            nothing = f"{storage.data_dir}: there is no market_data_YYYY-MM-DD.jsonl yet, and no other form is followed"
            if no_follow:
                raise MdsError(nothing)
            click.echo(f"{nothing}; waiting for it", err=True)
        calendar = Calendar(storage.timezone)
        follower = Follower(storage.data_dir, selection, calendar, since="start" if from_start else None)
        if not from_start:
            output.write(follower.last(LINES if lines is None else lines))
        while from_start or not no_follow:
            for batch in follower.new():
                output.write(batch)
            if no_follow:
                break
            pause(POLL_S)


class _Output:
    """Prints ticks, a line each; what comes together is handed on together."""

    def __init__(self, symbols: Symbols, *, as_json: bool) -> None:
        self._symbols = symbols
        self._as_json = as_json
        self._name_width = 0  # the widest so far

    def write(self, batch: Iterable[Found]) -> None:
        """Print ticks."""
        lines = (found.line if self._as_json else self._line(found.tick).encode() for found in batch)
        click.echo(b"".join(line + b"\n" for line in lines), nl=False)

    def _line(self, tick: dict[str, Any]) -> str:
        """Return time, instrument, mode, price, and as far as the tick has them change, volume, best bid and offer."""
        token: int = tick["instrument_token"]
        name = self._symbols.name(token) or str(token)
        self._name_width = max(self._name_width, len(name))
        parts = [
            tick["timestamp"][TIME].replace("T", " "),
            f"{name:{self._name_width}}",
            f"{tick['mode']:5}",
            f"{_price(tick.get('last_price')):>10}",
        ]
        if "change" in tick:
            parts.append(f"{_figure(tick['change'], '+.2f'):>7}%")
        if "volume_traded" in tick:
            parts.append(f"vol {_figure(tick['volume_traded'], ',')}")
        parts += [f"{name} {best}" for name, side in (("bid", "buy"), ("ask", "sell")) if (best := _best(tick, side))]
        return readable.printable("  ".join(parts))


def _best(tick: dict[str, Any], side: str) -> str:
    """Return price and quantity of the best bid or offer, nothing where the tick has no depth."""
    try:
        level = tick["depth"][side][0]
        return f"{_price(level['price'])} x {_figure(level['quantity'], ',')}"
    except (LookupError, TypeError):
        return ""


def _price(value: Any) -> str:
    """Return a price with as many decimals as it takes: currencies have four."""
    is_fine = isinstance(value, float) and round(value, 2) != value
    return _figure(value, ",.4f" if is_fine else ",.2f")


def _figure(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "-"
