"""WebRTC: ICE, DTLS and SRTP toward the voice server, over one path.

    open     certificate, credentials, offer; the path is prepared, nothing is waited for
    accept   the server's fragment: ICE finds the path, DTLS proves the server and gives keys

Spec: userdoccers, "Voice Connections", WebRTC; RFC 8445, 6347, 5764, 3711; RFC 7983 (one socket).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from discord_rtc.clock import SystemClock
from discord_rtc.crypto.certificate import Certificate
from discord_rtc.crypto.dtls import DtlsEndpoint, is_dtls
from discord_rtc.crypto.srtp import SrtpCipher
from discord_rtc.errors import (
    ConnectError,
    DtlsFailed,
    IceFailed,
    InvalidState,
    MalformedMessage,
    MalformedPacket,
    PathLost,
)
from discord_rtc.frames import MediaKind
from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.protocol.sdp import parse_server_fragment, reduce_offer
from discord_rtc.rtp.packet import FIXED_HEADER_SIZE
from discord_rtc.transport.base import CLOSED_MEANWHILE, TransportStats
from discord_rtc.transport.datagrams import largest_datagram
from discord_rtc.transport.delivery import Delivery
from discord_rtc.transport.description import (
    OFFERED_EXTENSION_IDS,
    add_candidates,
    build_offer,
    expand_answer,
    negotiated_extensions,
    negotiated_feedback,
)
from discord_rtc.transport.dtls_channel import DtlsChannel
from discord_rtc.transport.ice_full import FullPath
from discord_rtc.transport.ice_lite import LitePath
from discord_rtc.transport.ice_options import IceOptions
from discord_rtc.transport.ice_path import PathOwner, WebRtcTimings
from discord_rtc.transport.inbox import ProtectedInbox
from discord_rtc.transport.negotiation import negotiate, select_webrtc, video_layers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from discord_rtc.clock import Clock
    from discord_rtc.protocol.messages import Ready, SelectProtocol, SessionDescription
    from discord_rtc.protocol.sdp import ServerFragment
    from discord_rtc.transport.base import MediaOffer, NegotiatedMedia, PacketSink
    from discord_rtc.transport.ice_path import IcePath

__all__ = ["PathFactory", "WebRtcTimings", "WebRtcTransport", "make_path"]

_LOG = logging.getLogger("discord_rtc.transport")

_SYSTEM_CLOCK = SystemClock()


PathFactory: TypeAlias = Callable[[IceOptions, IceCredentials, PathOwner, WebRtcTimings], "IcePath"]
"""What `make_path` looks like; tests replace it."""

_DEFAULT_TIMINGS = WebRtcTimings()
_DEFAULT_ICE = IceOptions()


def make_path(
    options: IceOptions, credentials: IceCredentials, owner: PathOwner, timings: WebRtcTimings
) -> IcePath:
    """Choose between aioice and our own agent.

    Voice servers are lite and have a public address. Toward those our own agent takes one round
    trip where aioice takes two and 20 ms, uses one socket, works on a machine with a loopback
    interface only, and sends from where the system routes to, as the UDP transport does. So
    aioice is for what it alone can do: STUN and TURN, or trying every network interface.

    Args:
        options: As given by the user.
        credentials: Ours.
        owner: Who uses the path.
        timings: Deadlines.
    """
    if options.servers or options.agent == "full":
        return FullPath(credentials, options, owner, timings)
    return LitePath(credentials, options, owner, timings)


@dataclass(frozen=True, slots=True)
class _Opened:
    ready: Ready
    offer: MediaOffer
    description: str = field(repr=False)


class WebRtcTransport:
    """A `Transport` over ICE, DTLS and SRTP.

    The sink's ``lost`` is called once, with `PathLost`, when the server stops answering consent
    checks (30 s with our own agent, 27 to 39 s with aioice) or closes the DTLS association.

    Drops by reason: ``junk`` (neither RTP, RTCP, DTLS nor STUN), ``early`` (beyond what is kept
    before there is a key or a sink), ``short``, ``malformed``, ``bad-auth``, ``replay``, ``late``
    (too old to tell from a replay), ``unsent`` (the same packet twice), ``closed``, ``refused``,
    ``blocked``, ``socket-error`` (see `DatagramSocket`), ``no-consent`` (sent after the path was
    lost), ``dtls-early``, other ``dtls-...`` and ``stun-...`` (see `DtlsEndpoint` and `LiteAgent`).

    Args:
        clock: Must tick like the running loop's time.
        ice: How the path is found.
        timings: Deadlines.
        path_factory: Builds the path.
        extension_ids: Header extension URI to the id that we offer for it.
    """

    def __init__(
        self,
        clock: Clock = _SYSTEM_CLOCK,
        *,
        ice: IceOptions = _DEFAULT_ICE,
        timings: WebRtcTimings = _DEFAULT_TIMINGS,
        path_factory: PathFactory = make_path,
        extension_ids: Mapping[str, int] = OFFERED_EXTENSION_IDS,
    ) -> None:
        self._clock = clock
        self._ice = ice
        self._timings = timings
        self._make_path = path_factory
        self._extension_ids = extension_ids
        self._drops: Counter[str] = Counter()
        self._delivery = Delivery(self._drops)
        self._inbox = ProtectedInbox(self._delivery, self._drops)
        self._certificate: Certificate | None = None
        self._path: IcePath | None = None
        self._dtls: DtlsChannel | None = None
        self._begun = False
        self._closed = False
        self._opened: _Opened | None = None
        self._fragment: ServerFragment | None = None
        self._remote_description: str | None = None
        self._cipher: SrtpCipher | None = None
        self._limit: asyncio.Timeout | None = None
        self._setup: dict[str, float] = {}
        self._sent = 0
        self._received = 0

    @property
    def local_description(self) -> str | None:
        """Our complete offer, with the candidates known by now; None before ``open``."""
        if self._opened is None or self._path is None:
            return None
        return add_candidates(self._opened.description, self._path.candidates)

    @property
    def remote_description(self) -> str | None:
        """The complete answer made from the server's fragment; None before ``accept``."""
        return self._remote_description

    async def prepare(self) -> None:
        """Make key, certificate and credentials, and begin to gather. Never raises."""
        if self._path is not None or self._closed:
            return
        self._certificate = Certificate.generate()
        owner = PathOwner(self._receive, self._lose, self._drops, self._clock)
        self._path = self._make_path(self._ice, IceCredentials.generate(), owner, self._timings)
        await self._path.gather(None)

    async def open(self, ready: Ready, offer: MediaOffer) -> SelectProtocol:
        """Say what to select. Gathering goes on in the background, nothing waits for it.

        Args:
            ready: The server's address, and the SSRCs to send with.
            offer: What this client brings.

        Raises:
            ConnectError: No socket, or closed meanwhile.
            InvalidState: Called before.
        """
        if self._begun or self._closed:
            raise InvalidState("a transport is opened once")
        self._begun = True
        try:
            await self.prepare()
            assert self._path is not None
            assert self._certificate is not None
            await self._path.gather((ready.ip, ready.port))
            self._check_open()
            credentials = self._path.credentials
            description = build_offer(
                offer,
                (credentials.ufrag, credentials.password),
                self._certificate.fingerprint,
                audio_ssrc=ready.ssrc,
                video=next(iter(video_layers(ready)), None),
                extension_ids=self._extension_ids,
            )
            self._opened = _Opened(ready, offer, description)
        finally:
            if self._opened is None:
                await self.aclose()
        return select_webrtc(offer, reduce_offer(description))

    async def accept(self, answer: SessionDescription) -> NegotiatedMedia:
        """Connect to the server of the answer's fragment; what came before is unprotected then.

        A repeated answer keeps path and keys. One with other ICE credentials or another
        certificate replaces both: the old path is given up, then the new one is made.

        Raises:
            MalformedMessage: The answer holds no SDP.
            MalformedSdp: Its SDP lacks something or cannot be read.
            NoCommonCodec: The answer wants audio in a codec that was not offered.
            IceFailed: No path; says what was seen and what helps.
            DtlsFailed: No keys, or another server than the one of the fragment.
            ConnectError: No socket, or closed meanwhile.
            InvalidState: Not open.
        """
        opened = self._opened
        if opened is None or self._path is None or self._closed:
            raise InvalidState("accept comes after open and before aclose")
        if answer.sdp is None:
            raise MalformedMessage("a session description without SDP")
        fragment = parse_server_fragment(answer.sdp)
        room = largest_datagram(fragment.addresses[0][0])
        media = negotiate(opened.ready, opened.offer, answer, max_packet_size=room)
        remote = self._expand(opened, answer.sdp, media)
        extension_ids, feedback = negotiated_extensions(remote), negotiated_feedback(remote)
        if self._cipher is None or fragment != self._fragment:
            await self._connect(self._path, fragment)
        assert self._cipher is not None
        self._remote_description = remote
        return replace(
            media,
            extension_ids=extension_ids,
            feedback=feedback,
            max_packet_size=room - self._path.overhead - self._cipher.overhead,
            local_description=self.local_description,
            remote_description=remote,
        )

    def hurry(self, seconds: float) -> None:
        """Give an ``accept`` under way that long from now at the most."""
        if self._limit is not None and not self._limit.expired():
            when = self._limit.when()
            assert when is not None
            self._limit.reschedule(min(when, asyncio.get_running_loop().time() + seconds))

    def send_rtp(self, packet: bytes) -> None:
        """Protect and send one plain RTP packet. Never blocks; trouble is counted.

        Raises:
            NonceExhausted: The key is used up; a fresh session is needed.
            InvalidState: Nothing was accepted yet.
        """
        cipher, path = self._sending()
        try:
            datagram = cipher.protect_rtp(packet)
        except MalformedPacket:  # for libsrtp, a packet that was sent before is one
            self._drops["unsent"] += 1
        else:
            self._sent += path.send(datagram)

    def send_rtcp(self, packet: bytes) -> None:
        """Protect and send one plain compound RTCP packet; as `send_rtp`."""
        cipher, path = self._sending()
        self._sent += path.send(cipher.protect_rtcp(packet))

    def deliver_to(self, sink: PacketSink) -> None:
        """Name the receiver. Packets that came earlier are handed over first, bounded."""
        self._delivery.attach(sink)

    def stats(self) -> TransportStats:
        """Counters and round-trip time so far; the datagrams of ICE itself are not counted."""
        drops = Counter(self._drops)
        for part in (self._path, self._dtls):
            if part is not None:
                drops.update(part.counters)
        return TransportStats(
            rtt=None if self._path is None else self._path.rtt,
            datagrams_sent=self._sent,
            datagrams_received=self._received,
            drops=MappingProxyType(drops),
            local_address=None if self._path is None else self._path.local_address,
            remote_address=self._remote_address(),
            setup=MappingProxyType(dict(self._setup)),
        )

    async def aclose(self) -> None:
        """Say goodbye, release sockets and tasks. Idempotent; ``open`` and ``accept`` fail."""
        self._closed = True
        self._delivery.close()
        self._inbox.clear()
        if self._dtls is not None:
            self._dtls.close()
        if self._path is not None:
            await self._path.aclose()

    async def _connect(self, path: IcePath, fragment: ServerFragment) -> None:
        if self._dtls is not None:
            self._dtls.close()
        self._fragment = self._dtls = None
        deadline = self._timings.deadline
        started = self._clock.now()
        try:
            async with asyncio.timeout(deadline) as self._limit:
                await path.connect(fragment, deadline)
                connected = self._clock.now()
                self._check_open()
                self._dtls = self._new_dtls(path, fragment)
                keys = await self._dtls.handshake()
                self._check_open()
        except TimeoutError:
            if self._dtls is None:
                raise IceFailed(path.explain()) from None
            ip, port = fragment.addresses[0]
            raise DtlsFailed(
                f"the voice server at {ip} port {port} answers connectivity checks, but the DTLS "
                f"handshake was not finished within {self._clock.now() - started:.1f} s"
            ) from None
        finally:
            self._limit = None
        self._fragment = fragment
        self._cipher = SrtpCipher(keys, side="client")
        self._inbox.unlock(self._cipher)
        self._setup = {"ice": connected - started, "dtls": self._clock.now() - connected}
        _LOG.debug(
            "= media path to %s, %s: %s", fragment.addresses[0], self._cipher.mode, self._setup
        )

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectError(CLOSED_MEANWHILE)

    def _new_dtls(self, path: IcePath, fragment: ServerFragment) -> DtlsChannel:
        assert self._certificate is not None
        endpoint = DtlsEndpoint(
            self._certificate, client=True, fingerprints=(fragment.fingerprint,)
        )
        return DtlsChannel(endpoint, path.send, self._lose, self._clock)

    def _expand(self, opened: _Opened, fragment: str, media: NegotiatedMedia) -> str:
        # We send in one video codec, but receive in all that we offered.
        video = [
            entry.codec for entry in opened.offer.codecs if entry.codec.kind is MediaKind.VIDEO
        ]
        video.sort(key=lambda codec: codec is not media.video_codec)
        return expand_answer(
            fragment,
            opened.description,
            video_codec=[codec.value for codec in video],
            extensions=self._extension_ids,
        )

    def _sending(self) -> tuple[SrtpCipher, IcePath]:
        if self._cipher is None or self._path is None:
            raise InvalidState("nothing can be sent before the server's answer was accepted")
        return self._cipher, self._path

    def _remote_address(self) -> tuple[str, int] | None:
        if self._fragment is not None:
            return self._fragment.addresses[0]
        return None if self._opened is None else (self._opened.ready.ip, self._opened.ready.port)

    def _receive(self, datagram: bytes) -> None:
        now = self._clock.now()
        self._received += 1
        if datagram and 128 <= datagram[0] < 192:  # RFC 7983: RTP and RTCP
            if len(datagram) < FIXED_HEADER_SIZE:
                self._drops["short"] += 1
            else:
                self._inbox.receive(datagram, now)
        elif not is_dtls(datagram):
            self._drops["junk"] += 1
        elif self._dtls is None:
            self._drops["dtls-early"] += 1
        else:
            self._dtls.receive(datagram, now)

    def _lose(self, reason: str) -> None:
        _LOG.info("! %s", reason)
        self._delivery.lose(PathLost(reason))
