"""What a tick takes on the disk."""

import struct
import time

import numpy as np

from pipeline.days import Calendar
from pipeline.kite.packets import Decoder, split
from pipeline.simulator.market import Market, tokens
from pipeline.ticks import encode_lines

PACKET_BYTES = {"ltp": 8, "quote": 44, "full": 184}
LOOKED_AT = 300  # ticks of each mode
SEQ = 10**8  # of a tick late in a long run: its number takes as many digits


def bytes_per_tick(modes: tuple[str, ...]) -> tuple[float, float]:
    """Return the mean bytes of a stored line and of a packet on the wire, of the simulator's ticks in these modes."""
    now_s = int(time.time())
    market = Market(1)
    rows = market.rows(tokens(LOOKED_AT), now_s)
    made = market.advance(rows, 1, now_s)
    decoder = Decoder(Calendar("Asia/Kolkata"), 1, now_s * 1000)
    lines = wire = 0
    for mode in modes:
        size = PACKET_BYTES[mode]
        packets = (struct.pack(">H", size) + packet.tobytes()[:size] for packet in np.asarray(made))
        frame = struct.pack(">H", LOOKED_AT) + b"".join(packets)
        lines += len(encode_lines(decoder.decode(frame, split(frame), now_s * 10**9, SEQ)))
        wire += len(frame)
    return lines / (LOOKED_AT * len(modes)), wire / (LOOKED_AT * len(modes))
