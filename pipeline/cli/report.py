"""`mds report`: what a day was like, as a page, as JSON, or in a few lines."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from pipeline import answers
from pipeline.cli.options import InputError, json_option, print_json
from pipeline.cli.reading import reading
from pipeline.cli.sources import Selected, sources_options
from pipeline.client import Client
from pipeline.config import Config
from pipeline.days import Calendar
from pipeline.errors import MdsError
from pipeline.store.completeness.completeness import read
from pipeline.store.report import export
from pipeline.store.report.figures import measure
from pipeline.store.report.report import Report, lines, page

PRICES = 3  # instruments whose prices are drawn where none are named


@click.command()
@sources_options
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page with charts, which needs no network to be looked at.",
)
@json_option
def report(selected: Selected, html: Path | None, as_json: bool) -> None:
    """Tell what a day was like: how much was recorded, what was missed and why, which instruments were busy.

    Of the newest day, or of each DATE or FILE. With --html a page to keep, with --json what programs want to know,
    with neither a few lines. The page draws prices of the busiest instruments, or of those named with -i. With --json
    -i selects ticks, as --from, --to and --mode always do. The recorder may be running.
    """
    if html is not None and not html.absolute().parent.is_dir():
        raise InputError(f"{html}: there is no folder {html.absolute().parent}")
    with reading(selected):
        exported = _export(selected) if as_json else None
        found = _report(selected) if html is not None or not as_json else None
    if html is not None and found is not None:
        _write(found, html)
    elif found is not None:
        for line in lines(found):
            click.echo(line)
    if exported is not None:
        print_json(exported)


def _report(selected: Selected) -> Report:
    zone = ZoneInfo(selected.config.storage.timezone)
    figures = measure(replace(selected, instruments=()).frame(), selected.tokens, PRICES)
    about = _about(selected)
    days = export.days_of(selected.files, figures.analysis.start, figures.analysis.end)
    folders = export.event_folders(selected.files, selected.config.storage.data_dir)
    known = read(folders, days, zone, {} if about else figures.ticked)
    return Report(figures, known, zone, selected.symbols.name, about)


def _write(found: Report, html: Path) -> None:
    made = page(found)
    try:
        export.write(html, made)
    except OSError as error:
        raise MdsError(f"{html}: {error.strerror or error}; the page was not written") from None
    click.echo(f"{html}: {len(made) / 1e6:.1f} MB", err=True)


def _about(selected: Selected) -> str:
    """Return in words which ticks were selected, nothing where it is all of them."""
    modes, start, end = ", ".join(selected.modes), selected.start, selected.end
    parts = {f"mode {modes}": modes, f"from {start}": start, f"before {end}": end}
    return ", ".join(words for words, given in parts.items() if given)


def _export(selected: Selected) -> dict[str, Any]:
    zone = ZoneInfo(selected.config.storage.timezone)
    has_all = not (selected.instruments or _about(selected))
    service = _service(selected.config)
    data_dir = selected.config.storage.data_dir
    return export.describe(selected.frame(), selected.files, zone, data_dir, service, has_all=has_all)


def _service(config: Config) -> dict[str, Any]:
    """Return how the running service does; null, with the reason, where none answers."""
    try:
        with Client(config.runtime.run_dir) as client:
            status = client.status()
    except MdsError as error:
        return dict.fromkeys(export.SERVICE_KEYS) | {"service_error": str(error)}
    now = Calendar(config.storage.timezone).now()
    return {
        "service_metrics": answers.metrics(status.metrics),
        "health_status": answers.health(status.health),
        "connection_status": answers.connections(status.connections, now),
        "service_error": None,
    }
