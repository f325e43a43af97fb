"""What is measured: something that records what the simulator sends into files."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bench.rig.simulator import Plan, Simulator, instruments_in
from pipeline.client import Client
from pipeline.errors import MdsError
from tests.integration.service import Service, Status, until

ROLES = ("supervisor", "writer", "worker-1", "worker-2", "worker-3")
STUCK_S = 20.0  # without a further tick on disk: what is missing does not come any more
POLL_S = 0.02
QUIET_S = 0.1  # without a further byte: worth counting the lines


class Recorder(Protocol):
    """A recorder that runs, connected to a simulator and subscribed to a plan."""

    data_dir: Path  # of the files market_data_*.jsonl

    @property
    def pids(self) -> dict[str, int]:
        """Its processes, by role."""

    @property
    def lines(self) -> Callable[[], int]:
        """Tells what is stored by now."""

    def behind(self) -> float:
        """Return for how many seconds the oldest tick waits that was received and is not stored."""

    def stop(self) -> None:
        """End it in order; everything that it has received is stored then."""

    def kill(self) -> None:
        """End whatever is left of it."""


class LineCount:
    """Counts the lines of a folder's tick files, each byte once however often it is asked."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._read: dict[Path, int] = {}  # bytes
        self._lines = 0

    def __call__(self) -> int:
        """Return how many lines there are by now."""
        for path in sorted(self._data_dir.glob("market_data_*.jsonl")):
            with path.open("rb", buffering=0) as file:
                file.seek(self._read.get(path, 0))
                while chunk := file.read(2**22):
                    self._lines += chunk.count(b"\n")
                    self._read[path] = file.tell()
        return self._lines


class Pipeline:
    """This project, as `mds run` starts it, subscribed as `mds subscribe` does. `settings` are sections of mds.toml."""

    def __init__(self, folder: Path, simulator: Simulator, plan: Plan, **settings: Mapping[str, Any]) -> None:
        kite = {"ws_url": simulator.url, "api_url": simulator.api_url}
        self.service = Service(folder / "service", **{"kite": kite, **settings})
        self.data_dir = self.service.data_dir
        self.run_dir = self.service.run_dir
        self.lines: Callable[[], int] = LineCount(self.data_dir)
        try:
            self.service.start()
            self.service.wait_for(lambda status: status["processes"]["worker-1"]["state"] == "running", "it runs")
            with Client(self.run_dir, timeout_s=30) as client:
                for number, modes in plan.items():
                    for mode, tokens in modes.items():
                        client.subscribe(tokens, mode=mode, connection_id=number)  # type: ignore[arg-type]  # a mode
            if instruments_in(plan):
                self.service.wait_until_live(*plan)
        except BaseException:
            self.kill()
            raise

    @property
    def pids(self) -> dict[str, int]:
        """Its processes, by role."""
        return {role: pid for role in ROLES if (pid := self.service.pid(role)) is not None}

    def status(self) -> Status:
        """Return what `mds status` tells. Raises AssertionError where nobody answers."""
        status = self.service.status()
        assert status is not None, "nobody answers `mds status`"
        return status

    def behind(self) -> float:
        """Return for how many seconds the oldest tick waits that was received and is not durable."""
        try:
            with Client(self.run_dir, timeout_s=5) as client:
                return client.metrics().lag_ms / 1000
        except MdsError:
            return float("inf")

    def stop(self) -> None:
        """End it in order."""
        code = self.service.stop()
        assert code == 0, f"mds run has ended with {code}: {self.service.errors()}"

    def kill(self) -> None:
        """End whatever is left of it."""
        self.service.kill_all()


class Drain(NamedTuple):
    """How a recording ended."""

    sent: int  # ticks, by the simulator, since it runs
    seconds: float  # from the last tick sent until the last byte was written, as the files have it


def drain(simulator: Simulator, recorder: Recorder, connections: int) -> Drain:
    """Let the simulator send nothing more, and wait until all that it has sent is stored, or nothing more comes.

    How long that took does not depend on how long it takes to see it: to count the lines may take seconds.
    """
    simulator.set_rate(0, connections)
    ended_ns, grown_s = time.time_ns(), time.monotonic()
    sent, size = simulator.sent, -1
    while True:
        now_size, now_s = tick_bytes(recorder.data_dir), time.monotonic()
        if now_size > size:
            size, grown_s = now_size, now_s
        elif now_s - grown_s > STUCK_S or (now_s - grown_s > QUIET_S and recorder.lines() >= sent):
            return Drain(sent, max(written_ns(recorder.data_dir) - ended_ns, 0) / 1e9)
        time.sleep(POLL_S)


def silence(simulator: Simulator, recorder: Recorder, connections: int) -> int:
    """Do as `drain`. Return how many ticks the simulator has sent."""
    return drain(simulator, recorder, connections).sent


def tick_bytes(data_dir: Path) -> int:
    """Return how much is in the tick files by now."""
    return sum(path.stat().st_size for path in data_dir.glob("market_data_*.jsonl"))


def written_ns(data_dir: Path) -> int:
    """Return when the last byte was written into the tick files, by the clock of `time.time_ns`; 0: there are none."""
    return max((path.stat().st_mtime_ns for path in data_dir.glob("market_data_*.jsonl")), default=0)


def wait_until_subscribed(simulator: Simulator, plan: Plan) -> None:
    """Wait until the simulator has the whole plan."""
    wanted = instruments_in(plan)

    def is_whole() -> bool:
        subscribed: int = sum(socket["subscribed"] for socket in simulator.stats()["connections"])
        return subscribed == wanted

    until(is_whole, f"{wanted} instruments are subscribed")
