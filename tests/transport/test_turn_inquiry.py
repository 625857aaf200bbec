"""What a TURN server is asked when there is no relay, and what becomes of its answers."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from discord_rtc.ice.stun import parse_stun
from discord_rtc.transport.ice_options import IceServer
from discord_rtc.transport.turn_inquiry import TurnInquiry, ask_turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import TurnServer

PEER = ("192.0.2.7", 50_000)
ALLOCATE, REFRESH, CREATE_PERMISSION = 3, 4, 8


@pytest.fixture
def ids() -> Iterator[bytes]:
    return (bytes((number,)) * 12 for number in range(1, 100))


@pytest.fixture
def inquiry(ids: Iterator[bytes]) -> TurnInquiry:
    return TurnInquiry("user", "secret", PEER, lambda _: next(ids))


def answer(inquiry: TurnInquiry, kind: int, *attributes: tuple[int, bytes]) -> bytes:
    """An answer to what is being asked."""
    request = parse_stun(inquiry.request())
    body = b"".join(
        struct.pack("!HH", number, len(value)) + value + bytes(-len(value) & 3)
        for number, value in attributes
    )
    head = struct.pack("!HHI", request.method | kind, len(body), 0x2112A442)
    return head + request.transaction_id + body


def refusal(inquiry: TurnInquiry, code: int, phrase: bytes = b"") -> bytes:
    error = (0x0009, bytes((0, 0, code // 100, code % 100)) + phrase)
    return answer(inquiry, 0x110, error, (0x0014, b"realm"), (0x0015, b"nonce"))


def granted(inquiry: TurnInquiry) -> bytes:
    return answer(inquiry, 0x100)


def method(inquiry: TurnInquiry) -> int:
    return parse_stun(inquiry.request()).method


def test_everything_is_asked_for_and_given_back(inquiry: TurnInquiry) -> None:
    assert method(inquiry) == ALLOCATE
    assert parse_stun(inquiry.request()).signed is None
    assert inquiry.receive(refusal(inquiry, 401))
    assert parse_stun(inquiry.request()).signed is not None
    asked = []
    while not inquiry.finished:
        asked.append(method(inquiry))
        inquiry.receive(granted(inquiry))
    assert asked == [ALLOCATE, CREATE_PERMISSION, REFRESH]
    assert inquiry.refusal is None


def test_repeated_request_is_the_same(inquiry: TurnInquiry) -> None:
    assert inquiry.request() == inquiry.request()


def test_second_401_refuses_the_credentials(inquiry: TurnInquiry) -> None:
    inquiry.receive(refusal(inquiry, 401, b"Unauthorized"))
    assert not inquiry.receive(refusal(inquiry, 401, b"Unauthorized"))
    assert (inquiry.finished, inquiry.refusal) == (True, "401 Unauthorized")


def test_401_without_a_realm_cannot_be_answered(inquiry: TurnInquiry) -> None:
    inquiry.receive(answer(inquiry, 0x110, (0x0009, bytes((0, 0, 4, 1)))))
    assert (inquiry.finished, inquiry.refusal) == (True, "401")


def test_refused_permission_still_releases_the_allocation(inquiry: TurnInquiry) -> None:
    inquiry.receive(refusal(inquiry, 401))
    inquiry.receive(granted(inquiry))
    assert inquiry.receive(refusal(inquiry, 403, b"Forbidden IP"))
    assert method(inquiry) == REFRESH
    assert not inquiry.receive(refusal(inquiry, 437, b"what allocation?"))
    assert (inquiry.finished, inquiry.refusal) == (True, "403 Forbidden IP")


def test_phrase_of_a_stranger_is_bounded_and_readable(inquiry: TurnInquiry) -> None:
    inquiry.receive(refusal(inquiry, 500, b"\xff" + b"x" * 500))
    assert inquiry.refusal is not None
    assert len(inquiry.refusal) < 70


def test_other_answers_and_garbage_are_ignored(inquiry: TurnInquiry) -> None:
    stale = refusal(inquiry, 401)
    inquiry.receive(stale)
    for datagram in (stale, b"", b"\0\1garbage", stale[:-1]):
        assert not inquiry.receive(datagram)
    assert not inquiry.finished
    inquiry.receive(refusal(inquiry, 486))
    assert not inquiry.receive(granted(inquiry))
    assert inquiry.refusal == "486"


def test_ipv6_peers_are_named_too(ids: Iterator[bytes]) -> None:
    inquiry = TurnInquiry("user", "secret", ("2001:db8::7", 5), lambda _: next(ids))
    inquiry.receive(granted(inquiry))
    address = parse_stun(inquiry.request()).attributes[0x0012]
    assert (address[:2], len(address)) == (b"\0\2", 20)


@pytest.mark.asyncio
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize(
    ("refusals", "credential", "expected"),
    [
        ({}, None, None),
        ({}, "another", "401 Unauthorized"),
        ({ALLOCATE: 486}, None, "486 No such luck"),
        ({CREATE_PERMISSION: 403}, None, "403 No such luck"),
    ],
)
async def test_server_is_asked_and_left_clean(
    transport: str,
    refusals: dict[int, int],
    credential: str | None,
    expected: str | None,
    turn_server: TurnServer,
) -> None:
    turn_server.refusals = refusals
    url = f"turn:127.0.0.1:{turn_server.port}?transport={transport}"
    server = IceServer(url, turn_server.username, credential or turn_server.credential)
    async with asyncio.timeout(3):
        assert await ask_turn(server, PEER) == expected
    assert turn_server.allocations == 0


@pytest.mark.asyncio
async def test_lost_requests_are_repeated(turn_server: TurnServer) -> None:
    turn_server.silent = True
    url = f"turn:127.0.0.1:{turn_server.port}"
    server = IceServer(url, turn_server.username, turn_server.credential)
    asking = asyncio.create_task(ask_turn(server, PEER))
    await asyncio.sleep(0.05)
    turn_server.silent = False
    async with asyncio.timeout(3):
        assert await asking is None


@pytest.mark.asyncio
async def test_silence_lasts_until_the_caller_has_enough(turn_server: TurnServer) -> None:
    turn_server.silent = True
    for transport in ("udp", "tcp"):
        url = f"turn:127.0.0.1:{turn_server.port}?transport={transport}"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ask_turn(IceServer(url, "user", "secret"), PEER)


@pytest.mark.asyncio
async def test_what_the_way_there_says_is_the_answer() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        closed = IceServer(f"turn:127.0.0.1:{port}?transport=tcp", "user", "secret")
        assert await ask_turn(closed, PEER) == os.strerror(errno.ECONNREFUSED)
    nobody = IceServer("turn:" + "x" * 64 + ".invalid", "user", "secret")
    assert await ask_turn(nobody, PEER)


@pytest.mark.asyncio
async def test_server_that_hangs_up_is_an_answer(turn_server: TurnServer) -> None:
    turn_server.silent = True
    url = f"turn:127.0.0.1:{turn_server.port}?transport=tcp"
    asking = asyncio.create_task(ask_turn(IceServer(url, "user", "secret"), PEER))
    await asyncio.sleep(0.05)
    turn_server.hang_up()
    async with asyncio.timeout(3):
        assert await asking
