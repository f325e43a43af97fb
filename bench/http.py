"""What being looked at costs the recorder: `python -m bench.http`.

The service records its simulator, for a while alone and for a while with requests on /metrics, which come at their
times whatever becomes of those before (an open loop). Both are done in turn, several times over, so that a machine that
is slower for a while is not taken for the cost. Everything that the simulator has sent must be stored.
"""

import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import click

from bench.rig.ending import as_ctrl_c
from pipeline.client import Client
from tests.integration.service import Service

RECORDING = ("supervisor", "writer", "worker-1", "worker-2", "worker-3")
WARM_UP_S = 5.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")  # of CPU time in /proc


@click.command()
@click.option("--rate", default=10_000, show_default=True, metavar="N", help="Ticks a second in all.")
@click.option("--requests", default=100, show_default=True, metavar="N", help="Requests a second.")
@click.option(
    "--seconds", default=30, show_default=True, metavar="S", help="With requests, and as long without, in all."
)
@click.option("--turns", default=3, show_default=True, metavar="N", help="How often both are done.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(*, rate: int, requests: int, seconds: int, turns: int, as_json: bool) -> None:
    """Ask for the metrics of a running recorder, and compare what recording costs with and without."""
    with recording(rate) as (service, port):
        time.sleep(WARM_UP_S)
        cpu_s: dict[bool, dict[str, float]] = {False: defaultdict(float), True: defaultdict(float)}
        took_ms: list[float] = []
        for _ in range(turns):
            for is_asked in (False, True):
                before = cpu_seconds(service)
                if is_asked:
                    took_ms += asked(port, requests, seconds / turns)
                else:
                    time.sleep(seconds / turns)
                for role, now_s in cpu_seconds(service).items():
                    cpu_s[is_asked][role] += now_s - before[role]
        with Client(service.run_dir) as client:
            health = client.health()
        service.stop()
        report = service.verify()[1]
        received, stored, _ = (int(word.replace(",", "")) for word in service.output().split() if word[0].isdigit())
    alone_s, looked_at_s = (sum(cpu_s[is_asked][role] for role in RECORDING) for is_asked in (False, True))
    figures = {
        "ticks_per_second": rate,
        "requests_per_second": requests,
        "answers": len(took_ms),
        "p50_ms": round(statistics.median(took_ms), 2),
        "p99_ms": round(statistics.quantiles(took_ms, n=100)[98], 2),
        "max_ms": round(max(took_ms), 2),
        "ticks_received": received,
        "ticks_stored": stored,
        "missing": report["missing"] + report["gaps"] + received - stored,
        "cpu_alone_s": round(alone_s, 2),
        "cpu_looked_at_s": round(looked_at_s, 2),
        "cpu_more_percent": round((looked_at_s / alone_s - 1) * 100, 1),
        **{f"cpu_more_{role}_s": round(cpu_s[True][role] - cpu_s[False][role], 2) for role in RECORDING},
        "cpu_http_s": round(cpu_s[True]["http"], 2),
        "health": health.status,
    }
    if as_json:
        click.echo(json.dumps(figures))
    else:
        for name, value in figures.items():
            click.echo(f"{name.replace('_', ' '):24}{value:>14,}" if name != "health" else f"{name:24}{value:>14}")
    sys.exit(1 if figures["missing"] else 0)


@contextmanager
def recording(rate: int) -> Iterator[tuple[Service, int]]:
    """Run the service with its simulator in a folder of its own; at the end delete the folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with as_ctrl_c(), tempfile.TemporaryDirectory(prefix="mds-bench-http-") as folder:
        service = Service(
            Path(folder),
            simulator={"rate": rate // 2, "instruments": 2000},
            http={"listen": f"127.0.0.1:{port}"},
        )
        try:
            service.start("--simulate")
            service.wait_until_live(1, 2)
            yield service, port
        finally:
            service.kill_all()


def cpu_seconds(service: Service) -> dict[str, float]:
    """Return what each process has used."""
    seconds = {}
    for role in (*RECORDING, "http"):
        fields = Path(f"/proc/{service.pid(role)}/stat").read_text().rpartition(")")[2].split()
        seconds[role] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return seconds


def asked(port: int, per_second: int, seconds: float) -> list[float]:
    """Let a process of its own ask; return how many ms each answer took, counted from when it was due."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(ask_all, (port, per_second, seconds))


def ask_all(port: int, per_second: int, seconds: float) -> list[float]:
    """Send requests at their times, and wait for the answers."""
    return asyncio.run(_ask_all(port, per_second, seconds))


async def _ask_all(port: int, per_second: int, seconds: float) -> list[float]:
    began_s = time.monotonic()
    tasks = []
    for number in range(round(per_second * seconds)):
        due_s = began_s + number / per_second
        await asyncio.sleep(max(due_s - time.monotonic(), 0))
        tasks.append(asyncio.create_task(_ask(port, due_s)))
    return list(await asyncio.gather(*tasks))


async def _ask(port: int, due_s: float) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer[:200]
    assert b"\nmds_up 1.0\n" in answer
    writer.close()
    return (time.monotonic() - due_s) * 1000


if __name__ == "__main__":
    main()
