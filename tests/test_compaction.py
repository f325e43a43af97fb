"""When the supervisor lets days be compacted, and what it makes of the outcome."""

import asyncio
import fcntl
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipeline.compactor import EXIT_BUSY
from pipeline.config import Config
from pipeline.files import COMPACT_LOCK, tick_file_name
from pipeline.role import prepare_run_dir
from pipeline.supervisor import compaction
from pipeline.supervisor.compaction import Compaction
from tests.builders import a_config

DAY = tick_file_name(date(2025, 10, 1))
DEADLINE_S = 30.0
DONE = '{"event":"compacted","date":"2025-10-01","ticks":7,"bytes":2800,"parquet_bytes":70,"bad_lines":0}'
FAILED = '{"event":"compact_failed","date":"2025-10-01","reason":"no room"}'


class House:
    """A data folder with a closed day, and a compaction that looks often."""

    def __init__(self, folder: Path, script: str) -> None:
        config = a_config(folder).with_changes(storage={"compact": True}, http={"listen": "0.0.0.0:8080"})
        self.config: Config = config
        self.data_dir = config.storage.data_dir
        prepare_run_dir(config)
        config.state_dir.mkdir(parents=True)
        (self.data_dir / DAY).write_bytes(b"x\n")
        self.say(script)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.compaction = Compaction(config, lambda event, fields: self.events.append((event, fields)))

    def say(self, script: str) -> None:
        (self.data_dir / "script").write_text(script)

    @property
    def starts(self) -> list[str]:
        try:
            return (self.data_dir / "starts").read_text().splitlines()
        except FileNotFoundError:
            return []

    def watch(self, *steps: Callable[[], bool]) -> None:
        """Let it run until each of these has come true, one after the other."""

        async def run() -> None:
            running = asyncio.create_task(self.compaction.run())
            try:
                async with asyncio.timeout(DEADLINE_S):
                    for step in steps:
                        while not step():
                            await asyncio.sleep(0.005)
                            assert not running.done(), running.exception()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

        asyncio.run(run())


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MODULE", "tests.fake_compactor")
    monkeypatch.setattr(compaction, "LOOK_S", 0.01)


def looks(house: House, monkeypatch: pytest.MonkeyPatch, count: int) -> Callable[[], bool]:
    """Return what is true when it has looked so many times more."""
    closed, seen = house.compaction._closed, [0]

    def look() -> Any:
        seen[0] += 1
        return closed()

    monkeypatch.setattr(house.compaction, "_closed", look)
    return lambda: seen[0] > count


def test_what_is_done_is_told_and_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event for each day; then nothing until there is more, and no secret goes to the process."""
    monkeypatch.setenv("KITE_ACCESS_TOKEN", "secret")
    house = House(tmp_path, f"{DONE}\n0")
    house.watch(lambda: bool(house.events), looks(house, monkeypatch, 5))
    assert house.events == [
        ("compacted", {"date": "2025-10-01", "ticks": 7, "bytes": 2800, "parquet_bytes": 70, "bad_lines": 0})
    ]
    assert [start.split(" ", 1)[1] for start in house.starts] == ["['MDS_CHILD_CONFIG', 'MDS_PARENT']"]


def test_late_ticks_and_another_day_start_it_again(tmp_path: Path) -> None:
    """It sees by their size."""
    house = House(tmp_path, "0")

    def grow() -> bool:
        with (house.data_dir / DAY).open("ab") as file:
            file.write(b"x\n")
        return True

    def another() -> bool:
        (house.data_dir / tick_file_name(date(2025, 10, 2))).touch()
        return True

    house.watch(lambda: len(house.starts) == 1, grow, lambda: len(house.starts) == 2, another)
    house.watch(lambda: len(house.starts) == 3)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (f"{FAILED}\n1", {"date": "2025-10-01", "reason": "no room"}),
        ("2", {"date": None, "reason": "ended with exit code 2"}),
        ('{"event":"comp\n-9', {"date": None, "reason": "ended with exit code"}),
    ],
)
def test_after_a_failure_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: dict[str, Any]
) -> None:
    """It is told once, and tried again when an hour is over."""
    house = House(tmp_path, script)
    house.watch(lambda: bool(house.events), looks(house, monkeypatch, 5))
    [(event, fields)] = house.events
    assert (event, fields["date"]) == ("compact_failed", told["date"])
    assert told["reason"] in fields["reason"]
    assert len(house.starts) == 1
    monkeypatch.setattr(house.compaction, "_not_before_s", 0.0)
    house.watch(lambda: len(house.starts) == 2)


def test_somebody_else_compacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not started then; where it finds out itself that is no failure."""
    house = House(tmp_path, str(EXIT_BUSY))
    with (house.config.state_dir / COMPACT_LOCK).open("wb") as file:
        file.write(b'{"pid":1,"version":"1","config_hash":""}')
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        house.watch(looks(house, monkeypatch, 3))
        assert house.starts == []
    house.watch(lambda: len(house.starts) == 2)
    assert house.events == []


def test_it_is_ended_with_the_service(tmp_path: Path) -> None:
    """Whatever it does; that is no failure."""
    house = House(tmp_path, f"{DONE}\nwait")
    house.watch(lambda: bool(house.events))
    pid = int(house.starts[0].split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert [event for event, _ in house.events] == ["compacted"]


def test_it_is_off_unless_asked_for(tmp_path: Path) -> None:
    """Days stay JSONL."""
    house = House(tmp_path, "0")
    off = house.config.with_changes(storage={"compact": False})
    asyncio.run(Compaction(off, lambda *_: None).run())
    assert house.starts == []
