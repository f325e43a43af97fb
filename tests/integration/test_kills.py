"""Processes killed with SIGKILL under load: nothing lost, nothing twice, everything in order."""

import random
import re
import signal
from itertools import pairwise

from tests.integration.conftest import SCALE, NewService
from tests.integration.drills import SETTINGS, pause_at_random, random_kills, shuffled
from tests.integration.faults import random_faults
from tests.integration.kite import Kite, id_of
from tests.integration.service import Service, until

PRIMARY = [408065, 0x1203, 0x10009, *range(0x200001, 0x206001, 0x100)]
SECONDARY = [738561, 0x2203, 0x20009, *range(0x300001, 0x306001, 0x100)]
TOKENS = {1: PRIMARY[0], 2: SECONDARY[0]}
UNIVERSE = {"primary": PRIMARY, "secondary": SECONDARY}


def without_spare(kite: Kite, new_service: NewService) -> Service:
    """Return a service in which nobody takes over, so that each connection's own recovery shows."""
    return new_service(universe=UNIVERSE, kite={"ws_url": kite.url, "max_connections": 2})


def sent_ids(kite: Kite, connection_id: int) -> list[list[int]]:
    """Return the ids sent on each of a connection's sockets, oldest first; sockets without ticks left out."""
    ids = [kite.ids(connection["number"]) for connection in kite.of(TOKENS[connection_id])]
    return [some for some in ids if some]


def stored_ids(service: Service, connection_id: int) -> list[list[int]]:
    """Return the ids stored of each epoch, oldest first."""
    return [[id_of(tick) for tick in ticks] for (c, _), ticks in service.streams().items() if c == connection_id]


def assert_prefixes(stored: list[list[int]], sent: list[list[int]]) -> None:
    """Check that each epoch has stored the beginning of what one socket was sent, whole and in order."""
    by_first = {ids[0]: ids for ids in sent}
    for ids in stored:
        assert ids == by_first.pop(ids[0])[: len(ids)]


def wait_for_more(service: Service, ticks: int) -> None:
    """Wait until so many more ticks are in the files."""
    target = service.stored() + ticks
    until(lambda: service.stored() >= target, f"{ticks} more ticks are stored")


def until_sockets(kite: Kite, number: int) -> None:
    """Wait until connection 1 has had so many sockets."""
    until(lambda: len(kite.of(TOKENS[1])) >= number, f"{number} sockets of connection 1 are open")


def test_killing_the_writer_loses_nothing(kite: Kite, new_service: NewService):
    """20,000 ticks/s, the writer killed ten times: every tick that was sent is stored once, in order."""
    chance = random.Random(2)
    kills = round(10 * SCALE)
    service = without_spare(kite, new_service)
    kite.load(20_000, frame=25)
    service.start()
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"], "ticks are stored")
    for _ in range(kills):
        pause_at_random(chance, 0.8)
        service.kill("writer")
    service.wait_for(lambda s: s["processes"]["writer"]["state"] == "running", "the writer is back")
    kite.tell("pause")
    total = kite.sent()
    until(lambda: service.stored() >= total, "everything that was sent is stored")
    assert service.stop() == 0

    for connection_id in TOKENS:
        assert stored_ids(service, connection_id) == sent_ids(kite, connection_id)
    service.assert_verified(ticks=total)
    assert service.output() == f"received {total:,} ticks, stored {total:,}, still spooled 0\n"
    assert len(service.events("process_died", process="writer")) == kills
    print(f"{total} ticks, {kills} writer kills, none lost, none twice")  # noqa: T201  a figure for long drills


def test_killing_a_worker_loses_nothing_that_it_had_spooled(kite: Kite, new_service: NewService):
    """Each epoch of worker 1 is stored as the unbroken beginning of what its socket was sent; each kill is a gap."""
    chance = random.Random(3)
    kills = round(4 * SCALE)
    service = without_spare(kite, new_service)
    kite.load(10_000, frame=10)
    service.start()
    for kill in range(kills):
        until_sockets(kite, kill + 1)
        wait_for_more(service, 2000)
        pause_at_random(chance, 0.3)
        service.kill("worker-1")
    until_sockets(kite, kills + 1)
    wait_for_more(service, 2000)
    assert service.stop() == 0

    assert_prefixes(stored_ids(service, 1), sent_ids(kite, 1))
    assert stored_ids(service, 2) == sent_ids(kite, 2)
    epochs = [ticks for (c, _), ticks in service.streams().items() if c == 1]
    gaps = service.events("gap")
    assert len(gaps) == kills
    for (before, after), gap in zip(pairwise(epochs), gaps, strict=True):
        assert (gap["connection_id"], gap["cause"], gap["instruments"]) == (1, "killed", sorted(PRIMARY))
        assert (gap["from"], gap["to"]) == (before[-1]["timestamp"], after[0]["timestamp"])
    ticks = service.assert_verified()["ticks"]
    assert service.output().startswith(f"received {ticks:,} ticks")


def test_killing_anything_at_random_loses_nothing(kite: Kite, new_service: NewService):
    """Writer, workers and supervisor: what was spooled is stored once; a new `mds run` adopts what is running."""
    chance = random.Random(4)
    victims = shuffled(chance, writer=round(4 * SCALE), workers=round(6 * SCALE), supervisor=round(2 * SCALE))
    seen = random_kills(kite, new_service(**SETTINGS), victims, chance=chance, rate=5000, pause_s=0.6)
    print(seen)  # noqa: T201  the figures


def test_whatever_happens_nothing_is_lost_in_silence(kite: Kite, new_service: NewService):
    """Processes die and hang, sockets break, Kite refuses, requests go on: all come home, and no gap is silent."""
    faults = range(round(15 * SCALE))
    seen = random_faults(kite, new_service(**SETTINGS), faults, chance=random.Random(5), rate=5000)
    print(seen)  # noqa: T201  the figures


def test_what_a_stopped_writer_did_not_take_stays_in_the_spool(kite: Kite, new_service: NewService):
    """A stop while the writer is frozen: exit 1 within ten seconds, the rest is counted, and the next run stores it."""
    service = without_spare(kite, new_service)
    kite.load(2000, frame=5)
    service.start()
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 1000, "ticks are stored")
    service.send("writer", signal.SIGSTOP)
    service.wait_for(lambda s: s["metrics"]["total_ticks_pending"] > 1000, "ticks are waiting in the spool")
    kite.tell("pause")
    assert service.stop() == 1

    stored, sent = service.stored(), kite.sent()
    service.assert_verified(ticks=stored, pending=0)  # of the newest epoch the end is not known yet
    summary = re.fullmatch(r"received ([\d,]+) ticks, stored ([\d,]+), still spooled ([\d,]+)\n", service.output())
    assert summary
    received, durable, spooled = (int(number.replace(",", "")) for number in summary.groups())
    assert received == sent == durable + spooled
    assert spooled >= sent - stored  # what was written and not yet synced counts as spooled

    service.start()
    until(lambda: service.stored() >= sent, "the next run stores the rest")
    service.wait_until_live(1, 2)
    assert service.stop() == 0
    assert [ids for c in TOKENS for ids in stored_ids(service, c)] == [ids for c in TOKENS for ids in sent_ids(kite, c)]
    service.assert_verified(ticks=sent)


def test_what_a_worker_kill_interrupts_is_one_gap_whatever_the_order(kite: Kite, new_service: NewService):
    """Killed while the writer is frozen: what was spooled by two epochs is stored in their order, with one gap."""
    service = without_spare(kite, new_service)
    kite.load(2000, frame=5)
    service.start()
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 1000, "ticks are stored")
    service.send("writer", signal.SIGSTOP)
    service.wait_for(lambda s: s["connections"]["1"]["ticks_pending"] > 500, "ticks are waiting")
    service.kill("worker-1")
    until(lambda: len(kite.of(TOKENS[1])) == 2 and kite.of(TOKENS[1])[1]["ticks"] > 500, "the next epoch receives")
    service.send("writer", signal.SIGCONT)
    wait_for_more(service, 3000)
    assert service.stop() == 0

    assert_prefixes(stored_ids(service, 1), sent_ids(kite, 1))
    assert [len(gap["instruments"]) for gap in service.events("gap", cause="killed", connection_id=1)] == [len(PRIMARY)]
    service.assert_verified()
