"""Backup and restoring as deploy/RUNBOOK.md has them: its own lines, typed at a service that records.

The folders that they name are there in a mount namespace: /var/lib/mds is the service's, /mnt/backup is empty. `sudo`,
`systemctl` and the `mds` of an installed service are stand-ins; rsync, and all that they do, is real.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.files import parquet_folder, tick_file_name
from tests.integration.browser import ROOT
from tests.integration.service import MDS, Service, until
from tests.integration.test_next_day import shifted_clock

RUNBOOK = (ROOT / "deploy/RUNBOOK.md").read_text(encoding="utf-8")
THE_DAY = datetime.fromisoformat("2025-10-01T12:00:00+05:30")  # the day that it names
TOOLS = ("faketime", "rsync", "unshare")
SETTINGS: dict[str, dict[str, Any]] = {"simulator": {"rate": 1000}}

STAND_INS = {
    "sudo": 'exec "$@"',
    "mds": f'cd "$FOLDER" && exec {MDS} "$@"',
    # What starts outlives the shell, as with systemd.
    "systemctl": f"""
case "$*" in
    "stop mds") cd "$FOLDER" && {MDS} stop || true;;
    "start mds")
        cd "$FOLDER"
        setsid {MDS} run --simulate </dev/null >started.out 2>&1 &
        until {MDS} status >/dev/null 2>&1; do sleep 0.1; done;;
    *) exit 1;;
esac""",
}
# Nothing of it is to be seen outside. `mds` is a user, as after an installation.
FOLDERS = """
set -eu
mount -t tmpfs tmpfs /var/lib
mkdir /var/lib/mds
mount --bind "$FOLDER" /var/lib/mds
mount --bind "$BACKUP" /mnt
mkdir -p /mnt/backup "$STAND_INS/sbin"
mount --bind "$STAND_INS/sbin" /usr/local/sbin
for names in passwd group; do
    { cat /etc/$names; echo "mds:x:987:987:::"; } >"$STAND_INS/$names"
    mount --bind "$STAND_INS/$names" /etc/$names
done
PATH=$STAND_INS:$PATH
cd "$PROJECT"
"""

Type = Callable[..., subprocess.CompletedProcess[str]]


def why_not() -> str:
    """Return why its lines cannot be typed here, "" if they can."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)}"
    return "" if os.geteuid() == 0 else "only root can mount"


pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not()), pytest.mark.timeout(400)]


def lines(heading: str, number: int = 0) -> str:
    """Return a block of shell lines under a heading."""
    _, _, rest = RUNBOOK.partition(f"# {heading}\n")
    found: list[str] = re.findall(r"^```sh\n(.*?)^```$", rest, re.MULTILINE | re.DOTALL)
    return found[number]


def record_the_day(folder: Path) -> None:
    """Record for a moment of the day that it names."""
    service = Service(folder, **SETTINGS)
    service.give(**shifted_clock(THE_DAY))
    service.start("--simulate")
    until(lambda: service.stored() > 1000, "it records")
    assert service.stop() == 0, service.errors()


@pytest.fixture
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service that records, after the day that the runbook names where a test asks for it."""
    folder = tmp_path / "mds"
    if getattr(request, "param", ""):
        record_the_day(folder)
    running = Service(folder, **SETTINGS)
    running.start("--simulate")
    running.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 1000, "it records")
    yield running
    running.kill_all()
    print(running.logs())  # noqa: T201  pytest shows it with a failure


@pytest.fixture
def type_in(tmp_path: Path, service: Service) -> Type:
    """Types shell lines; stops at the first that fails, and says how it ended."""
    stand_ins, backup = tmp_path / "bin", tmp_path / "mnt"
    stand_ins.mkdir()
    backup.mkdir()
    for name, text in STAND_INS.items():
        (stand_ins / name).write_text(f"#!/bin/sh\n{text}\n")
        (stand_ins / name).chmod(0o755)
    places = {"FOLDER": service.folder, "BACKUP": backup, "STAND_INS": stand_ins, "PROJECT": ROOT}
    service.give(**{name: str(place) for name, place in places.items()})

    def typed(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", FOLDERS + text],
            check=False,
            capture_output=True,
            text=True,
            timeout=180,
            env=service._environment,
        )

    return typed


@pytest.mark.parametrize("service", ["after an earlier day"], indirect=True)
def test_backup_and_restoring(service: Service, type_in: Type, tmp_path: Path):
    """What is copied while it records is whole; a day comes back from it beside the service, and so does a disk."""
    day = THE_DAY.date()
    backup = tmp_path / "mnt/backup/market_data"
    recorded = service.data_dir / tick_file_name(day)
    original = recorded.read_bytes()

    service.kill("worker-1")  # while it is copied another epoch begins
    done = type_in(lines("Backup"))
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[-1].endswith("are there, each once, in order."), done.stdout
    assert (backup / tick_file_name(day)).read_bytes() == original
    today = max(backup.glob("market_data_*.jsonl"))
    assert (service.data_dir / today.name).read_bytes().startswith(today.read_bytes())

    with recorded.open("r+b") as file:
        file.seek(len(original) // 2)
        file.write(b"damaged")
    found = service.mds("verify", str(recorded))
    assert found.returncode == 1
    assert "invalid" in found.stdout
    done = type_in(lines("One day, or a file that is damaged"))
    assert done.returncode == 0, done
    assert recorded.read_bytes() == original
    assert list(parquet_folder(service.data_dir, day).glob("*.parquet"))

    assert service.mds("compact", day.isoformat(), "--delete-source").returncode == 0
    assert type_in(lines("Backup").splitlines()[1]).returncode == 0
    shutil.rmtree(parquet_folder(service.data_dir, day))
    done = type_in(lines("One day, or a file that is damaged", 1))
    assert done.returncode == 0, done
    assert "2 files with" in done.stdout

    service.kill_all()
    shutil.rmtree(service.data_dir)
    done = type_in(lines("A disk that is lost"))
    assert done.returncode == 0, done
    service.wait_until_live(1, 2)
    until(lambda: {1, 2} <= {gap["connection_id"] for gap in service.events("gap", cause="spool lost")}, "gaps")
    assert service.mds("stop").returncode == 0
    until(lambda: not service.processes(), "it has ended")
    found = service.mds("verify")
    assert found.returncode == 0, found.stdout


def test_a_copy_taken_at_any_moment_is_whole(service: Service, type_in: Type, tmp_path: Path):
    """Again and again, while processes are killed and begin anew: nothing is torn, nothing is missing."""
    backup = tmp_path / "mnt/backup/market_data"
    ends = []
    for role in ("worker-1", "writer", "worker-2"):
        service.kill(role)
        done = type_in(f"deploy/backup {backup} {service.data_dir}")
        assert done.returncode == 0, done
        found = type_in(f"MDS_STORAGE__DATA_DIR={backup} mds verify")
        assert found.returncode == 0, found.stdout
        ends.append(sum(path.stat().st_size for path in backup.glob("*.jsonl")))
    assert ends == sorted(set(ends)), "each has more than the one before"


def test_a_file_that_has_begun_anew_takes_nothing_from_its_copy(service: Service, type_in: Type, tmp_path: Path):
    """It is told, the copy stays under another name, and the next backup is content."""
    backup = tmp_path / "mnt/backup/market_data"
    command = f"deploy/backup {backup} {service.data_dir}"
    assert type_in(command).returncode == 0
    assert service.stop(signal.SIGTERM) == 0
    first = max(service.data_dir.glob("market_data_*.jsonl"))
    copied = (backup / first.name).read_bytes()
    first.write_bytes(first.read_bytes()[len(copied) // 2 :])
    done = type_in(command)
    assert done.returncode == 1
    assert f"{first} does not go on where its copy ends" in done.stderr
    [kept] = backup.glob(f"{first.name}.*")
    assert kept.read_bytes() == copied
    assert (backup / first.name).read_bytes() == first.read_bytes()
    assert type_in(command).returncode == 0
