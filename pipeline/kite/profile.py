"""Whether Kite takes an access token, asked over REST: a connect may be refused for other reasons, too."""

import logging
import threading
from http import HTTPStatus
from queue import Empty, SimpleQueue
from typing import Any

log = logging.getLogger(__name__)

TIMEOUT_S = 7.0  # the official client's


def is_accepted(api_url: str, api_key: str, access_token: str, timeout_s: float = TIMEOUT_S) -> bool | None:
    """Return True where Kite takes the token, False where it refuses it, None where nobody can tell.

    Nobody can tell while Kite cannot be reached, has failed, is asked too often, or is not what answers. Blocks, in all
    for `timeout_s` at most; never raises. Trusts the certificates and goes through the proxies that requests would.
    Imports kiteconnect, and Twisted's reactor with it: in a worker, after `pipeline.kite.feed.install_reactor`.
    """
    answers: SimpleQueue[bool | None] = SimpleQueue()

    def ask() -> None:
        answers.put(_ask(api_url, api_key, access_token, timeout_s))

    # A timeout of requests is one for each address, and for each read, and a name server has one of its own. A daemon:
    # the end of the process does not wait for any of them.
    try:
        threading.Thread(target=ask, name="profile", daemon=True).start()
        return answers.get(timeout=timeout_s)
    except (Empty, RuntimeError) as error:  # RuntimeError: there can be no more threads
        _log(error)
        return None


def _ask(api_url: str, api_key: str, access_token: str, timeout_s: float) -> bool | None:
    from kiteconnect import KiteConnect  # noqa: PLC0415  imports the reactor
    from kiteconnect.exceptions import KiteException, TokenException  # noqa: PLC0415  as above

    try:
        client = KiteConnect(api_key, access_token, root=api_url, timeout=timeout_s)
        with client.reqsession as session:
            session.auth = _as_it_is
            profile = client.profile()
    except KiteException as error:
        if isinstance(error, TokenException) or error.code == HTTPStatus.FORBIDDEN:
            return False
        _log(error)
    except Exception as error:  # noqa: BLE001  the client raises anything where an answer is not Kite's
        _log(error)
    else:
        return True if isinstance(profile, dict) and profile.get("user_id") else None
    return None


def _as_it_is(request: Any) -> Any:
    """Leave the Authorization header alone: without this, requests replaces it by what ~/.netrc has for the host."""
    return request


def _log(error: Exception) -> None:
    """Name the kind of error alone: in its text may be the header with the token."""
    log.warning("Kite's REST API does not tell whether the access token is good: %s", type(error).__name__)
