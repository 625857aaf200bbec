"""Legal but unusual RTP on its way to a user: padding, foreign header extensions, CSRCs. Sans-I/O.

Spec: RFC 3550 sections 5.1 and 5.3.1, RFC 8285.

Discord pads 3 to 15 % of its packets, and receivers that strip padding before the header
extension, or after end-to-end decryption, fail only then and only for some users. A server that
does it on request finds them.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

from discord_rtc.errors import MalformedPacket, UsageError
from discord_rtc.rtp.extensions import ONE_BYTE_PROFILE, build_elements, parse_elements
from discord_rtc.rtp.packet import parse_rtp

MAX_PACKET_SIZE = 1424
"""No packet is made larger than this: 1500 of Ethernet less 48 (IPv6, UDP) less 28 (cipher)."""

OPUS_PAYLOAD_TYPE = 120
"""What Discord calls Opus on every native connection (userdoccers, "Voice Connections")."""

UNASSIGNED_ID = 14
"""A header extension id of the one-byte form that no Discord client knows."""

_PADDING = 0x20  # P bit, RFC 3550 section 5.1
_NUMBERS = struct.Struct("!BBHII")


@dataclass(frozen=True, slots=True)
class Padding:
    """How often packets are padded.

    Attributes:
        probability: That 1 to 255 bytes of padding follow a payload, 0 to 1.
        padding_only: That a packet of nothing but padding follows an audio packet, 0 to 1.

    Raises:
        UsageError: Not a probability.
    """

    probability: float
    padding_only: float = 0.0

    def __post_init__(self) -> None:
        check_probability(self.probability)
        check_probability(self.padding_only)


def check_probability(value: float) -> None:
    """Raise UsageError unless the value is 0 to 1."""
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"{value} is not a probability from 0 to 1")


class Distortion:
    """Distorts the packets of one receiver.

    Packets that are all padding take a sequence number of their own, so what follows in that
    stream is renumbered. That is done to Opus alone, for which nobody sends NACKs: in a stream
    that is retransmitted, receiver and sender would no longer speak of the same numbers.

    Args:
        seed: Same seed, same packets: same outcome.

    Attributes:
        padding: How often to pad, or None. May change at any time; numbering continues.
        headers: Probability of CSRCs and of shuffled and unknown header extensions.
    """

    def __init__(self, seed: int) -> None:
        self.padding: Padding | None = None
        self.headers = 0.0
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._shifts: dict[int, int] = {}  # SSRC to packets inserted so far

    def apply(self, packet: bytes) -> list[bytes]:
        """Distort one plain RTP packet.

        Returns:
            What to send in its place, one or two packets.
        """
        if self._random.random() < self.headers:
            packet = self._unusual_header(packet)
        padding = self.padding
        if padding is not None and self._random.random() < padding.probability:
            packet = self._pad(packet)
        if packet[1] & 0x7F != OPUS_PAYLOAD_TYPE:
            return [packet]
        return self._insert(packet, 0.0 if padding is None else padding.padding_only)

    def _pad(self, packet: bytes) -> bytes:
        room = min(MAX_PACKET_SIZE - len(packet), 255)  # the count is one byte
        if packet[0] & _PADDING or room < 1:
            return packet
        count = self._random.randint(1, room)
        return bytes((packet[0] | _PADDING,)) + packet[1:] + _padding(count)

    def _insert(self, packet: bytes, probability: float) -> list[bytes]:
        _, second, sequence, ticks, ssrc = _NUMBERS.unpack_from(packet)
        shift = self._shifts.get(ssrc, 0)
        sequence += shift
        if shift:
            packet = packet[:2] + (sequence & 0xFFFF).to_bytes(2, "big") + packet[4:]
        if self._random.random() >= probability:
            return [packet]
        self._shifts[ssrc] = shift + 1
        header = _NUMBERS.pack(0x80 | _PADDING, second & 0x7F, (sequence + 1) & 0xFFFF, ticks, ssrc)
        return [packet, header + _padding(self._random.randint(1, 255))]

    def _unusual_header(self, packet: bytes) -> bytes:
        try:
            parsed = parse_rtp(packet)
        except MalformedPacket:
            return packet
        csrcs = tuple(self._random.getrandbits(32) for _ in range(self._random.randint(1, 3)))
        profile, data = parsed.extension_profile, parsed.extension_data
        if profile in (None, ONE_BYTE_PROFILE):
            elements = [*parse_elements(ONE_BYTE_PROFILE, data)]
            elements.append((UNASSIGNED_ID, self._random.randbytes(self._random.randint(1, 16))))
            self._random.shuffle(elements)
            profile, data = build_elements(elements)
        distorted = parsed._replace(csrcs=csrcs, extension_profile=profile, extension_data=data)
        built = distorted.to_bytes()
        return built if len(built) <= MAX_PACKET_SIZE else packet


def _padding(count: int) -> bytes:
    return bytes(count - 1) + bytes((count,))
