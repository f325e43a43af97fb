"""What commands share that read stored ticks: which days or files, which instruments, which times."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, time
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline import config
from pipeline.cli.options import MODE, config_option
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.instruments.symbols import Symbols
from pipeline.store import sources
from pipeline.store.frames import TickFrame, read_ticks
from pipeline.store.sources import TickFile

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Selected:
    """The ticks that a command is about."""

    config: Config
    names: tuple[str, ...]  # days and files; none: the newest day
    instruments: tuple[str, ...]  # tokens and symbols; none: all
    modes: tuple[str, ...]
    start: str | None
    end: str | None

    @cached_property
    def files(self) -> list[TickFile]:
        """Where they are. Raises MdsError where there are none."""
        data_dir = self.config.storage.data_dir
        if self.names:
            return sources.find(self.names, data_dir)
        found = sources.find(None, data_dir)
        return [file for file in found if file.day == found[-1].day]

    @cached_property
    def days(self) -> list[date]:
        """The days of the files, as far as their names tell."""
        return sorted({file.day for file in self.files if file.day})

    @cached_property
    def symbols(self) -> Symbols:
        """Names of instruments, of the last of these days."""
        return Symbols(self.config.storage.data_dir, max(self.days, default=None))

    @cached_property
    def tokens(self) -> list[int] | None:
        """The instruments that were named, None for all."""
        return self.symbols.resolve(self.instruments) if self.instruments else None

    def frame(self, columns: Sequence[str] | None = None, *, dedupe: bool = False) -> TickFrame:
        """Return the ticks. Raises MdsError where they cannot be read."""
        return read_ticks(
            [file.path for file in self.files],
            tokens=self.tokens,
            modes=self.modes or None,
            start=self._moment(self.start),
            end=self._moment(self.end),
            columns=columns,
            dedupe=dedupe,
            data_dir=self.config.storage.data_dir,
            timezone=self.config.storage.timezone,
        )

    def _moment(self, text: str | None) -> str | None:
        """Return a time of day with its day, where there is only one."""
        if text is None or "-" in text:
            return text
        try:
            at = time.fromisoformat(text)
        except ValueError:
            raise ConfigError(f"{text!r} is not a time like 09:15, 09:15:30 or 2025-10-01T09:15:30") from None
        if len(self.days) != 1:
            raise ConfigError(f"{text}: on which day? give it with its date, like 2025-10-01T{text}")
        return f"{self.days[0]}T{at}"


def sources_options(command: _Command) -> _Command:
    """Add `[DATE|FILE]...` and what selects among their ticks, handed on as `selected`."""

    def with_selected(config_file: Path | None, **arguments: Any) -> Any:
        given = {name: arguments.pop(name) for name in ("names", "instruments", "modes", "start", "end")}
        return command(selected=Selected(config.load(config_file), **given), **arguments)

    with_selected.__doc__ = command.__doc__
    with_selected.__name__ = command.__name__
    with_selected.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for add in (
        config_option,
        click.option("--to", "end", metavar="TIME", help="Ticks received before this time."),
        click.option(
            "--from", "start", metavar="TIME", help="Ticks received from this time on: 09:15, or 2025-10-01T09:15."
        ),
        click.option("--mode", "modes", multiple=True, type=MODE, help="Ticks of this mode; may be repeated."),
        click.option(
            "-i",
            "--instrument",
            "instruments",
            multiple=True,
            metavar="TOKEN|SYMBOL",
            help="This instrument, like 408065 or NSE:INFY; may be repeated.",
        ),
        click.argument("names", nargs=-1, metavar="[DATE|FILE]..."),
    ):
        with_selected = add(with_selected)
    return with_selected  # type: ignore[return-value]  # another signature, which click makes calls for
