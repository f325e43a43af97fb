"""What holds for all tests: none reads or writes the user's own settings, and none fails because it took long."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

_folder = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Put an empty folder in place of the user's config folder, before any test module copies the environment.

    The profile of hypothesis is the other half: no example has a deadline.
    """
    settings.register_profile("mds", deadline=None)
    settings.load_profile("mds")
    config.stash[_folder] = os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="mds-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove it."""
    shutil.rmtree(config.stash[_folder])


@pytest.fixture(scope="session")
def in_memory():
    """Return what makes a folder where syncing costs nothing, if there is such a place: some tests do it a lot."""
    memory = Path("/dev/shm")  # noqa: S108  what is in it has a name of its own
    with tempfile.TemporaryDirectory(prefix="mds-tests-", dir=memory if memory.is_dir() else None) as root:
        yield lambda: Path(tempfile.mkdtemp(dir=root))


@pytest.fixture
def no_settings(monkeypatch):
    """Take all settings out of the environment."""
    for name in [name for name in os.environ if name.startswith(("MDS_", "KITE_", "_MDS_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def in_tmp_path(monkeypatch, tmp_path):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run_mds(monkeypatch, capsys):
    """Run `mds` to its end in this process; returns exit code, stdout, stderr."""

    from pipeline.cli import main  # not before the environment is as above

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mds", *arguments])
        with pytest.raises(SystemExit) as ended:  # by which click ends every command
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run
