"""Log lines for the operator: one line a fact, to stderr, never with a secret in it."""

import contextlib
import logging
import re
import sys
from collections.abc import Iterable
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue

HIDDEN = "***"
QUEUED_LINES = 10_000
_IN_URL = re.compile(r"(api_key|access_token|request_token)=[^&\s'\"]+")
_IN_HEADER = re.compile(r"(?i)(authorization:?\s*token\s+)\S+")


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback included, and blanks every secret in the result."""

    def __init__(self, secrets: Iterable[str], fmt: str) -> None:
        super().__init__(fmt)
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """Return the finished line or lines."""
        return redact(super().format(record), self._secrets)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with each of `secrets`, and whatever a Kite URL or header carries as one, replaced by ***."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _IN_HEADER.sub(rf"\1{HIDDEN}", _IN_URL.sub(rf"\1={HIDDEN}", text))


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


def print_from_thread(*relayed: str) -> QueueListener:
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
    listener = QueueListener(records, *handlers, as_it_is)
    listener.start()
    return listener


class _DroppingHandler(QueueHandler):
    """Drops lines that nobody takes, rather than let them fill the memory."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Full):
            self.queue.put_nowait(record)
