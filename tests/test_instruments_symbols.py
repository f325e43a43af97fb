"""Symbols and tokens: which list is read, which words name an instrument, and what is said of those that do not."""

import gzip
from datetime import date

import pytest

from pipeline.instruments.listing import SymbolError
from pipeline.instruments.symbols import Symbols
from tests.kite_list import HEADER, ROWS, csv_of

LIST = csv_of(*ROWS[:6])  # up to the first future
NEW, OLD = date(2025, 10, 3), date(2025, 10, 1)


@pytest.fixture
def symbols(tmp_path):
    (tmp_path / "instruments_2025-10-01.csv").write_text(LIST)
    return Symbols(tmp_path)


@pytest.mark.parametrize(
    ("words", "tokens"),
    [
        ([408065, "738561"], [408065, 738561]),
        (["NSE:INFY", "BSE:INFY"], [408065, 128053508]),
        (["nse:infy", " RELIANCE "], [408065, 738561]),
        (["NIFTY 50", "M&M", "nfo:nifty25octfut"], [256265, 519937, 11924738]),
        (["NSE:INFY", 408065, "408065"], [408065]),
        ("NSE:INFY", [408065]),
        (408065, [408065]),
        ([], []),
    ],
)
def test_words_name_instruments(symbols, words, tokens):
    """By token, by symbol and exchange, by a symbol alone; in their order, each once."""
    assert symbols.resolve(words) == tokens


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("INFY", "'INFY' is on several exchanges: NSE:INFY, BSE:INFY; name one of these"),
        ("MCX:INFY", "near it are NSE:INFY, BSE:INFY"),
        ("NSE:INFI", "near it are NSE:INFY"),
        ("relaince", "'relaince' is not in {path}; near it are NSE:RELIANCE"),
        ("NIFTY25", "near it are NFO:NIFTY25OCTFUT, NSE:NIFTY 50"),
        ("XYZ", "'XYZ' is not in {path}; a symbol is written NSE:INFY, or give its token"),
        ("", "'' is not in"),
        (":", "':' is not in"),
        ("0", "'0' is not an instrument token, a whole number from 1 to 4294967295"),
        ("4294967296", "not an instrument token"),
        ("9" * 10_000, "not an instrument token"),
        (-5, "'-5' is not an instrument token"),
        (True, "'True' is not an instrument token"),
        ("infosys", "near it are NSE:INFY, BSE:INFY"),
        ("BSE:infosys", "near it are BSE:INFY"),
        ("NSE:NIFTY25OCTFUT", "near it are NFO:NIFTY25OCTFUT"),
        ("x" * 100, f"'{'x' * 40}...' is not in"),
    ],
)
def test_a_word_that_names_none_is_told_with_what_may_have_been_meant(symbols, tmp_path, word, told):
    """In one line, with exit code 2."""
    with pytest.raises(SymbolError) as error:
        symbols.resolve([738561, word])
    assert told.format(path=tmp_path / "instruments_2025-10-01.csv") in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_a_token_has_a_name(symbols):
    """With its exchange; None where it is not on the list."""
    assert [symbols.name(token) for token in (408065, 128053508, 256265, 5)] == [
        "NSE:INFY",
        "BSE:INFY",
        "NSE:NIFTY 50",
        None,
    ]


def test_the_list_of_the_day_is_read(tmp_path):
    """The newest that is not later, else the oldest there is; without a day the newest. Other files are no lists."""
    for day, token in ((OLD, 1), (NEW, 3)):
        (tmp_path / f"instruments_{day}.csv").write_text(f"{HEADER}\n{token},1,A,A,0,,0,0,1,EQ,NSE,NSE\n")
    for name in ("2025-10-32.csv", "2025-10-09.csv.tmp", "2025-10-09.json", "latest.csv"):
        (tmp_path / f"instruments_{name}").touch()
    (tmp_path / "instruments_2025-10-09.csv").mkdir()
    assert Symbols(tmp_path).resolve(["A"]) == [3]
    by_day = {date(2025, 9, 30): 1, OLD: 1, date(2025, 10, 2): 1, NEW: 3, date(2025, 10, 4): 3}
    for day, token in by_day.items():
        assert Symbols(tmp_path, day).resolve(["A"]) == [token]
        assert Symbols(tmp_path, day).name(token) == "NSE:A"


def test_a_packed_list_is_read_where_there_is_no_other(tmp_path):
    """As it is fetched, with or without a byte order mark; the plain one goes first."""
    packed = tmp_path / "instruments_2025-10-01.csv.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + LIST.encode()))
    assert Symbols(tmp_path).resolve(["NSE:INFY"]) == [408065]
    (tmp_path / "instruments_2025-10-01.csv").write_text(f"{HEADER}\n7,1,INFY,A,0,,0,0,1,EQ,NSE,NSE\n")
    assert Symbols(tmp_path).resolve(["NSE:INFY"]) == [7]


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_without_a_list_tokens_work(tmp_path, folder):
    """They need none; the error of a symbol says what is looked for, and where."""
    symbols = Symbols(tmp_path / folder)
    assert symbols.resolve([408065]) == [408065]
    assert symbols.name(408065) is None
    with pytest.raises(SymbolError, match=r"instruments_YYYY-MM-DD\.csv\.zst.* mds instruments sync") as error:
        symbols.resolve(["NSE:INFY"])
    assert str(error.value).startswith(f"{tmp_path / folder}: ")
    assert "instrument tokens work without one" in str(error.value)


@pytest.mark.parametrize(
    ("suffix", "data", "told"),
    [
        (".csv", b"", "no column instrument_token, exchange, tradingsymbol"),
        (".csv", b"a,b\n1,2\n", "no column"),
        (".csv", b"\xff\xfe", "damaged, fetch it again"),
        (".csv", f"{HEADER}\n".encode() + b'"' + b"x" * 200_000, "damaged"),
        (".csv.gz", b"", "no column"),
        (".csv.gz", LIST.encode(), "Not a gzipped file"),
        (".csv.gz", gzip.compress(LIST.encode(), mtime=0)[:-20], "damaged"),
        (".csv.gz", gzip.compress(LIST.encode(), mtime=0)[:30] + b"\xff" * 60, "damaged"),
    ],
)
def test_a_damaged_list_is_told(tmp_path, caplog, suffix, data, told):
    """A symbol cannot be looked up in it; a name is for the eye only, and there is none."""
    path = tmp_path / f"instruments_2025-10-01{suffix}"
    path.write_bytes(data)
    with pytest.raises(SymbolError, match=told) as error:
        Symbols(tmp_path).resolve(["NSE:INFY"])
    assert str(error.value).startswith(f"{path}: ")
    symbols = Symbols(tmp_path)
    assert [symbols.name(1), symbols.name(2)] == [None, None]
    assert len(caplog.records) == 1


def test_lines_that_are_no_instruments_are_passed_over(tmp_path, caplog):
    """They are counted in the log; of two with one name the first counts."""
    rows = ("x,1,A,A,0,,0,0,1,EQ,NSE,NSE", "5", "", "6,1,A,A,0,,0,0,1,EQ,NSE,NSE", "7,1,A,A,0,,0,0,1,EQ,NSE,NSE")
    (tmp_path / "instruments_2025-10-01.csv").write_text("\n".join((HEADER, *rows)))
    assert Symbols(tmp_path).resolve(["A"]) == [6]
    assert "3 lines passed over" in caplog.text
