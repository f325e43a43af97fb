"""Choosing ticks among lines."""

import pytest

from pipeline.errors import MdsError
from pipeline.store.selection import Seen, Selection, read_tick
from tests.tick_lines import INFY, RELIANCE, full, ltp, quote

LINES = [line[:-1] for line in (ltp(1), quote(2), full(1), quote(3, RELIANCE), ltp(4, INFY * 10))]


def picked(selection, lines=LINES):
    bad = []
    ticks = [found.tick for found in selection.pick(lines, lambda index, why: bad.append((index, why)))]
    return [(tick["mode"], tick["instrument_token"], tick["seq"]) for tick in ticks], bad


@pytest.mark.parametrize(
    ("tokens", "modes", "indices"),
    [
        (None, None, [0, 1, 2, 3, 4]),
        ([INFY], None, [0, 1]),
        ([RELIANCE, 5], None, [2, 3]),
        (None, ["quote"], [1, 3]),
        (None, "QUOTE", [1, 3]),
        (None, ["full", "ltp"], [0, 2, 4]),
        ([INFY], ["quote"], [1]),
        ([], None, []),
        (None, [], []),
    ],
)
def test_ticks_are_chosen_by_token_and_mode(tokens, modes, indices):
    """A token is not one that begins with the same digits; without a choice it is all."""
    everything, _ = picked(Selection())
    assert picked(Selection(tokens, modes)) == ([everything[index] for index in indices], [])


def test_a_tick_written_otherwise_is_judged_by_its_fields():
    """Blanks and another order of fields do not hide it."""
    line = (
        b'{"seq": 9, "epoch": 1, "connection_id": 1, "timestamp": "", "instrument_token": %d, "mode": "quote"}' % INFY
    )
    assert picked(Selection([INFY], ["quote"]), [line]) == ([("quote", INFY, 9)], [])
    assert picked(Selection([RELIANCE]), [line]) == ([], [])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "empty document"),
        (b"\0\0\0", "unexpected"),
        (LINES[1][:-1], "unexpected end"),
        (LINES[1][:60] + LINES[1], ""),
        (LINES[1].replace(b"+05:30", b"\xff"), "UTF-8"),
        (b"[1]", "not a JSON object"),
        (b"[" * 100_000, ""),
        (b"{}", "instrument_token is missing"),
        (LINES[1].replace(b'"seq":2', b'"seq":null'), "seq is not int"),
        (LINES[1].replace(b'"seq":2', b'"seq":true'), "seq is not int"),
        (LINES[1].replace(b'"timestamp":"', b'"timestamp":1,"was":"'), "timestamp is not str"),
    ],
)
def test_a_line_that_is_no_tick_is_told_and_passed_over(line, why):
    """With its place among the lines; the others are picked."""
    everything, _ = picked(Selection())
    ticks, [(index, told)] = picked(Selection(), [*LINES, line, *LINES])
    assert ticks == everything * 2
    assert index == len(LINES)
    assert why in told
    assert "\n" not in told


def test_a_mode_that_there_is_not_is_refused():
    """In one line that names it."""
    with pytest.raises(MdsError, match="depth: no such mode, there are ltp, quote, full"):
        Selection(modes=["quote", "depth"])


def test_a_number_is_new_once_in_its_stream():
    """Numbers may have holes, and streams are apart."""
    seen = Seen()
    ticks = [(1, 5, 1), (1, 5, 2), (2, 5, 1), (1, 6, 1), (1, 5, 2), (1, 5, 1), (1, 5, 9), (1, 5, 8)]
    names = ("connection_id", "epoch", "seq")
    assert [seen.is_new(dict(zip(names, tick, strict=True))) for tick in ticks] == [
        *[True] * 4,
        False,
        False,
        True,
        False,
    ]


def test_a_tick_reads_as_it_is_stored():
    """All its fields, as JSON has them."""
    tick = read_tick(quote(7))
    assert (tick["mode"], tick["instrument_token"], tick["seq"], tick["ohlc"]["close"]) == ("quote", INFY, 7, 1496.5)
