"""`mds token`: handing over the access token of the day."""

import os
import sys
from pathlib import Path

import click
from pydantic import SecretStr

from pipeline import config
from pipeline.cli.options import InputError, config_option
from pipeline.credentials import TOKEN_CHARS_MAX, TokenFile

MAX_INPUT_BYTES = 2 * TOKEN_CHARS_MAX  # room for white space around it; what never ends must not fill the memory


@click.group()
def token() -> None:
    """Hand over the access token of the day."""


@token.command("set", short_help="Store a new access token.", context_settings={"allow_extra_args": True})
@config_option
@click.pass_context
def set_(context: click.Context, config_file: Path | None) -> None:
    """Store a new access token, for the running service and for those to come.

    It is asked for on a terminal, else read from the standard input. The command line takes none: other users of
    this machine could see it there.

    \b
      mds token set
      my-login-script | mds token set

    The file it goes to, kite.access_token_file, can be read by you only. A running service takes the token up by
    itself; the next `mds run` begins with it, unless KITE_ACCESS_TOKEN is set.
    """
    if context.args:  # click's own refusal would repeat it
        raise click.UsageError("give the token on the standard input: here other users of this machine can see it")
    file = TokenFile(config.load(config_file).resolved().token_file)
    file.write(_read())
    click.echo(f"Stored in {file.path}, for you only. A running service takes it up by itself.")
    if os.environ.get("KITE_ACCESS_TOKEN"):
        click.echo("KITE_ACCESS_TOKEN is set here, too: unset it, or the next `mds run` begins with that one.")


def _read() -> SecretStr:
    """Return the token that is typed or comes on the standard input, without the white space around it."""
    if sys.stdin is None:
        raise InputError("there is no standard input to read the access token from")
    if sys.stdin.isatty():
        typed: str = click.prompt("Access token (not shown)", hide_input=True, default="", show_default=False, err=True)
        return SecretStr(typed.strip())
    try:
        data = sys.stdin.buffer.read(MAX_INPUT_BYTES)
        return SecretStr(data.decode("utf-8-sig").strip())
    except UnicodeDecodeError:
        raise InputError("standard input: not text (UTF-8)") from None
    except OSError as error:
        raise InputError(f"standard input: {error.strerror}") from None
