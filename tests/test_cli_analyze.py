"""`mds analyze` as it is typed and read."""

import json
from datetime import datetime, timedelta

import pytest

from pipeline.store.analysis import analyze
from tests.recorded import frame_of, market_ticks, record, symbol_of
from tests.stored import INDIA, tick_at

EVENING = datetime(2025, 10, 1, 23, 59, 59, tzinfo=INDIA)
TICKS = market_ticks(datetime(2025, 10, 2, 9, 14, tzinfo=INDIA), instruments=40, rounds=10, every=timedelta(seconds=3))
FOUND = analyze(frame_of(TICKS)).to_json()


pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    """Two days, all of the market on the second; no settings from outside."""
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "market_data", [tick_at(EVENING)])
    record(tmp_path / "market_data", TICKS)


@pytest.fixture
def mds(run_mds, monkeypatch):
    """Run `mds analyze` to its end in a terminal of so many columns; returns exit code, stdout, stderr."""

    def run(*arguments, columns=200):
        monkeypatch.setenv("COLUMNS", str(columns))
        return run_mds("analyze", *arguments)

    return run


def named(instruments):
    """Return the rows of instruments with their symbols."""
    return [{"symbol": symbol_of(each["instrument_token"], TICKS), **each} for each in instruments]


def test_json(mds):
    """All of the newest day, with symbols."""
    code, out, _ = mds("--json", "--sort", "token")
    found = json.loads(out)
    assert code == 0
    assert found == {**FOUND, "instruments": named(FOUND["instruments"])}
    assert list(found["instruments"][0])[:3] == ["instrument_token", "symbol", "ticks"]


@pytest.mark.parametrize(
    ("sort", "column"),
    [
        ("ticks", "ticks"),
        ("rate", "rate"),
        ("volume", "volume"),
        ("spread", "spread_mean"),
        ("silence", "silence"),
    ],
)
def test_sorting(mds, sort, column):
    """The largest come first, those of which it is not known last; what else holds is of all instruments."""
    found = json.loads(mds("--json", "--sort", sort, "--top", "30")[1])
    values = [each[column] for each in found["instruments"]]
    known = [each[column] for each in FOUND["instruments"] if each[column] is not None]
    unknown = [None] * (40 - len(known))
    assert values == (sorted(known, reverse=True) + unknown)[:30]
    assert found["unique_instruments"] == 40


def test_a_table(mds):
    """What holds over all in three lines, then the instruments, and how many were left out."""
    code, out, err = mds("--top", "3", "--sort", "volume")
    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 9)
    assert lines[0] == "400 ticks of 40 instruments, 2025-10-02 09:14:00 to 2025-10-02 09:14:27, in 27 s, 15 ticks/s"
    assert lines[1].startswith("ltp ")
    stats = FOUND["price_stats"]
    assert lines[2].startswith(f"prices {stats['min']:,.2f} to {stats['max']:,.2f}, mean ")
    assert lines[2].endswith(f"; traded while recorded {FOUND['volume_stats']['total']:,}")
    header = "instrument ticks share ticks/s first last low high mean price volume spread spread max silence since"
    assert " ".join(lines[4].split()) == header
    most = max(FOUND["instruments"], key=lambda each: each["volume"] or 0)
    first = lines[5].split()
    assert first[0] == (symbol_of(most["instrument_token"], TICKS) or str(most["instrument_token"]))
    assert first[1:6] == ["10", "2.5%", "0.37", "09:14:00", "09:14:27"]
    assert f"{most['volume']:,}" in first
    assert lines[8] == "and 37 instruments more: --top N, or --json"


def test_a_narrow_terminal(mds):
    """What is missed least is left out; lines are not longer than the terminal."""
    _, out, _ = mds("--top", "40", columns=80)
    header, *rows = out.splitlines()[4:]
    assert header.split()[:2] == ["instrument", "ticks"]
    assert "silence" in header
    assert len(rows) == 40
    assert max(map(len, rows)) <= 80


def test_one_tick_of_another_day(mds):
    """What nobody knows is a dash."""
    code, out, _ = mds("2025-10-01", "--mode", "quote")
    assert (code, out.splitlines()[:2]) == (
        0,
        ["1 tick of 1 instrument, 2025-10-01 23:59:59 to 2025-10-01 23:59:59, in 0.0 s", "quote 1"],
    )
    assert out.splitlines()[-1].split()[-4:] == ["-", "-", "-", "-"]


def test_no_ticks(mds):
    """The answer is no."""
    assert mds("-i", "99") == (1, "", "mds: there are no ticks of these instruments and times\n")
    assert mds("-i", "99", "--json") == (1, "", "mds: there are no ticks of these instruments and times\n")
