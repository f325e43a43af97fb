"""Copies that the recorder stores when instruments are mirrored, moved, and taken over by another connection."""

from collections import Counter
from pathlib import Path

import polars as pl

from pipeline.files import event_file_name
from pipeline.simulator.market import tokens
from pipeline.store.dedupe import Day, drop_copies
from pipeline.store.files import date_of, tick_files
from pipeline.store.frames import read_ticks
from tests.integration.conftest import NewService
from tests.integration.service import Service, until
from tests.stored import ZONE

TRADED = [token for token in tokens(40) if token & 0xFF != 9]  # not the indices: they have no volume to be told by
PRIMARY, SECONDARY = TRADED[:20], TRADED[20:]
TICKS = 200  # more on a connection: each of its instruments ticks several times within the window


def wait_for_ticks(service: Service, connection_id: int) -> None:
    """Wait until this connection has all that it should have, and has recorded more of it."""
    had = service.wait_until_live(connection_id)["connections"][str(connection_id)]["tick_count"]
    service.wait_for(
        lambda s: s["connections"][str(connection_id)]["tick_count"] > had + TICKS, f"{connection_id} records"
    )


def without_copies(data_dir: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return all ticks, and what is left of them, of the days that the recording has."""
    frames = {path: read_ticks(path, on_bad="raise", data_dir=data_dir, timezone=ZONE) for path in tick_files(data_dir)}
    days = [Day(frame, data_dir / event_file_name(day)) for path, frame in frames.items() if (day := date_of(path))]
    stored = pl.concat(frames.values())
    return stored.collect(), drop_copies(stored, days).collect()


def test_each_trade_is_left_once_whichever_connections_had_it(new_service: NewService):
    """While connection 3 mirrors, carries by hand, and takes over from a worker that is killed."""
    service = new_service(
        universe={"primary": PRIMARY, "secondary": SECONDARY},
        simulator={"rate": 400},
        failover={"stable_s": 0.3},
        kite={},
    )
    service.start("--simulate")
    wait_for_ticks(service, 1)
    for there, back in ((["mirror", "on"], ["mirror", "off"]), (["failover", "1"], ["failback"])):
        assert service.mds(*there).returncode == 0
        service.wait_for(lambda s: s["connections"]["3"]["confirmed_instruments"] == len(PRIMARY), "3 has them")
        wait_for_ticks(service, 3)
        if there[0] == "failover":
            until(lambda: service.events("resubscribed", source="worker-1"), "it is on record that 1 has none")
        assert service.mds(*back).returncode == 0
        service.wait_for(lambda s: s["connections"]["3"]["subscribed_instruments"] == 0, "3 has none")
        wait_for_ticks(service, 1)
    service.kill("worker-1")
    service.wait_for(lambda s: s["connections"]["3"]["confirmed_instruments"] == len(PRIMARY), "3 takes over")
    service.wait_for(lambda s: s["connections"]["3"]["subscribed_instruments"] == 0, "1 is back")
    wait_for_ticks(service, 1)
    wait_for_ticks(service, 2)
    assert service.stop() == 0

    stored, left = without_copies(service.data_dir)
    trade = ("instrument_token", "mode", "volume_traded")
    trades = Counter(left.select(trade).rows())
    assert [(trade, number) for trade, number in trades.items() if number > 1] == []
    assert trades.keys() == set(stored.select(trade).rows())
    dropped = stored.join(left, on=("connection_id", "epoch", "seq"), how="anti")
    of = {connection_id: set(rows["instrument_token"]) for (connection_id,), rows in dropped.group_by("connection_id")}
    assert of[3] == set(PRIMARY)
    assert set(PRIMARY) <= of[1]
    print(f"{stored.height} ticks, {dropped.height} copies")  # noqa: T201  the figure
