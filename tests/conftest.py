"""What holds for all tests: none reads or writes the user's own settings, and none fails because it took long."""

import os
import shutil
import tempfile

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
