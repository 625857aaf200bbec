"""A tiny delivery service for tests: signs proposals, splits commits, takes members in and out.

Written apart from `discord_rtc.server` on purpose, so that a mistake there is no mistake here.
Use it as ``from .external import ...`` or ``from ..protocol.dave.external import ...``.

Spec: RFC 9420 (MLS) sections 5.2, 6.1, 6.2, 7.2, 12; DAVE protocol whitepaper 1.1.4.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from discord_rtc.protocol.dave.backend import DaveBackend

GROUP = 1278201813102755891
"""Group id of the transcript in the protocol reference, A.4."""
IDENTITY = bytes.fromhex("00010100")
"""What libdave's own tests name their external sender."""


def vector(value: bytes) -> bytes:
    """An MLS variable-length vector (RFC 9420 section 2.1.2)."""
    size = len(value)
    if size < 1 << 6:
        return bytes([size]) + value
    if size < 1 << 14:
        return (0x4000 | size).to_bytes(2, "big") + value
    return (0x80000000 | size).to_bytes(4, "big") + value


def _reference(label: str, value: bytes) -> bytes:
    return hashlib.sha256(vector(label.encode()) + vector(value)).digest()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        value = self.data[self.at : self.at + size]
        assert len(value) == size
        self.at += size
        return value

    def vector(self) -> bytes:
        first = self.data[self.at]
        width = 1 << (first >> 6)
        return self.take(int.from_bytes(self.take(width), "big") & ((1 << (8 * width - 2)) - 1))

    def vectors(self, count: int) -> None:
        for _ in range(count):
            self.vector()


@dataclass(frozen=True)
class Proposal:
    """An Add or Remove as an MLSMessage, with the reference that commits name it by."""

    message: bytes
    ref: bytes


class ExternalSender:
    """The one who proposes. ``payload`` is that of op 25."""

    def __init__(
        self, group_id: int = GROUP, key: int | None = None, identity: bytes = IDENTITY
    ) -> None:
        self.group_id = group_id
        curve = ec.SECP256R1()
        self._key = (
            ec.generate_private_key(curve) if key is None else ec.derive_private_key(key, curve)
        )
        public = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.payload = vector(public) + b"\x00\x01" + vector(identity)

    def add(self, epoch: int, key_package: bytes) -> Proposal:
        """Propose to add the owner of a raw key package (op 26)."""
        return self._propose(epoch, b"\x00\x01" + key_package)

    def remove(self, epoch: int, leaf: int) -> Proposal:
        """Propose to remove the member at a leaf."""
        return self._propose(epoch, b"\x00\x03" + leaf.to_bytes(4, "big"))

    def _propose(self, epoch: int, body: bytes) -> Proposal:
        content = (
            vector(self.group_id.to_bytes(8, "big"))
            + epoch.to_bytes(8, "big")
            + b"\x02\x00\x00\x00\x00"  # external sender, index 0
            + b"\x00\x02"  # no authenticated data; a proposal
            + body
        )
        signed = vector(b"MLS 1.0 FramedContentTBS") + vector(b"\x00\x01\x00\x01" + content)
        signature = self._key.sign(signed, ec.ECDSA(hashes.SHA256()))
        message = b"\x00\x01\x00\x01" + content + vector(signature)
        return Proposal(message, _reference("MLS 1.0 Proposal Reference", message[2:]))


def append(*proposals: Proposal) -> bytes:
    """Payload of op 27 that adds proposals."""
    return b"\x00" + vector(b"".join(proposal.message for proposal in proposals))


def revoke(*refs: bytes) -> bytes:
    """Payload of op 27 that takes proposals back."""
    return b"\x01" + vector(b"".join(vector(ref) for ref in refs))


def key_package_ref(key_package: bytes) -> bytes:
    """What a welcome calls the key package by."""
    return _reference("MLS 1.0 KeyPackage Reference", key_package)


def signature_key(key_package: bytes) -> bytes:
    """65 bytes: the identity key that the key package shows."""
    reader = _Reader(key_package)
    reader.take(4)
    reader.vectors(2)  # init key, leaf encryption key
    return reader.vector()


def split(payload: bytes) -> tuple[bytes, bytes | None]:
    """Cut the payload of op 28 into the commit (as MLSMessage) and the raw welcome, if any."""
    reader = _Reader(payload)
    assert reader.take(4) == b"\x00\x01\x00\x01"
    reader.vector()  # group id
    reader.take(8 + 5)  # epoch, sender
    reader.vector()  # authenticated data
    assert reader.take(1) == b"\x03"  # commit
    reader.vector()  # references
    if reader.take(1) == b"\x01":
        reader.vectors(2)  # leaf: encryption key, signature key
        reader.take(2)  # credential type
        reader.vectors(6)  # identity, five capabilities
        assert reader.take(1) == b"\x03"  # leaf comes of a commit
        reader.vectors(3)  # parent hash, extensions, signature
        reader.vector()  # nodes of the path
    reader.vectors(3)  # signature, confirmation tag, membership tag
    return payload[: reader.at], payload[reader.at :] or None


def targeted(welcome: bytes, ref: bytes) -> bytes:
    """The welcome with only the secrets of one key package, as the real server sends it."""
    reader = _Reader(welcome)
    suite = reader.take(2)
    secrets = _Reader(reader.vector())
    while secrets.at < len(secrets.data):
        start = secrets.at
        name = secrets.vector()
        secrets.vectors(2)
        if name == ref:
            return suite + vector(secrets.data[start : secrets.at]) + welcome[reader.at :]
    raise LookupError("this welcome is for others")


class Call:
    """A call whose server is honest and quick: every change is one commit, known to all at once.

    Attributes:
        members: Who is in the group, with the leaf of each.
        commit, welcome: Those of the last change.
    """

    def __init__(self, sender: ExternalSender | None = None) -> None:
        self.sender = sender or ExternalSender()
        self.epoch = 0
        self.backends: dict[int, DaveBackend] = {}
        self.packages: dict[int, bytes] = {}
        self.members: dict[int, int] = {}
        self.commit = b""
        self.welcome: bytes | None = None

    def enter(self, backends: Mapping[int, DaveBackend]) -> None:
        """Users connect: they get the external sender and offer a key package."""
        for user_id, backend in backends.items():
            self.backends[user_id] = backend
            backend.set_external_sender(self.sender.payload)
            self.packages[user_id] = backend.begin(1)

    def found(self, backends: Mapping[int, DaveBackend], committer: int | None = None) -> None:
        """The first group; the first of the users commits unless another is named."""
        self.enter(backends)
        adds = {user_id: self.sender.add(0, self.packages[user_id]) for user_id in backends}
        committer = next(iter(backends)) if committer is None else committer
        others = [proposal for user_id, proposal in adds.items() if user_id != committer]
        for user_id, backend in backends.items():
            if user_id != committer:
                expected = [proposal for other, proposal in adds.items() if other != user_id]
                assert backend.process_proposals(append(*expected), frozenset(backends))
        self._commit([committer], committer, append(*others))
        self.members = {committer: 0}
        self._join(user_id for user_id in backends if user_id != committer)

    def change(
        self,
        joining: Mapping[int, DaveBackend] | None = None,
        leaving: Iterable[int] = (),
        committer: int | None = None,
    ) -> None:
        """Members leave and join with one commit, announced to all who stay."""
        joining = joining or {}
        leaving = tuple(leaving)
        self.enter(joining)
        proposals = [self.sender.remove(self.epoch, self.members[user]) for user in leaving]
        proposals += [self.sender.add(self.epoch, self.packages[user]) for user in joining]
        staying = [user for user in self.members if user not in leaving]
        committer = staying[0] if committer is None else committer
        self._commit(staying, committer, append(*proposals))
        self.members = {user: self.members[user] for user in staying}
        self._join(joining)

    def switch(self) -> None:
        """The transition executes at everybody."""
        for user_id in self.members:
            self.backends[user_id].switch_sender()

    def _commit(self, affected: Iterable[int], committer: int, payload: bytes) -> None:
        made = {}
        for user_id in affected:
            backend = self.backends[user_id]
            made[user_id] = backend.process_proposals(payload, frozenset(self.backends))
        winner = made[committer]
        assert winner is not None
        self.commit, self.welcome = split(winner)
        for user_id in made:
            assert self.backends[user_id].process_commit(self.commit)
        self.epoch += 1

    def _join(self, joining: Iterable[int]) -> None:
        for user_id in joining:
            assert self.welcome is not None
            welcome = targeted(self.welcome, key_package_ref(self.packages[user_id]))
            self.backends[user_id].process_welcome(welcome, frozenset(self.backends))
            taken = set(self.members.values())
            self.members[user_id] = next(leaf for leaf in itertools.count() if leaf not in taken)
