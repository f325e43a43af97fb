"""The baseline as a recorder that can be measured beside the pipeline."""

import json
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from bench.rig.recorder import LineCount, wait_until_subscribed
from bench.rig.show import ROOT
from bench.rig.simulator import Plan, Simulator

STOP_S = 20.0


class Baseline:
    """`bench.rig.baseline_program` as a process, connected and subscribed."""

    role = "baseline"

    def __init__(self, folder: Path, simulator: Simulator, plan: Plan) -> None:
        self.data_dir = folder / self.role
        self.data_dir.mkdir(parents=True)
        self.lines = LineCount(self.data_dir)
        self._simulator = simulator
        self._backlog = Backlog()
        with (folder / f"{self.role}.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.rig.baseline_program"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for who has started it
            )
        try:
            assert self._process.stdin is not None
            order = {"url": simulator.url, "data_dir": str(self.data_dir), "plan": plan}
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            wait_until_subscribed(simulator, plan)
        except BaseException:
            self.kill()
            raise

    @property
    def pids(self) -> dict[str, int]:
        """Its process, by role."""
        return {self.role: self._process.pid}

    def behind(self) -> float:
        """Return for how many seconds the oldest tick waits that was sent and is not written.

        It cannot tell itself: what was sent is compared with what stands in its files, which is less exact than what
        the pipeline says, and is never too long.
        """
        return self._backlog.look(time.monotonic(), self._simulator.sent, self.lines())

    def stop(self) -> None:
        """End it in order."""
        self._process.communicate(timeout=STOP_S)
        assert self._process.returncode == 0, f"the baseline has ended with {self._process.returncode}"

    def kill(self) -> None:
        """End it if it still runs."""
        self._process.kill()
        self._process.communicate()


class Backlog:
    """Follows how far what is stored is behind what was sent; both are counts that only grow. Pure."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()  # when so many had been sent

    def look(self, now_s: float, sent: int, stored: int) -> float:
        """Return for how many seconds a tick has been waiting, at least; 0 if none was at the look before."""
        self._marks.append((now_s, sent))
        while self._marks and self._marks[0][1] <= stored:
            self._marks.popleft()
        return now_s - self._marks[0][0] if self._marks else 0.0
