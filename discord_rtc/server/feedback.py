"""The RTCP of a room: what comes is sorted; reports and keyframe requests are sent. Sans-I/O.

Spec: RFC 3550 section 6, RFC 4585, RFC 5104; RFC 7667 section 3.7.

RTCP is for the neighbour, so most of it ends at the room: it reports reception to senders by
itself, answers NACKs, and forwards sender reports without their report blocks. Requests for a
keyframe go on to the stream's owner, in the room's name.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedPacket
from discord_rtc.frames import MediaKind
from discord_rtc.rtp.rtcp import (
    BitrateEstimate,
    FullIntraRequest,
    Goodbye,
    Nack,
    PictureLoss,
    ReceiverReport,
    SenderReport,
    SourceDescription,
    build_rtcp,
    parse_rtcp,
)

if TYPE_CHECKING:
    from collections import Counter

    from discord_rtc.rtp.rtcp import RtcpPacket
    from discord_rtc.server.congestion import Congestion
    from discord_rtc.server.repairs import Repairs
    from discord_rtc.server.streams import Participant, Participants, Stream

REPORT_INTERVAL = 5.0
"""Seconds between receiver reports (RFC 3550 section 6.2: the recommended minimum)."""

VIDEO_REPORT_INTERVAL = 1.0
"""The same to those who send video, as libwebrtc's receivers do: its senders adapt their bitrate
to the loss that is reported."""

KEYFRAME_INTERVAL = 0.5
"""Least seconds between two PLI for one SSRC; a request in between is sent when they are over."""

_MAX_BLOCKS = 31  # RFC 3550 section 6.4.1


class Feedback:
    """Answers and relays RTCP.

    Args:
        participants: Of the room.
        counters: Of the room.
        ssrc: Sender SSRC of what the room itself says.
        repairs: Told about NACKs.
        congestion: Told about bitrate estimates.
    """

    def __init__(
        self,
        participants: Participants,
        counters: Counter[str],
        ssrc: int,
        repairs: Repairs,
        congestion: Congestion,
    ) -> None:
        self._participants = participants
        self._counters = counters
        self._ssrc = ssrc
        self._repairs = repairs
        self._congestion = congestion
        self._report_due = inf
        self._asked: dict[int, float] = {}  # SSRC to when a keyframe was asked for
        self._to_ask: dict[int, float] = {}  # SSRC to when it may be asked for again

    def receive(self, leg_id: int, packet: bytes, now: float) -> None:
        """Take one plain compound RTCP packet of a leg."""
        try:
            parts = parse_rtcp(packet)
        except MalformedPacket:
            self._counters["malformed-rtcp"] += 1
            return
        for part in parts:
            self._receive_part(leg_id, part, now)

    def rtp_received(self, stream: Stream, now: float) -> None:
        """Something was received that is to be reported."""
        owner = stream.owner
        due = now + (REPORT_INTERVAL if stream.kind is MediaKind.AUDIO else VIDEO_REPORT_INTERVAL)
        if due < owner.report_due:
            owner.report_due = due
            self._report_due = min(self._report_due, due)

    def ask_keyframe(self, stream: Stream, now: float) -> None:
        """Send a PLI to the owner of a video stream, now or as soon as it is allowed."""
        allowed = self._asked.get(stream.ssrc, -inf) + KEYFRAME_INTERVAL
        if now < allowed:
            self._to_ask[stream.ssrc] = allowed
            return
        self._asked[stream.ssrc] = now
        self._to_ask.pop(stream.ssrc, None)
        self._counters["keyframe-requests"] += 1
        self._tell_owner(stream, PictureLoss(self._ssrc, stream.ssrc), now)

    def ended(self, stream: Stream, now: float) -> None:
        """A stream's owner is leaving: say so to those who got it, and forget it."""
        if stream.announced:
            self._tell_receivers(stream, Goodbye((stream.ssrc,)), now)
        self._asked.pop(stream.ssrc, None)
        self._to_ask.pop(stream.ssrc, None)

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called; infinity for never."""
        return min(self._report_due, *self._to_ask.values(), inf)

    def handle_timeout(self, now: float) -> None:
        """Send the reports and keyframe requests that are due."""
        for ssrc in [ssrc for ssrc, due in self._to_ask.items() if due <= now]:
            del self._to_ask[ssrc]
            stream = self._participants.stream(ssrc)
            if stream is not None and stream.shows:
                self.ask_keyframe(stream, now)
        if self._report_due <= now:
            self._report(now)

    def _receive_part(self, leg_id: int, part: RtcpPacket, now: float) -> None:
        match part:
            case SenderReport():
                self._sender_report(leg_id, part, now)
            case Goodbye(ssrcs):
                for ssrc in ssrcs:
                    self._relay(leg_id, ssrc, Goodbye((ssrc,)), now)
            case PictureLoss(_, media_ssrc):
                self._keyframe_wanted(leg_id, media_ssrc, now)
            case FullIntraRequest(_, entries):
                for media_ssrc, _ in entries:
                    self._keyframe_wanted(leg_id, media_ssrc, now)
            case Nack(_, media_ssrc, lost):
                self._missed(leg_id, media_ssrc, lost, now)
            case BitrateEstimate():
                self._congestion.estimated(leg_id, part, now)
            case ReceiverReport() | SourceDescription():
                pass  # about the way between this leg and the room, which ends here
            case _:
                self._counters["rtcp-ignored"] += 1

    def _sender_report(self, leg_id: int, report: SenderReport, now: float) -> None:
        stream = self._participants.own_stream(leg_id, report.ssrc)
        if stream is not None and stream.rtx:
            stream.reports.received(report, now)  # receivers get retransmissions of the room
            return
        stream = self._relay(leg_id, report.ssrc, replace(report, blocks=()), now)
        if stream is not None:
            stream.reports.received(report, now)

    def _relay(self, leg_id: int, ssrc: int, part: RtcpPacket, now: float) -> Stream | None:
        stream = self._participants.own_stream(leg_id, ssrc)
        if stream is None:
            self._counters["foreign-ssrc"] += 1
        elif stream.announced:
            self._tell_receivers(stream, part, now)
        return stream

    def _keyframe_wanted(self, leg_id: int, media_ssrc: int, now: float) -> None:
        stream = self._watched_stream(leg_id, media_ssrc)
        if stream is not None and stream.shows:
            self.ask_keyframe(stream, now)
        else:
            self._counters["feedback-ignored"] += 1

    def _missed(self, leg_id: int, media_ssrc: int, lost: tuple[int, ...], now: float) -> None:
        stream = self._watched_stream(leg_id, media_ssrc)
        if stream is not None and stream.repair is not None:
            self._repairs.send_again(stream, self._participants.get(leg_id), lost, now)
        else:
            self._counters["feedback-ignored"] += 1

    def _watched_stream(self, leg_id: int, media_ssrc: int) -> Stream | None:
        stream = self._participants.stream(media_ssrc)
        watcher = self._participants.find(leg_id)
        if stream is None or watcher is None or not watcher.receives(stream):
            return None
        return stream

    def _report(self, now: float) -> None:
        for participant in self._participants:
            if participant.report_due <= now:
                self._report_to(participant, now)
        self._report_due = min((each.report_due for each in self._participants), default=inf)

    def _report_to(self, participant: Participant, now: float) -> None:
        heard = [stream for stream in participant.streams if stream.heard]
        if not heard:
            participant.report_due = inf
            return
        video = any(stream.kind is MediaKind.VIDEO for stream in heard)
        participant.report_due = now + (VIDEO_REPORT_INTERVAL if video else REPORT_INTERVAL)
        blocks = tuple(stream.report(now) for stream in heard[:_MAX_BLOCKS])
        participant.leg.send_rtcp(build_rtcp((ReceiverReport(self._ssrc, blocks),)), now)

    def _tell_owner(self, stream: Stream, part: RtcpPacket, now: float) -> None:
        stream.owner.leg.send_rtcp(build_rtcp((part,)), now)

    def _tell_receivers(self, stream: Stream, part: RtcpPacket, now: float) -> None:
        packet = build_rtcp((part,))
        for participant in self._participants.receivers(stream):
            participant.leg.send_rtcp(packet, now)
