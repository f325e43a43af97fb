"""What Kite's list of instruments costs: `python -m bench.instruments`.

A made-up list, about as Kite's is made up (shares on two exchanges, futures, and options for most of it), is served on
loopback, and fetched by the process that the recorder starts once a day: the official client reads it, it is compared
with one that was there before, and kept. Its CPU time is that of the whole process, user and system, from its start to
its end, and its memory the peak.

Then another process reads what was kept, and asks: each question several times, on different instruments. CPU time is
told for reading, elapsed time for questions, of which the slowest counts; the first search comes after none.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, product
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any, Final

import click

from bench.rig import show
from bench.rig.usage import resident_mb
from pipeline import config, role
from pipeline.instruments.listing import Listing, newest, read
from pipeline.instruments.rows import COLUMNS

TARGETS: Final = {
    "sync_cpu_s": 3.0,
    "read_cpu_s": 0.5,
    "read_mb": 60.0,
    "lookup_ms": 1.0,
    "find_ms": 100.0,
    "near_ms": 150.0,
    "derivatives_ms": 50.0,
}
EXPIRIES: Final = ("2025-10-07", "2025-10-14", "2025-10-20", "2025-10-28", "2025-11-25", "2025-12-30")
SHARES: Final = 0.1  # of all instruments, on each of two exchanges
STRIKES: Final = range(15_000, 30_000, 50)
MONTHS: Final = "JFMAMJJASOND"


@click.command(context_settings={"max_content_width": 110, "show_default": True})
@click.option("--instruments", type=click.IntRange(100, 500_000), default=100_000, metavar="N", help="On the list.")
@click.option("--rounds", type=click.IntRange(min=1), default=20, metavar="N", help="How often each question is asked.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(*, instruments: int, rounds: int, as_json: bool) -> None:
    """Measure fetching, reading and searching a list of N instruments."""
    show.note(f"making a list of {instruments:,} instruments")
    text = made(instruments)
    with tempfile.TemporaryDirectory(prefix="mds-bench-instruments-") as folder, served(text) as url:
        show.note("fetching it, the second time with one to compare it with")
        fetched(Path(folder), url)
        figures = fetched(Path(folder), url)
        kept = newest(Path(folder))
        assert kept is not None
        figures |= {"instruments": instruments, "list_mb": len(text) / 1e6, "kept_mb": kept.stat().st_size / 1e6}
        show.note("reading and searching it")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            figures |= fresh.submit(asked, kept, rounds).result()
    targets = [[name, f"{figures[name]:,.3f}", f"{target:,g}"] for name, target in TARGETS.items()]
    others = [[name, f"{value:,.3f}", ""] for name, value in figures.items() if name not in TARGETS]
    show.show(figures | {"targets": TARGETS}, [("|>measured|>at most", targets + others)], as_json=as_json)


def made(count: int) -> bytes:
    """Return a list of so many instruments as Kite serves it."""
    lines = islice(_lines(count), count)
    return "\n".join((",".join(COLUMNS), *lines, "")).encode()


def _lines(count: int) -> Iterator[str]:
    chosen = random.Random(1)
    shares = max(round(count * SHARES), 1)
    names: list[str] = []
    for number in range(shares):
        word = "".join(chosen.choices("ABCDEFGHIKLMNOPRSTUVY", k=chosen.randint(3, 9)))
        names.append(f"{word}{number}" if number % 3 else word)
    names = list(dict.fromkeys(names))
    for exchange, code in (("NSE", 1), ("BSE", 4)):
        for number, name in enumerate(names):
            token = (number + 1) * 256 + code
            yield f'{token},{number},{name},"{name} INDUSTRIES LIMITED",0,,0,0.05,1,EQ,{exchange},{exchange}'
    for number, (name, expiry, strike, kind) in enumerate(product(["NIFTY", *names], EXPIRIES, STRIKES, ("CE", "PE"))):
        letter = MONTHS[int(expiry[5:7]) - 1]
        symbol = f"{name}{expiry[2:4]}{letter}{expiry[8:]}{strike}{kind}"
        token = (number + 1) * 256 + 2
        yield f'{token},{number},{symbol},"{name}",0,{expiry},{strike},0.05,75,{kind},NFO-OPT,NFO'


@contextmanager
def served(text: bytes) -> Iterator[str]:
    """Serve a list as Kite does, and yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/csv")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fetched(folder: Path, url: str) -> dict[str, float]:
    """Fetch the list as the recorder does; return what the process has used."""
    settings = config.Config().with_changes(kite={"api_url": url}, storage={"data_dir": folder})
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MDS_", "KITE_"))}
    before, began = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipeline.instruments.sync"],
        env=environment | settings.to_child(),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    used = getrusage(RUSAGE_CHILDREN)
    return {
        "sync_cpu_s": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "sync_elapsed_s": time.perf_counter() - began,
        "sync_peak_mb": used.ru_maxrss / 1000,
    }


def asked(path: Path, rounds: int) -> dict[str, float]:
    """Read a list, ask it, and return what that takes."""
    before_mb, began = resident_mb(os.getpid()), time.process_time()
    listing = read(path)
    figures = {"read_cpu_s": time.process_time() - began, "read_mb": resident_mb(os.getpid()) - before_mb}
    role.spare_collector()  # as processes of the recorder do
    for name, ask in asked_of(listing, rounds).items():
        times_ms = [timed_ms(question) for question in ask]
        figures |= {f"{name}_ms": max(times_ms), f"{name}_median_ms": statistics.median(times_ms)}
    return figures


def asked_of(listing: Listing, rounds: int) -> dict[str, Sequence[Callable[[], Any]]]:
    """Return questions of each kind."""
    chosen = random.Random(2)
    names = dict(listing.names)
    some = chosen.sample(sorted(names), min(rounds, len(names)))
    underlyings = [found.name for token in some if (found := listing.by_token(token))]
    return {
        "lookup": [ask for token in some for ask in lookups(listing, token, names[token])],
        "find": [partial(listing.find, text) for text in (*underlyings, "e", "1", "nifty", "nifty 248 ce")],
        "near": [partial(listing.near, misspelt(names[token], chosen)) for token in some],
        "derivatives": [partial(listing.derivatives, "NFO", name) for name in ("NIFTY", *underlyings)],
    }


def lookups(listing: Listing, token: int, symbol: str) -> list[Callable[[], Any]]:
    """Return the questions for one instrument."""
    return [partial(listing.by_token, token), partial(listing.by_symbol, symbol), partial(listing.token, symbol)]


def misspelt(symbol: str, chosen: random.Random) -> str:
    """Return a symbol with two wrong letters."""
    letters = list(symbol)
    for _ in range(2):
        letters[chosen.randrange(symbol.index(":") + 2, len(letters))] = chosen.choice("XQZ")
    return "".join(letters)


def timed_ms(question: Callable[[], Any]) -> float:
    """Return how long an answer takes."""
    began = time.perf_counter()
    question()
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
