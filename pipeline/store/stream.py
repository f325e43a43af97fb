"""Reading ticks one by one: `iter_ticks`. Needs nothing but what recording needs, as long as they are JSON lines."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from pipeline.store.bad import BadLine, Judge, OnBad
from pipeline.store.files import Fragment, read_blocks
from pipeline.store.names import SYMBOL, by_list, names_in
from pipeline.store.selection import Selection
from pipeline.store.sources import Moment, Sources, TickFile, find, place, select
from pipeline.ticks import decode_line


def iter_ticks(
    source: Sources = None,
    tokens: Iterable[int | str] | int | str | None = None,
    modes: Iterable[str] | str | None = None,
    start: Moment = None,
    end: Moment = None,
    *,
    symbols: bool = False,
    on_bad: OnBad = "skip",
    data_dir: Path | str | None = None,
    timezone: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield stored ticks as the dicts that they are in the files, with constant memory.

    The arguments are those of `read_ticks`; `symbols` adds the key `symbol`. Of JSONL the order is that of storing, of
    Parquet that of receiving. Lines that begin as those of other instruments do are passed over unread, whatever else
    they hold. What is wrong with the arguments is raised here, not at the first tick.
    """
    folder, zone = place(source, data_dir, timezone)
    selection = select(folder, zone, tokens=tokens, modes=modes, start=start, end=end)
    files = find(source, folder)
    if symbols:
        return _with_symbols(files, folder, selection, on_bad)
    return _selected(files, selection, on_bad)


def _selected(files: Iterable[TickFile], selection: Selection, on_bad: OnBad) -> Iterator[dict[str, Any]]:
    return (tick for file in files for tick in _ticks(file, selection, on_bad) if selection.has(tick))


def _with_symbols(
    files: Iterable[TickFile], folder: Path, selection: Selection, on_bad: OnBad
) -> Iterator[dict[str, Any]]:
    for path, run in by_list(files, folder):
        names = names_in(path)
        for tick in _selected(run, selection, on_bad):
            tick[SYMBOL] = names.get(tick["instrument_token"])
            yield tick


def _ticks(file: TickFile, selection: Selection, on_bad: OnBad) -> Iterator[dict[str, Any]]:
    if file.kind == "parquet":
        from pipeline.store.parquet.io import iter_lines  # noqa: PLC0415  JSONL does not need its packages

        return map(orjson.loads, iter_lines(file.path))
    return _lines(file.path, selection, on_bad)


def _lines(path: Path, selection: Selection, on_bad: OnBad) -> Iterator[dict[str, Any]]:
    judge = Judge(path, on_bad)
    for block in read_blocks(path, path.stat().st_size):
        if isinstance(block, Fragment):
            try:
                yield _tick(block.text)
            except (ValueError, RecursionError):
                judge.hear_fragment(block)
            continue
        for index, line in enumerate(block.lines):
            if not selection.may_have(line):
                continue
            try:
                tick = _tick(line)
            except (ValueError, RecursionError) as error:
                judge.hear(BadLine(block.place(index), str(error)))
            else:
                yield tick
    judge.end()


def _tick(line: bytes) -> dict[str, Any]:
    """Return a line as a dict. Raises ValueError where it is no tick."""
    decode_line(line)
    tick: dict[str, Any] = orjson.loads(line)
    return tick
