"""What benchmarks start, how they wait for its end, and how they end themselves."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.rig import simulator
from bench.rig.ending import ENDINGS, as_ctrl_c
from bench.rig.recorder import drain
from bench.rig.show import ROOT
from bench.rig.simulator import Simulator
from tests.integration.service import until

LATE_S = 0.2  # after the last tick was sent its line is written


class SentAll:
    """A simulator that has sent twelve ticks."""

    sent = 12

    def set_rate(self, *_: int) -> None:
        """It sends none anyway."""


class Writes:
    """A recorder with ten lines, and two more that it writes late; to count them takes a second.

    The count is of what stands there after that second, or before it.
    """

    def __init__(self, data_dir: Path, *, counts_late: bool = True) -> None:
        self.data_dir = data_dir
        self.counted = 0
        self.late = threading.Timer(LATE_S, self._write)
        self._counts_late = counts_late
        self._file = data_dir / "market_data_2025-10-01.jsonl"
        self._file.write_bytes(b"x\n" * 10)

    def lines(self) -> int:
        """Count."""
        self.counted += 1
        before = self._file.read_bytes()
        time.sleep(1)
        return (self._file.read_bytes() if self._counts_late else before).count(b"\n")

    def _write(self) -> None:
        with self._file.open("ab") as file:
            file.write(b"x\nx\n")


@pytest.mark.parametrize("counts_late", [True, False])
def test_how_long_it_took_is_not_how_long_it_took_to_see_it(tmp_path: Path, counts_late: bool):
    """What is written while lines are counted is in it, and what counting takes is not."""
    recorder = Writes(tmp_path, counts_late=counts_late)
    recorder.late.start()
    done = drain(SentAll(), recorder, 2)  # type: ignore[arg-type]  # as much of them as is needed
    recorder.late.join()
    assert done.sent == 12
    assert LATE_S - 0.05 < done.seconds < LATE_S + 0.5
    assert recorder.counted == (1 if counts_late else 2)


def test_what_was_stored_before_took_no_time(tmp_path: Path):
    """Never less than nothing."""
    recorder = Writes(tmp_path)
    sent_ten = type("SentTen", (SentAll,), {"sent": 10})()
    assert drain(sent_ten, recorder, 2).seconds == 0  # type: ignore[arg-type]  # as above


def test_a_simulator_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the end of its log; it leaves no process."""
    program = tmp_path / "mds"
    program.write_text("#!/bin/sh\necho no port is free >&2\nexit 3\n")
    program.chmod(0o700)
    monkeypatch.setattr(simulator, "MDS", str(program))
    with pytest.raises(AssertionError, match="does not start; its log ends with:\nno port is free"):
        Simulator(tmp_path / "folder")


def test_the_simulator_ends_with_who_has_started_it(tmp_path: Path):
    """Even where that cannot say goodbye."""
    code = (
        "import sys, time; from pathlib import Path; from bench.rig.simulator import Simulator\n"
        "print(Simulator(Path(sys.argv[1])).process.pid, flush=True)\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout is not None
        pid = int(benchmark.stdout.readline())
        assert is_running(pid)
        benchmark.kill()
    until(lambda: not is_running(pid), "the simulator has ended")


def is_running(pid: int) -> bool:
    """Tell whether there is such a process, and it is no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", ENDINGS)
def test_a_signal_ends_it_once(number: signal.Signals):
    """Those that follow do not interrupt the cleaning up, and afterwards all is as it was."""

    def interrupted() -> None:
        with as_ctrl_c():
            try:
                os.kill(os.getpid(), number)
                time.sleep(10)
            finally:
                for each in ENDINGS:
                    os.kill(os.getpid(), each)
                cleaned.append(True)

    cleaned: list[bool] = []
    as_started = {each: signal.signal(each, signal.SIG_DFL) for each in ENDINGS}  # SIGHUP may be ignored, by nohup
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert cleaned
        assert [signal.getsignal(each) for each in ENDINGS] == [signal.SIG_DFL] * len(ENDINGS)
    finally:
        for each, handler in as_started.items():
            signal.signal(each, handler)


def test_what_is_to_be_ignored_stays_so():
    """`nohup` starts a benchmark that goes on when the terminal is gone."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with as_ctrl_c():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
