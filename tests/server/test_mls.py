"""The delivery service's side of MLS, over a recorded call of an independent implementation.

The call (tests/vectors/dave.json): A makes the group with B and C, then removes C.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from discord_rtc.crypto.p256 import SigningKey, verify
from discord_rtc.errors import MalformedMessage
from discord_rtc.server.mls import (
    CommitWelcome,
    ExternalSender,
    LeafIdentity,
    parse_commit_welcome,
    parse_key_package,
    proposals_payload,
    revoke_payload,
    welcome_for,
)
from discord_rtc.server.mls_wire import Reader, reference, signed_content, vector

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "dave.json").read_text())
GROUP = int(VECTORS["group_id"])
USERS = {name: int(user_id) for name, user_id in VECTORS["users"].items()}
SENDER_KEY = SigningKey.from_private(bytes.fromhex(VECTORS["ext_sender_priv"]))
B = parse_key_package(bytes.fromhex(VECTORS["op26_payload_B"]), USERS["B"])
C = parse_key_package(bytes.fromhex(VECTORS["op26_payload_C"]), USERS["C"])
COMMIT_1 = bytes.fromhex(VECTORS["epoch1"]["commit"])
WELCOME = bytes.fromhex(VECTORS["epoch1"]["welcome"])
COMMIT_2 = bytes.fromhex(VECTORS["epoch2"]["commit"])
GROUP_ID = vector(GROUP.to_bytes(8, "big"))
REF = b"\x02" + vector(bytes(range(32)))
TAGS = vector(bytes(70)) + vector(bytes(32)) * 2  # a signature and both tags


@pytest.fixture
def sender() -> ExternalSender:
    return ExternalSender(SENDER_KEY)


def recorded_proposals(op27: str) -> list[bytes]:
    """Cut the MLSMessages out of a payload that appends proposals without a parser's help."""
    payload = bytes.fromhex(VECTORS[op27])
    assert payload[0] == 0
    reader = Reader(payload[1:], "op 27")
    messages = []
    for item in reader.items():
        start = item.position
        item.take(4)  # version, wire format
        item.vector()
        item.take(8 + 5 + 1 + 1)  # epoch, sender, no data, content type
        if item.uint(2) == 3:
            item.take(4)
        else:
            item.take(4)
            for _ in range(3):
                item.vector()  # keys
            item.take(2)
            for _ in range(6):
                item.vector()  # identity, capabilities
            item.take(17)
            for _ in range(4):
                item.vector()  # extensions, signature, extensions, signature
        item.vector()
        messages.append(item.since(start))
    reader.end()
    return messages


def signature_of(message: bytes) -> tuple[bytes, bytes]:
    """A proposal's signed part and its signature, whose length byte tells where it begins."""
    for length in range(68, 73):
        if message[-length - 2 : -length] == bytes([0x40, length]):
            return message[: -length - 2], message[-length:]
    raise AssertionError("no signature at the end")


# Proposals


def test_the_external_sender_introduces_itself_as_recorded(sender: ExternalSender) -> None:
    assert sender.payload == bytes.fromhex(VECTORS["op25_payload"])
    assert ExternalSender(SENDER_KEY, b"\7" * 80).payload == (
        vector(SENDER_KEY.public) + b"\0\1" + b"\x40\x50" + b"\7" * 80
    )


def test_every_external_sender_has_its_own_key_and_keeps_it() -> None:
    one, other = ExternalSender(), ExternalSender()
    assert one.payload == one.payload
    assert one.payload != other.payload


def test_additions_sign_what_was_recorded(sender: ExternalSender) -> None:
    recorded = recorded_proposals("op27_payload_epoch0")
    for theirs, package in zip(recorded, (B, C), strict=True):
        ours = sender.add(GROUP, 0, package)
        assert signature_of(ours.message)[0] == signature_of(theirs)[0]
        assert (ours.kind, ours.package, ours.leaf) == ("add", package, None)


def test_removals_sign_what_was_recorded(sender: ExternalSender) -> None:
    [theirs] = recorded_proposals("op27_payload_epoch1")
    ours = sender.remove(GROUP, 1, 2)
    assert signature_of(ours.message)[0] == signature_of(theirs)[0]
    assert (ours.kind, ours.package, ours.leaf) == ("remove", None, 2)


def test_signatures_verify_ours_and_theirs(sender: ExternalSender) -> None:
    recorded = recorded_proposals("op27_payload_epoch0") + recorded_proposals("op27_payload_epoch1")
    ours = [sender.add(GROUP, 0, B), sender.remove(GROUP, 7, 5)]
    for message in recorded + [proposal.message for proposal in ours]:
        content, signature = signature_of(message)
        signed = signed_content("FramedContentTBS", content)
        assert verify(SENDER_KEY.public, signature, signed)
        assert not verify(SENDER_KEY.public, signature, signed + b"\0")


def test_references_are_the_recorded_ones() -> None:
    recorded = recorded_proposals("op27_payload_epoch0")
    refs = [reference("Proposal", message[2:]).hex() for message in recorded]
    assert refs == VECTORS["proposal_refs_epoch0"]
    [removal] = recorded_proposals("op27_payload_epoch1")
    assert parse_commit_welcome(COMMIT_2).refs == (reference("Proposal", removal[2:]),)


def test_a_reference_belongs_to_the_signature_too(sender: ExternalSender) -> None:
    one, other = sender.remove(GROUP, 1, 2), sender.remove(GROUP, 1, 2)
    assert one.ref == reference("Proposal", one.message[2:])
    assert one.ref != other.ref


def test_payloads_of_op_27(sender: ExternalSender) -> None:
    proposals = [sender.add(GROUP, 0, B), sender.add(GROUP, 0, C)]
    payload = proposals_payload(proposals)
    messages = b"".join(proposal.message for proposal in proposals)
    assert payload == b"\0" + (0x4000 + len(messages)).to_bytes(2, "big") + messages
    refs = [proposal.ref for proposal in proposals]
    assert revoke_payload(refs) == b"\1\x40\x42" + b"\x20" + refs[0] + b"\x20" + refs[1]


def test_epochs_and_leaves_have_their_full_width(sender: ExternalSender) -> None:
    message = sender.remove(2**64 - 1, 2**64 - 1, 2**32 - 1).message
    assert message.startswith(bytes.fromhex("0001000108" + "ff" * 16 + "02000000000002"))
    assert message[28:34] == bytes.fromhex("0003ffffffff")


# Commits and welcomes


def test_the_recorded_group_creation_is_taken_apart() -> None:
    parsed = parse_commit_welcome(COMMIT_1 + WELCOME)
    assert (parsed.commit, parsed.welcome) == (COMMIT_1, WELCOME)
    assert (parsed.group_id, parsed.epoch, parsed.sender_leaf) == (GROUP, 0, 0)
    assert [ref.hex() for ref in parsed.refs] == VECTORS["proposal_refs_epoch0"]
    assert parsed.path_leaf is None
    assert parsed.welcome_refs == (B.ref, C.ref)


def test_the_recorded_removal_is_taken_apart() -> None:
    parsed = parse_commit_welcome(COMMIT_2)
    assert (parsed.commit, parsed.welcome) == (COMMIT_2, None)
    assert (parsed.group_id, parsed.epoch, parsed.sender_leaf) == (GROUP, 1, 0)
    assert parsed.path_leaf is not None
    assert parsed.path_leaf.user_id == USERS["A"]
    assert parsed.welcome_refs == ()


def test_the_committers_signature_is_where_it_is_looked_for() -> None:
    """With the GroupContext, which members have and servers have not, the signature verifies."""
    parsed = parse_commit_welcome(COMMIT_2)
    assert parsed.path_leaf is not None
    content, signature = signature_of(COMMIT_2[: -2 * 33])
    signed = content + bytes.fromhex(VECTORS["epoch1"]["group_context"])
    key = parsed.path_leaf.signature_key
    assert verify(key, signature, signed_content("FramedContentTBS", signed))


def test_a_welcome_is_cut_down_to_one_receiver() -> None:
    for package in (B, C):
        targeted = welcome_for(WELCOME, package.ref)
        assert len(targeted) < len(WELCOME)
        assert parse_commit_welcome(COMMIT_1 + targeted).welcome_refs == (package.ref,)
        assert targeted[-1000:] == WELCOME[-1000:]  # the group info is for all
        assert package.ref in targeted
        assert welcome_for(targeted, package.ref) == targeted


def test_a_welcome_is_not_for_somebody_else() -> None:
    targeted = welcome_for(WELCOME, B.ref)
    with pytest.raises(MalformedMessage, match="welcome is not for this key package"):
        welcome_for(targeted, C.ref)


def commit(
    *,
    head: bytes = b"\0\1\0\1" + GROUP_ID + bytes(8) + b"\1" + bytes(4) + vector(b"") + b"\3",
    refs: bytes = vector(REF),
    path: bytes = b"\0",
    tags: bytes = TAGS,
) -> bytes:
    return head + refs + path + tags


def welcome(suite: bytes = b"\0\2", count: int = 1, key: int = 65, info: bytes = b"info") -> bytes:
    secret = vector(bytes(32)) + vector(bytes(key)) + vector(b"secret")
    return suite + vector(secret * count) + vector(info)


def path_nodes(nodes: bytes) -> bytes:
    """A path whose leaf is the recorded one, for group and leaf of the recorded commit."""
    start = COMMIT_2.index(b"\x01\x40\x41\x04")
    end = COMMIT_2.index(bytes.fromhex("40b940410421"))  # one node of 185 bytes
    return COMMIT_2[start:end] + vector(nodes)


def node(key: int = 65, kem: int = 65, secrets: int = 1) -> bytes:
    encrypted = vector(bytes(kem)) + vector(bytes(48))
    return vector(bytes(key)) + vector(encrypted * secrets)


def test_a_commit_by_hand_is_read() -> None:
    parsed = parse_commit_welcome(commit() + welcome())
    assert parsed == CommitWelcome(
        commit(), welcome(), GROUP, 0, 0, (bytes(range(32)),), None, (bytes(32),)
    )


def test_a_path_may_have_several_nodes_with_several_secrets() -> None:
    parsed = parse_commit_welcome(commit(path=path_nodes(node() + node(secrets=3) + node())))
    assert isinstance(parsed.path_leaf, LeafIdentity)
    assert parsed.commit == commit(path=path_nodes(node() + node(secrets=3) + node()))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "cut short"),
        (commit(head=b"\0\2\0\1"), "version 2, not 1"),
        (commit(head=b"\0\1\0\2"), "wire format 2, not 1"),
        (commit(head=b"\0\1\0\1" + vector(bytes(4))), "a group id of 4 bytes, not 8"),
        (commit(head=commit()[:21] + b"\2"), "sender type 2, not 1"),
        (commit(head=commit()[:26] + vector(b"data")), "authenticated data of 4 bytes"),
        (commit(head=commit()[:27] + b"\2"), "content type 2, not 3"),
        (commit(refs=vector(b"\1\0\3\0\0\0\1")), "a proposal that is not the server's"),
        (commit(refs=vector(b"\2" + vector(bytes(31)))), "a proposal reference of 31 bytes"),
        (commit(refs=vector(REF * 2)), "names a proposal twice"),
        (commit(path=b"\2"), "neither there nor not"),
        (commit(path=path_nodes(node(key=64))), "a path key of 64 bytes"),
        (commit(path=path_nodes(node(kem=64))), "a key encapsulation of 64 bytes"),
        (commit(path=path_nodes(node() * 33)), "longer than any tree is high"),
        (commit(tags=vector(b"") + vector(bytes(31))), "a confirmation tag of 31 bytes"),
        (commit(tags=vector(b"") + vector(bytes(32)) + vector(b"")), "a membership tag of 0"),
        (commit() + welcome(suite=b"\0\1"), "welcome has cipher suite 1, not 2"),
        (commit() + welcome(count=0), "welcome is for nobody"),
        (commit() + welcome(count=2), "welcome is for one key package twice"),
        (commit() + welcome(key=64), "a key encapsulation of 64 bytes"),
        (commit() + welcome()[:-1], "welcome is cut short"),
        (commit() + welcome() + b"\0", "welcome is followed by 1 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_commit_is_refused_with_its_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=reason):
        parse_commit_welcome(payload)


def test_the_leaf_of_a_path_must_be_signed_for_its_place() -> None:
    moved = COMMIT_2[:25] + b"\1" + COMMIT_2[26:]  # the committer says he is leaf 1
    with pytest.raises(MalformedMessage, match="leaf node with a wrong signature"):
        parse_commit_welcome(moved)


def test_nothing_secret_is_shown() -> None:
    parsed = parse_commit_welcome(COMMIT_1 + WELCOME)
    assert repr(WELCOME[100:110])[2:-1] not in repr(parsed)
    assert "ExternalSender object" in repr(ExternalSender(SENDER_KEY))
