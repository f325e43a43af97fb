"""Parts of a day as Parquet: every tick comes back to the byte, and other programs read them as they are."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import orjson
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as arrow

from pipeline.errors import MdsError
from pipeline.files import parquet_folder, tick_file_name
from pipeline.store.files import Chunk, Place
from pipeline.store.lines import read_chunk
from pipeline.store.parquet import footer as footers
from pipeline.store.parquet import io as parquet
from pipeline.store.parquet import part, text
from pipeline.store.parquet.io import Part
from pipeline.store.schema import schema, to_ticks
from pipeline.ticks import StoredTick, encode_lines
from tests.stored import FIRST, KINDS, ZONE, stored_ticks, tick_at

DAY = date(2025, 10, 1)


def write(folder: Path, ticks: list[StoredTick]) -> Part:
    """Return the part that the ticks become, proved against their JSONL."""
    source = folder / tick_file_name(DAY)
    source.write_bytes(encode_lines(ticks))
    path = parquet_folder(folder, DAY) / "part-00000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    jsonl = part.Source(source, DAY, ZONE, parquet.head_of(source), source.stat().st_size)
    made = part.write_part(path, jsonl, Place(source, 1, 0), lambda _: None)
    found = Part(path, made)
    part.prove_part(found, source, lambda _: None)
    return found


def rows_of(ticks: list[StoredTick]) -> pl.DataFrame:
    """Return ticks as columns."""
    return read_chunk(Chunk(encode_lines(ticks), Place(Path("x"), 1, 0)), ZONE).frame


def in_zone(ticks: list[StoredTick]) -> list[StoredTick]:
    """Return ticks with their times as they stand in the storage time zone."""
    return to_ticks(rows_of(ticks))


MANY = [tick_at(FIRST + timedelta(milliseconds=n), kind, seq=n + 1) for n in range(40) for kind in KINDS]


@pytest.fixture(scope="module")
def hive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a day of ticks of all kinds as Parquet."""
    folder = tmp_path_factory.mktemp("hive")
    write(folder, MANY)
    return folder


@settings(max_examples=60)
@given(ticks=st.lists(stored_ticks(), max_size=20))
def test_every_tick_comes_back(in_memory: Callable[[], Path], ticks: list[StoredTick]) -> None:
    """Sorted by instrument, those of an instrument in the order of the lines; to the byte."""
    ticks = in_zone(ticks)
    made = write(in_memory(), ticks)
    rows = pl.concat([schema(ZONE).to_frame(), *parquet.read_groups(made.path)])
    assert dict(rows.schema) == dict(schema(ZONE))
    expected = sorted(ticks, key=lambda tick: tick.instrument_token)
    assert encode_lines(to_ticks(rows)) == encode_lines(expected)
    assert made.footer.ticks == len(ticks)
    assert parquet.read_footer(made.path) == made.footer


@settings(max_examples=100)
@given(st.lists(stored_ticks(), max_size=20))
def test_lines_in_bulk_are_the_ticks(ticks: list[StoredTick]) -> None:
    """What polars writes of the columns is what the recorder writes: the same fields in the same order, same values."""
    ticks = in_zone(ticks)
    lines = text.to_lines(rows_of(ticks)).to_list()
    assert [list(orjson.loads(line).items()) for line in lines] == [
        list(orjson.loads(line).items()) for line in encode_lines(ticks).splitlines()
    ]


def test_ordinary_lines_are_the_same_to_the_byte() -> None:
    """So that whole files can be compared at once."""
    assert "".join(text.to_lines(rows_of(MANY))).encode() == encode_lines(MANY)


def test_rows_that_are_no_ticks_are_refused() -> None:
    """A column that such a tick does not have, or one that it needs."""
    rows = rows_of(MANY)
    for name, value in (("oi", 5), ("last_price", None), ("mode", None)):
        with pytest.raises(ValueError, match="rows"):
            text.to_lines(rows.with_columns(pl.lit(value).cast(rows.schema[name]).alias(name)))


@pytest.mark.parametrize("glob", ["parquet", "parquet/date=2025-10-01", "parquet/date=2025-10-01/part-00000.parquet"])
def test_polars_reads_it(hive: Path, glob: str) -> None:
    """With the schema of `read_ticks`; the folder's name is a column where polars is told so."""
    found = pl.scan_parquet(hive / glob, hive_partitioning=glob == "parquet").collect()
    expected = rows_of(MANY).sort("instrument_token", maintain_order=True)
    assert found.drop("date", strict=False).equals(expected)
    assert dict(found.drop("date", strict=False).schema) == dict(schema(ZONE))
    assert glob != "parquet" or found["date"].unique().to_list() == [DAY]


def test_duckdb_reads_it(hive: Path) -> None:
    """Numbers, texts and times are what they should be, the partition is a column."""
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'Asia/Kolkata'")
        source = f"read_parquet('{hive}/parquet/*/*.parquet', hive_partitioning = true)"
        found = pl.DataFrame(connection.sql(f"select * from {source}").to_arrow_table())  # noqa: S608
        types = {name: kind for name, kind, *_ in connection.execute(f"describe select * from {source}").fetchall()}  # noqa: S608
    assert (types["mode"], types["seq"], types["instrument_token"]) == ("VARCHAR", "BIGINT", "UINTEGER")
    assert (types["timestamp"], types["bid_orders_1"]) == ("TIMESTAMP WITH TIME ZONE", "USMALLINT")
    assert found["date"].unique().to_list() == [DAY]
    expected = rows_of(MANY).with_columns(pl.col("mode").cast(pl.String))
    found = found.drop("date").select(pl.col(name).cast(kind) for name, kind in expected.schema.items())
    assert found.sort(pl.all(), nulls_last=True).equals(expected.sort(pl.all(), nulls_last=True))


def test_pandas_reads_it(hive: Path) -> None:
    """The mode is a category, times have their zone, values are the same."""
    found = pd.read_parquet(hive / "parquet")
    assert list(found["mode"].cat.categories) == ["ltp", "quote", "full"]
    assert str(found["timestamp"].dt.tz) == ZONE
    expected = rows_of(MANY).sort("instrument_token", maintain_order=True)
    for name in expected.columns:
        values = [None if pd.isna(value) else value for value in found[name]]
        assert values == expected[name].to_list(), name


def test_row_groups_have_statistics(hive: Path) -> None:
    """Who asks for an instrument or a time need not read all."""
    group = arrow.read_metadata(parquet_folder(hive, DAY) / "part-00000.parquet").row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    assert all(columns[name].statistics.has_min_max for name in ("instrument_token", "timestamp", "seq"))
    assert columns["last_price"].compression == "ZSTD"


def test_times_in_another_zone(hive: Path) -> None:
    """The same instants, as this reader wants them."""
    found = parquet.scan(parquet_folder(hive, DAY), "Europe/Berlin").select("timestamp").collect()["timestamp"]
    assert found.dtype == pl.Datetime("us", "Europe/Berlin")
    assert found.min() == FIRST
    assert str(found[0].tzinfo) == str(ZoneInfo("Europe/Berlin"))


def test_lines_come_in_the_order_of_receiving(hive: Path) -> None:
    """Though rows are sorted by instrument."""
    found = [orjson.loads(line) for line in parquet.iter_lines(parquet_folder(hive, DAY))]
    lines = [orjson.loads(line) for line in encode_lines(MANY).splitlines()]

    def key(tick: dict[str, Any]) -> tuple[Any, ...]:
        return tick["timestamp"], tick["connection_id"], tick["epoch"], tick["seq"]

    assert list(map(key, found)) == sorted(map(key, lines))
    assert sorted(map(str, found)) == sorted(map(str, lines))


def test_what_is_covered(hive: Path, tmp_path: Path) -> None:
    """Parts of a JSONL are known by its first line; where the folder is missing nothing is covered."""
    source = hive / tick_file_name(DAY)
    assert parquet.covered(parquet_folder(hive, DAY), source) == source.stat().st_size
    assert parquet.covered(tmp_path / "date=2025-10-02", source) is None
    other = tmp_path / source.name
    other.write_bytes(encode_lines(MANY[1:2]))
    assert parquet.covered(parquet_folder(hive, DAY), other) is None
    assert parquet.others(parquet_folder(hive, DAY), other) == [parquet_folder(hive, DAY) / "part-00000.parquet"]


def _read_all(path: Path) -> None:
    parquet.read_footer(path)
    list(parquet.read_groups(path))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    column = arrow.read_metadata(path).row_group(0).column(3)
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 0xFF
    path.write_bytes(data)


def _foreign(path: Path) -> None:
    arrow.write_table(pa.table({"a": [1]}), path)


def _later(path: Path) -> None:
    writer = arrow.ParquetWriter(path, pa.schema({"a": pa.int64()}))
    writer.add_key_value_metadata({footers.KEY: '{"version":2}'})
    writer.close()


@pytest.mark.parametrize("damage", [_cut, _flip, _foreign, _later, Path.unlink])
def test_damage_is_told(tmp_path: Path, damage: Any) -> None:
    """A part that is cut, changed, gone or not ours: one line that names it and the way out."""
    path = write(tmp_path, MANY).path
    damage(path)
    with pytest.raises(MdsError, match=r"part-00000.parquet: cannot be read as a part.*mds compact again"):
        _read_all(path)


def test_broken_numbers_are_runs() -> None:
    """Of each stream: what follows without a hole is one run, over chunks too."""
    runs = footers.Runs()
    runs.add(1, 7, [(1, 5), (7, 9)])
    runs.add(2, 7, [(1, 1)])
    runs.add(1, 7, [(10, 12), (3, 3)])
    assert [(s.connection_id, s.epoch, s.runs) for s in runs.streams()] == [
        (1, 7, [(1, 5), (7, 12), (3, 3)]),
        (2, 7, [(1, 1)]),
    ]
