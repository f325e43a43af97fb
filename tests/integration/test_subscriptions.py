"""Changes at runtime: service, workers and server agree on who is subscribed where, and nothing is lost over it."""

import random
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from pipeline.client import Client
from pipeline.config import Mode
from pipeline.errors import (
    AlreadySubscribedError,
    CapacityError,
    ControlError,
    NotSubscribedError,
    RequestRefusedError,
)
from pipeline.requests import HistoryEntry
from pipeline.role import endpoint
from pipeline.wire import CONTROL_SOCKET
from tests.integration.conftest import SCALE, Begin, NewService
from tests.integration.kite import Kite, id_of
from tests.integration.service import Raw, Service, until
from tests.test_simulator import get, program

CAPACITY = 3000  # of a connection
REQUESTS = 25  # in one example


def row(first: int, number: int) -> list[int]:
    """Return so many tokens of one segment, the lowest byte of `first`."""
    return [first + 0x100 * n for n in range(number)]


def is_dead(token: int) -> bool:
    """Tell whether the simulator knows nothing of this instrument."""
    return (token >> 8) % 97 == 13


# A thousand random requests.

SINGLES = [[token] for segment in (1, 2, 3, 4, 6, 7, 9, 12) for token in row(0x400000 + segment, 4)]
DEAD = [[13 << 8 | segment] for segment in (1, 2, 9)]
BLOCKS = [[token for token in row(n << 24 | 1, 750) if not is_dead(token)] for n in range(1, 13)]
NONSENSE = [
    {"tokens": []},
    {"tokens": [408065, 0]},
    {"tokens": [408065], "connection_id": 4},
    {"tokens": [408065], "mode": "FULL"},
]


class Rules:
    """Who is subscribed where, as users are told it: each request returns what it changes, or is refused."""

    def __init__(self) -> None:
        self.all: dict[int, tuple[int, str]] = {}  # token -> connection, mode
        self.mirrored = False

    def of(self, connection_id: int) -> dict[int, str]:
        """Return what a connection has, and in which mode."""
        home = 1 if connection_id == 3 and self.mirrored else connection_id
        return {token: mode for token, (c, mode) in self.all.items() if c == home}

    def room(self, connection_id: int) -> int:
        """Return how many more a connection takes."""
        return 0 if connection_id == 3 and self.mirrored else CAPACITY - len(self.of(connection_id))

    def subscribe(self, tokens: list[int], mode: str, connection_id: int | None) -> dict[str, Any]:
        """Subscribe what nobody has."""
        names = ("instrument_token", "connection_id", "mode")
        taken = [dict(zip(names, (t, *self.all[t]), strict=True)) for t in dict.fromkeys(tokens) if t in self.all]
        if taken:
            raise AlreadySubscribedError("", {"duplicates": taken})
        place = connection_id or home_of(mode)
        if place == 3 and self.mirrored:
            raise RequestRefusedError("")
        self._take(tokens, place, mode)
        return self._change("subscribe", tokens, list(dict.fromkeys(tokens)), mode)

    def unsubscribe(self, tokens: list[int], ignore_unknown: bool) -> dict[str, Any]:
        """Unsubscribe what is there."""
        unknown = [t for t in dict.fromkeys(tokens) if t not in self.all]
        if unknown and not ignore_unknown:
            raise NotSubscribedError("", {"unknown": unknown})
        known = [t for t in dict.fromkeys(tokens) if t in self.all]
        change = self._change("unsubscribe", tokens, known, None, unknown=unknown)
        for token in known:
            del self.all[token]
        return change

    def unsubscribe_all(self) -> dict[str, Any]:
        """Unsubscribe everything."""
        return self.unsubscribe(list(self.all), ignore_unknown=False)

    def set_mode(self, tokens: list[int], mode: str, subscribe_unknown: bool) -> dict[str, Any]:
        """Change the mode, and move to the connection that is for it."""
        unknown = [t for t in dict.fromkeys(tokens) if t not in self.all]
        if unknown and not subscribe_unknown:
            raise NotSubscribedError("", {"unknown": unknown})
        here = home_of(mode)
        before = {t: self.all.get(t) for t in dict.fromkeys(tokens)}
        self._take([t for t in before if self.all.get(t, (0,))[0] != here], here, mode)
        self.all |= dict.fromkeys(before, (here, mode))
        changed = [t for t, was in before.items() if was != (here, mode)]
        unchanged = [t for t in before if t not in changed]
        return self._change("set_mode", tokens, changed, mode, unchanged=unchanged)

    def mirror(self, on: bool) -> dict[str, Any]:
        """Let connection 3 have what connection 1 has."""
        if on and not self.mirrored and self.of(3):
            raise RequestRefusedError("")
        changed = list(self.of(1)) if on != self.mirrored else []
        self.mirrored = on
        places = {"3": len(changed)} if changed else {}
        return self._change("mirror" if on else "unmirror", changed, changed, None) | {"connections": places}

    def _take(self, arriving: Iterable[int], place: int, mode: str) -> None:
        new = dict.fromkeys(arriving, (place, mode))
        if len(new) > self.room(place):
            details = {"connection_id": place, "requested": len(new), "available": self.room(place)}
            raise CapacityError("", details)
        self.all |= new

    def _change(
        self, action: str, tokens: list[int], changed: list[int], mode: str | None, **more: list[int]
    ) -> dict[str, Any]:
        counts = Counter(str(self.all[token][0]) for token in changed)
        lists: dict[str, Any] = {
            "repeats": [token for token, times in Counter(tokens).items() if times > 1],
            "unchanged": [],
            "unknown": [],
        }
        about = {
            "success": True,
            "saved": True,
            "action": action,
            "requested": len(tokens),
            "instruments": changed,
            "mode": mode,
        }
        return about | {"connections": dict(counts)} | lists | more


def home_of(mode: str) -> int:
    """Return the connection that a mode belongs to."""
    return 2 if mode == "full" else 1


def outcome(request: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the answer to a request, of a refusal the details."""
    try:
        return request()
    except RequestRefusedError as refused:
        return refused.details


def comparable(answer: dict[str, Any], *, in_order: bool) -> dict[str, Any]:
    """Return what the rules foretell of an answer; they do not know in which order all of something comes."""
    known = {key: value for key, value in answer.items() if key not in ("confirmed", "pending")}
    return known if in_order or "instruments" not in known else known | {"instruments": sorted(known["instruments"])}


def joined(groups: list[list[int]]) -> list[int]:
    """Return all tokens of these groups."""
    return [token for group in groups for token in group]


groups = st.lists(st.sampled_from(SINGLES + SINGLES + DEAD + BLOCKS), min_size=1, max_size=4).map(joined)
blocks = st.lists(st.sampled_from(BLOCKS), min_size=2, max_size=4).map(joined)
modes = st.sampled_from(("ltp", "quote", "full"))
places = st.sampled_from((None, None, None, 1, 2, 3))


def requests(method: str, **params: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """Return requests of one kind."""
    return st.tuples(st.just(method), st.fixed_dictionaries(params))


KINDS = [  # how often, and what
    (6, requests("subscribe", tokens=groups, mode=modes, connection_id=places)),
    (4, requests("subscribe", tokens=blocks, mode=modes, connection_id=places)),
    (6, requests("unsubscribe", tokens=groups, ignore_unknown=st.booleans())),
    (8, requests("set_mode", tokens=groups, mode=modes, subscribe_unknown=st.booleans())),
    (4, requests("mirror", on=st.booleans())),
    (1, requests("unsubscribe_all")),
    (1, requests("nonsense", params=st.sampled_from(NONSENSE))),
    (1, requests("kill_supervisor")),
]
a_request = st.sampled_from([n for n, (often, _) in enumerate(KINDS) for _ in range(often)]).flatmap(
    lambda n: KINDS[n][1]
)


class Requests(RuleBasedStateMachine):
    """Requests of all kinds to a running service; after each, all sides have to agree with the rules."""

    def __init__(self, service: Service, url: str, counts: Counter[str]) -> None:
        super().__init__()
        self.service, self.url, self.counts = service, url, counts
        self.model = Rules()
        self.client = Client(service.run_dir)
        self.client.unsubscribe_all()
        self.client.mirror(False)
        self.counts["begun"] += 1
        self.agree()

    def teardown(self) -> None:
        self.client.close()

    @rule(request=a_request, fits=st.sampled_from((True, True, True, False)))
    def ask(self, request, fits):
        method, params = request
        if fits and "tokens" in params:
            fitting = [t for t in params["tokens"] if (t in self.model.all) == (method != "subscribe")]
            params = params | {"tokens": fitting or params["tokens"]}
        if method == "kill_supervisor":
            self.kill_supervisor()
        elif method == "nonsense":
            self.check_nonsense(**params)
        else:
            self.check(method, **params)
        self.agree()

    def kill_supervisor(self) -> None:
        """Let another supervisor go on."""
        self.service.kill("supervisor")
        self.service.start()
        self.service.wait_for(lambda s: s["storage"]["state"] == "recording", "the service answers")
        self.counts["supervisor killed"] += 1

    def check_nonsense(self, params: dict[str, Any]) -> None:
        """Make a request that is none: it is answered with an error."""
        with pytest.raises(ControlError) as refused:
            self.client.call("subscribe", **params)
        assert type(refused.value) is ControlError
        self.counts["nonsense"] += 1

    def check(self, method: str, **params: Any) -> None:
        """Make a request, and compare the answer with the rules."""
        expected = outcome(lambda: getattr(self.model, method)(**params))
        answer = outcome(lambda: self.client.call(method, **params))
        assert comparable(answer, in_order="tokens" in params) == comparable(expected, in_order="tokens" in params)
        kind = answer.get("kind") or ("sent" if answer["confirmed"] else "pending")
        assert kind not in ("sent", "pending") or answer["confirmed"] == (not answer["pending"])
        self.counts[f"{method}: {kind}"] += 1

    def agree(self) -> None:
        """Check that the service agrees with the rules, and wait until workers and server do."""
        model = self.model
        expected = {token: (*place, model.mirrored and place[0] == 1) for token, place in model.all.items()}
        found = self.client.instruments()
        assert {i.instrument_token: (i.connection_id, i.mode, i.mirrored) for i in found} == expected
        wanted = {c: model.of(c) for c in (1, 2, 3)}
        until(lambda: self.workers_have(wanted), "the workers have sent it to Kite")
        until(lambda: self.server_has(wanted), "the server has it")

    def workers_have(self, wanted: dict[int, dict[int, str]]) -> bool:
        """Tell whether each worker has sent what it should, and has a connection only where it needs one."""
        connections = self.client.connections()
        for c, instruments in wanted.items():
            found, number = connections[str(c)], len(instruments)
            assert (found.subscribed_instruments, found.capacity_remaining) == (number, self.model.room(c))
            state = "live" if number else "standby" if c == 3 else "idle"
            if (found.confirmed_instruments, found.state) != (number, state):
                return False
        return True

    def server_has(self, wanted: dict[int, dict[int, str]]) -> bool:
        """Tell whether the simulator's connections have exactly what they should, in the right modes."""
        living = ({str(t): mode for t, mode in of.items() if not is_dead(t)} for of in wanted.values() if of)
        found = (connection["tokens"] for connection in get(self.url, "/stats")[1]["connections"])
        return Counter(frozenset(of.items()) for of in found) == Counter(frozenset(of.items()) for of in living)


@pytest.mark.timeout(240 * max(SCALE, 1))
def test_random_requests_leave_all_sides_agreed(new_service: NewService, monkeypatch):
    """After each service, workers and server agree with the rules, whoever is killed in between; no tick is lost."""
    monkeypatch.delenv("MDS_TEST_SCALE", raising=False)  # which is no setting of the simulator
    counts: Counter[str] = Counter()
    examples = round(6 * SCALE) + 1  # the first is trivial
    with program("--rate", "200") as (_, url):
        service = new_service(kite={"ws_url": url})
        service.start()
        service.wait_for(lambda s: s["storage"]["state"] == "recording", "the service answers")
        run_state_machine_as_test(
            lambda: Requests(service, url, counts),  # type: ignore[arg-type]  # it says that functions will do
            settings=settings(
                max_examples=examples,
                stateful_step_count=REQUESTS,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
        assert service.stop() == 0
        sent = get(url, "/stats")[1]["ticks_sent_total"]
    service.assert_verified(ticks=sent)
    asked = sum(number for what, number in counts.items() if ":" in what)
    assert len(service.events("request")) == asked + 2 * counts["begun"]
    print(f"{counts.total()} requests: {dict(counts)}; {sent} ticks")  # noqa: T201  the figures


# With a server that is independent of the recorder: what is on the wire, and what was sent.


def recorded(client: Client) -> dict[int, tuple[int, str]]:
    """Return connection and mode of each instrument, as the service says."""
    return {i.instrument_token: (i.connection_id, i.mode) for i in client.instruments()}


def end(kite: Kite, service: Service) -> None:
    """End the service; each tick that the server sent must be stored, once and in order."""
    kite.tell("pause")
    assert service.stop() == 0
    sent = [kite.ids(connection["number"]) for connection in kite.connections()]
    streams = [[id_of(tick) for tick in ticks] for ticks in service.streams().values()]
    assert all(ids == sorted(ids) for ids in streams)
    assert sorted(joined(streams)) == joined(sent)
    service.assert_verified(ticks=len(joined(sent)))
    assert service.events("gap") == []


MOVING = row(0x200001, 100)
A, B, C, D = 408065, 738561, 341249, 1270529


def test_what_moves_is_never_uncovered(kite: Kite, new_service: NewService, begin: Begin):
    """To and fro under load, requests on each other's heels, the supervisor killed amid them: no tick is lost."""
    chance = random.Random(5)
    service = new_service(universe={"primary": [A, *MOVING], "secondary": [B]})
    kite.load(5000, frame=5)
    client = begin(service)
    for n in range(round(6 * SCALE)):
        with Raw(service.run_dir) as raw:
            for _ in range(5):
                raw.ask("set_mode", {"tokens": chance.sample(MOVING, 30), "mode": chance.choice(["quote", "full"])})
            if n % 3 == 2:  # it is not known how many of them it has got
                service.kill("supervisor")
                service.start()
            else:
                assert all("result" in raw.answer() for _ in range(5))
    service.wait_until_settled()
    places = recorded(client)
    assert places.keys() == {A, B, *MOVING}
    assert all(connection_id == home_of(mode) for connection_id, mode in places.values())
    kite.until_on_the_wire(*({t: mode for t, (c, mode) in places.items() if c == home} for home in (1, 2)))
    assert kite.tell("report")["uncovered"] == []
    assert len(kite.connections()) == 2
    end(kite, service)


def test_what_cannot_move_yet_stays_where_it_is(kite: Kite, new_service: NewService, begin: Begin):
    """While connection 2 is refused, connection 1 goes on with it; the answer says what is pending."""
    service = new_service(universe={"primary": [A, B, C]}, failover={"after_ms": 60_000})
    kite.load(1000)
    client = begin(service)
    kite.tell("refuse", statuses=[503] * 100)
    change = client.set_mode([A, B], "full")
    assert (change.confirmed, change.connections) == (False, {"2": 2})
    assert 2 in {pending.connection_id for pending in change.pending}
    service.kill("supervisor")
    service.start()
    status = service.wait_for(lambda s: s["connections"]["2"]["state"] == "down", "connection 2 is refused again")
    assert "503" in status["connections"]["2"]["reason"]
    assert recorded(client) == {A: (2, "full"), B: (2, "full"), C: (1, "quote")}
    kite.until_on_the_wire(dict.fromkeys([A, B, C], "quote"))
    kite.tell("refuse", statuses=[])
    kite.until_on_the_wire({C: "quote"}, {A: "full", B: "full"})
    assert kite.tell("report")["uncovered"] == []
    kite.tell("pause")
    assert service.stop() == 0
    service.assert_verified(ticks=kite.sent())
    assert {(gap["connection_id"], gap["cause"]) for gap in service.events("gap")} <= {(2, "refused")}


@pytest.mark.parametrize(
    "case",
    [
        ({"primary": row(0x200001, 10)}, 3000, 2),
        ({"primary": row(0x200001, 10), "secondary": row(0x300001, 10)}, 2980, 1),
    ],
    ids=["3000 on a connection that opens", "2980 on a connection that ticks"],
)
def test_thousands_at_once_hold_up_nobody(kite: Kite, new_service: NewService, begin: Begin, case):
    """10,000 ticks/s flow meanwhile: each is stored, other requests are answered; how soon is printed."""
    universe, number, target = case
    service = new_service(universe=universe)
    kite.load(20_000 // len(universe), frame=10)
    client = begin(service)
    many = row(0x1000001, number)
    mode: Mode = "quote" if target == 1 else "full"
    other = {1: 2, 2: 1}[target]
    asked: list[tuple[str, Callable[[], object]]] = [
        ("status", client.status),
        ("subscribe on the other", lambda: client.subscribe([A], connection_id=other)),
        ("unsubscribe on the same", lambda: client.unsubscribe(many[-1:])),
        ("subscribe on the same", lambda: client.subscribe([B], mode, connection_id=target)),
        ("status", client.status),
    ]
    times = []
    with Raw(service.run_dir) as raw:
        raw.ask("subscribe", {"tokens": many, "mode": mode})
        began_s = time.monotonic()
        for name, ask in asked:
            asked_s = time.monotonic()
            ask()
            times.append(
                f"{name} {(time.monotonic() - asked_s) * 1000:.0f}{' (first)' if not raw.has_answer() else ''}"
            )
        result = raw.answer()["result"]
        times.append(f"all {(time.monotonic() - began_s) * 1000:.0f}")
    assert (result["connections"], result["instruments"]) == ({str(target): number}, many)
    service.wait_for(
        lambda s: all(i["tick_count"] for i in s["instruments"] if i["connection_id"] == target), "all have ticked"
    )
    assert {t for t, (c, _) in recorded(client).items() if c == target} >= {*many[:-1], B}
    service.wait_until_settled()
    assert sum(len(modes) for modes in kite.on_the_wire()) == len(recorded(client))
    end(kite, service)
    print(f"ms: {', '.join(times)}; {kite.sent()} ticks")  # noqa: T201  the figures


# Across kills and restarts.


def test_what_was_subscribed_outlives_every_process(kite: Kite, new_service: NewService, begin: Begin):
    """Supervisor and workers killed, all killed, stopped and started: same instruments, connections and modes."""
    service = new_service(universe={"primary": [A, B], "secondary": [C]}, failover={"stable_s": 0.2})
    kite.load(1000)
    client = begin(service)
    client.subscribe(row(0x200001, 600), "ltp")
    client.subscribe([D], "full", connection_id=1)
    client.unsubscribe([B])
    client.set_mode([A], "full")
    client.subscribe([B], connection_id=3)
    service.wait_until_settled()

    def known() -> list[tuple[int, int, str, str]]:
        found = client.instruments()
        return sorted((i.instrument_token, i.connection_id, i.mode, i.subscribed_at) for i in found)

    instruments = known()
    until(lambda: sorted(map(len, kite.on_the_wire())) == [1, 2, 601], "the server has read it all")
    wire = kite.on_the_wire()

    def assert_same() -> None:
        service.wait_until_settled()
        until(lambda: kite.on_the_wire() == wire, "the server has what it had")
        assert known() == instruments

    def assert_universe() -> None:
        service.wait_until_settled()
        kite.until_on_the_wire(dict.fromkeys([A, B], "quote"), {C: "full"})
        assert recorded(client) == {A: (1, "quote"), B: (1, "quote"), C: (2, "full")}

    survivors = {role: service.pid(role) for role in ("writer", "worker-1", "worker-2", "worker-3")}
    service.kill("supervisor")
    service.start()
    assert_same()
    assert {role: service.pid(role) for role in survivors} == survivors
    assert len(kite.connections()) == 3
    for role in ("worker-1", "worker-3"):
        service.kill(role)
        service.send(role, 0)  # as soon as it is there again
        assert_same()
    client.unsubscribe([D])
    service.kill_all()  # as if the power had gone, right behind the answer
    service.start()
    wire = [{token: mode for token, mode in modes.items() if token != str(D)} for modes in wire]
    instruments = [about for about in instruments if about[0] != D]
    assert_same()
    assert service.stop() == 0
    service.start()
    assert_same()
    assert service.stop() == 0
    service.start("--fresh")
    assert_universe()
    service.kill("supervisor")
    service.start()
    assert_universe()
    assert service.stop() == 0
    service.assert_verified()


def test_what_the_configuration_changes_wins(kite: Kite, new_service: NewService, begin: Begin):
    """Between two runs: gained, lost and changed instruments follow the file, for all else what was asked for holds."""
    service = new_service(universe={"primary": [A, B, C], "secondary": [D]})
    client = begin(service)
    client.unsubscribe([B])
    client.subscribe([1, 2], "ltp")
    client.set_mode([C], "full")
    assert service.stop() == 0
    service = new_service(service.folder, universe={"primary": [B, C, 3], "secondary": [A]})
    client = begin(service)
    kite.until_on_the_wire({1: "ltp", 2: "ltp", 3: "quote"}, {C: "full", A: "full"})
    places = {1: (1, "ltp"), 2: (1, "ltp"), 3: (1, "quote"), A: (2, "full"), C: (2, "full")}
    assert recorded(client) == places
    assert service.stop() == 0


DAMAGED: dict[str, Callable[[bytes], bytes | None]] = {
    "empty": lambda _: b"",
    "cut": lambda saved: saved[: len(saved) // 2],
    "binary": lambda saved: random.Random(6).randbytes(len(saved)),
    "of another form": lambda _: b'{"format": 1, "subscribed": []}',
    "with an impossible token": lambda saved: saved.replace(str(A).encode(), b"0"),
    "a folder": lambda _: None,
}


def test_a_damaged_file_is_set_aside(kite: Kite, new_service: NewService, begin: Begin):
    """Whatever is in it: it is renamed and reported, and the instruments of the configuration are recorded."""
    service = new_service(universe={"primary": [A], "secondary": [B]})
    path = service.run_dir / "subscriptions.json"
    kite.load(500)
    client = begin(service)
    for kind, damage in DAMAGED.items():
        client.subscribe([C])
        service.kill("supervisor")
        content = damage(path.read_bytes())
        if content is None:
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes(content)
        service.start()
        service.wait_until_settled()
        assert recorded(client) == {A: (1, "quote"), B: (2, "full")}, kind
        kite.until_on_the_wire({A: "quote"}, {B: "full"})
        kept = max(service.run_dir.glob("subscriptions.json.*"), key=lambda aside: aside.stat().st_ctime_ns)
        assert kept.is_dir() if content is None else kept.read_bytes() == content, kind
        assert f"{path} is damaged" in service.errors(), kind
        assert str(kept) in service.errors(), kind
    assert service.stop() == 0
    events = service.events("subscriptions_damaged", file=str(path))
    assert len({event["kept_in"] for event in events}) == len(events) == len(DAMAGED)
    assert all(event["error"] for event in events)
    service.assert_verified()


# What no client should do.

NO_TOKENS: list[Any] = [0, -1, 2**32, 2**64, 1.5, 408065.0, "408065", True, None, [408065], {}]
NO_LISTS: list[Any] = [[], 1, "1", None, {}, [1] * 20_001, [1] * 10**6]
NO_MODES: list[Any] = ["", "FULL", None, 1, ["full"]]
NO_CONNECTIONS: list[Any] = [0, 4, -1, "1", 1.5, True, []]
WRONG_PARAMS: list[tuple[str, Any]] = [
    *(("subscribe", {"tokens": [1, wrong]}) for wrong in NO_TOKENS),
    *(("subscribe", {"tokens": wrong}) for wrong in NO_LISTS),
    *(("subscribe", {"tokens": [1], "mode": wrong}) for wrong in NO_MODES),
    *(("subscribe", {"tokens": [1], "connection_id": wrong}) for wrong in NO_CONNECTIONS),
    ("subscribe", {"tokens": [1], "by": "universe"}),
    ("subscribe", {"tokens": [1], "connection": 2}),
    ("subscribe", {}),
    ("subscribe", [[1]]),
    ("subscribe", None),
    ("unsubscribe", {"tokens": [0]}),
    ("unsubscribe", {"tokens": [A], "ignore_unknown": "yes"}),
    ("unsubscribe_all", {"tokens": [A]}),
    ("set_mode", {"tokens": [A]}),
    ("set_mode", {"tokens": [A], "mode": "off"}),
    ("mirror", {"on": None}),
    ("mirror", {"on": "yes"}),
    ("failover", {"connection_id": 3}),
    ("history", {"limit": 0}),
    ("history", {"limit": 10**9}),
    ("history", {"limit": "5"}),
    ("restart", {"role": "../worker-1"}),
    ("restart", {"role": 1}),
    ("status", {"verbose": True}),
]
NO_REQUESTS = [
    b"",
    b"\0",
    b"{",
    b"[" * 2**20,
    b'{"jsonrpc":' * 10_000,
    b'"' + b"a" * 2**20 + b'"',
    b" " * 2**20,
    random.Random(7).randbytes(2**20),
    b"null",
    b"[]",
    b'[{"jsonrpc": "2.0", "id": 1, "method": "unsubscribe_all"}]',
    b'{"jsonrpc": "2.0", "id": 1, "method": "unsubscribe_all"}{}',
    b'{"jsonrpc": "2.0", "id": 1, "method": "unsubscribe_all\xff"}',
    b'{"jsonrpc": "2.0", "id": NaN, "method": "unsubscribe_all"}',
    b'{"jsonrpc": "2.0", "method": "unsubscribe_all"}',
    b'{"jsonrpc": "2.0", "id": null, "method": "unsubscribe_all"}',
    b'{"jsonrpc": "2.0", "id": 1.5, "method": "unsubscribe_all"}',
    b'{"jsonrpc": "2.0", "id": true, "method": "unsubscribe_all"}',
    b'{"jsonrpc": "1.0", "id": 1, "method": "unsubscribe_all"}',
    b'{"id": 1, "method": "unsubscribe_all"}',
    b'{"jsonrpc": "2.0", "id": 1, "method": "unsubscribe_all", "more": 1}',
    b'{"jsonrpc": "2.0", "id": 1, "method": "no such"}',
    b'{"jsonrpc": "2.0", "id": 1, "method": "__class__"}',
    b'{"jsonrpc": "2.0", "id": 1, "method": ["unsubscribe_all"]}',
    b'{"jsonrpc": "2.0", "id": 1, "method": "' + b"m" * 2**20 + b'"}',
    b'{"jsonrpc": "2.0", "id": 1}',
]
TOO_LARGE_BYTES = 2**24 + 1  # of a message: not even read


def test_what_is_no_request_gets_an_error(kite: Kite, new_service: NewService, begin: Begin):
    """Whatever is sent, and with whichever socket: nothing changes, and everything is recorded."""
    service = new_service(universe={"primary": [A, B], "secondary": [C]})
    kite.load(2000)
    client = begin(service)
    places, pids, asked = recorded(client), sorted(service.processes()), client.history()
    with Raw(service.run_dir) as dealer, Raw(service.run_dir, zmq.REQ) as req:
        for raw in (dealer, req):
            for message in NO_REQUESTS:
                raw.send(message)
                assert_error(raw.answer(), message)
            for method, params in WRONG_PARAMS:
                raw.ask(method, params)
                assert_error(raw.answer(), method, params)
        dealer.send(b"", b"more", b"", b"parts")
        assert_error(dealer.answer())
    assert client.history() == asked
    assert recorded(client) == places
    assert sorted(service.processes()) == pids
    assert "Traceback" not in service.logs()
    end(kite, service)


def test_clients_come_and_go(kite: Kite, new_service: NewService, begin: Begin):
    """Before their answer, without a question, with far too many or too large ones: the others are served."""
    service = new_service(universe={"primary": [A, B], "secondary": [C]})
    kite.load(2000)
    client = begin(service)
    files = Path(f"/proc/{service.pid('supervisor')}/fd")
    places, pids, before = recorded(client), sorted(service.processes()), len(list(files.iterdir()))
    vanishing = row(0x200001, 50)
    for token in vanishing:
        with Raw(service.run_dir) as raw:
            raw.ask("subscribe", {"tokens": [token]})
    until(lambda: {*vanishing} < recorded(client).keys(), "what they have asked for is done")
    for n in range(200):
        with Raw(service.run_dir, zmq.DEALER if n % 2 else zmq.REQ) as raw:
            if n % 4:
                raw.ask("status", {})
    with ExitStack() as at_once:
        for raw in [at_once.enter_context(Raw(service.run_dir)) for _ in range(50)]:
            raw.ask("instruments", {})
        with Raw(service.run_dir) as raw:
            raw.send(bytes(TOO_LARGE_BYTES))
        with stranger(service) as hanging, stranger(service) as talking:
            talking.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
            assert client.subscribe([D]).instruments == [D]
            assert hanging.fileno() > 0
    with Raw(service.run_dir) as greedy:
        for _ in range(500):
            greedy.ask("status", {})
        assert client.unsubscribe([D]).instruments == [D]
    until(lambda: len(list(files.iterdir())) <= before, "nothing of them is left")
    assert recorded(client) == places | dict.fromkeys(vanishing, (1, "quote"))
    assert sorted(service.processes()) == pids
    assert "Traceback" not in service.logs()
    end(kite, service)


@contextmanager
def stranger(service: Service) -> Iterator[socket.socket]:
    """Connect to the control socket with something that does not speak ZeroMQ."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(endpoint(service.run_dir, CONTROL_SOCKET).removeprefix("ipc://"))
        yield connection


def assert_error(answer: dict[str, Any], *context: Any) -> None:
    """Check that an answer is an error in words, and nothing else."""
    assert set(answer) == {"jsonrpc", "id", "error"}, str(context)[:500]
    assert isinstance(answer["error"]["code"], int)
    assert 0 < len(answer["error"]["message"]) < 2000


# Which connections there are, and what they take.


def test_the_first_opens_a_connection_and_the_last_closes_it(kite: Kite, new_service: NewService, begin: Begin):
    """By subscribing, unsubscribing and moving: the server has a connection only while it has an instrument."""
    service = new_service()
    kite.load(2000)
    client = begin(service)

    def assert_states(*expected: str) -> None:
        until(lambda: tuple(c.state for c in client.connections().values()) == expected, f"states are {expected}")

    assert_states("idle", "idle", "standby")
    assert kite.connections() == []
    client.subscribe([A])
    assert_states("live", "idle", "standby")
    kite.until_on_the_wire({A: "quote"})
    client.subscribe([B], "full")
    client.subscribe([C], connection_id=3)
    assert_states("live", "live", "live")
    kite.until_on_the_wire({A: "quote"}, {B: "full"}, {C: "quote"})
    client.unsubscribe([C])
    client.set_mode([B], "ltp")
    assert_states("live", "idle", "standby")
    kite.until_on_the_wire({A: "quote", B: "ltp"})
    client.set_mode([A, B], "full")
    assert_states("idle", "live", "standby")
    kite.until_on_the_wire({A: "full", B: "full"})
    client.unsubscribe_all()
    assert_states("idle", "idle", "standby")
    kite.until_on_the_wire()
    assert len(kite.connections()) == 4
    assert kite.tell("report")["uncovered"] == [C, A, B]  # when they were unsubscribed
    end(kite, service)


@pytest.mark.parametrize("max_connections", [1, 2])
def test_fewer_connections(kite: Kite, new_service: NewService, begin: Begin, max_connections: int):
    """What is not ours is never opened: full mode goes to the primary if need be, the spare is refused in words."""
    service = new_service(
        kite={"ws_url": kite.url, "max_connections": max_connections}, universe={"primary": [A], "secondary": [B]}
    )
    full = max_connections
    client = begin(service)
    assert client.subscribe([C], "full").connections == {str(full): 1}
    for connection_id in range(max_connections + 1, 4):
        with pytest.raises(RequestRefusedError, match=f"connection {connection_id} is not in use"):
            client.subscribe([D], connection_id=connection_id)
    with pytest.raises(RequestRefusedError, match="connection 3 is not in use"):
        client.mirror()
    client.set_mode([A], "full")
    assert recorded(client) == dict.fromkeys([A, B, C], (full, "full"))
    states = [c.state for c in client.connections().values()]
    kite.until_on_the_wire(dict.fromkeys([A, B, C], "full"))
    assert states[max_connections:] == ["off"] * (3 - max_connections)
    assert len(kite.connections()) == max_connections
    assert service.stop() == 0


def test_a_full_connection_refuses(kite: Kite, new_service: NewService, begin: Begin):
    """The 3,001st, with what was requested and what there is room for; the server never has more on a connection."""
    service = new_service(universe={"primary": row(0x100001, CAPACITY - 1), "secondary": [B]})
    kite.load(2000)
    client = begin(service)
    assert outcome(lambda: client.call("subscribe", tokens=[A, C, A])) == no_room(1, requested=2, available=1)
    client.subscribe([A])
    with pytest.raises(CapacityError, match=r"connection 1 has room for 0 more instruments, requested are 1"):
        client.subscribe([C])
    assert outcome(lambda: client.call("set_mode", tokens=[B], mode="ltp")) == no_room(1, 1, 0)
    assert outcome(lambda: client.call("set_mode", tokens=[C], mode="ltp", subscribe_unknown=True)) == no_room(1, 1, 0)
    many = row(0x400001, CAPACITY)
    assert outcome(lambda: client.call("subscribe", tokens=many, mode="full")) == no_room(2, 3000, 2999)
    with pytest.raises(AlreadySubscribedError, match=rf"{A} \(connection 1, quote\), {B} \(connection 2, full\)"):
        client.subscribe([C, A, B])
    assert len(recorded(client)) == CAPACITY + 1
    leaving, coming = row(0x100001, 10), row(0x200001, 10)
    with Raw(service.run_dir) as raw:
        raw.ask("set_mode", {"tokens": leaving, "mode": "full"})
        raw.ask("subscribe", {"tokens": coming})  # while there is no room yet
        assert ["result" in raw.answer() for _ in range(2)] == [True, True]
    staying = [A, *row(0x100001, CAPACITY - 1)[10:]]
    kite.until_on_the_wire(dict.fromkeys([*staying, *coming], "quote"), dict.fromkeys([B, *leaving], "full"))
    assert {connection["most"] for connection in kite.connections()} == {CAPACITY, 11}
    assert kite.tell("report")["uncovered"] == []
    end(kite, service)


def no_room(connection_id: int, requested: int, available: int) -> dict[str, Any]:
    """Return the details of a refusal."""
    return {"kind": "capacity", "connection_id": connection_id, "requested": requested, "available": available}


def test_overflow_spills(kite: Kite, new_service: NewService, begin: Begin):
    """Where that is wished for, the other connection takes what finds no room, but not where one was named."""
    service = new_service(universe={"overflow": "spill", "primary": row(0x100001, CAPACITY - 10)})
    client = begin(service)
    more, many = row(0x200001, 20), row(0x400001, CAPACITY)
    assert client.subscribe(more).connections == {"1": 10, "2": 10}
    assert outcome(lambda: client.call("subscribe", tokens=[A], connection_id=1)) == no_room(1, 1, 0)
    assert outcome(lambda: client.call("subscribe", tokens=many)) == no_room(1, 3000, 2990)
    assert client.set_mode(more, "ltp").connections == {"1": 10, "2": 10}
    first = dict.fromkeys(row(0x100001, CAPACITY - 10), "quote") | dict.fromkeys(more[:10], "ltp")
    kite.until_on_the_wire(first, dict.fromkeys(more[10:], "ltp"))
    assert service.stop() == 0


def test_mirrored_instruments_are_recorded_twice(kite: Kite, new_service: NewService, begin: Begin):
    """On connections 1 and 3, whatever comes and goes and whoever is killed; both copies are stored, told apart."""
    service = new_service(universe={"primary": [A, B]})
    kite.load(2000)
    client = begin(service)
    change = client.mirror()
    assert (change.instruments, change.connections) == ([A, B], {"3": 2})
    until(lambda: {(t["instrument_token"], t["connection_id"]) for t in service.ticks()} >= {(A, 3), (B, 3)}, "copies")
    client.subscribe([C], "ltp")
    client.unsubscribe([B])
    mirrored = {A: "quote", C: "ltp"}
    kite.until_on_the_wire(mirrored, mirrored)
    assert all(i.mirrored and i.connection_id == 1 for i in client.instruments())
    service.kill("supervisor")
    service.start()
    service.wait_until_settled()
    kite.until_on_the_wire(mirrored, mirrored)
    with pytest.raises(RequestRefusedError, match="mirrors connection 1"):
        client.subscribe([D], connection_id=3)
    ticks = service.stored()
    until(lambda: service.stored() > ticks + 500, "both are recorded")
    client.mirror(False)
    kite.until_on_the_wire(mirrored)
    assert client.connections()["3"].state == "standby"
    assert len(kite.connections()) == 2
    end(kite, service)
    copies = Counter((tick["instrument_token"], tick["connection_id"]) for tick in service.ticks())
    assert copies.keys() == {(token, c) for token in (A, B, C) for c in (1, 3)}


# Figures and traces.


def test_answers_come_soon(kite: Kite, new_service: NewService, begin: Begin):
    """With 3,000 instruments subscribed: how soon `subscribe` is answered, and how many a second; both are printed."""
    service = new_service(universe={"primary": row(0x100001, CAPACITY - 10)})
    kite.load(2000)
    number = round(60 * SCALE)
    client = begin(service)
    client.subscribe([B], "full")
    times = []
    for token in row(0x200001, number):
        began_s = time.monotonic()
        assert client.subscribe([token], "full").instruments == [token]
        times.append((time.monotonic() - began_s) * 1000)

    def ask(first: int) -> int:
        with Client(service.run_dir) as client:
            for _ in range(number):
                client.subscribe([first], "full")
                client.unsubscribe([first])
        return 2 * number

    began_s = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        asked = sum(threads.map(ask, [0x400001, 0x500001, 0x600001, 0x700001]))
    rate = asked / (time.monotonic() - began_s)
    median, slow = statistics.median(times), statistics.quantiles(times, n=20)[-1]
    print(f"subscribe: {median:.1f} ms median, {slow:.1f} ms 95 %; {rate:.0f} requests/s")  # noqa: T201  the figures
    assert service.stop() == 0


def test_history_tells_who_asked_for_what(new_service: NewService, begin: Begin):
    """From the universe, the command line and Python, refusals included; after a restart, too, and in the event log."""
    service = new_service(universe={"primary": [A], "secondary": [B]})
    client = begin(service)
    assert service.mds("subscribe", str(C), str(C), "--mode", "ltp").returncode == 0
    assert service.mds("subscribe", str(A), str(D)).returncode == 1
    client.set_mode([C, A], "full")
    with pytest.raises(NotSubscribedError):
        client.unsubscribe([C, D])
    client.mirror()
    client.unsubscribe_all()
    expected = [
        ("subscribe", "universe", [A], "quote", {"1": 1}, "done"),
        ("subscribe", "universe", [B], "full", {"2": 1}, "done"),
        ("subscribe", "cli", [C], "ltp", {"1": 1}, "done"),
        ("subscribe", "cli", [A, D], "quote", {}, "refused"),
        ("set_mode", "client", [C, A], "full", {"2": 2}, "done"),
        ("unsubscribe", "client", [C, D], None, {}, "refused"),
        ("mirror", "client", [], None, {}, "done"),
        ("unsubscribe", "client", [A, B, C], None, {"2": 3}, "done"),
    ]

    def told(entry: HistoryEntry) -> tuple[Any, ...]:
        return entry.action, entry.by, entry.instruments, entry.mode, entry.connections, entry.result

    history = client.history()
    assert [told(entry) for entry in history] == expected
    assert [f"{A} (connection 1, quote)" in entry.reason for entry in history] == [n == 3 for n in range(8)]
    assert [entry.timestamp for entry in history] == sorted(entry.timestamp for entry in history)
    assert len(client.history(limit=3)) == 3
    for end_it in (lambda: service.kill("supervisor"), service.stop):
        end_it()
        service.start()
        service.wait_until_settled()
        until(lambda: len(client.history()) >= len(history), "the history is known again")
        assert client.history() == history
    assert service.stop() == 0
    names = HistoryEntry.model_fields
    logged = [{name: e[name] for name in names if name in e} for e in service.events("request")]
    assert [HistoryEntry.model_validate(entry) for entry in logged] == history
