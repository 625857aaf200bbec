"""The repair of all video of a room. Sans-I/O. Spec: RFC 4585 section 6.2.1, RFC 4588."""

from __future__ import annotations

from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedPacket
from discord_rtc.rtp.extensions import (
    ONE_BYTE_PROFILE,
    REPAIRED_RID,
    RID,
    build_elements,
    parse_elements,
)
from discord_rtc.rtp.feedback import Nack
from discord_rtc.rtp.history import original_sequence, unwrap_rtx, wrap_rtx
from discord_rtc.rtp.packet import parse_rtp
from discord_rtc.server.leg_media import Renumbering
from discord_rtc.server.repair import KEPT_PACKETS

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from discord_rtc.rtp.packet import RtpPacket
    from discord_rtc.server.leg_media import LegMedia
    from discord_rtc.server.repair import Resends, StreamRepair
    from discord_rtc.server.streams import Participant, Participants, Stream

_MOST_NUMBERS = 250  # per NACK: 12 + 250 x 4 bytes when none are neighbours


class Repairs:
    """Asks senders for what the room misses, and sends again what receivers miss.

    Args:
        participants: Of the room.
        counters: Of the room.
        ssrc: Sender SSRC of what the room itself says.
    """

    def __init__(self, participants: Participants, counters: Counter[str], ssrc: int) -> None:
        self._participants = participants
        self._counters = counters
        self._ssrc = ssrc
        self._waiting: dict[int, tuple[Stream, StreamRepair]] = {}  # by SSRC: packets are missing

    def received(
        self, stream: Stream, sequence: int, number: int | None, packet: bytes, now: float
    ) -> bool:
        """Take note of a packet of a video stream.

        Args:
            stream: The stream, not its retransmissions.
            sequence: As on the wire.
            number: As extended by the stream; None when it is not to be believed.
            packet: Kept as it is.
            now: Monotonic seconds.

        Returns:
            False for a packet that was received or restored before.
        """
        repair = stream.repair
        assert repair is not None
        if not repair.keep(sequence, packet, now):
            self._counters["duplicate"] += 1
            return False
        if number is not None and not repair.received(number, now):
            self._counters["gap-too-large"] += 1
        if repair.next_timeout() is not None:
            self._waiting[stream.ssrc] = (stream, repair)
            self._ask(stream, repair, now)
        return True

    def restore(self, stream: Stream, payload_type: int, packet: bytes, now: float) -> bytes | None:
        """Make the original of a retransmission that came from the sender.

        Args:
            stream: Whose packet was sent again.
            payload_type: Of the original packet.
            packet: The retransmission.
            now: Monotonic seconds.

        Returns:
            The original packet; None when the room does not miss it, or there is none.
        """
        repair = stream.repair
        assert repair is not None
        try:
            retransmission = parse_rtp(packet)
        except MalformedPacket:
            self._counters["malformed"] += 1
            return None
        sequence = original_sequence(retransmission)
        if sequence is None:
            self._counters["probes"] += 1
            return None
        if not repair.restores(sequence, now):
            self._counters["rtx-unneeded"] += 1
            return None
        original = unwrap_rtx(retransmission, stream.ssrc, payload_type)
        restored = _with_rid(original, stream.owner.media).to_bytes()
        repair.keep(sequence, restored, now)
        self._counters["restored"] += 1
        return restored

    def send_again(
        self, stream: Stream, receiver: Participant, lost: Iterable[int], now: float
    ) -> None:
        """A receiver misses packets of a stream."""
        repair = stream.repair
        assert repair is not None
        resends = repair.resends(receiver.leg.leg_id)
        for sequence in islice(dict.fromkeys(lost), KEPT_PACKETS):
            packet = repair.find(sequence, now)
            if packet is None:
                # Gone; or the room misses it too, and will forward it when it comes.
                self._counters["nack-not-kept"] += 1
            elif not resends.allow(sequence, now):
                self._counters["nack-too-soon"] += 1
            elif receiver.resent.exceeded(now):
                self._counters["nack-too-much"] += 1
            else:
                again = self._again(stream, receiver.media, packet, resends)
                if again is not None:
                    self._counters["sent-again"] += 1
                    receiver.leg.send_rtp(again, now)

    def forget(self, stream: Stream) -> None:
        """A stream has ended; it may begin again with any number."""
        self._waiting.pop(stream.ssrc, None)
        if stream.repair is not None:
            stream.repair.reset()

    def forget_receiver(self, leg_id: int) -> None:
        """A receiver is gone."""
        for participant in self._participants:
            for stream in participant.streams:
                if stream.repair is not None:
                    stream.repair.forget_receiver(leg_id)

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called; infinity for never."""
        due = (repair.next_timeout() for _, repair in self._waiting.values())
        return min((at for at in due if at is not None), default=inf)

    def handle_timeout(self, now: float) -> None:
        """Ask for what is still missing."""
        for stream, repair in tuple(self._waiting.values()):
            self._ask(stream, repair, now)
            if repair.next_timeout() is None:
                self._waiting.pop(stream.ssrc, None)

    def _ask(self, stream: Stream, repair: StreamRepair, now: float) -> None:
        lost = repair.due(now)
        if not lost:
            return
        if not self._participants.receivers(stream):
            repair.forget_missing()
            return
        self._counters["nacked"] += len(lost)
        for begin in range(0, len(lost), _MOST_NUMBERS):
            nack = Nack(self._ssrc, stream.ssrc, tuple(lost[begin : begin + _MOST_NUMBERS]))
            stream.owner.leg.send_rtcp(nack.to_bytes(), now)

    def _again(
        self, stream: Stream, receiver: LegMedia, packet: bytes, resends: Resends
    ) -> bytes | None:
        """A kept packet as a receiver gets it for the second time."""
        sender = stream.owner.media
        codec, _ = sender.meaning(packet[1] & 0x7F) or ("", False)
        payload_type = receiver.payload_type(codec, rtx=False)
        if payload_type is None:
            self._counters["codec-not-supported"] += 1
            return None
        rtx_payload_type = receiver.payload_type(codec, rtx=True)
        try:
            packet = Renumbering.between(sender, receiver, payload_type).apply(packet)
            if rtx_payload_type is None:
                if not receiver.srtp:
                    return packet
                # SRTP protects a sequence number once, so that only RTX can repair.
                self._counters["rtx-not-supported"] += 1
                return None
            rtx = wrap_rtx(parse_rtp(packet), stream.rtx_ssrc, rtx_payload_type, resends.number())
            return rtx.to_bytes()
        except MalformedPacket:
            self._counters["malformed"] += 1
            return None


def _with_rid(packet: RtpPacket, sender: LegMedia) -> RtpPacket:
    """Retransmissions name their layer under another id (RFC 8852 section 3.2)."""
    rid, repaired = (sender.extension_ids.get(uri) for uri in (RID, REPAIRED_RID))
    if rid is None or repaired is None or packet.extension_profile != ONE_BYTE_PROFILE:
        return packet
    elements = parse_elements(ONE_BYTE_PROFILE, packet.extension_data)
    renamed = ((rid if ident == repaired else ident, value) for ident, value in elements)
    profile, data = build_elements(renamed)
    return packet._replace(extension_profile=profile, extension_data=data)
