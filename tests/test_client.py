"""The Python client, against a service that a test plays."""

import asyncio
import os
import signal
import threading
from typing import Any

import orjson
import pytest
import zmq
from pydantic import RootModel

from pipeline.client import Client
from pipeline.errors import ControlError, NotRunningError
from pipeline.role import Lock, endpoint
from pipeline.supervisor.control import Method, answer
from pipeline.wire import CONTROL_SOCKET

DEADLINE_MS = 20_000


def refuse(_):
    raise ControlError("connection 1 is full")


Anything = RootModel[dict[str, Any]]
METHODS = {"echo": Method(Anything, lambda params: params.root), "refuse": Method(Anything, refuse)}


@pytest.fixture
def run_dir(tmp_path):
    """A run folder with a supervisor's lock in it, as of a running service."""
    lock = Lock(tmp_path / "supervisor.lock")
    lock.acquire("hash")
    yield tmp_path
    lock.release()


@pytest.fixture
def serve(run_dir):
    """Answer the next requests, each with what the handler makes of it: a list of replies."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(endpoint(run_dir, CONTROL_SOCKET))
    threads = []

    def start(*handlers):
        def work():
            for handler in handlers:
                assert router.poll(DEADLINE_MS)
                client, request = router.recv_multipart()
                for reply in handler(request):
                    router.send_multipart([client, reply])

        threads.append(threading.Thread(target=work))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()
    context.destroy(linger=0)


def properly(request):
    return [asyncio.run(answer(request, METHODS))]


def test_results_come_back(run_dir, serve):
    """Each call returns the result of its own request."""
    serve(properly, properly)
    with Client(run_dir) as client:
        assert client.call("echo", token=408065) == {"token": 408065}
        assert client.call("echo") == {}


def test_a_refusal_is_an_error_with_the_service_s_words(run_dir, serve):
    """What the service says is what the caller is told; the connection can still be used."""
    serve(properly, properly, properly)
    with Client(run_dir) as client:
        with pytest.raises(ControlError, match=r"^connection 1 is full$"):
            client.call("refuse")
        with pytest.raises(ControlError, match="no method 'nonsense', known are echo, refuse"):
            client.call("nonsense")
        assert client.call("echo") == {}


def test_an_answer_that_comes_late_is_not_taken_for_the_next(run_dir, serve):
    """After a request was given up, its answer is passed over."""
    late = []

    def say_nothing(request):
        late.extend(properly(request))
        return []

    serve(say_nothing, lambda request: late + properly(request))
    with Client(run_dir, timeout_s=0.05) as client:
        with pytest.raises(NotRunningError, match="does not answer"):
            client.call("echo", number=1)
        client._timeout_s = DEADLINE_MS / 1000
        assert client.call("echo", number=2) == {"number": 2}


def test_no_service(tmp_path):
    """Without a holder of the supervisor's lock nothing is asked: one clear error, whatever the folder is."""
    (tmp_path / "file").touch()
    (tmp_path / "stale").mkdir()
    (tmp_path / "stale" / "supervisor.lock").write_bytes(orjson.dumps({"pid": os.getpid()}))
    for folder in ("none", "file", "stale"):
        with Client(tmp_path / folder) as client, pytest.raises(NotRunningError, match=r"no service is running in .*/"):
            client.call("status")


def test_a_service_that_hangs_is_told_apart(run_dir):
    """A held lock and no answer is a service that does not answer, not none."""
    with Client(run_dir, timeout_s=0.05) as client, pytest.raises(NotRunningError, match="does not answer"):
        client.call("status")


def test_ctrl_c_while_a_socket_is_made_leaves_none_behind(run_dir, monkeypatch):
    """The client can be closed then: a socket that nobody knows of would be waited for without an end."""

    def interrupted(context, kind):
        made = zmq.Socket(context, kind)
        signal.raise_signal(signal.SIGINT)
        context._add_socket(made)
        return made

    client = Client(run_dir)
    monkeypatch.setattr(zmq.Context, "socket", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:  # whose traceback keeps all that there was
        client.health()
    closing = threading.Thread(target=client.close, daemon=True)
    closing.start()
    closing.join(DEADLINE_MS / 1000)
    assert not closing.is_alive(), caught
