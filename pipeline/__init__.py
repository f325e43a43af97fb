"""Market Data Service: records every tick of a Kite Connect feed into daily JSONL files, exactly once."""

__version__ = "0.1.0"
