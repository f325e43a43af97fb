"""Kills a compaction with SIGKILL before each of its steps in turn, lets another run go on, and checks what is there.

    python -m tests.compact_killer FOLDER

It forks, and hence never uses polars itself. Prints how many times it has killed.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.files import parquet_folder, tick_file_name
from pipeline.store.keeping import removal
from pipeline.store.parquet import compact, part
from pipeline.store.parquet import io as parquet
from pipeline.ticks import encode_lines
from tests.builders import a_config
from tests.stored import FIRST, KINDS, tick_at

DAY = date(2025, 10, 1)
TICKS = [
    tick_at(FIRST + timedelta(milliseconds=n), kind, seq=n * 5 + k)
    for n in range(12)
    for k, kind in enumerate(KINDS, 1)
]
STEPS: list[tuple[Any, str]] = [
    (part, "read_chunk"),
    (parquet.Writer, "add"),
    (parquet.Writer, "close"),
    (compact, "prove_part"),
    (compact, "sync_folder"),
    (Path, "replace"),
    (Path, "rename"),
    (Path, "rmdir"),
    (Path, "unlink"),
    (removal, "remove"),
]


def kill_before(number: int) -> None:
    """Let this process be killed before the step of this number."""
    left = [number]

    def wrapped(step: Callable[..., Any]) -> Callable[..., Any]:
        def take(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return step(*arguments, **options)

        return take

    for owner, name in STEPS:
        setattr(owner, name, wrapped(getattr(owner, name)))


def run(config: Config) -> None:
    """Compact the day, and remove its JSONL."""
    held = compact.lock(config)
    outcome = compact.compact(config, DAY, delete_source=True)
    assert not outcome.source_kept, outcome
    held.release()


def check_and_go_on(config: Config) -> None:
    """A day is there whole or not at all; after another run all is there and nothing is left over."""
    source, folder = config.storage.data_dir / tick_file_name(DAY), parquet_folder(config.storage.data_dir, DAY)
    data = encode_lines(TICKS)
    if source.exists():
        assert source.read_bytes() == data
        assert not folder.exists() or parquet.covered(folder, source) == len(data)
    run(config)
    assert not source.exists()
    assert sorted(parquet.iter_lines(folder)) == sorted(data.splitlines(keepends=True))
    assert [path.name for path in folder.iterdir() if not path.name.startswith("part-")] == []
    assert list((config.state_dir / "compact").glob("*/*")) == []


def in_child(work: Callable[[], None]) -> int:
    """Run this in a process of its own; return how it ended, as `waitpid` has it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001  told, and then it ends
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def main(folder: Path) -> None:
    part.CHUNK_BYTES, part.GROUP_BYTES, part.PART_BYTES = 15_000, 15_000, 10_000
    config = a_config(folder)
    kills = 0
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        config.storage.data_dir.mkdir(parents=True)
        (config.storage.data_dir / tick_file_name(DAY)).write_bytes(encode_lines(TICKS))

        def killed(number: int = kills) -> None:
            kill_before(number)
            run(config)

        status = in_child(killed)
        if status == 0:
            break
        assert os.WIFSIGNALED(status), status
        kills += 1
        assert in_child(lambda: check_and_go_on(config)) == 0, f"after a kill before step {kills}"
    print(kills)  # noqa: T201  for the test


if __name__ == "__main__":
    main(Path(sys.argv[1]))
