"""A WebRTC client's own SSRCs and those that Ready gave to it. Sans-I/O.

Spec: userdoccers, "Voice Connections" (WebRTC); RFC 3550 section 6, RFC 4585, RFC 5104.

Browsers choose SSRCs at random and name them in ops 5 and 12, but everybody else derives a
user's streams from Ready: audio N, video N+1, its retransmissions N+2. So packets are renamed
where they enter, and feedback about the client's streams is renamed back where it leaves. There
is one map per leg, and it only ever gives out SSRCs of that leg: whatever a client names, it
speaks for its own streams.

A client may go on under another SSRC, whose sequence numbers begin anywhere, as stacks do that
send the next picture by another transceiver (Chromium keeps both). Under the one SSRC of Ready
they go on where the last ones ended, for SRTP on the way to others could not follow a jump back
(RFC 3711 section 3.3.1). Retransmissions, and requests for them, are renumbered likewise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedPacket
from discord_rtc.rtp.feedback import (
    FORMAT_AFB,
    FORMAT_FIR,
    FORMAT_NACK,
    PAYLOAD_SPECIFIC_FEEDBACK,
    TRANSPORT_LAYER_FEEDBACK,
)
from discord_rtc.rtp.packet import header_length
from discord_rtc.rtp.rtcp import (
    GOODBYE,
    RECEIVER_REPORT,
    SENDER_REPORT,
    SOURCE_DESCRIPTION,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from discord_rtc.server.leg_media import LegSsrcs

_APPLICATION, _EXTENDED_REPORT = 204, 207  # RFC 3550 section 6.7, RFC 3611 section 2
_BLOCK_SIZE, _SENDER_INFO_SIZE = 24, 20  # RFC 3550 section 6.4.1
_NO_SSRC = 0  # "I have none", in op 12

_NAMES_ITS_SENDER = frozenset(
    {
        SENDER_REPORT,
        RECEIVER_REPORT,
        _APPLICATION,
        TRANSPORT_LAYER_FEEDBACK,
        PAYLOAD_SPECIFIC_FEEDBACK,
        _EXTENDED_REPORT,
    }
)
"""Types that begin with the SSRC of who sends them."""


class _Numbers:
    """Lets the sequence numbers of one SSRC of Ready go on when the client changes its own."""

    __slots__ = ("_highest", "_source", "shift")

    def __init__(self) -> None:
        self.shift = 0  # what is added to the client's numbers
        self._source = b""
        self._highest = 0

    def follow(self, source: bytes, sequence: int) -> int:
        """Take note of a packet of the client; its number in the room."""
        if source == self._source:
            number = (sequence + self.shift) & 0xFFFF
            if (number - self._highest) & 0x8000 == 0:
                self._highest = number
            return number
        if self._source:
            self.shift = (self._highest + 1 - sequence) & 0xFFFF
        self._source = source
        self._highest = (sequence + self.shift) & 0xFFFF
        return self._highest


class SsrcMap:
    """Renames SSRCs between one WebRTC client and the room.

    Until the client names others, it is taken to use those of Ready, as custom stacks do.

    Args:
        ssrcs: What Ready gave to the session.
    """

    def __init__(self, ssrcs: LegSsrcs) -> None:
        self._ssrcs = ssrcs
        self._named: dict[int, int] = {}  # of Ready to the client's
        self._to_ready: dict[bytes, bytes] = {}
        self._to_client: dict[bytes, bytes] = {}
        self._numbers = {_wire(media): _Numbers() for media in _media_ssrcs(ssrcs)}
        self._repaired = {_wire(rtx): self._numbers[_wire(media)] for media, rtx in ssrcs.video}
        self._rebuild()

    def announce(
        self, audio: int | None = None, video: Sequence[tuple[int, int | None]] = ()
    ) -> None:
        """The client said which SSRCs it sends on (op 5, op 12). It may change its mind.

        Args:
            audio: Its audio SSRC; None or 0 when it said nothing about that.
            video: ``(media SSRC, RTX SSRC)`` of its layers, the best one first. No RTX SSRC
                stands for the media SSRC + 1, a media SSRC of 0 for a layer that is not sent.
                Layers beyond those of Ready are ignored; those not listed stay as they are.
        """
        if audio:
            self._name(self._ssrcs.audio, audio)
        for (ready, ready_rtx), (media, rtx) in zip(self._ssrcs.video, video, strict=False):
            if media == _NO_SSRC:
                continue
            self._name(ready, media)
            following = (media + 1) & 0xFFFFFFFF
            if rtx:
                self._name(ready_rtx, rtx)
            elif following not in self._named.values():
                self._name(ready_rtx, following)
        self._rebuild()

    def inbound_rtp(self, packet: bytes) -> bytes | None:
        """Give one RTP packet of the client its SSRC of Ready, and its sequence number there.

        Returns:
            The packet, the very same one when nothing changes; None when the client has not
            named that SSRC (yet).
        """
        ssrc = packet[8:12]
        ready = self._to_ready.get(ssrc)
        if ready is None:
            return None
        numbers = self._numbers.get(ready)
        if numbers is not None:
            number = numbers.follow(ssrc, packet[2] << 8 | packet[3])
            if numbers.shift:
                return packet[:2] + number.to_bytes(2, "big") + packet[4:8] + ready + packet[12:]
        elif shift := self._repaired[ready].shift:
            packet = _shift_original(packet, shift)
        return packet if ready == ssrc else packet[:8] + ready + packet[12:]

    def inbound_rtcp(self, packet: bytes) -> bytes:
        """Give the client's streams their SSRCs of Ready in one compound RTCP packet of it.

        What it says about the streams of others stays. So does a packet that is malformed.
        """
        return _rename(packet, self._to_ready, _own_fields)

    def outbound_rtcp(self, packet: bytes) -> bytes:
        """Give the client's streams the client's SSRCs in one compound RTCP packet to it.

        What it says about the streams of others stays. The highest sequence number of reports
        does, too: senders look at how it grows.
        """
        if any(numbers.shift for numbers in self._numbers.values()):
            try:
                packet = _shift_nacks(packet, self._numbers)
            except MalformedPacket:
                return packet
        return _rename(packet, self._to_client, _reported_fields)

    def _name(self, ready: int, client: int) -> None:
        # An SSRC means one stream: the latest that it was named for.
        self._named = {of: named for of, named in self._named.items() if named != client}
        self._named[ready] = client

    def _rebuild(self) -> None:
        client = {ready: ready for ready in self._ssrcs} | self._named
        # In this order an SSRC that was named wins over the same number of Ready.
        pairs = sorted(client.items(), key=lambda pair: pair[0] in self._named)
        self._to_ready = {_wire(named): _wire(ready) for ready, named in pairs}
        self._to_client = {_wire(ready): _wire(named) for ready, named in pairs}


def _wire(ssrc: int) -> bytes:
    return ssrc.to_bytes(4, "big")


def _media_ssrcs(ssrcs: LegSsrcs) -> Iterator[int]:
    yield ssrcs.audio
    for media, _ in ssrcs.video:
        yield media


def _shift_original(packet: bytes, shift: int) -> bytes:
    """Renumber the packet that a retransmission repairs (RFC 4588 section 4)."""
    try:
        start = header_length(packet)
    except MalformedPacket:
        return packet
    padding = packet[-1] if packet[0] & 0x20 else 0  # P, RFC 3550 section 5.1
    if len(packet) - padding < start + 2:
        return packet  # a probe: nothing but padding
    original = int.from_bytes(packet[start : start + 2], "big") + shift
    return packet[:start] + (original & 0xFFFF).to_bytes(2, "big") + packet[start + 2 :]


def _shift_nacks(packet: bytes, numbers: Mapping[bytes, _Numbers]) -> bytes:
    """Turn the numbers that the room misses into the client's."""
    shifted = bytearray(packet)
    position = 0
    while position < len(packet):
        part = _part(packet, position)
        stream = numbers.get(part[8:12])
        nack = part[1] == TRANSPORT_LAYER_FEEDBACK and part[0] & 0x1F == FORMAT_NACK
        if nack and stream is not None:
            for offset in range(12, len(part), 4):  # RFC 4585 section 6.2.1: number, mask
                lost = int.from_bytes(part[offset : offset + 2], "big") - stream.shift
                begin = position + offset
                shifted[begin : begin + 2] = (lost & 0xFFFF).to_bytes(2, "big")
        position += len(part)
    return bytes(shifted)


def _rename(
    packet: bytes, names: Mapping[bytes, bytes], fields: Callable[[bytes], Iterable[int]]
) -> bytes:
    """Replace SSRCs; the very same packet when there is none to replace, or no way through it."""
    renamed: bytearray | None = None
    position = 0
    try:
        while position < len(packet):
            part = _part(packet, position)
            for offset in fields(part):
                ssrc = part[offset : offset + 4]
                if len(ssrc) < 4:
                    return packet
                name = names.get(ssrc, ssrc)
                if name != ssrc:
                    renamed = bytearray(packet) if renamed is None else renamed
                    renamed[position + offset : position + offset + 4] = name
            position += len(part)
    except MalformedPacket:
        return packet
    return packet if renamed is None else bytes(renamed)


def _part(packet: bytes, position: int) -> bytes:
    """The packet of a compound that begins there."""
    size = 4 + 4 * int.from_bytes(packet[position + 2 : position + 4], "big")
    part = packet[position : position + size]
    if len(part) < size:
        raise MalformedPacket("RTCP length runs past the end")
    return part


def _own_fields(part: bytes) -> Iterable[int]:
    """Where a packet names the streams of who sends it."""
    count, packet_type = part[0] & 0x1F, part[1]
    if packet_type in _NAMES_ITS_SENDER:
        return (4,)
    if packet_type == GOODBYE:
        return range(4, 4 + 4 * count, 4)
    if packet_type == SOURCE_DESCRIPTION:
        return _chunks(part, count)
    return ()


def _chunks(part: bytes, count: int) -> Iterable[int]:
    """Where the chunks of a source description begin (RFC 3550 section 6.5)."""
    position = 4
    for _ in range(count):
        yield position
        position += 4
        while position < len(part) and part[position]:  # a zero ends the items
            if position + 1 == len(part):
                raise MalformedPacket("source description ends inside an item")
            position += 2 + part[position + 1]
        position += 4 - position % 4


def _reported_fields(part: bytes) -> Iterable[int]:
    """Where a packet names the streams of who receives it."""
    count, packet_type = part[0] & 0x1F, part[1]
    if packet_type in (SENDER_REPORT, RECEIVER_REPORT):
        begin = 8 + (_SENDER_INFO_SIZE if packet_type == SENDER_REPORT else 0)
        return range(begin, begin + _BLOCK_SIZE * count, _BLOCK_SIZE)
    if packet_type not in (TRANSPORT_LAYER_FEEDBACK, PAYLOAD_SPECIFIC_FEEDBACK):
        return ()
    if packet_type == PAYLOAD_SPECIFIC_FEEDBACK and count == FORMAT_FIR:
        return range(12, len(part), 8)
    if packet_type == PAYLOAD_SPECIFIC_FEEDBACK and count == FORMAT_AFB:
        return range(20, 20 + 4 * part[16], 4) if part[12:16] == b"REMB" and part[16:20] else ()
    return (8,)
