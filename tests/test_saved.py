"""The saved subscriptions: what comes back after a restart, whatever the configuration and the disk did meanwhile."""

import asyncio
import json
import logging
import threading
from contextlib import suppress
from datetime import date, time
from unittest import mock

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import CONNECTIONS, Config, Kite, Market, Universe
from pipeline.errors import RequestRefusedError
from pipeline.instruments.roll import Identity
from pipeline.supervisor import saved as module
from pipeline.supervisor import subscriptions as subscriptions_module
from pipeline.supervisor.orders import Unheard
from pipeline.supervisor.saved import (
    FILE_NAME,
    DamagedError,
    SavedFile,
    Selected,
    assigned,
    due,
    on_wire,
    read,
    relieved,
    restore,
    set_aside,
    snapshot,
    take_turns,
    window,
)
from pipeline.supervisor.subscriptions import MODES, Refusal, Subscriptions
from pipeline.supervisor.subscriptions import modes as by_token

NOW, BEFORE = "2025-10-02T09:00:00.000000+05:30", "2025-10-01T09:15:00.000000+05:30"
LIMIT = 6  # instruments on a connection
NOTHING = Universe()
TURNS = 20  # of the loop, in which everything has run that can run
DEADLINE_S = 20


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Where the file is."""
    return tmp_path_factory.mktemp("run") / FILE_NAME


def config(universe=NOTHING, max_connections=3):
    """Return settings."""
    return Config().model_copy(update={"universe": universe, "kite": Kite(max_connections=max_connections)})


def wanted_by(universe):
    """Return what these settings want."""
    return [*((token, "quote") for token in universe.primary), *((token, "full") for token in universe.secondary)]


def saving(subscriptions, universe=NOTHING, max_connections=3, **more):
    """Return the content of the file."""
    kept = {"simulated": False, "wanted": by_token(wanted_by(universe)), **more}
    return snapshot(subscriptions, config(universe, max_connections), **kept)


def write(path, subscriptions, universe=NOTHING, max_connections=3):
    """Save subscriptions."""
    path.write_bytes(saving(subscriptions, universe, max_connections))


def restored(path, max_connections=3, universe=NOTHING, overflow="refuse"):
    """Return what comes back with these settings, and what could not."""
    subscriptions = Subscriptions(max_connections, overflow)
    saved = read(path)
    assert saved is not None
    return subscriptions, restore(subscriptions, saved, by_token(wanted_by(universe)), NOW)


def known(subscriptions):
    """Return home, mode and time of each instrument."""
    return {token: (k.connection_id, k.mode, k.subscribed_at) for token, k in subscriptions.all.items()}


def on_the_wire(subscriptions):
    """Return what each connection should have now, what it will have, and who carries what.

    What is on its way to a connection is left out: where room is short, it does not matter who comes first.
    """
    arriving = {token for leaving in subscriptions.leaving.values() for token in leaving}
    wires = []
    for c in CONNECTIONS:
        leaving = subscriptions.leaving[c]
        wanted = {t: mode for t, mode in subscriptions.wanted(c).items() if t in leaving or t not in arriving}
        wires.append((wanted, subscriptions.of(c), leaving))
    return wires, {token: subscriptions.carrier(token) for token in subscriptions.all}


tokens_ = st.lists(st.integers(10, 36), min_size=1, max_size=7)
modes = st.sampled_from(["ltp", "quote", "full"])
connections_ = st.sampled_from(CONNECTIONS)
steps = st.one_of(
    st.tuples(st.just("subscribe"), tokens_, modes, st.sampled_from(["a", "b", "c"]), st.none() | connections_),
    st.tuples(st.just("unsubscribe"), tokens_),
    st.tuples(st.just("set_mode"), tokens_, modes),
    st.tuples(st.just("mirror"), st.booleans()),
    st.tuples(st.just("failover"), st.sampled_from([1, 2])),
    st.tuples(st.just("failback"), st.sampled_from([1, 2])),
    st.tuples(st.just("cover"), connections_),
)


@st.composite
def states(draw):
    """Return crowded subscriptions to which much has happened; connections hold six instruments."""
    subscriptions = Subscriptions(3, draw(st.sampled_from(["refuse", "spill"])))
    with small():
        for connection_id, mode in MODES.items():
            tokens = range(10 * connection_id, 10 * connection_id + draw(st.integers(0, LIMIT)))
            subscriptions.subscribe(tokens, mode, "a", connection_id)
        for name, *arguments in draw(st.lists(steps, max_size=15)):
            with suppress(RequestRefusedError):
                step(subscriptions, name, arguments)
    return subscriptions


def step(subscriptions, name, arguments):
    """Let one thing happen."""
    if name == "cover":
        subscriptions.let_go(lambda new, token: new == arguments[0] and token in subscriptions.wanted(new))
    elif name == "subscribe":
        tokens, *rest = arguments
        subscriptions.subscribe([token for token in tokens if token not in subscriptions.all], *rest)
    elif name == "unsubscribe":
        subscriptions.unsubscribe(*arguments, ignore_unknown=True)
    elif name == "set_mode":
        subscriptions.set_mode(*arguments, "d", subscribe_unknown=True)
    else:
        getattr(subscriptions, name)(*arguments)


def small():
    """Connections that hold six instruments."""
    return mock.patch.object(subscriptions_module, "MAX_INSTRUMENTS", LIMIT)


# What comes back.


@given(states())
@settings(max_examples=150, deadline=None)
def test_everything_comes_back(path, subscriptions):
    """Homes, modes, times, mirror and failover are as they were, and nothing is refused."""
    with small():
        write(path, subscriptions)
        again, refusals = restored(path)
        assert refusals == []
        assert known(again) == known(subscriptions)
        assert (again.mirroring, again.failed_over) == (subscriptions.mirroring, subscriptions.failed_over)
        assert [again.available(c) for c in CONNECTIONS] == [subscriptions.available(c) for c in CONNECTIONS]


@given(states())
@settings(max_examples=150, deadline=None)
def test_the_workers_are_told_the_same(path, subscriptions):
    """A restart moves nothing: each connection has on the wire what it had, what is leaving it included."""
    with small():
        write(path, subscriptions)
        assert on_the_wire(restored(path)[0]) == on_the_wire(subscriptions)


def test_a_move_goes_on_after_a_restart(path):
    """What was leaving is let go when its new place covers it, as without the restart."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1, 2], "quote", BEFORE)
    subscriptions.set_mode([1], "full", NOW)
    write(path, subscriptions)
    again, _ = restored(path)
    assert again.wanted(1) == {1: "quote", 2: "quote"}
    assert again.let_go(lambda new, _: new == 2) == {(1, 2): [1]}
    assert again.wanted(1) == {2: "quote"}


def test_a_move_back_does_not_rely_on_what_was_saved_as_leaving(path):
    """It may have been let go since: the place that has it for certain keeps it until the other covers it."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([5], "quote", BEFORE)
    subscriptions.set_mode([5], "full", NOW)
    write(path, subscriptions)
    again, _ = restored(path)
    assert again.leaving[1] == {5: "quote"}
    again.set_mode([5], "quote", NOW)
    assert [again.wanted(c) for c in (1, 2)] == [{5: "quote"}, {5: "full"}]


def test_the_file_is_what_it_says():
    """It is JSON that names what is subscribed, and what the configuration wants."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1, 2, 4], "quote", BEFORE)
    subscriptions.set_mode([1], "full", NOW)
    subscriptions.identify({1: Identity("NSE:INFY", None), 4: Identity("NFO:NIFTY25OCTFUT", date(2025, 10, 28))})
    more = {"selected": Selected(day=date(2025, 10, 1), tokens={"quote": [4]}), "expired": {"X": date(2025, 9, 30)}}
    content = json.loads(saving(subscriptions, Universe(primary=(1, 2), secondary=(2, 3)), simulated=True, **more))
    content["subscribed"].sort(key=lambda group: group["tokens"])
    assert content == {
        "format": 1,
        "simulated": True,
        "max_connections": 3,
        "resting": False,
        "window": [],
        "opens": None,
        "universe": {"quote": [1, 2], "full": [3]},
        "mirror": False,
        "failed_over": [],
        "by_hand": [],
        "subscribed": [
            {"connection_id": 2, "mode": "full", "since": BEFORE, "tokens": [1]},
            {"connection_id": 1, "mode": "quote", "since": BEFORE, "tokens": [2, 4]},
        ],
        "carried": [],
        "leaving": [{"connection_id": 1, "mode": "quote", "tokens": [1]}],
        "waiting": [],
        "unheard": [],
        "identities": {"1": ["NSE:INFY", None], "4": ["NFO:NIFTY25OCTFUT", "2025-10-28"]},
        "selected": {"day": "2025-10-01", "tokens": {"quote": [4]}},
        "expired": {"X": "2025-09-30"},
    }


def test_a_file_of_an_earlier_version_is_read(path):
    """Who the instruments are was not always in it."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1], "quote", BEFORE)
    content = json.loads(saving(subscriptions))
    for name in ("identities", "selected", "expired"):
        del content[name]
    path.write_text(json.dumps(content))
    assert known(restored(path)[0]) == known(subscriptions)


def test_who_they_were_comes_back(path):
    """An instrument is what it was subscribed as, whatever has its token by now."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1, 2], "quote", BEFORE)
    subscriptions.identify({1: Identity("NSE:INFY", None)})
    write(path, subscriptions)
    again, _ = restored(path)
    assert [again.all[token].identity for token in (1, 2)] == [Identity("NSE:INFY", None), None]
    assert (again.named("nse:infy"), again.named("NSE:TCS")) == (1, None)


def test_thousands_take_little_room():
    """Instruments that were subscribed together are written together."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe(range(10**6, 10**6 + 3000), "quote", BEFORE)
    assert len(saving(subscriptions)) < 10 * 3000


def test_without_a_file_there_is_nothing(path):
    """A first start has none."""
    path.unlink(missing_ok=True)
    assert read(path) is None


# Laid over the configuration.


OVERLAYS = {  # what the configuration wanted, what was asked for then, what it wants now, and what comes of it
    "nothing has changed": ((1, 2), (3,), [], (1, 2), (3,), {1: "quote", 2: "quote", 3: "full"}),
    "the configuration has gained one": ((1,), (), [], (1, 2), (3,), {1: "quote", 2: "quote", 3: "full"}),
    "the configuration has lost one": ((1, 2), (3,), [], (1,), (), {1: "quote"}),
    "the configuration has changed a mode": ((1, 2), (3,), [], (1, 3), (2,), {1: "quote", 2: "full", 3: "quote"}),
    "unsubscribed at runtime": ((1, 2), (), [("unsubscribe", [2])], (1, 2), (), {1: "quote"}),
    "unsubscribed at runtime, and wanted in another mode now": (
        (1, 2),
        (),
        [("unsubscribe", [2])],
        (1,),
        (2,),
        {1: "quote", 2: "full"},
    ),
    "subscribed at runtime": ((1,), (), [("subscribe", [7], "full", BEFORE)], (1,), (), {1: "quote", 7: "full"}),
    "a mode of its own since": ((1, 2), (), [("set_mode", [2], "ltp")], (1, 2), (), {1: "quote", 2: "ltp"}),
    "a mode of its own, and lost": ((1, 2), (), [("set_mode", [2], "ltp")], (1,), (), {1: "quote"}),
    "a mode of its own, and another": ((1, 2), (), [("set_mode", [2], "ltp")], (1,), (2,), {1: "quote", 2: "full"}),
    "subscribed at runtime, then gained": ((), (), [("subscribe", [7], "quote", BEFORE)], (7,), (), {7: "quote"}),
    "subscribed at runtime, then gained in another mode": (
        (),
        (),
        [("subscribe", [7], "ltp", BEFORE)],
        (),
        (7,),
        {7: "full"},
    ),
    "named twice, the primary counts": ((1,), (1,), [], (1,), (1,), {1: "quote"}),
}


@pytest.mark.parametrize(
    ("wanted", "changes", "wants", "expected"),
    [((p, s), changes, (new_p, new_s), expected) for p, s, changes, new_p, new_s, expected in OVERLAYS.values()],
    ids=OVERLAYS.keys(),
)
def test_the_file_is_laid_over_the_universe(path, wanted, changes, wants, expected):
    """What the configuration has gained, lost or changed since counts; for all else what was changed at runtime."""
    universe, now = (Universe(primary=primary, secondary=secondary) for primary, secondary in (wanted, wants))
    subscriptions = Subscriptions(3)
    subscriptions.take_wanted(wanted_by(universe), BEFORE)
    for name, *arguments in changes:
        step(subscriptions, name, arguments)
    write(path, subscriptions, universe)
    again, refusals = restored(path, universe=now)
    assert refusals == []
    assert {token: mode for token, (_, mode, _) in known(again).items()} == expected
    assert all(home == (2 if mode == "full" else 1) for home, mode, _ in known(again).values())
    stayed = {token for token, was in known(subscriptions).items() if known(again).get(token, ())[1:2] == was[1:2]}
    assert {token for token, (_, _, since) in known(again).items() if since == BEFORE} == stayed


universes = st.builds(
    lambda primary, secondary: Universe(primary=tuple(primary), secondary=tuple(secondary - primary)),
    st.sets(st.integers(1, 12)),
    st.sets(st.integers(1, 12)),
)


@given(universes, universes, st.dictionaries(st.integers(1, 12), modes))
@settings(max_examples=200, deadline=None)
def test_each_instrument_is_what_changed_last_wants(path, before, now, runtime):
    """Where the configuration wants what it wanted, the file holds for this instrument, otherwise the configuration."""
    subscriptions = Subscriptions(3)
    for token, mode in runtime.items():
        subscriptions.subscribe([token], mode, BEFORE)
    write(path, subscriptions, before)
    again, refusals = restored(path, universe=now)
    assert refusals == []
    was, wants = ({**dict.fromkeys(u.primary, "quote"), **dict.fromkeys(u.secondary, "full")} for u in (before, now))
    expected = {t: runtime.get(t) if was.get(t) == wants.get(t) else wants.get(t) for t in range(1, 13)}
    found = known(again)
    assert {token: found[token][1] if token in found else None for token in expected} == expected


def test_what_finds_no_room_is_told(path):
    """What the configuration has gained beyond the limit is refused by itself, as at any start."""
    subscriptions = Subscriptions(3)
    with small():
        subscriptions.subscribe(range(1, LIMIT + 1), "quote", BEFORE)
        write(path, subscriptions)
        again, refusals = restored(path, universe=Universe(primary=(1, 11, 12), secondary=(13,)))
    assert refusals == [Refusal(11, "connection 1 is full"), Refusal(12, "connection 1 is full")]
    assert set(known(again)) == {1, 2, 3, 4, 5, 6, 13}


@given(states(), st.sampled_from([1, 2]), st.sampled_from(["refuse", "spill"]))
@settings(max_examples=150, deadline=None)
def test_with_fewer_connections(path, subscriptions, max_connections, overflow):
    """What was on one that is no longer in use goes where its mode belongs, or is refused where that is full."""
    with small():
        write(path, subscriptions)
        again, refusals = restored(path, max_connections, overflow=overflow)
        assert not again.mirroring
        assert again.failed_over == set()
        for connection_id in range(1, 4):
            assert len(again.wanted(connection_id)) <= LIMIT
            assert connection_id <= max_connections or not again.wanted(connection_id)
        assert {*known(again), *(refusal.token for refusal in refusals)} == set(known(subscriptions))
        assert len(known(again)) + len(refusals) == len(known(subscriptions))
        for refusal in refusals:
            assert refusal.reason in {f"connection {c} is full" for c in range(1, max_connections + 1)}
        for token, (home, mode, since) in known(again).items():
            was = known(subscriptions)[token]
            assert (mode, since) == was[1:]
            assert home == was[0] or was[0] > max_connections or overflow == "spill"


def test_with_more_connections(path):
    """What was on the primary for want of another goes where its mode belongs; what was asked for stays."""
    subscriptions = Subscriptions(1)
    subscriptions.subscribe([1], "full", BEFORE)
    write(path, subscriptions, max_connections=1)
    assert known(restored(path)[0]) == {1: (2, "full", BEFORE)}
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1], "full", BEFORE, 1)
    write(path, subscriptions)
    assert known(restored(path)[0]) == {1: (1, "full", BEFORE)}


def test_what_was_on_the_wire(path):
    """The workers' successors have to know what each connection had, also where it had it for another."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1, 2], "quote", BEFORE)
    subscriptions.subscribe([3, 4], "full", BEFORE)
    subscriptions.set_mode([2], "full", BEFORE)
    subscriptions.failover(2, by_hand=True)
    write(path, subscriptions)
    saved = read(path)
    assert saved is not None
    assert saved.by_hand == [2]
    had = {c: set(tokens) for c, tokens in on_wire(saved).items()}
    assert had == {1: {1, 2}, 2: {3, 4}, 3: {2, 3, 4}}
    subscriptions.failback()
    subscriptions.unsubscribe([2, 3, 4])
    subscriptions.mirror(True)
    write(path, subscriptions)
    saved = read(path)
    assert saved is not None
    assert on_wire(saved) == {1: [1], 3: [1]}


def test_what_a_dead_worker_had_is_not_forgotten(path):
    """Its successor may come only after the next supervisor, which has to tell it."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1, 2], "quote", BEFORE)
    path.write_bytes(saving(subscriptions, unheard={1: Unheard([1, 2, 3], {3: 77}, {2: 78})}))
    saved = read(path)
    assert saved is not None
    assert on_wire(saved) == {1: [1, 2, 3]}
    assert relieved(saved) == {1: {3: 77}}
    assert due(saved) == {1: {2: 78}}


def test_the_simulator_s_subscriptions_are_no_business_of_kite_s(tmp_path):
    """Each kind of run finds its own file, and leaves the other's alone."""
    path = tmp_path / FILE_NAME
    for simulated in (False, True):
        assert take_turns(tmp_path, simulated=simulated) == path
        assert read(path) is None
        subscriptions = Subscriptions(3)
        subscriptions.subscribe([7 + simulated], "quote", BEFORE)
        path.write_bytes(saving(subscriptions, simulated=simulated))
    for simulated in (False, True, True, False):
        found = read(take_turns(tmp_path, simulated=simulated))
        assert found is not None
        assert (found.simulated, found.subscribed[0].tokens) == (simulated, [7 + simulated])


# Damage.


A_FILE = {
    "format": 1,
    "simulated": False,
    "max_connections": 3,
    "universe": {"quote": [1, 2], "full": [3]},
    "mirror": True,
    "failed_over": [2],
    "by_hand": [2],
    "subscribed": [
        {"connection_id": 1, "mode": "quote", "since": BEFORE, "tokens": [1, 2]},
        {"connection_id": 2, "mode": "full", "since": BEFORE, "tokens": [3, 4]},
    ],
    "carried": [{"connection_id": 3, "tokens": [3, 4]}],
    "leaving": [{"connection_id": 2, "mode": "full", "tokens": [3]}],
    "waiting": [4],
    "unheard": [{"connection_id": 1, "tokens": [1], "relieved": [[1, 2]]}],
}
A_FILE_BYTES = orjson.dumps(A_FILE)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
groups = st.lists(
    st.fixed_dictionaries(
        {"connection_id": connections_, "mode": modes, "tokens": st.lists(st.integers(1, 24), max_size=9)},
        optional={"since": st.text(max_size=5)},
    ),
    max_size=5,
)
strange_files = st.fixed_dictionaries(
    {
        "format": st.just(1),
        "simulated": st.booleans(),
        "max_connections": st.integers(1, 3),
        "universe": st.dictionaries(modes, st.lists(st.integers(1, 24), max_size=9)),
        "mirror": st.booleans(),
        "failed_over": st.lists(st.sampled_from([1, 2]), max_size=3),
        "by_hand": st.lists(st.sampled_from([1, 2]), max_size=3),
        "subscribed": groups,
        "carried": st.lists(
            st.fixed_dictionaries({"connection_id": connections_, "tokens": st.lists(st.integers(1, 24), max_size=9)})
        ),
        "leaving": groups,
        "waiting": st.lists(st.integers(1, 24), max_size=9),
        "unheard": st.just([]),
    }
)


def is_refused_or_usable(path, data):
    """Read a file: it is damaged, or a start with it brings a state in which all rules hold. Return whether it is."""
    path.write_bytes(data)
    try:
        content = read(path)
    except DamagedError:
        return False
    assert content is not None
    with small():
        for max_connections in CONNECTIONS:
            subscriptions = Subscriptions(max_connections)
            restore(subscriptions, content, {1: "quote", 2: "quote", 3: "full"}, NOW)
            check(subscriptions)
    return True


def check(subscriptions):
    """Check the rules that every state keeps, and that it can be saved and read again."""
    for connection_id in CONNECTIONS:
        wanted, of = subscriptions.wanted(connection_id), subscriptions.of(connection_id)
        assert len(wanted) <= LIMIT
        assert len(of) <= LIMIT
        assert {*wanted, *of} <= set(subscriptions.all)
        assert subscriptions.available(connection_id) >= 0
    for token, (home, mode, _) in known(subscriptions).items():
        assert type(home) is int
        assert mode in ("ltp", "quote", "full")
        assert token in subscriptions.of(subscriptions.carrier(token))
        assert home != 3 or not subscriptions.mirroring
    assert orjson.loads(saving(subscriptions))["format"] == 1
    subscriptions.unsubscribe_all()
    assert [subscriptions.wanted(c) for c in CONNECTIONS] == [{}, {}, {}]


def test_a_whole_file_is_usable(path):
    """The file that the next tests damage is not damaged."""
    assert is_refused_or_usable(path, A_FILE_BYTES)


def test_a_file_that_was_cut_is_damaged(path):
    """Wherever it was cut, at the very beginning included."""
    assert not any(is_refused_or_usable(path, A_FILE_BYTES[:size]) for size in range(len(A_FILE_BYTES)))


@given(st.integers(0, len(A_FILE_BYTES) - 1), st.integers(1, 255))
@settings(max_examples=400, deadline=None)
def test_a_flipped_byte_is_noticed_or_does_no_harm(path, position, flips):
    """A file with one wrong byte is damaged, or names other instruments; nothing else comes of it."""
    data = bytearray(A_FILE_BYTES)
    data[position] ^= flips
    is_refused_or_usable(path, bytes(data))


@given(st.binary(max_size=80) | JSON.map(orjson.dumps))
@settings(deadline=None)
def test_what_is_no_saved_file_is_damaged(path, data):
    """Neither rubbish nor JSON of another shape passes."""
    assert not is_refused_or_usable(path, data)


@given(st.sampled_from(sorted(A_FILE)), JSON)
@settings(max_examples=200, deadline=None)
def test_one_strange_field(path, key, value):
    """Where one field is something else, the file is damaged, or means what it says."""
    is_refused_or_usable(path, orjson.dumps(A_FILE | {key: value}))


@given(strange_files)
@settings(max_examples=200, deadline=None)
def test_files_that_contradict_themselves(path, content):
    """A file of the right shape is usable, whatever is in it twice, too often, or where it cannot be."""
    assert is_refused_or_usable(path, orjson.dumps(content))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format: "),
        ({"more": 1}, "more: "),
        ({"failed_over": [4]}, "failed_over.0: "),
        ({"universe": {"depth": []}}, "universe.depth"),
        ({"subscribed": [{"connection_id": 4, "mode": "ltp", "tokens": [1]}]}, "subscribed.0.connection_id: "),
        ({"subscribed": [{"connection_id": 1, "mode": "ltp", "tokens": [0]}]}, "subscribed.0.tokens.0: "),
        ({"leaving": [{"connection_id": 1, "mode": "ltp", "tokens": ["1"]}]}, "leaving.0.tokens.0: "),
    ],
)
def test_the_words_name_what_is_wrong(path, changes, words):
    """Whoever looks at the damaged file knows where to look."""
    path.write_bytes(orjson.dumps(A_FILE | changes))
    with pytest.raises(DamagedError, match=words):
        read(path)


def test_a_file_that_cannot_be_read_is_damaged(tmp_path):
    """A folder in its place, for example."""
    with pytest.raises(DamagedError, match="directory"):
        read(tmp_path)


def test_a_damaged_file_is_kept(tmp_path):
    """It is renamed with its content, and so is the next one; where there is none, nothing happens."""
    path = tmp_path / FILE_NAME
    kept = []
    for content in (b"one", b"two"):
        path.write_bytes(content)
        aside = set_aside(path)
        assert not path.exists()
        assert aside is not None
        assert aside.parent == tmp_path
        assert aside.name.startswith(f"{FILE_NAME}.damaged-")
        kept.append(aside)
    assert [aside.read_bytes() for aside in kept] == [b"one", b"two"]
    assert set_aside(path) is None


# Keeping it up to date.


class Disk:
    """Writes that take as long as they are told to; `changes` is what is to be saved, `written` what was."""

    def __init__(self, path):
        self.changes: list[int] = []
        self.written: list[list[int]] = []
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.file = SavedFile(path, self.content)

    def content(self):
        """Return the changes up to now."""
        return orjson.dumps(self.changes)

    def write(self, path, data):
        """Stand in for the real thing."""
        self.begun.set()
        assert self.may_end.wait(DEADLINE_S)
        path.write_bytes(data)
        self.written.append(orjson.loads(data))

    async def change(self, number):
        """Change something and save it; then it is on disk."""
        self.changes.append(number)
        await self.file.save()
        assert any(number in content for content in self.written)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A disk whose writes can be held up."""
    disk = Disk(tmp_path / FILE_NAME)
    monkeypatch.setattr(module, "replace_durably", disk.write)
    yield disk
    disk.may_end.set()


def test_changes_during_a_write_share_the_next(disk, tmp_path):
    """While one write is under way others wait, and one more write is enough for all of them."""

    async def main():
        first = asyncio.create_task(disk.change(0))
        await asyncio.to_thread(disk.begun.wait, DEADLINE_S)
        others = [asyncio.create_task(disk.change(number)) for number in range(1, 6)]
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert len(disk.changes) == 6
        assert not any(task.done() for task in (first, *others))
        disk.may_end.set()
        await asyncio.gather(first, *others)
        assert disk.written == [[0], [0, 1, 2, 3, 4, 5]]
        await disk.change(6)

    asyncio.run(main())
    assert disk.written[2:] == [[0, 1, 2, 3, 4, 5, 6]]
    assert orjson.loads((tmp_path / FILE_NAME).read_bytes()) == [0, 1, 2, 3, 4, 5, 6]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_who_returns_is_saved(path, turns):
    """Whenever changes come, each returns only after a write that has it, and the last write has all."""
    disk = Disk(path)
    disk.may_end.set()

    async def main():
        tasks = []
        for number, pause in enumerate(turns):
            tasks.append(asyncio.create_task(disk.change(number)))
            for _ in range(pause):
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    with mock.patch.object(module, "replace_durably", disk.write):
        asyncio.run(main())
    assert disk.written[-1] == list(range(len(turns)))
    assert len(disk.written) <= len(turns)


def test_a_disk_that_fails_is_told_and_tried_again(tmp_path, caplog):
    """What cannot be saved is logged with its file and reason; the service goes on, and the next save works."""
    folder = tmp_path / "gone"
    file = SavedFile(folder / FILE_NAME, lambda: b"{}")
    with caplog.at_level(logging.ERROR):
        asyncio.run(file.save())
    assert str(folder / FILE_NAME) in caplog.text
    assert "No such file or directory" in caplog.text
    folder.mkdir()
    asyncio.run(file.save())
    assert (folder / FILE_NAME).read_bytes() == b"{}"


def test_what_could_not_be_saved_is_saved_when_the_disk_is_well_again(tmp_path, monkeypatch):
    """Nobody has to change anything for that; meanwhile the fault is told."""
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    folder = tmp_path / "gone"
    file = SavedFile(folder / FILE_NAME, lambda: b"{}")

    async def main():
        keeping = asyncio.create_task(file.keep_up())
        assert not await file.save()
        assert file.fault == f"{folder / FILE_NAME}: No such file or directory"
        folder.mkdir()
        async with asyncio.timeout(DEADLINE_S):
            while file.fault:  # noqa: ASYNC110  it has to run meanwhile
                await asyncio.sleep(0)
        keeping.cancel()

    asyncio.run(main())
    assert (folder / FILE_NAME).read_bytes() == b"{}"


def test_a_failed_write_does_not_pass_for_one_that_waits(disk, monkeypatch, caplog):
    """Who changed something while a write was failing is saved by a write of its own."""

    def fail(*_):
        disk.begun.set()
        assert disk.may_end.wait(DEADLINE_S)
        monkeypatch.setattr(module, "replace_durably", disk.write)
        raise OSError(28, "No space left on device")

    async def main():
        monkeypatch.setattr(module, "replace_durably", fail)
        disk.changes.append(0)
        first = asyncio.create_task(disk.file.save())
        await asyncio.to_thread(disk.begun.wait, DEADLINE_S)
        second = asyncio.create_task(disk.change(1))
        await asyncio.sleep(0)
        disk.may_end.set()
        await asyncio.gather(first, second)

    asyncio.run(main())
    assert disk.written == [[0, 1]]
    assert "No space left on device" in caplog.text


def test_who_rests_has_nothing(path):
    """While connections are closed by the clock none has anything, but who has not heard of it yet."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1, 2], "quote", BEFORE)
    subscriptions.subscribe([3], "full", BEFORE)
    subscriptions.rest(on=True)
    path.write_bytes(saving(subscriptions, unheard={2: Unheard([3], {3: 77}, {})}))
    saved = read(path)
    assert saved is not None
    assert (saved.resting, on_wire(saved), assigned(saved)) == (True, {2: [3]}, {1: [1, 2], 2: [3]})
    assert known(restored(path)[0]) == known(subscriptions)


def test_the_window_is_saved(path):
    """With another one what was planned until now is not known."""
    market = Market(connect=time(8, 55), disconnect=time(15, 35))
    there = config().model_copy(update={"market": market})
    path.write_bytes(snapshot(Subscriptions(3), there, simulated=False, wanted={}))
    saved = read(path)
    assert saved is not None
    assert saved.window == window(there) != window(config()) == []


def test_a_file_of_the_version_before(path):
    """It knew no rests."""
    content = json.loads(saving(Subscriptions(3)))
    path.write_text(json.dumps({key: value for key, value in content.items() if key not in ("resting", "window")}))
    saved = read(path)
    assert saved is not None
    assert (saved.resting, saved.window) == (False, [])
