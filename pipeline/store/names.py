"""Symbols of stored ticks, each day's by the list of instruments of that day: Kite uses its tokens again."""

import logging
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from pipeline.instruments.listing import SymbolError, newest, read
from pipeline.store.sources import TickFile

log = logging.getLogger(__name__)

SYMBOL = "symbol"  # the column, and the key


def by_list(files: Iterable[TickFile], data_dir: Path) -> Iterator[tuple[Path | None, list[TickFile]]]:
    """Yield files that follow each other and have one list of instruments, after that list; None: there is none."""
    for path, run in groupby(files, key=lambda file: newest(data_dir, file.day)):
        yield path, list(run)


def names_in(path: Path | None) -> dict[int, str]:
    """Return `EXCHANGE:SYMBOL` of each token. A list that cannot be read is named in the log, and knows none."""
    if path is None:
        return {}
    try:
        return dict(read(path).names)
    except SymbolError as error:
        log.warning("%s", error)
        return {}
