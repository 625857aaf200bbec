"""Messages, packets and a sink that the transport tests share."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from discord_rtc.clock import SystemClock
from discord_rtc.crypto.certificate import Certificate
from discord_rtc.crypto.dtls import DtlsEndpoint, KeysAgreed, PeerClosed, is_dtls
from discord_rtc.crypto.srtp import SrtpCipher
from discord_rtc.errors import RejectedPacket
from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.ice.responder import LiteResponder
from discord_rtc.ice.stun import is_stun, parse_stun
from discord_rtc.protocol.messages import Ready, SessionDescription
from discord_rtc.protocol.sdp import ServerFragment, host_candidate, parse_client_fragment
from discord_rtc.pump import Pump
from discord_rtc.rtp.packet import is_rtcp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from discord_rtc.ice.stun import StunMessage

KEY = bytes(range(32))


class RecordingSink:
    """A `PacketSink` that keeps everything and can be waited for."""

    def __init__(self) -> None:
        self.rtp_packets: list[bytes] = []
        self.rtcp_packets: list[bytes] = []
        self.errors: list[Exception] = []
        self.times: list[float] = []
        self._changed = asyncio.Event()

    def rtp(self, packet: bytes, now: float) -> None:
        self.rtp_packets.append(packet)
        self._note(now)

    def rtcp(self, packet: bytes, now: float) -> None:
        self.rtcp_packets.append(packet)
        self._note(now)

    def lost(self, error: Exception) -> None:
        self.errors.append(error)
        self._changed.set()

    def _note(self, now: float) -> None:
        self.times.append(now)
        self._changed.set()

    async def ends(self) -> None:
        """Wait until the path is lost."""
        async with asyncio.timeout(3):
            while not self.errors:
                self._changed.clear()
                await self._changed.wait()

    async def holds(self, count: int) -> None:
        """Wait until that many packets came."""
        async with asyncio.timeout(3):
            while len(self.times) < count:
                self._changed.clear()
                await self._changed.wait()


class WebRtcServer(asyncio.DatagramProtocol):
    """A voice server's WebRTC side for one client: lite ICE, DTLS, SRTP, and ways to misbehave.

    Attributes:
        answers_checks: Whether it does.
        answers_dtls: Whether it does.
        with_the_keys: Called when keys are agreed, before the last flight of the handshake is sent.
        rtp: Plain packets received.
        rtcp: Plain packets received.
        unknown: Datagrams received before there were keys.
        goodbyes: How often the client said goodbye.
        handshakes: How often keys were agreed on.
    """

    def __init__(self) -> None:
        self.credentials = IceCredentials.generate()
        self.certificate = Certificate.generate()
        self.answers_checks = True
        self.answers_dtls = True
        self.with_the_keys: Callable[[], None] = lambda: None
        self.rtp: list[bytes] = []
        self.rtcp: list[bytes] = []
        self.unknown: list[bytes] = []
        self.goodbyes = 0
        self.handshakes = 0
        self.cipher: SrtpCipher | None = None
        self.responder = LiteResponder(self.credentials)
        self._clock = SystemClock()
        self._dtls: DtlsEndpoint | None = None
        self._pump: Pump | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # asyncio's own subtype
        self._transport = transport

    @property
    def address(self) -> tuple[str, int]:
        assert self._transport is not None
        ip, port = self._transport.get_extra_info("sockname")[:2]
        return str(ip), int(port)

    @property
    def fragment(self) -> ServerFragment:
        ip, port = self.address
        return ServerFragment(
            ip=ip,
            port=port,
            ufrag=self.credentials.ufrag,
            password=self.credentials.password,
            fingerprint=self.certificate.fingerprint,
            candidates=(host_candidate(ip, port),),
        )

    def expect(self, sdp: str | None) -> SessionDescription:
        """Take a client's offer, and answer it."""
        assert sdp is not None
        client = parse_client_fragment(sdp)
        self.responder.set_remote(client.ufrag)
        if self._pump is not None:
            self._pump.close()
        self._dtls = DtlsEndpoint(self.certificate, client=False, fingerprints=client.fingerprints)
        self._pump = Pump(self._dtls, self._flush, self._clock)
        self._pump.run(self._dtls.start, self._clock.now())
        return SessionDescription(
            audio_codec="opus",
            video_codec="H264",
            media_session_id="session",
            sdp=self.fragment.to_text(),
        )

    def renew(self) -> None:
        """Forget the client and take other credentials, as a server that was restarted."""
        self.credentials = IceCredentials.generate()
        self.responder = LiteResponder(self.credentials)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._changed.set()
        if is_stun(data):
            answer = self.responder.receive_datagram(data, addr, self._clock.now())
            if answer is not None and self.answers_checks:
                self.send(answer, to=addr)
        elif is_dtls(data):
            if self.answers_dtls and self._pump is not None and self._dtls is not None:
                self._pump.run(self._dtls.receive_datagram, data, self._clock.now())
        elif self.cipher is None:
            self.unknown.append(data)
        else:
            with suppress(RejectedPacket):
                if is_rtcp(data):
                    self.rtcp.append(self.cipher.unprotect_rtcp(data))
                else:
                    self.rtp.append(self.cipher.unprotect_rtp(data))

    def send(self, datagram: bytes, *, to: tuple[str, int] | None = None) -> None:
        assert self._transport is not None
        address = self.responder.address if to is None else to
        assert address is not None
        self._transport.sendto(datagram, address)

    def send_rtp(self, packet: bytes) -> None:
        assert self.cipher is not None
        self.send(self.cipher.protect_rtp(packet))

    def send_rtcp(self, packet: bytes) -> None:
        assert self.cipher is not None
        self.send(self.cipher.protect_rtcp(packet))

    def say_goodbye(self) -> None:
        assert self._pump is not None
        assert self._dtls is not None
        self._pump.run(self._dtls.close, self._clock.now())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that comes with a datagram."""
        async with asyncio.timeout(3):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def close(self) -> None:
        if self._pump is not None:
            self._pump.close()
        assert self._transport is not None
        self._transport.close()

    def _flush(self, _now: float) -> None:
        assert self._dtls is not None
        while (event := self._dtls.next_event()) is not None:
            if isinstance(event, KeysAgreed):
                self.handshakes += 1
                self.cipher = SrtpCipher(event.keys, side="server")
                self.with_the_keys()
            else:
                self.goodbyes += isinstance(event, PeerClosed)
        for datagram in self._dtls.datagrams_to_send():
            self.send(datagram)


class TurnServer(asyncio.DatagramProtocol):
    """A TURN server as far as a client of one voice server needs it, over UDP and over streams.

    Attributes:
        username: The one that it knows.
        credential: The one that it knows.
        silent: Whether it answers nothing at all.
        refusals: Method to the error code that every authentic request for it gets.
        requests: Methods of authentic requests, in order.
        relayed: Datagrams sent on to peers.
    """

    ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND = 3, 4, 8, 9

    def __init__(self) -> None:
        self.username = "user"
        self.credential = "a secret credential"
        self.silent = False
        self.refusals: dict[int, int] = {}
        self.requests: list[int] = []
        self.relayed = 0
        self.port = 0
        self._relays: dict[object, TurnRelay] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # asyncio's own subtype
        self._transport = transport
        self.port = int(transport.get_extra_info("sockname")[1])

    @property
    def allocations(self) -> int:
        return len(self._relays)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        transport = self._transport
        assert transport is not None
        self._take(data, addr, lambda message: transport.sendto(message, addr))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client over a stream."""
        self._writers.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readexactly(4)
                length = int.from_bytes(head[2:], "big")
                rest = (length + 3 & ~3) if head[0] >> 6 == 1 else length + 16
                body = await reader.readexactly(rest)
                self._take(head + body, writer, lambda message: self._write(writer, message))
        writer.close()
        self._writers.discard(writer)

    def hang_up(self) -> None:
        """Close all streams, as a server that is stopped."""
        for writer in self._writers:
            writer.close()

    def close(self) -> None:
        self.hang_up()
        for relay in self._relays.values():
            relay.close()
        if self._transport is not None:
            self._transport.close()

    @staticmethod
    def _write(writer: asyncio.StreamWriter, message: bytes) -> None:
        writer.write(message + bytes(-len(message) & 3))

    def _take(self, data: bytes, client: object, reply: Callable[[bytes], None]) -> None:
        if self.silent:
            return
        if data[0] >> 6 == 1:
            channel, length = struct.unpack_from("!HH", data)
            self.relayed += 1
            self._relays[client].send(channel, data[4 : 4 + length])
            return
        request = parse_stun(data)
        key = hashlib.md5(f"{self.username}:realm:{self.credential}".encode()).digest()
        expected = None if request.signed is None else hmac.digest(key, request.signed, "sha1")
        if expected != request.attributes.get(0x0008, b""):
            error = (0x0009, bytes((0, 0, 4, 1)) + b"Unauthorized")
            reply(_turn(request, 0x110, [error, (0x0014, b"realm"), (0x0015, b"nonce")], None))
            return
        self.requests.append(request.method)
        if (code := self.refusals.get(request.method)) is not None:
            error = (0x0009, bytes((0, 0, code // 100, code % 100)) + b"No such luck")
            reply(_turn(request, 0x110, [error], key))
            return
        asyncio.get_running_loop().create_task(self._grant(request, client, reply, key))

    async def _grant(
        self, request: StunMessage, client: object, reply: Callable[[bytes], None], key: bytes
    ) -> None:
        attributes = []
        if request.method == self.ALLOCATE:
            relay = TurnRelay(reply)
            await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: relay, local_addr=("127.0.0.1", 0)
            )
            self._relays[client] = relay
            address = _xor(relay.address)
            attributes = [(0x0016, address), (0x0020, address), (0x000D, b"\0\0\2\x58")]
        elif request.method == self.CHANNEL_BIND:
            channel = int.from_bytes(request.attributes[0x000C][:2], "big")
            peer = request.attributes[0x0012]
            self._relays[client].bind(channel, _unxor(peer))
        elif request.method == self.REFRESH:
            self._relays.pop(client).close()
            attributes.append((0x000D, bytes(4)))
        reply(_turn(request, 0x100, attributes, key))


class TurnRelay(asyncio.DatagramProtocol):
    """The relayed address of one client."""

    def __init__(self, reply: Callable[[bytes], None]) -> None:
        self.address = ("", 0)
        self._reply = reply
        self._peers: dict[int, tuple[str, int]] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # asyncio's own subtype
        self._transport = transport
        self.address = transport.get_extra_info("sockname")

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        for channel, peer in self._peers.items():
            if peer == addr:
                self._reply(struct.pack("!HH", channel, len(data)) + data)

    def bind(self, channel: int, peer: tuple[str, int]) -> None:
        self._peers[channel] = peer

    def send(self, channel: int, data: bytes) -> None:
        assert self._transport is not None
        self._transport.sendto(data, self._peers[channel])

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


def _turn(
    request: StunMessage, kind: int, attributes: list[tuple[int, bytes]], key: bytes | None
) -> bytes:
    body = b"".join(
        struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) & 3)
        for kind, value in attributes
    )
    length = len(body) + (0 if key is None else 24)
    message = struct.pack("!HHI", request.method | kind, length, 0x2112A442)
    message += request.transaction_id + body
    if key is not None:
        message += struct.pack("!HH", 8, 20) + hmac.digest(key, message, "sha1")
    return message


def _xor(address: tuple[str, int]) -> bytes:
    number = int(ipaddress.IPv4Address(address[0])) ^ 0x2112A442
    return struct.pack("!BBHI", 0, 1, address[1] ^ 0x2112, number)


def _unxor(value: bytes) -> tuple[str, int]:
    _, _, port, number = struct.unpack("!BBHI", value)
    return str(ipaddress.IPv4Address(number ^ 0x2112A442)), port ^ 0x2112


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """As Windows' default loop in the one respect that matters here."""

    def add_reader(self, *_: object) -> None:
        raise NotImplementedError


@pytest.fixture
def loop_without_readers() -> Callable[[], asyncio.AbstractEventLoop]:
    return LoopWithoutReaders


@pytest_asyncio.fixture
async def webrtc_server() -> AsyncIterator[WebRtcServer]:
    server = WebRtcServer()
    await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: server, local_addr=("127.0.0.1", 0)
    )
    yield server
    server.close()
    await asyncio.sleep(0)  # asyncio closes sockets one turn later


@pytest.fixture
def interface() -> None:
    """Skips where aioice finds no address to use; nothing is sent to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.connect(("192.0.2.1", 9))
        if not sock.getsockname()[0].startswith("127."):
            return
    pytest.skip("aioice needs a network interface other than loopback")


@pytest_asyncio.fixture
async def turn_server() -> AsyncIterator[TurnServer]:
    server = TurnServer()
    await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: server, local_addr=("127.0.0.1", 0)
    )
    listener = await asyncio.start_server(server.serve, "127.0.0.1", server.port)
    yield server
    listener.close()
    server.close()
    await asyncio.sleep(0.01)  # asyncio closes sockets and streams a few turns later


@pytest.fixture
def webrtc_ready(webrtc_server: WebRtcServer, ready: Ready) -> Ready:
    ip, port = webrtc_server.address
    return replace(ready, ip=ip, port=port)


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def drops() -> Counter[str]:
    return Counter()


@pytest.fixture
def rtp() -> Callable[[int], bytes]:
    def build(sequence: int) -> bytes:
        return struct.pack("!BBHII", 0x80, 0x78, sequence, 960 * sequence, 99) + b"\xf8\xff\xfe"

    return build


@pytest.fixture
def report() -> bytes:
    return bytes.fromhex("80c8000600000063e000000080000000000003c00000003200000fa0")


@pytest.fixture
def ready() -> Ready:
    return Ready(
        ssrc=1000,
        ip="127.0.0.1",
        port=50_000,
        modes=("aead_aes256_gcm_rtpsize", "aead_xchacha20_poly1305_rtpsize"),
    )


@pytest.fixture
def answer() -> SessionDescription:
    return SessionDescription(
        audio_codec="opus",
        video_codec="H264",
        media_session_id="session",
        mode="aead_aes256_gcm_rtpsize",
        secret_key=KEY,
    )
