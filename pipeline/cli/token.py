"""`mds token`: handing over the access token of the day by hand, and telling whether there is a good one."""

import os
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from pipeline import config
from pipeline.cli.options import InputError, config_option, json_option, print_json
from pipeline.config import Config
from pipeline.credentials import KITE_ZONE, TOKEN_CHARS_MAX, TokenFile, expires_at
from pipeline.errors import ConfigError
from pipeline.kite import rest
from pipeline.readable import printable, span

MAX_INPUT_BYTES = 2 * TOKEN_CHARS_MAX  # room for white space around it; what never ends must not fill the memory


@click.group()
def token() -> None:
    """Hand over the access token of the day, or see whether there is a good one."""


@token.command("set", short_help="Store a new access token.", context_settings={"allow_extra_args": True})
@config_option
@click.pass_context
def set_(context: click.Context, config_file: Path | None) -> None:
    """Store a new access token, for the running service and for those to come.

    For those who log in elsewhere; `mds login` does both. The token is asked for on a terminal, else read from the
    standard input. The command line takes none: other users of this machine could see it there.

    \b
      mds token set
      my-login-script | mds token set

    The file it goes to, kite.access_token_file, can be read by you only. KITE_API_KEY, if it is set, is stored with it.
    A running service takes the token up by itself; the next `mds run` begins with it, unless KITE_ACCESS_TOKEN is set.
    """
    if context.args:  # click's own refusal would repeat it
        raise click.UsageError("give the token on the standard input: here other users of this machine can see it")
    settings = config.load(config_file).resolved()
    file = TokenFile(settings.token_file)
    file.write(SecretStr(read_secret("access token")), api_key=_key_of(settings, file))
    click.echo(f"Stored in {file.path}, for you only. A running service takes it up by itself.")
    tell_of_variable()


@token.command(short_help="Tell whether there is a good one.")
@config_option
@json_option
@click.option("--offline", is_flag=True, help="Do not ask Kite.")
def status(config_file: Path | None, as_json: bool, offline: bool) -> None:
    """Tell whose the access token is, since when there is one, and whether Kite takes it.

    It is the one that `mds run` would begin with. Exits with 0 if Kite takes it, and with 1 if not, if there is none or
    if Kite does not answer. With --offline its age decides: Kite's tokens die at about six in the morning, in India.
    """
    settings = config.load(config_file).resolved()
    now = datetime.now(KITE_ZONE)
    found = _found(settings, now, offline=offline)
    if as_json:
        print_json(found)
    else:
        click.echo(_told(found, now))
    is_good = bool(found["source"]) and not found["expired"] if offline else found["accepted"]
    sys.exit(0 if is_good else 1)


def tell_of_variable() -> None:
    """Name the variable that a stored token does not go before."""
    if os.environ.get("KITE_ACCESS_TOKEN"):
        click.echo("KITE_ACCESS_TOKEN is set here, too: unset it, or the next `mds run` begins with that one.")


def in_india(when: datetime) -> str:
    """Return date and time where Kite's tokens live and die: `2025-10-02 06:00 IST`."""
    return f"{when.astimezone(KITE_ZONE):%Y-%m-%d %H:%M} IST"


def on_terminal() -> bool:
    """Tell whether there is somebody to ask."""
    return sys.stdin is not None and sys.stdin.isatty()


def read_secret(what: str) -> str:
    """Return what is typed, which is not shown, or comes on the standard input, without the white space around it."""
    if sys.stdin is None:
        raise InputError(f"there is no standard input to read the {what} from")
    if on_terminal():
        prompt = f"{what[0].upper()}{what[1:]} (not shown)"
        typed: str = click.prompt(prompt, hide_input=True, default="", show_default=False, err=True)
        return typed.strip()
    try:
        return sys.stdin.buffer.read(MAX_INPUT_BYTES).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise InputError("standard input: not text (UTF-8)") from None
    except OSError as error:
        raise InputError(f"standard input: {error.strerror}") from None


def _key_of(settings: Config, file: TokenFile) -> SecretStr | None:
    """Return the API key that a new token is for: the one given, else that of the token before it, if there was one."""
    if settings.api_key.get_secret_value():
        return settings.api_key
    with suppress(ConfigError):  # what cannot be read is replaced
        stored = file.read()
        return stored.api_key if stored else None
    return None


def _found(settings: Config, now: datetime, *, offline: bool) -> dict[str, Any]:
    """Return what there is to tell, without secrets, in JSON types; what is not known is None."""
    found: dict[str, Any] = dict.fromkeys(
        ("source", "stored_at", "expires_at", "expired", "user_id", "user_name", "accepted", "reason")
    )
    found["file"] = str(settings.token_file)
    try:
        usable = config.with_credentials(settings)
        from_file = not settings.access_token.get_secret_value()
        stored = TokenFile(settings.token_file).read() if from_file else None
    except ConfigError as error:
        return found | {"reason": str(error)}
    found["source"] = "file" if stored else "environment"
    if stored:
        dies = expires_at(stored.stored_at)
        found["stored_at"], found["expires_at"], found["expired"] = stored.stored_at, dies, dies <= now
        found["user_id"], found["user_name"] = stored.user_id, stored.user_name
    if offline:
        return found
    api_key, token = usable.api_key.get_secret_value(), usable.access_token.get_secret_value()
    try:
        found["user_id"], found["user_name"] = rest.profile(settings.kite.api_url, api_key, token)
        found["accepted"] = True
    except rest.KiteError as error:
        found["accepted"], found["reason"] = False if isinstance(error, rest.RefusedError) else None, str(error)
    return found


def _told(found: dict[str, Any], now: datetime) -> str:
    """Return the same for people."""
    if not found["source"]:
        return f"There is no access token to use: {found['reason']}"
    who = found["user_id"] or "an unknown user"
    name = (
        "KITE_ACCESS_TOKEN, which goes before any that is stored" if found["source"] == "environment" else found["file"]
    )
    lines = [f"Access token of {found['user_name']} ({who})" if found["user_name"] else f"Access token of {who}"]
    lines.append(f"  from     {name}")
    if found["stored_at"]:
        age_s = max((now - found["stored_at"]).total_seconds(), 0)
        lines.append(f"  stored   {in_india(found['stored_at'])}, {span(age_s)} ago")
        ended = "expired" if found["expired"] else "expires"
        is_dead = found["expired"] and not found["accepted"]
        lines.append(f"  {ended}  {in_india(found['expires_at'])}, about{'; log in with: mds login' * is_dead}")
    if found["accepted"]:
        lines.append(f"  Kite     {'still ' if found['expired'] else ''}takes it")
    elif found["reason"]:
        lines.append(f"  Kite     {'refuses it' if found['accepted'] is False else 'does not tell'}: {found['reason']}")
    else:
        lines.append("  Kite     was not asked")
    return "\n".join(map(printable, lines))
