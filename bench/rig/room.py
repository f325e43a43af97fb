"""What a tick takes on the disk, and of memory where what is stored is compared with what was sent."""

import re
import struct
import time
from pathlib import Path

import numpy as np

from pipeline.days import Calendar
from pipeline.kite.packets import Decoder, split
from pipeline.records import HEADER_BYTES
from pipeline.simulator.market import Market, tokens
from pipeline.ticks import encode_lines

PACKET_BYTES = {"ltp": 8, "quote": 44, "full": 184}
LOOKED_AT = 300  # ticks of each mode
SEQ = 10**8  # of a tick late in a long run: its number takes as many digits
MARGIN = 1.1  # to what ticks are expected to take on the disk
SPARE_BYTES = 2**30  # of the disk: for logs, spools, and other programs
COMPARED_BYTES = 130  # of memory for each tick that `bench.rig.compare` looks at, where some are lost; else 40


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


def most_bytes(ticks: float, modes: tuple[str, ...]) -> float:
    """Return what must be free on the disk for so many ticks.

    That is lines, the simulator's record, and a spool that has all of them, with one tick in each message.
    """
    line, wire = bytes_per_tick(modes)
    return ticks * (line + 2 * (wire + HEADER_BYTES)) * MARGIN + SPARE_BYTES


def free_memory() -> int:
    """Return how many bytes of memory can be had without swapping."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
