"""Market Data Service: records every tick of a Kite Connect feed into daily JSONL files, exactly once.

From Python: `MarketDataService` starts and asks a recorder, `Client` asks one that is running; `read_ticks`,
`iter_ticks` and what stands beside them read what was recorded. They are imported when they are first named: every
process of the service imports this module.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.extras import explain

if TYPE_CHECKING:
    from pipeline.client import Client
    from pipeline.service import MarketDataService
    from pipeline.store.analysis import analyze_tick_data
    from pipeline.store.bars import bars
    from pipeline.store.follow import follow
    from pipeline.store.frames import read_jsonl_to_dataframe, read_ticks
    from pipeline.store.manager import StorageManager
    from pipeline.store.stream import iter_ticks

__all__ = [
    "Client",
    "MarketDataService",
    "StorageManager",
    "__version__",
    "analyze_tick_data",
    "bars",
    "follow",
    "iter_ticks",
    "read_jsonl_to_dataframe",
    "read_ticks",
]

__version__ = "1.0.0"

_LAZY = {
    "Client": "pipeline.client",
    "MarketDataService": "pipeline.service",
    "StorageManager": "pipeline.store.manager",
    "analyze_tick_data": "pipeline.store.analysis",
    "bars": "pipeline.store.bars",
    "follow": "pipeline.store.follow",
    "iter_ticks": "pipeline.store.stream",
    "read_jsonl_to_dataframe": "pipeline.store.frames",
    "read_ticks": "pipeline.store.frames",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_LAZY[name]), name)
    except ImportError as error:
        raise explain(error, f"pipeline.{name}") from error
