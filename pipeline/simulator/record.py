"""The record of one connection: every binary message with ticks, as it was handed to the transport."""

import contextlib
import logging
from pathlib import Path
from typing import BinaryIO, Final

log = logging.getLogger(__name__)

BUFFER_BYTES: Final = 2**20


class Record:
    """The file `connection-NUMBER.sent`; when it cannot be written that is logged once, and the record ends there.

    None of its functions raises OSError: the connection goes on without a record.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._path = folder / f"connection-{number}.sent"
        self._number = number
        self._file: BinaryIO | None = None
        try:
            self._file = self._path.open("wb", BUFFER_BYTES)
        except OSError as error:
            self._give_up(error)

    def write(self, messages: bytes | memoryview) -> None:
        """Add whole messages, unless the record has ended."""
        if self._file is not None:
            try:
                self._file.write(messages)
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """Write what is left, and end the record."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        log.error("connection %d: %s: %s; its record is not complete", self._number, self._path, error.strerror)
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # it tries once more to write what is left
                file.close()
