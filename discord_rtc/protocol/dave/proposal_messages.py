"""Proposals one by one, out of the list in which the server sends them. Sans-I/O.

A library takes the whole list. But davey 0.1.7 makes a commit without a welcome when its newest
list adds nobody, although an earlier one did (a revoke is such a list); that it can be given
all of them again in one list, they are kept.

Spec: RFC 9420 (MLS) sections 2.1.2 (vectors), 5.2 (references), 6, 7.2, 10, 12.1.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from discord_rtc.errors import DaveError

_REF_LABEL = b"MLS 1.0 Proposal Reference"


@dataclass(frozen=True, slots=True)
class ProposalMessage:
    """One proposal.

    Attributes:
        ref: 32 bytes by which commits and revokes name it.
        message: The MLSMessage.
        adds: Whether it adds somebody.
    """

    ref: bytes
    message: bytes
    adds: bool


def parse_appended(payload: bytes) -> list[ProposalMessage]:
    """Read the payload of an op 27 that appends.

    Raises:
        DaveError: It is not made of Add and Remove proposals of an external sender.
    """
    reader = _Reader(payload)
    reader.skip(1)
    reader = _Reader(reader.vector())
    found = []
    while not reader.at_end():
        start = reader.position
        adds = _skip_proposal(reader)
        message = reader.since(start)
        # The reference is of the authenticated content: the message without its version.
        labelled = vector(_REF_LABEL) + vector(message[2:])
        found.append(ProposalMessage(hashlib.sha256(labelled).digest(), message, adds))
    return found


def parse_revoked(payload: bytes) -> list[bytes]:
    """Read the payload of an op 27 that revokes: references.

    Raises:
        DaveError: It is cut.
    """
    reader = _Reader(payload)
    reader.skip(1)
    reader = _Reader(reader.vector())
    found = []
    while not reader.at_end():
        found.append(reader.vector())
    return found


def vector(value: bytes) -> bytes:
    """A variable-length vector with its length in front."""
    size = len(value)
    if size < 1 << 6:
        return bytes([size]) + value
    if size < 1 << 14:
        return (0x4000 | size).to_bytes(2, "big") + value
    return (0x80000000 | size).to_bytes(4, "big") + value


def _skip_proposal(reader: _Reader) -> bool:
    """Go behind one proposal; says whether it adds somebody."""
    reader.skip(4)  # version, wire format
    reader.vectors(1)  # group id
    reader.skip(8 + 5)  # epoch, external sender
    reader.vectors(1)  # additional data
    reader.skip(1)  # a proposal
    kind = reader.skip(2)
    if kind == b"\0\1":
        reader.skip(4)  # version, cipher suite
        reader.vectors(3)  # init key, the leaf's encryption key and signature key
        reader.skip(2)  # a basic credential
        reader.vectors(6)  # its identity, five capabilities
        reader.skip(1 + 8 + 8)  # the leaf is of a key package, with a lifetime
        reader.vectors(4)  # extensions and signature, of the leaf and of the key package
    elif kind == b"\0\3":
        reader.skip(4)  # leaf index
    else:
        raise DaveError("a proposal neither adds nor removes")
    reader.vectors(1)  # signature
    return kind == b"\0\1"


class _Reader:
    """Goes through bytes; raises `DaveError` at their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def at_end(self) -> bool:
        return self.position >= len(self._data)

    def since(self, start: int) -> bytes:
        return self._data[start : self.position]

    def skip(self, size: int) -> bytes:
        start = self.position
        self.position += size
        if self.position > len(self._data):
            raise DaveError("the proposals are cut")
        return self._data[start : self.position]

    def vector(self) -> bytes:
        first = self.skip(1)
        width = 1 << (first[0] >> 6)
        size = int.from_bytes(first + self.skip(width - 1), "big") & ((1 << 8 * width - 2) - 1)
        return self.skip(size)

    def vectors(self, count: int) -> None:
        for _ in range(count):
            self.vector()
