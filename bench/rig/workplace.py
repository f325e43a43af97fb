"""Where a benchmark works, and how it ends."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from bench.rig.ending import as_ctrl_c
from pipeline.errors import MdsError


@contextmanager
def workplace() -> Iterator[Path]:
    """Make a temporary folder, and delete it in the end. What fails in it ends the command with exit code 1.

    SIGTERM and SIGHUP are taken for Ctrl-C, so that nothing stays behind.
    """
    try:
        with as_ctrl_c(), tempfile.TemporaryDirectory(prefix="mds-bench-") as folder:
            yield Path(folder)
    except (AssertionError, MdsError, OSError, subprocess.SubprocessError) as error:
        raise click.ClickException(str(error)) from None
