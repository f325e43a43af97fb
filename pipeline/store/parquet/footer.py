"""What a Parquet part of a day tells of itself in its footer: which bytes of the JSONL it holds, and which ticks. Pure.

From the runs of `seq` of each stream it can be proved that a day is complete and in order without reading its rows.
"""

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

VERSION: Final = 1
KEY: Final = "mds"  # in the key-value metadata of the file

_Count = Annotated[int, msgspec.Meta(ge=0)]


class Stream(msgspec.Struct, frozen=True):
    """The numbers of one stream in the order of the JSONL: runs without a hole, first and last of each."""

    connection_id: int
    epoch: int
    runs: list[tuple[int, int]]


class Bad(msgspec.Struct, frozen=True):
    """A line that is no tick."""

    line: int
    offset: int
    why: str


class Footer(msgspec.Struct, frozen=True, kw_only=True):
    """A part holds the ticks of the bytes `first` to `end` of `source`; a row group ends at each of `groups`."""

    version: int = VERSION
    source: str  # name of the JSONL
    head: str  # digest of its first line: a file that is begun anew under its name is another one
    first: _Count
    end: _Count
    line: Annotated[int, msgspec.Meta(ge=1)]  # number of the first line
    lines: _Count
    ticks: _Count
    bad: _Count  # lines that are no ticks: they are nowhere but in the JSONL
    named: list[Bad]  # the first of them
    strays: _Count  # ticks that were received on another day
    is_last: bool  # the JSONL had no whole line more when this was written
    groups: list[int]
    streams: list[Stream]
    instruments: list[int]  # that have ticks


def encode(footer: Footer) -> bytes:
    """Return it as it stands in the file."""
    return msgspec.json.encode(footer)


def decode(data: bytes) -> Footer:
    """Raises ValueError in words where it is none, or one of a later version."""
    found = msgspec.json.decode(data, type=Footer)
    if found.version != VERSION:
        raise ValueError(f"it is of version {found.version}, this program reads {VERSION}")
    return found


class Runs:
    """Collects the runs of all streams; memory is bounded by how often they are broken."""

    def __init__(self) -> None:
        self._runs: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(self, connection_id: int, epoch: int, runs: Iterable[tuple[int, int]]) -> None:
        """Take in runs that follow those before, in the order of the lines."""
        known = self._runs.setdefault((connection_id, epoch), [])
        for first, last in runs:
            if known and known[-1][1] + 1 == first:
                known[-1] = (known[-1][0], last)
            else:
                known.append((first, last))

    def streams(self) -> list[Stream]:
        """Return what has been taken in."""
        return [Stream(*key, runs) for key, runs in self._runs.items()]
