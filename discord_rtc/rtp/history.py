"""Sent packets, kept to be sent again, and the form in which they are. Sans-I/O.

Spec: RFC 4588. A retransmission belongs to a stream of its own, *RTX*, with its own SSRC,
payload type and sequence numbers. Ticks, marker and header extension are those of the original
packet, whose sequence number stands in front of the payload.
"""

from __future__ import annotations

import struct
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from discord_rtc.rtp.packet import RtpPacket

HISTORY_PACKETS = 1024
"""Per stream; a second of 10 Mbit/s. Discord's clients keep 500 to 1000, libwebrtc 600."""
HISTORY_BYTES = 2 << 20
"""Per stream; limits the number where packets are large."""
HISTORY_SECONDS = 2.0
"""libwebrtc keeps packets for one second or three round trips; whoever asks later than this
shows another picture by now."""
LEAST_SPACING, LARGEST_SPACING = 0.020, 0.250
"""Seconds between two retransmissions of one packet, whatever the round-trip time: receivers ask
every 20 ms at most (libwebrtc's interval), and a false report must not end all repair."""
_SPACING_RTTS = 0.75
"""Of the round-trip time: who asks again after exactly one is not refused for a millisecond."""

OSN_SIZE = 2
"""Bytes that a retransmission is longer than the original packet."""
_OSN = struct.Struct("!H")
_PROFILE = struct.Struct("!HH")  # and length, in front of header extensions (RFC 3550 5.3.1)


def wrap_rtx(original: RtpPacket, ssrc: int, payload_type: int, sequence: int) -> RtpPacket:
    """Make a retransmission of a packet, with the numbers of the RTX stream.

    Spec:
        RFC 4588 section 4: padding is removed, everything else in the header is kept.
    """
    return original._replace(
        payload_type=payload_type,
        sequence=sequence,
        ssrc=ssrc,
        payload=_OSN.pack(original.sequence) + original.payload,
        padding=b"",
    )


def original_sequence(retransmission: RtpPacket) -> int | None:
    """Sequence number of the packet that is sent again; None for a probe, which carries none.

    Senders probe the bandwidth with RTX packets that are all padding.
    """
    payload = retransmission.payload
    return None if len(payload) < OSN_SIZE else payload[0] << 8 | payload[1]


def unwrap_rtx(retransmission: RtpPacket, ssrc: int, payload_type: int) -> RtpPacket:
    """Make the original packet again, with the numbers of its own stream.

    Args:
        retransmission: Not a probe.
        ssrc: Of the original stream.
        payload_type: Of the original stream.
    """
    return retransmission._replace(
        payload_type=payload_type,
        sequence=_OSN.unpack_from(retransmission.payload)[0],
        ssrc=ssrc,
        payload=retransmission.payload[OSN_SIZE:],
        padding=b"",
    )


class Retransmitter:
    """Numbers the retransmissions of one stream.

    Args:
        ssrc: Of the retransmissions.
        payload_type: Of the retransmissions.
        first: Their first sequence number.
        extension: Their whole header extension, or nothing. It is that of the stream, but for
            how the layer is named (RFC 8852 section 3.2).
    """

    def __init__(self, ssrc: int, payload_type: int, first: int, extension: bytes) -> None:
        self._ssrc = ssrc
        self._payload_type = payload_type
        self._sequence = first
        self._profile = _PROFILE.unpack_from(extension)[0] if extension else None
        self._elements = extension[_PROFILE.size :]

    def packet(self, original: RtpPacket) -> bytes:
        """Make the next retransmission."""
        again = wrap_rtx(original, self._ssrc, self._payload_type, self._sequence)
        self._sequence = (self._sequence + 1) & 0xFFFF
        again = again._replace(extension_profile=self._profile, extension_data=self._elements)
        return again.to_bytes()


class History:
    """The latest packets of one sent stream.

    Bounded in packets, bytes and time: a new packet takes the place of the one a fixed number
    before it, and who is too old is not found.

    Args:
        max_packet_size: Largest packet in bytes that will be kept.
        drops: Where requests are counted that get nothing: ``rtx-not-kept``, ``rtx-too-soon``.
    """

    def __init__(self, max_packet_size: int, drops: Counter[str]) -> None:
        slots = HISTORY_PACKETS
        while slots * max_packet_size > HISTORY_BYTES:
            slots //= 2  # a power of two, so that places are still fixed when numbers wrap
        self._mask = slots - 1
        # Sequence number, when it was kept, when it was sent again, packet.
        self._slots: list[tuple[int, float, float, bytes] | None] = [None] * slots
        self._drops = drops

    @property
    def bound(self) -> int:
        """Most packets that are kept."""
        return self._mask + 1

    def keep(self, first: int, packets: Iterable[bytes], now: float) -> None:
        """Keep the packets of one frame.

        Args:
            first: Sequence number of the first one, 16 bits; the others follow.
            packets: As they are sent.
            now: When.
        """
        slots, mask = self._slots, self._mask
        for sequence, packet in enumerate(packets, first):
            slots[sequence & mask] = (sequence & 0xFFFF, now, -inf, packet)

    def find(self, sequence: int, now: float, rtt: float | None) -> bytes | None:
        """The packet with that number, unless it is gone or was sent again just now.

        Args:
            sequence: 16 bits.
            now: Time of the request.
            rtt: Round-trip time to the receiver; None when it is not known.
        """
        kept = self._slots[sequence & self._mask]
        if kept is None or kept[0] != sequence or now - kept[1] > HISTORY_SECONDS:
            self._drops["rtx-not-kept"] += 1
            return None
        spacing = min(max((rtt or 0.0) * _SPACING_RTTS, LEAST_SPACING), LARGEST_SPACING)
        if now < kept[2] + spacing:
            self._drops["rtx-too-soon"] += 1
            return None
        return kept[3]

    def clear(self) -> None:
        """Forget all packets."""
        self._slots = [None] * self.bound

    def sent_again(self, sequence: int, now: float) -> None:
        """Take note that a packet that was found is being sent again."""
        kept = self._slots[sequence & self._mask]
        assert kept is not None
        self._slots[sequence & self._mask] = (kept[0], kept[1], now, kept[3])
