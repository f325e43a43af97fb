"""What the settings want from day to day, and what becomes of the subscriptions."""

import asyncio
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pipeline.config import Config, Universe
from pipeline.errors import UnknownSymbolError
from pipeline.instruments.instrument import Instrument
from pipeline.supervisor.desk import Desk
from pipeline.supervisor.history import History
from pipeline.supervisor.orders import Orders
from pipeline.supervisor.resume import subscribe
from pipeline.supervisor.roster import Roster
from pipeline.supervisor.saved import Saved, snapshot
from pipeline.supervisor.subscriptions import Subscriptions
from tests.instrument_list import FakeList, a_future, a_share, options

MORNING = datetime(2025, 10, 27, 8, 40, tzinfo=ZoneInfo("Asia/Kolkata"))
EXPIRY, NEXT = date(2025, 10, 28), date(2025, 11, 25)
INFY, TCS, NIFTY = a_share(408065, "INFY"), a_share(2953217, "TCS"), a_share(256265, "NIFTY 50")
FUTURE, LATER = a_future(701, "NIFTY", EXPIRY), a_future(702, "NIFTY", NEXT)
STRIKES = range(24_000, 26_000, 100)
CHAIN = [*options(10_000, "NIFTY", EXPIRY, STRIKES), *options(20_000, "NIFTY", NEXT, STRIKES)]
LIST = FakeList(INFY, TCS, NIFTY, FUTURE, LATER, *CHAIN)
AFTER_EXPIRY = FakeList(INFY, TCS, NIFTY, LATER, *CHAIN[len(CHAIN) // 2 :])
RULE = "NFO:NIFTY:options:monthly:1"


class BareList(FakeList):
    """Knows symbols without their exchange, too."""

    def __init__(self, *instruments: Instrument) -> None:
        super().__init__(*instruments)
        self._bare = [i.tradingsymbol for i in instruments]

    def token(self, word: str, *, near: bool = True) -> int:
        """Return the token of a symbol that one exchange has."""
        if self._bare.count(word) == 1:
            return next(i.token for i in self._by_token.values() if i.tradingsymbol == word)
        return super().token(word, near=near)


class House:
    """A roster with its desk, begun with what an earlier one has saved. Made within a running loop."""

    def __init__(
        self, listed: FakeList | None, saved: bytes | None = None, now: datetime = MORNING, **universe: Any
    ) -> None:
        self.now = now
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.config = Config().model_copy(update={"universe": Universe(**universe)})
        self.subscriptions = Subscriptions(3)
        self.roster = Roster(self.config, self.subscriptions, clock=lambda: self.now, log_event=self.log)
        self.history = History(self.log)
        orders = Orders("test", lambda *_: None)
        last = Saved.model_validate_json(saved) if saved else None
        wanted = self.roster.begin(last, listed)
        subscribe(self.subscriptions, last, self.config, wanted, history=self.history, now=now.isoformat())
        self.desk = Desk(
            self.subscriptions,
            orders,
            self.history,
            clock=self.now.isoformat,
            state=lambda _: ("live", ""),
            save=self.save,
            tokens=self.roster.tokens,
            listed=asyncio.Event(),
        )
        self.roster.start(self.desk, self.history)

    def log(self, event: str, fields: dict[str, Any]) -> str:
        self.events.append((event, fields))
        return self.now.isoformat()

    async def save(self) -> bool:
        return True

    def saved(self) -> bytes:
        """Return what the next run reads."""
        return snapshot(
            self.subscriptions,
            self.config,
            simulated=False,
            wanted=self.roster.wanted,
            selected=self.roster.selected,
            expired=self.roster.expired,
        )

    def symbols(self) -> set[str]:
        """Return what is subscribed, by name where there is one."""
        return {s.identity.symbol if s.identity else str(token) for token, s in self.subscriptions.all.items()}

    def strikes(self) -> list[float]:
        """Return the strikes of the calls that are subscribed."""
        tokens = self.subscriptions.all.keys()
        return sorted(i.strike for i in CHAIN if i.token in tokens and i.instrument_type == "CE")

    def tick(self, token: int, price: float) -> None:
        """Let an instrument tick, and the roster look."""
        self.subscriptions.hear([(token, 1, price, self.now.isoformat())])
        self.roster.look(self.desk, self.history)

    def another_day(self, days: int = 1) -> None:
        """Let days pass."""
        self.now += timedelta(days=days)
        self.roster.look(self.desk, self.history)

    def told(self, event: str) -> list[dict[str, Any]]:
        """Return the events of this kind."""
        return [fields for name, fields in self.events if name == event]


def within_a_loop(test: Callable[[], None]) -> Callable[[], None]:
    """Run a test on a loop."""

    def run() -> None:
        async def body() -> None:
            test()
            await asyncio.sleep(0)

        asyncio.run(body())

    run.__doc__ = test.__doc__
    return run


@within_a_loop
def test_symbols_and_tokens():
    """Both are subscribed at the start, each in the mode of its list."""
    house = House(LIST, primary=("NSE:INFY", 2953217), secondary=("nfo:nifty25octfut", 5))
    assert house.symbols() == {"NSE:INFY", "NSE:TCS", "NFO:NIFTY25OCTFUT", "5"}
    assert house.subscriptions.of(2) == {701: "full", 5: "full"}
    assert house.roster.reasons == []


@within_a_loop
def test_unknown_words():
    """They are told, and the rest is recorded."""
    house = House(LIST, primary=("NSE:INFI", 2953217))
    assert house.symbols() == {"NSE:TCS"}
    assert house.roster.reasons == ["universe: 'NSE:INFI' is not on the list; near it are A, B"]


@within_a_loop
def test_many_unknown_words():
    """Only the first are told with what is near; the others are counted."""
    house = House(LIST, primary=tuple(f"NSE:X{n}" for n in range(15)))
    reasons = house.roster.reasons
    assert [("near it" in reason) for reason in reasons[:4]] == [True, True, True, False]
    assert reasons[10:] == ["universe: 5 more are not known"]


@within_a_loop
def test_the_list_comes_later():
    """Without one tokens are recorded; symbols follow as soon as there is one."""
    house = House(None, primary=("NSE:INFY", 2953217))
    assert house.symbols() == {"2953217"}
    assert "no list of instruments" in house.roster.reasons[0]
    house.roster.use(LIST, house.desk, house.history)
    assert house.symbols() == {"NSE:INFY", "NSE:TCS"}
    assert house.roster.reasons == []


@within_a_loop
def test_what_expires_is_dropped_the_next_day():
    """Its last day still counts; then it goes with an event, and its word is no fault."""
    house = House(LIST, primary=("NSE:INFY", "NFO:NIFTY25OCTFUT"), secondary=(702,))
    house.another_day()
    assert "NFO:NIFTY25OCTFUT" in house.symbols()
    house.another_day()
    assert house.symbols() == {"NSE:INFY", "NFO:NIFTY25NOVFUT"}
    assert house.told("expired") == [{"instruments": [701], "symbols": ["NFO:NIFTY25OCTFUT"]}]
    assert house.roster.reasons == []
    house.roster.use(AFTER_EXPIRY, house.desk, house.history)
    assert house.roster.reasons == []
    again = House(AFTER_EXPIRY, house.saved(), primary=("NSE:INFY", "NFO:NIFTY25OCTFUT"), secondary=(702,))
    assert again.symbols() == {"NSE:INFY", "NFO:NIFTY25NOVFUT"}
    assert again.roster.reasons == []
    assert again.told("expired") == []


@pytest.mark.parametrize("listed", [LIST, AFTER_EXPIRY, None], ids=["the old list", "a new list", "no list"])
def test_what_has_expired_while_nothing_ran(listed):
    """The next start drops it, with the event, also what was subscribed by hand or is named by its number."""

    async def run() -> None:
        first = House(LIST, primary=("NFO:NIFTY25OCTFUT",), secondary=(10_000,))
        first.subscriptions.subscribe([10_001], "quote", "now")
        saved = first.saved()

        later = MORNING + timedelta(days=7)
        house = House(listed, saved, later, primary=("NFO:NIFTY25OCTFUT",), secondary=(10_000,))
        assert house.symbols() == set()
        (told,) = house.told("expired")
        assert set(told["instruments"]) == {701, 10_000, 10_001}
        assert house.roster.reasons == []
        assert (
            House(listed, house.saved(), later, primary=("NFO:NIFTY25OCTFUT",), secondary=(10_000,)).symbols() == set()
        )

    asyncio.run(run())


@within_a_loop
def test_a_symbol_gets_another_token():
    """The new token is recorded in its stead, in the same mode."""
    house = House(LIST, secondary=("NSE:INFY",))
    house.roster.use(FakeList(a_share(99, "INFY"), TCS), house.desk, house.history)
    assert house.subscriptions.of(2) == {99: "full"}
    assert house.told("token_changed") == [{"symbol": "NSE:INFY", "from_token": 408065, "to_token": 99}]


@within_a_loop
def test_a_token_is_given_to_another_instrument():
    """What had it has expired; nobody asked for the other."""
    house = House(LIST, primary=("NFO:NIFTY25OCTFUT",))
    house.now += timedelta(days=7)
    house.roster.use(FakeList(a_share(701, "OTHER")), house.desk, house.history)
    assert house.symbols() == set()


@pytest.mark.parametrize("restarts", [False, True])
def test_the_token_of_what_has_expired_is_given_to_another_that_is_wanted(restarts):
    """The one goes with an event, the other is recorded in its own name."""

    async def run() -> None:
        words = ("NFO:NIFTY25OCTFUT", "NFO:NIFTY25DECFUT")
        house = House(LIST, primary=words)
        now, listed = MORNING + timedelta(days=7), FakeList(a_future(701, "NIFTY", date(2025, 12, 30)))
        if restarts:
            house = House(listed, house.saved(), now, primary=words)
        else:
            house.now = now
            house.roster.use(listed, house.desk, house.history)
        assert house.symbols() == {"NFO:NIFTY25DECFUT"}
        assert house.told("expired") == [{"instruments": [701], "symbols": ["NFO:NIFTY25OCTFUT"]}]
        assert house.roster.reasons == []

    asyncio.run(run())


@within_a_loop
def test_two_symbols_change_places():
    """Both are recorded on, each under its new token and in its own mode."""
    house = House(FakeList(a_share(1, "A"), a_share(2, "B")), primary=("NSE:A",), secondary=("NSE:B",))
    house.roster.use(FakeList(a_share(2, "A"), a_share(1, "B")), house.desk, house.history)
    assert {token: s.mode for token, s in house.subscriptions.all.items()} == {2: "quote", 1: "full"}
    assert house.symbols() == {"NSE:A", "NSE:B"}


@pytest.mark.parametrize(
    ("word", "tomorrow", "symbol"),
    [
        ("NSE:INFY", [a_share(408065, "INFOSYS")], "NSE:INFOSYS"),
        ("INFY", [INFY, a_share(5, "INFY", "BSE")], "NSE:INFY"),
    ],
    ids=["renamed", "listed elsewhere, too"],
)
def test_a_word_that_no_longer_says_what_it_did(word, tomorrow, symbol):
    """What it meant is recorded on, and somebody is told to change the settings."""

    async def run() -> None:
        house = House(BareList(INFY, TCS), primary=(word,))
        house.roster.use(BareList(TCS, *tomorrow), house.desk, house.history)
        assert house.symbols() == {symbol}
        (reason,) = house.roster.reasons
        assert reason.endswith(f"; {symbol}, which it was, is still recorded")

    asyncio.run(run())


@pytest.mark.parametrize("listed", [AFTER_EXPIRY, None], ids=["a new list", "no list"])
def test_a_symbol_without_exchange_has_expired_while_nothing_ran(listed):
    """It goes with the event, as one with its exchange does; what has not is recorded without a list."""

    async def run() -> None:
        words = ("NIFTY25OCTFUT", "INFY")
        house = House(BareList(FUTURE, INFY), primary=words)
        house = House(listed, house.saved(), MORNING + timedelta(days=7), primary=words)
        assert house.symbols() == {"NSE:INFY"}
        assert house.told("expired") == [{"instruments": [701], "symbols": ["NFO:NIFTY25OCTFUT"]}]

    asyncio.run(run())


@within_a_loop
def test_what_was_unsubscribed_by_hand_stays_so():
    """Another day does not bring it back, nor does a restart."""
    house = House(LIST, primary=("NSE:INFY", "NSE:TCS"))
    house.subscriptions.unsubscribe([408065])
    house.another_day()
    assert house.symbols() == {"NSE:TCS"}
    assert House(LIST, house.saved(), primary=("NSE:INFY", "NSE:TCS")).symbols() == {"NSE:TCS"}


@within_a_loop
def test_words_of_a_request():
    """Repeats are kept; all that mean nothing are named, and why."""
    house = House(LIST, primary=("NSE:INFY",))
    assert house.roster.tokens(["NSE:TCS", 5, "nse:tcs"]) == [2953217, 5, 2953217]
    with pytest.raises(UnknownSymbolError, match=r"'NSE:A' is not on the list.*'NSE:B'.*nothing was changed") as caught:
        house.roster.tokens(["NSE:A", "NSE:TCS", "NSE:B"])
    assert set(caught.value.details["unknown_symbols"]) == {"NSE:A", "NSE:B"}
    house.now += timedelta(days=7)
    with pytest.raises(UnknownSymbolError, match="has expired on 2025-10-28"):
        house.roster.tokens(["NFO:NIFTY25OCTFUT"])


# Rules.


@within_a_loop
def test_a_rule_waits_for_the_spot():
    """It subscribes the underlying, and with its first price what is around it."""
    house = House(LIST, select=(RULE,))
    assert house.symbols() == {"NSE:NIFTY 50"}
    assert house.roster.reasons == [f"universe: {RULE}: waits for the first price of NSE:NIFTY 50"]
    house.subscriptions.rest(on=True)
    assert house.roster.reasons == []  # there can be none now
    house.subscriptions.rest(on=False)
    house.tick(256265, 24_930.0)
    assert house.strikes() == [24_800, 24_900, 25_000]
    assert len(house.symbols()) == 7
    assert house.roster.reasons == []


@within_a_loop
def test_a_rule_waits_for_the_list():
    """It is told as for a symbol."""
    house = House(None, select=(RULE,))
    assert house.roster.reasons == [
        f"universe: {RULE}: there is no list of instruments to look it up in yet: mds instruments sync"
    ]
    house.roster.use(LIST, house.desk, house.history)
    assert house.symbols() == {"NSE:NIFTY 50"}


@within_a_loop
def test_the_spot_moves():
    """What is around the new spot comes on top, once it has moved by more than the threshold; nothing goes that day."""
    house = House(LIST, select=(RULE,), select_move_percent=0.5)
    house.tick(256265, 24_900.0)
    house.tick(256265, 25_020.0)  # by 0.48 %
    assert house.strikes() == [24_800, 24_900, 25_000]
    house.tick(256265, 25_030.0)
    assert house.strikes() == [24_800, 24_900, 25_000, 25_100]
    house.tick(256265, 24_900.0)
    assert house.strikes() == [24_800, 24_900, 25_000, 25_100]
    again = House(LIST, house.saved(), select=(RULE,))
    assert again.strikes() == [24_800, 24_900, 25_000, 25_100]
    again.tick(256265, 24_500.0)
    assert again.strikes() == [24_400, 24_500, 24_600, 24_800, 24_900, 25_000, 25_100]


@within_a_loop
def test_the_next_day_begins_anew():
    """What the rule no longer picks goes; what was subscribed by hand stays."""
    house = House(LIST, select=(RULE,))
    house.tick(256265, 24_900.0)
    house.tick(256265, 25_500.0)
    house.subscriptions.subscribe([10_000], "quote", "now")  # 24,000 CE
    house.another_day()
    assert house.strikes() == [24_000, 25_400, 25_500, 25_600]


@within_a_loop
def test_after_the_expiry_the_next_one_is_picked():
    """All of the old one go, with the event."""
    house = House(LIST, select=(RULE,))
    house.tick(256265, 24_900.0)
    house.another_day(2)
    assert {i.expiry for i in CHAIN if i.token in house.subscriptions.all} == {NEXT}
    assert len(house.told("expired")[0]["instruments"]) == 6


@within_a_loop
def test_a_restart_on_another_day_keeps_what_was_picked_until_there_is_a_price():
    """Nobody knows better yet."""
    house = House(LIST, select=(RULE,))
    house.tick(256265, 24_900.0)
    again = House(LIST, house.saved(), select=(RULE,))
    again.another_day()
    assert again.strikes() == [24_800, 24_900, 25_000]
    again.tick(256265, 25_500.0)
    assert again.strikes() == [25_400, 25_500, 25_600]


@within_a_loop
def test_rules_that_pick_nothing():
    """It is told why."""
    rules = ("NFO:NOBODY:options:weekly:1", "NFO:NIFTY:futures:monthly+9", "NFO:NIFTY:futures:monthly:full")
    house = House(LIST, select=rules)
    assert house.roster.reasons == [
        "universe: NFO:NOBODY:options:weekly:1: the list of instruments has no derivatives of NOBODY on NFO",
        "universe: NFO:NIFTY:futures:monthly+9: there is no such expiry",
    ]
    assert house.subscriptions.of(2) == {701: "full"}


@within_a_loop
def test_a_rule_that_is_taken_out_of_the_settings():
    """What it had picked goes with it."""
    house = House(LIST, primary=("NSE:INFY",), select=(RULE,))
    house.tick(256265, 24_900.0)
    again = House(LIST, house.saved(), primary=("NSE:INFY",))
    assert again.symbols() == {"NSE:INFY"}


@within_a_loop
def test_another_rule_in_the_settings():
    """What the one before has picked goes at the next start, on the same day."""
    house = House(LIST, select=(RULE, "NFO:NIFTY:futures:monthly"))
    house.tick(256265, 24_900.0)
    again = House(LIST, house.saved(), select=("NFO:NIFTY:futures:monthly",))
    assert again.symbols() == {"NFO:NIFTY25OCTFUT"}


@within_a_loop
def test_what_has_never_traded_is_no_spot():
    """Its price is 0; the lowest strikes are not what is meant."""
    house = House(LIST, select=(RULE,))
    house.tick(256265, 0.0)
    assert house.symbols() == {"NSE:NIFTY 50"}
    house.tick(256265, 24_900.0)
    assert house.strikes() == [24_800, 24_900, 25_000]


@within_a_loop
def test_a_rule_takes_over_what_another_had_picked_in_another_mode():
    """With the new day it is recorded in the mode of its rule, unless somebody has changed that by hand."""
    house = House(LIST, select=("NFO:NIFTY:options:monthly:0", "NFO:NIFTY:options:monthly+1:0:full"))
    house.tick(256265, 24_900.0)
    call, put = (i.token for i in CHAIN if i.strike == 24_900 and i.expiry == NEXT)
    house.subscriptions.set_mode([put], "ltp", "now")
    house.another_day(2)
    assert {token: house.subscriptions.all[token].mode for token in (call, put)} == {call: "quote", put: "ltp"}


def test_a_rule_finds_no_room(monkeypatch):
    """What fits is subscribed, what does not is told."""
    monkeypatch.setattr("pipeline.supervisor.subscriptions.MAX_INSTRUMENTS", 4)

    async def run() -> None:
        house = House(LIST, select=(RULE,))
        house.tick(256265, 24_900.0)
        assert len(house.subscriptions.all) == 4
        refused = [entry for entry in house.history.latest(10) if entry.result == "refused"]
        assert [(len(entry.instruments), entry.reason) for entry in refused] == [(3, "connection 1 is full")]
        assert house.strikes() == [24_800, 24_900]  # the nearest come first
        assert house.roster.reasons == ["universe: no connection has room for 3 of the instruments"]
        house.tick(256265, 25_030.0)
        refused = [entry for entry in house.history.latest(10) if entry.result == "refused"]
        assert [len(entry.instruments) for entry in refused] == [3, 2]  # only what is new

    asyncio.run(run())


@pytest.mark.parametrize("restarts", [False, True])
def test_there_is_room_again(monkeypatch, restarts):
    """What had found none is subscribed when the rules are looked up again, and with the next start."""
    monkeypatch.setattr("pipeline.supervisor.subscriptions.MAX_INSTRUMENTS", 4)

    async def run() -> None:
        house = House(LIST, primary=(1, 2), select=(RULE,))
        house.tick(256265, 24_900.0)
        assert house.symbols() == {"1", "2", "NSE:NIFTY 50", "NFO:NIFTY25102824900CE"}
        house.subscriptions.unsubscribe([2])
        if restarts:
            house = House(LIST, house.saved(), primary=(1, 2), select=(RULE,))
        else:
            house.tick(256265, 25_030.0)
        assert len(house.subscriptions.all) == 4
        assert "2" not in house.symbols()

    asyncio.run(run())
