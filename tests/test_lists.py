"""The keeper of the list of instruments in the supervisor, without processes."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pipeline.config import Config
from pipeline.instruments import sync
from pipeline.supervisor import errand, lists
from pipeline.supervisor.lists import Lists
from tests.kite_list import LIST, ROWS

DEADLINE_S = 30
NOW = datetime(2025, 10, 1, 9, 0, tzinfo=ZoneInfo("Asia/Kolkata"))


@pytest.fixture
def keeper(tmp_path, monkeypatch):
    """A keeper on an empty folder, whose errand writes a list; it has what it has given and told in two lists."""
    config = Config().with_changes(storage={"data_dir": tmp_path}, runtime={"run_dir": tmp_path}).resolved()

    async def fetch(*_: Any, hear: Callable[[dict[str, Any]], None], **__: Any) -> int:
        (tmp_path / "instruments_2025-10-01.csv").write_text(LIST)
        hear({"event": "instruments_synced", "date": "2025-10-01", "instruments": len(ROWS)})
        return 0

    monkeypatch.setattr(errand, "run", fetch)
    monkeypatch.setattr(lists, "LOOK_S", 0.01)
    used: list[int] = []
    told: list[str] = []
    made = Lists(
        config,
        simulated=False,
        clock=lambda: NOW,
        use=lambda listing: used.append(len(listing)),
        log_event=lambda event, _: told.append(event),
    )
    return made, used, told


async def until_used(made: Lists, used: list[int]) -> None:
    """Let it run until it has given a list."""
    running = asyncio.create_task(made.run())
    async with asyncio.timeout(DEADLINE_S):
        while not used and not running.done():  # noqa: ASYNC110  it is told by a callback
            await asyncio.sleep(0.01)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def test_a_damaged_list_is_fetched_again(keeper, tmp_path):
    """Though the day's was fetched before."""
    made, used, told = keeper
    (tmp_path / "instruments_2025-10-01.csv.zst").write_bytes(b"damaged")
    state = sync.State(day=NOW.date(), source="https://api.kite.trade", fetched_at=NOW, simulated=False)
    (tmp_path / ".mds").mkdir()
    (tmp_path / ".mds" / "instruments.json").write_text(state.model_dump_json())
    assert made.first() is None
    asyncio.run(until_used(made, used))
    assert (used, told) == ([len(ROWS)], ["instruments_synced"])


def test_a_folder_that_cannot_be_read_for_a_while(keeper, monkeypatch, caplog):
    """That is told once; then the list is fetched as ever."""
    made, used, told = keeper
    assert made.first() is None
    faults = [OSError(5, "Input/output error")] * 6

    def faulty(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if faults:
                raise faults.pop()
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(sync, "due", faulty(sync.due))
    monkeypatch.setattr(sync, "usable", faulty(sync.usable))
    asyncio.run(until_used(made, used))
    assert (used, told) == ([len(ROWS)], ["instruments_synced"])
    assert caplog.text.count("cannot look for the list of instruments") == 1
