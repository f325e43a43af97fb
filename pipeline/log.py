"""Log lines for the operator: one line a fact, to stderr, never with a secret in it."""

import contextlib
import logging
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "***"
QUEUED_LINES = 10_000
_STOP_S = 2.0  # for what is still queued when the listener is stopped
_NAMED = re.compile(r"(?i)((?:api_key|api_secret|access_token|request_token)['\"]?\s*[=:]\s*['\"]?)[^&\s'\",}]+")
_IN_HEADER = re.compile(r"(?i)(authorization\W+token\s+)[^\s'\"]+")


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback included, and blanks every secret in the result."""

    def __init__(self, secrets: Iterable[str], fmt: str) -> None:
        super().__init__(fmt)
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """Return the finished line or lines."""
        return redact(super().format(record), self._secrets)


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
    """Return the secrets as they are and as URLs have them, the longest first: one may be part of another."""
    as_they_are = [secret for secret in secrets if secret]
    in_urls = [spell(secret, safe="") for secret in as_they_are for spell in (quote, quote_plus)]
    return sorted({*as_they_are, *in_urls}, key=len, reverse=True)


def setup(role: str, secrets: Iterable[str], *extra: logging.Handler) -> None:
    """Send every record of this process to stderr, and to `extra` handlers, redacted."""
    formatter = RedactingFormatter(secrets, f"%(asctime)s %(levelname)-7s {role}: %(message)s")
    logging.raiseExceptions = False  # a closed terminal must not end a recording
    root = logging.getLogger()
    root.handlers.clear()
    for handler in (logging.StreamHandler(sys.stderr), *extra):
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(logging.INFO)


def print_from_thread(*relayed: str) -> "Printing":
    """Let a thread write what `setup` sends to stderr: a terminal or pipe that nobody reads must not stop the caller.

    Records of the loggers named in `relayed` are lines already and written as they are. The caller stops the listener.
    """
    root = logging.getLogger()
    records: Queue[logging.LogRecord] = Queue(QUEUED_LINES)
    handlers = list(root.handlers)
    as_it_is = logging.StreamHandler(sys.stderr)
    queue_handler = _DroppingHandler(records)
    root.handlers = [queue_handler]
    for name in relayed:
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.handlers = [queue_handler]
    for handler in handlers:
        handler.addFilter(lambda record: record.name not in relayed)
    as_it_is.addFilter(lambda record: record.name in relayed)
    listener = Printing(records, *handlers, as_it_is)
    listener.start()
    return listener


class Printing(QueueListener):
    """The thread that prints."""

    def finish(self) -> bool:
        """Print what is queued and end the thread; False if nobody reads, and it is stuck in a write.

        A stuck thread would keep the interpreter from ending: leave by `os._exit` then.
        """
        printer = self._thread
        with contextlib.suppress(Full):
            self.enqueue_sentinel()
        if printer is not None:
            printer.join(_STOP_S)
            if printer.is_alive():
                return False
        return True


class _DroppingHandler(QueueHandler):
    """Drops lines that nobody takes, rather than let them fill the memory."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Full):
            self.queue.put_nowait(record)
