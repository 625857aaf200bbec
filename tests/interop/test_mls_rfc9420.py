"""A recorded call, lived through as one of its members by the independent package rfc9420.

The call (tests/vectors/dave.json) was made by davey: A adds B and C, then removes C. Here rfc9420
is B, with the private keys of the recording; what it arrives at must be what was recorded. The
messages go through the server's parsers and builders on their way.

Peculiarities of rfc9420 1.3.0: its own exporter takes the context as it is, where RFC 9420
section 8.5 hashes it, so that keys are derived here from the exporter secret; a group does not
give its membership key away, so that it comes of the key schedule made from the joiner secret.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
import rfc9420
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from rfc9420.crypto.hpke_labels import decrypt_with_label
from rfc9420.messages.data_structures import (
    GroupContext,
    GroupSecrets,
    Welcome,
)
from rfc9420.messages.key_packages import KeyPackage
from rfc9420.messages.messages import AuthenticatedContent, MLSMessage, MLSPlaintext
from rfc9420.messages.refs import make_key_package_ref, make_proposal_ref
from rfc9420.protocol.schedule import KeySchedule

from discord_rtc.crypto.p256 import SigningKey
from discord_rtc.protocol.dave.codes import privacy_code
from discord_rtc.protocol.dave.frame import parse_trailer
from discord_rtc.server.mls import (
    ExternalSender,
    parse_commit_welcome,
    parse_key_package,
    proposals_payload,
    welcome_for,
)
from discord_rtc.server.mls_wire import vector

pytestmark = pytest.mark.interop

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "dave.json").read_text())
GROUP = int(VECTORS["group_id"])
USERS = {name: int(user_id) for name, user_id in VECTORS["users"].items()}
SENDER = ExternalSender(SigningKey.from_private(bytes.fromhex(VECTORS["ext_sender_priv"])))
PRIVATE = {name: bytes.fromhex(value) for name, value in VECTORS["B_priv"].items()}
PACKAGE_B = bytes.fromhex(VECTORS["op26_payload_B"])
COMMIT_1 = bytes.fromhex(VECTORS["epoch1"]["commit"])
WELCOME = bytes.fromhex(VECTORS["epoch1"]["welcome"])
COMMIT_2 = bytes.fromhex(VECTORS["epoch2"]["commit"])
EXTERNAL = rfc9420.Sender(0, rfc9420.SenderType.EXTERNAL)


@pytest.fixture
def crypto() -> rfc9420.DefaultCryptoProvider:
    return rfc9420.DefaultCryptoProvider(
        int(rfc9420.CipherSuiteId.MLS_128_DHKEMP256_AES128GCM_SHA256_P256)
    )


def joined(
    crypto: rfc9420.DefaultCryptoProvider, welcome: bytes = WELCOME
) -> rfc9420.ProtocolMLSGroup:
    """B enters the group with its recorded keys. Both signatures, tree hash and tag are checked."""
    return rfc9420.ProtocolMLSGroup.from_welcome(
        Welcome.deserialize(welcome),
        PRIVATE["init"],
        crypto,
        key_package=KeyPackage.deserialize(PACKAGE_B),
        encryption_private_key=PRIVATE["encryption"],
    )


def public_message(message: bytes) -> MLSPlaintext:
    content = MLSMessage.deserialize(message).get_parsed_content()
    assert isinstance(content, AuthenticatedContent)
    return MLSPlaintext(content)


def expand_with_label(secret: bytes, label: str, context: bytes, length: int) -> bytes:
    """RFC 9420 section 8 over one block of HKDF-Expand (RFC 5869 section 2.3), by hand."""
    info = length.to_bytes(2, "big") + vector(b"MLS 1.0 " + label.encode()) + vector(context)
    return hmac.digest(secret, info + b"\1", "sha256")[:length]


def base_key(exporter_secret: bytes, user_id: int) -> bytes:
    """DAVE whitepaper, "Sender Key Derivation"."""
    secret = expand_with_label(exporter_secret, "Discord Secure Frames v0", b"", 32)
    context = hashlib.sha256(user_id.to_bytes(8, "little")).digest()
    return expand_with_label(secret, "exported", context, 16)


def base_keys(group: rfc9420.ProtocolMLSGroup, epoch: str) -> dict[str, str]:
    """For everybody of whom a key was recorded."""
    return {
        user_id: base_key(group.get_exporter_secret(), int(user_id)).hex()
        for user_id in VECTORS[epoch]["sender_base_keys"]
    }


def remove_c() -> bytes:
    """The recorded proposal: op 27 without operation and length."""
    return bytes.fromhex(VECTORS["op27_payload_epoch1"])[3:]


def test_the_formulas_give_the_published_values() -> None:
    secret = bytes(range(32))
    exporter = VECTORS["primitives"]["exporter"]
    assert base_key(secret, int(exporter["user_id"])).hex() == exporter["out16"]
    expanded = VECTORS["primitives"]["expand_with_label"]
    assert expand_with_label(secret, "key", bytes(4), 16).hex() == expanded["out"]


@pytest.mark.parametrize("targeted", [False, True])
def test_b_joins_with_the_recorded_welcome(
    targeted: bool, crypto: rfc9420.DefaultCryptoProvider
) -> None:
    package = parse_key_package(PACKAGE_B, USERS["B"])
    group = joined(crypto, welcome_for(WELCOME, package.ref) if targeted else WELCOME)
    assert (group.get_epoch(), group.get_own_leaf_index()) == (1, VECTORS["epoch1"]["B_leaf"])
    assert group.get_group_id() == GROUP.to_bytes(8, "big")
    authenticator = group.get_epoch_authenticator()
    assert authenticator.hex() == VECTORS["epoch1"]["epoch_authenticator"]
    assert len(privacy_code(authenticator)) == 30
    assert base_keys(group, "epoch1") == VECTORS["epoch1"]["sender_base_keys"]
    members = [identity for _, identity in group.get_member_identities() if identity]
    assert members == [USERS[name].to_bytes(8, "big") for name in "ABC"]


def test_the_key_schedule_is_the_recorded_one(crypto: rfc9420.DefaultCryptoProvider) -> None:
    welcome = Welcome.deserialize(
        welcome_for(WELCOME, parse_key_package(PACKAGE_B, USERS["B"]).ref)
    )
    [secrets] = welcome.secrets
    opened = decrypt_with_label(
        crypto,
        PRIVATE["init"],
        secrets.kem_output,
        b"Welcome",
        welcome.encrypted_group_info,
        b"",
        secrets.ciphertext,
    )
    context = GroupContext.deserialize(bytes.fromhex(VECTORS["epoch1"]["group_context"]))
    schedule = KeySchedule.from_joiner_secret(
        GroupSecrets.deserialize(opened).joiner_secret, None, context, crypto
    )
    for name in ("epoch_authenticator", "membership_key", "init_secret"):
        assert getattr(schedule, name).hex() == VECTORS["epoch1"][name], name
    tag = hmac.digest(schedule.confirmation_key, context.confirmed_transcript_hash, "sha256")
    assert tag.hex() == VECTORS["epoch1"]["confirmation_tag"]
    assert COMMIT_1.endswith(b"\x20" + tag + vector(COMMIT_1[-32:]))


def test_b_follows_a_commit_with_a_path(crypto: rfc9420.DefaultCryptoProvider) -> None:
    group = joined(crypto)
    group.process_proposal(public_message(remove_c()), EXTERNAL, wire_format=1)
    group.process_commit(public_message(COMMIT_2), parse_commit_welcome(COMMIT_2).sender_leaf)
    assert group.get_epoch() == 2
    authenticator = group.get_epoch_authenticator()
    assert authenticator.hex() == VECTORS["epoch2"]["epoch_authenticator"]
    assert base_keys(group, "epoch2") == VECTORS["epoch2"]["sender_base_keys"]
    assert len(group.get_member_identities()) == 2


def test_references_are_the_same(crypto: rfc9420.DefaultCryptoProvider) -> None:
    proposal = SENDER.remove(GROUP, 1, 2)
    for message, ref in (
        (proposal.message, proposal.ref),
        (remove_c(), parse_commit_welcome(COMMIT_2).refs[0]),
    ):
        content = public_message(message).auth_content.serialize_authenticated_content()
        assert make_proposal_ref(crypto, content) == ref
    package = parse_key_package(PACKAGE_B, USERS["B"])
    assert make_key_package_ref(crypto, PACKAGE_B) == package.ref


def test_proposals_of_ours_are_accepted_and_others_are_not(
    crypto: rfc9420.DefaultCryptoProvider,
) -> None:
    group = joined(crypto)
    ours = SENDER.remove(GROUP, 1, 2).message
    group.process_proposal(public_message(ours), EXTERNAL, wire_format=1)
    forged = ExternalSender().remove(GROUP, 1, 2).message
    with pytest.raises(rfc9420.InvalidSignatureError):
        group.process_proposal(public_message(forged), EXTERNAL, wire_format=1)
    # Signed over another epoch, so that a copy into this one does not verify.
    moved = SENDER.remove(GROUP, 2, 2).message
    moved = moved[:20] + b"\1" + moved[21:]
    with pytest.raises(rfc9420.InvalidSignatureError):
        group.process_proposal(public_message(moved), EXTERNAL, wire_format=1)


def test_a_forged_commit_is_refused_by_members_though_servers_cannot_tell(
    crypto: rfc9420.DefaultCryptoProvider,
) -> None:
    group = joined(crypto)
    group.process_proposal(public_message(remove_c()), EXTERNAL, wire_format=1)
    forged = bytearray(COMMIT_2)
    forged[-40] ^= 1  # in the confirmation tag
    assert parse_commit_welcome(bytes(forged)).refs == parse_commit_welcome(COMMIT_2).refs
    with pytest.raises(rfc9420.RFC9420Error):
        group.process_commit(public_message(bytes(forged)), 0)


def test_a_frame_opens_with_the_key_that_b_derives(
    crypto: rfc9420.DefaultCryptoProvider,
) -> None:
    base = base_key(joined(crypto).get_exporter_secret(), USERS["A"])
    frame = bytes.fromhex(VECTORS["epoch1"]["frame_from_A_opus"])
    trailer = parse_trailer(frame)
    assert trailer is not None
    assert (trailer.nonce >> 24, trailer.ranges) == (0, ())  # first generation, nothing clear
    key = expand_with_label(base, "key", bytes(4), 16)
    nonce = bytes(8) + trailer.nonce.to_bytes(4, "little")
    opener = Cipher(AES(key), GCM(nonce, trailer.tag, min_tag_length=8)).decryptor()
    media = opener.update(frame[: -trailer.size]) + opener.finalize()
    assert media.hex() == VECTORS["epoch1"]["frame_plaintext"]


def test_payloads_of_op_27_hold_whole_messages() -> None:
    proposals = [SENDER.remove(GROUP, 1, leaf) for leaf in (1, 2)]
    payload = proposals_payload(proposals)
    rest = payload[3:]
    for proposal in proposals:
        assert public_message(rest[: len(proposal.message)]).auth_content.tbs.framed_content.epoch
        rest = rest[len(proposal.message) :]
    assert rest == b""
