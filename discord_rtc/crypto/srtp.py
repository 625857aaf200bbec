"""SRTP: protects RTP and RTCP under keys from DTLS, by libsrtp. Sans-I/O. Spec: RFC 3711, RFC 7714.

One libsrtp session per direction, with one policy for every SSRC; it makes a stream (index,
rollover counter, replay window) when an SSRC is first protected, or first *authenticated*, so
forged packets leave nothing behind. What follows from SRTP's implicit packet index, and is not so
with the ``aead_*_rtpsize`` modes:

* **A sequence number is protected once.** Index and key make the nonce, so a second packet under
  the same number would give the key stream away (with GCM, the authentication key as well).
  libsrtp refuses, and ``allow_repeat_tx`` stays off: to send something again, keep the datagram or
  use RTX, which has numbers of its own. Duplicates on the way in are dropped before they come here.
* **Reordered packets** are protected if fewer than `WINDOW` numbers late, which is also what the
  receiver accepts. Later ones, and a stream that jumps back, are refused until it passes its old
  number; a jump of more than 2^15 cannot be told from one.
* **The rollover counter is not on the wire**; both ends count wraps from 0 with the first packet
  they see. A packet from *before* the first one, over the wrap, libsrtp takes for a jump to the end
  of the numbers; the next packet is a wrap then, and a receiver who lost the one between could read
  nothing of the stream from there on. It is refused. (For a like reason RFC 3711 section 3.3.1 has
  streams begin below 2^15: else a receiver who loses all up to the first wrap is lost as well.)
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal

import pylibsrtp

from discord_rtc.errors import MalformedPacket, NonceExhausted, RejectedPacket
from discord_rtc.rtp.packet import FIXED_HEADER_SIZE, header_length

if TYPE_CHECKING:
    from collections.abc import Callable

Side = Literal["client", "server"]
"""Role in the DTLS handshake; says whose key is whose."""

WINDOW = 1024
"""Packets that may be overtaken, as in `replay`."""

MAX_SSRCS = 4096
"""Streams per direction: 2 MB, and 3 us per packet to find one. Past them a receiver forgets the
longest silent one. A sender may forget none, as its index would begin again under the same key: a
fresh key is needed."""

MAX_PACKET = 1500 - 144
"""Longest plain packet: pylibsrtp 1.0 keeps SRTP_MAX_TRAILER_LEN free in a buffer of 1500 bytes."""

MAX_RTCP_PACKET = MAX_PACKET - 4  # the same with the SRTCP index

REJECTIONS = {
    "authentication failure": "bad-auth",
    "cipher failure": "bad-auth",  # GCM over no payload at all
    # SRTCP whose E bit says that it is not encrypted; RFC 3711 section 3.4 puts it under the tag
    "unable to perform desired validation": "bad-auth",
    "replay check failed (bad index)": "replay",
    "replay check failed (index too old)": "late",
    "packet index is too old to consider": "late",
}
"""What libsrtp says of a datagram, and the reason that is counted for it."""

_KEY_EXPIRED = "can't use key any more"  # RFC 3711 section 9.2: 2^48 RTP or 2^31 RTCP packets
_RTCP_HEADER = 8  # RFC 3550 section 6.4.1: header word and sender SSRC
_SRTCP_INDEX = 4  # RFC 3711 section 3.4
_UNSTARTED, _GROWN = -2, -1  # no sequence numbers
_HALF = 0x8000  # of the sequence numbers: what is further ahead is behind


class SrtpProfile(Enum):
    """Protection profiles, the preferred one first.

    Attributes:
        key_length: Bytes of a master key.
        salt_length: Bytes of a master salt.
        tag_length: Bytes that a packet grows.
        libsrtp: Number of the profile in libsrtp.

    Spec:
        RFC 5764 section 4.1.2 (SHA1_80), RFC 7714 sections 12 and 14.2 (AEAD).
    """

    AEAD_AES_256_GCM = (32, 12, 16, pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_256_GCM)
    AEAD_AES_128_GCM = (16, 12, 16, pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_128_GCM)
    AES128_CM_SHA1_80 = (16, 14, 10, pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80)

    def __init__(self, key_length: int, salt_length: int, tag_length: int, libsrtp: int) -> None:
        self.key_length = key_length
        self.salt_length = salt_length
        self.tag_length = tag_length
        self.libsrtp = libsrtp

    @property
    def openssl_name(self) -> str:
        """Name in OpenSSL's lists for ``use_srtp``."""
        return f"SRTP_{self.name}"


@dataclass(frozen=True, slots=True)
class SrtpKeys:
    """What both ends of a DTLS handshake agreed on.

    Attributes:
        profile: How packets are protected.
        client: Master key and master salt, one after the other, of what the DTLS client sends.
        server: The same of what the DTLS server sends.
    """

    profile: SrtpProfile
    client: bytes = field(repr=False)
    server: bytes = field(repr=False)

    @classmethod
    def from_exported(cls, profile: SrtpProfile, material: bytes) -> SrtpKeys:
        """Take apart what the TLS exporter gave: client's and server's key, then both salts.

        Spec:
            RFC 5764 section 4.2.
        """
        key, salt = profile.key_length, profile.salt_length
        keys, salts = material[: 2 * key], material[2 * key :]
        return cls(profile, keys[:key] + salts[:salt], keys[key:] + salts[salt:])


class SrtpCipher:
    """Protects and unprotects the packets of one WebRTC path; a `TransportCipher`.

    Args:
        keys: From the handshake.
        side: Our role in it.
    """

    def __init__(self, keys: SrtpKeys, *, side: Side) -> None:
        profile = keys.profile
        ours, theirs = keys.client, keys.server
        if side == "server":
            ours, theirs = theirs, ours
        self.mode = profile.name
        self.overhead = profile.tag_length
        self._rtcp_minimum = _RTCP_HEADER + _SRTCP_INDEX + profile.tag_length
        self._sending = _session(profile, ours, pylibsrtp.Policy.SSRC_ANY_OUTBOUND)
        self._receiving = _session(profile, theirs, pylibsrtp.Policy.SSRC_ANY_INBOUND)
        # Per sent stream: the newest sequence number while there may be packets from before it all.
        self._newest: dict[bytes, int] = {}
        self._heard: OrderedDict[bytes, None] = OrderedDict()

    def protect_rtp(self, packet: bytes) -> bytes:
        """As `TransportCipher.protect_rtp`.

        Raises:
            NonceExhausted: The key or the number of streams is used up; a fresh session is needed.
            MalformedPacket: Not an RTP packet, longer than `MAX_PACKET`, or with a sequence number
                that was used before, is too old, or lies before the stream's first.
        """
        header_length(packet)  # libsrtp would take another version too
        if len(packet) > MAX_PACKET:
            raise MalformedPacket(f"longer than {MAX_PACKET} bytes")
        ssrc = packet[8:12]
        if self._newest.get(ssrc) != _GROWN:
            self._follow_young(ssrc, packet[2] << 8 | packet[3])
        return _protect(self._sending.protect, packet)

    def protect_rtcp(self, packet: bytes) -> bytes:
        """As `TransportCipher.protect_rtcp`; at most `MAX_RTCP_PACKET` bytes."""
        if not _RTCP_HEADER <= len(packet) <= MAX_RTCP_PACKET:
            raise MalformedPacket(f"RTCP has {_RTCP_HEADER} to {MAX_RTCP_PACKET} bytes")
        self._admit(packet[4:8])
        return _protect(self._sending.protect_rtcp, packet)

    def unprotect_rtp(self, datagram: bytes) -> bytes:
        """As `TransportCipher.unprotect_rtp`."""
        if len(datagram) < FIXED_HEADER_SIZE + self.overhead:
            raise RejectedPacket("short")
        try:
            header = header_length(datagram)  # all of it stays clear
        except MalformedPacket:
            raise RejectedPacket("malformed") from None
        if len(datagram) < header + self.overhead:
            raise RejectedPacket("short")
        packet = _unprotect(self._receiving.unprotect, datagram)
        self._hear(datagram[8:12])
        return packet

    def unprotect_rtcp(self, datagram: bytes) -> bytes:
        """As `TransportCipher.unprotect_rtcp`."""
        if len(datagram) < self._rtcp_minimum:
            raise RejectedPacket("short")
        packet = _unprotect(self._receiving.unprotect_rtcp, datagram)
        self._hear(datagram[4:8])
        return packet

    def _admit(self, ssrc: bytes) -> None:
        if ssrc in self._newest:
            return
        if len(self._newest) == MAX_SSRCS:
            raise NonceExhausted
        self._newest[ssrc] = _UNSTARTED

    def _follow_young(self, ssrc: bytes, sequence: int) -> None:
        """Refuse a packet from before the first one of its stream, over the wrap.

        From the middle of the numbers on, libsrtp does it.
        """
        self._admit(ssrc)
        newest = self._newest[ssrc]
        if newest != _UNSTARTED and sequence - newest > _HALF:
            raise MalformedPacket("older than the first packet of its stream")
        newest = max(newest, sequence)
        self._newest[ssrc] = newest if newest < _HALF else _GROWN

    def _hear(self, ssrc: bytes) -> None:
        """Note whose packet was authentic; forget the longest silent stream if there are too many.

        What was forgotten begins with a fresh rollover counter and an empty replay window.
        """
        heard = self._heard
        if ssrc in heard:
            heard.move_to_end(ssrc)
            return
        heard[ssrc] = None
        if len(heard) > MAX_SSRCS:
            silent, _ = heard.popitem(last=False)
            self._receiving.remove_stream(int.from_bytes(silent, "big"))


def _session(profile: SrtpProfile, key: bytes, direction: int) -> pylibsrtp.Session:
    policy = pylibsrtp.Policy(key=key, ssrc_type=direction, srtp_profile=profile.libsrtp)
    policy.window_size = WINDOW
    return pylibsrtp.Session(policy)


def _protect(protect: Callable[[bytes], bytes], packet: bytes) -> bytes:
    try:
        return protect(packet)
    except pylibsrtp.Error as error:
        raise protect_failure(str(error)) from None


def _unprotect(unprotect: Callable[[bytes], bytes], datagram: bytes) -> bytes:
    try:
        return unprotect(datagram)
    except (pylibsrtp.Error, ValueError) as error:  # ValueError: longer than 1500 bytes
        raise RejectedPacket(REJECTIONS.get(str(error), "malformed")) from None


def protect_failure(text: str) -> MalformedPacket | NonceExhausted:
    """Translate what libsrtp says when it does not protect a packet."""
    return NonceExhausted() if text == _KEY_EXPIRED else MalformedPacket(text)
