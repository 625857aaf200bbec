"""DTLS 1.2 records: where they begin and end, and which are worth reading. Sans-I/O.

Until keys are agreed, anybody who can put a datagram on the path speaks to the handshake in the
clear, and OpenSSL ends a handshake over much that RFC 6347 section 4.1.2.7 wants discarded: a
handshake message of impossible length, application data or a warning alert ahead of its time, a
message that only the other role sends. So records are judged here before OpenSSL sees them. What
has a sound form passes, and one who forges *that* can end a handshake, as can one who drops its
datagrams; after the handshake records are authenticated and a forged one changes nothing.

Spec:
    RFC 6347 sections 4.1 (record layer) and 4.2.2 (handshake messages), RFC 5246 section 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER_LENGTH = 13
"""Content type, version, epoch, sequence number and length (RFC 6347 section 4.1)."""

MAX_RECORD = 2**14 + 2048  # RFC 5246 section 6.2.3
MAX_MESSAGE = 2**17  # of a handshake; a certificate chain of 100 kB is OpenSSL's own limit

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23  # RFC 5246 section 6.2.1

_VERSIONS = frozenset({b"\xfe\xff", b"\xfe\xfd"})  # 1.0 in a first ClientHello, then 1.2
_CLEAR, _PROTECTED = b"\0\0", b"\0\1"  # epochs; another one would take a renegotiation

_MESSAGE_HEADER = 12  # RFC 6347 section 4.2.2: type, length, sequence, fragment offset and length
_CERTIFICATE = 11
_FROM_CLIENT = frozenset({1, _CERTIFICATE, 15, 16})  # hello, key exchange, certificate verify
_FROM_SERVER = frozenset({2, 3, 4, _CERTIFICATE, 12, 13, 14, 22})  # hellos, ticket, ... , OCSP
_WARNING, _FATAL, _CLOSE_NOTIFY = 1, 2, 0  # RFC 5246 section 7.2


def pack_records(flight: bytes, limit: int) -> list[bytes]:
    """Cut whole records into as few datagrams as their order allows.

    A memory BIO forgets where datagrams ended, and half a record is lost to its receiver.

    Args:
        flight: Records of OpenSSL's making, one after the other.
        limit: Largest datagram in bytes. A single record over it stays whole.
    """
    datagrams: list[bytes] = []
    begin = end = 0
    while end < len(flight):
        next_end = end + HEADER_LENGTH + int.from_bytes(flight[end + 11 : end + 13], "big")
        if next_end - begin > limit and end > begin:
            datagrams.append(flight[begin:end])
            begin = end
        end = next_end
    if begin < end:
        datagrams.append(flight[begin:end])
    return datagrams


def screen_records(datagram: bytes, *, from_client: bool) -> bytes:
    """Return the records of a datagram that a DTLS 1.2 peer of that role may have sent.

    Args:
        datagram: Anything.
        from_client: Whether the sender has the client's role.

    Returns:
        ``datagram`` itself if nothing is wrong with it, else what is left of it, maybe nothing.
    """
    messages = _FROM_CLIENT if from_client else _FROM_SERVER
    sound = [record for record in _records(datagram) if _is_sound(record, messages)]
    return b"".join(sound)


def _records(datagram: bytes) -> Iterator[bytes]:
    begin, length = 0, len(datagram)
    while begin + HEADER_LENGTH <= length:
        end = begin + HEADER_LENGTH + int.from_bytes(datagram[begin + 11 : begin + 13], "big")
        if end > length:
            return
        yield datagram[begin:end]
        begin = end


def _is_sound(record: bytes, messages: frozenset[int]) -> bool:
    kind, epoch, length = record[0], record[3:5], len(record) - HEADER_LENGTH
    if record[1:3] not in _VERSIONS or not 0 < length <= MAX_RECORD:
        return False
    if epoch == _PROTECTED:
        return CHANGE_CIPHER_SPEC <= kind <= APPLICATION_DATA
    if epoch != _CLEAR:
        return False
    if kind == HANDSHAKE:
        return _is_sound_handshake(record, messages)
    if kind == ALERT:
        level, description = record[HEADER_LENGTH], record[-1]
        return length == 2 and (
            level == _FATAL or (level == _WARNING and description == _CLOSE_NOTIFY)
        )
    return kind == CHANGE_CIPHER_SPEC and record[HEADER_LENGTH:] == b"\1"


def _is_sound_handshake(record: bytes, messages: frozenset[int]) -> bool:
    begin, end = HEADER_LENGTH, len(record)
    while begin < end:
        body = begin + _MESSAGE_HEADER
        if body > end or record[begin] not in messages:
            return False
        length = int.from_bytes(record[begin + 1 : begin + 4], "big")
        offset = int.from_bytes(record[begin + 6 : begin + 9], "big")
        fragment = int.from_bytes(record[begin + 9 : begin + 12], "big")
        begin = body + fragment
        if begin > end or offset + fragment > length or length > MAX_MESSAGE:
            return False
    return True
