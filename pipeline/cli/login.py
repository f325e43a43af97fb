"""`mds login`: from the login at Kite to a stored access token."""

import os
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click
from pydantic import SecretStr

from pipeline import config
from pipeline.cli.options import InputError, config_option
from pipeline.cli.token import in_india, on_terminal, read_secret, tell_of_variable
from pipeline.config import API_SECRET_VARIABLE, HTTP_TOKEN_VARIABLE, SECRET_VARIABLES, is_loopback
from pipeline.credentials import StoredToken, TokenFile, expires_at, token_fault
from pipeline.errors import ConfigError, MdsError
from pipeline.kite import rest
from pipeline.kite.redirect import Listener, RedirectError, read_request_token
from pipeline.log import hide
from pipeline.readable import printable

TRIES = 3  # at pasting the right thing
TIMEOUT_S = 300.0  # for a login with password and one-time code

Address = tuple[str, int]
ANY_PORT: Address = ("127.0.0.1", 0)  # where only the browser is to be led to the login page


def _address(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Address | None:
    """Read [HOST:]PORT of this machine alone: a request token is for nobody else to take, or to send."""
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
        raise click.BadParameter(f"{value!r} is not [HOST:]PORT, like 8765 or [::1]:8765")
    if not is_loopback(host):
        raise click.BadParameter(f"others can reach {host!r}: listen on 127.0.0.1 or [::1] only")
    return "127.0.0.1" if host.lower() == "localhost" else host, int(port)


@click.command(context_settings={"allow_extra_args": True})
@config_option
@click.option("--open", "open_browser", is_flag=True, help="Open the login page in a browser.")
@click.option(
    "--listen",
    callback=_address,
    metavar="[HOST:]PORT",
    help="Take Kite's redirect at http://127.0.0.1:PORT by itself, instead of by paste.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 3600, min_open=True),
    default=TIMEOUT_S,
    show_default=True,
    metavar="S",
    help="With --listen, wait for the redirect for S seconds.",
)
@click.pass_context
def login(
    context: click.Context, config_file: Path | None, open_browser: bool, listen: Address | None, timeout_s: float
) -> None:
    """Log in at Kite and store the access token of the day.

    It shows the URL to log in at. After that Kite sends the browser to the redirect URL of your app, with a
    request token in it: paste that URL here (it is not shown), even if the page itself could not be loaded. Or set
    http://127.0.0.1:8765 as the redirect URL in Kite's developer console, and let it be taken by itself:

    \b
      mds login
      mds login --open --listen 8765

    The API key is KITE_API_KEY, else the one of the last login, else asked for; the API secret is KITE_API_SECRET, else
    asked for, and kept nowhere. Without a terminal the URL or the request token is read from the standard input.

    The token goes, with the API key, to a file that can be read by you only, kite.access_token_file. A running service
    takes it up by itself; the next `mds run` begins with it, unless KITE_ACCESS_TOKEN is set.
    """
    if context.args:  # click's own refusal would repeat it
        raise click.UsageError("give the URL or request token when asked: here other users of this machine can see it")
    settings = config.load(config_file).resolved()
    file = TokenFile(settings.token_file)
    file.try_folder()  # not after somebody has typed a password and a code
    api_key = _secret("API key", "KITE_API_KEY", settings.api_key.get_secret_value() or _last_key(file))
    api_secret = _secret("API secret", API_SECRET_VARIABLE, os.environ.get(API_SECRET_VARIABLE, ""))
    hide(api_key, api_secret)
    state = secrets.token_urlsafe()
    # The only place that shows the API key: Kite's login page has to be told it, and by the URL.
    url = rest.login_url(settings.kite.login_url, api_key, state if listen else "")

    def finish(request_token: str) -> StoredToken:
        hide(request_token)
        session = rest.exchange(settings.kite.api_url, api_key, request_token, api_secret)
        hide(session.access_token.get_secret_value())
        whose = {"user_id": session.user_id, "user_name": session.user_name}
        return file.write(session.access_token, api_key=SecretStr(api_key), **whose)

    with ExitStack() as stack:
        listener = Listener(*(listen or ANY_PORT), url, state) if listen or open_browser else None
        if listener:
            stack.enter_context(listener)
        click.echo(f"Log in at:\n\n  {url}\n")
        if listener and open_browser:
            _open(listener.open_url)
        stored = _take(listener, timeout_s, finish) if listener and listen else finish(_pasted())
    who = f"{stored.user_name} ({stored.user_id})" if stored.user_name else f"{stored.user_id}"
    click.echo(f"Logged in as {printable(who)}, until about {in_india(expires_at(stored.stored_at))}.")
    click.echo(f"Stored in {file.path}, for you only. A running service takes it up by itself.")
    tell_of_variable()


def _last_key(file: TokenFile) -> str:
    """Return the API key of the last login, empty where nobody knows it."""
    try:
        stored = file.read()
    except ConfigError as error:  # it is about to be replaced
        click.echo(f"what is stored cannot be used: {error}", err=True)
        return ""
    return stored.api_key.get_secret_value() if stored and stored.api_key else ""


def _secret(what: str, variable: str, known: str) -> str:
    """Return what is known, else what is typed."""
    source = f"{variable} is" if os.environ.get(variable) else "this is"
    if not known:
        if not on_terminal():
            raise InputError(f"{variable} is not set, and there is no terminal to ask for the {what}: export it")
        known = read_secret(what)
    if fault := token_fault(known):
        raise InputError(f"{source} no {what}: {fault}; Kite's developer console has it")
    return known


def _open(url: str) -> None:
    """Open the user's browser, without our secrets in its environment."""
    for variable in (*SECRET_VARIABLES, HTTP_TOKEN_VARIABLE):
        os.environ.pop(variable, None)
    click.launch(url)


def _take(listener: Listener, timeout_s: float, finish: Callable[[str], StoredToken]) -> StoredToken:
    """Wait for the redirect, finish the login with its request token, and tell the browser what came of it."""
    click.echo(f"Waiting for Kite's redirect at {listener.url}, for {timeout_s:g} s; Ctrl-C ends it.", err=True)
    try:
        stored = finish(listener.wait(timeout_s))
    except MdsError as error:
        listener.answer(f"{error}.", success=False)
        raise
    listener.answer("The recorder has its access token. You can close this window.", success=True)
    return stored


def _pasted() -> str:
    """Return the request token that is pasted, or comes on the standard input.

    What is pasted is not shown, as no other secret is: the terminal's window and its log keep it longer than it lives.
    """
    for tries_left in reversed(range(TRIES if on_terminal() else 1)):
        try:
            return read_request_token(read_secret("URL after logging in"))
        except RedirectError as error:
            if not tries_left:
                raise
            click.echo(f"{error}; try again", err=True)
    raise AssertionError("it ends with the last try")
