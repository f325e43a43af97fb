"""`bench.decode`: its frames are Kite's, it notices every difference, and its figures follow from its timings."""

import json
import struct
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from kiteconnect import KiteTicker

from bench import decode
from pipeline.kite.packets import split
from pipeline.simulator.market import INDEX_CODE
from pipeline.ticks import encode_lines

RECORDS = {mode: decode.made(mode, 7, 70, indices=True) for mode in decode.MODES}


def run(*words: str) -> tuple[int, str, str]:
    """Run the command; return exit code, stdout, stderr."""
    done = CliRunner().invoke(decode.main, words)
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("mode", decode.MODES)
@pytest.mark.parametrize(("frame_ticks", "packets", "frames"), [(1, 30, 30), (100, 250, 2), (500, 20, 1)])
def test_frames_are_whole(mode: str, frame_ticks: int, packets: int, frames: int) -> None:
    """All have as many packets of Kite's layout as was asked for, numbered on; there is one frame at least."""
    made = decode.made(mode, frame_ticks, packets, indices=False)
    layouts = [split(record.payload) for record in made]
    assert [(layout.count, len(layout.runs), layout.rejects) for layout in layouts] == [(frame_ticks, 1, [])] * frames
    assert [record.first_seq for record in made] == [1 + frame_ticks * number for number in range(frames)]
    assert decode.ticks_in(made) == frame_ticks * frames


def test_indices_are_among_them_on_request():
    """Three or four of a hundred ticks are of an index then, and none else."""
    parse = KiteTicker("key", "token")._parse_binary
    for indices, least, most in ((False, 0, 0), (True, 90, 120)):
        made = decode.made("full", 100, 3000, indices=indices)
        ticks = [tick for record in made for tick in parse(record.payload)]
        found = [tick for tick in ticks if tick["instrument_token"] & 0xFF == INDEX_CODE]
        assert least <= len(found) <= most
        assert all("depth" not in tick and not tick["tradable"] for tick in found)


def test_both_say_the_same():
    """The lines of the project, of json and of orjson are the same ticks, in all modes, with indices."""
    for records in RECORDS.values():
        assert decode.difference(records) is None


def lines(mode: str) -> list[tuple[dict[str, Any], str]]:
    """Return the ticks of a mode as the project writes them, each with the client's line."""
    sides = decode.sides(RECORDS[mode])
    ours = [json.loads(line) for record in RECORDS[mode] for line in sides["mds"].work(record).splitlines()]
    return list(zip(ours, (line for record in RECORDS[mode] for line in sides["json"].work(record)), strict=True))


LINES = [pair for mode in decode.MODES for pair in lines(mode)]


def altered(value: Any) -> Any:
    """Return a value as near to `value` as there is."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return float(value)  # the same number, and another type
    if isinstance(value, float):
        return struct.unpack("<d", (int.from_bytes(struct.pack("<d", value), "little") ^ 1).to_bytes(8, "little"))[0]
    if isinstance(value, dict):
        key = max(value)
        return value | {key: altered(value[key])}
    if isinstance(value, list):
        return [*value[:-1], altered(value[-1])]
    if value is None:
        return "1970-01-01T05:30:01+05:30"
    return value.replace("09:15:00", "09:15:01") if "09:15:00" in value else value + "x"


@given(st.sampled_from(LINES), st.data())
def test_any_field_that_differs_is_named(pair: tuple[dict[str, Any], str], data: st.DataObject) -> None:
    """One bit, the type, a second, a field too few: each is found, and which field it is."""
    ours, theirs = pair
    assert decode.differing_field(json.dumps(ours), theirs) is None
    field = data.draw(st.sampled_from(sorted(set(ours) - set(decode.OURS_ONLY))))
    assert decode.differing_field(json.dumps(ours | {field: altered(ours[field])}), theirs) == field
    assert decode.differing_field(json.dumps({k: v for k, v in ours.items() if k != field}), theirs) == field
    assert decode.differing_field(json.dumps(ours | {"new": 1}), theirs) == "new"


def test_a_difference_ends_the_command(monkeypatch):
    """Where the decoder says something else, nothing is timed, and the message names the field."""
    monkeypatch.setattr(decode, "encode_lines", lambda ticks: encode_lines(ticks).replace(b'"high":', b'"high":1'))
    code, out, err = run("--frames", "10", "--modes", "quote", "--packets", "20", "--rounds", "1")
    assert (code, out) == (1, "")
    assert "quote, frames of 10: ohlc is not the same in mds and json" in err


def test_a_missing_tick_ends_the_command(monkeypatch):
    """A tick less is noticed as well."""
    monkeypatch.setattr(decode, "encode_lines", lambda ticks: encode_lines(ticks[1:]))
    code, _, err = run("--frames", "10", "--modes", "ltp", "--packets", "20", "--rounds", "1")
    assert code == 1
    assert "20 packets, 18 lines of mds, 20 of json" in err


seconds = st.lists(st.floats(1e-6, 10), min_size=1, max_size=9)


@given(st.fixed_dictionaries(dict.fromkeys(("mds", "json", "orjson", "decode", "copy"), seconds)))
def test_figures_follow_from_the_timings(timings: dict[str, list[float]]) -> None:
    """The best is not above the median; ratios are those of the medians, shares are a whole."""
    figures = decode.figures("quote", 100, timings, 1000)
    us = figures["us_per_tick"]
    for name, rounds in timings.items():
        assert us[name]["best"] == pytest.approx(min(rounds) * 1000)
        assert us[name]["best"] <= us[name]["median"] <= max(rounds) * 1000 * 1.001
    assert figures["times_json"] == pytest.approx(us["json"]["median"] / us["mds"]["median"])
    assert figures["decode_share"] + figures["encode_share"] == pytest.approx(1)
    assert figures["above_c"] == pytest.approx(us["mds"]["median"] / 0.3)


def test_sides_are_timed_in_turn():
    """Each is done on all of its items, once in each round, after the one before it."""
    done: list[str] = []
    sides = {name: decode.Side(done.append, [name + "1", name + "2"]) for name in "ab"}
    seconds = decode.timed(sides, 3)
    assert done == ["a1", "a2", "b1", "b2"] * 3
    assert {name: len(rounds) for name, rounds in seconds.items()} == {"a": 3, "b": 3}


def test_one_object_of_json_or_tables():
    """Both have every case; what there is no target or no figure in C for is empty."""
    words = ("--frames", "10,1", "--modes", "quote,ltp", "--packets", "20", "--rounds", "1", "--indices")
    code, out, _ = run(*words, "--json")
    told = json.loads(out)
    cases = [(case["mode"], case["frame_ticks"]) for case in told["cases"]]
    assert (code, cases) == (0, [("quote", 10), ("quote", 1), ("ltp", 10), ("ltp", 1)])
    assert (told["indices"], told["rounds"]) == (True, 1)
    assert {"conditions", "kiteconnect"} <= told.keys()
    assert told["cases"][2]["above_c"] is None
    table = decode.tables(told["cases"])
    assert [len(columns.split("|")) for columns, _ in table] == [len(rows[0]) for _, rows in table]
    assert [[row[:2] for row in rows] for _, rows in table] == [[[mode, str(ticks)] for mode, ticks in cases]] * 2


@pytest.mark.parametrize(
    "words",
    [
        ("--frames", "0"),
        ("--frames", "1,,2"),
        ("--frames", "3001"),
        ("--modes", "depth"),
        ("--rounds", "0"),
        ("--packets", "x"),
    ],
)
def test_wrong_usage(words: tuple[str, str]) -> None:
    """The message names the option; exit 2."""
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert words[0] in err
