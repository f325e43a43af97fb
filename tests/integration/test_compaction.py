"""Days that are over become Parquet while the service records."""

import json
from datetime import date, timedelta
from pathlib import Path

from pipeline.files import parquet_folder, tick_file_name
from pipeline.ticks import encode_lines
from tests.integration.conftest import NewService
from tests.integration.kite import Kite
from tests.integration.service import Service
from tests.stored import FIRST, KINDS, tick_at

DAY = date(2025, 10, 1)
TICKS = [
    tick_at(FIRST + timedelta(milliseconds=n), kind, seq=n * 5 + k)
    for n in range(100)
    for k, kind in enumerate(KINDS, 1)
]
UNIVERSE = {"primary": [408065], "secondary": [738561]}


def with_an_earlier_day(service: Service) -> Path:
    """Put the JSONL of an earlier day into the data folder; return where its Parquet is to be."""
    service.data_dir.mkdir(parents=True)
    (service.data_dir / tick_file_name(DAY)).write_bytes(encode_lines(TICKS))
    return parquet_folder(service.data_dir, DAY)


def test_an_earlier_day_becomes_parquet_while_it_records(kite: Kite, new_service: NewService) -> None:
    """At the start; it is told in the event log, is no process of the service, and the JSONL stays."""
    service = new_service(universe=UNIVERSE, storage={"compact": True})
    folder = with_an_earlier_day(service)
    kite.load(500)
    service.start()
    service.wait_for(lambda _: service.events("compacted"), "the day is compacted")
    status = service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 500, "it records")
    assert not [name for name in status["processes"] if "compact" in name]
    assert service.stop() == 0

    [event] = service.events("compacted")
    found = {name: event[name] for name in ("date", "ticks", "source", "connection_id", "bad_lines")}
    assert found == {
        "date": "2025-10-01",
        "ticks": len(TICKS),
        "source": "supervisor",
        "connection_id": 0,
        "bad_lines": 0,
    }
    assert event["parquet_bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert (service.data_dir / tick_file_name(DAY)).read_bytes() == encode_lines(TICKS)
    assert "500 ticks" in (service.run_dir / "compact.log").read_text()
    assert service.events("compact_failed") == []


def test_a_day_that_cannot_be_compacted_is_told(kite: Kite, new_service: NewService) -> None:
    """With the reason, and recording goes on."""
    service = new_service(universe=UNIVERSE, storage={"compact": True})
    folder = with_an_earlier_day(service)
    folder.mkdir(parents=True)
    (folder / "part-00000.parquet").write_bytes(b"rubbish")
    kite.load(500)
    service.start()
    service.wait_for(lambda _: service.events("compact_failed"), "the failure is told")
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 500, "it records")
    assert service.stop() == 0
    [event] = service.events("compact_failed")
    assert event["date"] == "2025-10-01"
    assert "part-00000.parquet: cannot be read" in event["reason"]


def test_the_command_beside_a_running_service(kite: Kite, new_service: NewService) -> None:
    """Earlier days are compacted and their JSONL removed; today is refused; all of it still verifies."""
    service = new_service(universe=UNIVERSE)
    folder = with_an_earlier_day(service)
    kite.load(500)
    service.start()
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 500, "it records")
    done = service.mds("compact", "--delete-source", "--json")
    assert done.returncode == 0, done.stderr
    [day] = json.loads(done.stdout)["days"]
    assert (day["date"], day["result"], day["ticks"]) == ("2025-10-01", "compacted", len(TICKS))
    assert day["source_deleted"]
    [today] = [path.stem[-10:] for path in service.data_dir.glob("market_data_*.jsonl")]
    refused = service.mds("compact", today)
    assert (refused.returncode, "is not closed" in refused.stdout) == (1, True)
    assert service.stop() == 0
    assert [path.name for path in folder.iterdir()] == ["part-00000.parquet"]
    assert service.events("file_missing") == []
