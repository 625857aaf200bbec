"""The UDP socket itself, on both kinds of event loop."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from discord_rtc.errors import ConnectError
from discord_rtc.transport.datagrams import DRAIN_LIMIT, DatagramSocket, Endpoint

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Coroutine, Iterator


@pytest.fixture(params=["reader", "endpoint"])
def run(
    request: pytest.FixtureRequest, loop_without_readers: Callable[[], asyncio.AbstractEventLoop]
) -> Iterator[Callable[[Coroutine[None, None, None]], None]]:
    factory = asyncio.SelectorEventLoop if request.param == "reader" else loop_without_readers
    with asyncio.Runner(loop_factory=factory, debug=True) as runner:
        yield runner.run


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(3)
        yield sock


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(3):
        while not condition():  # noqa: ASYNC110 - what is waited for are counters
            await asyncio.sleep(0.001)


def test_datagrams_travel_both_ways(
    run: Callable[[Coroutine[None, None, None]], None], peer: socket.socket, drops: Counter[str]
) -> None:
    async def story() -> None:
        received: list[bytes] = []
        sock = await DatagramSocket.connect(
            peer.getsockname(), bind=("127.0.0.1", 0), receive=received.append, drops=drops
        )
        assert sock.local_address[0] == "127.0.0.1"
        assert sock.send(b"forth")
        assert peer.recvfrom(100) == (b"forth", sock.local_address)
        sent = [n.to_bytes(2, "big") for n in range(3 * DRAIN_LIMIT)] + [b""]
        for datagram in sent:
            peer.sendto(datagram, sock.local_address)
        await until(lambda: len(received) == len(sent))
        assert received == sent
        await sock.aclose()
        await sock.aclose()
        assert not sock.send(b"late")
        assert drops == {"closed": 1}

    run(story())


def test_strangers_are_not_heard(
    run: Callable[[Coroutine[None, None, None]], None], peer: socket.socket, drops: Counter[str]
) -> None:
    async def story() -> None:
        received: list[bytes] = []
        sock = await DatagramSocket.connect(
            peer.getsockname(), bind=None, receive=received.append, drops=drops
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"stranger", sock.local_address)
        peer.sendto(b"friend", sock.local_address)
        await until(lambda: bool(received))
        assert received == [b"friend"]
        await sock.aclose()

    run(story())


def test_refusal_is_counted_and_not_the_end(
    run: Callable[[Coroutine[None, None, None]], None], peer: socket.socket, drops: Counter[str]
) -> None:
    address = peer.getsockname()
    peer.close()

    async def story() -> None:
        received: list[bytes] = []
        sock = await DatagramSocket.connect(
            address, bind=None, receive=received.append, drops=drops
        )
        sock.send(b"nobody there")
        await until(lambda: drops["refused"] > 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
            late.bind(address)
            late.sendto(b"here I am", sock.local_address)
            await until(lambda: bool(received))
        await sock.aclose()
        assert received == [b"here I am"]

    run(story())


def test_oversized_datagram_is_counted(
    run: Callable[[Coroutine[None, None, None]], None], peer: socket.socket, drops: Counter[str]
) -> None:
    async def story() -> None:
        sock = await DatagramSocket.connect(
            peer.getsockname(), bind=None, receive=lambda _: None, drops=drops
        )
        sock.send(bytes(70_000))
        await until(lambda: drops["socket-error"] == 1)
        await sock.aclose()

    run(story())


def test_receiver_may_close_in_the_middle_of_a_burst(
    peer: socket.socket, drops: Counter[str]
) -> None:
    async def story() -> None:
        received: list[bytes] = []

        def receive(datagram: bytes) -> None:
            received.append(datagram)
            with pytest.raises(StopIteration):  # it has nothing to wait for
                sock.aclose().send(None)

        sock = await DatagramSocket.connect(
            peer.getsockname(), bind=None, receive=receive, drops=drops
        )
        for _ in range(5):
            peer.sendto(b"burst", sock.local_address)
        await asyncio.sleep(0.02)
        assert received == [b"burst"]

    asyncio.run(story())


def test_full_send_buffer_is_counted(drops: Counter[str]) -> None:
    class FullSocket(socket.socket):
        def send(self, *_: object) -> int:
            raise BlockingIOError

    with FullSocket(socket.AF_INET, socket.SOCK_DGRAM) as full:
        sock = DatagramSocket(full, lambda _: None, drops)
        assert not sock.send(b"x")
    assert drops == {"blocked": 1}


def test_endpoint_refuses_to_buffer_without_bound(peer: socket.socket) -> None:
    async def story() -> None:
        endpoint = Endpoint(lambda _: None, lambda _: None)
        with pytest.raises(BlockingIOError):
            endpoint.send(b"before it is connected")
        await endpoint.aclose()
        await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: endpoint, remote_addr=peer.getsockname()
        )
        endpoint.pause_writing()
        with pytest.raises(BlockingIOError):
            endpoint.send(b"too much")
        endpoint.resume_writing()
        endpoint.send(b"fine")
        assert peer.recv(100) == b"fine"
        await endpoint.aclose()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("remote", "bind"),
    [
        (("voice.example.org", 50_000), None),
        (("", 50_000), None),
        (("127.0.0.1", 0), None),
        (("127.0.0.1", 65_536), None),
        (("127.0.0.1", 50_000), ("127.0.0.1", 65_536)),
        (("127.0.0.1", 50_000), ("203.0.113.7", 0)),
    ],
)
def test_unusable_addresses_are_connect_errors(
    remote: tuple[str, int], bind: tuple[str, int] | None, drops: Counter[str]
) -> None:
    async def story() -> None:
        with pytest.raises(ConnectError, match="voice server"):
            await DatagramSocket.connect(remote, bind=bind, receive=lambda _: None, drops=drops)

    asyncio.run(story())


def test_port_range_is_used_up_and_then_refused(peer: socket.socket, drops: Counter[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        async def connect(ports: tuple[int, int], address: str) -> DatagramSocket:
            return await DatagramSocket.connect(
                peer.getsockname(),
                bind=(address, 0),
                receive=lambda _: None,
                drops=drops,
                port_range=ports,
            )

        async def story() -> None:
            with pytest.raises(ConnectError, match=f"no local port from {port} to {port} is free"):
                await connect((port, port), "127.0.0.1")
            with pytest.raises(ConnectError, match="voice server"):  # no address of this machine
                await connect((port, port), "203.0.113.7")
            free = await connect((port, port), "127.0.0.2")
            assert free.local_address == ("127.0.0.2", port)
            await free.aclose()

        asyncio.run(story())


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6_works_too(drops: Counter[str]) -> None:
    async def story() -> None:
        received: list[bytes] = []
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
            try:
                peer.bind(("::1", 0))
            except OSError:
                pytest.skip("no IPv6 address here")
            sock = await DatagramSocket.connect(
                ("::1", peer.getsockname()[1]), bind=None, receive=received.append, drops=drops
            )
            assert sock.local_address[0] == "::1"
            peer.sendto(b"six", (*sock.local_address, 0, 0))
            await until(lambda: bool(received))
            await sock.aclose()
        assert received == [b"six"]

    asyncio.run(story())
