"""What commands share: options, the ways to give instrument tokens, and printing JSON."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import orjson
from pydantic import TypeAdapter

from pipeline.config import CONNECTIONS, Mode, Token
from pipeline.errors import MdsError

STDIN = "-"
MAX_INPUT_BYTES = 16 * 2**20  # far more than any list of tokens has: what never ends must not fill the memory
SHOWN_CHARS = 40  # of a word that is wrong

_TOKEN = TypeAdapter(Token)
_BRACKETED = re.compile(r"(\s*)\[(.*)\]\s*", re.DOTALL)

_Command = TypeVar("_Command", bound=Callable[..., Any])


# As the official client and many scripts write them, too: QUOTE.
MODE = click.Choice(get_args(Mode), case_sensitive=False)


class InputError(MdsError):
    """What was given to a command cannot be read; nothing was sent."""

    exit_code = 2


def config_option(command: _Command) -> _Command:
    """Add `--config FILE`, handed on as `config_file` for `pipeline.config.load`."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Settings file; else the one that MDS_CONFIG names, else mds.toml if there is one.",
    )(command)


def json_option(command: _Command) -> _Command:
    """Add `--json`, handed on as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_json(value: Any) -> None:
    """Print what `--json` asks for."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


def connection_option(text: str) -> Callable[[_Command], _Command]:
    """Return what adds `--connection N` with this help, handed on as `connection`."""
    return click.option(
        "--connection",
        type=click.IntRange(CONNECTIONS[0], CONNECTIONS[-1]),
        metavar="N",
        shell_complete=completions(*CONNECTIONS),
        help=text,
    )


def completions(*words: object) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return a `shell_complete` that offers these words."""
    return lambda _context, _parameter, incomplete: [w for w in map(str, words) if w.startswith(incomplete)]


def tokens_options(command: _Command) -> _Command:
    """Add `TOKEN...` and `--file FILE`, handed on as `arguments` and `file` for `read_tokens`."""
    add_file = click.option(
        "--file",
        type=click.Path(readable=False, allow_dash=True),
        metavar="FILE",
        help="Read tokens from FILE too; - is the standard input.",
    )
    return click.argument("arguments", nargs=-1, metavar="[TOKEN]...")(add_file(command))


def read_tokens(arguments: tuple[str, ...], file: str | None) -> list[int]:
    """Return the tokens of the arguments and the file or, with neither, of a standard input that is not a terminal.

    Repeats are kept. Raises InputError naming file, line and word, and click.UsageError where there are no tokens.
    """
    if not arguments and file is None and sys.stdin is not None and not sys.stdin.isatty():
        file = STDIN
    tokens = [_token(word) for argument in arguments for _, word in _words(argument)]
    name = ""
    if file is not None:
        name = "standard input" if file == STDIN else click.format_filename(file)
        tokens += [_token(word, f"{name}, line {line}: ") for line, word in _words(_read(file, name))]
    if not tokens:
        found = f"no instrument tokens in {name}" if name else "no instrument tokens"
        raise click.UsageError(
            f"{found}; give them as arguments, with --file FILE, or on the standard input", click.get_current_context()
        )
    return tokens


def _read(file: str, name: str) -> str:
    try:
        with click.open_file(file, "rb") as stream:
            data: bytes = stream.read(MAX_INPUT_BYTES + 1)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no standard input
        raise InputError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_INPUT_BYTES:
        raise InputError(f"{name}: more than {MAX_INPUT_BYTES // 2**20} MB, this is no list of instrument tokens")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name}: not a text file (UTF-8)") from None


def _words(text: str) -> Iterator[tuple[int, str]]:
    """Yield what stands between blanks, commas and comments, with its line; a list's brackets are dropped."""
    bracketed = _BRACKETED.fullmatch(text)
    lines = (bracketed[1] + bracketed[2] if bracketed else text).splitlines()
    for number, line in enumerate(lines, start=1):
        for word in line.partition("#")[0].replace(",", " ").split():
            yield number, word


def _token(word: str, place: str = "") -> int:
    with suppress(ValueError):
        if word.isascii() and word.isdecimal():
            return _TOKEN.validate_python(int(word))
    shown = word if len(word) <= SHOWN_CHARS else f"{word[:SHOWN_CHARS]}..."
    raise InputError(f"{place}{shown!r} is not an instrument token, a whole number from 1 to {2**32 - 1}")
