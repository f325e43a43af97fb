"""What commands share: options, the ways to give instruments, and printing JSON."""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import orjson
from pydantic import TypeAdapter

from pipeline.cli import words
from pipeline.config import CONNECTIONS, Mode, Token, Word
from pipeline.errors import MdsError

STDIN = "-"
MAX_INPUT_BYTES = 16 * 2**20  # far more than any list of instruments has: what never ends must not fill the memory
SHOWN_CHARS = 40  # of a word that is wrong

_TOKEN = TypeAdapter(Token)
_WORD: TypeAdapter[int | str] = TypeAdapter(Word)

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


def words_options(command: _Command) -> _Command:
    """Add `[TOKEN|SYMBOL]...` and `--file FILE`, handed on as `arguments` and `file` for `read_words`."""
    add_file = click.option(
        "--file",
        type=click.Path(readable=False, allow_dash=True),
        metavar="FILE",
        help="Read instruments from FILE too, text or CSV; - is the standard input.",
    )
    return click.argument("arguments", nargs=-1, metavar="[TOKEN|SYMBOL]...")(add_file(command))


def read_words(arguments: tuple[str, ...], file: str | None) -> list[int | str]:
    """Return the instruments that the arguments and the file name or, with neither, the standard input, if no terminal.

    Tokens are numbers; what a symbol means is for the service to find out. Repeats are kept. Raises InputError naming
    file, line and word, and click.UsageError where there are none.
    """
    if not arguments and file is None and sys.stdin is not None and not sys.stdin.isatty():
        file = STDIN
    found = [_word(word) for argument in arguments for _, word in words.in_text(argument)]
    name = ""
    if file is not None:
        name = "standard input" if file == STDIN else click.format_filename(file)
        try:
            found += [_word(word, f"{name}, line {line}: ") for line, word in words.in_file(_read(file, name))]
        except words.LineError as error:
            raise InputError(f"{name}, line {error.line}: {error}") from None
    if not found:
        nothing = f"no instruments in {name}" if name else "no instruments"
        ways = "give tokens or symbols as arguments, with --file FILE, or on the standard input"
        raise click.UsageError(f"{nothing}; {ways}", click.get_current_context())
    return found


def _read(file: str, name: str) -> str:
    try:
        with click.open_file(file, "rb") as stream:
            data: bytes = stream.read(MAX_INPUT_BYTES + 1)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no standard input
        raise InputError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_INPUT_BYTES:
        raise InputError(f"{name}: more than {MAX_INPUT_BYTES // 2**20} MB, this is no list of instruments")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name}: not a text file (UTF-8)") from None


def _word(word: str, place: str = "") -> int | str:
    with suppress(ValueError):
        if word.isascii() and word.isdecimal():
            return _TOKEN.validate_python(int(word))
        if word.isprintable() and any(map(str.isalpha, word)):
            return _WORD.validate_python(word)
    shown = word if len(word) <= SHOWN_CHARS else f"{word[:SHOWN_CHARS]}..."
    token = f"an instrument token, a whole number from 1 to {2**32 - 1}"
    raise InputError(f"{place}{shown!r} is neither {token}, nor a symbol like NSE:INFY")
