"""All sent RTP streams of a session: their packets, reports and feedback. Sans-I/O. Spec: RFC 3550.

Audio and RTCP wait only for the next flush; video goes through the pacer, between its first
sender report and its BYE. That report goes out before the first packet, so that receivers can
tie the ticks of a stream to the wallclock from the beginning. What receivers miss is sent again
in front of the video that waits, as an RTX stream where there is one (RFC 4588).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from discord_rtc.errors import UsageError
from discord_rtc.frames import MediaKind
from discord_rtc.queues import BoundedQueue
from discord_rtc.rtp.deadlines import earliest
from discord_rtc.rtp.events import KeyframeRequested
from discord_rtc.rtp.history import OSN_SIZE, History
from discord_rtc.rtp.outbound import OutboundStream
from discord_rtc.rtp.pacer import Outgoing, Pacer
from discord_rtc.rtp.rtcp import (
    SDES_CNAME,
    Goodbye,
    RtcpPacket,
    SourceDescription,
    build_rtcp,
)

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Mapping
    from random import Random

    from discord_rtc.frames import EncodedFrame
    from discord_rtc.queues import QueueStats
    from discord_rtc.rtp.events import Event
    from discord_rtc.rtp.outbound import SenderConfig
    from discord_rtc.rtp.rtcp import FullIntraRequest, Nack, ReportBlock
    from discord_rtc.rtp.stats import OutboundStats

REPORT_INTERVAL = 5.0
"""Seconds between two reports of one stream (RFC 3550 6.2; what Discord's clients keep)."""

_IDLE_INTERVALS = 2
"""Intervals without a frame after which a sender stops reporting (RFC 3550 6.3.8)."""
_URGENT_BOUND = 512
"""Packets between two flushes: ten seconds of audio."""


class SendersContext(NamedTuple):
    """What all sent streams of a session share.

    Attributes:
        extension_ids: Header extension URI to its id on this connection.
        max_packet_size: Largest plain RTP packet in bytes, header included.
        ntp_offset: Seconds since 1900 minus ``now``.
        cname: Canonical name (RFC 3550 section 6.5.1).
        ssrc: Where our feedback comes from as long as nothing is sent.
        random: Where first sequence numbers and timestamps come from.
        emit: Takes an event.
        drops: Reason to count for packets that were not sent again.
        nack: Whether receivers may ask for packets again.
        repeats: Whether the very same packet can be sent twice.
    """

    extension_ids: Mapping[str, int]
    max_packet_size: int
    ntp_offset: float
    cname: str
    ssrc: int
    random: Random
    emit: Callable[[Event], object]
    drops: Counter[str]
    nack: bool
    repeats: bool


class Senders:
    """The table of sent streams and the queues behind it.

    Args:
        context: What the streams share.
    """

    def __init__(self, context: SendersContext) -> None:
        self._context = context
        self._streams: dict[int, OutboundStream] = {}
        self._pacer = Pacer(context.max_packet_size)
        self._urgent: BoundedQueue[Outgoing] = BoundedQueue("urgent", _URGENT_BOUND)

    @property
    def pacer(self) -> Pacer:
        """Where paced packets wait."""
        return self._pacer

    @property
    def reporter(self) -> int:
        """The SSRC that our feedback comes from: that of our first stream, if there is one."""
        return next(iter(self._streams), self._context.ssrc)

    def add(self, config: SenderConfig) -> None:
        """Begin a stream.

        Raises:
            NoCommonCodec: There is no payload format for its codec.
            UsageError: The SSRC is taken, or packets are too small for its extensions.
        """
        if config.ssrc in self._streams:
            raise UsageError(f"SSRC {config.ssrc} is being sent already")
        context = self._context
        size = context.max_packet_size
        video = config.codec.kind is MediaKind.VIDEO
        stream = OutboundStream(config, context.extension_ids, size, context.random)
        if video and context.nack and (stream.has_rtx or context.repeats):
            stream.keep_packets(History(size, context.drops))
        self._streams[config.ssrc] = stream

    def remove(self, ssrc: int, now: float) -> None:
        """End a stream; its BYE follows its last packet, if there was any (RFC 3550 6.3.7)."""
        stream = self.stream(ssrc)
        del self._streams[ssrc]
        if not stream.packets:
            return
        goodbye = self._compound(stream, now, Goodbye((ssrc,)))
        if not (stream.paced and self._pacer.push((goodbye,))):
            self._urgent.put(goodbye)

    def stream(self, ssrc: int) -> OutboundStream:
        """Look a stream up.

        Raises:
            UsageError: There is none.
        """
        try:
            return self._streams[ssrc]
        except KeyError:
            raise UsageError(f"SSRC {ssrc} is not being sent") from None

    def send(self, stream: OutboundStream, frame: EncodedFrame, now: float) -> None:
        """Queue one frame, or drop it with those that depend on it when there is no room.

        Raises:
            MalformedFrame: The bytes are not a frame of the codec.
            UsageError: The frame has another codec than the stream.
        """
        if stream.waits_for_keyframe and not frame.keyframe:
            stream.drop()
            return
        payloads = stream.packetize(frame)
        if stream.paced and not self._pacer.has_room(len(payloads) + 1):  # one for a report
            self._pacer.refuse(len(payloads))
            stream.drop()
            self._context.emit(KeyframeRequested(stream.config.ssrc))
            return
        packets = [Outgoing(packet, False) for packet in stream.build(payloads, frame, now)]
        if stream.report_at is None:
            # In front of its packets in whichever queue, as it may follow a BYE of this SSRC.
            packets.insert(0, self._report(stream, now))
        if stream.paced:
            self._pacer.push(packets)
        else:
            for packet in packets:
                self._urgent.put(packet)

    def forget_packets(self) -> None:
        """Drop the video that waits, and send nothing again that was sent until now."""
        self._pacer.discard_media()
        for stream in self._streams.values():
            stream.forget_packets()

    def send_control(self, *parts: RtcpPacket) -> None:
        """Queue one RTCP packet, compound if there are several parts."""
        self._urgent.put(Outgoing(build_rtcp(parts), True))

    def description(self, ssrc: int) -> SourceDescription:
        """What every compound packet says about its sender (RFC 3550 section 6.1)."""
        return SourceDescription(((ssrc, ((SDES_CNAME, self._context.cname),)),))

    def receive_blocks(self, blocks: Iterable[ReportBlock], now: float) -> None:
        """Take report blocks; those about streams of others are passed over."""
        for block in blocks:
            stream = self._streams.get(block.ssrc)
            if stream is not None:
                stream.receive_report(block, now + self._context.ntp_offset)

    def receive_nack(self, nack: Nack, now: float) -> bool:
        """Send packets again; returns whether the request is about one of our streams."""
        stream = self._streams.get(nack.media_ssrc)
        if stream is None:
            return False
        stream.receive_nack(len(nack.lost))
        for sequence in nack.lost:
            packet = stream.find(sequence, now)
            if packet is None:
                continue
            if self._pacer.may_resend(len(packet) + OSN_SIZE, now):
                self._pacer.resend(Outgoing(stream.send_again(packet, now), False))
            else:
                self._context.drops["rtx-limited"] += 1
        return True

    def receive_picture_loss(self, ssrc: int) -> bool:
        """Take a PLI; returns whether it is about one of our streams."""
        stream = self._streams.get(ssrc)
        if stream is None:
            return False
        stream.receive_keyframe_request()
        self._context.emit(KeyframeRequested(ssrc))
        return True

    def receive_intra_request(self, request: FullIntraRequest) -> bool:
        """Take a FIR; returns whether any of it is about our streams."""
        ours = [entry for entry in request.entries if entry[0] in self._streams]
        for ssrc, number in ours:
            if self._streams[ssrc].receive_keyframe_request((request.sender_ssrc, number)):
                self._context.emit(KeyframeRequested(ssrc))
        return bool(ours)

    def packets_to_send(self, now: float) -> list[Outgoing]:
        """Packets that may go now, in sending order."""
        urgent = [self._urgent.take() for _ in range(len(self._urgent))]
        return urgent + self._pacer.pop(now)

    def next_timeout(self) -> float | None:
        """When something is due; None for nothing."""
        reports = [stream.report_at for stream in self._streams.values()]
        return earliest(self._pacer.next_timeout(), *reports)

    def handle_timeout(self, now: float) -> None:
        """Send the reports that are due; idle streams report with their next frame again."""
        for stream in self._streams.values():
            if stream.report_at is None or stream.report_at > now:
                continue
            if stream.idle_for(now) >= _IDLE_INTERVALS * REPORT_INTERVAL:
                stream.report_at = None
            else:
                self._urgent.put(self._report(stream, now))

    def stats(self) -> tuple[OutboundStats, ...]:
        """Counters of every stream."""
        return tuple(stream.stats() for stream in self._streams.values())

    def queue_stats(self) -> tuple[QueueStats, ...]:
        """How full the queues were."""
        return (*self._pacer.stats(), self._urgent.stats())

    def _report(self, stream: OutboundStream, now: float) -> Outgoing:
        stream.report_at = now + REPORT_INTERVAL
        return self._compound(stream, now)

    def _compound(self, stream: OutboundStream, now: float, *more: RtcpPacket) -> Outgoing:
        report = stream.sender_report(now, now + self._context.ntp_offset)
        packet = build_rtcp((report, self.description(stream.config.ssrc), *more))
        return Outgoing(packet, True)
