"""Binding messages of STUN as ICE uses them. Sans-I/O. Spec: RFC 8489; RFC 8445 section 16.

Reading is strict about form and knows only what ICE needs. Duplicates of an attribute and what
follows MESSAGE-INTEGRITY, except FINGERPRINT, do not count (RFC 8489 sections 14 and 14.5).
Writing always ends in FINGERPRINT (RFC 8445 section 7.1), so checks and media can be told apart.
"""

from __future__ import annotations

import hmac
import ipaddress
import struct
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias
from zlib import crc32

from discord_rtc.errors import MalformedPacket

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Address: TypeAlias = tuple[str, int]

BINDING = 0x001
"""The only method that ICE knows."""

TRANSACTION_ID_LENGTH = 12
"""Bytes of a transaction id, which is random."""

MAX_ATTRIBUTES = 32
"""Attributes that one message may have. Browsers send about ten; more are work for nothing."""

_USERNAME = 0x0006
_MESSAGE_INTEGRITY = 0x0008
_ERROR_CODE = 0x0009
_UNKNOWN_ATTRIBUTES = 0x000A
_XOR_MAPPED_ADDRESS = 0x0020
_PRIORITY = 0x0024
_USE_CANDIDATE = 0x0025
_FINGERPRINT = 0x8028
_ICE_CONTROLLED = 0x8029
_ICE_CONTROLLING = 0x802A

_OPTIONAL = 0x8000  # attribute types from here on may be ignored, RFC 8489 14
_UNDERSTOOD = frozenset(
    (
        _USERNAME,
        _MESSAGE_INTEGRITY,
        _ERROR_CODE,
        _UNKNOWN_ATTRIBUTES,
        _XOR_MAPPED_ADDRESS,
        _PRIORITY,
        _USE_CANDIDATE,
    )
)

_COOKIE = 0x2112A442
_COOKIE_BYTES = _COOKIE.to_bytes(4, "big")
_HEADER = struct.Struct("!HHI12s")
_HEADER_LENGTH = 20
_ATTRIBUTE = struct.Struct("!HH")
_ADDRESS = struct.Struct("!BBH")
_IPV4, _IPV6 = 1, 2  # address families, RFC 8489 14.1
_INTEGRITY_LENGTH = 20  # HMAC-SHA1
_FINGERPRINT_XOR = 0x5354554E  # "STUN", RFC 8489 14.7
_REQUEST_TYPE = BINDING.to_bytes(2, "big")

_PHRASES = {
    400: "Bad Request",
    401: "Unauthenticated",
    420: "Unknown Attribute",
    487: "Role Conflict",
}


class MessageClass(Enum):
    """What a message is; the value is its two bits within the message type (RFC 8489 5)."""

    REQUEST = 0x000
    INDICATION = 0x010
    SUCCESS = 0x100
    ERROR = 0x110


_CLASSES = {member.value: member for member in MessageClass}


@dataclass(frozen=True, slots=True)
class StunMessage:
    """One message as it was received.

    Attributes:
        message_class: Request, indication, success or error.
        method: `BINDING`, or something that ICE does not use.
        transaction_id: Twelve bytes that the request chose.
        attributes: Type to value of everything that counts, undecoded.
        username: ``receiver's ufrag:sender's ufrag``.
        priority: Of the peer-reflexive candidate that the check could make known.
        use_candidate: Whether the controlling side nominates this pair.
        controlling: Tie-breaker of a sender in the controlling role.
        controlled: Tie-breaker of a sender in the controlled role.
        xor_mapped_address: Where the request came from, as its receiver saw it.
        error_code: 300 to 699 with an error, None with anything else.
        unknown: Types that a receiver must understand, but this one does not.
        signed: What MESSAGE-INTEGRITY was computed over; None without one.
    """

    message_class: MessageClass
    method: int
    transaction_id: bytes
    attributes: Mapping[int, bytes] = field(repr=False)
    username: str | None = None
    priority: int | None = None
    use_candidate: bool = False
    controlling: int | None = None
    controlled: int | None = None
    xor_mapped_address: Address | None = None
    error_code: int | None = None
    unknown: tuple[int, ...] = ()
    signed: bytes | None = field(default=None, repr=False)

    def authentic(self, password: str) -> bool:
        """Whether its MESSAGE-INTEGRITY was made with this password; False without one."""
        if self.signed is None:
            return False
        expected = hmac.digest(password.encode(), self.signed, "sha1")
        return hmac.compare_digest(expected, self.attributes[_MESSAGE_INTEGRITY])


def is_stun(datagram: bytes) -> bool:
    """Whether a datagram is meant as STUN: its first byte (RFC 7983), its length, its cookie."""
    return len(datagram) >= _HEADER_LENGTH and datagram[0] < 4 and datagram[4:8] == _COOKIE_BYTES


def requested_ufrag(datagram: bytes) -> str | None:
    """Whom a Binding request is for: the part of its USERNAME that the receiver chose.

    Only a look, to find the receiver among many; nothing else of the message is checked.

    Returns:
        The user name fragment, or None when it is no Binding request or names nobody.
    """
    if not is_stun(datagram) or not datagram.startswith(_REQUEST_TYPE):
        return None
    position, end = _HEADER_LENGTH, len(datagram)
    for _ in range(MAX_ATTRIBUTES):
        if position + 4 > end:
            break
        kind, length = _ATTRIBUTE.unpack_from(datagram, position)
        if kind == _USERNAME:
            receiver, colon, _ = datagram[position + 4 : position + 4 + length].partition(b":")
            # ice-chars are ASCII; anything else is nobody's
            return receiver.decode() if colon and receiver.isascii() else None
        position += 4 + (length + 3 & ~3)
    return None


def parse_stun(datagram: bytes) -> StunMessage:
    """Read a message. Its integrity is not checked here, as that needs a password.

    Raises:
        MalformedPacket: Not STUN, or a FINGERPRINT that does not fit.
    """
    if not is_stun(datagram):
        raise MalformedPacket("not STUN")
    message_type, length, _, transaction_id = _HEADER.unpack_from(datagram)
    if length != len(datagram) - _HEADER_LENGTH or length & 3:
        raise MalformedPacket("STUN message of another length than its header says")
    attributes, signed = _split(datagram)
    username = attributes.get(_USERNAME)
    mapped = attributes.get(_XOR_MAPPED_ADDRESS)
    message_class = _CLASSES[message_type & 0x110]
    failed = message_class is MessageClass.ERROR
    return StunMessage(
        message_class=message_class,
        method=message_type & 0xF | message_type >> 1 & 0x70 | message_type >> 2 & 0xF80,
        transaction_id=transaction_id,
        attributes=attributes,
        username=None if username is None else _parse_text(username),
        priority=_number(attributes, _PRIORITY, 4),
        use_candidate=_number(attributes, _USE_CANDIDATE, 0) is not None,
        controlling=_number(attributes, _ICE_CONTROLLING, 8),
        controlled=_number(attributes, _ICE_CONTROLLED, 8),
        xor_mapped_address=None if mapped is None else _parse_address(mapped, transaction_id),
        error_code=_parse_error(attributes.get(_ERROR_CODE, b"")) if failed else None,
        unknown=tuple(kind for kind in attributes if kind < _OPTIONAL and kind not in _UNDERSTOOD),
        signed=signed,
    )


def _split(datagram: bytes) -> tuple[dict[int, bytes], bytes | None]:
    """The attributes that count, and what MESSAGE-INTEGRITY covers."""
    attributes: dict[int, bytes] = {}
    signed = None
    position, end = _HEADER_LENGTH, len(datagram)
    for _ in range(MAX_ATTRIBUTES):
        if position == end:
            return attributes, signed
        kind, length = _ATTRIBUTE.unpack_from(datagram, position)
        start, position = position, position + 4 + (length + 3 & ~3)
        if position > end:
            raise MalformedPacket("STUN attribute behind the end of its message")
        value = datagram[start + 4 : start + 4 + length]
        if kind == _FINGERPRINT:
            expected = crc32(datagram[:start]) ^ _FINGERPRINT_XOR
            if value != expected.to_bytes(4, "big") or position != end:
                raise MalformedPacket("STUN message with a wrong FINGERPRINT")
        elif signed is None:
            if kind == _MESSAGE_INTEGRITY:
                if length != _INTEGRITY_LENGTH:
                    raise MalformedPacket("STUN MESSAGE-INTEGRITY of a wrong length")
                # with the length as it was when nothing followed, RFC 8489 14.5
                covered = (position - _HEADER_LENGTH).to_bytes(2, "big")
                signed = datagram[:2] + covered + datagram[4:start]
            attributes.setdefault(kind, value)
    if position == end:
        return attributes, signed
    raise MalformedPacket("STUN message with too many attributes")


def _number(attributes: Mapping[int, bytes], kind: int, length: int) -> int | None:
    value = attributes.get(kind)
    if value is None:
        return None
    if len(value) != length:
        raise MalformedPacket(f"STUN attribute {kind:#06x} of a wrong length")
    return int.from_bytes(value, "big")


def _parse_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MalformedPacket("STUN USERNAME that is not UTF-8") from None


def _parse_error(value: bytes) -> int:
    # two reserved bytes, hundreds in three bits, the rest, a phrase; RFC 8489 14.8
    if len(value) < 4 or not 3 <= value[2] & 7 <= 6 or value[3] > 99:
        raise MalformedPacket("STUN ERROR-CODE without an error code")
    return (value[2] & 7) * 100 + value[3]


def _parse_address(value: bytes, transaction_id: bytes) -> Address:
    if len(value) >= 4:
        _, family, port = _ADDRESS.unpack_from(value)
        port ^= _COOKIE >> 16
        number = int.from_bytes(value[4:], "big")
        if family == _IPV4 and len(value) == 8:
            return str(ipaddress.IPv4Address(number ^ _COOKIE)), port
        if family == _IPV6 and len(value) == 20:
            mask = int.from_bytes(_COOKIE_BYTES + transaction_id, "big")
            return str(ipaddress.IPv6Address(number ^ mask)), port
    raise MalformedPacket("STUN XOR-MAPPED-ADDRESS without an IP address")


def _build_address(address: Address, transaction_id: bytes) -> bytes:
    ip = ipaddress.ip_address(address[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # a socket for both versions shows IPv4 peers like this; they know themselves as IPv4
        ip = ip.ipv4_mapped or ip
    family = _IPV4 if ip.version == 4 else _IPV6
    mask = (_COOKIE_BYTES + transaction_id)[: len(ip.packed)]
    number = int(ip) ^ int.from_bytes(mask, "big")
    head = _ADDRESS.pack(0, family, address[1] ^ _COOKIE >> 16)
    return head + number.to_bytes(len(mask), "big")


def build_request(
    transaction_id: bytes,
    *,
    username: str,
    password: str,
    priority: int,
    tie_breaker: int,
    use_candidate: bool = False,
) -> bytes:
    """Build the check of a controlling side.

    Args:
        transaction_id: Twelve random bytes.
        username: ``receiver's ufrag:sender's ufrag``.
        password: The receiver's.
        priority: What a peer-reflexive candidate of the sender would have, 32 bits.
        tie_breaker: The sender's, 64 bits.
        use_candidate: Whether to nominate the pair.
    """
    attributes = [
        _attribute(_USERNAME, username.encode()),
        _attribute(_PRIORITY, priority.to_bytes(4, "big")),
        _attribute(_ICE_CONTROLLING, tie_breaker.to_bytes(8, "big")),
    ]
    if use_candidate:
        attributes.append(_attribute(_USE_CANDIDATE, b""))
    return _build(MessageClass.REQUEST, transaction_id, b"".join(attributes), password)


def build_success(transaction_id: bytes, source: Address, password: str) -> bytes:
    """Build the answer to an authentic request.

    Args:
        transaction_id: The request's.
        source: Where the request came from, an IP address as text and a port.
        password: The one that authenticated the request, which is the sender's of this.
    """
    attributes = _attribute(_XOR_MAPPED_ADDRESS, _build_address(source, transaction_id))
    return _build(MessageClass.SUCCESS, transaction_id, attributes, password)


def build_error(
    transaction_id: bytes, code: int, *, password: str | None = None, unknown: Sequence[int] = ()
) -> bytes:
    """Build the answer to a request that is refused.

    Args:
        transaction_id: The request's.
        code: 300 to 699.
        password: The one that authenticated the request; None when it was not authentic, as with
            400 and 401 (RFC 8489 9.1.3).
        unknown: The attribute types that the request should not have had, with 420.
    """
    hundreds, rest = divmod(code, 100)
    phrase = _PHRASES.get(code, "").encode()
    attributes = _attribute(_ERROR_CODE, bytes((0, 0, hundreds, rest)) + phrase)
    if unknown:
        types = struct.pack(f"!{len(unknown)}H", *unknown)
        attributes += _attribute(_UNKNOWN_ATTRIBUTES, types)
    return _build(MessageClass.ERROR, transaction_id, attributes, password)


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) & 3)


def _build(
    message_class: MessageClass, transaction_id: bytes, attributes: bytes, password: str | None
) -> bytes:
    message_type = BINDING | message_class.value
    length = len(attributes)
    if password is not None:
        # each of the last two attributes covers a header whose length ends with itself
        length += 4 + _INTEGRITY_LENGTH
        covered = _HEADER.pack(message_type, length, _COOKIE, transaction_id) + attributes
        attributes += _attribute(
            _MESSAGE_INTEGRITY, hmac.digest(password.encode(), covered, "sha1")
        )
    length += 8
    message = _HEADER.pack(message_type, length, _COOKIE, transaction_id) + attributes
    fingerprint = crc32(message) ^ _FINGERPRINT_XOR
    return message + _attribute(_FINGERPRINT, fingerprint.to_bytes(4, "big"))
