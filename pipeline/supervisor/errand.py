"""Errands: processes that do for the supervisor, once, what would hold it up, and tell by lines of JSON on stdout.

None is part of the service: not in the status, not adopted, and nobody waits for it. Its log is in the run folder.
"""

import asyncio
import contextlib
import logging
import os
import sys
from asyncio import subprocess
from collections.abc import Callable
from typing import Any

import orjson

from pipeline.config import CHILD_VARIABLE, Config
from pipeline.role import PARENT_VARIABLE
from pipeline.supervisor.children import log_file, without_secrets

log = logging.getLogger(__name__)

END_S = 1.0  # it does nothing that must be brought to an end
_LINE_BYTES = 2**24  # of what it tells


async def run(
    config: Config,
    module: str,
    *arguments: str,
    name: str,
    hear: Callable[[dict[str, Any]], None],
    with_credentials: bool = False,
) -> int:
    """Run `python -m module arguments`, hand each line that it prints to `hear`, and return its exit code.

    It has the configuration as a child has it (`config.from_child`), without credentials unless it is to have them.
    Its log is `<name>.log`. When this is cancelled, it is ended. Raises OSError where it cannot be started.
    """
    settings = config.with_changes(http={"listen": ""})  # a token that it would need is not for this process
    secrets = settings.to_child() if with_credentials else {CHILD_VARIABLE: settings.model_dump_json()}
    with log_file(config.runtime.run_dir / f"{name}.log") as log_fd:
        process = await subprocess.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_fd,
            env=without_secrets(os.environ) | secrets | {PARENT_VARIABLE: str(os.getpid())},
            start_new_session=True,
            limit=_LINE_BYTES,
        )
    try:
        assert process.stdout  # noqa: S101  it is a pipe
        async for line in process.stdout:
            try:
                fields = orjson.loads(line)
            except ValueError:  # it was killed within the line
                continue
            hear(fields)
        return await process.wait()
    finally:
        await _end(process)


async def _end(process: subprocess.Process) -> None:
    for stop in (process.terminate, process.kill):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), END_S)
