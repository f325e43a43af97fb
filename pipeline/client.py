"""Asking a running service, from Python and from the commands."""

import itertools
import time
from pathlib import Path
from typing import Any

import orjson
import zmq

from pipeline.errors import ControlError, NotRunningError
from pipeline.role import SUPERVISOR, endpoint, read_holder
from pipeline.status import Status
from pipeline.wire import CONTROL_SOCKET

TIMEOUT_S = 5.0
POLL_S = 0.05


class Client:
    """A connection to the control socket in a run folder. A context manager; not thread-safe."""

    def __init__(self, run_dir: Path = Path("run"), timeout_s: float = TIMEOUT_S) -> None:
        self._run_dir = run_dir.absolute()
        self._lock = self._run_dir / f"{SUPERVISOR}.lock"
        self._timeout_ms = int(timeout_s * 1000)
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
        """Return the result of one request. Raises NotRunningError, or ControlError with the service's words."""
        if read_holder(self._lock) is None:
            raise NotRunningError(f"no service is running in {self._run_dir}; start one with: mds run")
        request_id = next(self._ids)
        socket = self._connected()
        socket.send(orjson.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}))
        while socket.poll(self._timeout_ms):
            response = orjson.loads(socket.recv())
            if response["id"] != request_id:  # an answer to a request that was given up
                continue
            if "error" in response:
                raise ControlError(response["error"]["message"])
            return response["result"]
        raise NotRunningError(f"the service in {self._run_dir} does not answer")

    def _connected(self) -> "zmq.Socket[bytes]":
        if self._socket is None:
            self._socket = self._context.socket(zmq.DEALER)
            self._socket.connect(endpoint(self._run_dir, CONTROL_SOCKET))
        return self._socket
