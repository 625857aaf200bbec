"""One received RTP stream: from packets to frames, reports and requests. Sans-I/O.

Spec: RFC 3550 section 6, RFC 4585, RFC 4588. Missing packets of video are asked for while their
gap lasts; a keyframe is asked for when it is given up. Reports tell about the stream's own packets
only: retransmissions belong to another one. A BYE takes effect a moment after it came, since
packets that were sent before it may arrive after it.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from discord_rtc.errors import MalformedPacket
from discord_rtc.frames import MediaKind
from discord_rtc.queues import QueueStats
from discord_rtc.rtp.assembler import (
    VIDEO_WINDOW,
    Arrival,
    AssemblerCounters,
    AudioAssembler,
    VideoAssembler,
)
from discord_rtc.rtp.deadlines import earliest
from discord_rtc.rtp.events import FrameReceived, SenderReportReceived, StreamEnded
from discord_rtc.rtp.extensions import (
    AUDIO_LEVEL,
    SPEAKER,
    parse_audio_level,
    parse_elements,
    parse_speaker_bits,
)
from discord_rtc.rtp.history import unwrap_rtx
from discord_rtc.rtp.loss import LossCounters, LossTracker
from discord_rtc.rtp.reports import (
    MAX_DROPOUT,
    MAX_MISORDER,
    Jitter,
    ReportHistory,
    SequenceTracker,
)
from discord_rtc.rtp.rtcp import ReportBlock, SenderReport, ntp_from_64
from discord_rtc.rtp.serial import Unwrapper
from discord_rtc.rtp.serial import unwrap as nearest
from discord_rtc.rtp.stats import InboundStats

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from discord_rtc.rtp.assembler import AssembledFrame, Assembler
    from discord_rtc.rtp.events import Event
    from discord_rtc.rtp.packet import RtpPacket
    from discord_rtc.rtp.payloads.base import PayloadFormat

KEYFRAME_REQUEST_INTERVAL = 0.5
"""Seconds between two PLI of one stream; senders answer about one per second."""
KEYFRAME_REQUEST_TIME = 5.0
"""Seconds without packets after which a stream has paused, and is not asked any more."""
ENDING_TIME = VIDEO_WINDOW
"""Seconds from BYE to the end: as long as any late packet is waited for."""
STALE_TIME = 2.0
"""Seconds after the end during which old packets do not bring a stream back to life."""
REPAIR_TIME = 5.0
"""Seconds between a packet and the latest one; senders do not keep packets for longer."""


class InboundContext(NamedTuple):
    """What all received streams of a session share.

    Attributes:
        extension_ids: Header extension URI to its id on this connection.
        drops: Reason to count for packets that were not used.
        emit: Takes an event.
        request_keyframe: Sends a PLI for an SSRC.
        request_packets: Sends a NACK for an SSRC with 16-bit sequence numbers, ascending.
        nack: Whether packets are sent again on request.
    """

    extension_ids: Mapping[str, int]
    drops: Counter[str]
    emit: Callable[[Event], object]
    request_keyframe: Callable[[int], object]
    request_packets: Callable[[int, Sequence[int]], object]
    nack: bool


class InboundStream:
    """One received stream: packets in, `FrameReceived` out.

    Attributes:
        ssrc: Its SSRC.
        heard_at: When its latest valid packet arrived.
        ended: A BYE came and took effect.

    Args:
        ssrc: Its SSRC.
        payload_format: How to read its payloads.
        context: What it shares with the others.
        now: Time of its first packet.
    """

    def __init__(
        self, ssrc: int, payload_format: PayloadFormat, context: InboundContext, now: float
    ) -> None:
        self.ssrc = ssrc
        self.heard_at = now
        self.ended = False
        self._context = context
        self._tracker = SequenceTracker()
        self._unwrapper = Unwrapper(32)
        self._ticks = 0  # of the latest packet
        self._reports = ReportHistory()
        self._counters = AssemblerCounters()
        self._losses = LossCounters()
        self._loss: LossTracker | None
        self._packets = 0
        self._octets = 0
        self._frames = 0
        self._keyframes = 0
        self._packets_reported = 0
        self._asked = False  # the owner wants a keyframe
        self._requested_at = -inf
        self._keyframe_requests = 0
        self._ends_at: float | None = None
        self._use(payload_format)

    def receive(self, packet: RtpPacket, payload_format: PayloadFormat, now: float) -> None:
        """Take a packet of this SSRC; its payload type says which format it has."""
        self._packets += 1
        sequence = self._tracker.update(packet.sequence)
        if sequence is None:
            return
        if payload_format is not self._format:
            self._deliver(self._assembler.handle_timeout(inf), now)
            self._use(payload_format)
            if self._loss is not None:
                self._loss.begin(sequence)
        elif sequence == self._tracker.base:
            self._deliver(self._assembler.restart(), now)
            if self._loss is not None:
                self._loss.begin(sequence)
        self.heard_at = now
        self._octets += len(packet.payload)
        self._ticks = ticks = self._unwrapper.unwrap(packet.ticks)
        self._jitter.update(ticks, now)
        self._deliver(self._assembler.receive(Arrival(sequence, ticks, now, packet)), now)
        if self._loss is not None:
            if not self._loss.received(sequence, now):
                self._deliver(self._assembler.handle_timeout(inf), now)
            self._request_packets(now)
        self._request_keyframe(now)

    def receive_retransmission(
        self, packet: RtpPacket, original: int, payload_type: int, now: float
    ) -> None:
        """Take a retransmission of one of this stream's packets, of the format that it `repairs`.

        Args:
            packet: The retransmission.
            original: Sequence number of the original packet, 16 bits.
            payload_type: Of the original packet.
            now: Time of arrival.
        """
        assert self._loss is not None
        sequence = nearest(original, self._tracker.highest, 16)
        if not self._loss.retransmitted(sequence, now):
            return
        ticks = self._unwrapper.peek(packet.ticks)
        arrival = Arrival(sequence, ticks, now, unwrap_rtx(packet, self.ssrc, payload_type))
        self._deliver(self._assembler.receive(arrival), now)
        self._request_packets(now)
        self._request_keyframe(now)

    def repairs(self, payload_format: PayloadFormat) -> bool:
        """Whether retransmissions of that format are of any use."""
        return self._loss is not None and payload_format is self._format and not self.ended

    def misses(self, original: int, ticks: int) -> bool:
        """Whether a retransmission with that number and those ticks can be one of ours."""
        assert self._loss is not None
        distance = abs(self._unwrapper.peek(ticks) - self._ticks)
        near = distance < REPAIR_TIME * self._format.codec.clock_rate
        return near and self._loss.misses(nearest(original, self._tracker.highest, 16))

    def receive_report(self, report: SenderReport, now: float) -> None:
        """Take the sender report of this SSRC."""
        self._reports.received(report, now)
        # Before the first packet the report is what ticks are counted on from.
        unwrap = self._unwrapper.peek if self._packets else self._unwrapper.unwrap
        ntp = ntp_from_64(report.ntp)
        self._context.emit(SenderReportReceived(self.ssrc, ntp, unwrap(report.ticks), now))

    @property
    def ending(self) -> bool:
        """Whether a BYE came, in effect or not."""
        return self._ends_at is not None

    def end(self, now: float) -> None:
        """Take a BYE."""
        if self._ends_at is None:
            self._ends_at = now + ENDING_TIME

    def finish(self, now: float) -> None:
        """Let the BYE take effect, if it has not yet."""
        if not self.ended:
            self._deliver(self._assembler.handle_timeout(inf), now)
            self.ended = True
            self._context.emit(StreamEnded(self.ssrc))

    def continues_with(self, packet: RtpPacket) -> bool:
        """Whether a packet's number is near the ones before."""
        ahead = (packet.sequence - self._tracker.highest) & 0xFFFF
        return ahead < MAX_DROPOUT or -ahead & 0xFFFF < MAX_MISORDER

    def is_stale(self, packet: RtpPacket, now: float) -> bool:
        """Whether a packet that came after the end was sent before it."""
        behind = (self._tracker.highest - packet.sequence) & 0xFFFF
        return behind < MAX_MISORDER and now < self.heard_at + ENDING_TIME + STALE_TIME

    def ask_keyframe(self, now: float) -> None:
        """The owner wants a keyframe: sent now, or as soon as the interval allows."""
        self._asked = self._video
        self._request_keyframe(now)

    def report(self, now: float) -> ReportBlock | None:
        """What to report about the time since the last report; None when nothing came."""
        if self.ended or self._packets == self._packets_reported:
            return None
        self._packets_reported = self._packets
        last_sr, delay = self._reports.since(now)
        return ReportBlock(
            self.ssrc,
            self._tracker.fraction_lost(),
            self._tracker.cumulative_lost,
            self._tracker.highest & 0xFFFFFFFF,
            self._jitter.ticks,
            last_sr,
            delay,
        )

    def next_timeout(self) -> float | None:
        """When something is due; None for nothing."""
        if self.ended:
            return None
        return earliest(
            self._assembler.next_timeout(),
            self._ends_at,
            self._keyframe_time(),
            None if self._loss is None or self.ending else self._loss.next_timeout(),
        )

    def handle_timeout(self, now: float) -> None:
        """Give up gaps, repeat keyframe requests, end."""
        if self._ends_at is not None and self._ends_at <= now:
            self.finish(now)
        else:
            self._deliver(self._assembler.handle_timeout(now), now)
            self._request_packets(now)
            self._request_keyframe(now)

    def stats(self) -> InboundStats:
        """Counters so far."""
        tracker, counters, losses = self._tracker, self._counters, self._losses
        return InboundStats(
            ssrc=self.ssrc,
            codec=self._format.codec,
            packets=self._packets,
            payload_octets=self._octets,
            frames=self._frames,
            keyframes=self._keyframes,
            cumulative_lost=tracker.cumulative_lost,
            jitter=self._jitter.seconds,
            duplicates=tracker.duplicates,
            late=counters.late,
            disbelieved=tracker.disbelieved,
            frames_dropped=counters.frames_dropped,
            malformed_frames=counters.malformed,
            restarts=tracker.restarts,
            keyframe_requests=self._keyframe_requests,
            nacked=losses.nacked,
            recovered=losses.recovered,
            rtx_duplicates=losses.unneeded,
        )

    def queue_stats(self) -> QueueStats:
        """How full the reorder window was."""
        counters = self._counters
        name = f"reorder-{self.ssrc}"
        return QueueStats(name, counters.high_water, self._assembler.bound, counters.overflows)

    def _use(self, payload_format: PayloadFormat) -> None:
        codec = payload_format.codec
        depacketizer = payload_format.depacketizer()
        self._format = payload_format
        self._video = codec.kind is MediaKind.VIDEO
        self._jitter = Jitter(codec.clock_rate)
        self._assembler: Assembler
        self._loss = None
        if self._video:
            self._assembler = video = VideoAssembler(depacketizer, self._counters)
            if self._context.nack:
                self._loss = LossTracker(video, self._losses)
        else:
            self._assembler = AudioAssembler(depacketizer, self._counters)

    def _deliver(self, frames: Iterable[AssembledFrame], now: float) -> None:
        for frame in frames:
            self._frames += 1
            flags = level = None
            if frame.keyframe:
                self._keyframes += 1
                self._asked = False
            if not self._video and frame.packet.extension_profile is not None:
                flags, level = self._read_voice(frame.packet)
            self._context.emit(
                FrameReceived(
                    self.ssrc,
                    self._format.codec,
                    frame.data,
                    frame.ticks,
                    frame.keyframe,
                    now,
                    frame.lost,
                    flags,
                    level,
                )
            )

    def _read_voice(self, packet: RtpPacket) -> tuple[int | None, int | None]:
        """Speaking flags and audio level of a packet that has header extensions."""
        assert packet.extension_profile is not None
        ids = self._context.extension_ids
        elements = dict(parse_elements(packet.extension_profile, packet.extension_data))
        speaker = elements.get(ids.get(SPEAKER, 0))
        loudness = elements.get(ids.get(AUDIO_LEVEL, 0))
        try:
            flags = None if speaker is None else parse_speaker_bits(speaker)
            level = None if loudness is None else parse_audio_level(loudness)[1]
        except MalformedPacket:
            self._context.drops["malformed-extension"] += 1
            return (None, None)
        return (flags, level)

    def _request_packets(self, now: float) -> None:
        if self._loss is None or self.ending:
            return
        missing = self._loss.due(now)
        if missing:
            self._context.request_packets(self.ssrc, [number & 0xFFFF for number in missing])

    def _keyframe_time(self) -> float | None:
        if not (self._asked or self._assembler.keyframe_wanted):
            return None
        at = self._requested_at + KEYFRAME_REQUEST_INTERVAL
        alive = at < self.heard_at + KEYFRAME_REQUEST_TIME
        return at if self._asked or alive else None

    def _request_keyframe(self, now: float) -> None:
        at = self._keyframe_time()
        if at is not None and at <= now:
            self._asked = False
            self._requested_at = now
            self._keyframe_requests += 1
            self._context.request_keyframe(self.ssrc)
