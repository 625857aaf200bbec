"""The presentation language of MLS: integers, vectors, and the hashes over them. Sans-I/O.

Only what a delivery service reads and writes. Reading is strict, and its work is proportional
to the bytes there are, whatever lengths they claim.

Spec: RFC 9420 section 2.1 (presentation language), 5.1.2 (signatures), 5.2 (references).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedMessage, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

MLS10 = 1
"""Protocol version ``mls10`` (RFC 9420 section 6)."""

SUITE = 2
"""MLS_128_DHKEMP256_AES128GCM_SHA256_P256, the only suite of DAVE 1 (whitepaper, "MLS
Parameters")."""

PUBLIC_MESSAGE = 1
"""Wire format of proposals and commits (RFC 9420 section 6)."""

HASH_LENGTH = 32
"""Bytes of a reference, a transcript hash or a tag with that suite."""

_PREFIX = b"MLS 1.0 "
_LONGEST = 1 << 30


class Reader:
    """Reads one structure from front to back.

    Args:
        data: All of it.
        name: What it is, for the text of errors.

    Every method raises `MalformedMessage` when the bytes do not hold what is asked for.
    """

    __slots__ = ("_data", "_name", "_position")

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        self._position = 0

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._position

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._position

    def take(self, length: int) -> bytes:
        """Read that many bytes."""
        if length > self.left:
            raise self.error("is cut short")
        start = self._position
        self._position += length
        return self._data[start : self._position]

    def since(self, start: int) -> bytes:
        """The bytes between a former `position` and now."""
        return self._data[start : self._position]

    def rest(self) -> bytes:
        """Read all that is left."""
        return self.take(self.left)

    def uint(self, length: int) -> int:
        """Read an unsigned integer of that many bytes."""
        return int.from_bytes(self.take(length), "big")

    def vector(self) -> bytes:
        """Read ``V(x)``: its length in the fewest bytes that hold it, then x.

        Spec:
            RFC 9420 section 2.1.2.
        """
        first = self.uint(1)
        form = first >> 6
        length = first & 0x3F
        if form == 3:
            raise self.error("has a vector with an invalid length")
        if form:
            extra = 1 if form == 1 else 3
            length = length << 8 * extra | self.uint(extra)
            if length < (1 << 6 if form == 1 else 1 << 14):
                raise self.error("has a vector whose length is not in its shortest form")
        return self.take(length)

    def items(self) -> Iterator[Reader]:
        """Read a vector of structures: yields its reader for each of them until it is empty.

        The caller reads exactly one structure each time.
        """
        reader = Reader(self.vector(), self._name)
        while reader.left:
            yield reader

    def expect(self, length: int, value: int, what: str) -> None:
        """Read an integer that can have one value only."""
        found = self.uint(length)
        if found != value:
            raise self.error(f"has {what} {found}, not {value}")

    def sized(self, length: int, what: str) -> bytes:
        """Read a vector that can have one length only."""
        found = self.vector()
        if len(found) != length:
            raise self.error(f"has {what} of {len(found)} bytes, not {length}")
        return found

    def end(self) -> None:
        """Nothing may be left."""
        if self.left:
            raise self.error(f"is followed by {self.left} bytes")

    def error(self, problem: str) -> MalformedMessage:
        """Make the error that says: this structure, then the problem."""
        return MalformedMessage(f"MLS {self._name} {problem}")


def vector(data: bytes) -> bytes:
    """Write ``V(data)``.

    Raises:
        UsageError: 2**30 bytes or more.

    Spec:
        RFC 9420 section 2.1.2.
    """
    length = len(data)
    if length < 1 << 6:
        return bytes((length,)) + data
    if length < 1 << 14:
        return (0x4000 | length).to_bytes(2, "big") + data
    if length >= _LONGEST:
        raise UsageError(f"{length} bytes do not fit into an MLS vector")
    return (0x8000_0000 | length).to_bytes(4, "big") + data


def signed_content(label: str, content: bytes) -> bytes:
    """The bytes that ``SignWithLabel`` signs.

    Args:
        label: As in the specification, without "MLS 1.0".
        content: The structure ending in TBS.

    Spec:
        RFC 9420 section 5.1.2.
    """
    return vector(_PREFIX + label.encode()) + vector(content)


def reference(kind: str, value: bytes) -> bytes:
    """``RefHash``, 32 bytes.

    Args:
        kind: ``"KeyPackage"`` or ``"Proposal"``.
        value: The whole KeyPackage; for a proposal its AuthenticatedContent.

    Spec:
        RFC 9420 section 5.2.
    """
    label = _PREFIX + kind.encode() + b" Reference"
    return hashlib.sha256(vector(label) + vector(value)).digest()
