"""The control socket's requests: JSON-RPC 2.0 in, JSON-RPC 2.0 out. Pure; the supervisor owns the socket.

Source of the shapes and error codes: the JSON-RPC 2.0 specification.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import MdsError

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
REFUSED = -32000  # understood, but the answer is no

Method = Callable[[dict[str, Any]], Any]


class Request(BaseModel):
    """One request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    jsonrpc: Literal["2.0"]
    method: str
    params: dict[str, Any] = {}
    id: int | str | None = None


def answer(data: bytes, methods: Mapping[str, Method]) -> bytes:
    """Carry out one request; return the response, whatever `data` is."""
    try:
        raw = orjson.loads(data)
    except ValueError as error:
        return _error(None, PARSE_ERROR, f"not JSON: {error}")
    try:
        request = Request.model_validate(raw)
    except ValidationError as error:
        given = raw.get("id") if isinstance(raw, dict) else None
        return _error(given if isinstance(given, (int, str)) else None, INVALID_REQUEST, _words(error))
    method = methods.get(request.method)
    if method is None:
        return _error(request.id, METHOD_NOT_FOUND, f"no method {request.method!r}, known are {', '.join(methods)}")
    try:
        result = method(request.params)
    except ValidationError as error:
        return _error(request.id, INVALID_PARAMS, _words(error))
    except MdsError as error:
        return _error(request.id, REFUSED, str(error))
    return orjson.dumps({"jsonrpc": "2.0", "id": request.id, "result": result})


def _error(request_id: int | str | None, code: int, message: str) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}})


def _words(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'request'}: {e['msg']}" for e in error.errors()[:5])
