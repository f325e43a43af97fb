"""Reading back what was recorded, and keeping it: the JSONL of days that are over may become Parquet, or go.

Only `parquet` and `keeping` write, and only what no writer has open. What reads ticks as columns needs the packages of
the extra `analysis`; the rest does without. The main ways in: `frames` and `stream` (ticks), `follow` (as they come),
`verify` and `completeness` (is it all there), `analysis`, `bars` and `report` (what is in it).
"""
