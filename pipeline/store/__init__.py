"""Reading back what was recorded, and keeping it: the JSONL of days that are over may become Parquet, or go.

Only `parquet` and `keeping` write, and only what no writer has open. What reads ticks as columns needs the packages of
the extra `analysis`; the rest does without. The main ways in: `frames` and `stream` (ticks), `follow` (as they come),
`verify` and `completeness` (is it all there), `analysis`, `bars` and `report` (what is in it).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.store.manager import StorageManager

__all__ = ["StorageManager"]


def __getattr__(name: str) -> Any:
    # Imported when it is named: most of what is in here is imported without it.
    if name != "StorageManager":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("pipeline.store.manager").StorageManager
