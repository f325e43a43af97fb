"""Copies of the source, distributions built of them, and environments in which these are installed."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from email import message_from_bytes
from importlib.metadata import Distribution, distribution
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement

import pipeline

ROOT = Path(__file__).parents[2]
ASIDE = (
    ".git",
    ".venv",
    ".*_cache",
    ".hypothesis",
    "__pycache__",
    "*.egg-info",
    "build",
    "dist",
    "demo",
    "screenshots",
)
PIP_S = 120
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("MDS_", "KITE_", "PYTHON"))}


def copy_source(target: Path) -> Path:
    """Copy what belongs to the project."""
    return Path(shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*ASIDE), symlinks=True))


def build(source: Path, *options: str) -> list[Path]:
    """Build distributions of a source folder with the setuptools of this environment; return them."""
    command = [sys.executable, "-m", "build", "--no-isolation", *options, str(source)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PIP_S, env=CLEAN)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted((source / "dist").iterdir())


def _requirements(wheel: Path) -> list[str]:
    with ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(opened.read(name)).get_all("Requires-Dist", [])


def _needed(requirements: Iterable[str]) -> Iterable[Distribution]:
    """Return what is installed of these requirements, and of theirs."""
    found: dict[str, Distribution] = {}
    due = [(requirement, "") for requirement in map(Requirement, requirements)]
    while due:
        requirement, extra = due.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        one = distribution(requirement.name)
        if found.setdefault(requirement.name, one) is one:
            theirs = map(Requirement, one.requires or ())
            due += [(their, extra) for their in theirs for extra in ("", *requirement.extras)]
    return found.values()


def wheel_of(version: str, work: Path) -> Path:
    """Build the wheel of this code under another version."""
    source = copy_source(work / version)
    initial = source / "pipeline" / "__init__.py"
    text, count = re.subn(
        rf'__version__ = "{re.escape(pipeline.__version__)}"', f'__version__ = "{version}"', initial.read_text()
    )
    assert count == 1
    initial.write_text(text)
    (wheel,) = build(source, "--wheel")
    return wheel


class Environment:
    """A virtual environment with a version of the recorder and what it needs, and nothing else.

    What it needs is linked from the environment of the tests: pip would fetch the same again.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self._bin = folder / "bin"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=PIP_S, env=CLEAN)
        (packages,) = folder.glob("lib/python3*/site-packages")
        for needed in _needed(_requirements(wheel)):
            for name in {file.parts[0] for file in needed.files or () if file.parts[0] not in ("..", "__pycache__")}:
                if not (packages / name).exists():  # folders of namespaces are shared
                    (packages / name).symlink_to(str(needed.locate_file(name)))
        self.install(wheel)

    @property
    def mds(self) -> Path:
        """The command."""
        return self._bin / "mds"

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self._bin / "python"

    def pip(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        """Start pip."""
        return subprocess.Popen(
            [self.python, "-m", "pip", *arguments, "--disable-pip-version-check"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=CLEAN,
        )

    def install(self, wheel: Path) -> None:
        """Install another version over the one that is there."""
        pip = self.pip("install", "--quiet", "--no-deps", "--no-index", wheel)
        told, _ = pip.communicate(timeout=PIP_S)
        assert pip.returncode == 0, told

    def run(self, *arguments: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
        """Run a program of the environment to its end."""
        name, *rest = arguments
        return subprocess.run(
            [self._bin / name, *rest], check=False, capture_output=True, text=True, timeout=60, env=CLEAN, cwd=cwd
        )
