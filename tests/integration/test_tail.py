"""Ticks followed while the recorder runs, its writer dies, and it is stopped and started again."""

import threading
from operator import itemgetter

from pipeline import follow
from pipeline.store.files import tick_files
from tests.integration import test_disk_faults
from tests.integration.conftest import NewService
from tests.integration.kite import Kite
from tests.integration.service import MDS, Service, until
from tests.integration.test_disk_faults import Attach
from tests.integration.window import Window

attach = test_disk_faults.attach
number = itemgetter("connection_id", "epoch", "seq")

TOKENS = [408065, 738561]
UNIVERSE = {"primary": TOKENS[:1], "secondary": TOKENS[1:]}


class Reader:
    """Follows a data folder on a thread of its own."""

    def __init__(self, service: Service, tokens: list[int] | None = None) -> None:
        self.ticks: list[dict[str, object]] = []
        self._stop = threading.Event()
        self._following = follow(service.data_dir, tokens, stop=self._stop)
        self._thread = threading.Thread(target=lambda: self.ticks.extend(self._following))
        self._thread.start()

    def until_more(self) -> None:
        """Wait until it has been told 2,000 ticks more."""
        wanted = len(self.ticks) + 2000
        until(lambda: len(self.ticks) >= wanted, "ticks are followed")

    def end(self) -> list[dict[str, object]]:
        """Return all that it has been told, once it has read what is stored by now."""
        self._stop.set()
        self._thread.join()
        return self.ticks


def test_every_stored_tick_is_followed_once(kite: Kite, new_service: NewService):
    """5,000 ticks/s, the writer killed twice, the service stopped and started: what is read is what is stored."""
    service = new_service(universe=UNIVERSE)
    everything, one = Reader(service), Reader(service, TOKENS[:1])
    try:
        kite.load(5000)
        service.start()
        for _ in range(2):
            everything.until_more()
            service.kill("writer")
        assert service.stop() == 0
        stored = service.stored()
        service.start()
        until(lambda: len(everything.ticks) >= stored + 1000, "the next run is followed")
        assert service.stop() == 0
    finally:
        ticks, chosen = everything.end(), one.end()

    assert sorted(ticks, key=number) == sorted(service.ticks(), key=number)
    assert len(set(map(number, ticks))) == len(ticks)
    assert chosen == [tick for tick in ticks if tick["instrument_token"] == TOKENS[0]]
    service.assert_verified(ticks=len(ticks))


def test_what_is_written_again_is_followed_once(kite: Kite, new_service: NewService, attach: Attach, caplog):
    """Syncs fail now and then: the writer cuts the file each time, and what the workers send again is told once."""
    service = new_service(universe=UNIVERSE)
    reader = Reader(service)
    try:
        kite.load(5000)
        service.start()
        reader.until_more()
        trace = attach([service.send("writer", 0)], "fdatasync", "error=EIO:when=3..23+5")
        trace.until_faults(3)
        trace.end()
        reader.until_more()
        assert service.stop() == 0
    finally:
        ticks = reader.end()

    print(f"read anew {caplog.text.count('cut or replaced')} times")  # noqa: T201  the figure
    assert sorted(ticks, key=number) == sorted(service.ticks(), key=number)
    assert len(set(map(number, ticks))) == len(ticks)
    service.assert_verified()


def test_tail_on_a_terminal(kite: Kite, new_service: NewService):
    """It waits for the service, shows what is stored, goes on without the service, and ends with Ctrl-C."""
    service = new_service(universe=UNIVERSE)
    with Window([MDS, "tail", str(TOKENS[1]), "--mode", "full"], 120, 20, cwd=service.folder) as window:
        assert window.process.stderr
        assert b"there is no market_data_YYYY-MM-DD.jsonl yet" in window.process.stderr.readline()
        kite.load(100)
        service.start()
        window.until_shown(f"  {TOKENS[1]}  full  ", "bid ")
        assert str(TOKENS[0]) not in window.text
        assert service.stop() == 0
        assert len(tick_files(service.data_dir)) == 1
        assert window.process.poll() is None
        window.type(b"\x03")
        assert window.wait() == (0, "")
        assert window.is_as_found
