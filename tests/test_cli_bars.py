"""`mds bars` as it is typed and read."""

import csv
import errno
import io
import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from pipeline.cli import bars as command
from pipeline.cli.sources import Selected
from pipeline.store.bars import bars
from tests.recorded import frame_of, market_ticks, record, symbol_of
from tests.stored import INDIA

TICKS = market_ticks(datetime(2025, 10, 1, 9, 10, tzinfo=INDIA), instruments=40, rounds=120, every=timedelta(seconds=7))


def expected(interval="1m"):
    """Return the bars as JSON has them."""
    rows = bars(frame_of(TICKS), interval).collect().to_dicts()
    return [
        {
            "instrument_token": row.pop("instrument_token"),
            "symbol": symbol_of(token, TICKS),
            "start": row.pop("start").isoformat(),
            **row,
        }
        for row in rows
        for token in [row["instrument_token"]]
    ]


BARS = expected()


pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    """A day's ticks; no settings from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "SLICE_ROWS", 100)
    record(tmp_path / "market_data", TICKS)
    return tmp_path / "market_data"


@pytest.fixture
def mds(run_mds):
    """Run `mds bars` to its end; returns exit code, stdout, stderr."""
    return partial(run_mds, "bars")


def test_csv(mds):
    """Without being told otherwise, bars of a minute of the newest day, as CSV with a header."""
    code, out, err = mds()
    assert (code, err) == (0, "")
    texts = [{name: "" if value is None else str(value) for name, value in bar.items()} for bar in BARS]
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [list(row) for row in rows[:1]] == [list(BARS[0])]
    assert rows == texts


def test_json(mds):
    """A list, each bar on a line of its own."""
    code, out, _ = mds("--format", "json")
    assert (code, json.loads(out)) == (0, BARS)
    assert [json.loads(line.removesuffix(",")) for line in out.splitlines()[1:-1]] == BARS
    assert mds("--json") == (0, out, "")


def test_json_lines(mds):
    """An object a line; days, intervals and instruments as asked for."""
    token, other, *_ = sorted({bar["instrument_token"] for bar in BARS if bar["symbol"]})
    which = ["2025-10-01", "--interval", "5m", "-i", str(token), "-i", f"NSE:SYM{other}"]
    code, out, _ = mds(*which, "--format", "jsonl")
    wanted = [bar for bar in expected("5m") if bar["instrument_token"] in (token, other)]
    assert (code, [json.loads(line) for line in out.splitlines()]) == (0, wanted)


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl", "a.JSON"])
def test_a_file_by_its_suffix(mds, tmp_path, name):
    """A file has what the standard output would have; nothing else is left beside it."""
    _, printed, _ = mds("--format", name.partition(".")[2].lower())
    instruments = len({bar["instrument_token"] for bar in BARS})
    assert mds("--out", name) == (0, "", f"{name}: {len(BARS)} bars of {instruments} instruments\n")
    assert (tmp_path / name).read_text() == printed
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "market_data"]


def test_parquet(mds, tmp_path):
    """Columns keep their types; whatever the file is called, if the format is said."""
    assert mds("--out", "a", "--format", "parquet")[0] == 0
    found = pl.read_parquet(tmp_path / "a")
    assert found.drop("symbol").equals(bars(frame_of(TICKS)).collect())
    assert found["symbol"].to_list() == [bar["symbol"] for bar in BARS]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--format", "parquet"], "Parquet is written to a file: --out FILE"),
        (["--out", "a.txt"], "a.txt: name it .csv, .json, .jsonl, .parquet, or say --format"),
        (["--interval", "1x"], "'1x' is not an interval like"),
        (["--out", "market_data"], "is a directory"),
        (["--json", "--format", "csv"], "--json and --format csv cannot go together"),
        (["--out", "/dev/null", "--format", "csv", "--force"], "/dev/null is there; --force replaces it, if it is a"),
    ],
)
def test_wrong_usage(mds, arguments, what):
    """It is said what is wrong; exit code 2."""
    code, out, err = mds(*arguments)
    assert (code, out) == (2, "")
    assert what in err


def test_no_file_is_replaced_unasked(mds, tmp_path):
    """One that is there stays as it is, but for --force."""
    there = tmp_path / "a.csv"
    there.write_text("mine")
    code, _, err = mds("--out", "a.csv")
    assert (code, there.read_text()) == (2, "mine")
    assert "a.csv is there; --force replaces it" in err
    assert mds("--out", "a.csv", "--force")[0] == 0
    assert there.read_text().startswith("instrument_token,")


def test_no_ticks(mds, tmp_path):
    """No bars are an error and not an empty file."""
    nothing = "mds: no bars: there are no ticks of these instruments and times\n"
    assert mds("-i", "99", "--out", "a.csv") == (1, "", nothing)
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_full_disk(mds, tmp_path, monkeypatch, form):
    """What was there before is still there, whole, and nothing beside it."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(command, "_fill", full)
    (tmp_path / "a").write_text("mine")
    assert mds("--out", "a", "--force", "--format", form) == (1, "", "mds: a: not written: No space left on device\n")
    assert (tmp_path / "a").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "market_data"]


def test_a_file_that_cannot_be_read(mds, tmp_path, monkeypatch):
    """It is named, in a line."""
    (tmp_path / "a.parquet").write_bytes(b"rubbish")
    monkeypatch.setattr(Selected, "frame", lambda _: pl.scan_parquet(tmp_path / "a.parquet"))
    code, out, err = mds("a.parquet")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("mds: a.parquet: cannot be read: ")


def test_a_file_that_goes_away(mds, data_dir, monkeypatch):
    """A day that is deleted before it is read is named."""
    read = Selected.frame

    def then_gone(selected):
        frame = read(selected)
        (data_dir / "market_data_2025-10-01.jsonl").unlink()
        return frame

    monkeypatch.setattr(Selected, "frame", then_gone)
    assert mds() == (1, "", "mds: market_data/market_data_2025-10-01.jsonl: No such file or directory\n")


def test_a_file_that_cannot_be_made(mds):
    """It is told in a line, though there is nothing to clear away."""
    name = f"{'x' * 246}.csv"  # with what an unfinished one has behind it too long for a file system
    code, out, err = mds("--out", name)
    assert (code, out, err) == (1, "", f"mds: {name}: not written: File name too long\n")


def test_a_reader_that_has_enough(tmp_path):
    """`mds bars | head -1` ends without a word."""
    argv = [sys.executable, "-m", "pipeline", "bars", "--interval", "1s"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith(b"instrument_token,")
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_full_disk_behind_the_standard_output(tmp_path):
    """It is told in a line."""
    argv = [sys.executable, "-m", "pipeline", "bars"]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(argv, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (1, b"mds: cannot write: No space left on device\n")
