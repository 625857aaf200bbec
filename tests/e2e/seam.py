"""Looks at plain RTP packets where they pass: which frames are in them, and are they encrypted?"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedFrame
from discord_rtc.frames import OPUS_SILENCE, Codec
from discord_rtc.protocol.dave.frame import is_encrypted
from discord_rtc.rtp.packet import parse_rtp
from discord_rtc.rtp.payloads.base import payload_format
from discord_rtc.transport.udp import UdpTransport
from discord_rtc.transport.webrtc import WebRtcTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from discord_rtc.clock import Clock
    from discord_rtc.protocol.messages import Ready, SelectProtocol, SessionDescription
    from discord_rtc.transport.base import (
        MediaOffer,
        NegotiatedMedia,
        PacketSink,
        Transport,
        TransportStats,
    )
    from discord_rtc.transport.plan import TransportFactory

PAYLOAD_TYPES = {120: Codec.OPUS, 101: Codec.H264, 105: Codec.VP8}
"""As offered; the local server does not renumber."""

RTX_PAYLOAD_TYPES = frozenset({102, 106})


@dataclass
class Frames:
    """Frames put together from the packets of one or several senders, in the order of sending.

    Attributes:
        encrypted: How many have the trailer of DAVE.
        silence: How many are the Opus silence frame, which may be in the clear.
        clear: All others.
        kept: Every frame by codec, if it was asked for.
        broken: Frames that could not be put together; none where nothing is lost.
    """

    keep: bool = False
    encrypted: int = 0
    silence: int = 0
    clear: list[tuple[Codec, bytes]] = field(default_factory=list)
    kept: dict[Codec, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    broken: int = 0
    _parts: dict[tuple[int, int], list[bytes]] = field(default_factory=dict)

    def packet(self, packet: bytes) -> None:
        """Take one plain RTP packet."""
        parsed = parse_rtp(packet)
        if parsed.payload_type in RTX_PAYLOAD_TYPES or not parsed.payload:
            return
        codec = PAYLOAD_TYPES[parsed.payload_type]
        key = (parsed.ssrc, parsed.ticks)
        self._parts.setdefault(key, []).append(parsed.payload)
        if codec is Codec.OPUS or parsed.marker:
            payloads = self._parts.pop(key)
            try:
                frame = payload_format(codec).depacketizer().depacketize(payloads)
            except MalformedFrame:
                self.broken += 1
            else:
                self._frame(codec, frame)

    def _frame(self, codec: Codec, frame: bytes) -> None:
        if self.keep:
            self.kept[codec].append(frame)
        if codec is Codec.OPUS and frame == OPUS_SILENCE:
            self.silence += 1
        elif is_encrypted(frame):
            self.encrypted += 1
        else:
            self.clear.append((codec, frame))


class _Watched:
    """A transport whose sent packets are looked at before they are protected."""

    def __init__(self, inner: Transport, watch: Callable[[bytes], None]) -> None:
        self._inner = inner
        self._watch = watch

    async def prepare(self) -> None:
        await self._inner.prepare()

    async def open(self, ready: Ready, offer: MediaOffer) -> SelectProtocol:
        return await self._inner.open(ready, offer)

    async def accept(self, answer: SessionDescription) -> NegotiatedMedia:
        return await self._inner.accept(answer)

    def send_rtp(self, packet: bytes) -> None:
        self._watch(packet)
        self._inner.send_rtp(packet)

    def send_rtcp(self, packet: bytes) -> None:
        self._inner.send_rtcp(packet)

    def deliver_to(self, sink: PacketSink) -> None:
        self._inner.deliver_to(sink)

    def stats(self) -> TransportStats:
        return self._inner.stats()

    async def aclose(self) -> None:
        await self._inner.aclose()


_TRANSPORTS: Mapping[str, TransportFactory] = {"udp": UdpTransport, "webrtc": WebRtcTransport}


def watched(name: str, watch: Callable[[bytes], None]) -> TransportFactory:
    """A factory of real transports whose packets are shown to ``watch`` first."""

    def make(clock: Clock) -> Transport:
        return _Watched(_TRANSPORTS[name](clock), watch)

    return make
