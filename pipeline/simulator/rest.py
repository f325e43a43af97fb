"""The REST API, in the shapes of Kite's (https://kite.trade/docs/connect/v3/), as far as a recorder needs it.

    GET    /connect/login?v=3&api_key=K   for a browser: whoever comes is sent on with a request token
    GET    /redirect                      to here, unless simulator.redirect_url names another page
    POST   /session/token                 a request token and a checksum for an access token
    DELETE /session/token                 the access token is not good any more
    GET    /user/profile                  whose access token it is, and so whether it is good
    GET    /instruments[/EXCHANGE]        the list of the day, as CSV; for everyone
    GET    /quote/ltp?i=NSE:INFY&i=...    what they cost
    GET    /expire[?accept=TOKEN]         no access token is good any more but this one, and those that will be issued

No answer and no log line shows a key or a token, except those that are there to hand one over.
"""

import asyncio
import gzip
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlencode
from zoneinfo import ZoneInfo

from websockets.datastructures import Headers
from websockets.http11 import Response

from pipeline.config import Config
from pipeline.simulator import listing
from pipeline.simulator.accounts import Accounts, TokenError, new_token
from pipeline.simulator.answers import answer, error, success
from pipeline.simulator.connection import BODY_MAX
from pipeline.simulator.faults import Faults
from pipeline.simulator.market import SEGMENTS, TRADED, Market

log = logging.getLogger(__name__)

PROFILE: Final = {
    "user_id": "AB1234",
    "user_type": "individual",
    "email": "somebody@example.com",
    "user_name": "Somebody Made-up",
    "user_shortname": "Somebody",
    "broker": "ZERODHA",
    "exchanges": ["BFO", "BSE", "CDS", "MCX", "NFO", "NSE"],
    "products": ["CNC", "NRML", "MIS", "BO", "CO"],
    "order_types": ["MARKET", "LIMIT", "SL", "SL-M"],
    "avatar_url": None,
    "meta": {"demat_consent": "consent"},
}
QUOTES_MAX: Final = 1000  # instruments in one request, Kite's limit
_GZIP_LEVEL: Final = 1
_DIVISORS: Final = {segment.code: segment.divisor for segment in SEGMENTS.values()}
_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Logged in</title>
<p>You are logged in to the simulator. Copy the address of this page, or the request_token in it, to where it is asked
for. It is good for five minutes, once.</p></html>
"""


class Question(NamedTuple):
    """A request; `body` None could not be read."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: Headers
    body: bytes | None

    @property
    def credentials(self) -> tuple[str, str]:
        """API key and access token of the Authorization header, empty without."""
        scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
        key, _, token = credentials.partition(":") if scheme == "token" else ("", "", "")
        return key, token


_Handler = Callable[[Question], Response | Awaitable[Response]]


class Rest:
    """Answers what is asked of the REST API. `clock` are the seconds since the start, in which faults are timed."""

    def __init__(
        self, config: Config, accounts: Accounts, market: Market, faults: Faults, clock: Callable[[], float]
    ) -> None:
        self._settings = config.simulator
        self._zone = ZoneInfo(config.storage.timezone)
        self._accounts = accounts
        self._market = market
        self._faults = faults
        self._clock = clock
        self._profiles: Counter[int] = Counter()  # asked for, by the status of the answer
        self._sessions: Counter[int] = Counter()  # as above
        self._lists = 0
        self._listing: listing.Listing | None = None
        self._listing_is_made = asyncio.Lock()
        self._routes: dict[str, dict[str, _Handler]] = {
            "/connect/login": {"GET": self._log_in},
            "/redirect": {"GET": lambda _: answer(HTTPStatus.OK, _PAGE.encode(), "text/html; charset=utf-8")},
            "/session/token": {"POST": self._open_session, "DELETE": self._end_session},
            "/user/profile": {"GET": self._tell_profile},
            "/instruments": {"GET": self._list_instruments},
            "/quote/ltp": {"GET": self._tell_prices},
            "/expire": {"GET": self._expire},
        }

    @property
    def paths(self) -> list[str]:
        """What can be asked for."""
        return list(self._routes)

    def stats(self) -> dict[str, object]:
        """Return the part of `/stats` that is about REST."""
        return {
            "profiles": {str(status): number for status, number in self._profiles.items()},
            "sessions": {str(status): number for status, number in self._sessions.items()},
            "lists": self._lists,
        }

    async def answer(self, question: Question) -> Response | None:
        """Return the answer, or None to what is not asked of the REST API."""
        path = "/instruments" if question.path.startswith("/instruments/") else question.path
        if path not in self._routes:
            return None
        handler = self._routes[path].get(question.method)
        if handler is None:
            return error(405)
        given = handler(question)
        return given if isinstance(given, Response) else await given

    def _log_in(self, question: Question) -> Response:
        query = dict(question.query)
        key = query.get("api_key", "")
        if not self._accounts.is_known(key):
            return error(400, "Invalid `api_key`." if key else _missing("api_key"))
        token = self._accounts.login(key, self._clock())
        pairs = [("action", "login"), ("type", "login"), ("status", "success"), ("request_token", token)]
        pairs += parse_qsl(query.get("redirect_params", ""), keep_blank_values=True)
        url = self._settings.redirect_url or "/redirect"
        log.info("a user has logged in")
        where = f"{url}{'&' if '?' in url else '?'}{urlencode(pairs)}"
        return answer(HTTPStatus.FOUND, b"", "text/plain", Location=where)

    def _open_session(self, question: Question) -> Response:
        if question.body is None:
            return self._refuse_session(400, f"The form cannot be read: it needs a Content-Length up to {BODY_MAX}")
        fields = dict(parse_qsl(question.body.decode(errors="replace")))
        names = ("api_key", "request_token", "checksum")
        lacking = next((name for name in names if not fields.get(name)), None)
        if lacking is not None:
            return self._refuse_session(400, _missing(lacking))
        key, request_token, checksum = (fields[name] for name in names)
        try:
            token = self._accounts.exchange(key, request_token, checksum, self._clock())
        except TokenError as refusal:
            return self._refuse_session(403, str(refusal))
        self._sessions[HTTPStatus.OK] += 1
        log.info("session opened")
        tokens = {"access_token": token, "public_token": new_token(), "refresh_token": "", "enctoken": new_token()}
        now = datetime.now(self._zone).strftime("%Y-%m-%d %H:%M:%S")
        return success({**PROFILE, "api_key": key, **tokens, "login_time": now})

    def _refuse_session(self, status: int, message: str) -> Response:
        self._sessions[status] += 1
        log.warning("session refused with %d: %s", status, message)
        return error(status, message)

    def _end_session(self, question: Question) -> Response:
        query = dict(question.query)
        key, token = query.get("api_key", ""), query.get("access_token", "")
        if not self._accounts.is_good(key, token):
            return error(403, "Token is invalid or has expired.")
        self._accounts.invalidate(token)
        log.info("session ended: its access token is refused from now on")
        return success(data=True)

    def _tell_profile(self, question: Question) -> Response:
        fault = self._faults.find("profile", self._clock())
        status, reason = (200 if self._accounts.is_good(*question.credentials) else 403), "credentials"
        if fault is not None:
            status, reason = fault.value, "fault"
        self._profiles[status] += 1
        if status == HTTPStatus.OK:
            return success(PROFILE)
        log.warning("profile refused with %d: %s", status, reason)
        return error(status)

    async def _list_instruments(self, question: Question) -> Response:
        today = await self._list_of_today()
        exchange = question.path.removeprefix("/instruments").strip("/") or None
        if exchange not in (None, *today.exchanges):
            return error(400, "Invalid `exchange`.")
        self._lists += 1
        if "gzip" in question.headers.get("Accept-Encoding", ""):
            return answer(
                HTTPStatus.OK, await asyncio.to_thread(_packed, today, exchange), "text/csv", Content_Encoding="gzip"
            )
        return answer(HTTPStatus.OK, today.csv(exchange).encode(), "text/csv")

    async def _tell_prices(self, question: Question) -> Response:
        if not self._accounts.is_good(*question.credentials):
            return error(403)
        symbols = [value for name, value in question.query if name == "i"]
        if not 0 < len(symbols) <= QUOTES_MAX:
            return error(400, f"`i` is wanted, from once to {QUOTES_MAX} times")
        known = (await self._list_of_today()).tokens
        tokens = {symbol: known[symbol] for symbol in symbols if symbol in known}
        rows = self._market.rows(list(tokens.values()), int(time.time()))
        prices = self._market.packets(rows).view(TRADED)["last_price"]
        return success(
            {
                symbol: {"instrument_token": token, "last_price": int(price) / _DIVISORS[token & 0xFF]}
                for (symbol, token), price in zip(tokens.items(), prices, strict=True)
            }
        )

    def _expire(self, question: Question) -> Response:
        self._accounts.expire(dict(question.query).get("accept", ""))
        log.warning("every access token until now is refused from now on")
        return success(data=True)

    async def _list_of_today(self) -> listing.Listing:
        """Return the list of today, which is made once a day, beside the ticks."""
        today = datetime.now(self._zone).date()
        async with self._listing_is_made:
            if self._listing is None or self._listing.day != today:
                wanted = self._settings
                self._listing = await asyncio.to_thread(
                    listing.build, wanted.seed, today, wanted.instruments, wanted.listed
                )
        return self._listing


def _packed(today: listing.Listing, exchange: str | None) -> bytes:
    return gzip.compress(today.csv(exchange).encode(), _GZIP_LEVEL)


def _missing(name: str) -> str:
    return f"Missing or empty field `{name}`"
