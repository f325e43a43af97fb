"""Where everything durable ends: written down about once a second, so that a start need not read whole files."""

import logging
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from pipeline.wire import Mark, StreamId

log = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """Sizes up to which files are settled, marks of all streams, and epochs that are done with, by connection."""

    files: dict[str, int] = field(default_factory=dict)
    marks: dict[StreamId, Mark] = field(default_factory=dict)
    retired: dict[int, int] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return it as JSON with a checksum."""
        body = orjson.dumps(
            {
                "files": self.files,
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
        return cls(inner["files"], marks, dict(inner["retired"]))


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Return the checkpoint; None where there is none. One that is damaged is kept under another name."""
    try:
        return Checkpoint.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        kept = path.with_suffix(".damaged")
        path.replace(kept)
        log.error("%s is damaged (%s), kept as %s", path, error, kept.name)
        return None
