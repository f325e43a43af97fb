"""The commands in a Markdown text, README.md or RUNBOOK.md: what a reader types, and what the text says is printed.

A console block has lines that begin with `$`, each with what it prints below it; in a sh block every line is a command.
In the prose and its tables a command stands in backticks; where it begins with a subcommand of `mds`, the `mds` before
it may be left out. Pure: texts come in, texts go out.
"""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

# What a command in the prose begins with, beside subcommands of `mds` and paths; in blocks every command is found.
PROGRAMS = {
    *(".", "mds", "make", "python", "python3", "pip", "bash", "sh", "curl", "rsync", "git", "npm", "promtool"),
    *("sudo", "apt", "apt-get", "docker", "systemctl", "journalctl"),
}
_FENCE = re.compile(r"^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$")
_QUOTED = re.compile(r"`([^`]+)`")
_OPTIONAL = re.compile(r"(?<= )\[([^]|]+?)(?:\.\.\.)?(?:\|[^]]*)?\](?:\.\.\.)?")
_PLACEHOLDER = re.compile(r"(?<= )(?:YYYY-MM-DD|[A-Z]+)\b(?!:)(?:\.\.\.)?")
_NUMBER = re.compile(r"\d[\d,.]*(?<![.,])")


class Block(NamedTuple):
    """What stands between two fences."""

    language: str  # "" without one: nothing to be executed
    text: str
    heading: str  # the last one before it
    line: int  # of its first line, counted from 1


class Command(NamedTuple):
    """What is typed at once."""

    line: str
    shown: str  # what the text says it prints; "" where it says nothing
    heading: str
    number: int  # of its line in the text, counted from 1


def blocks(text: str) -> list[Block]:
    """Return the code blocks in their order."""
    headings = _headings(text)
    found = [(text[: fence.start()].count("\n"), fence) for fence in _FENCE.finditer(text)]
    return [Block(fence["language"], fence["text"], headings[above], above + 2) for above, fence in found]


def typed(block: Block) -> list[Command]:
    """Return the commands of a console or sh block; lines that end with a backslash are one with the next."""
    commands: list[Command] = []
    for number, line in _lines(block):
        if block.language == "console" and not line.startswith("$ "):
            assert commands, f"line {number}: output without a command"
            last = commands[-1]
            commands[-1] = last._replace(shown=f"{last.shown}{line}\n")
        elif line.strip() and not line.startswith("#"):
            commands.append(Command(line.removeprefix("$ "), "", block.heading, number))
    return commands


def quoted(text: str, subcommands: Collection[str]) -> list[Command]:
    """Return the commands in the prose and its tables, as they stand there.

    A name alone is a command of `mds`, too, and in a row of a table an option alone belongs to the command before it.
    """
    headings, prose = _headings(text), _prose(text)
    rows = {number for number, line in enumerate(prose.split("\n")) if line.startswith("|")}
    commands: list[Command] = []
    for found in _QUOTED.finditer(prose):
        line, number = " ".join(found[1].replace("\\|", "|").split()), prose[: found.start()].count("\n")
        first = line.split()[0]
        if first in subcommands:
            line = f"mds {line}"
        elif first.startswith("--") and number in rows and commands and commands[-1].number == number + 1:
            line = f"{commands[-1].line.partition(' --')[0]} {line}"
        elif (first not in PROGRAMS and "/" not in first) or line == first or not re.match(r"[.\w]", line):
            continue
        commands.append(Command(line, "", headings[number], number + 1))
    return commands


def filled(line: str, values: Mapping[str, str]) -> str:
    """Return a command with values in the place of what stands for them: `[TOKEN|SYMBOL]...` is one of the first."""
    plain = _OPTIONAL.sub(r"\1", line)
    return _PLACEHOLDER.sub(lambda found: values.get(found[0].rstrip("."), found[0]), plain)


def is_shown(shown: str, printed: str) -> bool:
    """Tell whether all lines that a text shows are printed, in their order; numbers and plurals may be others."""
    wanted = [re.compile(_pattern(line)) for line in shown.splitlines() if line.strip()]
    lines = iter(printed.splitlines())
    return all(any(pattern.fullmatch(line.strip()) for line in lines) for pattern in wanted)


def words(command: Command) -> list[str]:
    """Return the words of a command as a shell has them; comments are none."""
    return shlex.split(command.line, comments=True)


def _pattern(line: str) -> str:
    parts = [re.escape(part) for part in _NUMBER.split(line.strip())]
    # "1 file" in the text may be "2 files" here, and the other way round.
    plural = [parts[0], *(re.sub(r"^(\\ [a-z]+?)s?(?=\\ |,|$)", r"\1s?", part) for part in parts[1:])]
    return r"[\d,.]+".join(plural)


def _lines(block: Block) -> Iterator[tuple[int, str]]:
    begun, rest = 0, ""
    for number, line in enumerate(block.text.splitlines(), block.line):
        begun, rest = (begun, rest + line) if rest else (number, line)
        if rest.endswith("\\"):
            rest = rest[:-1]
            continue
        yield begun, rest
        rest = ""


def _headings(text: str) -> list[str]:
    """Return the heading above each line."""
    heading, headings = "", []
    for line in _prose(text).split("\n"):
        found = _HEADING.match(line)
        heading = found[1] if found else heading
        headings.append(heading)
    return headings


def _prose(text: str) -> str:
    """Return the text with its code blocks blank, line for line."""
    return _FENCE.sub(lambda found: "\n" * found[0].count("\n"), text)
