"""All received RTP streams of a session. Sans-I/O. Spec: RFC 3550 section 6, RFC 4588.

A stream comes into being with the first packet of its SSRC. Its first sender report may come
before that and is kept for it. An ended stream stays for its statistics until it is forgotten,
its SSRC comes back, or the room is needed.

Retransmissions have an SSRC of their own. In Discord that is the SSRC of the stream plus one;
elsewhere it is learned from a packet that exactly one stream misses, as libwebrtc does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.queues import QueueStats
from discord_rtc.rtp.events import StreamEnded
from discord_rtc.rtp.history import original_sequence
from discord_rtc.rtp.inbound import InboundStream

if TYPE_CHECKING:
    from discord_rtc.rtp.inbound import InboundContext
    from discord_rtc.rtp.packet import RtpPacket
    from discord_rtc.rtp.payloads.base import PayloadFormat
    from discord_rtc.rtp.rtcp import ReportBlock, SenderReport
    from discord_rtc.rtp.stats import InboundStats

MOST_STREAMS = 256
"""Far more than a Discord voice channel can have, so that only junk reaches it."""


class Receivers:
    """All received streams of a session, with what is known before their first packet.

    Args:
        context: What they share.
    """

    def __init__(self, context: InboundContext) -> None:
        self._context = context
        self._streams: dict[int, InboundStream] = {}
        self._deadlines: dict[int, float] = {}  # of the few streams that have one
        self._early_reports: dict[int, tuple[SenderReport, float]] = {}
        self._repaired: dict[int, int] = {}  # SSRC of retransmissions to that of the stream
        self._high_water = 0
        self._evicted = 0

    def receive(self, packet: RtpPacket, payload_format: PayloadFormat, now: float) -> None:
        """Take a packet, of a new stream perhaps."""
        stream = self._streams.get(packet.ssrc)
        if stream is None:
            stream = self._create(packet.ssrc, payload_format, now)
        elif stream.ended and stream.is_stale(packet, now):
            self._context.drops["after-bye"] += 1
            return
        elif stream.ended or (stream.ending and not stream.continues_with(packet)):
            # The SSRC is back: its owner stopped and started again.
            stream.finish(now)
            stream = self._create(packet.ssrc, payload_format, now)
        stream.receive(packet, payload_format, now)
        self._schedule(stream)

    def receive_retransmission(
        self, packet: RtpPacket, payload_type: int, payload_format: PayloadFormat, now: float
    ) -> None:
        """Take a retransmission.

        Args:
            packet: As received.
            payload_type: Of the stream that it repairs.
            payload_format: Of that stream.
            now: Time of arrival.
        """
        original = original_sequence(packet)
        if original is None:
            self._context.drops["probe"] += 1
            return
        stream = self._find_repaired(packet, original, payload_format)
        if stream is None:
            self._context.drops["rtx-unpaired"] += 1
            return
        stream.receive_retransmission(packet, original, payload_type, now)
        self._schedule(stream)

    def receive_report(self, report: SenderReport, now: float) -> None:
        """Take a sender report; kept for later when no packet of its stream came yet."""
        stream = self._streams.get(report.ssrc)
        if stream is not None and not stream.ending:
            stream.receive_report(report, now)
            return
        self._early_reports.pop(report.ssrc, None)
        if len(self._early_reports) >= MOST_STREAMS:
            del self._early_reports[next(iter(self._early_reports))]
            self._context.drops["early-report"] += 1
        self._early_reports[report.ssrc] = (report, now)

    def end(self, ssrc: int, now: float) -> None:
        """Take a BYE."""
        self._early_reports.pop(ssrc, None)
        stream = self._streams.get(ssrc)
        if stream is not None and not stream.ended:
            stream.end(now)
            self._schedule(stream)

    def forget(self, ssrc: int) -> None:
        """Remove a stream at once, without an event."""
        self._early_reports.pop(ssrc, None)
        self._streams.pop(ssrc, None)
        self._deadlines.pop(ssrc, None)

    def ask_keyframe(self, ssrc: int, now: float) -> None:
        """The owner wants a keyframe; nothing happens for a stream that is not received."""
        stream = self._streams.get(ssrc)
        if stream is not None and not stream.ended:
            stream.ask_keyframe(now)
            self._schedule(stream)

    def reports(self, now: float) -> list[ReportBlock]:
        """One block for every stream that was heard since the last time."""
        blocks = (stream.report(now) for stream in self._streams.values())
        return [block for block in blocks if block is not None]

    def next_timeout(self) -> float | None:
        """When something is due; None for nothing."""
        return min(self._deadlines.values(), default=None)

    def handle_timeout(self, now: float) -> None:
        """Hand the time to the streams that wait for it."""
        for ssrc in [ssrc for ssrc, deadline in self._deadlines.items() if deadline <= now]:
            stream = self._streams[ssrc]
            stream.handle_timeout(now)
            self._schedule(stream)

    def stats(self) -> tuple[InboundStats, ...]:
        """Counters of every stream, the ended ones included."""
        return tuple(stream.stats() for stream in self._streams.values())

    def queue_stats(self) -> tuple[QueueStats, ...]:
        """How full the table and the reorder windows were."""
        table = QueueStats("streams", self._high_water, MOST_STREAMS, self._evicted)
        return (table, *(stream.queue_stats() for stream in self._streams.values()))

    def _create(self, ssrc: int, payload_format: PayloadFormat, now: float) -> InboundStream:
        if ssrc not in self._streams and len(self._streams) >= MOST_STREAMS:
            self._evict()
        stream = InboundStream(ssrc, payload_format, self._context, now)
        self._streams[ssrc] = stream
        self._high_water = max(self._high_water, len(self._streams))
        early = self._early_reports.pop(ssrc, None)
        if early is not None:
            stream.receive_report(*early)
        return stream

    def _find_repaired(
        self, packet: RtpPacket, original: int, payload_format: PayloadFormat
    ) -> InboundStream | None:
        ssrc = self._repaired.get(packet.ssrc, packet.ssrc - 1 & 0xFFFFFFFF)
        stream = self._streams.get(ssrc)
        if stream is not None and stream.repairs(payload_format):
            return stream
        missing = [
            stream
            for stream in self._streams.values()
            if stream.repairs(payload_format) and stream.misses(original, packet.ticks)
        ]
        if len(missing) != 1:
            return None
        self._repaired.pop(packet.ssrc, None)
        if len(self._repaired) >= MOST_STREAMS:
            del self._repaired[next(iter(self._repaired))]
        self._repaired[packet.ssrc] = missing[0].ssrc
        return missing[0]

    def _evict(self) -> None:
        idle = min(self._streams.values(), key=lambda stream: stream.heard_at)
        self._evicted += 1
        self.forget(idle.ssrc)
        if not idle.ended:
            self._context.emit(StreamEnded(idle.ssrc))

    def _schedule(self, stream: InboundStream) -> None:
        deadline = stream.next_timeout()
        if deadline is None:
            self._deadlines.pop(stream.ssrc, None)
        else:
            self._deadlines[stream.ssrc] = deadline
