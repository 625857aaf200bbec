"""Properties 1 and 2 for IP discovery and ping: identity, and a value or an error for any bytes."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.errors import MalformedPacket
from discord_rtc.protocol.discovery import (
    DISCOVERY_DEADLINE,
    DiscoveryExchange,
    build_ping,
    build_pong,
    build_request,
    build_response,
    is_discovery,
    parse_ping,
    parse_pong,
    parse_request,
    parse_response,
)

numbers = st.integers(0, 0xFFFF_FFFF)
addresses = st.ip_addresses().map(str)
ports = st.integers(1, 0xFFFF)

anything = (
    st.binary(max_size=100)
    | st.binary(min_size=74, max_size=74)
    | st.builds(
        lambda kind, rest: bytes([0, kind, 0, 70]) + rest,
        st.integers(1, 2),
        st.binary(min_size=70, max_size=70),
    )
)


@given(numbers)
def test_numbers_come_back(number: int) -> None:
    assert parse_request(build_request(number)) == number
    assert parse_ping(build_ping(number)) == number
    assert parse_pong(build_pong(number)) == number


@given(numbers, addresses, ports)
def test_addresses_come_back(ssrc: int, ip: str, port: int) -> None:
    datagram = build_response(ssrc, ip, port)
    assert is_discovery(datagram)
    assert parse_response(datagram, ssrc) == (ip, port)


@given(anything, numbers)
def test_any_bytes_give_a_value_or_a_typed_error(datagram: bytes, ssrc: int) -> None:
    with suppress(MalformedPacket):
        assert 0 <= parse_request(datagram) <= 0xFFFF_FFFF
    with suppress(MalformedPacket):
        ip, port = parse_response(datagram, ssrc)
        assert ip
        assert 0 < port <= 0xFFFF
    for number in (parse_ping(datagram), parse_pong(datagram)):
        assert number is None or number in range(1 << 32)


@given(numbers, st.lists(st.floats(0, 1) | anything, max_size=60))
def test_exchange_always_has_a_deadline_until_it_ends(
    ssrc: int, steps: list[float | bytes]
) -> None:
    now = 1000.0
    exchange = DiscoveryExchange(ssrc, now)
    for step in steps:
        if isinstance(step, bytes):
            with suppress(MalformedPacket):
                exchange.receive_datagram(step)
        else:
            now += step
            exchange.handle_timeout(now)
        due = exchange.next_timeout()
        assert (due is None) == exchange.finished
        if due is not None:
            assert now <= due <= 1000.0 + DISCOVERY_DEADLINE or isinstance(step, bytes)
    exchange.handle_timeout(now + DISCOVERY_DEADLINE)
    assert exchange.finished
