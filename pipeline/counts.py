"""How far the files go that the checkpoint names no more: `counts.json`, written when a day leaves the checkpoint.

It is there for readers, which else have to count the lines of these files themselves. It may be lost.
"""

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pipeline.durable import replace_durably
from pipeline.files import COUNTS, Extent

log = logging.getLogger(__name__)

_decode = msgspec.json.Decoder(dict[str, Extent]).decode


def read_counts(state_dir: Path) -> dict[str, Extent]:
    """Return what is known by file name; nothing where nothing can be read."""
    with contextlib.suppress(OSError, ValueError):
        return _decode((state_dir / COUNTS).read_bytes())
    return {}


def add_counts(data_dir: Path, state_dir: Path, extents: Mapping[str, Extent]) -> None:
    """Take in these, and drop what is known of files that are gone. Where it cannot be written, the log says so."""
    known = read_counts(state_dir) | dict(extents)
    there = {name: extent for name, extent in known.items() if (data_dir / name).exists()}
    try:
        replace_durably(state_dir / COUNTS, msgspec.json.encode(there))
    except OSError as error:
        log.warning("%s: %s; mds files will have to count the lines of older files", COUNTS, error.strerror)
