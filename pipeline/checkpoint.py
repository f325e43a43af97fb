"""Where everything durable ends: written down about once a second, so that a start need not read whole files.

It also has how many lines the files have up to there, as far as the writer knows. Readers count on from there.
"""

import logging
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from pipeline.files import Extent
from pipeline.wire import Mark, StreamId

log = logging.getLogger(__name__)

_DAMAGE = (ValueError, KeyError, TypeError, AttributeError)


@dataclass
class Checkpoint:
    """How far files are settled, marks of all streams, and epochs that are done with, by connection."""

    files: dict[str, Extent] = field(default_factory=dict)
    marks: dict[StreamId, Mark] = field(default_factory=dict)
    retired: dict[int, int] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return it as JSON with a checksum."""
        body = orjson.dumps(
            {
                "files": {name: extent.bytes for name, extent in self.files.items()},
                "lines": {name: extent.lines for name, extent in self.files.items() if extent.lines is not None},
                "streams": [(*stream, *mark) for stream, mark in self.marks.items()],
                "retired": [list(item) for item in self.retired.items()],
            }
        )
        return orjson.dumps({"version": 1, "crc32": zlib.crc32(body), "body": body.decode()})

    @classmethod
    def decode(cls, data: bytes) -> "Checkpoint":
        """Raises ValueError, KeyError or TypeError on what `encode` has not made."""
        outer = orjson.loads(data)
        body = outer["body"].encode()
        if outer["version"] != 1 or zlib.crc32(body) != outer["crc32"]:
            raise ValueError("wrong version or checksum")
        inner = orjson.loads(body)
        marks = {StreamId(c, e): Mark(seq, event_seq) for c, e, seq, event_seq in inner["streams"]}
        lines = inner.get("lines", {})  # not in those of older programs
        files = {name: Extent(size, lines.get(name)) for name, size in inner["files"].items()}
        return cls(files, marks, dict(inner["retired"]))


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Return the checkpoint for its owner; None where there is none. One that is damaged is kept under another name."""
    try:
        return Checkpoint.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except _DAMAGE as error:
        kept = path.with_suffix(".damaged")
        path.replace(kept)
        log.error("%s is damaged (%s), kept as %s", path, error, kept.name)
        return None


def peek(path: Path) -> Checkpoint:
    """Return the checkpoint for others than its owner: an empty one where none can be read."""
    try:
        return Checkpoint.decode(path.read_bytes())
    except (OSError, *_DAMAGE):
        return Checkpoint()
