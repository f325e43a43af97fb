"""`mds top`: how the service does, on a whole terminal or a line at a time."""

import io
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.text import Text

from pipeline import config, readable
from pipeline.cli import screen
from pipeline.cli.options import config_option, json_option
from pipeline.cli.terminal import Quit, Terminal
from pipeline.cli.watch import Watch, pause, until_unwanted
from pipeline.config import Config

SCREEN_S, LINES_S = 0.5, 5.0  # between two looks, where nothing else is asked for
LOOK_S = 1.0  # at most, between two looks that no line tells of: being down is not to be missed between lines


@click.command()
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 86_400),
    metavar="S",
    help=f"Seconds between two looks.  [default: {SCREEN_S:g} on a terminal, else {LINES_S:g}]",
)
@click.option(
    "--for",
    "down_max_s",
    type=click.FloatRange(min=0),
    default=math.inf,
    metavar="S",
    help="Exit with 1 when it has been down for S seconds.  [default: go on]",
)
@config_option
@json_option
def top(interval_s: float | None, down_max_s: float, config_file: Path | None, as_json: bool) -> None:
    """Watch the running service: health, connections, rates, storage, processes, what happened of late.

    On a terminal it fills the window; q ends it. Elsewhere, with --json and with TERM=dumb, it prints a line each
    time. A service that does not answer counts as down, and is waited for, unless --for says how long.
    """
    settings = config.load(config_file)
    with until_unwanted():
        if as_json or not _has_screen():
            _print_lines(settings, interval_s or LINES_S, down_max_s, _json if as_json else _line)
        else:
            _fill_screen(settings, interval_s or SCREEN_S, down_max_s)


def _has_screen() -> bool:
    return sys.stdout is not None and sys.stdout.isatty() and not Console(force_terminal=True).is_dumb_terminal


def _fill_screen(settings: Config, interval_s: float, down_max_s: float) -> None:
    only_ascii = not sys.stdout.encoding.lower().startswith("utf")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what others have written may have any character
    try:
        with Terminal() as terminal, Watch(settings, terminal.wait) as watch:
            series = None

            def paint(columns: int, lines: int) -> list[Text]:
                return screen.render(watch.overview, series, watch.problem, columns, lines, only_ascii=only_ascii)

            terminal.show(paint)
            while True:
                due_s = time.monotonic() + interval_s
                watch.ask()
                series = watch.series() if not watch.problem else series
                terminal.show(paint)
                left_s = watch.left_s(down_max_s)
                terminal.wait(None, min(due_s - time.monotonic(), math.inf if left_s is None else left_s))
    except Quit as quitting:
        if quitting.number not in (None, signal.SIGINT):
            signal.signal(quitting.number, signal.SIG_DFL)
            os.kill(os.getpid(), quitting.number)


def _print_lines(settings: Config, interval_s: float, down_max_s: float, told: Callable[[Watch], bytes | str]) -> None:
    due_s = time.monotonic()
    with Watch(settings) as watch:
        while True:
            watch.ask()
            now_s = time.monotonic()
            if now_s >= due_s:
                click.echo(told(watch))
                due_s += interval_s * (1 + (now_s - due_s) // interval_s)  # those that were missed are left out
            left_s = watch.left_s(down_max_s)
            next_s = min(due_s - time.monotonic(), LOOK_S)
            pause(next_s if left_s is None else min(next_s, left_s))


def _line(watch: Watch) -> str:
    if watch.problem or watch.overview is None:
        return readable.absence(watch.timestamp, watch.problem)
    return readable.line(watch.overview)


def _json(watch: Watch) -> bytes:
    """Return what is known but the notices; where nobody answers, what the health would say."""
    if watch.problem or watch.overview is None:
        health = {"status": "down", "reasons": [watch.problem], "timestamp": watch.timestamp}
        return orjson.dumps({"health": health})
    return orjson.dumps(watch.overview.model_dump(exclude={"notices"}))
