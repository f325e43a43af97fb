"""Whose credentials are good, and how a login comes to an access token, as Kite has it. Pure: `now_s` is handed in.

    login(api_key) -> request_token        five minutes, used once
    exchange(api_key, request_token, sha256(api_key + request_token + api_secret)) -> access_token

Any access token is good, except those that are always refused; or, where the simulator has credentials of its own,
only these. One that was issued here is good with its API key, until it is invalidated. `expire` is the morning: all
that were good until then are not.
"""

import hashlib
import re
import secrets
from string import ascii_letters, digits
from typing import Final

REFUSED_TOKENS: Final = ("expired", "invalid")  # access tokens that are always refused
LOGIN_S: Final = 300.0  # for which a request token is good
_TOKEN_CHARS: Final = 32
_CHECKSUM: Final = re.compile(r"[0-9a-f]{64}")


class TokenError(Exception):
    """A session was asked for with what does not give one."""


class Accounts:
    """What is good now. Of `api_key` and `access_token` both are given or neither counts."""

    def __init__(self, api_key: str = "", access_token: str = "", api_secret: str = "") -> None:
        is_own = bool(api_key and access_token)
        self._api_key = api_key if is_own else ""
        self._api_secret = api_secret
        self._accepted: set[str] | None = {access_token} if is_own else None  # None: any that is not refused
        self._refused = set(REFUSED_TOKENS)
        self._issued: dict[str, str] = {}  # access tokens, with their API key
        self._logins: dict[str, tuple[str, float]] = {}  # request tokens, with their API key, and until when

    def is_known(self, api_key: str) -> bool:
        """Tell whether there is such an app."""
        return bool(api_key) and self._api_key in ("", api_key)

    def is_good(self, api_key: str, access_token: str) -> bool:
        """Tell whether feed and REST API take these."""
        if not self.is_known(api_key) or not access_token or access_token in self._refused:
            return False
        if access_token in self._issued:
            return self._issued[access_token] == api_key
        return self._accepted is None or access_token in self._accepted

    def login(self, api_key: str, now_s: float) -> str:
        """Return the request token of a user who has logged in to a known app."""
        self._logins = {token: login for token, login in self._logins.items() if login[1] > now_s}
        token = new_token()
        self._logins[token] = (api_key, now_s + LOGIN_S)
        return token

    def exchange(self, api_key: str, request_token: str, checksum: str, now_s: float) -> str:
        """Return a new access token for a request token, which is used up by that. Raises TokenError."""
        owner, until_s = self._logins.get(request_token, ("", 0.0))
        if owner != api_key or until_s <= now_s:
            raise TokenError("Token is invalid or has expired.")
        text = api_key + request_token + self._api_secret
        right = hashlib.sha256(text.encode()).hexdigest() if self._api_secret else checksum
        if checksum != right or not _CHECKSUM.fullmatch(checksum):
            raise TokenError("Invalid `checksum`.")
        del self._logins[request_token]
        token = new_token()
        self._issued[token] = api_key
        return token

    def invalidate(self, access_token: str) -> None:
        """Refuse an access token from now on."""
        self._refused.add(access_token)

    def expire(self, accept: str = "") -> None:
        """Refuse what was good until now; `accept` is good from now on, besides what will be issued."""
        self._issued.clear()
        self._accepted = {accept} - {""}
        self._refused.discard(accept)


def new_token() -> str:
    """Return 32 letters and digits that nobody can guess."""
    return "".join(secrets.choice(ascii_letters + digits) for _ in range(_TOKEN_CHARS))
