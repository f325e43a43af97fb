"""Makes Parquet of closed days beside the recorder, where `[storage] compact` is set, and ends.

The supervisor starts it. It takes what nobody else wants: idle time of one core, and of the disk. It tells what becomes
of a day by lines on its stdout, JSON objects with the fields of the event `compacted` or `compact_failed`; its log is
its stderr. It may be killed at any moment, and the next one goes on.
"""

import contextlib
import logging
import os
import sys
from datetime import date
from typing import Any

import orjson

from pipeline import config, log
from pipeline.errors import AlreadyRunningError, MdsError

EXIT_BUSY = 3  # another process compacts

ROLE = "compact"
_NICE = 19

logger = logging.getLogger("pipeline.compactor")  # not __main__, as which it is run


def main() -> int:
    """Compact every closed day that is not yet; return 1 if one could not be."""
    _take_only_what_is_left()
    # Only now: they read the number of threads when they are imported.
    from pipeline.store.parquet.compact import closed_days, compact, lock  # noqa: PLC0415

    settings = config.from_child()
    log.setup(settings, ROLE)
    try:
        lock(settings)
    except AlreadyRunningError as error:
        logger.info("%s", error)
        return EXIT_BUSY
    failed = False
    for day in closed_days(settings):
        try:
            done = compact(settings, day)
        except MdsError as error:
            failed = True
            logger.error("%s", error)
            _tell("compact_failed", day, reason=str(error))
            continue
        if done.result == "compacted":
            logger.info(
                "%s: %d ticks, %d bytes as Parquet in %.1f s", day, done.ticks, done.parquet_bytes, done.seconds
            )
            found = {"ticks": done.ticks, "bytes": done.jsonl_bytes, "parquet_bytes": done.parquet_bytes}
            _tell("compacted", day, **found, bad_lines=done.bad_lines)
    return 1 if failed else 0


def _take_only_what_is_left() -> None:
    os.environ["POLARS_MAX_THREADS"] = "1"
    os.nice(_NICE)
    with contextlib.suppress(OSError):  # not allowed here; the disk serves such a process last, too
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _tell(event: str, day: date, **fields: Any) -> None:
    with contextlib.suppress(OSError):  # the supervisor is gone; the next one sees what is there
        sys.stdout.buffer.write(orjson.dumps({"event": event, "date": day.isoformat(), **fields}) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
