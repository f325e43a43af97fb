"""What another day changes for instruments that are subscribed, and for words."""

from datetime import date, timedelta

import pytest

from pipeline.instruments.listing import SymbolError
from pipeline.instruments.roll import ExpiredError, Identity, Roll, identity, roll, token_of
from tests.instrument_list import FakeList, a_future, a_share

TODAY = date(2025, 10, 29)
YESTERDAY = TODAY - timedelta(days=1)
INFY = Identity("NSE:INFY", None)
OLD = Identity("NFO:NIFTY25OCTFUT", YESTERDAY)
LISTED = FakeList(a_share(408065, "INFY"), a_future(7, "NIFTY", date(2025, 11, 25)), a_share(9, "NEWNAME"))


@pytest.mark.parametrize(
    ("known", "changes"),
    [
        ({408065: INFY}, Roll()),
        ({7: OLD}, Roll(expired={7: OLD})),
        ({8: Identity("NFO:X", TODAY)}, Roll()),
        ({8: None}, Roll()),
        ({408065: None}, Roll(named={408065: INFY})),
        ({5: INFY}, Roll(moved={5: a_share(408065, "INFY")})),
        ({9: Identity("NSE:OLDNAME", None)}, Roll(named={9: Identity("NSE:NEWNAME", None)})),
        ({6: Identity("NSE:GONE", None)}, Roll()),
    ],
    ids=["as it was", "expired", "its last day", "nobody knows it", "named now", "moved", "renamed", "not on the list"],
)
def test_another_day(known, changes):
    """What has expired goes, what moved is followed, what is called otherwise is called so; all else stays."""
    assert roll(known, LISTED, [], TODAY) == changes


def test_without_a_list_it_is_known_what_has_expired():
    """The day is kept with the subscription."""
    assert roll({7: OLD, 408065: INFY, 5: None}, None, [], TODAY) == Roll(expired={7: OLD})


def test_a_token_that_is_wanted_as_somebody_else():
    """The settings name it by its number, and it has been given to another instrument."""
    assert roll({7: OLD}, LISTED, [7], TODAY) == Roll(named={7: identity(a_future(7, "NIFTY", date(2025, 11, 25)))})


def test_two_of_one_name():
    """The one that is subscribed is not taken for the other."""
    listed = FakeList(a_share(11, "BOND", "BSE"), a_share(12, "BOND", "BSE"))
    bond = Identity("BSE:BOND", None)
    assert roll({11: bond, 12: bond}, listed, [], TODAY) == Roll()


def nobody(_word):
    """Know nothing."""


def test_words():
    """A word is looked up in the list; what is subscribed has a name, too."""
    assert token_of("NSE:INFY", LISTED, nobody, TODAY) == 408065
    assert token_of("NSE:GONE", LISTED, {"NSE:GONE": 6}.get, TODAY) == 6
    assert token_of("NSE:GONE", None, {"NSE:GONE": 6}.get, TODAY) == 6
    assert token_of("NSE:INFY", LISTED, {"NSE:INFY": 5}.get, TODAY) == 408065


def test_words_that_mean_nothing():
    """The error says why, and what is near where that is wanted."""
    with pytest.raises(SymbolError, match="'NSE:INFI' is not on the list; near it"):
        token_of("NSE:INFI", LISTED, nobody, TODAY)
    with pytest.raises(SymbolError, match=r"not on the list$"):
        token_of("NSE:INFI", LISTED, nobody, TODAY, near=False)
    with pytest.raises(SymbolError, match=r"no list of instruments.*mds instruments sync"):
        token_of("NSE:INFI", None, nobody, TODAY)


def test_a_word_of_what_has_expired():
    """An old list may still have it."""
    old = FakeList(a_future(7, "NIFTY", YESTERDAY))
    with pytest.raises(ExpiredError, match="NFO:NIFTY25OCTFUT has expired on 2025-10-28"):
        token_of("NFO:NIFTY25OCTFUT", old, nobody, TODAY)
