"""The least that recording can cost on this machine: what nobody gets below who decodes, hands over and writes.

Two parts. Handing batches of lines from one process to another by ZeroMQ, and writing them to a file, is measured in
the run. Decoding and encoding is not: the figures are those of hand-written C on a machine like the one that this
project was made on, and stand for the order of magnitude.
"""

import os
import signal
import statistics
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import zmq

C_DECODE_ENCODE_US = {"quote": 0.3, "full": 0.5}  # a tick; not measured here
HEADER_BYTES = 64  # of a batch, as pipeline.wire has it
ROUND_BYTES = 256 * 2**20  # of lines
ROUND_BATCHES = 50_000  # at most: small ones take longer
ROUNDS = 3
QUEUE = 16  # batches on their way, as the workers have it
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Floor:
    """CPU time of a tick in microseconds."""

    transport_us: float  # measured: ZeroMQ and write, sender and receiver together
    decode_encode_us: float  # assumed

    @property
    def us(self) -> float:
        """All of it."""
        return self.transport_us + self.decode_encode_us


def measured_floor(folder: Path, mode: str, line_bytes: float, batch_ticks: int) -> Floor:
    """Measure what ticks of this length cost that leave in batches of so many."""
    batch_bytes = max(round(line_bytes * batch_ticks), 1)
    batches = min(max(ROUND_BYTES // batch_bytes, 1), ROUND_BATCHES)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        rounds = [_transport_s(Path(own), batch_bytes, batches) for _ in range(ROUNDS)]
    return Floor(statistics.median(rounds) / (batches * batch_ticks) * 1e6, C_DECODE_ENCODE_US[mode])


def _transport_s(folder: Path, batch_bytes: int, batches: int) -> float:
    """Return the CPU seconds of two processes that send and receive, and write."""
    context = get_context("spawn")
    endpoint, file = f"ipc://{folder}/floor.sock", folder / "floor"
    here, there = context.Pipe(duplex=False)
    processes = [
        context.Process(target=_receive, args=(endpoint, file, batches, there), daemon=True),
        context.Process(target=_send, args=(endpoint, batch_bytes, batches, there), daemon=True),
    ]
    try:
        for process in processes:
            process.start()
        used_s = 0.0
        for _ in processes:
            assert here.poll(PATIENCE_S), "measuring the floor has taken too long"
            used_s += here.recv()
        return used_s
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


def _send(endpoint: str, batch_bytes: int, batches: int, told: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who has started it
    header, lines = bytes(HEADER_BYTES), b"x" * batch_bytes
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.setsockopt(zmq.SNDHWM, QUEUE)
        push.connect(endpoint)
        push.send_multipart((header, lines))  # the first one waits until somebody is there
        began = time.process_time()
        for _ in range(batches):
            push.send_multipart((header, lines))
        told.send(time.process_time() - began)
        signal.pause()  # until it is killed: what the receiver has not read yet would go with the socket


def _receive(endpoint: str, file: Path, batches: int, told: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC, 0o600)
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.setsockopt(zmq.RCVHWM, QUEUE)
        pull.bind(endpoint)
        pull.recv_multipart()
        began = time.process_time()
        for _ in range(batches):
            os.write(descriptor, pull.recv_multipart()[1])
        told.send(time.process_time() - began)
