"""A server that speaks Kite's protocol, with a market of its own: for demo, tests and benchmarks.

It is a program, `python -m pipeline.simulator`, and shares nothing with the recorder but the settings.
"""
