"""`mds instruments sync` and `find`, and the commands that take symbols."""

import json
import os

import pytest

from pipeline.client import Client
from pipeline.instruments import listing
from pipeline.requests import Change
from pipeline.role import Lock
from tests.kite_list import LIST, ROWS, csv_of, serving

KEY, TOKEN = "k3y-of-the-app", "t0ken-of-the-day"


@pytest.fixture
def kite():
    with serving() as found:
        yield found


@pytest.fixture(autouse=True)
def folder(tmp_path, no_settings, monkeypatch):  # noqa: ARG001  none of the environment
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def listed(folder):
    (folder / "market_data").mkdir()
    path = folder / "market_data" / "instruments_2025-10-01.csv"
    path.write_text(LIST)
    return path


def test_sync_tells_what_there_is(run_mds, kite, folder, monkeypatch):
    """By exchange, and what has changed; credentials are used, and not shown."""
    monkeypatch.setenv("MDS_KITE__API_URL", kite.url)
    monkeypatch.setenv("KITE_API_KEY", KEY)
    monkeypatch.setenv("KITE_ACCESS_TOKEN", TOKEN)
    code, out, error = run_mds("instruments", "sync")
    (path,) = (folder / "market_data").glob("instruments_*.csv.zst")
    lines = out.splitlines()
    assert (code, error) == (0, "")
    assert lines[0].startswith(f"{path}: 11 instruments, ")
    assert [line.split() for line in lines[2:]] == [["NFO", "5"], ["NSE", "4"], ["BSE", "1"], ["MCX", "1"]]
    kite.body = csv_of(*ROWS[2:]).encode()
    code, out, _ = run_mds("instruments", "sync", "--json")
    told = json.loads(out)
    assert (told["file"], told["instruments"], told["new"], told["gone"]) == (str(path), 9, 0, 2)
    assert told["exchanges"] == {"NFO": 5, "NSE": 3, "MCX": 1}
    assert run_mds("instruments", "sync")[1].endswith(f"Compared with {path}: 0 new, 0 gone.\n")
    assert kite.asked[0] == f"token {KEY}:{TOKEN}"
    assert TOKEN not in out + error


def test_sync_needs_no_credentials(run_mds, kite, monkeypatch):
    monkeypatch.setenv("MDS_KITE__API_URL", kite.url)
    assert run_mds("instruments", "sync")[0] == 0
    assert kite.asked == [""]
    kite.refused = {""}
    code, out, error = run_mds("instruments", "sync")
    assert (code, out) == (1, "")
    assert "mds login" in error


def test_sync_that_fails_keeps_what_is_there(run_mds, kite, listed, monkeypatch):
    """One line, exit code 1; of another process that is at it, 2."""
    monkeypatch.setenv("MDS_KITE__API_URL", kite.url)
    kite.body = csv_of(ROWS[0]).encode()
    code, out, error = run_mds("instruments", "sync")
    assert (code, out) == (1, "")
    assert error.startswith("mds: http://127.0.0.1:")
    assert error.endswith("nothing was stored; mds instruments sync --force takes it all the same\n")
    assert listing.newest(listed.parent) == listed
    held = Lock(listed.parent / ".mds" / "instruments.lock")
    held.acquire("hash")
    assert run_mds("instruments", "sync")[0] == 2
    held.release()
    assert run_mds("instruments", "sync", "--force")[0] == 0
    monkeypatch.setenv("MDS_KITE__API_URL", "ftp://x")
    assert run_mds("instruments", "sync")[0] == 2


@pytest.mark.usefixtures("listed")
def test_find_prints_a_table(run_mds):
    """Of the best, narrowed by what is asked for besides."""
    code, out, error = run_mds("instruments", "find", "nifty", "24800")
    assert (code, error) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["token", "symbol", "name", "type", "expiry", "strike", "lot"],
        ["12000258", "NFO:NIFTY25OCT24800CE", "NIFTY", "CE", "2025-10-28", "24,800", "75"],
        ["12000514", "NFO:NIFTY25OCT24800PE", "NIFTY", "PE", "2025-10-28", "24,800", "75"],
    ]
    out = run_mds("instruments", "find", "nifty", "--type", "fut", "--expiry", "2025-11-25", "--json")[1]
    assert json.loads(out) == [
        {
            "instrument_token": 11924994,
            "symbol": "NFO:NIFTY25NOVFUT",
            "exchange": "NFO",
            "tradingsymbol": "NIFTY25NOVFUT",
            "name": "NIFTY",
            "expiry": "2025-11-25",
            "strike": 0.0,
            "tick_size": 0.1,
            "lot_size": 75,
            "instrument_type": "FUT",
            "segment": "NFO-FUT",
        }
    ]
    assert len(run_mds("instruments", "find", "--exchange", "nse")[1].splitlines()) == 5
    assert len(run_mds("instruments", "find", "n", "--limit", "2")[1].splitlines()) == 3
    assert json.loads(run_mds("instruments", "--json", "find", "gold")[1])[0]["symbol"] == "MCX:GOLD25DECFUT"


def test_what_a_terminal_would_obey_is_not_printed(run_mds, listed):
    """A list may come from anywhere."""
    listed.write_text(csv_of("7,1,[i]EVIL,[bold]\x1b[31mn[/bold],0,,0,0,1,EQ,NSE,NSE"))
    assert "NSE:[i]EVIL   [bold] [31mn[/bold]" in run_mds("instruments", "find", "evil")[1]


def test_nothing_is_found(run_mds, listed):
    """Exit code 1, with what comes near; wrong usage and a missing list have 2."""
    code, out, error = run_mds("instruments", "find", "relaince")
    assert (code, out) == (1, "")
    assert error == "Nothing like that is in market_data/instruments_2025-10-01.csv; near it are NSE:RELIANCE.\n"
    assert run_mds("instruments", "find", "infy", "--exchange", "MCX", "--json")[:2] == (1, "[]\n")
    for words in ([], ["x", "--type", "share"], ["x", "--expiry", "soon"], ["x", "--limit", "0"]):
        assert run_mds("instruments", "find", *words)[0] == 2
    listed.unlink()
    code, out, error = run_mds("instruments", "find", "x")
    assert (code, out) == (2, "")
    assert error == "mds: market_data: there is no list of instruments yet; fetch it with: mds instruments sync\n"


@pytest.mark.parametrize("command", [["subscribe"], ["unsubscribe"], ["mode", "full"]])
def test_commands_hand_on_symbols(run_mds, folder, monkeypatch, command):
    """As arguments and from a file: what they mean is for the service to find out."""
    asked = []

    def change(_self, method, **params):
        asked.append((method, params["tokens"]))
        return Change(action=method, requested=1, instruments=[1], mode="full", connections={"1": 1}, confirmed=True)

    monkeypatch.setattr(Client, "_change", change)
    (folder / "list.csv").write_text("Company Name,Industry,Symbol,Series,ISIN Code\nInfosys,IT,INFY,EQ,X\n")
    code, _, error = run_mds(*command, "NSE:NIFTY 50", "408065,INFY NFO:X", "--file", "list.csv")
    assert (code, error) == (0, "")
    assert asked[0][1] == ["NSE:NIFTY 50", 408065, "INFY", "NFO:X", "NSE:INFY"]


def test_a_line_without_a_symbol_is_named(run_mds, folder):
    (folder / "list.csv").write_text("symbol,weight\nINFY,1\n,2\n")
    told = run_mds("subscribe", "--file", "list.csv")
    assert told == (2, "", "mds: list.csv, line 3: its column symbol is empty\n")
    assert os.listdir(folder) == ["list.csv"]  # noqa: PTH208  nothing else was made
