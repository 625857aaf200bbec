"""Key packages and leaf nodes of MLS, read and checked. Sans-I/O.

Spec: RFC 9420 sections 7.2 and 7.3 (leaf nodes), 10 and 10.1 (key packages); DAVE protocol
whitepaper 1.1.4, "MLS Parameters", "Credential", "Key Packages".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from discord_rtc.crypto.p256 import PUBLIC_LENGTH, is_public_key, verify
from discord_rtc.server.mls_wire import MLS10, SUITE, Reader, reference, signed_content, vector

_KEY_PACKAGE = 5  # RFC 9420 section 6: wire format of an MLSMessage around a key package
_BASIC = 1  # RFC 9420 section 5.3: basic credential
_USER_ID = 8  # bytes; whitepaper, "Credential": a snowflake, big endian
_FROM_KEY_PACKAGE, _FROM_COMMIT = 1, 3  # RFC 9420 section 7.2: leaf node sources
_FOREVER = 0xFFFF_FFFF_FFFF_FFFF  # whitepaper, "Key Packages": lifetime 0 to 2**64 - 1


@dataclass(frozen=True, slots=True)
class LeafIdentity:
    """Who a leaf of the group's tree stands for.

    Attributes:
        user_id: From its credential.
        signature_key: 65 bytes, the key under which this user signs.
    """

    user_id: int
    signature_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyPackage:
    """With what a user can be added to a group, once.

    Attributes:
        data: The raw KeyPackage, without the header of an MLSMessage.
        ref: 32 bytes; a Welcome names its receivers by it.
        user_id: Whom it adds.
        signature_key: 65 bytes.
    """

    data: bytes = field(repr=False)
    ref: bytes
    user_id: int
    signature_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Leaf:
    identity: LeafIdentity
    encryption_key: bytes


def parse_key_package(data: bytes, user_id: int) -> KeyPackage:
    """Read and check the key package of a user.

    Checked are version, suite, that the keys are points of the curve and differ, the credential,
    capabilities, lifetime and both signatures: what would make the members' libraries refuse
    the proposal that adds it.

    Args:
        data: Payload of op 26: a raw KeyPackage, or, as the whitepaper has it, one inside an
            MLSMessage.
        user_id: Who sent it.

    Raises:
        MalformedMessage: With the reason.

    Spec:
        RFC 9420 section 10.1.
    """
    if data.startswith(b"\0\1\0\5"):  # mls10, then not suite 5: nobody has that one
        data = data[4:]
    reader = Reader(data, "key package")
    reader.expect(2, MLS10, "version")
    reader.expect(2, SUITE, "cipher suite")
    init_key = _public_key(reader)
    leaf = _parse_leaf(reader, _FROM_KEY_PACKAGE, b"")
    reader.sized(0, "extensions")
    signed = reader.since(0)
    signature = reader.vector()
    reader.end()
    if leaf.identity.user_id != user_id:
        raise reader.error(f"is that of user {leaf.identity.user_id}, sent by {user_id}")
    if leaf.encryption_key == init_key:
        raise reader.error("uses one key for two purposes")
    for key in (init_key, leaf.encryption_key):
        if not is_public_key(key):
            raise reader.error("has a key that is no point of the curve")
    if not verify(leaf.identity.signature_key, signature, signed_content("KeyPackageTBS", signed)):
        raise reader.error("has a wrong signature")
    return KeyPackage(data, reference("KeyPackage", data), user_id, leaf.identity.signature_key)


def parse_path_leaf(reader: Reader, group_id: bytes, index: int) -> LeafIdentity:
    """Read the new leaf node at the start of a commit's path, and check its signature.

    Args:
        reader: Just before it.
        group_id: 8 bytes.
        index: The committer's leaf.

    Raises:
        MalformedMessage: With the reason.

    Spec:
        RFC 9420 section 7.2: the signature binds the leaf to its group and place.
    """
    place = vector(group_id) + index.to_bytes(4, "big")
    return _parse_leaf(reader, _FROM_COMMIT, place).identity


def _parse_leaf(reader: Reader, source: int, place: bytes) -> _Leaf:
    """Read a LeafNode; ``place`` is what its signature covers besides."""
    start = reader.position
    encryption_key = _public_key(reader)
    signature_key = _public_key(reader)
    reader.expect(2, _BASIC, "credential type")
    user_id = int.from_bytes(reader.sized(_USER_ID, "an identity"), "big")
    _check_capabilities(reader)
    reader.expect(1, source, "leaf node source")
    if source == _FROM_KEY_PACKAGE:
        reader.expect(8, 0, "a start of lifetime")
        reader.expect(8, _FOREVER, "an end of lifetime")
    else:
        parent_hash = reader.vector()
        if len(parent_hash) not in (0, 32):  # empty when the tree has no other node
            raise reader.error("has a parent hash of a wrong length")
    reader.sized(0, "leaf node extensions")
    signed = reader.since(start) + place
    if not verify(signature_key, reader.vector(), signed_content("LeafNodeTBS", signed)):
        raise reader.error("has a leaf node with a wrong signature")
    return _Leaf(LeafIdentity(user_id, signature_key), encryption_key)


def _public_key(reader: Reader) -> bytes:
    key = reader.sized(PUBLIC_LENGTH, "a public key")
    if key[0] != 4:
        raise reader.error("has a public key that is not an uncompressed point")
    return key


def _check_capabilities(reader: Reader) -> None:
    """A leaf may be capable of more than the call needs, but not of less."""
    needed = (
        ("versions", MLS10),
        ("cipher suites", SUITE),
        ("extensions", None),
        ("proposals", None),
        ("credentials", _BASIC),
    )
    for name, value in needed:
        known = [item.uint(2) for item in reader.items()]
        if value is not None and value not in known:
            raise reader.error(f"has no capability {value} among its {name}")
