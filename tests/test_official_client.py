"""What the README says of the official client, where it is compared with this project, is so in the pinned version."""

import json
import struct
from types import SimpleNamespace
from unittest import mock

import pytest
from kiteconnect import KiteTicker
from kiteconnect.ticker import KiteTickerClientProtocol, ssl

from tests.test_packets import framed, packet

FULL = packet(184, 408065, b"\0\0\0\1")


@pytest.fixture
def ticker():
    """The client with its own parser, not connected."""
    return KiteTicker("key", "token")


def test_no_ping_is_sent():
    """Its loop notes the time and calls itself again: the pong that it waits for never comes, nor is missed."""
    protocol = KiteTickerClientProtocol()
    protocol.factory = SimpleNamespace(debug=False, reactor=mock.Mock())
    with mock.patch.object(protocol, "sendPing") as ping, mock.patch.object(protocol, "dropConnection") as drop:
        protocol._loop_ping()
        protocol._loop_pong_check()
    assert (ping.called, drop.called) == (False, False)


def test_the_certificate_is_not_verified():
    """The context that it connects with asks for none."""
    from OpenSSL import SSL

    assert ssl.ClientContextFactory().getContext().get_verify_mode() == SSL.VERIFY_NONE


def test_full_ticks_cannot_be_dumped(ticker):
    """They have datetimes, naive ones."""
    [tick] = ticker._parse_binary(framed(FULL))
    assert tick["exchange_timestamp"].tzinfo is None
    with pytest.raises(TypeError, match="datetime is not JSON serializable"):
        json.dumps(tick)


def test_what_is_cut_is_a_tick_all_the_same(ticker):
    """A full packet that was cut to the length of a quote is one."""
    [tick] = ticker._parse_binary(framed(FULL[:44]))
    assert tick["mode"] == "quote"


def test_a_packet_that_is_cut_off_takes_the_whole_message(ticker):
    """Parsing raises, which ends the socket; the good tick before it is not delivered."""
    with pytest.raises(struct.error):
        ticker._parse_binary(framed(FULL, FULL[:3]))


def test_a_subscription_on_a_closed_socket_is_confirmed(ticker):
    """It returns True, and nothing was sent."""
    ticker.ws = KiteTickerClientProtocol()
    ticker.ws.state = ticker.ws.STATE_CLOSED
    with mock.patch.object(ticker.ws, "sendMessageFrame", create=True) as sent:
        assert ticker.subscribe([408065]) is True
    assert not sent.called
