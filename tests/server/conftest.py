"""A WebRTC client without a browser, for tests of the server: without a socket, or in a call."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest
from websockets.asyncio.client import connect

from discord_rtc.crypto.certificate import Certificate
from discord_rtc.crypto.dtls import DtlsEndpoint, HandshakeFailed, KeysAgreed, PeerClosed, is_dtls
from discord_rtc.crypto.srtp import SrtpCipher
from discord_rtc.ice.agent import LiteAgent
from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.ice.stun import is_stun
from discord_rtc.protocol.sdp import parse_server_fragment
from discord_rtc.rtp.packet import RtpPacket, is_rtcp, parse_rtp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from websockets.asyncio.client import ClientConnection

    from discord_rtc.crypto.dtls import DtlsEvent
    from discord_rtc.crypto.srtp import Side
    from discord_rtc.server import LocalServer

    JoinWebRtc = Callable[..., AbstractAsyncContextManager["WebRtcUser"]]

GUILD, LOUNGE = 10, 20

Json = dict[str, object]

ONE_CERTIFICATE = Certificate.generate()


class WebRtcClient:
    """Sends what it has to say to `outbox`; what it got is in `rtp` and `rtcp`.

    Args:
        passive: Whether to be the DTLS server.
    """

    def __init__(self, *, passive: bool = False) -> None:
        self.passive = passive
        self.credentials = IceCredentials.generate()
        self.agent = LiteAgent(self.credentials)
        self.certificate = ONE_CERTIFICATE
        self.dtls: DtlsEndpoint | None = None
        self.cipher: SrtpCipher | None = None
        self.events: list[DtlsEvent] = []
        self.outbox: list[bytes] = []
        self.rtp: list[bytes] = []
        self.rtcp: list[bytes] = []
        self.other: list[bytes] = []

    def offer(self, *, setup: bool = True) -> str:
        """What goes into Select Protocol."""
        lines = [
            f"a=ice-ufrag:{self.credentials.ufrag}",
            f"a=ice-pwd:{self.credentials.password}",
            f"a=fingerprint:{self.certificate.fingerprint}",
            "a=rtpmap:111 opus/48000/2",
            "a=rtpmap:96 VP8/90000",
            "a=rtpmap:97 rtx/90000",
        ]
        if setup:
            lines.append(f"a=setup:{'passive' if self.passive else 'actpass'}")
        return "\n".join(lines)

    def connect(self, remote: IceCredentials, fingerprint: str, now: float) -> None:
        """Begin to check; DTLS follows as soon as the path is there."""
        self.dtls = DtlsEndpoint(
            self.certificate, client=not self.passive, fingerprints=(fingerprint,)
        )
        self.agent.start(remote, now)
        self.flush()

    def receive(self, datagram: bytes, now: float) -> None:
        """Something came from the server."""
        if is_stun(datagram):
            self.agent.receive_datagram(datagram, now)
            while self.agent.next_event() is not None:
                assert self.dtls is not None
                self.dtls.start(now)
        elif is_dtls(datagram):
            assert self.dtls is not None
            self.dtls.receive_datagram(datagram, now)
        elif datagram[0] >> 6 != 2:
            self.other.append(datagram)
        elif is_rtcp(datagram):
            self.rtcp.append(self._cipher.unprotect_rtcp(datagram))
        else:
            self.rtp.append(self._cipher.unprotect_rtp(datagram))
        self.flush()

    def flush(self) -> None:
        """Put what there is to send into the outbox, and take note of what happened."""
        self.outbox += self.agent.datagrams_to_send()
        if self.dtls is None:
            return
        self.outbox += self.dtls.datagrams_to_send()
        while (event := self.dtls.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, KeysAgreed):
                side: Side = "server" if self.passive else "client"
                self.cipher = SrtpCipher(event.keys, side=side)

    def handle_timeout(self, now: float) -> None:
        """Time has come."""
        self.agent.handle_timeout(now)
        if self.dtls is not None and not self.connected:
            self.dtls.handle_timeout(now)
        self.flush()

    def close(self, now: float) -> None:
        """Say goodbye."""
        assert self.dtls is not None
        self.dtls.close(now)
        self.flush()

    def send_rtp(self, packet: bytes) -> None:
        """Protect one packet."""
        self.outbox.append(self._cipher.protect_rtp(packet))

    def send_rtcp(self, packet: bytes) -> None:
        """Protect one compound."""
        self.outbox.append(self._cipher.protect_rtcp(packet))

    @property
    def connected(self) -> bool:
        return self.cipher is not None

    @property
    def failed(self) -> bool:
        return any(isinstance(event, HandshakeFailed) for event in self.events)

    @property
    def dismissed(self) -> bool:
        """Whether the server has said goodbye."""
        return any(isinstance(event, PeerClosed) for event in self.events)

    @property
    def _cipher(self) -> SrtpCipher:
        assert self.cipher is not None, "no keys yet"
        return self.cipher


@pytest.fixture
def webrtc_client() -> type[WebRtcClient]:
    """The class, since tests need several of them."""
    return WebRtcClient


class _Socket(asyncio.DatagramProtocol):
    def __init__(self, client: WebRtcClient, flush: Callable[[], None]) -> None:
        self._client = client
        self._flush = flush

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002  asyncio's
        self._client.receive(data, asyncio.get_running_loop().time())
        self._flush()


class WebRtcUser:
    """A `WebRtcClient` with a socket and a voice websocket, in a call.

    Its SSRCs are its own: those of Ready plus an offset.
    """

    OFFSET = 0x5000_0000

    def __init__(self, websocket: ClientConnection, client: WebRtcClient) -> None:
        self.websocket = websocket
        self.client = client
        self.ready: Json = {}
        self.fragment = ""
        self.sequence = 0
        self._transport: asyncio.DatagramTransport | None = None

    @property
    def ssrc(self) -> int:
        """The audio SSRC that others know."""
        return cast("int", self.ready["ssrc"])

    @property
    def server_address(self) -> tuple[str, int]:
        """Where the media socket is."""
        return cast("str", self.ready["ip"]), cast("int", self.ready["port"])

    @property
    def socket(self) -> asyncio.DatagramTransport:
        assert self._transport is not None
        return self._transport

    async def send(self, opcode: int, data: object) -> None:
        await self.websocket.send(json.dumps({"op": opcode, "d": data}))

    async def until(self, opcode: int) -> Json:
        """The next message with this opcode."""
        async with asyncio.timeout(5):
            while True:
                message = json.loads(await self.websocket.recv())
                if message["op"] == opcode:
                    return cast("Json", message["d"])

    async def select(self) -> None:
        """Up to the server's fragment."""
        await self.send(1, {"protocol": "webrtc", "data": self.client.offer(setup=False)})
        self.fragment = cast("str", (await self.until(4))["sdp"])

    async def connect(self) -> None:
        """Checks and the handshake, then op 5."""
        server = parse_server_fragment(self.fragment)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: _Socket(self.client, self.flush), remote_addr=server.addresses[0]
        )
        remote = IceCredentials(server.ufrag, server.password)
        self.client.connect(remote, server.fingerprint, loop.time())
        async with asyncio.timeout(5):
            while not self.client.connected:
                self.flush()
                await asyncio.sleep(0.02)
                self.client.handle_timeout(loop.time())
        await self.send(5, {"speaking": 1, "ssrc": self.ssrc + self.OFFSET, "delay": 0})

    def close(self) -> None:
        """Close the socket, if there is one."""
        if self._transport is not None:
            self._transport.close()

    def flush(self) -> None:
        """Put on the socket what there is to send."""
        outbox, self.client.outbox = self.client.outbox, []
        for datagram in outbox:
            self.socket.sendto(datagram)

    def speak(self, payload: bytes) -> None:
        """Send one packet of audio."""
        self.sequence += 1
        ticks = 960 * self.sequence
        packet = RtpPacket(111, self.sequence, ticks, self.ssrc + self.OFFSET, payload)
        self.client.send_rtp(packet.to_bytes())
        self.flush()

    async def hear(self, ssrc: int, payload: bytes) -> None:
        """Wait until that was heard from that SSRC."""
        async with asyncio.timeout(5):
            while True:
                heard = [parse_rtp(packet) for packet in self.client.rtp]
                if any((one.ssrc, one.payload) == (ssrc, payload) for one in heard):
                    return
                await asyncio.sleep(0.002)


@asynccontextmanager
async def _webrtc_user(
    server: LocalServer, user_id: int, client: WebRtcClient | None = None
) -> AsyncIterator[WebRtcUser]:
    credentials = server.admit(user_id, GUILD, LOUNGE)
    async with connect(f"{credentials.endpoint}/?v=8") as websocket:
        user = WebRtcUser(websocket, client or WebRtcClient())
        await user.until(8)
        await user.send(
            0,
            {
                "server_id": str(GUILD),
                "user_id": str(user_id),
                "session_id": credentials.session_id,
                "token": credentials.token,
                "video": True,
            },
        )
        user.ready = await user.until(2)
        try:
            yield user
        finally:
            user.close()


@pytest.fixture
def webrtc_user() -> JoinWebRtc:
    """Takes a server and a user id, gives a user that has identified, for ``async with``."""
    return _webrtc_user
