"""HTTP answers of the simulator, in JSON or not, in Kite's form or not. Pure."""

from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final

import orjson
from websockets.datastructures import Headers
from websockets.http11 import Response

_ERRORS: Final = {  # what Kite says of a request that it does not carry out
    400: ("InputException", "Invalid request"),
    403: ("TokenException", "Incorrect `api_key` or `access_token`."),
    404: ("GeneralException", "Route not found"),
    405: ("GeneralException", "Method not allowed"),
    429: ("NetworkException", "Too many requests"),
    503: ("NetworkException", "The service is not available"),
}


def answer(status: int, body: bytes, content_type: str, **headers: str) -> Response:
    """Return an answer, after which the connection is closed."""
    fields = {
        "Date": formatdate(usegmt=True),
        "Connection": "close",
        "Content-Length": str(len(body)),
        "Content-Type": content_type,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return Response(status, HTTPStatus(status).phrase, Headers(fields), body)


def json(value: Any, status: int = HTTPStatus.OK) -> Response:
    """Return an answer in JSON."""
    return answer(status, orjson.dumps(value) + b"\n", "application/json")


def success(data: Any) -> Response:
    """Return an answer in the form that Kite's have."""
    return json({"status": "success", "data": data})


def error(status: int, message: str = "") -> Response:
    """Return an error in the form that Kite's have, with the text that is usual where there is none."""
    kind, usual = _ERRORS[status]
    return json({"status": "error", "message": message or usual, "data": None, "error_type": kind}, status)
