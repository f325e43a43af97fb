"""Ticks of closed days as Parquet: made part by part, proved against the JSONL, and read back."""
