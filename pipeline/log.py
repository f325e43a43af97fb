"""Log lines for the operator: one line a fact, never with a secret in it, as text or as JSON (`[log]`).

    2026-11-21 08:39:46,368 WARNING worker-1: closed: connection was closed uncleanly; next try at once
    {"time":"2026-11-21T08:39:46.368+05:30","level":"warning","process":"worker-1","pid":12,"logger":"pipeline.logbook",
     "message":"closed: ..."}

Times are in storage.timezone, like those in the event log. In text, what would break a line or move a terminal's cursor
is escaped: what a server says can be no line of its own. A traceback follows on indented lines; in JSON it is the field
`exception`. Where stderr is the journal's, a line begins with its priority (sd-daemon(3)), which the journal takes off:
`journalctl -p warning` works, and `journalctl -o cat` shows pure JSON. Text leaves out the time there, the journal has
it. Processes hand their records to the supervisor as fields (`fields`, `show`): the look of a line is decided where it
is printed.
"""

import contextlib
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, quote_plus
from zoneinfo import ZoneInfo

import orjson

from pipeline.config import Config

HIDDEN = "***"
OWN_LOG_BYTES = 2**20  # a process's log in the run folder is begun anew above this
_OURS = "pipeline"  # the logger above all of ours
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}  # syslog's
_NAMED = re.compile(r"(?i)((?:api_key|api_secret|access_token|request_token)['\"]?\s*[=:]\s*['\"]?)[^&\s'\",}]+")
_IN_HEADER = re.compile(r"(?i)(authorization\W+token\s+)[^\s'\"]+")
_UTF16_UNIT = re.compile("....")  # in hex
_FINISHED = re.compile(r"\S+ \S+ ([A-Z]+) +[\w-]+: (.*?)(?:\n(.*))?", re.DOTALL)  # a line that an older version sends


# No secrets.

_later: set[str] = set()


def hide(*secrets: str) -> None:
    """Redact these as well from now on, wherever something is redacted: they have come while the process runs."""
    _later.update(secrets)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with each of `secrets`, and whatever a Kite URL or header carries as one, replaced by ***."""
    for secret in _spellings((*secrets, *_later)):
        text = text.replace(secret, HIDDEN)
    return _NAMED.sub(rf"\1{HIDDEN}", _IN_HEADER.sub(rf"\1{HIDDEN}", text))


def redact_all(value: Any, secrets: Sequence[str]) -> Any:
    """Return a JSON value with every text in it redacted; numbers stay, whatever digits a secret has."""
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, Mapping):
        return {key: redact_all(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return value if all(type(item) is int for item in value) else [redact_all(item, secrets) for item in value]
    return value


def _spellings(secrets: Iterable[str]) -> list[str]:
    """Return the secrets as they are, and as URLs, Python and JSON have them, those first that may hold others."""
    as_they_are = [secret for secret in secrets if secret]
    in_urls = [spell(secret, safe="") for secret in as_they_are for spell in (quote, quote_plus)]
    in_quotes = [spell(secret)[1:-1] for secret in as_they_are for spell in (repr, json.dumps)]
    return sorted({*as_they_are, *in_urls, *in_quotes}, key=len, reverse=True)


# What a record says.


def fields(record: logging.LogRecord, secrets: Iterable[str]) -> dict[str, Any]:
    """Return what `show` needs to log this record in another process: JSON types, redacted."""
    message, exception = _texts(record, tuple(secrets))
    said = {"created_s": record.created, "level": record.levelname, "logger": record.name, "message": message}
    return said | ({"exception": exception} if exception else {})


def show(said: Mapping[str, Any]) -> None:
    """Log what another process has logged, as its own: `fields` with its `role` and `pid`, or an older one's `line`.

    Raises KeyError, TypeError or ValueError where it is neither.
    """
    if "line" in said:
        finished = _FINISHED.fullmatch(said["line"])
        level, message, exception = finished.groups() if finished else ("INFO", said["line"], None)
    else:
        level, message, exception = said["level"], said["message"], said.get("exception")
    record = logging.makeLogRecord(
        {
            "name": str(said.get("logger", _OURS)),
            "levelname": level,
            "levelno": logging.getLevelNamesMapping()[level],
            "msg": str(message),
            "role": str(said["role"]),
            "process": int(said["pid"]),
            "traceback": str(exception or ""),
        }
    )
    if "created_s" in said:
        record.created = float(said["created_s"])
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _texts(record: logging.LogRecord, secrets: Sequence[str]) -> tuple[str, str]:
    """Return message and traceback, redacted, as text that has bytes in UTF-8.

    Who logs may give the traceback as text, in the attribute `traceback`.
    """
    traceback = getattr(record, "traceback", "")
    if record.exc_info and not traceback:
        traceback = logging.Formatter().formatException(record.exc_info)
    message, traceback = (
        redact(text.encode(errors="backslashreplace").decode(), secrets) for text in (record.getMessage(), traceback)
    )
    return message, traceback


# How it looks.


class Formatter(logging.Formatter):
    """Makes the line of a record, without the line end; a text with traceback has several."""

    def __init__(self, config: Config, role: str, *, journal: bool = False) -> None:
        super().__init__()
        self._role = role
        self._as_json = config.log.format == "json"
        self._secrets = config.secrets
        self._zone = ZoneInfo(config.storage.timezone)
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the finished line or lines."""
        message, exception = _texts(record, self._secrets)
        lines = self._json(record, message, exception) if self._as_json else self._text(record, message, exception)
        if self._journal:
            priority = _PRIORITIES.get(record.levelno, 6)
            lines = [f"<{priority}>{line}" for line in lines]
        return "\n".join(lines)

    def _json(self, record: logging.LogRecord, message: str, exception: str) -> list[str]:
        said = {
            "time": datetime.fromtimestamp(record.created, self._zone).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": getattr(record, "role", self._role),
            "pid": record.process,
            "logger": record.name,
            "message": message,
            **({"exception": exception} if exception else {}),
        }
        return [_escaped(orjson.dumps(said).decode(), _in_json)]

    def _text(self, record: logging.LogRecord, message: str, exception: str) -> list[str]:
        moment = datetime.fromtimestamp(record.created, self._zone)
        time = "" if self._journal else f"{moment:%Y-%m-%d %H:%M:%S},{moment.microsecond // 1000:03d} "
        line = f"{time}{record.levelname:<7} {getattr(record, 'role', self._role)}: {_escaped(message)}"
        return [line, *(f"    {_escaped(part)}" for part in exception.split("\n") if part)]


def _in_python(character: str) -> str:
    return ascii(character)[1:-1]


def _in_json(character: str) -> str:
    return _UTF16_UNIT.sub(r"\\u\g<0>", character.encode("utf-16-be").hex())


def _escaped(text: str, escape: Callable[[str], str] = _in_python) -> str:
    """Return a text as one line that no terminal obeys and no reader splits: what is not to be printed is escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else escape(c) for c in text)


# Where it goes.


def setup(config: Config, role: str, *more: logging.Handler) -> None:
    """Send every record of this process that `log.level` lets through to stderr, and to `more` handlers.

    Libraries say no more than info, whatever the level: at debug some tell whole URLs. What Python warns of is logged.
    """
    logging.raiseExceptions = False  # a closed terminal must not end a recording
    stderr = _Stderr(config.runtime.run_dir / f"{role}.log")
    stderr.setFormatter(Formatter(config, role, journal=_is_journal()))
    for handler in more:
        handler.setFormatter(Formatter(config, role))
    root = logging.getLogger()
    root.handlers[:] = [stderr, *more]
    level = logging.getLevelNamesMapping()[config.log.level.upper()]
    root.setLevel(max(level, logging.INFO))
    logging.getLogger(_OURS).setLevel(level)
    warnings.formatwarning = _warning
    logging.captureWarnings(True)


def _warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,  # noqa: ARG001  the signature is the standard library's
) -> str:
    return f"{category.__name__}: {message} ({filename} line {lineno})"


def _is_journal() -> bool:
    """Tell whether stderr is connected to the journal: JOURNAL_STREAM in systemd.exec(5)."""
    try:
        stderr = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to stderr. Where that is `own`, the log of the process in the run folder, it keeps that file short."""

    def __init__(self, own: Path) -> None:
        super().__init__(sys.stderr)
        self._own = own
        self._is_own = False
        with contextlib.suppress(OSError):
            self._is_own = os.path.samestat(os.fstat(2), own.stat())

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if self._is_own:
            with contextlib.suppress(OSError):  # it is tried again at the next line
                self._shorten()

    def _shorten(self) -> None:
        """Begin the file anew if it has grown large; the one before it is kept."""
        large = os.fstat(2)
        if large.st_size <= OWN_LOG_BYTES:
            return
        if os.path.samestat(large, self._own.stat()):
            self._own.replace(self._own.with_suffix(".log.1"))
        new = os.open(self._own, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for fd in (1, 2):
            if os.path.samestat(large, os.fstat(fd)):
                os.dup2(new, fd)
        os.close(new)
