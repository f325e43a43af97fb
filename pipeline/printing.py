"""Threads that write what is logged, so that nobody waits for a terminal, a pipe or a disk."""

import contextlib
import logging
from copy import copy
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue

QUEUED_LINES = 10_000
_STOP_S = 2.0  # for what is still queued when printing ends


class Printing:
    """A thread for each handler that `log.setup` has set up.

    A terminal or pipe that nobody reads, or a disk that hangs, stops neither the caller nor the other handlers.
    """

    def __init__(self) -> None:
        root = logging.getLogger()
        self._threads: list[_Thread] = []
        for number, handler in enumerate(list(root.handlers)):
            records: Queue[logging.LogRecord] = Queue(QUEUED_LINES)
            thread = _Thread(records, handler)
            root.handlers[number] = _DroppingHandler(records)
            thread.start()
            self._threads.append(thread)

    def finish(self) -> bool:
        """Print what is queued and end the threads; False if one is stuck in a write.

        It would keep the interpreter from ending: leave by `os._exit` then.
        """
        are_done = [thread.finish() for thread in self._threads]
        return all(are_done)


class _Thread(QueueListener):
    def finish(self) -> bool:
        printer = self._thread
        with contextlib.suppress(Full):
            self.enqueue_sentinel()
        if printer is not None:
            printer.join(_STOP_S)
            if printer.is_alive():
                return False
        return True


class _DroppingHandler(QueueHandler):
    """Drops lines that nobody takes, rather than let them fill the memory, and tells how many when there is room."""

    def __init__(self, records: "Queue[logging.LogRecord]") -> None:
        super().__init__(records)
        self._records = records
        self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return the record with its texts made: what they are made of may change."""
        made = copy(record)
        made.msg, made.args, made.exc_info = record.getMessage(), (), None
        if record.exc_info:
            made.traceback = logging.Formatter().formatException(record.exc_info)
        return made

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            if self._dropped and self._records.qsize() < QUEUED_LINES // 2:
                text = f"{self._dropped} lines are missing here: there was no room for them, nobody had read the others"
                told = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": text}
                self._records.put_nowait(logging.makeLogRecord(told))
                self._dropped = 0
            self._records.put_nowait(record)
        except Full:
            self._dropped += 1
