"""The first process of a container, in a PID namespace of its own."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from pipeline.cli import first
from tests.integration.service import until

NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
BEGIN = """
import os, signal, subprocess, sys, time
from pathlib import Path
from pipeline.cli.first import go_on_in_child
go_on_in_child()
def others():
    return [path for path in Path("/proc").glob("[0-9]*") if path.name not in ("1", str(os.getpid()))]
"""
is_possible = subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode == 0
pytestmark = pytest.mark.skipif(not is_possible, reason="no PID namespaces for this user, by unshare")


@contextmanager
def begun(code):
    """Run this as the first process of a namespace; give it, and the first line that it prints."""
    with subprocess.Popen(
        [*NAMESPACE, sys.executable, "-c", BEGIN + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield process, process.stdout.readline().strip()
        process.kill()


def first_pid(unshare):
    """Return the pid of the first process, as it is out here."""
    with open(f"/proc/{unshare.pid}/task/{unshare.pid}/children") as children:  # noqa: PTH123  no file of ours
        (pid,) = children.read().split()
    return int(pid)


@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit(0)", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", 137)]
)
def test_it_ends_as_its_child_does(end, code):
    """The exit code is the child's, which is not the first process."""
    with begun(f"print(os.getpid(), flush=True); {end}") as (process, said):
        assert said == "2"
        assert process.wait(60) == code


@pytest.mark.parametrize("number", sorted(first.HANDED_ON), ids=lambda number: number.name)
def test_signals_are_handed_on(number):
    """What asks it to end asks its child, again and again."""
    code = f"""
heard = []
signal.signal({int(number)}, lambda *_: heard.append(1))
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), flush=True)
while len(heard) < 2:
    time.sleep(0.01)
    print(len(heard), flush=True)
sys.exit(7)
"""
    with begun(code) as (process, said):
        assert said == "set()"  # nothing stays blocked
        os.kill(first_pid(process), number)
        until(lambda: process.stdout.readline().strip() == "1", "the first one is heard")
        os.kill(first_pid(process), number)
        process.stdout.read()
        assert process.wait(60) == 7


def test_nothing_stays_a_zombie():
    """What has lost its parent is waited for; the child's own children are its own to wait for."""
    code = """
mine = subprocess.Popen(["sh", "-c", "(sleep 0.01 & sleep 0.02 &) ; exit 5"], start_new_session=True)
while mine.poll() is None or others():
    time.sleep(0.01)
print(mine.returncode, flush=True)
"""
    with begun(code) as (process, said):
        assert said == "5"
        assert process.wait(60) == 0


def test_only_the_first_process():
    """Everywhere else nothing happens."""
    before = os.getpid()
    first.go_on_in_child()
    assert os.getpid() == before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
