"""`mds files` while the recorder runs, is killed, and runs again."""

import json
from datetime import date
from typing import Any

from pipeline.checkpoint import peek
from pipeline.files import CHECKPOINT, event_file_name, tick_file_name
from tests.builders import tick_lines
from tests.integration.conftest import NewService
from tests.integration.kite import Kite
from tests.integration.service import Service, until

UNIVERSE = {"primary": [408065, *range(0x200001, 0x201001, 0x100)], "secondary": [738561]}
OLD = date(2025, 10, 1)


def stored(service: Service) -> dict[str, int]:
    """Return how many lines the day files have by now."""
    return {path.name: path.read_bytes().count(b"\n") for path in sorted(service.data_dir.glob("*.jsonl"))}


def counted(service: Service) -> dict[str, int | None]:
    """Return how many the checkpoint says."""
    files = peek(service.data_dir / ".mds" / CHECKPOINT).files
    return {name: extent.lines for name, extent in sorted(files.items())}


def listed(service: Service) -> dict[str, Any]:
    """Return what `mds files` says."""
    done = service.mds("files", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_counts_are_right_after_deaths_and_while_recording(kite: Kite, new_service: NewService):
    """Killed with SIGKILL and started again: when nothing comes any more, the checkpoint has the number of lines."""
    service = new_service(universe=UNIVERSE)
    kite.load(5000, frame=5)
    service.start()
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 2000, "ticks are stored")
    service.kill("writer")
    until(lambda: sum(stored(service).values()) > 5000, "more are")
    service.kill_all()
    service.start()
    before = sum(stored(service).values())
    until(lambda: sum(stored(service).values()) > before + 2000, "and more")
    ticks = listed(service)["total"]["ticks"]
    assert 5000 < ticks <= listed(service)["total"]["ticks"]
    kite.tell("pause")
    total = kite.sent()
    until(lambda: None not in counted(service).values() and counted(service) == stored(service), "all is counted")
    found = listed(service)["total"]["ticks"]
    assert found == sum(count for name, count in stored(service).items() if name.startswith("market_data"))
    assert found <= total
    assert service.stop() == 0
    assert counted(service) == stored(service)


def test_old_days_are_removed_while_it_records(kite: Kite, new_service: NewService):
    """They go, though they are named in the checkpoint; today's stays, and no later start misses anything."""
    service = new_service(universe=UNIVERSE)
    service.data_dir.mkdir()
    (service.data_dir / tick_file_name(OLD)).write_bytes(tick_lines(1, 50, connection_id=3))
    (service.data_dir / event_file_name(OLD)).write_bytes(b"{}\n")
    kite.load(1000, frame=5)
    service.start()
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 500, "ticks are stored")
    assert tick_file_name(OLD) in counted(service)

    done = service.mds("files", "clean", "--keep-days", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert [(one["date"], one["ticks"]) for one in json.loads(done.stdout)["removed"]] == [
        (str(OLD), 50),
        (str(OLD), None),
    ]
    assert not [name for name in stored(service) if str(OLD) in name]
    service.kill_all()
    service.start()
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 500, "ticks are stored again")
    assert service.stop() == 0
    assert service.events("file_missing") == []
    service.assert_verified()
