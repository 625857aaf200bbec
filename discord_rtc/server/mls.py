"""What the delivery service of a call reads and writes of MLS. Sans-I/O.

The server is no member of the group and holds none of its secrets. It proposes whom to add and
to remove, as the external sender that every member trusts, and tells commits apart by their
plain text. Everything else is opaque and forwarded as it came.

What it can check: that a commit is well formed, whose leaf it claims to come of, and the
signature of the leaf node in its path. What it cannot: the signature of the commit itself, its
confirmation tag and its membership tag. All three cover the GroupContext with the hash of the
transcript, and that begins, at epoch 0, with a tag under a secret of the committer (RFC 9420
section 11). At epoch 0 the hash is still empty and the tree is the committer's leaf alone: libdave
takes the one of its key package, which would do, but davey makes another, which no server sees.
A forged commit gains nothing: it comes over its user's own connection, and members refuse it.

Spec: RFC 9420 sections 6 (framing), 12.1.8 (external senders), 12.4 (commits), 12.4.3.1
(welcomes); DAVE protocol whitepaper 1.1.4, "Voice Gateway Opcodes" 25 to 30.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from discord_rtc.crypto.p256 import PUBLIC_LENGTH, SigningKey
from discord_rtc.server.mls_package import (
    KeyPackage,
    LeafIdentity,
    parse_key_package,
    parse_path_leaf,
)
from discord_rtc.server.mls_wire import (
    HASH_LENGTH,
    MLS10,
    PUBLIC_MESSAGE,
    SUITE,
    Reader,
    reference,
    signed_content,
    vector,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CommitWelcome",
    "ExternalSender",
    "KeyPackage",
    "LeafIdentity",
    "Proposal",
    "parse_commit_welcome",
    "parse_key_package",
    "proposals_payload",
    "revoke_payload",
    "welcome_for",
]

_MESSAGE = MLS10.to_bytes(2, "big") + PUBLIC_MESSAGE.to_bytes(2, "big")
_GROUP_ID = 8  # bytes; whitepaper, "Group ID": the call's snowflake, big endian
_BASIC = b"\0\1"  # RFC 9420 section 5.3
_MEMBER, _EXTERNAL = 1, 2  # RFC 9420 section 6: sender types
_PROPOSAL, _COMMIT = 2, 3  # RFC 9420 section 6: content types
_ADD, _REMOVE = b"\0\1", b"\0\3"  # RFC 9420 section 12.1: proposal types
_BY_REFERENCE = 2  # RFC 9420 section 12.4: the other form holds a proposal of the committer's
_APPEND, _REVOKE = b"\0", b"\1"  # whitepaper, "DAVE MLS Proposals (27)"
_MOST_PATH_NODES = 32  # leaf indices have 32 bits, so no tree is higher


@dataclass(frozen=True, slots=True)
class Proposal:
    """One proposal of the server's.

    Its bytes must reach all members as they are: signing again would give other ones, and with
    them another reference.

    Attributes:
        message: The MLSMessage.
        ref: 32 bytes, by which commits name it.
        kind: What it does.
        package: Of the user to add; None for a removal.
        leaf: Index of the leaf to remove; None for an addition.
    """

    message: bytes = field(repr=False)
    ref: bytes
    kind: Literal["add", "remove"]
    package: KeyPackage | None
    leaf: int | None


class ExternalSender:
    """Signs the proposals of a call.

    Args:
        key: Made anew when left out. It must stay the same as long as the call lives.
        identity: Of its credential; any bytes will do. The default is that of libdave's tests.
    """

    def __init__(
        self, key: SigningKey | None = None, identity: bytes = bytes.fromhex("00010100")
    ) -> None:
        self._key = SigningKey.generate() if key is None else key
        self._payload = vector(self._key.public) + _BASIC + vector(identity)

    @property
    def payload(self) -> bytes:
        """Payload of op 25: public key and credential."""
        return self._payload

    def add(self, group_id: int, epoch: int, package: KeyPackage) -> Proposal:
        """Propose to add the user of a key package.

        Args:
            group_id: The call's id, 64 bits.
            epoch: The group's epoch; 0 before there is a group.
            package: Used up once a commit has added it.
        """
        message = self._sign(group_id, epoch, _ADD + package.data)
        return Proposal(message, _proposal_ref(message), "add", package, None)

    def remove(self, group_id: int, epoch: int, leaf: int) -> Proposal:
        """Propose to remove the member at a leaf; arguments as for `add`."""
        message = self._sign(group_id, epoch, _REMOVE + leaf.to_bytes(4, "big"))
        return Proposal(message, _proposal_ref(message), "remove", None, leaf)

    def _sign(self, group_id: int, epoch: int, proposal: bytes) -> bytes:
        content = b"".join(
            (
                _MESSAGE,
                vector(group_id.to_bytes(_GROUP_ID, "big")),
                epoch.to_bytes(8, "big"),
                _EXTERNAL.to_bytes(1, "big"),
                bytes(4),  # the first and only one of the group's external senders
                vector(b""),  # authenticated data
                _PROPOSAL.to_bytes(1, "big"),
                proposal,
            )
        )
        # External senders do not know the GroupContext: it is not signed (RFC 9420 section 6.1).
        signature = self._key.sign(signed_content("FramedContentTBS", content))
        return content + vector(signature)


@dataclass(frozen=True, slots=True)
class CommitWelcome:
    """A commit, and the welcome for those whom it adds.

    Attributes:
        commit: The MLSMessage, verbatim.
        welcome: Verbatim; None when nobody is added.
        group_id: As the committer has it.
        epoch: The epoch that the commit ends.
        sender_leaf: Index of the committer's leaf, as he says.
        refs: 32 bytes for each proposal that is committed, in the order in which they apply.
            May be empty: that is what libdave makes when its last proposal is revoked.
        path_leaf: Who the committer's new leaf is; None without a path. Its signature is right.
        welcome_refs: References of the key packages that the welcome is for.
    """

    commit: bytes = field(repr=False)
    welcome: bytes | None = field(repr=False)
    group_id: int
    epoch: int
    sender_leaf: int
    refs: tuple[bytes, ...]
    path_leaf: LeafIdentity | None
    welcome_refs: tuple[bytes, ...]


def parse_commit_welcome(payload: bytes) -> CommitWelcome:
    """Read the payload of op 28.

    Args:
        payload: A commit as MLSMessage, directly followed by a raw Welcome if it adds somebody.

    Raises:
        MalformedMessage: With the reason: no commit of a member, proposals of the committer's
            own, a proposal named twice, a wrong signature of the leaf in its path, ...
    """
    reader = Reader(payload, "commit")
    reader.expect(2, MLS10, "version")
    reader.expect(2, PUBLIC_MESSAGE, "wire format")
    group_id = reader.sized(_GROUP_ID, "a group id")
    epoch = reader.uint(8)
    reader.expect(1, _MEMBER, "sender type")
    sender_leaf = reader.uint(4)
    reader.sized(0, "authenticated data")
    reader.expect(1, _COMMIT, "content type")
    refs = tuple(_proposal_refs(reader))
    if len(set(refs)) < len(refs):
        raise reader.error("names a proposal twice")
    path_leaf = None
    if _optional(reader):
        path_leaf = parse_path_leaf(reader, group_id, sender_leaf)
        _skip_path_nodes(reader)
    reader.vector()  # signature
    reader.sized(HASH_LENGTH, "a confirmation tag")
    reader.sized(HASH_LENGTH, "a membership tag")
    commit = reader.since(0)
    welcome = reader.rest() or None
    return CommitWelcome(
        commit,
        welcome,
        int.from_bytes(group_id, "big"),
        epoch,
        sender_leaf,
        refs,
        path_leaf,
        () if welcome is None else tuple(_parse_welcome(welcome)[0]),
    )


def welcome_for(welcome: bytes, package_ref: bytes) -> bytes:
    """Cut a welcome down to what one of its receivers needs.

    Args:
        welcome: As `CommitWelcome.welcome`.
        package_ref: Of the key package that added the receiver.

    Raises:
        MalformedMessage: It is no welcome, or not for that one.
    """
    secrets, group_info = _parse_welcome(welcome)
    if package_ref not in secrets:
        raise Reader(welcome, "welcome").error("is not for this key package")
    return SUITE.to_bytes(2, "big") + vector(secrets[package_ref]) + group_info


def proposals_payload(proposals: Sequence[Proposal]) -> bytes:
    """Payload of op 27 that appends proposals."""
    return _APPEND + vector(b"".join(proposal.message for proposal in proposals))


def revoke_payload(refs: Sequence[bytes]) -> bytes:
    """Payload of op 27 that takes proposals back, by their references."""
    return _REVOKE + vector(b"".join(vector(ref) for ref in refs))


def _proposal_ref(message: bytes) -> bytes:
    return reference("Proposal", message[2:])  # its AuthenticatedContent: all but the version


def _proposal_refs(reader: Reader) -> list[bytes]:
    refs = []
    for item in reader.items():
        if item.uint(1) != _BY_REFERENCE:
            raise item.error("holds a proposal that is not the server's")
        refs.append(item.sized(HASH_LENGTH, "a proposal reference"))
    return refs


def _optional(reader: Reader) -> bool:
    present = reader.uint(1)
    if present > 1:
        raise reader.error("has an optional part that is neither there nor not")
    return bool(present)


def _skip_path_nodes(reader: Reader) -> None:
    """Only the members can tell whether the nodes fit the tree."""
    for count, node in enumerate(reader.items()):
        if count == _MOST_PATH_NODES:
            raise node.error("has a path longer than any tree is high")
        node.sized(PUBLIC_LENGTH, "a path key")
        for encrypted in node.items():
            encrypted.sized(PUBLIC_LENGTH, "a key encapsulation")
            encrypted.vector()


def _parse_welcome(welcome: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """Its EncryptedGroupSecrets by key package, and the vector that holds the group info."""
    reader = Reader(welcome, "welcome")
    reader.expect(2, SUITE, "cipher suite")
    secrets: dict[bytes, bytes] = {}
    for item in reader.items():
        start = item.position
        ref = item.sized(HASH_LENGTH, "a key package reference")
        item.sized(PUBLIC_LENGTH, "a key encapsulation")
        item.vector()
        if ref in secrets:
            raise item.error("is for one key package twice")
        secrets[ref] = item.since(start)
    if not secrets:
        raise reader.error("is for nobody")
    group_info = reader.rest()
    rest = Reader(group_info, "welcome")
    rest.vector()
    rest.end()
    return secrets, group_info
