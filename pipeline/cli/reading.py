"""What commands share that read all ticks of days before they print: waiting for it, its errors, and symbols."""

from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl
from rich.console import Console

from pipeline.cli.sources import Selected
from pipeline.errors import MdsError
from pipeline.instruments.symbols import Symbols


@contextmanager
def reading(selected: Selected) -> Iterator[None]:
    """Tell a terminal that it takes a while, and name what cannot be read. Raises MdsError."""
    try:
        with Console(stderr=True).status("reading ticks"):
            yield
    except OSError as error:
        raise MdsError(f"{error.filename or selected.config.storage.data_dir}: {error.strerror or error}") from None
    except pl.exceptions.PolarsError as error:
        paths = ", ".join(str(file.path) for file in selected.files)
        raise MdsError(f"{paths}: cannot be read: {str(error).partition(chr(10))[0]}") from None


def named(frame: pl.DataFrame, symbols: Symbols) -> pl.DataFrame:
    """Return a frame with `symbol` behind `instrument_token`, the first column; null where none is known."""
    names = {token: symbols.name(token) for token in frame["instrument_token"].unique()}
    symbol = pl.col("instrument_token").replace_strict(names, return_dtype=pl.String).alias("symbol")
    return frame.select("instrument_token", symbol, pl.exclude("instrument_token"))
