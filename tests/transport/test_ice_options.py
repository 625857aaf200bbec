"""STUN and TURN servers as users write them, and combinations that do not exist."""

from __future__ import annotations

from typing import Any

import pytest

from discord_rtc.errors import UsageError
from discord_rtc.transport.ice_options import IceOptions, IceServer

STUN = IceServer("stun:stun.example")
TURN = IceServer("turn:turn.example", "ann", "hidden")


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "over_tcp"),
    [
        ("stun:stun.example", "stun", "stun.example", 3478, False),
        ("stun:192.0.2.1:19302", "stun", "192.0.2.1", 19302, False),
        ("turn:turn.example", "turn", "turn.example", 3478, False),
        ("turn:turn.example:443?transport=tcp", "turn", "turn.example", 443, True),
        ("turn:[2001:db8::1]:99?transport=udp", "turn", "2001:db8::1", 99, False),
        ("turns:turn.example", "turns", "turn.example", 5349, True),
    ],
)
def test_urls_are_read(url: str, scheme: str, host: str, port: int, over_tcp: bool) -> None:
    server = IceServer(url, "ann", "hidden")
    assert (server.scheme, server.host, server.port) == (scheme, host, port)
    assert server.over_tcp is over_tcp
    assert server.is_relay is (scheme != "stun")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("turn.example", "an ICE server is"),
        ("http://turn.example", "an ICE server is"),
        ("turn://turn.example", "an ICE server is"),
        ("turn:a b", "an ICE server is"),
        ("turn:turn.example:70000", "valid port"),
        ("turn:turn.example:0", "valid port"),
        ("stun:stun.example?transport=tcp", "over UDP only"),
        ("turns:turn.example?transport=udp", "TLS over TCP"),
    ],
)
def test_wrong_urls_are_refused(url: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        IceServer(url, "ann", "hidden")


def test_credentials_within_a_url_are_refused_without_being_shown() -> None:
    with pytest.raises(UsageError, match="beside the URL") as caught:
        IceServer("turn:ann:hidden@turn.example")
    assert "hidden" not in str(caught.value)


def test_a_relay_needs_credentials_which_are_not_shown() -> None:
    with pytest.raises(UsageError, match=r"turn\.example needs a username"):
        IceServer("turn:turn.example", "ann")
    assert "hidden" not in repr(TURN)
    assert "hidden" not in repr(IceOptions((TURN,)))


def test_the_servers_are_found_by_their_kind() -> None:
    options = IceOptions((TURN, STUN))
    assert options.stun is STUN
    assert options.turn is TURN
    assert options.has_relay
    assert not IceOptions().has_relay


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"servers": (STUN, STUN)}, "at most one STUN and one TURN"),
        ({"servers": (TURN, TURN)}, "at most one STUN and one TURN"),
        ({"relay_only": True}, "relay_only needs a TURN server"),
        ({"relay_only": True, "servers": (STUN,)}, "relay_only needs a TURN server"),
        ({"agent": "heavy"}, "not 'heavy'"),
        ({"agent": "lite", "servers": (STUN,)}, "neither STUN nor TURN"),
        ({"agent": "full", "bind": ("127.0.0.1", 0)}, "aioice cannot be told"),
        ({"servers": (TURN,), "port_range": (1000, 2000)}, "aioice cannot be told"),
        ({"bind": ("my-host", 0)}, "bind is a local IP address"),
        ({"bind": ("127.0.0.1", 65536)}, "bind is a local IP address"),
        ({"port_range": (2000, 1000)}, "port_range is"),
        ({"port_range": (0, 10)}, "port_range is"),
        ({"port_range": (1, 65536)}, "port_range is"),
        ({"bind": ("127.0.0.1", 99), "port_range": (1000, 2000)}, "either a port"),
    ],
)
def test_combinations_that_do_not_exist_are_refused(
    options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        IceOptions(**options)


def test_a_port_range_goes_with_an_address() -> None:
    options = IceOptions(bind=("127.0.0.1", 0), port_range=(1000, 1000))
    assert options.port_range == (1000, 1000)
