"""Symbols of stored ticks: each day's by its own list, in columns, in dicts, and in bars; and as others join them."""

from datetime import date, datetime, timedelta

import duckdb
import polars as pl
import pytest

import pipeline
from pipeline.files import tick_file_name
from pipeline.instruments.listing import write
from pipeline.ticks import encode_lines
from tests.stored import INDIA, ZONE, tick_at

FIRST, SECOND, THIRD = date(2025, 10, 1), date(2025, 10, 2), date(2025, 10, 3)


def listed(data_dir, day, **tokens):
    """Keep a list of these symbols."""
    rows = [{"instrument_token": token, "tradingsymbol": name, "exchange": "NFO"} for name, token in tokens.items()]
    return write(data_dir, day, rows)


@pytest.fixture
def folder(tmp_path):
    """Three days on which tokens 1 and 2 ticked; the second has no list of its own, and on the third 1 is another."""
    for day in (FIRST, SECOND, THIRD):
        at = datetime(day.year, day.month, day.day, 9, 15, tzinfo=INDIA)
        ticks = [tick_at(at + timedelta(seconds=n), "quote", instrument_token=1 + n % 2, seq=n + 1) for n in range(4)]
        (tmp_path / tick_file_name(day)).write_bytes(encode_lines(ticks))
    listed(tmp_path, FIRST, OLD=1)
    listed(tmp_path, THIRD, NEW=1, OTHER=2)
    return tmp_path


WANTED = ["NFO:OLD", None] * 4 + ["NFO:NEW", "NFO:OTHER"] * 2


def read(folder, **options):
    return pipeline.read_ticks(data_dir=folder, timezone=ZONE, symbols=True, **options)


def test_each_day_has_its_own_list(folder):
    """Tokens are used again; rows stay in their order, and a day without a list has the one before."""
    ticks = read(folder).collect()
    assert ticks["symbol"].to_list() == WANTED
    assert ticks.drop("symbol").equals(pipeline.read_ticks(data_dir=folder, timezone=ZONE).collect())
    assert [tick["symbol"] for tick in pipeline.iter_ticks(data_dir=folder, timezone=ZONE, symbols=True)] == WANTED
    assert "symbol" not in next(pipeline.iter_ticks(data_dir=folder, timezone=ZONE))


def test_with_all_that_selects(folder):
    """Instruments, times, columns, single days, no copies; and filters on the symbol."""
    assert read(folder, columns=["seq"]).collect().columns == ["seq", "symbol"]
    assert read(folder, columns=["symbol", "seq"]).collect().columns == ["symbol", "seq"]
    assert read(folder, tokens=[2], start="2025-10-03").collect()["symbol"].to_list() == ["NFO:OTHER"] * 2
    assert read(folder, source="2025-10-01").filter(pl.col("symbol") == "NFO:OLD").collect().height == 2
    without_copies = pipeline.read_ticks(data_dir=folder, timezone=ZONE, dedupe=True).collect()
    assert read(folder, dedupe=True).collect().drop("symbol").equals(without_copies)
    assert read(folder).head(1).collect()["symbol"].to_list() == ["NFO:OLD"]
    assert read(folder).select(pl.len()).collect().item() == 12


def test_without_a_list_it_is_null(folder, caplog):
    """So it is where the list is damaged, which the log tells."""
    for path in folder.glob("instruments_*"):
        path.write_bytes(b"rubbish")
    assert read(folder).collect()["symbol"].null_count() == 12
    assert len({record.getMessage() for record in caplog.records}) == 2
    for path in folder.glob("instruments_*"):
        path.unlink()
    assert read(folder).collect().schema["symbol"] == pl.String
    assert {tick["symbol"] for tick in pipeline.iter_ticks(data_dir=folder, timezone=ZONE, symbols=True)} == {None}
    assert read(folder, source=[]).collect().schema["symbol"] == pl.String


def test_bars_keep_the_symbol(folder):
    """Behind the token; of frames without it there is none."""
    made = pipeline.bars(read(folder), "1d").collect()
    assert made.columns[:3] == ["instrument_token", "symbol", "start"]
    assert made["symbol"].to_list() == ["NFO:OLD", "NFO:OLD", "NFO:NEW", None, None, "NFO:OTHER"]
    plain = pipeline.bars(pipeline.read_ticks(data_dir=folder, timezone=ZONE), "1d").collect()
    assert made.drop("symbol").equals(plain)
    assert pipeline.bars(read(folder).collect().to_pandas(), "1d").collect().equals(made)


def test_others_read_the_list_as_it_is(folder):
    """polars and DuckDB take the packed CSV."""
    path = folder / f"instruments_{THIRD}.csv.zst"
    ticks = pipeline.read_ticks(THIRD, data_dir=folder, timezone=ZONE)
    names = pl.scan_csv(path, schema_overrides={"instrument_token": pl.UInt32})
    assert (
        ticks.join(names, on="instrument_token", maintain_order="left").collect()["tradingsymbol"].to_list()
        == ["NEW", "OTHER"] * 2
    )
    lines = duckdb.read_json(str(folder / tick_file_name(THIRD)), format="newline_delimited")
    joined = lines.join(duckdb.read_csv(str(path)), "instrument_token")
    found = joined.aggregate("tradingsymbol, count(*)").order("tradingsymbol").fetchall()
    assert found == [("NEW", 2), ("OTHER", 2)]
