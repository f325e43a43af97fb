"""The control socket's requests: JSON-RPC 2.0 in, JSON-RPC 2.0 out. No socket; the supervisor owns it.

Every request is answered, so each has an id; batches are refused.

Source of the shapes and error codes: the JSON-RPC 2.0 specification.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import MdsError, RequestRefusedError

log = logging.getLogger(__name__)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
REFUSED = -32000  # understood, but the answer is no
REQUEST_BYTES = 2**21  # one with the most tokens has a tenth of it
SHOWN_CHARS = 200  # of a request, in the error that it gets


class Method(NamedTuple):
    """What a request may call: the model of its parameters, and what carries it out, at once or in a while."""

    params: type[BaseModel]
    call: Callable[[Any], Any | Awaitable[Any]]


class Request(BaseModel):
    """One request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    jsonrpc: Literal["2.0"]
    method: str
    params: dict[str, Any] = {}
    id: int | str


async def answer(data: bytes, methods: Mapping[str, Method]) -> bytes:
    """Carry out one request; return the response, whatever `data` is.

    Requests change things before they wait for anything, so they take effect in the order of the calls.
    """
    try:
        raw = orjson.loads(data if len(data) <= REQUEST_BYTES else b"")
    except ValueError as error:
        cause = f"not JSON: {error}" if len(data) <= REQUEST_BYTES else f"larger than {REQUEST_BYTES} bytes"
        return _error(None, PARSE_ERROR, cause)
    try:
        request = Request.model_validate(raw)
    except ValidationError as error:
        given = raw.get("id") if isinstance(raw, dict) else None
        return _error(given if type(given) in (int, str) else None, INVALID_REQUEST, _words(error))
    method = methods.get(request.method)
    if method is None:
        name = repr(request.method[:SHOWN_CHARS])
        return _error(request.id, METHOD_NOT_FOUND, f"no method {name}, known are {', '.join(methods)}")
    try:
        params = method.params.model_validate(request.params)
    except ValidationError as error:
        return _error(request.id, INVALID_PARAMS, _words(error))
    try:
        result = method.call(params)
        if isawaitable(result):
            result = await result
        return orjson.dumps({"jsonrpc": "2.0", "id": request.id, "result": result}, default=_plain)
    except RequestRefusedError as error:
        return _error(request.id, REFUSED, str(error), error.details)
    except MdsError as error:
        return _error(request.id, REFUSED, str(error))
    except Exception:  # a fault of ours must not end the supervisor, nor leave the question open
        log.exception("the request %r has failed", request.method)
        return _error(request.id, INTERNAL_ERROR, f"{request.method} has failed, the log of `mds run` tells why")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return orjson.Fragment(value.model_dump_json())
    raise TypeError(type(value).__name__)


def _error(request_id: int | str | None, code: int, message: str, details: Mapping[str, Any] | None = None) -> bytes:
    error = {"code": code, "message": message, **({"data": details} if details else {})}
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": error})


def _words(error: ValidationError) -> str:
    found = ((".".join(map(str, e["loc"]))[:SHOWN_CHARS] or "request", e["msg"]) for e in error.errors()[:5])
    return "; ".join(f"{place}: {text.removeprefix('Value error, ')}" for place, text in found)
