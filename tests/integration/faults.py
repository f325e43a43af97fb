"""Random faults: whatever can happen to a running recorder, several things at a time, while requests go on.

Processes are killed or stopped, sockets are closed or half-open, connects are refused, and people ask for changes. What
is subscribed by then is followed from the answers, so that it is known at any moment what should have been recorded.
"""

import contextlib
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any

from pipeline.client import Client
from pipeline.errors import MdsError, NotRunningError
from tests.integration.drills import (
    CHILDREN,
    HOMES,
    PRIMARY,
    SECONDARY,
    WORKERS,
    Figures,
    Span,
    begin,
    end,
    figures,
    spans_by_token,
)
from tests.integration.kite import Kite
from tests.integration.service import Raw, Service, pairs, until

SHORT_PAUSE_S, LONG_PAUSE_S, SELDOM = 1.2, 12.0, 0.05  # between random faults, at most
HOME_S = 90.0  # until all are home: a process may be restarted, or a socket tried, only after some ten seconds
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("failover", {"connection_id": 1}),
    ("failover", {"connection_id": 2}),
    ("failback", {}),
    ("mirror", {"on": True}),
    ("mirror", {"on": False}),
    ("restart", {"role": "worker-1"}),
    ("restart", {"role": "worker-2"}),
    ("restart", {"role": "worker-3"}),
    ("restart", {"role": "writer"}),
]


def random_faults(kite: Kite, service: Service, faults: Iterable[int], *, chance: random.Random, rate: int) -> Figures:
    """Let whatever can happen happen, several things at a time, while requests go on; then lift all and look."""
    begin(kite, service, rate, frame=10)
    subscribed = Subscribed()
    drill = Faults(kite, service, chance, subscribed)
    began_s = time.monotonic()
    with drill:
        for _ in faults:
            drill.strike()
            drill.go_on(at_most_s=LONG_PAUSE_S if chance.random() < SELDOM else SHORT_PAUSE_S)
    drill.wait_until_home()
    duration_s = time.monotonic() - began_s
    running = service.processes()
    assert len(running) == 1 + len(CHILDREN), f"not one process for each role: {running}"
    recording = end(kite, service, cut=drill.cut, wanted=subscribed.spans(spans_by_token(kite)))
    left = list(service.spool_dir.iterdir())
    assert left == [], f"left in the spool: {left}"
    return figures(kite, service, recording, kills=drill.kills, duration_s=duration_s, faults=drill.counts)


class Subscribed:
    """What is subscribed: a plain model of the requests that were carried out, and since when it is so.

    While nobody knows whether a request was carried out, its instruments count as not subscribed.
    """

    def __init__(self) -> None:
        self.modes: dict[int, str] = {token: mode for home in HOMES.values() for token, mode in home.items()}
        self._since_ns = dict.fromkeys(self.modes, time.time_ns())
        self._over: list[tuple[int, Span]] = []
        self._under_way: set[tuple[int, int]] = set()  # token and since when: sent, the server will read it

    def drop(self, tokens: Iterable[int], at_ns: int) -> None:
        """Take note that these may be subscribed no longer."""
        self._over += [(t, (self._since_ns.pop(t), at_ns)) for t in tokens if t in self._since_ns]

    def set(self, modes: Mapping[int, str], *, is_under_way: bool) -> None:
        """Take note of what is subscribed now; what is new may be on its way to the server."""
        now_ns = time.time_ns()
        self.drop([token for token in self._since_ns if token not in modes], now_ns)
        self.modes = dict(modes)
        if is_under_way:
            self._under_way |= {(token, now_ns) for token in modes if token not in self._since_ns}
        self._since_ns = dict.fromkeys(modes, now_ns) | self._since_ns

    def homes(self) -> list[dict[int, str]]:
        """Return what connections 1 and 2 should have."""
        both = [{t: m for t, m in self.modes.items() if (m == "full") == is_second} for is_second in (False, True)]
        return [home for home in both if home]

    def spans(self, on_wire: Mapping[int, Sequence[Span]]) -> dict[int, list[Span]]:
        """Return from when until when each instrument was subscribed, until now; `on_wire`: at the server."""
        spans: dict[int, list[Span]] = defaultdict(list)
        now_ns = time.time_ns()
        for token, (since_ns, to_ns) in [*self._over, *((t, (s, now_ns)) for t, s in self._since_ns.items())]:
            first_ns = since_ns
            if (token, since_ns) in self._under_way:
                first_ns = min((max(s, since_ns) for s, e in on_wire.get(token, []) if e > since_ns), default=to_ns)
            spans[token].append((first_ns, max(first_ns, to_ns)))
        return spans


class Faults:
    """Does what may happen to a recorder. A context manager: at its end everything is lifted."""

    def __init__(self, kite: Kite, service: Service, chance: random.Random, subscribed: Subscribed) -> None:
        self.kills: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()  # of everything else
        self.cut = 0  # sockets at most of which something may be lost
        self._ended_sockets: set[int] = set()  # reset, or half-open until that is noticed
        self._kite = kite
        self._service = service
        self._chance = chance
        self._subscribed = subscribed
        self._due: list[tuple[float, Callable[[], None]]] = []  # when what has to be done
        self._history = (service.folder / "faults.log").open("w")
        self._asking = ThreadPoolExecutor(1)
        self._changing: Future[None] | None = None
        self._asker = Raw(service.run_dir)
        self._kinds: dict[Callable[[], str], int] = {  # how often, in proportion
            self._kill: 8,
            self._kill_supervisor: 2,
            self._stop: 3,
            self._abort: 4,
            self._mute: 2,
            self._bar: 3,
            self._request: 9,
            self._change: 9,
        }

    def __enter__(self) -> "Faults":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._kite.tell("bar", how=None)
            while self._due:
                self.go_on(at_most_s=SHORT_PAUSE_S)
            if self._changing:
                self._changing.result()
        finally:
            self._asking.shutdown()
            self._asker.__exit__()
            self._history.close()

    def strike(self) -> None:
        """Do one thing."""
        kind = self._chance.choices(list(self._kinds), list(self._kinds.values()))[0]
        self._note(kind())

    def go_on(self, at_most_s: float) -> None:
        """Let a random time pass, mostly a short one; do what is due meanwhile."""
        until_s = time.monotonic() + at_most_s * self._chance.random() ** 2
        while (left_s := until_s - time.monotonic()) > 0:
            for due_s, do in sorted(self._due, key=lambda due: due[0]):
                if due_s <= time.monotonic():
                    self._due = [other for other in self._due if other[1] is not do]
                    do()
            time.sleep(min(left_s, 0.01))
        while self._asker.has_answer():
            self._asker.answer()

    def wait_until_home(self) -> None:
        """Undo what was asked for, and wait until all are where they belong and nothing is wrong any more."""
        until(lambda: self._ask_once(lambda client: (client.failback(), client.mirror(False))), "it is undone", HOME_S)
        until(lambda: not self._ended_sockets & self._open_sockets(), "half-open sockets are noticed", HOME_S)
        homes = [{str(t): mode for t, mode in home.items()} for home in self._subscribed.homes()]
        until(lambda: self._kite.on_the_wire() == sorted(homes, key=pairs), "the server has what is subscribed", HOME_S)
        until(lambda: self._service.mds("health").returncode == 0, "it is healthy", HOME_S)
        self._kite.until_on_the_wire(*self._subscribed.homes())
        with Client(self._service.run_dir) as client:
            found = {i.instrument_token: i.mode for i in client.instruments()}
        assert found == self._subscribed.modes, "other instruments are subscribed than was asked for"

    def _open_sockets(self) -> set[int]:
        return {connection["number"] for connection in self._kite.connections() if connection["open"]}

    def _note(self, what: str) -> None:
        self._history.write(f"{datetime.now().astimezone().isoformat()} {what}\n")
        self._history.flush()

    def _later(self, at_most_s: float, do: Callable[[], None]) -> float:
        in_s = at_most_s * self._chance.random()
        self._due.append((time.monotonic() + in_s, do))
        return in_s

    # Processes.

    def _kill(self) -> str:
        role = self._chance.choices(CHILDREN, (2, 2, 2, 2))[0]
        pid = self._signal(role, signal.SIGKILL)
        if pid is None:
            return f"(no {role} to kill)"
        self.kills[role] += 1
        self.cut += role != "writer"
        return f"kill {role} {pid}"

    def _signal(self, role: str, number: int) -> int | None:
        pid = self._service.pid(role)
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, number)
                return pid
        return None

    def _kill_supervisor(self) -> str:
        if not self._service.pid("supervisor"):
            return "(no supervisor to kill)"
        self._service.kill("supervisor")
        self.kills["supervisor"] += 1

        def follow() -> None:
            self._service.start()
            self._note("new supervisor")

        return f"kill supervisor, the next in {self._later(3.0, follow):.3f} s"

    def _stop(self) -> str:
        role = self._chance.choice(CHILDREN)
        pid = self._signal(role, signal.SIGSTOP)
        if pid is None:
            return f"(no {role} to stop)"
        self.counts["stopped"] += 1
        self.cut += role != "writer"

        def carry_on() -> None:
            if self._service.pid(role) == pid:
                self._signal(role, signal.SIGCONT)
                self._note(f"continue {role} {pid}")

        return f"stop {role} {pid} for {self._later(4.0, carry_on):.3f} s"

    # Sockets.

    def _abort(self) -> str:
        return self._end_socket("abort")

    def _mute(self) -> str:
        return self._end_socket("mute")

    def _end_socket(self, how: str) -> str:
        numbers = sorted(self._open_sockets())
        if not numbers:
            return f"(no socket to {how})"
        number = self._chance.choice(numbers)
        self._kite.tell(how, connection=number)
        self.counts[how] += 1
        self.cut += 1
        self._ended_sockets.add(number)
        return f"{how} socket {number}"

    def _bar(self) -> str:
        how = self._chance.choice([503, 429, "reset", "hang"])
        roles = self._chance.choice([["worker-1"], ["worker-2"], ["worker-3"], ["worker-1", "worker-2"], list(WORKERS)])
        is_for_all = len(roles) == len(WORKERS)
        pids = [pid for role in roles if (pid := self._service.pid(role))]
        self._kite.tell("bar", how=how, **({} if is_for_all else {"only": pids}))
        self.counts["barred"] += 1
        mine = self.counts["barred"]

        def lift() -> None:
            if self.counts["barred"] == mine:
                self._kite.tell("bar", how=None)
                self._note("lift the bar")

        return f"bar {how} {'all' if is_for_all else roles} for {self._later(8.0, lift):.3f} s"

    # Requests.

    def _request(self) -> str:
        """Ask for something, and do not wait: it may be refused, or nobody may be there."""
        method, params = self._chance.choice(REQUESTS)
        self._asker.ask(method, params)
        self.counts[method] += 1
        return f"{method} {params}"

    def _change(self) -> str:
        """Subscribe, unsubscribe, or change the mode of some, unless the last such request is still under way."""
        method = self._chance.choice(["subscribe", "unsubscribe", "set_mode"])
        mode = self._chance.choice(["quote", "full"])
        share = self._chance.random()
        if self._changing and not self._changing.done():
            return f"(the last change is under way, no {method})"
        if self._changing:
            self._changing.result()
        known = self._subscribed.modes
        tokens = [t for t in (*PRIMARY, *SECONDARY) if (t in known) == (method != "subscribe")]
        tokens = self._chance.sample(tokens, round(share * len(tokens) / 2))
        if not tokens:
            return f"(nothing to {method})"
        self._changing = self._asking.submit(self._carry_out, method, tokens, mode)
        self.counts[method] += 1
        return f"{method} {mode if method != 'unsubscribe' else ''} {tokens}"

    def _carry_out(self, method: str, tokens: list[int], mode: str) -> None:
        """Send a request; if nobody answers find out what has become of it."""
        before = self._subscribed.modes
        after = {t: m for t, m in before.items() if method != "unsubscribe" or t not in tokens}
        after |= dict.fromkeys(tokens, mode) if method != "unsubscribe" else {}
        if method == "unsubscribe":
            self._subscribed.drop(tokens, time.time_ns())
        params: dict[str, Any] = {"tokens": tokens} | ({"mode": mode} if method != "unsubscribe" else {})
        is_under_way = True
        try:
            with Client(self._service.run_dir) as client:
                is_under_way = client.call(method, **params)["confirmed"]
        except NotRunningError:
            found = self._what_is_subscribed()
            assert found in (before, after), f"neither carried out nor not: {method} {tokens}: {before} -> {found}"
            after = found
            self._note(f"no answer to {method}")
        self._note(f"{method} is carried out{'' if is_under_way else ', not confirmed'}")
        self._subscribed.set(after, is_under_way=is_under_way)

    def _what_is_subscribed(self) -> dict[int, str]:
        found: list[dict[int, str]] = []
        until(
            lambda: self._ask_once(lambda c: found.append({i.instrument_token: i.mode for i in c.instruments()})),
            "somebody answers",
            HOME_S,
        )
        return found[0]

    def _ask_once(self, ask: Callable[[Client], Any]) -> bool:
        """Ask for something; tell whether it was answered."""
        try:
            with Client(self._service.run_dir) as client:
                ask(client)
        except MdsError:
            return False
        return True
