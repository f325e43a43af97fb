"""The recorder as a user runs it: `mds run` in a folder of its own, watched, killed, stopped and read back."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import zmq

from pipeline.client import Client
from pipeline.errors import MdsError
from pipeline.role import endpoint
from pipeline.wire import CONTROL_SOCKET

MDS = Path(sys.executable).with_name("mds")
DEADLINE_S = 40.0  # for anything to come true; nothing is expected to take a tenth of it
CLEAN = {"gaps": 0, "duplicates": 0, "torn": 0, "invalid": 0, "out_of_order": 0, "missing": 0}

Status = dict[str, Any]
Stream = tuple[int, int]  # connection_id and epoch


class Service:
    """One data folder and what runs on it. `settings` are sections of mds.toml."""

    def __init__(self, folder: Path, **settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.program = MDS
        self.runs: list[subprocess.Popen[bytes]] = []
        storage = settings.get("storage", {})
        self.data_dir = folder / storage.get("data_dir", "market_data")
        self.spool_dir = folder / storage.get("spool_dir", self.data_dir / "spool")
        self.run_dir = folder / settings.get("runtime", {}).get("run_dir", "run")
        sections = (
            f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in s.items()) for name, s in settings.items()
        )
        (folder / "mds.toml").write_text("".join(sections))
        # The variable is set for its own sake too: it marks every process that belongs to this service.
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("MDS_")} | {
            "KITE_API_KEY": "made-up-key",
            "KITE_ACCESS_TOKEN": "made-up-token",
            "XDG_CONFIG_HOME": str(folder / "config"),
            "MDS_RUNTIME__RUN_DIR": str(self.run_dir),
            **({} if "http" in settings else {"MDS_HTTP__LISTEN": ""}),  # many of them run side by side
            **({} if "market" in settings else {"MDS_MARKET__CALENDAR": ""}),  # whatever the hour of the test
            **({} if "instruments" in settings else {"MDS_INSTRUMENTS__SYNC": "false"}),
        }

    # Running.

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `mds run`."""
        name = self.folder / f"mds-run-{len(self.runs) + 1}"
        with name.with_suffix(".out").open("wb") as out, name.with_suffix(".err").open("wb") as err:
            run = subprocess.Popen(
                [self.program, "run", *arguments],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.runs.append(run)
        return run

    def give(self, **variables: str) -> None:
        """Set environment variables for what is started from now on."""
        self._environment |= variables

    def mds(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run another command to its end."""
        return subprocess.run(
            [self.program, *arguments],
            check=False,
            cwd=self.folder,
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

    def output(self, run: int = -1) -> str:
        """Return what an `mds run` has printed on stdout."""
        return self._file(run, ".out").read_text()

    def errors(self, run: int = -1) -> str:
        """Return what an `mds run` has printed on stderr."""
        return self._file(run, ".err").read_text()

    def status(self) -> Status | None:
        """Return what `mds status --json` prints, None where nobody answers."""
        try:
            with Client(self.run_dir, timeout_s=2) as client:
                return client.status().model_dump()
        except MdsError:
            return None

    def wait_for(self, condition: Callable[[Status], Any], what: str) -> Status:
        """Wait until the status fulfils a condition, and return it."""
        found: list[Status] = []

        def holds() -> bool:
            status = self.status()
            if status is None or not condition(status):
                return False
            found.append(status)
            return True

        until(holds, what)
        return found[0]

    def wait_until_live(self, *connections: int) -> Status:
        """Wait until connections are open and subscribed to all that they should be."""

        def all_live(status: Status) -> bool:
            chosen = [status["connections"][str(c)] for c in connections]
            return all(
                c["state"] == "live" and c["confirmed_instruments"] == c["subscribed_instruments"] for c in chosen
            )

        return self.wait_for(all_live, f"connections {connections} are live")

    def wait_until_settled(self) -> Status:
        """Wait until it records, with all that is subscribed sent to Kite, and nothing else."""

        def settled(status: Status) -> bool:
            used = [c for c in status["connections"].values() if c["state"] != "off"]
            return status["storage"]["state"] == "recording" and all(
                c["state"] != "starting" and c["confirmed_instruments"] == c["subscribed_instruments"] for c in used
            )

        return self.wait_for(settled, "all that is subscribed is sent to Kite")

    def pid(self, role: str) -> int | None:
        """Return the pid of a role that is running, as its lock file says."""
        try:
            pid: int = json.loads((self.run_dir / f"{role}.lock").read_bytes())["pid"]
        except (OSError, ValueError):
            return None
        return pid if self._is_ours(pid) else None

    def send(self, role: str, number: int) -> int:
        """Send a signal to a role as soon as it runs; return its pid."""
        until(lambda: self.pid(role), f"{role} runs")
        pid = self.pid(role)
        assert pid
        os.kill(pid, number)
        return pid

    def kill(self, role: str) -> None:
        """Kill a role with SIGKILL and wait until it is gone."""
        pid = self.send(role, signal.SIGKILL)
        if role == "supervisor":
            self.runs[-1].wait(DEADLINE_S)
        until(lambda: not self._is_ours(pid), f"{role} is gone")

    def stop(self, number: int = signal.SIGINT) -> int:
        """End `mds run` in order; return its exit code."""
        self.runs[-1].send_signal(number)
        return self.wait_for_end()

    def wait_for_end(self) -> int:
        """Return the exit code of `mds run`; nothing may survive it."""
        code = self.runs[-1].wait(DEADLINE_S)
        assert not self.processes()
        return code

    def processes(self) -> list[int]:
        """Return the pids of all that runs for this service."""
        return [
            int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and self._is_ours(int(path.name))
        ]

    def resident_kb(self) -> dict[str, int]:
        """Return the resident memory of all processes of this service, as sums: `Rss` and `Pss` in kB."""
        sums: dict[str, int] = defaultdict(int)
        for pid in self.processes():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            for name, kb in re.findall(r"^(Rss|Pss):\s+(\d+) kB", rollup, re.MULTILINE):
                sums[name] += int(kb)
        return sums

    def kill_all(self) -> None:
        """Kill whatever is left, children that are just being started included."""
        while pids := self.processes():
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            for run in self.runs:
                run.wait(DEADLINE_S)
            time.sleep(0.01)

    # What it has stored.

    def verify(self) -> tuple[int, dict[str, Any]]:
        """Return the exit code and the answer of `mds verify --json`."""
        done = self.mds("verify", "--json")
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def assert_verified(self, **differences: Any) -> dict[str, Any]:
        """Check that `mds verify` finds nothing wrong but these differences; return its report."""
        code, report = self.verify()
        expected = CLEAN | {"chain": "ok", "pending": 0} | differences
        assert ({key: report[key] for key in expected}, code) == (expected, 1 if report["problems"] else 0), report
        return report

    def ticks(self) -> list[dict[str, Any]]:
        """Return all stored ticks in the order of the files."""
        return _lines(self.data_dir, "market_data_*.jsonl")

    def streams(self) -> dict[Stream, list[dict[str, Any]]]:
        """Return the stored ticks of each stream, in order of epochs; their numbers must be 1, 2, 3, ..."""
        streams: dict[Stream, list[dict[str, Any]]] = defaultdict(list)
        for tick in self.ticks():
            streams[tick["connection_id"], tick["epoch"]].append(tick)
        for stream, ticks in streams.items():
            assert [tick["seq"] for tick in ticks] == list(range(1, len(ticks) + 1)), f"numbers of {stream}"
        return dict(sorted(streams.items()))

    def events(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Return the events of this kind with these fields."""
        return [
            e
            for e in _lines(self.data_dir, "events_*.jsonl")
            if event in (None, e["event"]) and all(e.get(key) == value for key, value in fields.items())
        ]

    def stored(self) -> int:
        """Return how many lines the tick files have by now."""
        return sum(path.read_bytes().count(b"\n") for path in self.data_dir.glob("market_data_*.jsonl"))

    def logs(self) -> str:
        """Return all logs, for a failed test to show."""
        paths = [*sorted(self.folder.glob("mds-run-*")), *sorted(self.run_dir.glob("*.log"))]
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-6000:]}" for path in paths)

    def _file(self, run: int, suffix: str) -> Path:
        return self.folder / f"mds-run-{range(1, len(self.runs) + 1)[run]}{suffix}"

    def _is_ours(self, pid: int) -> bool:
        """Tell whether a process runs for this service: its environment names the run folder."""
        try:
            return os.fsencode(self.run_dir) in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False


class Raw:
    """A client of the control socket that keeps to no rule. A context manager."""

    def __init__(self, run_dir: Path, kind: int = zmq.DEALER) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(kind)
        self._socket.connect(endpoint(run_dir, CONTROL_SOCKET))

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=1000)  # what was sent goes out, answers are not waited for

    def send(self, *parts: bytes) -> None:
        """Send a message as it is."""
        self._socket.send_multipart(parts)

    def ask(self, method: str, params: Any) -> None:
        """Send a request; do not wait."""
        self.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())

    def has_answer(self) -> bool:
        """Tell whether an answer has come."""
        return bool(self._socket.poll(0))

    def answer(self) -> dict[str, Any]:
        """Return the next answer."""
        assert self._socket.poll(round(DEADLINE_S * 1000)), "no answer"
        found: dict[str, Any] = json.loads(self._socket.recv_multipart()[-1])
        return found


def pairs(modes: dict[str, str]) -> list[tuple[str, str]]:
    """Return something by which what connections have can be sorted."""
    return sorted(modes.items())


def _lines(folder: Path, pattern: str) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob(pattern)) for line in path.read_bytes().splitlines()]


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition; fail, naming it, when it does not come true."""
    give_up_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up_s, f"waited {deadline_s} s in vain: {what}"
        time.sleep(0.02)
