"""API key and access token: whether there are any, how old the token is, and whether Kite takes it.

No finding shows either of them.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from pydantic import SecretStr

from pipeline.config import Config
from pipeline.credentials import KITE_ZONE, StoredToken, TokenFile, character_fault, expires_at
from pipeline.doctor.finding import Check, Finding
from pipeline.doctor.task import Task
from pipeline.errors import ConfigError

AREA = "credentials"
API_KEY = Check(AREA, "api_key")
ACCESS_TOKEN = Check(AREA, "access_token")
TOKEN_AGE = Check(AREA, "token_age")
ACCEPTED = Check(AREA, "token_accepted")
ALL = (API_KEY, ACCESS_TOKEN, TOKEN_AGE, ACCEPTED)

VARIABLE, STORED = "KITE_ACCESS_TOKEN", "the stored token"  # where a token may be from
ASK_S = 5.0
LOGIN = "mds login (or mds token set, where you log in elsewhere)"
_NO_TOKEN = "without an access token mds run cannot begin"  # noqa: S105  a reason
_NO_NEXT = "a token is good for a day, and the next one cannot be stored"


class Credentials(NamedTuple):
    """What there is."""

    api_key: SecretStr  # of the environment, else the one that is stored with the token
    stored_key: SecretStr | None  # that the stored token was made for, where that is known
    variable: SecretStr  # the token of KITE_ACCESS_TOKEN
    path: str  # of the token file
    stored: StoredToken | None
    fault: str  # why the token file cannot be used
    unwritable: str  # why no other token can be stored

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that nothing may show."""
        stored = self.stored.access_token if self.stored else None
        known = (self.api_key, self.stored_key, self.variable, stored)
        return tuple(secret.get_secret_value() for secret in known if secret and secret.get_secret_value())


class Answer(NamedTuple):
    """What Kite says of a token."""

    source: str  # VARIABLE or STORED
    verdict: bool | None  # None: nobody can tell
    said: str  # whose it is, or why not


def gather(config: Config) -> Credentials:
    """Look what there is in the environment and in the token file."""
    stored, fault, unwritable = None, "", ""
    file = TokenFile(config.token_file)
    try:
        stored = file.read()
    except ConfigError as error:
        fault = str(error)
    try:
        file.try_folder()
    except ConfigError as error:
        unwritable = str(error)
    key = stored.api_key if stored else None
    api_key = config.api_key if config.api_key.get_secret_value() else key or SecretStr("")
    return Credentials(api_key, key, config.access_token, str(config.token_file), stored, fault, unwritable)


def ask(config: Config, found: Credentials) -> list[Answer]:
    """Ask Kite about each token that there is, about both at once."""
    tasks: dict[str, Task[Answer]] = {}
    for source, secret in ((VARIABLE, found.variable), (STORED, found.stored and found.stored.access_token)):
        token = secret.get_secret_value() if secret else ""
        if token and token not in tasks:
            tasks[token] = Task(partial(_ask, config, found.api_key, token, source))
    return [task.result(ASK_S + 1) for task in tasks.values()]


def _ask(config: Config, api_key: SecretStr, token: str, source: str) -> Answer:
    from pipeline.kite import rest  # noqa: PLC0415  imports the official client where it is called

    try:
        profile = rest.profile(config.kite.api_url, api_key.get_secret_value(), token, timeout_s=ASK_S)
    except rest.RefusedError as error:
        return Answer(source, False, str(error))
    except rest.KiteError as error:
        return Answer(source, None, str(error))
    return Answer(source, True, f"it is {profile.user_id}'s")


def judge(found: Credentials, now: datetime, answers: Sequence[Answer] = ()) -> list[Finding]:
    """Judge what there is, knowing what Kite has said of it."""
    is_taken = any(answer.source == STORED and answer.verdict for answer in answers)
    return [judge_key(found), judge_token(found), judge_age(found, now, is_taken=is_taken)]


def judge_key(found: Credentials) -> Finding:
    """Judge whether there is an API key."""
    if fault := character_fault(found.api_key.get_secret_value()):
        what = f"KITE_API_KEY cannot be used: {fault}"
        return API_KEY.failure(what, "with it mds run does not begin", "set it again, or unset it and: mds login")
    if found.api_key.get_secret_value():
        return API_KEY.ok("there is one")
    return API_KEY.failure(
        "KITE_API_KEY is not set",
        "without the key of a Kite Connect app nothing can be recorded from Kite",
        "mds login, which asks for it, or export KITE_API_KEY, as the app's page on developers.kite.trade has it; or "
        "try without: mds run --simulate",
    )


def judge_token(found: Credentials) -> Finding:
    """Judge whether there is a token, and whether its file is whole and closed to others."""
    has_variable = bool(found.variable.get_secret_value())
    if fault := character_fault(found.variable.get_secret_value()):
        what = f"{VARIABLE} cannot be used: {fault}"
        return ACCESS_TOKEN.failure(what, "with it mds run does not begin", f"set it again, or unset it and: {LOGIN}")
    if found.unwritable and not has_variable:
        verdict, why = (ACCESS_TOKEN.warning, _NO_NEXT) if _is_usable(found) else (ACCESS_TOKEN.failure, _NO_TOKEN)
        return verdict(found.unwritable, why, f"mend that, or let kite.access_token_file name another file; {LOGIN}")
    if found.fault and has_variable:
        return ACCESS_TOKEN.warning(
            f"from {VARIABLE}; {found.fault}",
            "a token of the environment is good for a day; the next one would come from the file",
            LOGIN,
        )
    if found.fault:
        return ACCESS_TOKEN.failure(found.fault, _NO_TOKEN, LOGIN)
    if has_variable:
        also = f"; another one is stored in {found.path}" if found.stored else ""
        return ACCESS_TOKEN.ok(f"from {VARIABLE}{also}")
    if found.stored and not _is_usable(found):
        what = f"the token in {found.path} was made for another API key than KITE_API_KEY"
        return ACCESS_TOKEN.failure(what, "Kite takes a token with its own key only", f"{LOGIN}, or unset KITE_API_KEY")
    if found.stored:
        return ACCESS_TOKEN.ok(f"stored in {found.path}, for its owner only")
    return ACCESS_TOKEN.failure(f"{VARIABLE} is not set, and there is no {found.path}", _NO_TOKEN, LOGIN)


def _is_usable(found: Credentials) -> bool:
    """Tell whether there is a stored token, for the key that there is."""
    return bool(found.stored) and found.stored_key in (None, found.api_key)


def judge_age(found: Credentials, now: datetime, *, is_taken: bool = False) -> Finding:
    """Judge by the time when a token was stored whether it can still be alive, unless Kite takes it."""
    has_variable = bool(found.variable.get_secret_value())
    if found.stored is None:
        told = f"nobody knows since when {VARIABLE} is good" if has_variable else "there is no stored token"
        return TOKEN_AGE.skipped(told)
    stored_at = found.stored.stored_at.astimezone(KITE_ZONE)
    dies_at = expires_at(stored_at)
    when = f"stored {stored_at:%Y-%m-%d %H:%M} in India"
    if stored_at > now + timedelta(minutes=5):
        return TOKEN_AGE.warning(f"{when}, which is yet to come", "the clock was or is wrong", "set the clock")
    if now < dies_at:
        return TOKEN_AGE.ok(f"{when}, good until {dies_at:%Y-%m-%d %H:%M}")
    why = "Kite's access tokens die every morning: what is connected goes on, and the next connect is refused"
    if is_taken:
        return TOKEN_AGE.warning(
            f"{when}: it was to die at {dies_at:%Y-%m-%d %H:%M}, and Kite still takes it", why, LOGIN
        )
    died = f"{when}: it died at {dies_at:%Y-%m-%d %H:%M}"
    return (TOKEN_AGE.warning if has_variable else TOKEN_AGE.failure)(died, why, LOGIN)


def judge_answers(answers: Sequence[Answer]) -> Finding:
    """Judge what Kite says of the tokens, the one with which `mds run` would begin first."""
    if not answers:
        return ACCEPTED.skipped("there is no token to ask about")
    told = "; ".join(f"{answer.source} ({answer.said})" for answer in answers)
    verdicts = [answer.verdict for answer in answers]
    if verdicts[0]:
        return ACCEPTED.ok(f"Kite takes {answers[0].source}, {answers[0].said}")
    if True in verdicts:
        return ACCEPTED.warning(
            f"Kite takes {STORED}, but not {VARIABLE} ({answers[0].said})",
            "mds run begins with the variable, is refused, and only then tries the stored one",
            f"unset {VARIABLE}",
        )
    if False in verdicts:
        return ACCEPTED.failure(f"refused: {told}", "connections that are lost, or not open yet, are refused", LOGIN)
    return ACCEPTED.warning(
        f"nobody can tell: {told}",
        "whether the next connect succeeds is not known",
        "see what is said of the network; then try again",
    )
