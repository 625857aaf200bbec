"""discord.py's own code, unmodified, against a leg of ours: IP discovery and voice packets.

Only what its methods read is put in place of a connection; DAVE is off.
"""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from discord_rtc.crypto.modes import create_cipher
from discord_rtc.rtp.packet import RtpPacket, parse_rtp
from discord_rtc.server.media_socket import MediaSocket
from discord_rtc.server.sfu import LegSsrcs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.interop

discord = pytest.importorskip("discord", reason="discord.py is not installed")

SSRC = 71_000
KEY = bytes(range(32))
MODE = "aead_xchacha20_poly1305_rtpsize"


class Room:
    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def receive_rtp(self, leg_id: int, packet: bytes, now: float) -> None:
        assert (leg_id, now >= 0.0) == (SSRC, True)
        self.packets.append(packet)

    def receive_rtcp(self, leg_id: int, packet: bytes, now: float) -> None:
        raise AssertionError(f"discord.py sends no RTCP: {leg_id} {packet.hex()} at {now}")

    def connected(self, leg_id: int, now: float) -> None:
        raise AssertionError(f"discord.py knows no WebRTC: {leg_id} at {now}")


class State:
    """What ``discover_ip`` reads of a ``VoiceConnectionState``: SSRC, socket and listeners."""

    def __init__(self, sock: socket.socket) -> None:
        self.ssrc = SSRC
        self.socket = sock
        self.listeners: list[Callable[[bytes], object]] = []
        self.add_socket_listener = self.listeners.append
        self.remove_socket_listener = self.listeners.remove

    def readable(self) -> None:
        datagram = self.socket.recv(2048)
        for listener in tuple(self.listeners):
            listener(datagram)


def voice_client(mode: str, sock: socket.socket) -> Any:
    """A ``VoiceClient`` as after Session Description, without the connection that gets there."""
    client = object.__new__(discord.VoiceClient)
    client._connection = SimpleNamespace(
        ssrc=SSRC,
        mode=mode,
        secret_key=list(KEY),
        dave_session=None,
        can_encrypt=False,
        send_packet=lambda packet: sock.send(bytes(packet)),
    )
    client.sequence = 0
    client.timestamp = 0
    client._incr_nonce = 0
    return client


@pytest_asyncio.fixture
async def media() -> AsyncIterator[MediaSocket]:
    made = await MediaSocket.open("127.0.0.1")
    yield made
    await made.aclose()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - datagrams set no event
            await asyncio.sleep(0.001)


@pytest.mark.asyncio
async def test_its_discovery_reads_our_answer(media: MediaSocket) -> None:
    from discord.gateway import DiscordVoiceWebSocket

    media.add_leg(1, LegSsrcs(SSRC))
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(media.address)
        state = State(sock)
        loop.add_reader(sock, state.readable)
        websocket: Any = SimpleNamespace(_connection=state, loop=loop)

        async with asyncio.timeout(5):
            found = await DiscordVoiceWebSocket.discover_ip(websocket)
        loop.remove_reader(sock)

        assert found == sock.getsockname()
        await asyncio.sleep(0)
        assert state.listeners == []


@pytest.mark.parametrize(
    "mode",
    [MODE, "xsalsa20_poly1305_lite", "xsalsa20_poly1305_suffix", "xsalsa20_poly1305"],
)
@pytest.mark.asyncio
async def test_its_voice_packets_are_understood_in_every_mode_it_knows(
    media: MediaSocket, mode: str
) -> None:
    room = Room()
    leg = media.add_leg(1, LegSsrcs(SSRC))
    leg.start(mode, KEY)
    leg.deliver_to(room)
    payloads = [bytes((number,)) * (number + 1) for number in range(100)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(media.address)
        client = voice_client(mode, sock)
        for payload in payloads:
            client.send_audio_packet(payload, encode=False)
            await asyncio.sleep(0)
        await until(lambda: len(room.packets) == len(payloads))

    assert [parse_rtp(packet) for packet in room.packets] == [
        RtpPacket(120, number + 1, 960 * number, SSRC, payload)
        for number, payload in enumerate(payloads)
    ]
    assert leg.counters == {"rtp-received": 100}


@pytest.mark.asyncio
async def test_our_answer_to_it_uses_other_nonces(media: MediaSocket) -> None:
    room = Room()
    leg = media.add_leg(1, LegSsrcs(SSRC))
    leg.start(MODE, KEY)
    leg.deliver_to(room)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(media.address)
        client = voice_client(MODE, sock)
        client.send_audio_packet(b"hello", encode=False)
        await until(lambda: leg.address)
        leg.send_rtp(RtpPacket(120, 1, 0, 5, b"hello").to_bytes(), 0.0)
        sock.settimeout(5)
        datagram = await asyncio.get_running_loop().run_in_executor(None, sock.recv, 2048)

    assert client._incr_nonce == 1  # noqa: SLF001 - discord.py counts from 0
    assert datagram[-4:] == b"\x80\x00\x00\x00"
    plain = create_cipher(MODE, KEY, side="client").unprotect_rtp(datagram)
    assert parse_rtp(plain).payload == b"hello"
