"""Binary messages are taken whole and as they were sent; what else there is stays where it is."""

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.kite.framing import frame_end, take_messages
from tests.feed_server import BINARY, CLOSE, PING, TEXT, frame

SIZES = st.one_of(st.integers(0, 300), st.sampled_from((125, 126, 127, 65_535)))
PAYLOADS = st.builds(lambda size, byte: bytes([byte]) * size, SIZES, st.integers(0, 255))
OTHERS = st.sampled_from(
    [
        frame(TEXT, b"text"),
        frame(PING, b""),
        frame(CLOSE, b"\x03\xe8"),
        b"\x02\x03abc",  # the first of several fragments
        b"\x80\x01f",  # the last of them
        b"\x82\x83mask...",  # masked, as no server may
        b"\x82\x7e\x00\x05short",  # a length in more bytes than it needs
        b"\xc2\x01x",  # with an extension's bit
        frame(BINARY, b"x" * 65_536),
        b"",
    ]
)


@given(st.lists(PAYLOADS, max_size=30), OTHERS)
def test_takes_all_up_to_something_else(payloads, other):
    """What was sent is taken, in order, up to what is no binary message, which is left as it is."""
    data = b"".join(frame(BINARY, payload) for payload in payloads)
    assert take_messages(data + other) == (payloads, len(data), False)


@given(st.lists(PAYLOADS, min_size=1, max_size=5), st.data())
@example([b"x" * 126], None)
def test_a_message_that_is_cut_waits(payloads, data):
    """Of what ends within a message the whole ones are taken, and the rest is said to be the beginning of one."""
    frames = [frame(BINARY, payload) for payload in payloads]
    whole = b"".join(frames[:-1])
    cuts = range(1, len(frames[-1])) if data is None else [data.draw(st.integers(1, len(frames[-1]) - 1))]
    for cut in cuts:
        taken = take_messages(whole + frames[-1][:cut])
        if frames[-1][1] == 127 and cut > 1:
            assert taken == (payloads[:-1], len(whole), False)
        else:
            assert taken == (payloads[:-1], len(whole), True)


@given(st.binary(max_size=100))
def test_takes_any_bytes(data):
    """Any bytes are taken or left, none twice, and what was taken are messages that could have been sent."""
    payloads, end, is_begun = take_messages(data)
    assert b"".join(frame(BINARY, payload) for payload in payloads) == data[:end]
    assert not is_begun or data[end] == 0x82


@given(st.binary(max_size=5), st.lists(PAYLOADS, max_size=3))
def test_takes_from_where_it_is_told(before, payloads):
    """What is before the start is not looked at, and places are counted from the beginning of the data."""
    data = before + b"".join(frame(BINARY, payload) for payload in payloads)
    assert take_messages(data, len(before)) == (payloads, len(data), False)


@given(st.binary(max_size=5), st.sampled_from((TEXT, BINARY, CLOSE, PING)), PAYLOADS, st.booleans())
@example(before=b"", opcode=BINARY, payload=b"x" * 65_536, masked=False)
def test_the_end_of_a_frame_is_known_from_its_header(before, opcode, payload, masked):
    """Of any frame, whole or not, the end is known once its header is there; until then all that is there is of it."""
    whole = frame(opcode, payload)
    header = len(whole) - len(payload)
    if masked:
        whole = whole[:1] + bytes([whole[1] | 0x80]) + whole[2:header] + b"mask" + payload
        header += 4
    for arrived in range(header + 2):
        data = before + whole[:arrived]
        end = len(before) + (len(whole) if arrived >= header else arrived)
        assert frame_end(data, len(before)) == end
    assert frame_end(before + whole + b"next", len(before)) == len(before) + len(whole)
