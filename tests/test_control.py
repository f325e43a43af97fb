"""Requests on the control socket: any bytes in, one JSON-RPC response out."""

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, RootModel

from pipeline.errors import CapacityError, ControlError
from pipeline.supervisor.control import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    REFUSED,
    Method,
    answer,
)


def refuse(_):
    raise ControlError("connection 1 is full")


def fail(_):
    raise KeyError("a fault of ours")


def refuse_with_details(_):
    raise CapacityError("no room", {"requested": 2, "available": 1})


async def later(params):
    await asyncio.sleep(0)
    return params


class Numbers(RootModel[dict[str, int]]):
    """Parameters that are numbers."""


class Model(BaseModel):
    """A result."""

    model_config = ConfigDict(extra="allow")


Anything = RootModel[dict[str, Any]]
METHODS = {
    "echo": Method(Anything, lambda params: params.root),
    "numbers": Method(Numbers, lambda params: params.root),
    "refuse": Method(Anything, refuse),
    "details": Method(Anything, refuse_with_details),
    "fail": Method(Anything, fail),
    "later": Method(Anything, later),
    "models": Method(Anything, lambda _: [Model(a=1)]),
    "unwritable": Method(Anything, lambda _: {"what": object()}),
}


def ask(data):
    return orjson.loads(asyncio.run(answer(data, METHODS)))


def request(**changes):
    return orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"a": 1}} | changes)


@pytest.mark.parametrize("request_id", [0, 1, 2**63 - 1, "", "a"])
def test_a_result_carries_the_id_of_its_request(request_id):
    """A request gets its result under its own id."""
    assert ask(request(id=request_id)) == {"jsonrpc": "2.0", "id": request_id, "result": {"a": 1}}


def test_params_may_be_left_out():
    """A request without parameters has none."""
    assert ask(b'{"jsonrpc":"2.0","id":1,"method":"echo"}')["result"] == {}


@pytest.mark.parametrize(
    ("data", "request_id", "code", "word"),
    [
        (b"", None, PARSE_ERROR, "not JSON"),
        (b"{", None, PARSE_ERROR, "not JSON"),
        (b"\xff\xfe", None, PARSE_ERROR, "not JSON"),
        (b"[" * 100_000, None, PARSE_ERROR, "not JSON"),
        (b"x" * 2**20, None, PARSE_ERROR, "not JSON"),
        (b"null", None, INVALID_REQUEST, "request"),
        (b"1", None, INVALID_REQUEST, "request"),
        (b'"echo"', None, INVALID_REQUEST, "request"),
        (b"[]", None, INVALID_REQUEST, "request"),
        (b"[" + request() + b"]", None, INVALID_REQUEST, "request"),
        (b"{}", None, INVALID_REQUEST, "jsonrpc"),
        (b'{"jsonrpc":"2.0","method":"echo"}', None, INVALID_REQUEST, "id"),
        (request(id=None), None, INVALID_REQUEST, "id"),
        (request(id=1.5), None, INVALID_REQUEST, "id"),
        (request(id=True), None, INVALID_REQUEST, "id"),
        (request(id=[1]), None, INVALID_REQUEST, "id"),
        (request(jsonrpc="1.0"), 1, INVALID_REQUEST, "jsonrpc"),
        (request(jsonrpc=2), 1, INVALID_REQUEST, "jsonrpc"),
        (request(method=7), 1, INVALID_REQUEST, "method"),
        (request(params=[1, 2]), 1, INVALID_REQUEST, "params"),
        (request(params="a"), 1, INVALID_REQUEST, "params"),
        (request(extra=1), 1, INVALID_REQUEST, "extra"),
        (request(method="nonsense"), 1, METHOD_NOT_FOUND, "'nonsense'"),
        (request(method=""), 1, METHOD_NOT_FOUND, "echo"),
        (request(method="numbers", params={"a": "x"}), 1, INVALID_PARAMS, "a: Input should be a valid integer"),
        (request(method="refuse"), 1, REFUSED, "connection 1 is full"),
        (request(method="fail"), 1, INTERNAL_ERROR, "fail has failed"),
        (request(method="unwritable"), 1, INTERNAL_ERROR, "unwritable has failed"),
    ],
)
def test_what_is_wrong_is_told(data, request_id, code, word):
    """A request that cannot be carried out gets an error object with its code and words that name the cause."""
    response = ask(data)
    assert response["jsonrpc"] == "2.0"
    assert response["id"] == request_id
    assert response["error"]["code"] == code
    assert word in response["error"]["message"]
    assert "result" not in response


def test_a_method_may_take_its_time():
    """What is answered later is answered like the rest; models are answered as objects."""
    assert ask(request(method="later"))["result"] == {"a": 1}
    assert ask(request(method="models"))["result"] == [{"a": 1}]


def test_a_refusal_tells_a_program_why():
    """The details of a refusal are in the error object's data."""
    error = ask(request(method="details"))["error"]
    assert error["data"] == {"kind": "capacity", "requested": 2, "available": 1}
    assert (error["code"], error["message"]) == (REFUSED, "no room")


@pytest.mark.parametrize("changes", [{"method": "m" * 2**20}, {"k" * 2**20: 1}, {"params": "p" * 2**20}])
def test_a_large_request_gets_a_small_error(changes):
    """What was sent is not sent back at length."""
    assert len(orjson.dumps(ask(request(**changes)))) < 2000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
requests = st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "more"]), json_values).map(
    lambda some: {"jsonrpc": "2.0", "id": 1, "method": "numbers"} | some
)


@given(st.binary() | json_values.map(orjson.dumps) | requests.map(orjson.dumps))
def test_it_never_raises(data):
    """Whatever arrives, there is one response with either a result or an error."""
    response = ask(data)
    assert response["jsonrpc"] == "2.0"
    assert ("result" in response) != ("error" in response)
