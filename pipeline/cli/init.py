"""`mds init`: a settings file for a beginner, in which every setting is explained."""

import os
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

import click
from pydantic import ValidationError

from pipeline import config
from pipeline.cli import template
from pipeline.cli.options import InputError
from pipeline.cli.words import in_text
from pipeline.durable import write_all
from pipeline.errors import ConfigError

TERMINAL_LINE_BYTES = 4095  # a terminal drops what is typed or pasted beyond, and says nothing
OPENS = "08:55"  # before the pre-open session
CLOSES = "15:35"  # after the market of shares
CURRENCY_CLOSES = "17:05"
COMMODITY_CLOSES = "23:59"  # they trade until 23:30, or 23:55 while New York has winter time
_CURRENCY = ({"CDS", "BCD"}, {3, 6})  # by exchange, by segment: a token's low byte
_COMMODITY = ({"MCX", "NCO"}, {7, 8, 12})

Word = int | str

_Answer = TypeVar("_Answer")


class Answers(NamedTuple):
    """What a beginner wants; by itself it is what no answer means."""

    data_dir: Path = config.Storage().data_dir
    quote: tuple[Word, ...] = ()
    full: tuple[Word, ...] = ()
    hours: tuple[str, str] | None = None  # from and until which connections are open; None: always


@click.command(short_help="Write a settings file, asking for what it needs.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Settings file to write; else the one that MDS_CONFIG names, else mds.toml.",
)
@click.option("--yes", is_flag=True, help="Ask nothing: every setting at its default.")
def init(config_file: Path | None, yes: bool) -> None:
    """Write a settings file, asking for what it needs.

    In the file is every setting there is, with its default and what it is for. A file that is there is left alone.
    Where the standard input is no terminal nothing is asked, as with --yes. Secrets are neither asked for nor
    written: `mds login` does that.
    """
    file = config_file or Path(os.environ.get("MDS_CONFIG") or config.DEFAULT_FILE)
    _check_place(file)
    answers = Answers() if yes or sys.stdin is None or not sys.stdin.isatty() else _ask(file)
    _write(file, template.fill(template.TEMPLATE.read_text(encoding="utf-8"), settings(answers)))
    click.echo(f"Wrote {click.format_filename(file)}, which explains every setting. {_recorded(answers)}")
    option = f" --config {shlex.quote(click.format_filename(file))}" if config_file else ""
    first = "" if answers.quote or answers.full else f"; then `mds subscribe{option} NSE:INFY` from another terminal"
    click.echo("What comes next, in this folder:")
    click.echo(f"  mds login{option}     with the API key and secret of your Kite Connect app; once each morning")
    click.echo(f"  mds doctor{option}    tells what is still missing")
    click.echo(f"  mds run{option}       records, until Ctrl-C{first}")


def _recorded(answers: Answers) -> str:
    parts = [(len(answers.quote), "quote"), (len(answers.full), "full")]
    told = " and ".join(
        f"{count} {'instrument' if count == 1 else 'instruments'} in {mode} mode" for count, mode in parts if count
    )
    return f"To be recorded: {told or 'nothing yet'}."


def settings(answers: Answers) -> dict[tuple[str, str], template.Value]:
    """Return what the answers change, by section and key."""
    changed: dict[tuple[str, str], template.Value] = {}
    if answers.data_dir != Answers().data_dir:
        changed["storage", "data_dir"] = str(answers.data_dir)
    if answers.quote:
        changed["universe", "primary"] = answers.quote
    if answers.full:
        changed["universe", "secondary"] = answers.full
    if answers.hours:
        changed["market", "connect"], changed["market", "disconnect"] = answers.hours
    return changed


def opening_hours(words: Iterable[Word]) -> tuple[str, str]:
    """Return from when until when something of this trades; a symbol without an exchange is taken for a share."""
    closes = CLOSES
    for word in words:
        place = word & 0xFF if isinstance(word, int) else word.partition(":")[0].upper()
        for exchanges, end in ((_CURRENCY, CURRENCY_CLOSES), (_COMMODITY, COMMODITY_CLOSES)):
            if any(place in names for names in exchanges):
                closes = max(closes, end)
    return OPENS, closes


def parse_words(text: str) -> tuple[Word, ...]:
    """Read symbols and tokens, each once. Raises click.UsageError naming the word that is neither."""
    words: list[Word] = []
    for _, part in in_text(text):
        word = int(part) if part.isascii() and part.isdecimal() else part
        try:
            config.Universe(primary=(word,))
        except ValidationError as error:
            raise click.UsageError(f"{part!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        words.append(word)
    return tuple(dict.fromkeys(words))


def parse_full(text: str, words: tuple[Word, ...]) -> tuple[Word, ...]:
    """Read which of the words are meant; case does not matter. Raises click.UsageError naming one that is not there."""
    if text.strip().lower() == "all":
        return words
    known = {str(word).upper(): word for word in words}
    meant = [str(word) for word in parse_words(text)]
    for word in meant:
        if word.upper() not in known:
            raise click.UsageError(f"{word!r} is not among them: {', '.join(map(str, words[:5]))}")
    return tuple(dict.fromkeys(known[word.upper()] for word in meant))


def _ask(file: Path) -> Answers:
    """Ask on the terminal. Raises click.Abort at Ctrl-C and Ctrl-D."""
    click.echo(f"{click.format_filename(file)} will hold the settings; Ctrl-C ends without writing it.", err=True)
    try:
        data_dir = _question(
            "Ticks and events go to a folder, a file a day. 6,000 instruments make tens of gigabytes.",
            "Folder",
            _folder,
            str(Answers().data_dir),
        )
        words = _question(
            "What is recorded? Symbols like NSE:INFY or tokens like 408065, with commas between them; Enter for none\n"
            "yet: `mds subscribe` takes them, and lists in files, while it runs.",
            "Instruments",
            parse_words,
        )
        full: tuple[Word, ...] = ()
        hours = None
        if words:
            full = _question(
                "Full mode adds five levels of depth and open interest, at several times the data. Which of them\n"
                "in full mode? Enter for none, or all.",
                "In full mode",
                lambda text: parse_full(text, words),
            )
            opens, closes = opening_hours(words)
            click.echo("\nConnections can be open all the time, or only while something of this trades.", err=True)
            if click.confirm(f"Open them from {opens} to {closes} on trading days only?", default=False, err=True):
                hours = opens, closes
    except UnicodeDecodeError:
        raise InputError("standard input: not text (UTF-8); nothing was written") from None
    return Answers(data_dir, tuple(word for word in words if word not in full), full, hours)


def _question(why: str, prompt: str, parse: Callable[[str], _Answer], default: str = "") -> _Answer:
    """Ask until the answer can be parsed."""

    def parsed(text: str) -> _Answer:
        if not text.replace("\t", " ").isprintable():  # of an arrow key, for instance
            raise click.UsageError("there are characters in it that cannot be seen")
        if len(text.encode()) >= TERMINAL_LINE_BYTES:
            raise click.UsageError("this is as much as a terminal takes at once, and may be cut off: give less of it")
        return parse(text)

    click.echo(f"\n{why}", err=True)
    answer: _Answer = click.prompt(prompt, default=default, show_default=bool(default), value_proc=parsed, err=True)
    return answer


def _folder(text: str) -> Path:
    """Read the name of a folder; `~` is somebody's home here, as in a shell."""
    try:
        folder = Path(text.strip()).expanduser()
        is_file = folder.is_file()
    except (RuntimeError, OSError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise click.UsageError(f"this cannot be a folder: {cause}") from None
    if is_file:
        raise click.UsageError(f"{text.strip()} is a file, not a folder")
    return folder


def _check_place(file: Path) -> None:
    """Refuse before anything is asked what could not be written afterwards. Raises ConfigError."""
    if os.path.lexists(file):
        raise _is_there(file)
    if not file.parent.is_dir():
        raise ConfigError(
            f"{file}: there is no folder {file.parent}: make it first, or name another file with --config"
        )


def _write(file: Path, text: str) -> None:
    """Write the file, whole or not at all, and never over another. Raises ConfigError."""
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise _is_there(file) from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}; name another file with --config") from None
    try:
        write_all(fd, text.encode())
    except BaseException as error:
        file.unlink()
        if not isinstance(error, OSError):
            raise
        raise ConfigError(f"{file}: cannot be written: {error.strerror}; name another file with --config") from None
    finally:
        os.close(fd)


def _is_there(file: Path) -> ConfigError:
    return ConfigError(f"{file} is there already and was left as it is: edit it, or name another file with --config")
