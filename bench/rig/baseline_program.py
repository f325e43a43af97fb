"""Today's recorder, as a comparison: `python -m bench.rig.baseline_program`, started by `bench.rig.baseline`.

The design that people use before they have this project, in one process: for each connection a KiteTicker of the
official client, with its own parser, all on the one Twisted reactor; its ticks are copied, stamped, and written under a
lock, one JSON line each, to a line-buffered file. Each thing is done as often as there, and none is done slower: the
clock and the date are looked at once a message, the lock is taken twice, logging is left out. JSON comes from one
encoder that is made once, as `json.dumps` has one where it is given no options; `default=str` is what full ticks need,
as they have datetimes.

A JSON object on stdin says what to do: `url`, `data_dir`, `plan` (tokens by connection and mode). It records until
stdin ends, so that it never outlives who has started it.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any, TextIO

from kiteconnect import KiteTicker

CLOSE_S = 5.0  # for the server to answer the closing handshakes

Tick = dict[str, Any]

encoded: Callable[[Tick], str] = json.JSONEncoder(default=str).encode


class Storage:
    """The file of the day, which all connections share."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lock = threading.Lock()
        self._date: date | None = None
        self._file: TextIO

    def store(self, ticks: list[Tick], connection_id: int) -> None:
        """Write ticks, one line each."""
        timestamp = datetime.now().isoformat()  # noqa: DTZ005  naive, as it is there
        with self._lock:
            self._open()
            write = self._file.write
            for tick in ticks:
                stamped = tick.copy()
                stamped["timestamp"] = timestamp
                stamped["connection_id"] = connection_id
                write(encoded(stamped) + "\n")

    def _open(self) -> None:
        today = date.today()  # noqa: DTZ011
        if self._date == today:
            return
        if self._date is not None:
            self._file.close()
        path = self._data_dir / f"market_data_{today}.jsonl"
        self._file = path.open("a", buffering=1)
        self._date = today


class Recorder:
    """A KiteTicker for each connection of a plan, and what they share."""

    def __init__(self, url: str, data_dir: Path, plan: dict[str, dict[str, list[int]]]) -> None:
        self._storage = Storage(data_dir)
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(map(int, plan), 0)
        self._last_tick_time: dict[int, datetime] = {}
        self._tickers = [self._ticker(url, int(number), modes) for number, modes in plan.items()]

    def start(self) -> None:
        """Connect; the reactor that the first one starts serves all."""
        for ticker in self._tickers:
            ticker.connect(threaded=True)

    def stop(self) -> None:
        """Close the connections; what has been received is stored then."""
        for ticker in self._tickers:
            ticker.close()
        give_up_s = time.monotonic() + CLOSE_S
        while any(ticker.is_connected() for ticker in self._tickers) and time.monotonic() < give_up_s:
            time.sleep(0.02)

    def _ticker(self, url: str, connection_id: int, modes: dict[str, list[int]]) -> KiteTicker:
        def on_ticks(_: KiteTicker, ticks: list[Tick]) -> None:
            with self._lock:
                self._counts[connection_id] += len(ticks)
                self._last_tick_time[connection_id] = datetime.now()  # noqa: DTZ005
            self._storage.store(ticks, connection_id)

        def on_connect(ticker: KiteTicker, _: Any) -> None:
            for mode, tokens in modes.items():
                ticker.subscribe(tokens)
                ticker.set_mode(mode, tokens)

        ticker = KiteTicker("made-up-key", "made-up-token", root=url)
        ticker.on_ticks = on_ticks
        ticker.on_connect = on_connect
        return ticker


def main() -> None:
    """Record until stdin ends."""
    order = json.loads(sys.stdin.readline())
    recorder = Recorder(order["url"], Path(order["data_dir"]), order["plan"])
    recorder.start()
    sys.stdin.read()
    recorder.stop()


if __name__ == "__main__":
    main()
