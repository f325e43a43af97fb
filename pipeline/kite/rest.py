"""Kite's REST API through the official client: logging in, whose a token is, and the list of instruments.

Every call blocks, for its time limit at most, and fails with KiteError and nothing else. No error or log line shows a
key, a secret or a token: what the client or a server has to say is shown only where it is Kite's own words, redacted.
Certificates are checked, and proxies taken, as requests does it; ~/.netrc has no say.

Calls import kiteconnect, and Twisted's reactor with it: in a worker, after `pipeline.kite.feed.install_reactor`.
"""

import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import SecretStr

from pipeline.credentials import SECRET_CHARS, token_fault
from pipeline.errors import MdsError
from pipeline.log import redact

log = logging.getLogger(__name__)

TIMEOUT_S = 7.0  # the official client's
LIST_TIMEOUT_S = 60.0  # for ten megabytes, in a slow moment of the morning
VERSION = "3"  # of the API
STATE = "state"  # the parameter that comes back with the redirect
MESSAGE_CHARS = 200  # of Kite's words

_WRONG_TOKEN = "Kite refuses the access token: log in with: mds login"  # noqa: S105  no token
_WRONG_LOGIN = (
    "Kite refuses the request token: it is good for a few minutes and once, and only with the API key that it was made "
    "for and that key's API secret; try again with: mds login"
)

_Result = TypeVar("_Result")


class KiteError(MdsError):
    """Kite cannot be reached, or its REST API has failed."""


class RefusedError(KiteError):
    """Kite does not take the token, or what is to be exchanged for one."""


class Session(NamedTuple):
    """What a login gives."""

    user_id: str
    user_name: str
    access_token: SecretStr
    login_time: str  # Kite's, in India: 2025-10-01 08:41:07


class Profile(NamedTuple):
    """Whose a token is."""

    user_id: str
    user_name: str


def login_url(login_url: str, api_key: str, state: str = "") -> str:
    """Return where a user logs in. Kite hands `state` back in the redirect that follows.

    The API key is part of it: Kite's page is told by it which app asks, and there is no other way.
    """
    parts = urlsplit(login_url)
    query = [*parse_qsl(parts.query), ("v", VERSION), ("api_key", api_key)]
    if state:
        query.append(("redirect_params", urlencode({STATE: state})))
    return parts._replace(query=urlencode(query)).geturl()


def exchange(api_url: str, api_key: str, request_token: str, api_secret: str, timeout_s: float = TIMEOUT_S) -> Session:
    """Return the session for the request token of a login. Kite takes each of them once."""

    def ask(client: Any) -> Session:
        found = client.generate_session(request_token, api_secret)
        token = found["access_token"]
        if token_fault(token):
            raise ValueError("no access token")
        return Session(_user_id(found), str(found.get("user_name") or ""), SecretStr(token), str(found["login_time"]))

    return _call(_Caller(api_url, api_key, None, timeout_s), ask, _WRONG_LOGIN, request_token, api_secret)


def profile(api_url: str, api_key: str, access_token: str, timeout_s: float = TIMEOUT_S) -> Profile:
    """Return whose the access token is. Raises RefusedError where Kite does not take it."""

    def ask(client: Any) -> Profile:
        found = client.profile()
        return Profile(_user_id(found), str(found.get("user_name") or ""))

    return _call(_Caller(api_url, api_key, access_token, timeout_s), ask, _WRONG_TOKEN)


def is_accepted(api_url: str, api_key: str, access_token: str, timeout_s: float = TIMEOUT_S) -> bool | None:
    """Return True where Kite takes the token, False where it refuses it, None where nobody can tell. Never raises.

    Nobody can tell while Kite cannot be reached, has failed, is asked too often, or is not what answers.
    """
    try:
        profile(api_url, api_key, access_token, timeout_s)
    except RefusedError:
        return False
    except KiteError as error:
        log.warning("nobody can tell whether the access token is good: %s", error)
        return None
    return True


def instruments(
    api_url: str, api_key: str, access_token: str, timeout_s: float = LIST_TIMEOUT_S
) -> list[dict[str, Any]]:
    """Return Kite's list of instruments, of all exchanges, as `KiteConnect.instruments` does."""

    def ask(client: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = client.instruments()
        return found

    return _call(_Caller(api_url, api_key, access_token, timeout_s), ask, _WRONG_TOKEN)


def _user_id(found: Mapping[str, Any]) -> str:
    user_id = found["user_id"]
    if not user_id:
        raise ValueError("nobody's")
    return str(user_id)


class _Caller(NamedTuple):
    """Who asks, and whom."""

    api_url: str
    api_key: str
    access_token: str | None
    timeout_s: float  # for all of a call


def _call(caller: _Caller, ask: Callable[[Any], _Result], refusal: str, *secrets: str) -> _Result:
    """Return what `ask` gets of the official client; `refusal` says what it means where Kite refuses it."""
    from kiteconnect import KiteConnect  # noqa: PLC0415  imports the reactor

    answers: SimpleQueue[_Result | Exception] = SimpleQueue()

    def work() -> None:
        try:
            client = KiteConnect(caller.api_key, caller.access_token, caller.api_url, timeout=caller.timeout_s)
            with client.reqsession as session:
                session.auth = _as_it_is
                answers.put(ask(client))
        except Exception as error:  # noqa: BLE001  the client raises anything where an answer is not Kite's
            answers.put(error)

    # A timeout of requests is one for each address, and for each read, and a name server has one of its own. A daemon:
    # the end of the process does not wait for any of them.
    answer: _Result | Exception
    try:
        threading.Thread(target=work, name="rest", daemon=True).start()
        answer = answers.get(timeout=caller.timeout_s)
    except Empty:
        answer = TimeoutError()
    except RuntimeError as error:  # there can be no more threads
        answer = error
    if not isinstance(answer, Exception):
        return answer
    host = _host(caller.api_url)
    words = _words(answer, [secret for secret in (caller.api_key, caller.access_token, *secrets) if secret])
    if _is_refusal(answer):
        raise RefusedError(f"{host}: {refusal}{words}")
    raise KiteError(f"{host}: {_cause(answer, caller.timeout_s)}{words}")


def _as_it_is(request: Any) -> Any:
    """Leave the Authorization header alone: without this, requests replaces it by what ~/.netrc has for the host."""
    return request


def _host(url: str) -> str:
    """Return host and port without what else is in a URL: it may be a password."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname or "kite.api_url"
    except ValueError:
        return "kite.api_url"


def _is_refusal(error: Exception) -> bool:
    from kiteconnect.exceptions import KiteException, TokenException  # noqa: PLC0415  imports the reactor

    return isinstance(error, TokenException) or (
        isinstance(error, KiteException) and error.code == HTTPStatus.FORBIDDEN
    )


def _cause(error: Exception, timeout_s: float) -> str:
    """Return the kind of failure. The text of the error is left alone: it may hold headers, URLs and whole answers."""
    import requests  # noqa: PLC0415  only who asks needs it
    from kiteconnect.exceptions import DataException, KiteException  # noqa: PLC0415  imports the reactor

    name = type(error).__name__
    kinds: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
        (
            requests.exceptions.SSLError,
            "no secure connection: its certificate is not trusted, or it does not speak TLS",
        ),
        (requests.exceptions.ProxyError, "the proxy of the environment (https_proxy) does not let us through"),
        ((TimeoutError, requests.exceptions.Timeout), f"no answer within {timeout_s:g} s; is the network up?"),
        (requests.exceptions.ConnectionError, "cannot be reached; is the network up?"),
        (requests.exceptions.RequestException, f"it cannot be asked ({name}); is kite.api_url right?"),
        (DataException, "what answers there is not Kite's API"),
        (KiteException, f"it has failed (HTTP {getattr(error, 'code', '?')}); try again later"),
        ((KeyError, TypeError, AttributeError, ValueError, RecursionError), "what answers there is not Kite's API"),
    )
    if "NameResolutionError" in str(error):  # of a library below requests, which wraps it several times
        return "there is no such host, or no name server answers; is the network up?"
    return next((text for kind, text in kinds if isinstance(error, kind)), f"it cannot be asked ({name})")


def _words(error: Exception, secrets: Iterable[str]) -> str:
    """Return what Kite has to say, in brackets; nothing where the words are the client's, which quotes answers."""
    from kiteconnect.exceptions import DataException, KiteException  # noqa: PLC0415  imports the reactor

    if not isinstance(error, KiteException) or isinstance(error, DataException):
        return ""
    said = redact(str(error), (secret for secret in secrets if len(secret) >= SECRET_CHARS))
    said = re.sub(r"[^\x20-\x7e]+", " ", said)[:MESSAGE_CHARS].strip()
    return f" (it says: {said})" if said else ""
