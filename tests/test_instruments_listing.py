"""A list of instruments: what is found in it, in which order, what comes near, and what a file of others may hold."""

import gzip
import string
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from kiteconnect import KiteConnect

from pipeline.instruments import listing, rows
from pipeline.instruments.instrument import Instrument
from pipeline.instruments.listing import SymbolError, newest, read, write
from pipeline.instruments.spelling import alike, one_off
from tests.kite_list import LIST, ROWS, csv_of

DAY = date(2025, 10, 1)
OCTOBER = date(2025, 10, 28)


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "instruments_2025-10-01.csv"
    path.write_text(LIST)
    return read(path)


def symbols(found):
    return [instrument.symbol for instrument in found]


def test_an_instrument_is_what_its_line_says(listed):
    """By token and by symbol; case does not matter."""
    call = Instrument(
        12000258, "NFO", "NIFTY25OCT24800CE", "NIFTY", OCTOBER, 24800.0, 0.05, 75, "CE", "NFO-OPT"
    )  # fmt: skip
    assert listed.by_token(12000258) == listed.by_symbol("nfo:nifty25oct24800ce") == call
    assert listed.by_symbol("NIFTY 50").name == "NIFTY, 50"
    assert listed.by_symbol("NSE:M&M").token == listed.token(" m&m ") == 519937
    assert (len(listed), listed.day, listed.path.name) == (len(ROWS), DAY, "instruments_2025-10-01.csv")
    assert list(listed.symbols)[:3] == ["NSE:INFY", "BSE:INFY", "NSE:RELIANCE"]
    assert dict(listed.names)[408065] == "NSE:INFY"


@pytest.mark.parametrize("text", ["INFY", "NSE:X", "MCX:INFY", "", ":", "NSE:", ":INFY", "NSE:INFY:", "408065"])
def test_what_names_nothing_or_several_is_none(listed, text):
    """A symbol that several exchanges have names none without its exchange."""
    assert listed.by_symbol(text) is None
    assert listed.by_token(5) is None
    with pytest.raises(SymbolError):
        listed.token(text)


def test_near_matches_can_be_left_out(listed):
    """They take some milliseconds, and a request may have thousands of words."""
    with pytest.raises(SymbolError) as error:
        listed.token("NSE:INFI", near=False)
    assert "near it are" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("NSE:INFI", "NSE:INFY"),
        ("relaince", "NSE:RELIANCE"),
        ("RELIENCF", "NSE:RELIANCE"),
        ("NFO:NIFTY25OCT24850CE", "NFO:NIFTY25OCT24800CE"),
        ("NIFTY25OCT2480CE", "NFO:NIFTY25OCT24800CE"),
        ("GOLD", "MCX:GOLD25DECFUT"),
        ("NSE:GOLD", "MCX:GOLD25DECFUT"),
        ("mahindra", "NSE:M&M"),
        ("NSE:BANKNIFTY25OCT56000CE", "NFO:BANKNIFTY25OCT56000CE"),
    ],
)
def test_what_may_have_been_meant(listed, word, first):
    """A symbol with a wrong letter or two, a beginning, a company, another exchange; at most a handful."""
    near = listed.near(word)
    assert near[0] == first
    assert len(near) == len(set(near)) <= listing.NEAR_SHOWN


@pytest.mark.parametrize("word", ["", ":", "XQZ", "x" * 5000, "\N{SNOWMAN}"])
def test_nothing_comes_near(listed, word):
    assert listed.near(word) == []


@pytest.mark.parametrize(
    ("text", "filters", "found"),
    [
        ("infy", {}, ["NSE:INFY", "BSE:INFY"]),
        ("INFOSYS", {"exchange": "bse"}, ["BSE:INFY"]),
        ("bse:info", {}, ["BSE:INFY"]),
        ("nifty 50", {"limit": 1}, ["NSE:NIFTY 50"]),
        ("nifty", {"instrument_type": "fut"}, ["NFO:NIFTY25OCTFUT", "NFO:NIFTY25NOVFUT"]),
        ("nifty", {"expiry": date(2025, 11, 25)}, ["NFO:NIFTY25NOVFUT"]),
        ("24800 nifty", {}, ["NFO:NIFTY25OCT24800CE", "NFO:NIFTY25OCT24800PE"]),
        ("", {"exchange": "MCX"}, ["MCX:GOLD25DECFUT"]),
        ("408065", {}, ["NSE:INFY"]),
        ("mahindra &", {}, ["NSE:M&M"]),
        ("NSE", {}, []),
        ("nifty xyz", {}, []),
        ("9" * 5000, {}, []),
    ],
)
def test_finding(listed, text, filters, found):
    """All parts are in symbol, name or token, in any order, and filters hold."""
    assert symbols(listed.find(text, **filters)) == found


def test_the_best_come_first(listed):
    """The symbol that is the text, those that begin with it, the shorter, what expires sooner; then other names."""
    assert symbols(listed.find("nifty")) == [
        "NSE:NIFTY 50",
        "NFO:NIFTY25OCTFUT",
        "NFO:NIFTY25NOVFUT",
        "NFO:NIFTY25OCT24800CE",
        "NFO:NIFTY25OCT24800PE",
        "NFO:BANKNIFTY25OCT56000CE",
    ]
    assert symbols(listed.find("5", limit=2)) == ["NSE:NIFTY 50", "MCX:GOLD25DECFUT"]


def test_a_token_is_found_before_strikes_that_look_like_it(tmp_path):
    """Also where symbols that have these digits would fill the answer."""
    path = tmp_path / "instruments_2025-10-01.csv"
    options = [f"{n},1,SENSEX25O{n}265CE,SENSEX,0,2025-10-28,1,1,1,CE,BFO-OPT,BFO" for n in range(1000, 1050)]
    path.write_text(csv_of(*options, "265,1,SENSEX,SENSEX,0,,0,0,0,EQ,INDICES,BSE"))
    assert symbols(read(path).find("265"))[0] == "BSE:SENSEX"


def test_derivatives_of_an_underlying(listed):
    """Futures and options of this name on this exchange, and nobody else's."""
    assert {found.tradingsymbol for found in listed.derivatives("nfo", "nifty")} == {
        "NIFTY25OCTFUT", "NIFTY25NOVFUT", "NIFTY25OCT24800CE", "NIFTY25OCT24800PE"
    }  # fmt: skip
    assert listed.derivatives("NSE", "INFOSYS") == listed.derivatives("BFO", "NIFTY") == []


def test_what_was_fetched_is_what_is_read(tmp_path):
    """Every row that the official client makes of Kite's text comes back, and so does the text."""
    text = LIST.replace("0.0,", "0,")
    path = write(tmp_path, DAY, KiteConnect("key")._parse_instruments(text.encode()))
    assert path == tmp_path / "instruments_2025-10-01.csv.zst" == newest(tmp_path)
    assert zstandard.decompress(path.read_bytes()).decode() == text
    assert path.stat().st_mode & 0o777 == 0o644
    listed = read(path)
    assert len(listed) == len(ROWS)
    assert [name for name in tmp_path.iterdir() if name != path] == []


NAME_LETTERS = string.ascii_letters + string.digits + ' ,"&-:é'
symbols_of_any_kind = st.text(NAME_LETTERS, min_size=1, max_size=12)
cells = st.text(NAME_LETTERS + "\n\r", max_size=12)
kite_rows = st.fixed_dictionaries(
    {
        "instrument_token": st.integers(1, 2**32 - 1),
        "exchange_token": cells,
        "tradingsymbol": symbols_of_any_kind,
        "name": cells,
        "last_price": st.floats(0, 1e6),
        "expiry": st.none() | st.just("") | st.dates(),
        "strike": st.floats(0, 1e6),
        "tick_size": st.floats(0, 1e3),
        "lot_size": st.integers(0, 10**6),
        "instrument_type": st.sampled_from(["EQ", "FUT", "CE", "PE"]),
        "segment": cells,
        "exchange": st.sampled_from(["NSE", "BSE", "NFO"]),
        "more": cells,
    }
)


@given(st.lists(kite_rows, max_size=8, unique_by=lambda row: row["instrument_token"]))
def test_any_row_comes_back(made):
    """Whatever is in its fields, bit for bit; but for a carriage return, of which a blank is made."""
    parsed, bad = rows.parse(rows.unpacked(rows.packed(made), ".zst"))
    assert bad == 0
    listed = listing.Listing(Path("a list"), DAY, parsed)
    for row in made:
        found = listed.by_token(row["instrument_token"])
        assert found is not None
        assert found.expiry == (row["expiry"] or None)
        for name in ("exchange", "tradingsymbol", "name", "strike", "tick_size", "lot_size", "instrument_type"):
            given_value = row[name]
            assert getattr(found, name) == (given_value.replace("\r", " ") if name == "name" else given_value)


def test_columns_may_be_missing_or_in_another_order(tmp_path):
    """But for token, exchange and symbol; what cannot be read is nothing."""
    path = tmp_path / "instruments_2025-10-01.csv"
    path.write_text(
        "strike,exchange,x,tradingsymbol,instrument_token,lot_size,expiry\nabc,nse,,Infy,5,inf,2025-13-01\n"
    )
    assert read(path).by_symbol("NSE:INFY") == Instrument(5, "NSE", "Infy", "", None, 0.0, 0.0, 0, "", "")


def test_names_are_printable(tmp_path, caplog):
    """A list may come from anywhere, and names go to terminals."""
    path = tmp_path / "instruments_2025-10-01.csv"
    lines = '1,NSE,A\x1b[31m\n2,N\x07,B\n3,,C\n4,NSE,\n5,NSE,%s\n6,NSE,D\n7,NSE,"E\nF"\n' % ("x" * 65)
    path.write_text(f"instrument_token,exchange,tradingsymbol\n{lines}")
    assert list(read(path).symbols) == ["NSE:D"]
    assert "6 lines passed over" in caplog.text


def test_the_first_of_two_counts(tmp_path):
    """Of two with one name, and of two with one token."""
    path = tmp_path / "instruments_2025-10-01.csv"
    path.write_text("instrument_token,exchange,tradingsymbol\n1,NSE,A\n2,NSE,A\n1,NSE,B\n3,BSE,A\n4,BSE,A\n")
    listed = read(path)
    assert listed.token("NSE:A") == 1
    assert listed.token("BSE:A") == 3
    assert listed.by_token(1) == listed.by_symbol("NSE:A")


def test_symbols_that_differ_in_case_alone(tmp_path):
    """Each is found as it is written; written otherwise, it is the first."""
    path = tmp_path / "instruments_2025-10-01.csv"
    path.write_text("instrument_token,exchange,tradingsymbol\n1,NSE,ABc\n2,NSE,abc\n3,BSE,ABC\n")
    listed = read(path)
    tokens = {word: listed.token(word) for word in ("nse:abc", "NSE:ABc", "abc", "NSE:ABC", "BSE:abc")}
    assert tokens == {"nse:abc": 2, "NSE:ABc": 1, "abc": 2, "NSE:ABC": 1, "BSE:abc": 3}
    with pytest.raises(SymbolError, match="on several exchanges: NSE:ABc, BSE:ABC"):
        listed.token("Abc")


def test_which_list_is_the_newest(tmp_path):
    """What somebody has put there goes before what was fetched that day."""
    names = ["instruments_2025-10-01.csv.zst", "instruments_2025-10-01.csv.gz", "instruments_2025-10-01.csv"]
    for name in names:
        (tmp_path / name).touch()
        assert newest(tmp_path) == tmp_path / name
    (tmp_path / "instruments_2025-10-02.csv.zst").touch()
    (tmp_path / "instruments_2025-10-03.csv.zst.new").touch()
    assert newest(tmp_path) == tmp_path / "instruments_2025-10-02.csv.zst"
    assert newest(tmp_path, DAY) == newest(tmp_path, date(2025, 9, 1)) == tmp_path / names[-1]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "damaged, fetch it again with mds instruments sync"),
        (b"rubbish", "damaged"),
        (rows.packed([])[:-2], "damaged"),
        (rows.packed([]) + b"more", "damaged"),
        (zstandard.compress(LIST.encode())[:-9], "damaged"),
        (zstandard.compress(b"a,b\n1,2\n"), "no column"),
        (zstandard.compress(b"\xff\xfe"), "damaged"),
    ],
)
def test_a_damaged_list(tmp_path, data, told):
    """It is named in one line, with the way out."""
    path = tmp_path / "instruments_2025-10-01.csv.zst"
    path.write_bytes(data)
    with pytest.raises(SymbolError, match=told) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_no_damage_passes_unseen(place, value):
    """A byte that is not what it was is noticed, or the list is the same."""
    whole = rows.packed([{"instrument_token": n, "tradingsymbol": f"S{n}", "exchange": "NSE"} for n in range(1, 99)])
    damaged = bytearray(whole)
    damaged[place % len(whole)] = value
    try:
        found = rows.unpacked(bytes(damaged), ".zst")
    except (zstandard.ZstdError, rows.NoListError):
        return
    assert found == rows.unpacked(whole, ".zst")


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zst", "unknown length"])
def test_a_file_that_unpacks_to_gigabytes_takes_little_memory(tmp_path, suffix):
    """It is refused before it is in memory."""
    zeros, count = bytes(2**20), 400
    path = tmp_path / f"instruments_2025-10-01{suffix if suffix.startswith('.') else '.csv.zst'}"
    if suffix == ".csv":
        with path.open("wb") as file:
            file.truncate(count * len(zeros))
    elif suffix == ".csv.gz":
        with gzip.open(path, "wb", compresslevel=1) as packed:
            for _ in range(count):
                packed.write(zeros)
    else:
        size = count * len(zeros) if suffix == ".csv.zst" else -1
        with path.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file, size=size) as packed:
            for _ in range(count):
                packed.write(zeros)
    program = (
        "import resource, sys, pathlib\n"
        "from pipeline.instruments.listing import SymbolError, read\n"
        "resource.setrlimit(resource.RLIMIT_AS, (600 * 2**20, 600 * 2**20))\n"
        "try: read(pathlib.Path(sys.argv[1]))\n"
        "except SymbolError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "more than 64 MB" in done.stdout or "damaged" in done.stdout


def test_spelling():
    """One letter more, fewer, other, or two that change places; whatever else most letters agree in."""
    known = {"INFY": 1, "RELIANCE": 2, "M&M": 3, "NIFTY 50": 4, "TCS": 5}
    for word, meant in (
        ("INFI", "INFY"),
        ("IFNY", "INFY"),
        ("INF", "INFY"),
        ("INFYY", "INFY"),
        ("NIFTY50", "NIFTY 50"),
    ):
        assert one_off(word, known) == [meant]
    assert one_off("INFY", known) == []
    assert alike("RELYENCE", known, 5) == ["RELIANCE"]
    many = [f"NIFTY25O{day:02}{strike}CE" for day in range(31) for strike in range(20000, 30000, 50)]
    assert alike("NIFTY25O9924X00CE", many, 5)
