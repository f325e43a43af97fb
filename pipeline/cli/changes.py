"""`mds subscribe` and the other commands that change what a running service does."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import click
from pydantic import BaseModel

from pipeline import config
from pipeline.cli.options import (
    MODE,
    completions,
    config_option,
    connection_option,
    json_option,
    print_json,
    read_words,
    words_options,
)
from pipeline.client import Client
from pipeline.config import CONNECTIONS, Mode
from pipeline.errors import RequestRefusedError
from pipeline.requests import Change
from pipeline.role import SIMULATOR, WRITER, worker_role

TOKENS_SHOWN = 5
NOTHING = "Nothing has changed"
CARRIED = click.IntRange(1, 2)  # connections that the spare can carry

_Answer = TypeVar("_Answer", bound=BaseModel)


def _ask(config_file: Path | None, request: Callable[[Client], _Answer], *, as_json: bool) -> _Answer:
    """Return the answer, printed already where JSON is wished for; there a refusal is printed as JSON, too."""
    settings = config.load(config_file)
    try:
        with Client(settings.runtime.run_dir, by="cli") as client:
            answer = request(client)
    except RequestRefusedError as error:
        if not as_json:
            raise
        print_json({"success": False, "error": str(error), **error.details})
        sys.exit(error.exit_code)
    if as_json:
        print_json(answer.model_dump())
    return answer


@click.command()
@words_options
@click.option("--mode", type=MODE, default="quote", show_default=True, help="What to record of them.")
@connection_option("Record them on connection N; else on 2 in full mode, on 1 in the others.")
@config_option
@json_option
def subscribe(
    *,
    arguments: tuple[str, ...],
    file: str | None,
    mode: Mode,
    connection: int | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Record more instruments, from now on: all that are given, or none.

    \b
    They are tokens or symbols, as arguments, from a file, or from the standard input:
      mds subscribe NSE:INFY NFO:NIFTY25OCTFUT 738561
      mds subscribe "NSE:NIFTY 50" --mode full
      mds subscribe --file ind_nifty500list.csv

    Symbols are those of Kite's list: mds instruments find. INFY will do where one exchange alone has it.

    A file is a CSV with a header line, of which a column instrument_token or token, else symbol or tradingsymbol is
    taken, together with a column exchange if there is one. Else it is text: words between commas, new lines, and blanks
    before a token or EXCHANGE:SYMBOL; # starts a comment; a JSON list will do, too.

    Exits with 1 if it is refused: a symbol is unknown, an instrument is subscribed already, or there is no room for all
    of them.
    """
    tokens = read_words(arguments, file)
    change = _ask(config_file, lambda client: client.subscribe(tokens, mode, connection), as_json=as_json)
    if not as_json:
        _tell(change, f"Subscribed {_count(change)} in {mode} mode on {_places(change)}")


@click.command()
@words_options
@click.option("--all", "everything", is_flag=True, help="All that are subscribed.")
@click.option("--ignore-unknown", is_flag=True, help="Pass over those that are not subscribed.")
@config_option
@json_option
def unsubscribe(
    *,
    arguments: tuple[str, ...],
    file: str | None,
    everything: bool,
    ignore_unknown: bool,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Record instruments no longer: all that are given, or none.

    They are given as to `mds subscribe`. Exits with 1 if one of them is not subscribed.
    """
    if everything and (arguments or file is not None):
        raise click.UsageError("--all is all of them: name none with it", click.get_current_context())
    tokens = [] if everything else read_words(arguments, file)

    def request(client: Client) -> Change:
        return client.unsubscribe_all() if everything else client.unsubscribe(tokens, ignore_unknown=ignore_unknown)

    change = _ask(config_file, request, as_json=as_json)
    if not as_json:
        nothing = "Nothing was subscribed" if everything else NOTHING
        _tell(change, f"Unsubscribed {_count(change)} from {_places(change)}", nothing)


@click.command()
@click.argument("mode", type=MODE, metavar="MODE")
@words_options
@config_option
@json_option
def mode(mode: Mode, arguments: tuple[str, ...], file: str | None, config_file: Path | None, as_json: bool) -> None:
    """Record instruments in another MODE: ltp (the last price), quote, or full (with depth).

    They move to the connection that is for it, 2 for full and 1 for the others, and are recorded all the while.
    They are given as to `mds subscribe`. Exits with 1 if one of them is not subscribed, or there is no room.
    """
    tokens = read_words(arguments, file)
    change = _ask(config_file, lambda client: client.set_mode(tokens, mode), as_json=as_json)
    if not as_json:
        _tell(change, f"Changed {_count(change)} to {mode} mode on {_places(change)}")


@click.command()
@click.argument("state", type=click.Choice(["on", "off"]), metavar="on|off")
@config_option
@json_option
def mirror(state: Literal["on", "off"], config_file: Path | None, as_json: bool) -> None:
    """Record on connection 3 what connection 1 records, as well, or end that.

    Both are stored, told apart by their `connection_id`.
    """
    change = _ask(config_file, lambda client: client.mirror(state == "on"), as_json=as_json)
    if not as_json:
        done = "now records" if state == "on" else "no longer records"
        unmoved = f"Mirroring is {state}; no instrument had to change"
        _tell(change, f"Connection 3 {done} {_count(change)} of connection 1 as well", unmoved)


@click.command()
@click.argument("connection", type=CARRIED, metavar="N", shell_complete=completions(1, 2))
@config_option
@json_option
def failover(connection: int, config_file: Path | None, as_json: bool) -> None:
    """Let connection 3, the spare, carry the instruments of connection N, 1 or 2."""
    change = _ask(config_file, lambda client: client.failover(connection), as_json=as_json)
    if not as_json:
        unmoved = f"Connection {connection} is failed over; no instrument had to move"
        _tell(change, f"Moved {_count(change)} of connection {connection} to {_places(change)}", unmoved)


@click.command()
@click.argument("connection", type=CARRIED, metavar="[N]", required=False, shell_complete=completions(1, 2))
@config_option
@json_option
def failback(connection: int | None, config_file: Path | None, as_json: bool) -> None:
    """Give back what connection 3, the spare, carries of connection N; without N, all of it."""
    change = _ask(config_file, lambda client: client.failback(connection), as_json=as_json)
    if not as_json:
        _tell(change, f"Moved {_count(change)} back to {_places(change)}", "No instrument had to move")


@click.command()
@click.argument(
    "role",
    shell_complete=completions(WRITER, *map(worker_role, CONNECTIONS), SIMULATOR),
)
@config_option
@json_option
def restart(role: str, config_file: Path | None, as_json: bool) -> None:
    """End a process in order and start it anew.

    ROLE is writer, worker-1, worker-2, worker-3 or simulator. What a worker's connection misses meanwhile is a gap in
    the event log; without the writer ticks wait in the spools.
    """
    restarted = _ask(config_file, lambda client: client.restart(role), as_json=as_json)
    if not as_json:
        state = "is being started again" if restarted.pid is None else f"runs anew, as process {restarted.pid}"
        click.echo(f"{restarted.role} {state}.")


def _tell(change: Change, done: str, nothing: str = NOTHING) -> None:
    """Print what was `done`, or that there was `nothing` to do, and what there is to say beside it."""
    sent = "; sent to Kite" if change.confirmed else ""
    click.echo(f"{done}{sent}." if change.instruments else f"{nothing}.")
    for line in _remarks(change):
        click.echo(line)


def _remarks(change: Change) -> Iterator[str]:
    if change.pending:
        places = ", ".join(f"connection {p.connection_id} ({p.reason})" for p in change.pending)
        yield f"Not yet sent to Kite on {places}; that follows as soon as it can."
    if change.repeats:
        yield f"Given more than once, and counted once: {_some(change.repeats)}."
    if change.unchanged:
        yield f"Were so already: {_some(change.unchanged)}."
    if change.unknown:
        yield f"Not subscribed, and passed over: {_some(change.unknown)}."


def _count(change: Change) -> str:
    number = len(change.instruments)
    return f"{number:,} instrument{'' if number == 1 else 's'}"


def _places(change: Change) -> str:
    """Return where they are, with numbers if that is more than one connection."""
    if len(change.connections) == 1:
        return f"connection {next(iter(change.connections))}"
    return "connections " + " and ".join(f"{name} ({count:,})" for name, count in sorted(change.connections.items()))


def _some(tokens: list[int]) -> str:
    more = f" and {len(tokens) - TOKENS_SHOWN:,} more" if len(tokens) > TOKENS_SHOWN else ""
    return ", ".join(map(str, tokens[:TOKENS_SHOWN])) + more
