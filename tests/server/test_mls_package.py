"""Key packages: what would break the group of those who add it never gets in."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from discord_rtc.crypto.p256 import SigningKey
from discord_rtc.errors import MalformedMessage
from discord_rtc.server.mls_package import LeafIdentity, parse_key_package, parse_path_leaf
from discord_rtc.server.mls_wire import Reader, reference, signed_content, vector

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "dave.json").read_text())
USER = 104694319306248192
GROUP = bytes.fromhex("11bd15c6dd400033")
KEY = SigningKey.from_private(b"\x11" * 32)
ENCRYPTION = SigningKey.from_private(b"\x22" * 32).public
INIT = SigningKey.from_private(b"\x33" * 32).public
OFF_CURVE = ENCRYPTION[:-1] + bytes([ENCRYPTION[-1] ^ 1])
COMPRESSED = bytes([2 + (ENCRYPTION[-1] & 1)]) + ENCRYPTION[1:33]


@dataclass(frozen=True)
class Parts:
    """A key package in pieces, each as it is on the wire; signatures are made for them."""

    version: bytes = b"\0\1"
    suite: bytes = b"\0\2"
    init_key: bytes = vector(INIT)
    encryption_key: bytes = vector(ENCRYPTION)
    signature_key: bytes = vector(KEY.public)
    credential: bytes = b"\0\1" + vector(USER.to_bytes(8, "big"))
    versions: bytes = vector(b"\0\1")
    suites: bytes = vector(b"\0\2")
    extension_types: bytes = vector(b"")
    proposal_types: bytes = vector(b"")
    credential_types: bytes = vector(b"\0\1")
    source: bytes = b"\1" + bytes(8) + b"\xff" * 8
    leaf_extensions: bytes = vector(b"")
    extensions: bytes = vector(b"")

    def leaf(self, place: bytes = b"", key: SigningKey = KEY) -> bytes:
        unsigned = b"".join(
            (
                self.encryption_key,
                self.signature_key,
                self.credential,
                self.versions,
                self.suites,
                self.extension_types,
                self.proposal_types,
                self.credential_types,
                self.source,
                self.leaf_extensions,
            )
        )
        signature = key.sign(signed_content("LeafNodeTBS", unsigned + place))
        return unsigned + vector(signature)

    def package(self, leaf_key: SigningKey = KEY, key: SigningKey = KEY) -> bytes:
        unsigned = self.version + self.suite + self.init_key + self.leaf(key=leaf_key)
        unsigned += self.extensions
        return unsigned + vector(key.sign(signed_content("KeyPackageTBS", unsigned)))


@pytest.mark.parametrize("who", ["B", "C"])
def test_key_packages_of_other_implementations_are_read(who: str) -> None:
    data = bytes.fromhex(VECTORS[f"op26_payload_{who}"])
    user_id = int(VECTORS["users"][who])
    package = parse_key_package(data, user_id)
    assert (package.data, package.user_id) == (data, user_id)
    if who == "B":
        assert package.ref.hex() == VECTORS["keypackage_ref_B"]
        private = bytes.fromhex(VECTORS["B_priv"]["signature"])
        assert package.signature_key == SigningKey.from_private(private).public


def test_the_header_that_the_whitepaper_asks_for_is_taken_off() -> None:
    data = Parts().package()
    assert parse_key_package(b"\0\1\0\5" + data, USER) == parse_key_package(data, USER)
    assert parse_key_package(data, USER).ref == reference("KeyPackage", data)


def test_more_capabilities_than_needed_are_no_harm() -> None:
    capable = Parts(
        versions=vector(b"\0\1\0\2"),
        suites=vector(b"\0\1\0\2\x0a\x0a"),
        extension_types=vector(b"\0\5"),
        proposal_types=vector(b"\0\7"),
        credential_types=vector(b"\0\2\0\1"),
    )
    assert parse_key_package(capable.package(), USER).user_id == USER


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (Parts(version=b"\0\2"), "version 2, not 1"),
        (Parts(suite=b"\0\1"), "cipher suite 1, not 2"),
        (Parts(init_key=vector(COMPRESSED)), "a public key of 33 bytes, not 65"),
        (Parts(init_key=vector(b"\6" + INIT[1:])), "not an uncompressed point"),
        (Parts(init_key=vector(OFF_CURVE)), "no point of the curve"),
        (Parts(encryption_key=vector(OFF_CURVE)), "no point of the curve"),
        (Parts(init_key=vector(ENCRYPTION)), "one key for two purposes"),
        (Parts(signature_key=vector(OFF_CURVE)), "leaf node with a wrong signature"),
        (Parts(credential=b"\0\2" + vector(USER.to_bytes(8, "big"))), "credential type 2, not 1"),
        (Parts(credential=b"\0\1" + vector(b"\1\2\3\4")), "an identity of 4 bytes, not 8"),
        (Parts(credential=b"\0\1" + vector(bytes(8))), f"of user 0, sent by {USER}"),
        (Parts(versions=vector(b"\0\2")), "no capability 1 among its versions"),
        (Parts(suites=vector(b"\0\1")), "no capability 2 among its cipher suites"),
        (Parts(suites=vector(b"\0")), "cut short"),
        (Parts(credential_types=vector(b"")), "no capability 1 among its credentials"),
        (Parts(source=b"\2"), "leaf node source 2, not 1"),
        (Parts(source=b"\3" + vector(b"")), "leaf node source 3, not 1"),
        (Parts(source=b"\1" + bytes(7) + b"\1" + b"\xff" * 8), "a start of lifetime 1, not 0"),
        (Parts(source=b"\1" + bytes(16)), "an end of lifetime 0"),
        (Parts(leaf_extensions=vector(b"\0\1\0")), "leaf node extensions of 3 bytes"),
        (Parts(extensions=vector(b"\0\1\0")), "extensions of 3 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_break_the_group_is_refused_with_its_reason(parts: Parts, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=reason):
        parse_key_package(parts.package(), USER)


def test_both_signatures_are_checked() -> None:
    other = SigningKey.generate()
    with pytest.raises(MalformedMessage, match="key package has a leaf node with a wrong sign"):
        parse_key_package(Parts().package(leaf_key=other), USER)
    with pytest.raises(MalformedMessage, match="key package has a wrong signature"):
        parse_key_package(Parts().package(key=other), USER)


def test_somebody_elses_key_package_is_refused() -> None:
    data = bytes.fromhex(VECTORS["op26_payload_B"])
    with pytest.raises(MalformedMessage, match=r"sent by 1$"):
        parse_key_package(data, 1)


def test_nothing_may_follow_and_nothing_may_be_missing() -> None:
    data = Parts().package()
    with pytest.raises(MalformedMessage, match="followed by 1 bytes"):
        parse_key_package(data + b"\0", USER)
    for length in range(len(data)):
        with pytest.raises(MalformedMessage):
            parse_key_package(data[:length], USER)


def test_a_changed_bit_anywhere_is_noticed() -> None:
    data = bytes.fromhex(VECTORS["op26_payload_B"])
    user_id = int(VECTORS["users"]["B"])
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        with pytest.raises(MalformedMessage):
            parse_key_package(bytes(changed), user_id)


def test_a_leaf_in_a_path_is_bound_to_its_group_and_place() -> None:
    parts = Parts(source=b"\3" + vector(bytes(32)))
    leaf = parts.leaf(place=vector(GROUP) + bytes.fromhex("00000004"))
    found = parse_path_leaf(Reader(leaf, "commit"), GROUP, 4)
    assert found == LeafIdentity(USER, KEY.public)
    for group, index in ((GROUP, 5), (bytes(8), 4)):
        with pytest.raises(MalformedMessage, match="commit has a leaf node with a wrong signature"):
            parse_path_leaf(Reader(leaf, "commit"), group, index)


@pytest.mark.parametrize(("size", "fits"), [(0, True), (32, True), (31, False), (33, False)])
def test_a_parent_hash_is_whole_or_absent(size: int, fits: bool) -> None:
    parts = replace(Parts(), source=b"\3" + vector(bytes(size)))
    reader = Reader(parts.leaf(place=vector(GROUP) + bytes(4)), "commit")
    if fits:
        assert parse_path_leaf(reader, GROUP, 0).user_id == USER
    else:
        with pytest.raises(MalformedMessage, match="parent hash of a wrong length"):
            parse_path_leaf(reader, GROUP, 0)


def test_keys_are_not_shown() -> None:
    package = parse_key_package(Parts().package(), USER)
    assert KEY.public[:8].hex() not in repr(package)
    assert repr(package.data[:20])[2:-1] not in repr(package)
