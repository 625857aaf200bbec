"""Discovery, pings and junk on one path, with time moved by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from discord_rtc.protocol.discovery import (
    build_ping,
    build_pong,
    build_request,
    build_response,
)
from discord_rtc.transport.path import UdpPath, UdpTimings

if TYPE_CHECKING:
    from collections import Counter

SSRC = 77


@pytest.fixture
def path(drops: Counter[str]) -> UdpPath:
    return UdpPath(UdpTimings(), drops)


def test_idle_path_wants_nothing(path: UdpPath) -> None:
    path.handle_timeout(5.0)
    assert path.next_timeout() is None
    assert path.datagrams_to_send() == []
    assert (path.address, path.rtt, path.unanswered_pings) == (None, None, 0)
    assert not path.discovered


def test_discovery_finds_the_address(path: UdpPath) -> None:
    path.discover(SSRC, 1.0)
    assert path.datagrams_to_send() == [build_request(SSRC)]
    assert path.next_timeout() == 1.1
    path.receive_datagram(build_response(SSRC, "203.0.113.7", 9), 1.05)
    assert path.discovered
    assert path.address == ("203.0.113.7", 9)
    assert path.next_timeout() is None


def test_discovery_fails_at_its_deadline(path: UdpPath) -> None:
    path.discover(SSRC, 1.0)
    path.handle_timeout(5.5)
    assert path.discovered
    assert path.address is None


def test_junk_does_not_disturb_discovery(path: UdpPath, drops: Counter[str]) -> None:
    path.discover(SSRC, 1.0)
    for junk in (b"", b"\1" * 8, bytes(74), build_request(SSRC), build_response(1, "::1", 9)):
        path.receive_datagram(junk, 1.0)
    assert drops == {"junk": 5}
    assert path.address is None


def test_discovery_that_nobody_asked_for_is_junk(path: UdpPath, drops: Counter[str]) -> None:
    path.receive_datagram(build_response(SSRC, "::1", 9), 1.0)
    assert drops == {"junk": 1}


def test_duplicate_answers_are_no_junk(path: UdpPath, drops: Counter[str]) -> None:
    path.discover(SSRC, 1.0)
    for _ in range(2):
        path.receive_datagram(build_response(SSRC, "203.0.113.7", 9), 1.05)
    assert not drops


def test_pings_begin_at_once_and_measure(path: UdpPath) -> None:
    path.keep_alive(2.0)
    assert path.datagrams_to_send() == [build_ping(1)]
    path.receive_datagram(build_pong(1), 2.125)
    assert path.rtt == 0.125
    assert path.next_timeout() == 7.0
    path.handle_timeout(7.0)
    assert path.datagrams_to_send() == [build_ping(2)]
    assert path.unanswered_pings == 0
    path.handle_timeout(12.0)
    assert path.unanswered_pings == 1


def test_keeping_alive_twice_is_keeping_alive(path: UdpPath) -> None:
    path.keep_alive(2.0)
    path.keep_alive(3.0)
    assert path.datagrams_to_send() == [build_ping(1)]


def test_pings_of_the_server_are_answered(path: UdpPath, drops: Counter[str]) -> None:
    path.receive_datagram(build_ping(5), 1.0)
    path.receive_datagram(build_ping(6), 1.0)
    assert path.datagrams_to_send() == [build_pong(5), build_pong(6)]
    assert path.datagrams_to_send() == []
    assert not drops


def test_answers_to_nothing_are_ignored(path: UdpPath) -> None:
    path.receive_datagram(build_pong(1), 1.0)
    assert path.rtt is None
    assert path.unanswered_pings == 0
