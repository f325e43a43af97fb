"""The simulator as a process, as `mds simulate` starts it."""

import ctypes
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import MAX_INSTRUMENTS
from tests.integration.service import MDS

MODES = {"quote": ("quote",), "full": ("full",), "ltp": ("ltp",), "mixed": ("quote", "full", "ltp")}
RATE_MAX = 1_000_000  # of one connection
LAST_WORDS = 5  # lines of the log
PR_SET_PDEATHSIG = 1  # prctl(2)

_libc = ctypes.CDLL(None)

Plan = dict[int, dict[str, list[int]]]  # tokens by connection and mode


class Simulator:
    """One that runs, without a tick before `set_rate`. A context manager. Raises AssertionError if it does not start.

    It ends with the benchmark however that ends, SIGKILL included: one that goes on sending would fill the disk.
    `sent_files` has, where it was asked to keep a record, what each socket was sent; they are whole when it has ended.
    """

    role = "simulator"

    def __init__(self, folder: Path, *, frame_ticks: int = 0, instruments: int = 1, keep_record: bool = False) -> None:
        self.folder = folder / "simulator"
        self.folder.mkdir(parents=True)
        options = {"rate": 0, "frame-ticks": frame_ticks, "instruments": instruments}
        words = [f"--{name}={value}" for name, value in options.items()]
        if keep_record:
            words.append(f"--record={self.folder}")
        theirs = ("KITE_", "MDS_")  # whose credentials would be the only ones that it accepts
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [MDS, "simulate", *words],
                cwd=self.folder,
                env={name: value for name, value in os.environ.items() if not name.startswith(theirs)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the benchmark, which ends it when it has read its counts
                preexec_fn=_end_with_parent,  # noqa: PLW1509  one system call, which takes no lock
            )
        try:
            self.url, self.api_url = self._told(), self._told()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Simulator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, if it still runs."""
        self.process.terminate()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def pids(self) -> dict[str, int]:
        """Its process, by role."""
        return {self.role: self.process.pid}

    @property
    def sent(self) -> int:
        """How many ticks it has sent, on all sockets there were."""
        total: int = self.stats()["ticks_sent_total"]
        return total

    @property
    def sent_files(self) -> list[Path]:
        """The record, one file for each socket, in the order in which they were opened."""
        return sorted(self.folder.glob("connection-*.sent"), key=lambda path: int(path.stem.partition("-")[2]))

    def stats(self) -> dict[str, Any]:
        """Return what `/stats` tells."""
        found: dict[str, Any] = self._get("/stats")
        return found

    def set_rate(self, ticks_per_second: int, connections: int) -> None:
        """Send so many ticks a second in all, over so many connections, from now on. 0: none."""
        each = min(-(-ticks_per_second // connections), RATE_MAX)
        self._get(f"/rate?ticks_per_second={each}")

    def tokens(self) -> list[int]:
        """Return the instruments of its market, as many as were asked for."""
        found: list[int] = self._get("/tokens")
        return found

    def _told(self) -> str:
        """Return the last word of the next line that it prints."""
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        if not words:
            end = "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-LAST_WORDS:])
            raise AssertionError(f"the simulator does not start; its log ends with:\n{end}")
        return words[-1]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.api_url + path, timeout=30) as answer:  # noqa: S310  http only
            return json.load(answer)


def _end_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def plan(tokens: list[int], connections: int, mode: str) -> Plan:
    """Deal instruments to connections 1 to `connections`, in equal shares, and of each share to the modes in turn.

    Raises ValueError where a connection would get more than Kite allows.
    """
    shares = {number: tokens[number - 1 :: connections] for number in range(1, connections + 1)}
    if any(len(share) > MAX_INSTRUMENTS for share in shares.values()):
        raise ValueError(f"{connections} connections take {connections * MAX_INSTRUMENTS} instruments")
    return {number: dealt(share, MODES[mode]) for number, share in shares.items()}


def dealt(tokens: list[int], modes: tuple[str, ...]) -> dict[str, list[int]]:
    """Return tokens by mode, each mode in turn getting the next one; a mode that gets none is left out."""
    return {mode: some for place, mode in enumerate(modes) if (some := tokens[place :: len(modes)])}


def instruments_in(planned: Mapping[int, Mapping[str, list[int]]]) -> int:
    """Return how many instruments a plan has."""
    return sum(len(tokens) for modes in planned.values() for tokens in modes.values())
