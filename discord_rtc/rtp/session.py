"""All RTP streams of one connection behind the five verbs. Sans-I/O.

Spec: RFC 3550, RFC 4585, RFC 4588.

Input: frames to send, packets received. Output: packets to send, events. After each input
flush `packets_to_send`, drain `next_event`, and call `handle_timeout` at `next_timeout`.
Audio and RTCP go out at once, video through the pacer. Nothing that a peer sends raises:
what cannot be used is counted in ``stats().drops``.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedPacket
from discord_rtc.queues import BoundedQueue, QueueStats
from discord_rtc.rtp.arrivals import Arrivals
from discord_rtc.rtp.deadlines import earliest
from discord_rtc.rtp.events import (
    BitrateEstimated,
    Event,
    FrameReceived,
    KeyframeRequested,
    SenderReportReceived,
    StreamEnded,
)
from discord_rtc.rtp.extensions import TRANSPORT_CC, parse_elements, parse_transport_sequence
from discord_rtc.rtp.inbound import InboundContext
from discord_rtc.rtp.outbound import SenderConfig
from discord_rtc.rtp.pacer import Outgoing
from discord_rtc.rtp.packet import parse_rtp
from discord_rtc.rtp.payloads.base import payload_format
from discord_rtc.rtp.receivers import Receivers
from discord_rtc.rtp.rtcp import (
    BitrateEstimate,
    FullIntraRequest,
    Goodbye,
    Nack,
    PictureLoss,
    ReceiverReport,
    RtcpPacket,
    SenderReport,
    SourceDescription,
    parse_rtcp,
)
from discord_rtc.rtp.senders import REPORT_INTERVAL, Senders, SendersContext
from discord_rtc.rtp.stats import (
    InboundStats,
    OutboundStats,
    SessionStats,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from discord_rtc.frames import Codec, EncodedFrame
    from discord_rtc.rtp.packet import RtpPacket

__all__ = [
    "RtpSession",
    "SenderConfig",
    "Outgoing",
    "Event",
    "FrameReceived",
    "SenderReportReceived",
    "KeyframeRequested",
    "StreamEnded",
    "BitrateEstimated",
    "SessionStats",
    "OutboundStats",
    "InboundStats",
    "QueueStats",
]

_BLOCKS_PER_REPORT = 31  # RFC 3550 6.4.1: five bits of count
_NOBODY = 1
"""SSRC of a participant that sends nothing, as libwebrtc has it."""
_MOST_PER_NACK = 256
"""Packets asked for in one RTCP packet, which has about 1 kB then in the worst case."""
_PROBE_PAYLOAD_TYPE = 96
"""Where nothing else is negotiated for it: padding of native Discord servers."""
_EVENT_BOUND = 4096
"""Events between two flushes; twice what one packet can set free."""


class RtpSession:
    """Sends and receives the RTP streams of one connection.

    Args:
        payload_types: Payload type to codec, of everything that may be received.
        rtx_payload_types: Payload type of retransmissions to the one that they repair.
        extension_ids: Header extension URI to its id on this connection.
        max_packet_size: Largest plain RTP packet in bytes, header included.
        ntp_offset: Seconds since 1900 minus ``now``.
        cname: Canonical name in our RTCP, the same for all our streams (RFC 3550 6.5.1).
        feedback: RTCP feedback in use, as in `NegotiatedMedia`; with ``nack``, missing packets
            of video are asked for and sent again; with ``transport-cc``, the server is told when
            each packet came that it numbered, for its estimate of the path.
        ssrc: Where our RTCP comes from as long as we send nothing. Raw UDP servers know who sent
            a datagram only by an SSRC that they assigned.
        repeats: Whether the transport can send the very same packet twice. SRTP cannot, as the
            number of a packet makes its nonce; without RTX nothing is sent again there.
        seed: Makes sequence numbers and timestamps begin reproducibly; for tests.

    Raises:
        NoCommonCodec: There is no payload format for one of the codecs.
    """

    def __init__(  # noqa: PLR0913 - each argument is one negotiated fact
        self,
        *,
        payload_types: Mapping[int, Codec],
        rtx_payload_types: Mapping[int, int],
        extension_ids: Mapping[str, int],
        max_packet_size: int,
        ntp_offset: float,
        cname: str,
        feedback: frozenset[str] = frozenset(),
        ssrc: int = _NOBODY,
        repeats: bool = True,
        seed: int | None = None,
    ) -> None:
        self._formats = {number: payload_format(codec) for number, codec in payload_types.items()}
        self._rtx_payload_types = {
            number: repaired
            for number, repaired in rtx_payload_types.items()
            if repaired in self._formats
        }
        nack = "nack" in feedback
        self._events: BoundedQueue[Event] = BoundedQueue("events", _EVENT_BOUND)
        self._drops: Counter[str] = Counter()
        self._senders = Senders(
            SendersContext(
                dict(extension_ids),
                max_packet_size,
                ntp_offset,
                cname,
                ssrc,
                Random(seed),  # noqa: S311 - spreads numbers, protects nothing
                self._events.put,
                self._drops,
                nack,
                repeats,
            )
        )
        self._receivers = Receivers(
            InboundContext(
                dict(extension_ids),
                self._drops,
                self._events.put,
                self._send_picture_loss,
                self._send_nack,
                nack,
            )
        )
        self._receiver_report_at: float | None = None
        wide = "transport-cc" in feedback
        self._transport_cc = extension_ids.get(TRANSPORT_CC) if wide else None
        self._arrivals = Arrivals(ssrc, self._drops)

    # Sending

    def add_sender(self, config: SenderConfig) -> None:
        """Begin a stream of our own. Nothing is sent before its first frame.

        Raises:
            NoCommonCodec: There is no payload format for its codec.
            UsageError: The SSRC is taken, or packets are too small for its extensions.
        """
        self._senders.add(config)

    def remove_sender(self, ssrc: int, now: float) -> None:
        """End a stream of our own. A BYE follows its last packet, if there was any.

        Raises:
            UsageError: There is no such stream.
        """
        self._senders.remove(ssrc, now)

    def send_frame(
        self,
        ssrc: int,
        frame: EncodedFrame,
        now: float,
        *,
        speaking: int | None = None,
        level: int | None = None,
    ) -> None:
        """Queue one frame: audio to be sent with the next flush, video by the pacer.

        When the pacer has no room, the frame and those that depend on it are dropped and
        counted, and `KeyframeRequested` says what is needed to go on.

        Args:
            ssrc: One of our streams.
            frame: One access unit or Opus packet; ``pts`` may start anywhere.
            now: Time of this call.
            speaking: Speaking flags for the speaker extension (audio).
            level: Audio level in dBov, 0 to -127, for its extension (audio).

        Raises:
            MalformedFrame: The bytes are not a frame of the codec.
            UsageError: There is no such stream, or it has another codec.
            ValueError: The level is above 0.
        """
        stream = self._senders.stream(ssrc)
        stream.voice(speaking, level)
        self._senders.send(stream, frame, now)

    def restart_source(self, ssrc: int, now: float) -> None:  # noqa: ARG002 - inputs carry time
        """The next frame of a stream comes from another source.

        Its ticks continue by the time that has passed since the last frame, not by its pts.

        Raises:
            UsageError: There is no such stream.
        """
        self._senders.stream(ssrc).restart_source()

    def forget_packets(self, now: float) -> None:  # noqa: ARG002 - inputs carry time
        """Send nothing more of what was handed over until now, neither late nor again.

        Video goes on with the next keyframe.
        """
        self._senders.forget_packets()

    def set_pacing_rate(self, bitrate_bps: int) -> None:
        """Change how fast paced packets go out; bits per second, positive."""
        self._senders.pacer.set_rate(bitrate_bps)

    def backlog(self, now: float) -> float:
        """Seconds until the pacer will be empty."""
        return self._senders.pacer.backlog(now)

    # Receiving

    def receive_rtp(self, packet: bytes, now: float) -> None:
        """Take a plain RTP packet."""
        try:
            parsed = parse_rtp(packet)
        except MalformedPacket:
            self._drops["malformed-rtp"] += 1
            return
        if self._transport_cc is not None and parsed.extension_profile is not None:
            self._note_arrival(parsed, self._transport_cc, now)
        payload_type = parsed.payload_type
        known = self._formats.get(payload_type)
        if known is not None:
            if self._receiver_report_at is None:
                self._receiver_report_at = now + REPORT_INTERVAL
            self._receivers.receive(parsed, known, now)
        elif (repaired := self._rtx_payload_types.get(payload_type)) is not None:
            known = self._formats[repaired]
            self._receivers.receive_retransmission(parsed, repaired, known, now)
        elif payload_type == _PROBE_PAYLOAD_TYPE:
            self._drops["probe"] += 1
        else:
            self._drops["unknown-payload-type"] += 1

    def receive_rtcp(self, packet: bytes, now: float) -> None:
        """Take a plain RTCP packet, compound or of reduced size (RFC 5506)."""
        try:
            parts = parse_rtcp(packet)
        except MalformedPacket:
            self._drops["malformed-rtcp"] += 1
            return
        for part in parts:
            self._receive_part(part, now)

    def request_keyframe(self, ssrc: int, now: float) -> None:
        """Ask for a keyframe of a received stream (PLI), at most one per 0.5 s and stream.

        A request within that time is sent at its end, unless a keyframe comes first.
        """
        self._receivers.ask_keyframe(ssrc, now)

    def forget_receiver(self, ssrc: int) -> None:
        """Remove a received stream with its statistics; a new packet makes a new one."""
        self._receivers.forget(ssrc)

    # Output and time

    def packets_to_send(self, now: float) -> list[Outgoing]:
        """Packets that may go now, in sending order."""
        return self._senders.packets_to_send(now)

    def next_event(self) -> Event | None:
        """The oldest event not yet taken."""
        return self._events.take() if self._events else None

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout` and flush; None for never."""
        return earliest(
            self._senders.next_timeout(),
            self._receivers.next_timeout(),
            self._receiver_report_at,
            self._arrivals.next_timeout(),
        )

    def handle_timeout(self, now: float) -> None:
        """Do what is due: reports, gaps, requests. Paced packets come with the next flush."""
        self._senders.handle_timeout(now)
        if self._receiver_report_at is not None and self._receiver_report_at <= now:
            self._report_receivers(now)
        self._receivers.handle_timeout(now)
        due = self._arrivals.next_timeout()
        if due is not None and due <= now:
            for feedback in self._arrivals.feedback():
                self._senders.send_control(feedback)

    def stats(self) -> SessionStats:
        """A snapshot of all counters."""
        return SessionStats(
            outbound=self._senders.stats(),
            inbound=self._receivers.stats(),
            drops=MappingProxyType(dict(self._drops)),
            queues=(
                *self._senders.queue_stats(),
                self._events.stats(),
                *self._receivers.queue_stats(),
            ),
        )

    # RTCP

    def _receive_part(self, part: RtcpPacket, now: float) -> None:
        match part:
            case SenderReport():
                self._receivers.receive_report(part, now)
                self._senders.receive_blocks(part.blocks, now)
            case ReceiverReport():
                self._senders.receive_blocks(part.blocks, now)
            case SourceDescription():
                pass  # nothing here needs the canonical names of others
            case Goodbye():
                for ssrc in part.ssrcs:
                    self._receivers.end(ssrc, now)
            case _:
                self._receive_feedback(part, now)

    def _receive_feedback(self, part: RtcpPacket, now: float) -> None:
        match part:
            case Nack():
                ours = self._senders.receive_nack(part, now)
            case PictureLoss():
                ours = self._senders.receive_picture_loss(part.media_ssrc)
            case FullIntraRequest():
                ours = self._senders.receive_intra_request(part)
            case BitrateEstimate():
                self._events.put(BitrateEstimated(part.bitrate_bps))
                return
            case _:
                self._drops["unused-rtcp"] += 1
                return
        if not ours:
            self._drops["feedback-to-others"] += 1

    def _report_receivers(self, now: float) -> None:
        self._receiver_report_at = now + REPORT_INTERVAL
        reporter = self._senders.reporter
        blocks = tuple(self._receivers.reports(now))
        for at in range(0, len(blocks), _BLOCKS_PER_REPORT):
            report = ReceiverReport(reporter, blocks[at : at + _BLOCKS_PER_REPORT])
            self._senders.send_control(report, self._senders.description(reporter))

    def _note_arrival(self, packet: RtpPacket, ident: int, now: float) -> None:
        """Take the transport-wide number of a packet, if it has one."""
        assert packet.extension_profile is not None
        elements = parse_elements(packet.extension_profile, packet.extension_data)
        for found, value in elements:
            if found == ident and len(value) == 2:
                self._arrivals.received(parse_transport_sequence(value), packet.ssrc, now)

    def _send_picture_loss(self, ssrc: int) -> None:
        self._senders.send_control(PictureLoss(self._senders.reporter, ssrc))

    def _send_nack(self, ssrc: int, missing: Sequence[int]) -> None:
        for at in range(0, len(missing), _MOST_PER_NACK):
            lost = tuple(missing[at : at + _MOST_PER_NACK])
            self._senders.send_control(Nack(self._senders.reporter, ssrc, lost))
