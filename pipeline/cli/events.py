"""`mds events`: what happened of late."""

from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import click
import orjson

from pipeline import config, readable
from pipeline.cli.options import config_option, json_option, print_json
from pipeline.cli.watch import Watch, pause, until_unwanted
from pipeline.client import Client
from pipeline.config import Config
from pipeline.status import Notice

KEPT = 200  # that the service can tell of
FOLLOW_S = 0.5


class News:
    """What has not been told yet. A new run of the service recalls late what earlier ones have told."""

    def __init__(self) -> None:
        self._told: deque[tuple[str, str, str]] = deque(maxlen=5 * KEPT)

    def of(self, notices: Iterable[Notice]) -> list[Notice]:
        """Return those that are new."""
        known = set(self._told)
        new = {key: notice for notice in notices if (key := _key(notice)) not in known}
        self._told.extend(new)
        return list(new.values())


def _key(notice: Notice) -> tuple[str, str, str]:
    return notice.timestamp, notice.source, notice.text


@click.command()
@click.option("--limit", type=click.IntRange(1, KEPT), default=20, show_default=True, metavar="N", help="The latest N.")
@click.option("--follow", is_flag=True, help="Go on with what happens from now on.")
@config_option
@json_option
def events(limit: int, follow: bool, config_file: Path | None, as_json: bool) -> None:
    """Show what happened of late: connects, gaps, restarts, changes, better and worse health; the latest last.

    With --follow it goes on until Ctrl-C, over restarts of the service, too, and with --json prints an object a line.
    The files events_YYYY-MM-DD.jsonl have all of it in full.
    """
    settings = config.load(config_file)
    with Client(settings.runtime.run_dir) as client:
        notices = client.overview().notices
    news = News()
    latest = news.of(notices)[-limit:]
    if as_json and not follow:
        print_json([notice.model_dump() for notice in latest])
        return
    with until_unwanted():
        _print(latest, as_json)
        if follow:
            _follow(settings, news, as_json)


def _follow(settings: Config, news: News, as_json: bool) -> NoReturn:
    with Watch(settings) as watch:
        while True:
            was_gone = bool(watch.problem)
            watch.ask()
            if watch.overview is not None:
                _print(news.of(watch.overview.notices), as_json)
            if watch.problem and not was_gone:
                click.echo(f"{watch.problem}; waiting for it", err=True)
            pause(FOLLOW_S)


def _print(notices: Iterable[Notice], as_json: bool) -> None:
    for notice in notices:
        click.echo(orjson.dumps(notice.model_dump()) if as_json else _line(notice))


def _line(notice: Notice) -> str:
    return readable.printable(f"{readable.moment(notice.timestamp)} {notice.source:10} {notice.text}")
