"""IP discovery and UDP ping: bytes, strictness, retries."""

from __future__ import annotations

import pytest

from discord_rtc.errors import MalformedPacket
from discord_rtc.protocol.discovery import (
    DISCOVERY_DEADLINE,
    DISCOVERY_SCHEDULE,
    PING_INTERVAL,
    DiscoveryExchange,
    PingExchange,
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

SSRC = 0x11223344
RESPONSE = bytes.fromhex("0002004611223344") + b"203.0.113.7".ljust(64, b"\0") + b"\xc3\x50"


def test_request_bytes() -> None:
    assert build_request(SSRC) == bytes.fromhex("0001004611223344") + bytes(66)
    assert parse_request(build_request(SSRC)) == SSRC


def test_response_bytes() -> None:
    assert build_response(SSRC, "203.0.113.7", 50_000) == RESPONSE
    assert parse_response(RESPONSE, SSRC) == ("203.0.113.7", 50_000)


def test_both_are_discovery_and_told_apart() -> None:
    assert is_discovery(RESPONSE)
    assert is_discovery(build_request(SSRC))
    with pytest.raises(MalformedPacket, match="direction"):
        parse_response(build_request(SSRC), SSRC)
    with pytest.raises(MalformedPacket, match="direction"):
        parse_request(RESPONSE)


@pytest.mark.parametrize("ip", ["2001:db8::1", "::ffff:203.0.113.7", "0.0.0.0"])
def test_any_ip_version_is_understood(ip: str) -> None:
    assert parse_response(build_response(1, ip, 1), 1)[1] == 1


def test_addresses_are_normalised() -> None:
    assert parse_response(build_response(1, "2001:DB8:0:0::1", 9), 1) == ("2001:db8::1", 9)


def test_bytes_behind_the_terminator_do_not_matter() -> None:
    noisy = RESPONSE[:20] + b"leftover" + RESPONSE[28:]
    assert parse_response(noisy, SSRC) == ("203.0.113.7", 50_000)


@pytest.mark.parametrize(
    ("datagram", "complaint"),
    [
        (b"", "not IP discovery"),
        (RESPONSE[:-1], "not IP discovery"),
        (RESPONSE + b"\0", "not IP discovery"),
        (b"\1" + RESPONSE[1:], "not IP discovery"),
        (b"\0\3" + RESPONSE[2:], "not IP discovery"),
        (RESPONSE[:2] + b"\1" + RESPONSE[3:], "not IP discovery"),
        (RESPONSE[:3] + b"\x45" + RESPONSE[4:], "not IP discovery"),
        (RESPONSE[:7] + b"\x45" + RESPONSE[8:], "another SSRC"),
        (RESPONSE[:8] + b"1" * 64 + RESPONSE[72:], "NUL"),
        (RESPONSE[:8] + bytes(64) + RESPONSE[72:], "IP address"),
        (RESPONSE[:8] + b"example.org".ljust(64, b"\0") + RESPONSE[72:], "IP address"),
        (RESPONSE[:8] + b"\xff\xfe".ljust(64, b"\0") + RESPONSE[72:], "IP address"),
        (RESPONSE[:72] + b"\0\0", "port"),
    ],
)
def test_anything_else_is_refused(datagram: bytes, complaint: str) -> None:
    with pytest.raises(MalformedPacket, match=complaint):
        parse_response(datagram, SSRC)


def test_ping_bytes() -> None:
    assert build_ping(7).hex() == "1337cafe00000007"
    assert build_pong(7).hex() == "1337f00d00000007"
    assert parse_ping(build_ping(7)) == parse_pong(build_pong(7)) == 7


@pytest.mark.parametrize("datagram", [b"", b"\x13\x37", build_ping(1) + b"\0", build_ping(1)[:-1]])
def test_what_is_no_ping_is_none(datagram: bytes) -> None:
    assert parse_ping(datagram) is None
    assert parse_pong(datagram) is None


def test_ping_and_pong_are_told_apart() -> None:
    assert parse_ping(build_pong(0)) is None
    assert parse_pong(build_ping(0)) is None


def run_unanswered(exchange: DiscoveryExchange, start: float) -> list[float]:
    """Run to the end and say when requests were sent, relative to the start."""
    now, sent = start, []
    for _ in range(50):
        sent += [round(now - start, 6) for _ in exchange.datagrams_to_send()]
        due = exchange.next_timeout()
        if due is None:
            break
        now = due
        exchange.handle_timeout(now)
    return sent


def test_requests_follow_the_schedule_until_the_deadline() -> None:
    exchange = DiscoveryExchange(SSRC, 100.0)
    assert run_unanswered(exchange, 100.0) == list(DISCOVERY_SCHEDULE)
    assert exchange.failed
    assert exchange.finished
    assert exchange.address is None


def test_deadline_holds() -> None:
    exchange = DiscoveryExchange(SSRC, 0.0)
    exchange.handle_timeout(DISCOVERY_DEADLINE - 0.001)
    assert not exchange.failed
    exchange.handle_timeout(DISCOVERY_DEADLINE)
    assert exchange.failed


def test_late_wakeup_sends_one_request() -> None:
    exchange = DiscoveryExchange(SSRC, 0.0)
    assert exchange.datagrams_to_send() == [build_request(SSRC)]
    exchange.handle_timeout(0.75)
    assert len(exchange.datagrams_to_send()) == 1
    assert exchange.next_timeout() == 1.5


def test_early_wakeup_sends_nothing() -> None:
    exchange = DiscoveryExchange(SSRC, 0.0)
    exchange.datagrams_to_send()
    exchange.handle_timeout(0.05)
    assert exchange.datagrams_to_send() == []


def test_answer_ends_the_exchange() -> None:
    exchange = DiscoveryExchange(SSRC, 0.0)
    exchange.datagrams_to_send()
    exchange.receive_datagram(RESPONSE)
    assert exchange.address == ("203.0.113.7", 50_000)
    assert exchange.finished
    assert exchange.next_timeout() is None
    exchange.handle_timeout(10.0)
    assert not exchange.failed
    assert exchange.datagrams_to_send() == []


def test_later_answers_change_nothing() -> None:
    exchange = DiscoveryExchange(SSRC, 0.0)
    exchange.receive_datagram(RESPONSE)
    exchange.receive_datagram(build_response(SSRC, "198.51.100.1", 1))
    assert exchange.address == ("203.0.113.7", 50_000)


def test_answer_after_the_deadline_is_too_late() -> None:
    exchange = DiscoveryExchange(SSRC, 0.0)
    exchange.handle_timeout(5.0)
    exchange.receive_datagram(RESPONSE)
    assert exchange.address is None


def test_wrong_answer_does_not_end_the_exchange() -> None:
    exchange = DiscoveryExchange(SSRC, 0.0)
    with pytest.raises(MalformedPacket):
        exchange.receive_datagram(build_response(SSRC + 1, "203.0.113.7", 1))
    assert exchange.next_timeout() == 0.1
    exchange.receive_datagram(RESPONSE)
    assert exchange.address is not None


def test_pings_are_regular_and_counted_up() -> None:
    pings = PingExchange(10.0)
    sent = []
    for _ in range(3):
        sent += pings.datagrams_to_send()
        pings.handle_timeout(pings.next_timeout())
    assert sent == [build_ping(1), build_ping(2), build_ping(3)]
    assert pings.next_timeout() == 10.0 + 4 * PING_INTERVAL
    assert pings.unanswered == 3


def test_answered_ping_measures_the_round_trip() -> None:
    pings = PingExchange(10.0)
    pings.receive_pong(1, 10.25)
    assert pings.rtt == 0.25
    pings.handle_timeout(15.0)
    assert pings.unanswered == 0


def test_only_the_first_answer_to_the_latest_ping_counts() -> None:
    pings = PingExchange(0.0)
    pings.handle_timeout(5.0)
    pings.receive_pong(1, 5.5)
    pings.receive_pong(2, 5.25)
    pings.receive_pong(2, 9.0)
    assert pings.rtt == 0.25


def test_unanswered_pings_measure_nothing() -> None:
    pings = PingExchange(0.0)
    pings.handle_timeout(5.0)
    pings.receive_pong(1, 5.5)
    assert pings.rtt is None
    assert pings.unanswered == 1


def test_early_wakeup_sends_no_ping() -> None:
    pings = PingExchange(0.0)
    pings.datagrams_to_send()
    pings.handle_timeout(4.9)
    assert pings.datagrams_to_send() == []
