"""Another day comes while it runs: a real service under a clock that is shifted to the last seconds of a contract."""

import shutil
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.store.files import event_files
from tests.integration.service import Service, until

LAST_SECONDS = datetime.fromisoformat(
    "2025-10-28T23:59:32+05:30"
)  # of the contracts of October; a start takes three of them, or ten
SETTINGS: dict[str, dict[str, Any]] = {
    "universe": {
        "primary": ["NSE:INFY", "NFO:NIFTY25OCTFUT", "NFO:NIFTY25NOVFUT"],
        "select": ["NFO:NIFTY:options:weekly:1"],
    },
    "instruments": {"sync": True},
    "simulator": {"rate": 200},
}


def shifted_clock(moment: datetime) -> dict[str, str]:
    """Return what makes it this moment now for processes that are begun with it."""
    command = ["faketime", "-f", str(int(moment.timestamp() - time.time())), "env", "-0"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    given = dict(line.split("=", 1) for line in printed.split("\0") if "=" in line)
    return {name: given[name] for name in ("LD_PRELOAD", "FAKETIME")} | {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@pytest.mark.skipif(shutil.which("faketime") is None, reason="needs faketime, of the Debian package of this name")
def test_contracts_expire_and_the_next_ones_are_recorded(tmp_path: Path) -> None:
    """What has expired goes with an event, rules pick the next expiry, and all else is recorded without a gap."""
    service = Service(tmp_path, **SETTINGS)
    service.give(**shifted_clock(LAST_SECONDS))
    try:
        service.start("--simulate")
        status = service.wait_for(lambda s: len(s["instruments"]) == 10, "futures, share, index and six options")
        before = {i["symbol"]: i["instrument_token"] for i in status["instruments"]}
        assert {"NSE:INFY", "NSE:NIFTY 50", "NFO:NIFTY25OCTFUT", "NFO:NIFTY25NOVFUT"} < before.keys()
        until(lambda: service.events("expired"), "the next day")
        status = service.wait_for(lambda s: len(s["instruments"]) == 9, "options of the next expiry")
        after = {i["symbol"]: i["instrument_token"] for i in status["instruments"]}
        assert {"NSE:INFY", "NSE:NIFTY 50", "NFO:NIFTY25NOVFUT"} < after.keys()
        (told,) = service.events("expired")
        assert set(told["symbols"]) == before.keys() - after.keys()
        assert len([symbol for symbol in after if symbol.startswith("NFO:NIFTY25N04")]) == 6
        service.wait_for(lambda s: all(i["tick_count"] for i in s["instruments"]), "all of them tick")
        assert service.stop() == 0
        assert service.events("gap") == []
        assert service.events("process_hung") == []
        assert [path.name for path in event_files(service.data_dir)] == [
            "events_2025-10-28.jsonl",
            "events_2025-10-29.jsonl",
        ]
        service.assert_verified()
    finally:
        service.kill_all()
        print(service.logs())  # noqa: T201  pytest shows it with a failure
