"""A room: forwards plain packets between the legs of one call. Sans-I/O.

Spec: RFC 7667 section 3.7 (selective forwarding); userdoccers, "Voice Connections" (speaking,
video, media sink wants).

Who gets a packet::

    leg -> SSRC is the leg's own?      no: foreign-ssrc
        -> announced (op 5, op 12)?    no: held 0.5 s, then unannounced
        -> payload type is known?      no: unknown-payload-type, or wrong-payload-type when it
           |                               does not belong on that SSRC
        -> every other leg that is not deaf (audio), wants it (video)
           and has the codec           no: codec-not-supported

What to send to whom is worked out once per stream and payload type and kept until something
changes, since nothing else happens as often as one more packet. A receiver that numbers payload
types and header extensions as the sender does gets the very same bytes.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedPacket
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.server.feedback import Feedback
from discord_rtc.server.leg_media import DEFAULT_LEG_MEDIA, LegMedia, LegSsrcs, Renumbering
from discord_rtc.server.streams import FULL_QUALITY, Leg, Participant, Participants, Plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from discord_rtc.server.streams import Send, Stream

__all__ = ["DEFAULT_LEG_MEDIA", "Leg", "LegMedia", "LegSsrcs", "Room"]

HOLD_TIME = 0.5
"""Seconds that packets wait for the message that announces them. @discordjs/voice sends its
first packet some milliseconds before its op 5."""

HOLD_LIMIT = 64
"""Packets held per SSRC; newer ones are dropped."""

SERVER_SSRC = 1
"""Sender SSRC of the room's own RTCP, as libwebrtc's receivers call themselves."""

_FIELDS = struct.Struct("!xBHII")  # payload type, sequence number, ticks, SSRC


class Room:
    """Forwards between the legs that were added to it.

    Calls about a leg that is not in the room raise UsageError; packets from it, which may still
    be under way, are counted.

    Args:
        ssrc: Sender SSRC of the room's own RTCP; no leg may have it.

    Attributes:
        counters: ``rtp-in`` and ``rtp-out`` packets, and reason to count for all drops.
    """

    def __init__(self, ssrc: int = SERVER_SSRC) -> None:
        self.counters: Counter[str] = Counter()
        self._participants = Participants()
        self._feedback = Feedback(self._participants, self.counters, ssrc)
        self._held: dict[int, deque[tuple[float, bytes]]] = {}  # SSRC to (when to drop, packet)

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
        participant = Participant(leg, ssrcs, media, deaf=deaf)
        self._participants.add(participant)
        self._show(participant, [], now)

    def remove(self, leg_id: int, now: float) -> None:
        """Neither take from nor give to a leg any more. The others get a BYE for its streams.

        A leg that is not in the room is ignored.
        """
        participant = self._participants.find(leg_id)
        if participant is None:
            return
        for stream in participant.streams:
            self._feedback.ended(stream, now)
            self._held.pop(stream.ssrc, None)
        self._participants.remove(participant)

    def announce(self, leg_id: int, ssrcs: Iterable[int], now: float) -> None:
        """The leg said that it sends on these SSRCs (op 5, op 12).

        RTX SSRCs come along with their media. Packets that overtook the message are forwarded
        now. An SSRC of somebody else is counted.
        """
        for stream in self._own_streams(leg_id, ssrcs):
            stream.announced = True
            for expiry, packet in self._held.pop(stream.ssrc, ()):
                if now < expiry:
                    self.receive_rtp(leg_id, packet, now)
                else:
                    self.counters["unannounced"] += 1

    def withdraw(self, leg_id: int, ssrcs: Iterable[int]) -> None:
        """The leg said that it does not send on these SSRCs any more (op 12)."""
        for stream in self._own_streams(leg_id, ssrcs):
            stream.announced = False

    def set_deaf(self, leg_id: int, deaf: bool) -> None:
        """A deafened user receives no audio."""
        self._participants.get(leg_id).deaf = deaf
        self._participants.forget_plans()

    def set_media(self, leg_id: int, media: LegMedia, now: float) -> None:
        """The leg negotiated anew (op 14). It may need keyframes of what it can decode now."""
        participant = self._participants.get(leg_id)
        participant.media = media
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
        participant = self._participants.get(leg_id)
        before = self._participants.shown_to(participant)
        participant.wants = dict(wants)
        participant.any_quality = FULL_QUALITY if any_quality is None else any_quality
        self._participants.forget_plans()
        self._show(participant, before, now)

    def receive_rtp(self, leg_id: int, packet: bytes, now: float) -> None:
        """Forward one plain RTP packet of a leg."""
        counters = self.counters
        try:
            second, sequence, ticks, ssrc = _FIELDS.unpack_from(packet)
        except struct.error:
            counters["malformed"] += 1
            return
        stream = self._participants.stream(ssrc)
        if stream is None or stream.owner_id != leg_id:
            counters["foreign-ssrc"] += 1
            return
        if not stream.announced:
            self._hold(ssrc, packet, now)
            return
        counters["rtp-in"] += 1
        stream.received(sequence, ticks, now)
        self._feedback.rtp_received(now)
        plan = stream.plans.get(second & 0x7F)
        if plan is None:
            plan = stream.plans[second & 0x7F] = self._plan(stream, second & 0x7F)
        for send in plan.unchanged:
            send(packet, now)
        counters["rtp-out"] += len(plan.unchanged)
        if plan.renumbered:
            self._forward_renumbered(plan, packet, now)
        if plan.drops:
            counters[plan.dropped] += plan.drops

    def receive_rtcp(self, leg_id: int, packet: bytes, now: float) -> None:
        """Take one plain compound RTCP packet of a leg."""
        self._feedback.receive(leg_id, packet, now)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called."""
        due = self._feedback.next_timeout()
        if self._held:
            expiry = min(held[0][0] for held in self._held.values())
            due = expiry if due is None else min(expiry, due)
        return due

    def handle_timeout(self, now: float) -> None:
        """Drop what was held too long; send the reports and keyframe requests that are due."""
        for ssrc, held in tuple(self._held.items()):
            while held and held[0][0] <= now:
                held.popleft()
                self.counters["unannounced"] += 1
            if not held:
                del self._held[ssrc]
        self._feedback.handle_timeout(now)

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

    def _plan(self, stream: Stream, payload_type: int) -> Plan:
        media = stream.owner.media
        meaning = media.meaning(payload_type)
        if meaning is None:
            return Plan(dropped="unknown-payload-type", drops=1)
        codec, rtx = meaning
        is_audio = codec == Codec.OPUS.value
        if rtx is not stream.rtx or is_audio is not (stream.kind is MediaKind.AUDIO):
            return Plan(dropped="wrong-payload-type", drops=1)
        groups: dict[Renumbering, list[Send]] = {}
        unsupported = 0
        for receiver in self._participants.receivers(stream):
            number = receiver.media.payload_type(codec, rtx=rtx)
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
