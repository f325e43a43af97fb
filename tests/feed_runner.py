"""Runs feeds in a process of their own, since a process has one reactor: commands in, events out, as JSON lines.

Everything is logged at debug level to stderr, Twisted and autobahn included, so that a test can look for secrets there.
The feeds' clock stands still until a command moves it: what a test sees never depends on how fast the machine is.
"""

import asyncio
import importlib
import json
import logging
import sys
import time
from dataclasses import asdict
from typing import Any

from pipeline.kite.feed import Batch, Feed, StateChange, install_reactor


def emit(feed: str, event: str, **fields: Any) -> None:
    print(json.dumps({"feed": feed, "event": event, **fields}), flush=True)  # noqa: T201  stdout is the answer


class Recorder:
    """A listener that prints what it hears, and raises when it is told to."""

    def __init__(self, feed: str, raises: bool) -> None:
        self._feed = feed
        self._raises = raises

    def on_frame(self, payload: bytes) -> None:
        emit(self._feed, "frame", size=len(payload), data=payload[:100].hex())
        self._maybe_raise()

    def on_text(self, payload: bytes) -> None:
        emit(self._feed, "text", size=len(payload), data=payload[:100].hex())
        self._maybe_raise()

    def on_state(self, change: StateChange) -> None:
        emit(self._feed, "state", **asdict(change))
        self._maybe_raise()

    def on_sent(self, batch: Batch) -> None:
        emit(self._feed, "sent", **asdict(batch))
        self._maybe_raise()

    def _maybe_raise(self) -> None:
        if self._raises:
            raise ValueError("the listener was told to raise")


class Runner:
    def __init__(self) -> None:
        self._feeds: dict[str, Feed] = {}
        self._now_s = 0.0
        self._reactor: Any = sys.modules["twisted.internet.reactor"]

    async def obey(self, name: str, do: str, **args: Any) -> None:
        if do == "new":
            clock = time.monotonic if args.pop("real_clock", False) else self._clock
            listener = Recorder(name, args.pop("raises", False))
            self._feeds[name] = Feed(listener=listener, clock=clock, **args)
        elif do == "advance":
            self._now_s += args["seconds"]
            for feed in self._feeds.values():
                feed._wake.set()
        feed = self._feeds[name]
        if do == "start":
            feed.start()
        elif do == "wanted":
            feed.set_instruments({int(token): mode for token, mode in args["wanted"].items()})
        elif do == "credentials":
            feed.set_credentials(args["api_key"], args["access_token"])
        elif do == "stop":
            await feed.stop()
        for _ in range(20):  # so that whatever the command set off without any input has happened
            await asyncio.sleep(0)
        timers = len(self._reactor.getDelayedCalls())
        confirmed = {str(token): mode for token, mode in feed.confirmed.items()}
        emit(name, "done", do=do, state=feed.state, confirmed=confirmed, errors=feed.listener_errors, timers=timers)
        if do == "stop":
            del self._feeds[name]

    def _clock(self) -> float:
        return self._now_s


def log_everything() -> None:
    txaio: Any = importlib.import_module("txaio")  # untyped, like the observers
    twisted: Any = importlib.import_module("twisted.logger")
    from autobahn.twisted.websocket import WebSocketClientProtocol

    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    observers = [twisted.STDLibLogObserver(), twisted.textFileLogObserver(sys.stderr)]
    twisted.globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)
    txaio.set_global_log_level("trace")
    WebSocketClientProtocol.log.debug("autobahn logs at debug level here")


async def main() -> None:
    install_reactor(asyncio.get_running_loop())
    log_everything()
    runner = Runner()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        task = asyncio.create_task(runner.obey(**json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


if __name__ == "__main__":
    asyncio.run(main())
