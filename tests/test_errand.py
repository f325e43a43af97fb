"""Errands of the supervisor: what they tell, and that none outlives it."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.role import prepare_run_dir
from pipeline.supervisor import errand
from tests.builders import a_config
from tests.integration.service import until

LASTING = """
import os, sys, time
from pipeline.role import end_with_parent
end_with_parent()
print('{"pid": %d}' % os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules errands can be."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{Path(__file__).parents[1]}")
    return folder


def test_what_it_tells(modules: Path, tmp_path: Path) -> None:
    """Lines of JSON are heard and others not; the exit code comes back; credentials has who should."""
    shown = "print(json.dumps({'key': os.environ.get('KITE_API_KEY')}))"
    (modules / "telling.py").write_text(f"import json, os, sys\nprint('x')\n{shown}\nsys.exit(3)\n")
    config = a_config(tmp_path)
    prepare_run_dir(config)
    heard: list[dict[str, Any]] = []
    for with_credentials in (False, True):
        running = errand.run(config, "telling", name="x", hear=heard.append, with_credentials=with_credentials)
        assert asyncio.run(running) == 3
    assert heard == [{"key": None}, {"key": ""}]


def test_it_ends_with_who_has_started_it(modules: Path, tmp_path: Path) -> None:
    """A supervisor that is killed leaves none behind."""
    (modules / "lasting.py").write_text(LASTING)
    starter = (
        "import asyncio, pathlib\n"
        "from pipeline.role import prepare_run_dir\n"
        "from pipeline.supervisor import errand\n"
        "from tests.builders import a_config\n"
        f"config = a_config(pathlib.Path({str(tmp_path)!r}))\n"
        "prepare_run_dir(config)\n"
        "tell = lambda fields: print(fields['pid'], flush=True)\n"
        "asyncio.run(errand.run(config, 'lasting', name='x', hear=tell))\n"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        process.kill()
    try:
        until(lambda: not Path(f"/proc/{pid}").exists(), "the errand has ended")
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
