"""What readers of stored ticks get: the same from columns, dicts and the lines themselves."""

import json
import logging
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import pipeline
from pipeline.errors import MdsError
from pipeline.files import tick_file_name
from pipeline.store import frames
from pipeline.store.bad import BadLine, BadLineError
from pipeline.store.schema import COLUMNS, to_ticks
from pipeline.ticks import encode_lines
from tests.stored import INDIA, KINDS, ZONE, tick_at

DAY = date(2025, 10, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with two days of ticks of all kinds, a second apart."""
    for day in (1, 2):
        ticks = [tick_at(datetime(2025, 10, day, 9, 15, n, 5, INDIA), kind, seq=n + 1) for n, kind in enumerate(KINDS)]
        (tmp_path / tick_file_name(date(2025, 10, day))).write_bytes(encode_lines(ticks))
    return tmp_path


def read(source: Any = None, **options: Any) -> pl.DataFrame:
    """Return what is read, in this time zone."""
    return pipeline.read_ticks(source, timezone=ZONE, **options).collect()


def iterate(source: Any = None, **options: Any) -> list[dict[str, Any]]:
    """Return what is read one by one."""
    return list(pipeline.iter_ticks(source, timezone=ZONE, **options))


def stored(path: Path) -> list[dict[str, Any]]:
    """Return what a plain reader of JSON lines has."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_columns_are_the_lines(folder: Path) -> None:
    """Columns and dicts hold what a line-by-line JSON reader finds, fields in the same order."""
    paths = sorted(folder.glob("*.jsonl"))
    lines = [tick for path in paths for tick in stored(path)]
    assert iterate(data_dir=folder) == lines
    assert [list(tick) for tick in iterate(data_dir=folder)] == [list(tick) for tick in lines]
    assert encode_lines(to_ticks(read(data_dir=folder))) == b"".join(path.read_bytes() for path in paths)


@pytest.mark.parametrize(
    "source",
    [
        date(2025, 10, 1),
        "2025-10-01",
        [datetime(2025, 10, 1, 12, tzinfo=INDIA)],
        "{folder}/market_data_2025-10-01.jsonl",
    ],
)
def test_ways_to_say_which_day(folder: Path, source: Any) -> None:
    """A day is a date, its text, or its file."""
    named = source.format(folder=folder) if isinstance(source, str) else source
    expected = stored(folder / "market_data_2025-10-01.jsonl")
    assert iterate(named, data_dir=folder) == expected
    assert read(named, data_dir=folder)["seq"].to_list() == [tick["seq"] for tick in expected]


def test_several_sources_in_the_order_given(folder: Path) -> None:
    """A list of days is read in its order; a folder is all its days."""
    assert read(["2025-10-02", DAY], data_dir=folder)["timestamp"].dt.day().unique(maintain_order=True).to_list() == [
        2,
        1,
    ]
    assert read(folder, data_dir="elsewhere").height == 2 * len(KINDS)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tokens": 408065}, {"ltp", "index_quote", "index_full", "quote", "full"}),
        ({"tokens": pl.Series([408065]).to_numpy()[0]}, {"ltp", "index_quote", "index_full", "quote", "full"}),
        ({"tokens": [5, 6]}, set()),
        ({"tokens": ["408065", 7]}, {"ltp", "index_quote", "index_full", "quote", "full"}),
        ({"modes": "full"}, {"index_full", "full"}),
        ({"modes": ["ltp", "QUOTE"]}, {"ltp", "index_quote", "quote"}),
        ({"start": "2025-10-01T09:15:03"}, {"quote", "full"}),
        ({"start": datetime(2025, 10, 1, 9, 15, 1, tzinfo=INDIA), "end": "2025-10-01 03:45:02+00:00"}, {"index_quote"}),
        ({"start": "2025-10-02"}, set()),
        ({"end": DAY}, set()),
        ({"end": "2025-10-01T09:15:00.000005"}, set()),
        ({"start": "2025-10-01T09:15:04.000005", "modes": ["full"]}, {"full"}),
    ],
)
def test_selections(folder: Path, options: dict[str, Any], expected: set[str]) -> None:
    """Instruments, modes and times select the same from columns and dicts; `end` is not included."""
    seqs = [seq for seq, kind in enumerate(KINDS, start=1) if kind in expected]
    assert read(DAY, data_dir=folder, **options)["seq"].to_list() == seqs
    assert [tick["seq"] for tick in iterate(DAY, data_dir=folder, **options)] == seqs


def test_selections_by_their_place(folder: Path) -> None:
    """Instruments, modes, start, end and columns may follow the source without their names."""
    path = folder / tick_file_name(DAY)
    selection = (408065, "full", "2025-10-01T09:15:03", "2025-10-02")
    assert [tick["seq"] for tick in pipeline.iter_ticks(path, *selection)] == [5]
    assert pipeline.read_ticks(path, *selection, ["seq"]).collect().rows() == [(5,)]


def test_symbols_are_looked_up_beside_the_file(folder: Path) -> None:
    """Or in the folder that is read, if no other is named."""
    (folder / "instruments_2025-10-01.csv").write_text("instrument_token,exchange,tradingsymbol\n408065,NSE,INFY\n")
    for source in (folder / tick_file_name(DAY), folder):
        assert read(source, tokens="NSE:INFY", end="2025-10-02").height == len(KINDS)
        assert len(iterate(source, tokens="NSE:INFY", end="2025-10-02")) == len(KINDS)
    with pytest.raises(MdsError, match="nowhere: no list of instruments"):
        read(folder, tokens="NSE:INFY", data_dir="nowhere")


def test_no_source_at_all(folder: Path) -> None:
    """Of an empty list of days there are no ticks, but all columns."""
    assert read([], data_dir=folder).columns == list(COLUMNS)
    assert iterate([], data_dir=folder) == []


def test_columns_that_were_asked_for(folder: Path) -> None:
    """`columns` are what the frame has; selecting by others works all the same."""
    found = read(DAY, data_dir=folder, columns=["ask_price_5", "seq"], modes="full", start="2025-10-01T09:15:03")
    assert found.columns == ["ask_price_5", "seq"]
    assert found.rows() == [(571.15, 5)]


def test_it_is_lazy(folder: Path) -> None:
    """What is done to the frame before it is collected decides what is read; the rest follows later."""
    frame = pipeline.read_ticks(DAY, data_dir=folder, timezone=ZONE)
    assert isinstance(frame, pl.LazyFrame)
    with (folder / tick_file_name(DAY)).open("ab") as file:
        file.write(encode_lines([tick_at(datetime(2025, 10, 1, 10, tzinfo=INDIA), "quote", seq=6)]))
    assert frame.select(pl.len()).collect().item() == len(KINDS) + 1
    assert frame.head(2).collect().height == 2
    assert frame.filter(pl.col("seq") == 6).select("last_price").collect().height == 1


def test_pandas(folder: Path) -> None:
    """The frame, and what becomes of it, can be had as pandas; times are aware."""
    frame = pipeline.read_ticks(DAY, data_dir=folder, timezone=ZONE)
    full = frame.filter(pl.col("mode") == "full").select("timestamp", "bid_quantity_1")
    assert isinstance(full, frames.TickFrame)
    table = full.to_pandas()
    assert str(table["timestamp"].dtype) == "datetime64[us, Asia/Kolkata]"
    assert table["bid_quantity_1"].iloc[1] == 75


def test_a_file_as_pandas(folder: Path) -> None:
    """A file becomes a DataFrame, at most `max_rows` of it, without the columns that have nothing."""
    path = folder / tick_file_name(DAY)
    assert len(pipeline.read_jsonl_to_dataframe(str(path))) == len(KINDS)
    some = pipeline.read_jsonl_to_dataframe(path, max_rows=2)
    assert list(some["seq"]) == [1, 2]
    assert "open" in some
    assert "bid_price_1" not in some


def test_bad_lines_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Foreign and torn lines are named with file, line and byte, and the ticks around them are read."""
    path = folder / tick_file_name(DAY)
    whole = path.read_bytes()
    path.write_bytes(whole + b"foreign\n" + whole + b'{"mode":"quo')
    places = [(6, len(whole)), (12, 2 * len(whole) + 8)]
    for reader in (read, iterate):
        bad: list[BadLine] = []
        assert len(reader(DAY, data_dir=folder, on_bad=bad.append)) == 2 * len(KINDS)
        assert [(line.place.path, line.place.line, line.place.offset) for line in bad] == [(path, *at) for at in places]
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert len(reader(DAY, data_dir=folder)) == 2 * len(KINDS)
        assert f"{path} line 6, byte {len(whole)}: no tick:" in caplog.text


def test_a_last_line_that_lacks_its_newline_only(folder: Path) -> None:
    """It is a tick like the others."""
    path = folder / tick_file_name(DAY)
    path.write_bytes(path.read_bytes()[:-1])
    assert read(DAY, data_dir=folder, on_bad="raise").height == len(KINDS)
    assert len(iterate(DAY, data_dir=folder, on_bad="raise")) == len(KINDS)


def test_bad_lines_may_raise(folder: Path) -> None:
    """With "raise" the first bad line ends the reading, by name."""
    path = folder / tick_file_name(DAY)
    path.write_bytes(path.read_bytes() + b"foreign\n")
    with pytest.raises(BadLineError, match=f"{path.name} line 6, byte"):
        iterate(DAY, data_dir=folder, on_bad="raise")
    with pytest.raises(Exception, match=f"{path.name} line 6, byte"):
        read(DAY, data_dir=folder, on_bad="raise")


def test_many_bad_lines_do_not_fill_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file of rubbish has no ticks, and a short log."""
    path = tmp_path / tick_file_name(DAY)
    path.write_bytes(b"rubbish\n" * 1000)
    with caplog.at_level(logging.WARNING):
        assert read(path).height == 0
    assert len(caplog.records) < 20
    assert "1000 lines passed over" in caplog.text


def test_an_empty_file(tmp_path: Path) -> None:
    """It has no ticks, and all columns."""
    path = tmp_path / tick_file_name(DAY)
    path.touch()
    assert read(path).columns == list(COLUMNS)
    assert iterate(path) == []


def test_a_file_larger_than_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks follow each other without a line lost, torn or out of order."""
    monkeypatch.setattr(frames, "CHUNK_BYTES", 1000)
    path = tmp_path / tick_file_name(DAY)
    kinds = list(KINDS)
    at = datetime(2025, 10, 1, 9, 15, tzinfo=INDIA)
    path.write_bytes(encode_lines([tick_at(at, kinds[n % len(kinds)], seq=n + 1) for n in range(200)]))
    assert read(path)["seq"].to_list() == list(range(1, 201))
    assert read(path, columns=["seq"]).head(7)["seq"].to_list() == list(range(1, 8))


def test_another_days_ticks(folder: Path) -> None:
    """A file is read whatever day its ticks are of: its name says where it is looked for, no more."""
    (folder / "market_data_2025-10-03.jsonl").write_bytes((folder / tick_file_name(DAY)).read_bytes())
    assert read("2025-10-03", data_dir=folder)["timestamp"].dt.day().unique().to_list() == [1]


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("2025-10-09", {}, "nothing was recorded on 2025-10-09"),
        ("2025-13-01", {}, "no such day"),
        ("missing.jsonl", {}, "missing.jsonl: no such file"),
        (None, {"data_dir": "nowhere"}, "nowhere: no such folder"),
        (DAY, {"modes": "fast"}, "fast: no such mode"),
        (DAY, {"start": "soon"}, "'soon' is not a time"),
        (DAY, {"tokens": "NSE:INFY"}, "no list of instruments"),
    ],
)
def test_what_cannot_be_read(folder: Path, source: Any, options: dict[str, Any], words: str) -> None:
    """An error names the thing, at once, before anything is read."""
    arguments: dict[str, Any] = {"data_dir": folder, "timezone": ZONE} | options
    with pytest.raises(MdsError, match=words):
        pipeline.read_ticks(source, **arguments)
    with pytest.raises(MdsError, match=words):
        pipeline.iter_ticks(source, **arguments)


def test_nothing_is_asked_for(folder: Path) -> None:
    """No days, no modes, no instruments: no ticks, with all columns."""
    for found in (
        read([], data_dir=folder),
        read([], data_dir=folder, dedupe=True),
        read(data_dir=folder, modes=[]),
        read(data_dir=folder, tokens=[]),
    ):
        assert (found.height, found.columns) == (0, list(COLUMNS))
