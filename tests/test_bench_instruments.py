"""`bench.instruments`: its list is one as Kite's, and everything that is asked of it is answered."""

import json

from click.testing import CliRunner
from kiteconnect import KiteConnect

from bench import instruments
from pipeline.instruments import rows


def test_the_list_is_one():
    """Of so many instruments, each with a token and a symbol of its own, of which shares are on two exchanges."""
    made = KiteConnect("key")._parse_instruments(instruments.made(1000))
    names = {(row["exchange"], row["tradingsymbol"]) for row in made}
    assert len(made) == len(names) == len({row["instrument_token"] for row in made}) == 1000
    assert {exchange for exchange, _ in names} == {"NSE", "BSE", "NFO"}
    assert rows.parse(instruments.made(1000))[1] == 0


def test_everything_is_measured():
    """Each figure with a target is there, and above zero."""
    done = CliRunner().invoke(instruments.main, ["--instruments", "500", "--rounds", "2", "--json"])
    found = json.loads(done.stdout)
    assert all(found[name] > 0 for name in instruments.TARGETS if name != "read_mb")
    assert found["instruments"] == 500
    assert "commit" in found["conditions"]
