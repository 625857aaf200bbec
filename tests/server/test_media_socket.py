"""The media socket on a real loop: users' sockets on loopback, protected as clients do."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from discord_rtc.clock import SystemClock
from discord_rtc.crypto.modes import create_cipher
from discord_rtc.errors import NonceExhausted
from discord_rtc.netem import Impairment
from discord_rtc.protocol.discovery import build_ping, build_pong, build_request, parse_response
from discord_rtc.rtp.packet import RtpPacket, is_rtcp, parse_rtp
from discord_rtc.rtp.rtcp import PictureLoss, build_rtcp, parse_rtcp
from discord_rtc.server import udp_leg
from discord_rtc.server.faults import Faults
from discord_rtc.server.media_socket import DRAIN_LIMIT, MediaSocket
from discord_rtc.server.sfu import DEFAULT_LEG_MEDIA, SERVER_SSRC, LegSsrcs, Room

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from discord_rtc.crypto.cipher import TransportCipher
    from discord_rtc.server.udp_leg import UdpLeg

GCM = "aead_aes256_gcm_rtpsize"


class Peer:
    """A user's socket and key."""

    def __init__(self, base: int, server: tuple[str, int], key: bytes) -> None:
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.connect(server)
        self.socket.setblocking(False)
        self.base = base
        self.cipher = create_cipher(GCM, key, side="client")
        self.plain: list[bytes] = []
        self.rtp: list[RtpPacket] = []
        self.rtcp: list[object] = []
        asyncio.get_running_loop().add_reader(self.socket, self._readable)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()[:2]
        return host, port

    def send(self, sequence: int, ssrc: int | None = None, payload_type: int = 120) -> None:
        ssrc = self.base if ssrc is None else ssrc
        packet = RtpPacket(payload_type, sequence & 0xFFFF, 960 * sequence, ssrc, b"%d" % sequence)
        self.socket.send(self.cipher.protect_rtp(packet.to_bytes()))

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()

    def _readable(self) -> None:
        while True:
            try:
                datagram = self.socket.recv(2048)
            except BlockingIOError:
                return
            if datagram[0] >> 6 != 2:
                self.plain.append(datagram)
            elif is_rtcp(datagram):
                self.rtcp += parse_rtcp(self.cipher.unprotect_rtcp(datagram))
            else:
                self.rtp.append(parse_rtp(self.cipher.unprotect_rtp(datagram)))


class Call:
    """A media socket with one room."""

    def __init__(self, media: MediaSocket) -> None:
        self.media = media
        self.room = Room()
        self.peers: list[Peer] = []
        media.add_room(self.room)

    def join(self, base: int, *, announce: bool = True) -> tuple[Peer, UdpLeg]:
        key = base.to_bytes(32, "big")
        leg = self.media.add_leg(base, LegSsrcs(base, ((base + 1, base + 2),)))
        peer = Peer(base, self.media.address, key)
        self.peers.append(peer)
        leg.start(GCM, key)
        leg.deliver_to(self.room)
        self.media.run(lambda now: self.room.add(leg, leg.ssrcs, DEFAULT_LEG_MEDIA, now))
        if announce:
            self.media.run(lambda now: self.room.announce(base, (base, base + 1), now))
        return peer, leg

    async def aclose(self) -> None:
        for peer in self.peers:
            peer.close()
        await self.media.aclose()


@pytest_asyncio.fixture
async def call() -> AsyncIterator[Call]:
    made = Call(await MediaSocket.open("127.0.0.1"))
    yield made
    await made.aclose()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - sockets of both sides set no event
            await asyncio.sleep(0.001)


async def discover(peer: Peer) -> None:
    peer.socket.send(build_request(peer.base))
    await until(lambda: peer.plain)


@pytest.mark.asyncio
async def test_two_users_hear_each_other(call: Call) -> None:
    (alice, _), (bob, bob_leg) = call.join(100), call.join(200)
    await discover(alice)
    await discover(bob)
    assert parse_response(bob.plain[0], 200) == bob.address
    assert bob_leg.address == bob.address

    alice.send(1)
    bob.send(2)
    await until(lambda: alice.rtp and bob.rtp)

    assert (bob.rtp[0].payload, bob.rtp[0].ssrc) == (b"1", 100)
    assert (alice.rtp[0].payload, alice.rtp[0].ssrc) == (b"2", 200)
    assert call.media.counters["rtp-out"] == 2


@pytest.mark.asyncio
async def test_pings_and_discovery_are_answered_later_on(call: Call) -> None:
    alice, _ = call.join(100)
    alice.send(1)
    alice.socket.send(build_ping(3))
    alice.socket.send(build_request(100))

    await until(lambda: len(alice.plain) == 2)

    assert alice.plain[0] == build_pong(3)
    assert parse_response(alice.plain[1], 100) == alice.address


@pytest.mark.asyncio
async def test_feedback_goes_back_to_the_sender(call: Call) -> None:
    (alice, _), (bob, _) = call.join(100), call.join(200)
    await discover(alice)

    bob.socket.send(bob.cipher.protect_rtcp(build_rtcp((PictureLoss(200, 101),))))
    await until(lambda: alice.rtcp)

    assert alice.rtcp == [PictureLoss(SERVER_SSRC, 101)]


@pytest.mark.asyncio
async def test_ten_users_who_all_talk_at_once_lose_nothing(call: Call) -> None:
    peers = [call.join(1000 + 10 * number, announce=False)[0] for number in range(10)]
    for peer in peers:
        call.room.announce(peer.base, (peer.base,), 0.0)
        await discover(peer)

    for sequence in range(50):
        for peer in peers:
            peer.send(sequence)
        await asyncio.sleep(0)
    await until(lambda: all(len(peer.rtp) == 450 for peer in peers))

    for peer in peers:
        sources = {packet.ssrc for packet in peer.rtp}
        assert sources == {other.base for other in peers if other is not peer}
        for source in sources:
            numbers = [packet.sequence for packet in peer.rtp if packet.ssrc == source]
            assert numbers == list(range(50))
    assert call.room.counters["rtp-in"] == 500
    assert call.room.counters["rtp-out"] == 4500
    assert set(call.media.counters) == {"discovery", "rtp-received", "rtp-in", "rtp-out"}


@pytest.mark.asyncio
async def test_more_datagrams_than_one_wake_up_takes_are_all_read(call: Call) -> None:
    (alice, _), (bob, _) = call.join(100), call.join(200)
    await discover(bob)
    for sequence in range(3 * DRAIN_LIMIT):
        alice.send(sequence)

    await until(lambda: len(bob.rtp) == 3 * DRAIN_LIMIT)

    assert [packet.sequence for packet in bob.rtp] == list(range(3 * DRAIN_LIMIT))


@pytest.mark.asyncio
async def test_a_hijacker_gets_nothing(call: Call) -> None:
    (alice, alice_leg), (bob, _) = call.join(100), call.join(200)
    mallory = Peer(100, call.media.address, bytes(32))
    call.peers.append(mallory)
    await discover(alice)
    alice.send(1)
    await until(lambda: call.room.counters["rtp-in"])

    mallory.send(2)
    await discover(mallory)
    bob.send(1)
    await until(lambda: alice.rtp)

    assert mallory.rtp == []
    assert alice_leg.address == alice.address
    assert call.media.counters["bad-auth"] == 1


@pytest.mark.asyncio
async def test_a_user_whose_nat_rebinds_keeps_hearing(call: Call) -> None:
    (alice, alice_leg), (bob, _) = call.join(100), call.join(200)
    alice.send(1)
    await until(lambda: alice_leg.address)
    moved = Peer(100, call.media.address, bytes(32))
    call.peers.append(moved)
    moved.cipher = alice.cipher

    moved.send(2)
    await until(lambda: alice_leg.address == moved.address)
    bob.send(1)
    await until(lambda: moved.rtp)

    assert alice.rtp == []


@pytest.mark.asyncio
async def test_forwarding_stops_at_once_when_a_leg_is_removed(call: Call) -> None:
    (alice, _), (bob, bob_leg), (carol, _) = call.join(100), call.join(200), call.join(300)
    for peer in (bob, carol):
        await discover(peer)

    call.media.run(lambda now: call.room.remove(200, now))
    call.media.remove_leg(bob_leg)
    alice.send(1)
    await until(lambda: carol.rtp)

    assert bob.rtp == []


@pytest.mark.asyncio
async def test_the_rooms_timers_run(call: Call) -> None:
    alice, _ = call.join(100, announce=False)
    alice.send(1)

    await until(lambda: call.media.counters["unannounced"])

    assert call.room.counters["rtp-in"] == 0


class CountingRoom(Room):
    def __init__(self) -> None:
        super().__init__()
        self.woken = 0

    def handle_timeout(self, now: float) -> None:
        self.woken += 1
        super().handle_timeout(now)


@pytest.mark.asyncio
async def test_a_room_in_which_nothing_happens_is_not_woken(call: Call) -> None:
    idle = CountingRoom()
    call.media.add_room(idle)
    alice, _ = call.join(100, announce=False)
    alice.send(1)

    await until(lambda: call.media.counters["unannounced"])

    assert idle.woken == 0


@pytest.mark.asyncio
async def test_delayed_datagrams_arrive_by_themselves() -> None:
    faults = Faults()
    faults.impair(up=Impairment(delay=0.03), down=Impairment(delay=0.03))
    call = Call(await MediaSocket.open("127.0.0.1", faults=faults))
    assert call.media.faults is faults
    alice, _ = call.join(100)
    started = asyncio.get_running_loop().time()

    await discover(alice)

    assert 0.06 <= asyncio.get_running_loop().time() - started < 1.0
    await call.aclose()


@pytest.mark.asyncio
async def test_a_leg_without_nonces_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def nearly_used_up(mode: str, key: bytes, *, side: str) -> TransportCipher:
        return create_cipher(mode, key, side="server", first_nonce=0xFFFFFFFF)

    told: list[tuple[UdpLeg, NonceExhausted]] = []
    call = Call(
        await MediaSocket.open("127.0.0.1", on_leg_failed=lambda *failure: told.append(failure))
    )
    alice, _ = call.join(100)
    with monkeypatch.context() as patch:
        patch.setattr(udp_leg, "create_cipher", nearly_used_up)
        bob, bob_leg = call.join(200)
    await discover(bob)
    for number in range(5):
        alice.send(number)

    await until(lambda: told and call.room.counters["rtp-in"] == 5)

    assert [leg for leg, _ in told] == [bob_leg]
    assert isinstance(told[0][1], NonceExhausted)
    assert len(bob.rtp) == 1
    await call.aclose()


@pytest.mark.asyncio
async def test_a_failed_leg_needs_nobody_to_be_told(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nearly_used_up(mode: str, key: bytes, *, side: str) -> TransportCipher:
        return create_cipher(mode, key, side="server", first_nonce=0xFFFFFFFF)

    alice, _ = call.join(100)
    monkeypatch.setattr(udp_leg, "create_cipher", nearly_used_up)
    bob, _ = call.join(200)
    await discover(bob)
    for number in range(3):
        alice.send(number)

    await until(lambda: call.media.counters["nonces-exhausted"])


@pytest.mark.asyncio
async def test_a_removed_room_keeps_its_counts_in_the_sum(call: Call) -> None:
    alice, _ = call.join(100)
    alice.send(1)
    await until(lambda: call.media.counters["rtp-in"])

    call.media.remove_room(call.room)
    alice.send(2)
    await until(lambda: call.media.counters["rtp-received"] == 2)

    assert call.media.counters["rtp-in"] == 1


@pytest.mark.asyncio
async def test_the_port_may_be_chosen_and_be_busy(call: Call) -> None:
    host, port = call.media.address
    assert host == "127.0.0.1"
    assert call.media.receive_buffer > 0

    with pytest.raises(OSError, match="in use"):
        await MediaSocket.open("127.0.0.1", port)


@pytest.mark.asyncio
async def test_ipv6_is_served_too() -> None:
    try:
        call = Call(await MediaSocket.open("::1"))
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")
    alice, _ = call.join(100)

    await discover(alice)

    assert parse_response(alice.plain[0], 100) == alice.address
    await call.aclose()


@pytest.mark.asyncio
async def test_closing_twice_is_harmless_and_final() -> None:
    call = Call(await MediaSocket.open("127.0.0.1"))
    alice, leg = call.join(100)
    await discover(alice)

    await call.media.aclose()
    await call.aclose()

    leg.send_rtp(RtpPacket(120, 1, 1, 200, b"late").to_bytes(), 0.0)
    assert leg.counters["no-key"] == 1
    assert call.media.counters["send-error"] == 0


class ProactorLike(asyncio.SelectorEventLoop):
    """A loop without readers for anybody but itself, as on Windows."""

    def add_reader(self, *_args: Any) -> None:  # type: ignore[override] # refuses them all
        raise NotImplementedError


def test_a_loop_without_readers_is_good_enough() -> None:
    async def talk() -> None:
        media = await MediaSocket.open("127.0.0.1")
        media.add_leg(100, LegSsrcs(100))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(media.address)
            sock.send(build_request(100))
            sock.settimeout(5)
            answer = await asyncio.get_running_loop().run_in_executor(None, sock.recv, 2048)
            assert parse_response(answer, 100) == sock.getsockname()
        await media.aclose()
        await media.aclose()

    with asyncio.Runner(loop_factory=ProactorLike) as runner:
        runner.run(talk())


class BrokenSocket(socket.socket):
    """Fails as it is told."""

    failure: OSError = BlockingIOError()

    def sendto(self, *_args: Any) -> int:
        raise self.failure

    def recvfrom(self, *_args: Any) -> Any:
        super().recvfrom(2048)
        raise ConnectionResetError


@pytest.mark.asyncio
async def test_what_the_socket_does_not_take_is_dropped_and_counted() -> None:
    sock = BrokenSocket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    call = Call(MediaSocket(sock, clock=SystemClock()))
    _, leg = call.join(100)
    leg.discovered(("127.0.0.1", 9))

    for failure in (
        BlockingIOError(),
        OSError(errno.ENOBUFS, "no buffers"),
        OSError(errno.ENETUNREACH, "unreachable"),
    ):
        sock.failure = failure
        leg.send_rtp(RtpPacket(120, 1, 1, 200, b"payload").to_bytes(), 0.0)

    assert call.media.counters["send-buffer-full"] == 2
    assert call.media.counters["send-error"] == 1
    await call.aclose()


@pytest.mark.asyncio
async def test_an_error_instead_of_a_datagram_is_counted() -> None:
    sock = BrokenSocket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    call = Call(MediaSocket(sock, clock=SystemClock()))
    await call.media.listen()
    alice, _ = call.join(100)

    alice.socket.send(build_request(100))
    await until(lambda: call.media.counters["receive-error"])

    await call.aclose()
