"""From a plain packet to a protected datagram and back, for every mode. Sans-I/O.

A mode is a combination of three choices (protocol: "Transport encryption")::

    clear | sealed (body and 16-byte tag) | nonce suffix

* how much stays *clear*: the fixed header with CSRCs, in the ``rtpsize`` modes also the 4-byte
  preamble of the header extension, and always the first 8 bytes of RTCP. All the rest, elements of
  the extension and padding included, is sealed, so unprotecting gives an ordinary packet again;
* which *box* seals, with the clear bytes as additional data if it takes any;
* which *suffix* is appended. The nonce is the suffix followed by zeros.

Without a suffix (``xsalsa20_poly1305``) the nonce is the clear RTP header's first 12 bytes, or
RTCP's first 8. For RTP it is then the caller who keeps nonces unique: two packets that agree in
SSRC, sequence number and timestamp must be the same packet, which a stream with steadily growing
ticks guarantees for 2^26 packets (15 days of audio). For RTCP the mode repeats its nonce with
every report of the same length; nothing can be done about that but to use another mode.

Spec:
    userdoccers, "Voice Connections", encryption modes. RTCP under the discontinued modes is not
    documented anywhere; it follows discord-ext-voice-recv and, for the others, their RTP form.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar, Protocol

from discord_rtc.crypto.replay import ReplayGuard
from discord_rtc.errors import MalformedPacket, RejectedPacket
from discord_rtc.rtp.packet import header_length

if TYPE_CHECKING:
    from collections.abc import Callable

TAG_LENGTH = 16
"""Poly1305 and GCM tags alike."""

RTP_HEADER_LENGTH = 12  # RFC 3550 section 5.1, without CSRCs
RTCP_CLEAR_LENGTH = 8  # RFC 3550 section 6.4.1: header word and sender SSRC

_SEQUENCE_TICKS_SSRC = struct.Struct("!2xHII")  # RFC 3550 section 5.1


class TransportCipher(Protocol):
    """Protects and unprotects the packets of one session; owns its nonces and its replay memory."""

    @property
    def mode(self) -> str:
        """Name of the mode on the wire."""
        ...

    @property
    def overhead(self) -> int:
        """Bytes that protection adds to a packet."""
        ...

    def protect_rtp(self, packet: bytes) -> bytes:
        """Turn a plain RTP packet into a datagram.

        Raises:
            NonceExhausted: The key is used up; a fresh session is needed.
            MalformedPacket: Not an RTP packet.
        """
        ...

    def protect_rtcp(self, packet: bytes) -> bytes:
        """Turn a plain compound RTCP packet into a datagram; raises as `protect_rtp`."""
        ...

    def unprotect_rtp(self, datagram: bytes) -> bytes:
        """Turn a datagram into the plain RTP packet in it, extension and padding included.

        Raises:
            RejectedPacket: ``short``, ``bad-auth``, ``replay``, ``late`` or ``malformed``.
        """
        ...

    def unprotect_rtcp(self, datagram: bytes) -> bytes:
        """Turn a datagram into the plain compound RTCP packet in it.

        Raises:
            RejectedPacket: ``short``, ``bad-auth`` or ``replay``.
        """
        ...


class Box(Protocol):
    """An authenticated cipher with its key."""

    nonce_length: ClassVar[int]
    authenticates_header: ClassVar[bool]

    def seal(self, header: bytes, body: bytes, nonce: bytes) -> bytes:
        """Return body and tag as one string, `TAG_LENGTH` longer than ``body``."""
        ...

    def open(self, header: bytes, sealed: bytes, nonce: bytes) -> bytes:
        """Return the body, or raise RejectedPacket ``bad-auth``."""
        ...


class PacketCipher:
    """The one `TransportCipher`, put together from the three choices of a mode.

    Args:
        mode: Name of the mode on the wire.
        box: Seals and opens.
        clear_length: Length of what stays clear of an RTP packet; raises MalformedPacket.
        next_suffix: Makes the suffix of each packet sent; raises NonceExhausted.
        suffix_length: Bytes of a suffix; 0 when the clear header is the nonce.
    """

    def __init__(
        self,
        mode: str,
        box: Box,
        *,
        clear_length: Callable[[bytes], int],
        next_suffix: Callable[[], bytes],
        suffix_length: int,
    ) -> None:
        self.mode = mode
        self.overhead = TAG_LENGTH + suffix_length
        self._box = box
        self._clear_length = clear_length
        self._next_suffix = next_suffix
        self._suffix_length = suffix_length
        self._nonce_length = box.nonce_length
        self._replays = ReplayGuard()

    def protect_rtp(self, packet: bytes) -> bytes:
        """As `TransportCipher.protect_rtp`."""
        return self._protect(packet, self._clear_length(packet), RTP_HEADER_LENGTH)

    def protect_rtcp(self, packet: bytes) -> bytes:
        """As `TransportCipher.protect_rtcp`."""
        if len(packet) < RTCP_CLEAR_LENGTH:
            raise MalformedPacket("an RTCP packet has at least 8 bytes")
        return self._protect(packet, RTCP_CLEAR_LENGTH, RTCP_CLEAR_LENGTH)

    def unprotect_rtp(self, datagram: bytes) -> bytes:
        """As `TransportCipher.unprotect_rtp`."""
        if len(datagram) < RTP_HEADER_LENGTH + self.overhead:
            raise RejectedPacket("short")
        try:
            clear_length = self._clear_length(datagram)
            packet, nonce = self._unprotect(datagram, clear_length, RTP_HEADER_LENGTH)
            header_length(packet)  # do the words of the extension fit?
        except RejectedPacket:
            raise
        except MalformedPacket:
            raise RejectedPacket("malformed") from None
        if not self._box.authenticates_header:
            # A sequence number that anybody may rewrite proves nothing; the nonce does.
            self._replays.accept_nonce(nonce)
        sequence, ticks, ssrc = _SEQUENCE_TICKS_SSRC.unpack_from(datagram)
        self._replays.accept_rtp(ssrc, sequence, ticks)
        return packet

    def unprotect_rtcp(self, datagram: bytes) -> bytes:
        """As `TransportCipher.unprotect_rtcp`."""
        packet, nonce = self._unprotect(datagram, RTCP_CLEAR_LENGTH, RTCP_CLEAR_LENGTH)
        if not self._suffix_length:
            nonce = datagram[RTCP_CLEAR_LENGTH : RTCP_CLEAR_LENGTH + TAG_LENGTH]
        self._replays.accept_nonce(nonce)
        return packet

    def _protect(self, packet: bytes, clear_length: int, header_length: int) -> bytes:
        clear = packet[:clear_length]
        suffix = self._next_suffix()
        nonce = (suffix or packet[:header_length]).ljust(self._nonce_length, b"\0")
        return clear + self._box.seal(clear, packet[clear_length:], nonce) + suffix

    def _unprotect(
        self, datagram: bytes, clear_length: int, header_length: int
    ) -> tuple[bytes, bytes]:
        sealed_end = len(datagram) - self._suffix_length
        if sealed_end < clear_length + TAG_LENGTH:
            raise RejectedPacket("short")
        clear = datagram[:clear_length]
        nonce = datagram[sealed_end:] or datagram[:header_length]
        body = self._box.open(
            clear, datagram[clear_length:sealed_end], nonce.ljust(self._nonce_length, b"\0")
        )
        return clear + body, nonce
