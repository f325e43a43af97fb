"""Is what was stored what was sent: every tick once, in order, unchanged.

Each tick is a digest (see `bench.rig.sent`). What was sent is a sequence of them for each socket; what is stored is one
for each stream, `(connection_id, epoch)`, in the order of the files. A socket belongs to one stream, and a stream has
one or more sockets, one after the other. Equal sequences are all that is hoped for; where they differ, it is told how.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.rig.sent import Digests, digests_of_ticks, sent_digests
from pipeline.store.files import Chunk, read_chunks, tick_files
from pipeline.store.lines import read_chunk
from pipeline.store.schema import TIMEZONE
from pipeline.wire import StreamId

CHUNK_BYTES: Final = 8 * 2**20
SAMPLES: Final = 500  # places of a socket's sequence that are looked for in the streams: at its beginning, and all over
RUN: Final = 8  # ticks
_FACTOR: Final = 0x9E3779B97F4A7C15  # odd, 2^64 divided by the golden ratio

OnChunk = Callable[[Chunk, pl.DataFrame], object]


@dataclass(frozen=True)
class Comparison:
    """How what is stored differs from what was sent, in ticks.

    A tick that was altered is lost, and foreign. One that is stored more often than it was sent is repeated. Out of
    order is one that is stored behind a tick that was sent after it, as RFC 4737 has it; of ticks that are alike this
    can be told only if all of them are there, the others are left out of it.
    """

    sent: int = 0
    stored: int = 0
    lost: int = 0
    repeated: int = 0
    out_of_order: int = 0
    foreign: int = 0  # stored, never sent; lines that are no ticks too
    cut_off: int = 0  # of those lost, those that were the last of their socket: on their way when it ended

    @property
    def is_equal(self) -> bool:
        """Whether every tick is stored once, in order, unchanged."""
        return not (self.lost or self.repeated or self.out_of_order or self.foreign)

    def __add__(self, other: "Comparison") -> "Comparison":
        return Comparison(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def compare(sent_files: Sequence[Path], data_dir: Path, on_chunk: OnChunk = lambda _chunk, _ticks: None) -> Comparison:
    """Compare the simulator's record, its sockets in the order of their opening, with the tick files of a folder.

    `on_chunk` gets the lines of these files, and the ticks that they are, as they are read. For each tick 40 bytes of
    memory are taken where all are equal, and 130 where one is lost. Raises ValueError where a file is no record,
    OSError where one cannot be read.
    """
    sockets = [digests for path in sent_files if len(digests := sent_digests(path))]
    streams, strange = stored_digests(data_dir, on_chunk)
    found = Comparison(stored=strange, foreign=strange)
    belonging: dict[StreamId | None, list[Digests]] = defaultdict(list)
    for socket, stream in zip(sockets, owners(sockets, streams), strict=True):
        belonging[stream].append(socket)
    for stream in {*streams, *belonging}:
        stored = streams[stream] if stream else np.zeros(0, np.uint64)
        found += difference(belonging[stream], stored)
    return found


def stored_digests(data_dir: Path, on_chunk: OnChunk) -> tuple[dict[StreamId, Digests], int]:
    """Return the digests of each stream in the order of the files, and how many lines are no ticks."""
    parts: dict[StreamId, list[Digests]] = defaultdict(list)
    strange = 0
    for path in tick_files(data_dir):
        for chunk in read_chunks(path, path.stat().st_size, CHUNK_BYTES):
            if not isinstance(chunk, Chunk):
                strange += 1
                continue
            ticks, bad = read_chunk(chunk, TIMEZONE)
            strange += len(bad)
            on_chunk(chunk, ticks)
            digests = digests_of_ticks(ticks)
            for stream, mine in by_stream(ticks):
                parts[stream].append(digests[mine])
    return {stream: np.concatenate(parts.pop(stream)) for stream in list(parts)}, strange


def by_stream(ticks: pl.DataFrame) -> list[tuple[StreamId, NDArray[np.bool_]]]:
    """Return the streams that ticks are of, and which are theirs."""
    connections, epochs = ticks["connection_id"].to_numpy(), ticks["epoch"].to_numpy()
    streams = ticks.select("connection_id", "epoch").unique().iter_rows()
    return [(StreamId(*stream), (connections == stream[0]) & (epochs == stream[1])) for stream in streams]


def owners(sockets: Sequence[Digests], streams: Mapping[StreamId, Digests]) -> list[StreamId | None]:
    """Return to which stream each socket belongs: to the one that has most of its ticks; None where none has any.

    Runs of ticks are looked for, and only where none is found single ones, which are often alike: a price comes again.
    Between streams that have the same it is one that has no socket yet: a snapshot may be sent to several.
    """
    runs = {stream: np.sort(_runs(digests)) for stream, digests in streams.items()}
    found: list[StreamId | None] = []

    def best(counts: Mapping[StreamId, int]) -> StreamId | None:
        chosen = max(counts, key=lambda stream: (counts[stream], stream not in found), default=None)
        return chosen if chosen and counts[chosen] else None

    for socket in sockets:
        wanted = _runs(socket)
        sample = np.concatenate([wanted[:SAMPLES], wanted[SAMPLES :: max(len(wanted) // SAMPLES, 1)]])
        owner = best({stream: _count_in(sample, there) for stream, there in runs.items()})
        found.append(owner or best({stream: _count_in(socket, np.sort(there)) for stream, there in streams.items()}))
    return found


def difference(sockets: Sequence[Digests], stored: Digests) -> Comparison:
    """Compare what the sockets of a stream were sent, one after the other, with what is stored of it."""
    sent = np.concatenate(sockets) if sockets else np.zeros(0, np.uint64)
    if np.array_equal(sent, stored):
        return Comparison(len(sent), len(stored))
    values, codes = np.unique(np.concatenate([sent, stored]), return_inverse=True)
    sent_codes, stored_codes = codes[: len(sent)], codes[len(sent) :]
    wanted, there = (np.bincount(some, minlength=len(values)) for some in (sent_codes, stored_codes))
    surplus = np.maximum(there - wanted, 0)
    complete = wanted == there
    is_lost = _occurrences(sent_codes) >= there[sent_codes]
    ends = np.cumsum([len(socket) for socket in sockets], dtype=np.intp)
    return Comparison(
        sent=len(sent),
        stored=len(stored),
        lost=int(is_lost.sum()),
        repeated=int(surplus[wanted > 0].sum()),
        out_of_order=_late(sent_codes[complete[sent_codes]], stored_codes[complete[stored_codes]]),
        foreign=int(surplus[wanted == 0].sum()),
        cut_off=sum(_trailing(part) for part in np.split(is_lost, ends[:-1])),
    )


def _runs(digests: Digests) -> Digests:
    """Return a digest of each tick together with those behind it, RUN in all."""
    number = max(len(digests) - RUN + 1, 0)
    runs = np.zeros(number, np.uint64)
    for place in range(RUN):
        runs = runs * np.uint64(_FACTOR) + digests[place : place + number]
    return runs


def _count_in(some: Digests, ordered: Digests) -> int:
    """Return how many of `some` are among those `ordered`."""
    if not len(ordered):
        return 0
    places = np.minimum(np.searchsorted(ordered, some), len(ordered) - 1)
    return int((ordered[places] == some).sum())


def _occurrences(codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return for each code how many of the same there are before it."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    firsts = np.searchsorted(ordered, ordered)
    occurrences = np.empty(len(codes), np.intp)
    occurrences[order] = np.arange(len(codes)) - firsts
    return occurrences


def _late(sent: NDArray[np.intp], stored: NDArray[np.intp]) -> int:
    """Return how many of `stored` come behind one that is after them in `sent`, which has the same codes as often."""
    places = np.empty(len(sent), np.intp)  # in `sent`, of each stored one: the first of a code is the first there
    places[np.argsort(stored, kind="stable")] = np.argsort(sent, kind="stable")
    return int((places < np.maximum.accumulate(places)).sum()) if len(places) else 0


def _trailing(lost: NDArray[np.bool_]) -> int:
    """Return how many at the end are lost, all of them."""
    kept = np.flatnonzero(~lost)
    return len(lost) - int(kept[-1]) - 1 if len(kept) else len(lost)
