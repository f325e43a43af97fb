"""Instruments as people and files name them: words, with the lines on which they stand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import words
from pipeline.cli.words import LineError, in_file, in_text


def of_text(text):
    return [word for _, word in in_text(text)]


def of_file(text):
    return list(in_file(text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("NSE:INFY", ["NSE:INFY"]),
        ("NSE:INFY,NSE:TCS , 408065", ["NSE:INFY", "NSE:TCS", "408065"]),
        ("NSE:INFY NSE:TCS 408065", ["NSE:INFY", "NSE:TCS", "408065"]),
        ("NSE:NIFTY 50", ["NSE:NIFTY 50"]),
        ("NSE:NIFTY  MIDSML 400 NSE:M&M 408065 5633", ["NSE:NIFTY MIDSML 400", "NSE:M&M", "408065", "5633"]),
        ("NIFTY 500", ["NIFTY 500"]),
        ("NIFTY 5000", ["NIFTY", "5000"]),
        ("265 NSE:INFY", ["265", "NSE:INFY"]),
        ("1 2 3", ["1", "2", "3"]),
        ("408065 INFY", ["408065", "INFY"]),
        ('"NIFTY 50" "408065" NSE:TCS', ["NIFTY 50", "408065", "NSE:TCS"]),
        ('["NSE:NIFTY 50", 408065,\n "INFY"]', ["NSE:NIFTY 50", "408065", "INFY"]),
        ("# all\n\nINFY # one\r\nTCS", ["INFY", "TCS"]),
        ("", []),
        (' ,, "" #', []),
    ],
)
def test_words_of_a_text(text, found):
    """Commas, line ends, and blanks before or behind what is a word for sure; quotes keep one together."""
    assert of_text(text) == found
    assert [word for _, word in in_file(text)] == found


def test_lines_are_told():
    assert list(in_text("# x\nNSE:INFY, 5633\n\nTCS")) == [(2, "NSE:INFY"), (2, "5633"), (4, "TCS")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("symbol\nINFY\nTCS\n", [(2, "INFY"), (3, "TCS")]),
        ("Symbol,Exchange\nINFY,NSE\nSENSEX,\n", [(2, "NSE:INFY"), (3, "SENSEX")]),
        ("tradingsymbol,exchange,instrument_token\nINFY,NSE,408065\n", [(2, "408065")]),
        ("name,TOKEN\nx,7\n,8\n", [(2, "7"), (3, "8")]),
        (
            'Company Name,Industry,Symbol,Series,ISIN Code\n"Infosys, Ltd.",IT #1,INFY,EQ,X\n"M&M",Auto,M&M,EQ,X\n',
            [(2, "NSE:INFY"), (3, "NSE:M&M")],
        ),
        ("exchange,symbol,series\nBSE,INFY,EQ\n", [(2, "BSE:INFY")]),
        (
            "# mine\r\n\r\nsymbol , weight\r\n\r\nNSE:INFY,1\r\n# no: TCS,2\r\n NIFTY 50 ,3\r\n",
            [(5, "NSE:INFY"), (7, "NIFTY 50")],
        ),
        ('"SYMBOL \n","OPEN \n"\n"NIFTY 50","1,2"\n"INFY","3"\n', [(4, "NIFTY 50"), (5, "INFY")]),
        ('"SYMBOL \n","%CHNG \n"\n"NIFTY 50","1.2"\n"INFY","-3"\n', [(4, "NSE:NIFTY 50"), (5, "NSE:INFY")]),
        ("name;token\nInfosys, Ltd.;408065\n", [(2, "408065")]),
        ("Tradingsymbol\tExchange\nNIFTY 50\tNSE\n", [(2, "NSE:NIFTY 50")]),
        ("symbol\n", []),
        ("symbol,\n,\n , \nA,\n", [(4, "A")]),
    ],
)
def test_words_of_a_csv(text, found):
    """Of its token column, else of its symbol column with the exchange, which in the NSE's own files is the NSE."""
    assert of_file(text) == found


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("a,symbol\n1,INFY\n2,\n", 3, "its column symbol is empty"),
        ("a,symbol\n1,INFY\n2\n", 3, "its column symbol is empty"),
        ("token,symbol\n,INFY\n", 2, "its column token is empty"),
        ('symbol\n"' + "x" * 200_000, 2, "field larger than"),
    ],
)
def test_a_line_without_a_word(text, line, told):
    """It is named: nobody wants to record most of a list."""
    with pytest.raises(LineError, match=told) as error:
        of_file(text)
    assert error.value.line == line


def test_a_long_line_is_text():
    """However long: a CSV it is not."""
    text = " ".join(map(str, range(100_000, 140_000)))
    assert len(of_file(text)) == 40_000


symbol = st.from_regex(r"[A-Z]{3}:[A-Z&-]{1,10}( [A-Z]{2,5})?( [0-9]{2,3})?", fullmatch=True)
word = symbol | st.integers(1, 2**32 - 1).map(str)


@given(st.lists(word), st.sampled_from([" ", ", ", "\n", ",", "\r\n"]))
def test_any_separator_will_do(given_words, separator):
    """Of tokens, and symbols with their exchange, a blank is enough, but before a number of three digits or fewer."""
    if separator == " ":
        given_words = [each for each in given_words if not (each.isdecimal() and len(each) < words._TOKEN_DIGITS)]
    assert of_text(separator.join(given_words)) == given_words


@given(st.text())
def test_no_text_is_too_strange(text):
    """Whatever a file holds, it has words, or a line that is told."""
    try:
        found = of_file(text)
    except LineError:
        return
    assert all(each and 1 <= line <= len(text.splitlines()) for line, each in found)
