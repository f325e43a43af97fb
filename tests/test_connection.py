"""What the protocol makes of bytes, however they are cut: the messages that autobahn alone would, with less work."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.feed_server import BINARY, CLOSE, PING, PONG, TEXT, frame

READ = 65_536  # bytes that come at once while a feed is behind, as asyncio reads them
SMALL = frame(BINARY, bytes(48))
LONG = frame(BINARY, bytes(70_000))

Answer = dict[str, Any]
Feed = Callable[..., Answer]


@pytest.fixture(scope="module")
def feed() -> Iterator[Feed]:
    """Return a function that gives a new connection these reads, and tells what came of it."""
    runner = subprocess.Popen(
        [sys.executable, "-m", "tests.protocol_runner"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert runner.stdin
    assert runner.stdout
    stdin, stdout = runner.stdin, runner.stdout

    def ask(reads: list[bytes], *, hang_up_after: int | None = None, plain: bool = False) -> Answer:
        question = {"reads": [read.hex() for read in reads], "hang_up_after": hang_up_after, "plain": plain}
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        answer: Answer = json.loads(stdout.readline())
        return answer

    yield ask
    stdin.close()
    assert runner.wait(20) == 0
    stdout.close()


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Return `data` in reads of these sizes, over and over."""
    reads: list[bytes] = []
    at = 0
    while at < len(data):
        size = sizes[len(reads) % len(sizes)]
        reads.append(data[at : at + size])
        at += size
    return reads


BINARIES = st.builds(
    lambda size, byte: frame(BINARY, bytes([byte]) * size),
    st.sampled_from((0, 1, 2, 48, 125, 126, 300)),
    st.integers(0, 255),
)
OTHERS = st.sampled_from(
    [
        frame(TEXT, b'{"type": "x"}'),
        frame(PING, b""),
        frame(PING, b"x" * 125),
        frame(PONG, b"x"),
        b"\x02\x03abc\x89\x01p\x00\x00\x80\x01d",  # a message in three fragments, with a ping between
        b"\x02\x03abc\x80\x7e\x01\x00" + b"x" * 256,
    ]
)
LAST = st.sampled_from(
    [
        b"",
        frame(CLOSE, b"\x03\xe8") + SMALL,
        b"\x02\x03abc" + SMALL,  # a message that begins within another
        b"\x80\x01f" + SMALL,  # the end of none
        b"\x82\x83mask..." + SMALL,
        b"\x82\x7e\x00\x05short" + SMALL,
        b"\x82\x7f" + b"\xff" * 8 + SMALL,
        b"\xc2\x01x" + SMALL,
        frame(BINARY, b"x" * 300)[:200],
    ]
)
CUTS = st.lists(st.sampled_from((1, 2, 3, 4, 50, 130, 1000, READ)), min_size=1, max_size=10)


@given(st.lists(BINARIES | OTHERS, max_size=12), LAST, CUTS, st.none() | st.integers(1, 8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_messages_are_those_of_autobahn_alone(feed, frames, last, sizes, hang_up_after):
    """Whatever comes, however it is cut, and also after a hang-up: the same messages, and the same end."""
    reads = cut(b"".join(frames) + last, sizes)
    ours = feed(reads, hang_up_after=hang_up_after)
    theirs = feed(reads, hang_up_after=hang_up_after, plain=True)
    assert ours["messages"] == theirs["messages"]
    assert ours["ended"] == theirs["ended"]


@pytest.mark.parametrize(
    ("first", "frames"),
    [
        (b"", 0),
        (frame(PING, b"x"), 1),
        (frame(TEXT, b"{}"), 1),
        (LONG, 1),
        (LONG[:9], 1),  # the rest of it follows
        (b"\x02\x03abc\x80\x01d", 2),
        (frame(PING, b"x" * 20) * 3 + SMALL + frame(TEXT, b"{}"), 4),
    ],
    ids=["nothing", "ping", "text", "long", "cut-header", "fragments", "several"],
)
def test_small_messages_never_go_the_long_way(feed, first, frames):
    """While a feed is behind, no read ends where a frame does; yet autobahn reads only what nobody else can."""
    begun = LONG[len(first) :] if first == LONG[:9] else b""
    reads = ([first] if begun else []) + cut((b"" if begun else first) + begun + SMALL * 10_000, [READ])
    answer = feed(reads)
    assert [message for message, _ in answer["messages"]].count("00" * 48) == 10_000 + first.count(SMALL)
    assert answer["frames"] == frames


@pytest.mark.parametrize("middle", [1, 2, 3, 100])
def test_a_message_that_is_half_there_at_a_hang_up_still_arrives(feed, middle):
    """What has come of a message before a hang-up is not lost: the rest follows, and it is whole."""
    message = frame(BINARY, bytes(range(200)))
    answer = feed([SMALL + message[:middle], message[middle:] + SMALL], hang_up_after=1)
    assert answer["messages"] == [["00" * 48, True], [bytes(range(200)).hex(), True], ["00" * 48, True]]


@pytest.mark.parametrize(
    "begun",
    [LONG[:60_000], frame(BINARY, bytes(60_000))[:50_000], b"\x02\x7e\xff\xff" + bytes(60_000), LONG[:5]],
    ids=["long", "small", "fragment", "header"],
)
def test_a_connection_that_is_lost_keeps_no_message(feed, begun):
    """What came of a message that nobody will get is let go at once."""
    answer = feed(cut(SMALL + begun, [READ // 4]))
    assert len(answer["messages"]) == 1
    assert answer["kept"] == 0
