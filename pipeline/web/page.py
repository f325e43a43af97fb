"""The dashboard as one document, and what a browser may do with it.

Style and script stand in the document itself, and the content security policy names them by their hashes: the browser
runs these two and nothing else, and loads nothing from anywhere but this server.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "page"
NAME = "dashboard"
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# The page of the API has a script and styles of its own in it, which come with a library; no data goes into it.
DOCS = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Page(NamedTuple):
    """A document, and its content security policy."""

    document: bytes
    policy: str


def load(folder: Path = FOLDER) -> Page:
    """Put style and script into the document, at the comments that name them. Raises ValueError where that fails."""
    document = (folder / f"{NAME}.html").read_text(encoding="utf-8")
    hashes = {}
    for suffix, tag in (("css", "style"), ("js", "script")):
        place, content = f"<!-- {NAME}.{suffix} -->", (folder / f"{NAME}.{suffix}").read_text(encoding="utf-8")
        if document.count(place) != 1 or re.search(rf"</{tag}|<!--", content, re.IGNORECASE):
            raise ValueError(f"{folder}: {place} has to stand in the document once, and the file must not end the tag")
        document = document.replace(place, f"<{tag}>{content}</{tag}>")
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[tag] = f"'sha256-{digest}'"
    policy = (
        f"{NOTHING}; script-src {hashes['script']}; style-src {hashes['style']}; connect-src 'self'; img-src 'self'"
    )
    return Page(document.encode(), policy)
