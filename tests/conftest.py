"""What holds for all tests: none of them reads or writes the user's own settings, nor does what they start."""

import os
import shutil
import tempfile

import pytest

_folder = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Put an empty folder in place of the user's config folder, before any test module copies the environment."""
    config.stash[_folder] = os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="mds-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove it."""
    shutil.rmtree(config.stash[_folder])
