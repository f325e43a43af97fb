"""Asking a running service, from Python and from the commands."""

import itertools
import signal
import time
from collections.abc import Callable, Iterable
from operator import index
from pathlib import Path
from typing import Any, Literal

import orjson
import zmq
from pydantic import TypeAdapter

from pipeline.config import Mode
from pipeline.errors import ControlError, NotRunningError, refusal
from pipeline.requests import Change, HistoryEntry, Restarted
from pipeline.role import SUPERVISOR, endpoint, read_holder
from pipeline.status import (
    ConnectionStatus,
    HealthResponse,
    InstrumentPage,
    InstrumentSubscription,
    Metrics,
    Overview,
    Series,
    Status,
    Storage,
)
from pipeline.wire import CONTROL_SOCKET

TIMEOUT_S = 5.0
RESTART_S = 30.0  # a worker hands on all it has before it ends
POLL_S = 0.05

Wait = Callable[["zmq.Socket[bytes]", float], bool]  # tells whether something has come within so many seconds

_CONNECTIONS = TypeAdapter(dict[str, ConnectionStatus])
_INSTRUMENTS = TypeAdapter(list[InstrumentSubscription])
_HISTORY = TypeAdapter(list[HistoryEntry])


def poll(socket: "zmq.Socket[bytes]", timeout_s: float) -> bool:
    """Wait for an answer, and for nothing else."""
    return bool(socket.poll(int(timeout_s * 1000)))


class Client:
    """A connection to the control socket in a run folder. A context manager; not thread-safe.

    Every method raises NotRunningError where no service answers, and ControlError where it answers with an error. What
    changes something raises one of RequestRefusedError: then nothing has changed at all.

    `wait` may do other things until an answer comes, and may raise: then the request is given up.
    """

    def __init__(
        self,
        run_dir: Path | str = "run",
        timeout_s: float = TIMEOUT_S,
        *,
        by: Literal["cli", "client"] = "client",
        wait: Wait = poll,
    ) -> None:
        self._run_dir = Path(run_dir).absolute()
        self._by = by
        self._lock = self._run_dir / f"{SUPERVISOR}.lock"
        self._timeout_s = timeout_s
        self._wait = wait
        self._ids = itertools.count(1)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the socket."""
        self._context.destroy(linger=0)

    def status(self) -> Status:
        """Return everything that is known of the service."""
        return Status.model_validate(self.call("status"))

    def health(self) -> HealthResponse:
        """Tell whether everything that is subscribed is being recorded, and if not, why."""
        return HealthResponse.model_validate(self.call("health"))

    def connections(self) -> dict[str, ConnectionStatus]:
        """Return the three connections, keys "1", "2" and "3"."""
        return _CONNECTIONS.validate_python(self.call("connections"))

    def instruments(self) -> list[InstrumentSubscription]:
        """Return the subscribed instruments."""
        return _INSTRUMENTS.validate_python(self.call("instruments"))

    def instrument(self, token: int | str) -> InstrumentSubscription:
        """Return one subscribed instrument. Raises NotSubscribedError."""
        return InstrumentSubscription.model_validate(self.call("instrument", token=token))

    def find_instruments(self, **wanted: Any) -> InstrumentPage:
        """Return a page of the instruments that fulfil all of `wanted`, the fields of `FindParams`."""
        return InstrumentPage.model_validate(self.call("find_instruments", **wanted))

    def overview(self, after: int = 0) -> Overview:
        """Return everything but the instruments; of the notices those with a number above `after`."""
        return Overview.model_validate(self.call("overview", after=after))

    def series(self) -> Series:
        """Return the figures of the last minutes, one a second."""
        return Series.model_validate(self.call("series"))

    def storage(self) -> Storage:
        """Return what the writer does."""
        return Storage.model_validate(self.call("storage"))

    def metrics(self) -> Metrics:
        """Return counts and rates."""
        return Metrics.model_validate(self.call("metrics"))

    def history(self, limit: int = 100) -> list[HistoryEntry]:
        """Return the latest changes that were asked for, oldest first."""
        return _HISTORY.validate_python(self.call("history", limit=limit))

    def subscribe(self, tokens: Iterable[int | str], mode: Mode = "quote", connection_id: int | None = None) -> Change:
        """Subscribe instruments on the connection that is for this mode, or on the one that is named.

        They are tokens or symbols, here and wherever a method takes `tokens`. Raises AlreadySubscribedError,
        CapacityError, and as all of these UnknownSymbolError.
        """
        return self._change("subscribe", tokens=_words(tokens), mode=mode, connection_id=connection_id)

    def unsubscribe(self, tokens: Iterable[int | str], *, ignore_unknown: bool = False) -> Change:
        """Unsubscribe instruments. Raises NotSubscribedError, unless unknown ones are to be passed over."""
        return self._change("unsubscribe", tokens=_words(tokens), ignore_unknown=ignore_unknown)

    def unsubscribe_all(self) -> Change:
        """Unsubscribe everything."""
        return self._change("unsubscribe_all")

    def set_mode(self, tokens: Iterable[int | str], mode: Mode, *, subscribe_unknown: bool = False) -> Change:
        """Give instruments a mode, and move them to the connection that is for it, with no moment uncovered.

        Raises NotSubscribedError, unless those are to be subscribed, and CapacityError.
        """
        return self._change("set_mode", tokens=_words(tokens), mode=mode, subscribe_unknown=subscribe_unknown)

    def mirror(self, on: bool = True) -> Change:
        """Let connection 3 record what connection 1 records as well, or end that."""
        return self._change("mirror", on=on)

    def failover(self, connection_id: int) -> Change:
        """Let the spare carry what a connection has, with no moment uncovered."""
        return self._change("failover", connection_id=connection_id)

    def failback(self, connection_id: int | None = None) -> Change:
        """Give back what the spare carries for this connection, or for both."""
        return self._change("failback", connection_id=connection_id)

    def restart(self, role: str) -> Restarted:
        """End a process in order and start it anew."""
        return Restarted.model_validate(self._ask("restart", {"role": role}, RESTART_S))

    def shutdown(self, timeout_s: float = 15.0) -> bool:
        """Ask the service to end, and wait until it has; False if it is still ending after `timeout_s`."""
        self.call("shutdown")
        give_up_s = time.monotonic() + timeout_s
        while read_holder(self._lock) is not None:
            if time.monotonic() >= give_up_s:
                return False
            time.sleep(POLL_S)
        return True

    def call(self, method: str, **params: Any) -> Any:
        """Return the result of one request as it came."""
        return self._ask(method, params, self._timeout_s)

    def _ask(self, method: str, params: dict[str, Any], timeout_s: float) -> Any:
        if read_holder(self._lock) is None:
            raise NotRunningError(f"no service is running in {self._run_dir}; start one with: mds run")
        request_id = next(self._ids)
        try:
            request = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
        except orjson.JSONEncodeError as error:
            raise ControlError(f"{method} cannot be sent: {error}") from None
        socket = self._connected()
        socket.send(request)
        while self._wait(socket, timeout_s):
            response = orjson.loads(socket.recv())
            if response["id"] != request_id:  # an answer to a request that was given up
                continue
            if "error" in response:
                message, details = response["error"]["message"], response["error"].get("data")
                raise refusal(message, details) if details else ControlError(message)
            return response["result"]
        raise NotRunningError(f"the service in {self._run_dir} does not answer")

    def _change(self, method: str, **params: Any) -> Change:
        return Change.model_validate(self.call(method, by=self._by, **params))

    def _connected(self) -> "zmq.Socket[bytes]":
        if self._socket is None:
            # Left half-made by Ctrl-C it would be nobody's, and the end of its context would wait for it for ever.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._socket = self._context.socket(zmq.DEALER)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._socket.connect(endpoint(self._run_dir, CONTROL_SOCKET))
        return self._socket


def _words(tokens: Iterable[int | str]) -> list[int | str]:
    """Return tokens as plain numbers, of whatever library they are, and symbols as they are."""
    return [token if isinstance(token, str) else index(token) for token in tokens]
