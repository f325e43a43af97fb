"""Makes a recording of this version, small and with something of everything, for later versions to read.

    python -m tests.recordings.record FOLDER

Two made-up days: the first is Parquet only, the second was broken off with SIGKILL while the spools held what nobody
had stored. Beside it lies `expected.json`: the ids of all packets that the Kite server of the tests had sent on each
day, and the ids of those of the second day that are nowhere but in the spools.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date, datetime
from pathlib import Path
from threading import Event, Thread

from pipeline.files import instruments_file_name
from pipeline.records import Kind, Record, parse
from pipeline.spool import BALLAST
from tests.integration.kite import Kite, id_of, ids_in
from tests.integration.service import Service, until
from tests.integration.test_next_day import shifted_clock
from tests.kite_list import serving

DAYS = (date(2025, 10, 1), date(2025, 10, 3))  # a Wednesday, and a Friday: between them is a holiday
PRIMARY = [408065, 0x1203, 256265]
SECONDARY = [738561, 0x2203, 0x20009]
LTP = [519937]
TICKS = 100  # of a day, or more
ORDER = '{"type":"order","data":{"order_id":"1","status":"COMPLETE"}}'


def main(target: Path) -> None:
    """Record into a new folder."""
    with tempfile.TemporaryDirectory() as work, serving() as rest:
        kite = Kite(Path(work) / "kite")
        service = Service(
            Path(work) / "service",
            kite={"ws_url": kite.url, "api_url": rest.url},
            universe={"primary": PRIMARY, "secondary": SECONDARY},
            instruments={"sync": True, "sync_at": "00:00"},
            failover={"stable_s": 0.3},
        )
        try:
            with _backdated(service.data_dir):
                first = _first_day(kite, service)
                second, spooled = _second_day(kite, service, first)
        finally:
            service.kill_all()
            kite.close()
        expected = {str(DAYS[0]): sorted(first), str(DAYS[1]): sorted(second), "spooled": sorted(spooled)}
        target.mkdir(parents=True)
        ignore = shutil.ignore_patterns("*.lock", "*.new", BALLAST)
        shutil.copytree(service.data_dir, target / "market_data", ignore=ignore)
        (target / "run").mkdir()
        shutil.copy(service.run_dir / "subscriptions.json", target / "run")
        (target / "expected.json").write_text(json.dumps(expected) + "\n")


def _first_day(kite: Kite, service: Service) -> set[int]:
    """Record ticks of all kinds and events of most, end in order; return the ids of the ticks."""
    _begin(service, DAYS[0])
    until((service.data_dir / instruments_file_name(DAYS[0])).exists, "the list of instruments is there")
    assert service.mds("subscribe", *map(str, LTP), "--mode", "ltp").returncode == 0
    service.wait_until_settled()
    kite.load(60, frame=3, ltp=LTP)
    until(lambda: service.stored() >= TICKS, "ticks are stored")
    number = kite.of(PRIMARY[0])[-1]["number"]
    kite.tell("text", connection=number, messages=[ORDER.encode().hex()])
    kite.tell("raw", connection=number, frames=["0001000500000001ff"])
    until(lambda: service.events("reject") and service.events("order_update"), "what else was sent is on record")
    kite.tell("pause")
    assert service.mds("unsubscribe", *map(str, LTP)).returncode == 0
    sent = _sent(kite)
    until(lambda: _stored(service) == sent, "all is stored")
    assert service.stop() == 0
    service.assert_verified()
    return sent


def _second_day(kite: Kite, service: Service, before: set[int]) -> tuple[set[int], set[int]]:
    """Record while a worker dies, then let all die, the workers after the writer; return the ids, all and spooled."""
    _begin(service, DAYS[1])
    assert service.mds("compact", "--delete-source").returncode == 0
    kite.load(60, frame=3)
    until(lambda: service.stored() >= TICKS, "ticks are stored")
    kite.tell("pause")  # or some would be under way to the worker that dies
    until(lambda: _stored(service) == _sent(kite) - before, "all is stored")
    service.kill("worker-1")
    kite.load(60, frame=3)
    until(lambda: service.events("gap", cause="killed"), "the gap is on record")
    service.wait_until_live(1, 2)
    service.wait_for(lambda s: not s["connections"]["3"]["active"], "connection 1 has its instruments back")
    service.kill("supervisor")
    service.kill("writer")
    stored = _stored(service)
    until(lambda: kite.sent() >= len(before) + len(stored) + TICKS / 2, "more is sent")
    kite.tell("pause")
    sent = _sent(kite) - before
    until(lambda: stored | _spooled(service) == sent, "it is spooled")
    return sent, sent - stored


def _begin(service: Service, day: date) -> None:
    service.give(**shifted_clock(datetime.fromisoformat(f"{day}T10:00:00+05:30")))
    service.start()
    service.wait_until_live(1, 2)


@contextmanager
def _backdated(data_dir: Path) -> Iterator[None]:
    """Keep the times of the files before those of the made-up clock, which knows nothing of them: epochs go by both."""
    ended = Event()
    old_s = datetime.fromisoformat(f"{DAYS[0]}T00:00:00+05:30").timestamp()

    def run() -> None:
        while not ended.wait(0.001):
            for path in data_dir.glob("*.*"):
                with suppress(FileNotFoundError):
                    os.utime(path, (old_s, old_s))

    thread = Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _sent(kite: Kite) -> set[int]:
    return {identity for connection in kite.connections() for identity in kite.ids(connection["number"])}


def _stored(service: Service) -> set[int]:
    return {id_of(tick) for tick in service.ticks()}


def _spooled(service: Service) -> set[int]:
    found = (record for path in service.spool_dir.glob("*/*/*.spool") for record, _ in parse(path.read_bytes()))
    frames = (record.payload for record in found if isinstance(record, Record) and record.kind == Kind.FRAME)
    return {identity for frame in frames if len(frame) > 1 for identity in ids_in(frame)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
