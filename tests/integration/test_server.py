"""What a server may do to a connection: everything is on record, and the recording goes on."""

import struct

from tests.integration.conftest import NewService
from tests.integration.kite import Kite, id_of
from tests.integration.service import Service, until

UNIVERSE = {"primary": [408065], "secondary": [738561]}


def ltp(token: int, price: int) -> bytes:
    """Return an ltp packet with its length before it."""
    return struct.pack(">HII", 8, token, price)


def started(kite: Kite, service: Service) -> int:
    """Start recording; return the number of connection 1 at the server."""
    service.start()
    service.wait_until_live(1, 2)
    until(lambda: kite.of(408065) and kite.of(738561), "both are subscribed")
    number: int = kite.of(408065)[0]["number"]
    return number


def test_malformed_frames_cost_nothing_but_their_bad_parts(kite: Kite, new_service: NewService):
    """Good packets of a bad frame are stored, the rest is in the event log as it came, and the socket stays."""
    service = new_service(universe=UNIVERSE)
    number = started(kite, service)
    good = [ltp(0x101 + 0x100 * i, 100 + i) for i in range(5)]
    unknown = struct.pack(">H", 5) + b"12345"
    cut = struct.pack(">HI", 184, 0x101)
    frames = [
        struct.pack(">H", 3) + good[0] + unknown + good[1],
        struct.pack(">H", 2) + good[2] + cut,
        struct.pack(">H", 7) + good[3],
        b"\xff\xff\xff",
        struct.pack(">H", 1) + good[4],
    ]
    kite.tell("raw", connection=number, frames=[frame.hex() for frame in frames])
    service.wait_for(lambda s: s["connections"]["1"]["tick_count"] == len(good), "the good packets are received")
    service.wait_for(lambda s: s["connections"]["1"]["rejects"] >= 3, "rejects are counted")
    assert service.stop() == 0

    assert [tick["last_price"] for tick in service.ticks()] == [1.0, 1.01, 1.02, 1.03, 1.04]
    raws = [bytes.fromhex(reject["raw"]) for reject in service.events("reject", connection_id=1)]
    assert any(b"12345" in raw for raw in raws)
    assert any(cut[2:] in raw for raw in raws)
    assert all(reject["reason"] for reject in service.events("reject"))
    assert len(kite.of(408065)) == 1
    assert service.events("gap") == []
    service.assert_verified(ticks=len(good))


def test_text_messages_go_to_the_event_log(kite: Kite, new_service: NewService):
    """Orders, errors, unknown types and what is no message at all: each is an event, and the socket stays."""
    service = new_service(universe=UNIVERSE)
    number = started(kite, service)
    messages = [
        b'{"type": "order", "data": {"order_id": "1", "status": "COMPLETE"}}',
        b'{"type": "error", "data": "Invalid token"}',
        b'{"type": "instruments_meta", "data": {"count": 5}}',
        b"[]",
        b"null",
        b'"x"',
        b'{"type": ',
        b"\xff\xfe",
    ]
    kite.tell("text", connection=number, messages=[message.hex() for message in messages])
    kite.tell("raw", connection=number, frames=[(struct.pack(">H", 1) + ltp(408065, 5)).hex()])
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] == 1, "the tick behind them is stored")
    assert service.stop() == 0

    assert [event["data"] for event in service.events("order_update")] == [{"order_id": "1", "status": "COMPLETE"}]
    assert [event["data"] for event in service.events("kite_error")] == ["Invalid token"]
    others = [event["type"] for event in service.events("kite_message", connection_id=1)]
    assert others == ["instruments_meta", "untyped", "untyped", "untyped", "invalid", "invalid"]
    assert len(kite.of(408065)) == 1
    service.assert_verified(ticks=1)


def test_a_reset_connection_is_replaced(kite: Kite, new_service: NewService):
    """The next socket follows, with the same instruments in the same mode; what was missed is a gap record."""
    service = new_service(universe=UNIVERSE)
    kite.load(2000, frame=5)
    number = started(kite, service)
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 500, "ticks are stored")
    kite.tell("abort", connection=number)
    until(lambda: len(kite.of(408065)) == 2 and kite.of(408065)[1]["ticks"] > 500, "another socket ticks")
    service.wait_until_live(1, 2)
    assert service.stop() == 0

    assert [connection["modes"] for connection in kite.of(408065)] == [{"408065": "quote"}] * 2
    (gap,) = service.events("gap")
    assert (gap["connection_id"], gap["cause"], gap["instruments"]) == (1, "closed", [408065])
    (stream,) = (ticks for (c, _), ticks in service.streams().items() if c == 1)
    first, second = (kite.ids(connection["number"]) for connection in kite.of(408065))
    stored = [id_of(tick) for tick in stream]
    cut = stored.index(second[0])
    assert stored[:cut] == first[:cut]
    assert stored[cut:] == second
    assert (gap["from"], gap["to"]) == (stream[cut - 1]["timestamp"], stream[cut]["timestamp"])
    service.assert_verified()


def test_refusals_are_told_apart(kite: Kite, new_service: NewService):
    """403 is unauthorised and waits for a token, 429 is tried again and gets through; health says what is uncovered."""
    service = new_service(universe={"primary": [408065]})
    kite.tell("refuse", statuses=[429])
    service.start()
    service.wait_until_live(1)
    assert kite.tell("report")["refused"] == 1
    assert service.stop() == 0
    assert [event["http_status"] for event in service.events("not_connected")] == [429]

    kite.tell("refuse", statuses=[403])
    service.start()
    status = service.wait_for(lambda s: s["connections"]["1"]["state"] == "unauthorised", "403 is shown")
    assert status["health"]["status"] == "down"
    assert "uncovered" in status["health"]["reasons"][0]
    assert service.mds("health").returncode == 1
    assert service.stop() == 0
    assert [event["http_status"] for event in service.events("not_connected")] == [429, 403]
    assert "made-up" not in service.logs()
