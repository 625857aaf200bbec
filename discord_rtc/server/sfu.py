"""A room: forwards plain packets between the legs of one call. Sans-I/O.

Spec: RFC 7667 section 3.7 (selective forwarding); userdoccers, "Voice Connections" (speaking,
video, media sink wants).

Who gets a packet::

    leg -> SSRC is the leg's own?      no: foreign-ssrc
        -> announced (op 5, op 12)?    no: held 0.5 s, then unannounced
        -> a retransmission?           then it goes on as the packet that it repairs, if the room
           |                           misses that; otherwise rtx-unneeded, or probes
        -> video: received before?     then duplicate
        -> payload type is known?      no: unknown-payload-type, or wrong-payload-type when it
           |                               does not belong on that SSRC
        -> every other leg that is not deaf (audio), wants it (video),
           from which nothing is withheld, unless the sender is silenced
           and has the codec           no: codec-not-supported

What to send to whom is worked out once per stream and payload type and kept until something
changes, since nothing else happens as often as one more packet. A receiver that numbers payload
types and header extensions as the sender does gets the very same bytes.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from math import inf
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedPacket
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.rtp.packet import FIXED_HEADER_SIZE
from discord_rtc.server.congestion import MAX_VIDEO_BPS, Congestion
from discord_rtc.server.feedback import Feedback
from discord_rtc.server.leg_media import DEFAULT_LEG_MEDIA, LegMedia, LegSsrcs, Renumbering
from discord_rtc.server.repairs import Repairs
from discord_rtc.server.streams import FULL_QUALITY, STRETCH, Leg, Participant, Participants, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from discord_rtc.server.streams import Send, Stream

__all__ = ["DEFAULT_LEG_MEDIA", "Leg", "LegMedia", "LegSsrcs", "Room"]

HOLD_TIME = 0.5
"""Seconds that packets wait for the message that announces them. @discordjs/voice sends its
first packet some milliseconds before its op 5."""

HOLD_LIMIT = 64
"""Packets held per SSRC; newer ones are dropped."""

SERVER_SSRC = 1
"""Sender SSRC of the room's own RTCP, as libwebrtc's receivers call themselves."""

_PADDED = 0xA0  # RFC 3550 section 5.1: version 2, padding, nothing else
_FIELDS = struct.Struct("!xxHI")  # sequence number, ticks


class Room:
    """Forwards between the legs that were added to it.

    Calls about a leg that is not in the room raise UsageError; packets from it, which may still
    be under way, are counted.

    Args:
        ssrc: Sender SSRC of the room's own RTCP; no leg may have it.
        max_video_bps: Bitrate that senders are told (REMB) when no receiver asks for less.
        tap: Shown each plain RTP packet that is about to be forwarded, with the leg it came from:
            retransmissions as what they repair, neither duplicates nor what is not announced.

    Attributes:
        counters: ``rtp-in`` and ``rtp-out`` packets; ``nacked``, ``restored`` and ``sent-again``
            for packets that were lost; ``twcc-sent``, ``remb-sent`` and ``keyframe-requests``;
            and reason to count for all drops.
    """

    def __init__(
        self,
        ssrc: int = SERVER_SSRC,
        *,
        max_video_bps: int = MAX_VIDEO_BPS,
        tap: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._tap = tap
        self._participants = Participants()
        common = (self._participants, self.counters, ssrc)
        self._repairs = Repairs(*common)
        self._congestion = Congestion(*common, max_video_bps)
        self._feedback = Feedback(*common, self._repairs, self._congestion)
        self._held: dict[int, deque[tuple[float, bytes]]] = {}  # SSRC to (when to drop, packet)
        self._due: float | None = None
        self._due_known = True  # nothing has happened since it was worked out

    def add(
        self, leg: Leg, ssrcs: LegSsrcs, media: LegMedia, now: float, *, deaf: bool = False
    ) -> None:
        """Let a leg send and receive. Those who send video are asked for a keyframe.

        Args:
            leg: The way to the user.
            ssrcs: What it may send.
            media: What it negotiated.
            now: Monotonic seconds.
            deaf: Whether the user is deafened.

        Raises:
            UsageError: The leg is in the room already, or an SSRC is in use.
        """
        self._due_known = False
        participant = Participant(leg, ssrcs, media, deaf=deaf)
        self._participants.add(participant)
        self._show(participant, [], now)

    def connected(self, leg_id: int, now: float) -> None:
        """The leg can be sent to from now on: what was shown to it before was lost on the way."""
        self._due_known = False
        participant = self._participants.find(leg_id)
        if participant is not None:
            self._show(participant, [], now)

    def remove(self, leg_id: int, now: float) -> None:
        """Neither take from nor give to a leg any more. The others get a BYE for its streams.

        A leg that is not in the room is ignored.
        """
        self._due_known = False
        participant = self._participants.find(leg_id)
        if participant is None:
            return
        for stream in participant.streams:
            self._feedback.ended(stream, now)
            self._repairs.forget(stream)
            self._held.pop(stream.ssrc, None)
        self._participants.remove(participant)
        self._repairs.forget_receiver(leg_id)

    def announce(self, leg_id: int, ssrcs: Iterable[int], now: float) -> None:
        """The leg said that it sends on these SSRCs (op 5, op 12).

        RTX SSRCs come along with their media. Packets that overtook the message are forwarded
        now. An SSRC of somebody else is counted.
        """
        self._due_known = False
        for stream in self._own_streams(leg_id, ssrcs):
            stream.announced = True
            for expiry, packet in self._held.pop(stream.ssrc, ()):
                if now < expiry:
                    self._accept(stream, packet, now)
                else:
                    self.counters["unannounced"] += 1

    def withdraw(self, leg_id: int, ssrcs: Iterable[int]) -> None:
        """The leg said that it does not send on these SSRCs any more (op 12)."""
        self._due_known = False
        for stream in self._own_streams(leg_id, ssrcs):
            stream.announced = False
            self._repairs.forget(stream)

    def set_deaf(self, leg_id: int, deaf: bool) -> None:
        """A deafened user receives no audio."""
        self._participants.get(leg_id).deaf = deaf
        self._participants.forget_plans()

    def set_withheld(self, leg_id: int, now: float, *, withheld: bool) -> None:
        """Send nothing to a leg for now, or everything again, which begins with keyframes."""
        self._due_known = False
        participant = self._participants.get(leg_id)
        before = self._participants.shown_to(participant)
        participant.withheld = withheld
        self._participants.forget_plans()
        self._show(participant, before, now)

    def set_silenced(self, leg_id: int, now: float, *, silenced: bool) -> None:
        """Send nothing of a leg to anybody for now, or again, which begins with keyframes."""
        self._due_known = False
        before = [(one, self._participants.shown_to(one)) for one in self._participants]
        self._participants.get(leg_id).silenced = silenced
        self._participants.forget_plans()
        for participant, streams in before:
            self._show(participant, streams, now)

    def set_media(self, leg_id: int, media: LegMedia, now: float) -> None:
        """The leg negotiated anew (op 14). It may need keyframes of what it can decode now."""
        self._due_known = False
        participant = self._participants.get(leg_id)
        participant.negotiated(media)
        self._participants.forget_plans()
        self._show(participant, [], now)

    def set_wants(
        self, leg_id: int, wants: Mapping[int, int], any_quality: int | None, now: float
    ) -> None:
        """The leg said which video it wants (op 15). For what is new to it, a PLI is sent.

        Args:
            leg_id: The receiver.
            wants: Media SSRC to quality; 0 means not to send it.
            any_quality: For every SSRC not listed; None for full quality.
            now: Monotonic seconds.
        """
        self._due_known = False
        participant = self._participants.get(leg_id)
        before = self._participants.shown_to(participant)
        participant.wants = dict(wants)
        participant.any_quality = FULL_QUALITY if any_quality is None else any_quality
        self._participants.forget_plans()
        self._show(participant, before, now)

    def receive_rtp(self, leg_id: int, packet: bytes, now: float) -> None:
        """Forward one plain RTP packet of a leg."""
        self._due_known = False
        if len(packet) < FIXED_HEADER_SIZE:
            self.counters["malformed"] += 1
            return
        stream = self._participants.stream(int.from_bytes(packet[8:12], "big"))
        if stream is None or stream.owner_id != leg_id:
            self.counters["foreign-ssrc"] += 1
            return
        ident = stream.owner.transport_cc
        if ident is not None:
            self._congestion.numbered(stream.owner, ident, packet, now)
        if stream.announced:
            self._accept(stream, packet, now)
        else:
            self._hold(stream.ssrc, packet, now)

    def receive_rtcp(self, leg_id: int, packet: bytes, now: float) -> None:
        """Take one plain compound RTCP packet of a leg."""
        self._due_known = False
        self._feedback.receive(leg_id, packet, now)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called. Costs nothing while nothing happens."""
        if self._due_known:
            return self._due
        due = min(
            self._congestion.next_timeout(),
            self._feedback.next_timeout(),
            self._repairs.next_timeout(),
        )
        if self._held:
            due = min(due, *(held[0][0] for held in self._held.values()))
        self._due, self._due_known = None if due == inf else due, True
        return self._due

    def handle_timeout(self, now: float) -> None:
        """Drop what was held too long; send the feedback and requests that are due."""
        self._due_known = False
        for ssrc, held in tuple(self._held.items()):
            while held and held[0][0] <= now:
                held.popleft()
                self.counters["unannounced"] += 1
            if not held:
                del self._held[ssrc]
        self._feedback.handle_timeout(now)
        self._repairs.handle_timeout(now)
        self._congestion.handle_timeout(now)

    def _accept(self, stream: Stream, packet: bytes, now: float) -> None:
        """A packet of an announced stream."""
        sequence, ticks = _FIELDS.unpack_from(packet)
        self.counters["rtp-in"] += 1
        number = stream.received(sequence, ticks, len(packet), now)
        self._feedback.rtp_received(stream, now)
        if number is not None and number // STRETCH != stream.stretch:
            self._keep_in_step(stream, number, packet, now)
        if stream.rtx:
            self._restore(stream, packet, now)
            return
        if stream.repair is not None:
            if stream.owner.remb:
                self._congestion.video_received(now)
            if not self._repairs.received(stream, sequence, number, packet, now):
                return
        self._forward(stream, packet, now)

    def _keep_in_step(self, stream: Stream, number: int, packet: bytes, now: float) -> None:
        """Let SRTP receivers that do not get a stream know how far its numbers are.

        They get one packet of nothing but padding. Otherwise their index, and the server's own,
        would be wrong when they want the stream again, and every packet would be refused.
        """
        begun, stream.stretch = stream.stretch is not None, number // STRETCH
        codec, rtx = stream.owner.media.meaning(packet[1] & 0x7F) or ("", False)
        if not begun or rtx or stream.rtx:
            return
        for receiver in self._participants:
            payload_type = receiver.media.payload_type(codec, rtx=False)
            away = receiver is not stream.owner and not receiver.receives(stream)
            if away and receiver.media.srtp and payload_type is not None:
                header = bytes((_PADDED, payload_type)) + packet[2:12]
                receiver.leg.send_rtp(header + b"\x01", now)

    def _own_streams(self, leg_id: int, ssrcs: Iterable[int]) -> list[Stream]:
        streams = self._participants.get(leg_id).streams
        own = []
        for ssrc in ssrcs:
            found = [stream for stream in streams if ssrc in (stream.ssrc, stream.media_ssrc)]
            if not found:
                self.counters["foreign-ssrc"] += 1
            own += found
        return own

    def _show(self, participant: Participant, before: list[Stream], now: float) -> None:
        for stream in self._participants.shown_to(participant):
            if stream not in before:
                self._feedback.ask_keyframe(stream, now)

    def _hold(self, ssrc: int, packet: bytes, now: float) -> None:
        held = self._held.setdefault(ssrc, deque())
        if len(held) < HOLD_LIMIT:
            held.append((now + HOLD_TIME, packet))
        else:
            self.counters["unannounced"] += 1

    def _restore(self, rtx: Stream, packet: bytes, now: float) -> None:
        media = rtx.owner.media
        codec, is_rtx = media.meaning(packet[1] & 0x7F) or (None, False)
        payload_type = None if codec is None else media.payload_type(codec, rtx=False)
        stream = self._participants.stream(rtx.media_ssrc)
        if payload_type is None:
            self.counters["unknown-payload-type"] += 1
        elif not is_rtx or stream is None:
            self.counters["wrong-payload-type"] += 1
        else:
            original = self._repairs.restore(stream, payload_type, packet, now)
            if original is not None:
                self._forward(stream, original, now)

    def _forward(self, stream: Stream, packet: bytes, now: float) -> None:
        if self._tap is not None:
            self._tap(stream.owner_id, packet)
        payload_type = packet[1] & 0x7F
        plan = stream.plans.get(payload_type)
        if plan is None:
            plan = stream.plans[payload_type] = self._plan(stream, payload_type)
        for send in plan.unchanged:
            send(packet, now)
        self.counters["rtp-out"] += len(plan.unchanged)
        if plan.renumbered:
            self._forward_renumbered(plan, packet, now)
        if plan.drops:
            self.counters[plan.dropped] += plan.drops

    def _plan(self, stream: Stream, payload_type: int) -> Plan:
        media = stream.owner.media
        meaning = media.meaning(payload_type)
        if meaning is None:
            return Plan(dropped="unknown-payload-type", drops=1)
        codec, rtx = meaning
        is_audio = codec == Codec.OPUS.value
        if rtx or is_audio is not (stream.kind is MediaKind.AUDIO):
            return Plan(dropped="wrong-payload-type", drops=1)
        groups: dict[Renumbering, list[Send]] = {}
        unsupported = 0
        for receiver in self._participants.receivers(stream):
            number = receiver.media.payload_type(codec, rtx=False)
            if number is None:
                unsupported += 1
            else:
                renumbering = Renumbering.between(media, receiver.media, number)
                groups.setdefault(renumbering, []).append(receiver.leg.send_rtp)
        unchanged = tuple(groups.pop(Renumbering(payload_type, None), ()))
        renumbered = tuple((how, tuple(sends)) for how, sends in groups.items())
        return Plan(unchanged, renumbered, "codec-not-supported", unsupported)

    def _forward_renumbered(self, plan: Plan, packet: bytes, now: float) -> None:
        for renumbering, sends in plan.renumbered:
            try:
                renumbered = renumbering.apply(packet)
            except MalformedPacket:
                self.counters["malformed"] += 1
                return
            for send in sends:
                send(renumbered, now)
            self.counters["rtp-out"] += len(sends)
