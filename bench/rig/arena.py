"""Where processes and sockets are taken down: the Kite server of the tests, and a recorder pointed at it."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click

from bench.rig.ending import as_ctrl_c
from tests.integration import drills
from tests.integration.kite import Kite
from tests.integration.service import Service

READ_BACK_S = 1800.0  # for a command to end: `mds verify` reads gigabytes


@contextmanager
def arena(*, keep: bool) -> Iterator[tuple[Kite, Service]]:
    """Make a folder with a Kite server and a recorder; afterwards end both, and delete the folder.

    It stays where a check fails, whatever `keep` says; the command ends with exit code 1 then. SIGTERM and SIGHUP are
    taken for Ctrl-C.
    """
    with as_ctrl_c():
        folder = Path(tempfile.mkdtemp(prefix="mds-bench-"))
        stays = keep
        try:
            with closing(Kite(folder / "kite")) as kite:
                recorder = Service(folder / "service", kite={"ws_url": kite.url}, **drills.SETTINGS)
                try:
                    yield kite, recorder
                finally:
                    recorder.kill_all()
        except (AssertionError, subprocess.SubprocessError) as error:
            stays = True
            raise click.ClickException(str(error)) from None
        finally:
            if stays:
                click.echo(f"\nfiles and logs are in {folder}", err=True)
            else:
                shutil.rmtree(folder)
