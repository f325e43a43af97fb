"""Refusing what a newer version has recorded, which would be read wrongly. `events` says what a format is."""

import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.config import STATE_FOLDER
from pipeline.files import FORMAT, newer_format, written_format
from pipeline.store.files import BLOCK_BYTES, Chunk, read_chunks

_OPENING = re.compile(rb'^\{\s*"event":\s*"(?:epoch|service_started)",.*?"format":\s*(\d+)', re.MULTILINE)


def require_known(data_dirs: Iterable[Path], event_files: Iterable[Path]) -> None:
    """Raise FormatError where a newer version has written to a folder, or where an event file tells of its streams.

    On the recorder's machine the state folder tells; of copies only the event logs of the days on which streams began.
    Who goes on where a folder ends asks the last of them.
    """
    for data_dir in data_dirs:
        written = written_format(data_dir / STATE_FOLDER)
        if written > FORMAT:
            raise newer_format(data_dir, written)
    for path in event_files:
        for chunk in read_chunks(path, path.stat().st_size, BLOCK_BYTES):
            for found in _OPENING.finditer(chunk.data) if isinstance(chunk, Chunk) else ():
                if int(found[1]) > FORMAT:
                    raise newer_format(path, int(found[1]))
