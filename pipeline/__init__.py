"""Market Data Service: records every tick of a Kite Connect feed into daily JSONL files, exactly once.

From Python: `pipeline.MarketDataService` starts and asks a recorder, `pipeline.Client` asks one that is running. They
are imported when they are first named: every process of the service imports this module.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.client import Client
    from pipeline.service import MarketDataService

__all__ = ["Client", "MarketDataService", "__version__"]

__version__ = "0.1.0"

_LAZY = {"Client": "pipeline.client", "MarketDataService": "pipeline.service"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
