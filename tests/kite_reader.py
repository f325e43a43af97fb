"""Reads a feed with the official client, unmodified, and prints what it parsed: a program for tests.

    python kite_reader.py URL NUMBER < {"full": [token, ...], "quote": [...], "ltp": [...]}

After NUMBER ticks it unsubscribes everything, waits for a heartbeat (nothing is on its way any more then), prints all
ticks as one line of JSON, times as Unix seconds, and stays connected until it is killed.
"""

import json
import sys

from kiteconnect import KiteTicker


def main() -> None:
    """Run the reactor for good."""
    url, number = sys.argv[1], int(sys.argv[2])
    modes = json.load(sys.stdin)
    every = [token for tokens in modes.values() for token in tokens]
    ticks: list[dict[str, object]] = []
    state = {"done": False}
    kws = KiteTicker("key", "token", root=url)

    def on_connect(ws, _response):
        ws.subscribe(every)
        for mode, tokens in modes.items():
            ws.set_mode(mode, tokens)

    def on_ticks(ws, some):
        ticks.extend(some)
        if len(ticks) >= number and not state["done"]:
            state["done"] = True
            ws.unsubscribe(every)

    def on_message(_ws, payload, is_binary):
        if state["done"] and is_binary and len(payload) == 1:
            print(json.dumps(ticks, default=lambda time: time.timestamp()), flush=True)  # noqa: T201  its output

    kws.on_connect, kws.on_ticks, kws.on_message = on_connect, on_ticks, on_message
    kws.connect()


if __name__ == "__main__":
    main()
