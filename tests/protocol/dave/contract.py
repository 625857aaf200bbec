"""What every `DaveBackend` has to do, as tests that the file of each one inherits."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from discord_rtc.errors import DaveError, InvalidCommit, NotReady
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.protocol.dave.backend import Undecryptable
from discord_rtc.protocol.dave.frame import is_encrypted
from discord_rtc.protocol.dave.identity import IdentityKey

from .external import Call, ExternalSender, append, revoke, signature_key, split

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.protocol.dave.backend import DaveBackend

Make: TypeAlias = "Callable[[int], DaveBackend]"

ANN, BOB, CAT, DAN = 104694319306248192, 852892297661906993, 193696591125807105, 4
EVERYBODY = frozenset({ANN, BOB, CAT, DAN})
AUDIO, VIDEO = MediaKind.AUDIO, MediaKind.VIDEO

FRAMES = {
    Codec.OPUS: bytes.fromhex("7801020304"),
    Codec.H264: bytes.fromhex("00000001 6742c00a 00000001 68ce3880 00000001 65888404abcdef0123"),
    Codec.H265: bytes.fromhex("00000001 40010c01 00000001 2601af06b8123456"),
    Codec.VP8: bytes.fromhex("1002009d012a80020e01 aabbccddee"),
    Codec.VP9: bytes.fromhex("82498342 00112233"),
    # A sequence header and a frame; the last size is omitted, as it is after the journey.
    Codec.AV1: bytes.fromhex("0a0300112233"[:10] + "30 aabbccddeeff"),
}


def identity_of(number: int) -> IdentityKey:
    key = ec.derive_private_key(number, ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return IdentityKey(number.to_bytes(32, "big"), public)


def hears(listener: DaveBackend, speaker: DaveBackend, user_id: int) -> bool:
    frame = FRAMES[Codec.OPUS]
    return listener.decrypt(user_id, AUDIO, speaker.encrypt(frame, Codec.OPUS)) == frame


class Contract:
    """Give the fixture ``make`` and inherit."""

    @pytest.fixture
    def pair(self, make: Make) -> Call:
        call = Call()
        call.found({ANN: make(ANN), BOB: make(BOB)})
        call.switch()
        return call

    def test_nothing_is_there_before_the_group(self, make: Make) -> None:
        backend = make(ANN)
        for _ in range(2):
            assert backend.members == frozenset()
            assert backend.epoch_authenticator is None
            assert not backend.can_encrypt()
            backend.switch_sender()
            with pytest.raises(NotReady):
                backend.encrypt(FRAMES[Codec.OPUS], Codec.OPUS)
            assert backend.decrypt(BOB, AUDIO, b"frame") is Undecryptable.NO_KEY
            with pytest.raises(NotReady):
                backend.fingerprint(BOB)
            backend.set_external_sender(ExternalSender().payload)
            backend.begin(1)

    def test_mls_messages_are_refused_before_begin(self, make: Make, pair: Call) -> None:
        backend = make(CAT)
        assert not backend.process_commit(pair.commit)
        assert pair.welcome
        with pytest.raises(InvalidCommit):
            backend.process_welcome(pair.welcome, EVERYBODY)
        with pytest.raises(DaveError):
            backend.process_proposals(append(pair.sender.remove(1, 1)), EVERYBODY)

    def test_members_of_a_group_hear_each_other(self, pair: Call) -> None:
        ann, bob = pair.backends[ANN], pair.backends[BOB]
        assert ann.members == bob.members == {ANN, BOB}
        assert ann.epoch_authenticator == bob.epoch_authenticator is not None
        assert ann.can_encrypt()
        assert bob.can_encrypt()
        assert hears(ann, bob, BOB)
        assert hears(bob, ann, ANN)

    @pytest.mark.parametrize("codec", Codec)
    def test_every_codec_arrives_as_it_was(self, pair: Call, codec: Codec) -> None:
        sent = pair.backends[ANN].encrypt(FRAMES[codec], codec)
        assert is_encrypted(sent)
        assert pair.backends[BOB].decrypt(ANN, codec.kind, sent) == FRAMES[codec]

    def test_a_frame_of_a_stranger_or_of_our_own_has_no_key(self, pair: Call) -> None:
        ann = pair.backends[ANN]
        frame = ann.encrypt(b"hello", Codec.OPUS)
        assert ann.decrypt(CAT, AUDIO, frame) is Undecryptable.NO_KEY
        assert ann.decrypt(ANN, AUDIO, frame) is Undecryptable.NO_KEY

    def test_a_replayed_or_forged_frame_is_undecryptable(self, pair: Call) -> None:
        ann, bob = pair.backends[ANN], pair.backends[BOB]
        frame = ann.encrypt(FRAMES[Codec.VP8], Codec.VP8)
        for at in (0, 12):  # a clear byte, a secret one
            forged = frame[:at] + bytes([frame[at] ^ 2]) + frame[at + 1 :]
            assert bob.decrypt(ANN, VIDEO, forged) is Undecryptable.FAILED
        assert bob.decrypt(ANN, VIDEO, frame) == FRAMES[Codec.VP8]
        assert bob.decrypt(ANN, VIDEO, frame) is Undecryptable.FAILED

    @pytest.mark.parametrize(
        "frame", [b"", b"\xfa\xfa", b"plain and clear", b"abcdefgh\x01\x0c\xfa\xfa"]
    )
    def test_bytes_that_are_no_encrypted_frame_are_undecryptable(
        self, pair: Call, frame: bytes
    ) -> None:
        assert pair.backends[BOB].decrypt(ANN, AUDIO, frame) is Undecryptable.FAILED

    def test_a_frame_that_the_library_would_spoil_is_refused(self, pair: Call) -> None:
        ann = pair.backends[ANN]
        with pytest.raises(DaveError, match="Annex B"):
            ann.encrypt(b"\0\0\0\x10" + b"\x65" * 16, Codec.H264)
        assert hears(pair.backends[BOB], ann, ANN)

    # The external sender

    def test_the_external_sender_may_come_after_begin(self, make: Make) -> None:
        call = Call()
        call.found({ANN: make(ANN)} | {BOB: make(BOB)})
        late = make(CAT)
        package = late.begin(1)
        late.set_external_sender(call.sender.payload)
        add = append(call.sender.add(1, package))
        made = call.backends[ANN].process_proposals(add, EVERYBODY)
        assert made
        _, welcome = split(made)
        assert welcome
        late.process_welcome(welcome, EVERYBODY)
        assert late.members == {ANN, BOB, CAT}

    def test_the_same_external_sender_again_changes_nothing(self, make: Make) -> None:
        sender = ExternalSender()
        ann, bob = make(ANN), make(BOB)
        for backend in (ann, bob):
            backend.set_external_sender(sender.payload)
        ann.begin(1)
        made = ann.process_proposals(append(sender.add(0, bob.begin(1))), EVERYBODY)
        assert made
        ann.set_external_sender(sender.payload)
        assert ann.process_commit(split(made)[0])
        ann.set_external_sender(sender.payload)
        assert ann.members == {ANN, BOB}

    def test_another_external_sender_replaces_one_that_has_said_nothing(self, make: Make) -> None:
        call = Call()
        backends = {ANN: make(ANN), BOB: make(BOB)}
        for backend in backends.values():
            backend.set_external_sender(ExternalSender().payload)
            backend.begin(1)
            backend.set_external_sender(call.sender.payload)
            backend.set_external_sender(ExternalSender().payload)
        call.found(backends)
        assert backends[ANN].members == {ANN, BOB}

    def test_another_external_sender_of_an_established_group_is_ignored(self, pair: Call) -> None:
        ann = pair.backends[ANN]
        stranger = ExternalSender()
        ann.set_external_sender(stranger.payload)
        with pytest.raises(DaveError):
            ann.process_proposals(append(stranger.remove(1, 1)), EVERYBODY)
        assert ann.process_proposals(append(pair.sender.remove(1, 1)), EVERYBODY)

    @pytest.mark.parametrize("payload", [b"", b"\x40", ExternalSender().payload[:-1]])
    def test_an_external_sender_that_cannot_be_read_is_an_error(
        self, make: Make, payload: bytes
    ) -> None:
        with pytest.raises(DaveError, match="external sender"):
            make(ANN).set_external_sender(payload)

    # Proposals

    def test_proposals_of_nobody_we_trust_are_refused(self, make: Make, pair: Call) -> None:
        ann = pair.backends[ANN]
        package = self._package(make, CAT, pair)
        add = append(pair.sender.add(1, package))
        refused = {
            "unknown user": (add, frozenset({ANN, BOB})),
            "wrong epoch": (append(pair.sender.add(2, package)), EVERYBODY),
            "wrong signer": (append(ExternalSender().add(1, package)), EVERYBODY),
            "wrong group": (append(ExternalSender(group_id=5).add(1, package)), EVERYBODY),
            "cut": (add[:50], EVERYBODY),
            "unknown proposal": (revoke(bytes(32)), EVERYBODY),
            "nothing": (b"", EVERYBODY),
            "no operation": (b"\x07\x00", EVERYBODY),
        }
        for reason, (payload, recognised) in refused.items():
            with pytest.raises(DaveError):
                pytest.fail(f"{reason}: {ann.process_proposals(payload, recognised)!r}")
        assert ann.process_proposals(add, EVERYBODY)

    def test_nobody_commits_to_being_removed(self, pair: Call) -> None:
        with pytest.raises(DaveError):
            pair.backends[BOB].process_proposals(append(pair.sender.remove(1, 1)), EVERYBODY)

    def test_no_commit_comes_of_no_proposals(self, make: Make, pair: Call) -> None:
        ann = pair.backends[ANN]
        add = pair.sender.add(1, self._package(make, CAT, pair))
        assert ann.process_proposals(append(), EVERYBODY) is None
        assert ann.process_proposals(append(add), EVERYBODY)
        assert ann.process_proposals(revoke(add.ref), EVERYBODY) is None

    def test_after_a_revoke_what_is_left_is_committed(self, make: Make, pair: Call) -> None:
        cat, dan = make(CAT), make(DAN)
        pair.enter({CAT: cat, DAN: dan})
        adds = [pair.sender.add(1, pair.packages[user]) for user in (CAT, DAN)]
        ann, bob = pair.backends[ANN], pair.backends[BOB]
        for backend in (bob, ann):
            assert backend.process_proposals(append(*adds), EVERYBODY)
        assert bob.process_proposals(revoke(adds[0].ref), EVERYBODY)
        made = ann.process_proposals(revoke(adds[0].ref), EVERYBODY)
        assert made
        commit, welcome = split(made)
        assert welcome
        for backend in (ann, bob):
            assert backend.process_commit(commit)
            assert backend.members == {ANN, BOB, DAN}
        with pytest.raises(InvalidCommit):
            cat.process_welcome(welcome, EVERYBODY)
        dan.process_welcome(welcome, EVERYBODY)

    def test_a_list_that_only_removes_keeps_the_welcome_of_the_one_before(
        self, make: Make, pair: Call
    ) -> None:
        cat, dan = make(CAT), make(DAN)
        pair.change({CAT: cat})
        pair.enter({DAN: dan})
        ann = pair.backends[ANN]
        assert ann.process_proposals(append(pair.sender.add(2, pair.packages[DAN])), EVERYBODY)
        made = ann.process_proposals(append(pair.sender.remove(2, 2)), EVERYBODY)
        assert made
        commit, welcome = split(made)
        assert welcome
        assert ann.process_commit(commit)
        dan.process_welcome(welcome, EVERYBODY)
        assert ann.members == dan.members == {ANN, BOB, DAN}
        assert ann.epoch_authenticator == dan.epoch_authenticator

    # Commits

    def test_somebody_elses_initial_commit_is_none_of_ours(self, make: Make) -> None:
        call = Call()
        backends = {ANN: make(ANN), BOB: make(BOB), CAT: make(CAT)}
        call.enter(backends)
        made = {}
        for user, backend in backends.items():
            adds = [call.sender.add(0, call.packages[other]) for other in backends if other != user]
            made[user] = backend.process_proposals(append(*adds), EVERYBODY)
        commit, welcome = split(made[ANN] or b"")
        assert welcome
        assert backends[ANN].process_commit(commit)
        for user in (BOB, CAT):
            assert not backends[user].process_commit(commit)
            backends[user].process_welcome(welcome, EVERYBODY)
        assert len({backend.epoch_authenticator for backend in backends.values()}) == 1

    def test_a_commit_of_a_group_that_we_are_not_in_is_none_of_ours(
        self, make: Make, pair: Call
    ) -> None:
        cat = make(CAT)
        pair.change({CAT: cat})
        cat.begin(1)
        assert not cat.process_commit(pair.commit)

    @pytest.mark.parametrize("damage", ["first byte", "signature", "last byte", "cut", "garbage"])
    def test_our_own_commit_damaged_is_invalid(self, make: Make, damage: str) -> None:
        sender = ExternalSender()
        ann, bob = make(ANN), make(BOB)
        for backend in (ann, bob):
            backend.set_external_sender(sender.payload)
        ann.begin(1)
        made = ann.process_proposals(append(sender.add(0, bob.begin(1))), EVERYBODY)
        assert made
        commit, _ = split(made)
        damaged = {
            "first byte": b"\1" + commit[1:],
            "signature": commit[:80] + bytes([commit[80] ^ 1]) + commit[81:],
            "last byte": commit[:-1] + bytes([commit[-1] ^ 1]),
            "cut": commit[:-10],
            "garbage": b"garbage",
        }
        with pytest.raises(InvalidCommit):
            ann.process_commit(damaged[damage])
        assert ann.members == frozenset()

    def test_a_commit_to_proposals_that_we_do_not_know_is_invalid(
        self, make: Make, pair: Call
    ) -> None:
        add = append(pair.sender.add(1, self._package(make, CAT, pair)))
        made = pair.backends[ANN].process_proposals(add, EVERYBODY)
        assert made
        bob = pair.backends[BOB]
        with pytest.raises(InvalidCommit):
            bob.process_commit(split(made)[0])
        assert bob.process_proposals(append(pair.sender.remove(1, 0)), EVERYBODY)
        with pytest.raises(InvalidCommit):
            bob.process_commit(split(made)[0])

    @pytest.mark.parametrize("at", [0, 10, 60, 100, -1])
    def test_a_forged_commit_is_invalid(self, make: Make, pair: Call, at: int) -> None:
        add = append(pair.sender.add(1, self._package(make, CAT, pair)))
        made = pair.backends[ANN].process_proposals(add, EVERYBODY)
        assert made
        commit = bytearray(split(made)[0])
        commit[at] ^= 1
        bob = pair.backends[BOB]
        assert bob.process_proposals(add, EVERYBODY)
        for forged in (bytes(commit), b"", b"\0\1\0\1"):
            with pytest.raises(InvalidCommit):
                bob.process_commit(forged)
        assert hears(bob, pair.backends[ANN], ANN)

    def test_a_commit_of_another_group_is_invalid(self, pair: Call) -> None:
        ann = pair.backends[ANN]
        assert ann.process_proposals(append(pair.sender.remove(1, 1)), EVERYBODY)
        other = Call(ExternalSender(group_id=5))
        stranger, package = self._stranger(CAT, other), self._stranger(DAN, other).begin(1)
        stranger.begin(1)
        made = stranger.process_proposals(append(other.sender.add(0, package)), EVERYBODY)
        assert made
        with pytest.raises(InvalidCommit):
            ann.process_commit(split(made)[0])

    def test_one_commit_takes_a_member_out_and_in_again(self, make: Make, pair: Call) -> None:
        pair.change({CAT: make(CAT)})
        bob = pair.backends[BOB]
        pair.change({BOB: bob}, leaving=[BOB])
        pair.switch()
        authenticators = {pair.backends[user].epoch_authenticator for user in (ANN, BOB, CAT)}
        assert len(authenticators) == 1
        assert hears(bob, pair.backends[CAT], CAT)
        assert hears(pair.backends[CAT], bob, BOB)

    # Welcomes

    def test_a_welcome_that_is_not_for_us_is_invalid(self, make: Make, pair: Call) -> None:
        cat, dan = make(CAT), make(DAN)
        pair.enter({DAN: dan})
        pair.change({CAT: cat})
        assert pair.welcome
        for welcome in (pair.welcome, pair.welcome[:-9], b"", b"garbage"):
            with pytest.raises(InvalidCommit):
                dan.process_welcome(welcome, EVERYBODY)
        with pytest.raises(InvalidCommit):
            cat.process_welcome(pair.welcome, EVERYBODY)  # we are in already

    def test_a_welcome_among_people_we_do_not_know_is_invalid(self, make: Make, pair: Call) -> None:
        welcome = self._welcome(cat := make(CAT), pair)
        with pytest.raises(InvalidCommit):
            cat.process_welcome(welcome, frozenset({ANN, CAT}))
        assert cat.members == frozenset()
        assert not cat.can_encrypt()
        assert cat.decrypt(BOB, AUDIO, b"frame") is Undecryptable.NO_KEY

    def test_a_welcome_of_another_external_sender_is_invalid(self, make: Make, pair: Call) -> None:
        cat = make(CAT)
        cat.set_external_sender(ExternalSender().payload)
        package = cat.begin(1)
        add = append(pair.sender.add(1, package))
        made = pair.backends[ANN].process_proposals(add, EVERYBODY)
        assert made
        _, welcome = split(made)
        assert welcome
        with pytest.raises(InvalidCommit):
            cat.process_welcome(welcome, EVERYBODY)
        assert cat.members == frozenset()

    # Life

    def test_frames_under_way_during_a_transition_are_decrypted(
        self, make: Make, pair: Call
    ) -> None:
        ann, bob = pair.backends[ANN], pair.backends[BOB]
        under_way = [ann.encrypt(b"frame", Codec.OPUS) for _ in range(3)]
        pair.change({CAT: make(CAT)})
        pair.switch()
        new = ann.encrypt(b"new", Codec.OPUS)
        assert bob.decrypt(ANN, AUDIO, new) == b"new"
        for frame in under_way:
            assert bob.decrypt(ANN, AUDIO, frame) == b"frame"
        assert pair.backends[CAT].decrypt(ANN, AUDIO, under_way[0]) is Undecryptable.FAILED

    def test_begin_forgets_everything_but_the_external_sender(self, pair: Call) -> None:
        ann, bob = pair.backends[ANN], pair.backends[BOB]
        packages = {ann.begin(1), ann.begin(1)}
        assert len(packages) == 2
        self._assert_without_group(ann, bob)
        made = ann.process_proposals(append(pair.sender.add(0, bob.begin(1))), EVERYBODY)
        assert made
        assert ann.process_commit(split(made)[0])

    def test_reset_forgets_everything(self, pair: Call) -> None:
        ann, bob = pair.backends[ANN], pair.backends[BOB]
        ann.reset()
        self._assert_without_group(ann, bob)
        with pytest.raises(DaveError):
            ann.process_proposals(append(pair.sender.remove(1, 1)), EVERYBODY)
        ann.begin(1)
        assert ann.process_proposals(append(pair.sender.add(0, bob.begin(1))), EVERYBODY)

    # Identity

    def test_the_key_package_shows_the_identity(self, with_identity: DaveBackend) -> None:
        assert signature_key(with_identity.begin(1)) == identity_of(7).public

    def test_without_identity_the_key_lives_as_long_as_the_object(self, make: Make) -> None:
        one, other = make(ANN), make(ANN)
        keys = [signature_key(backend.begin(1)) for backend in (one, one, other)]
        assert keys[0] == keys[1] != keys[2]

    def test_two_members_see_the_same_fingerprint(self, make: Make, pair: Call) -> None:
        pair.change({CAT: make(CAT)})
        ann, bob, cat = (pair.backends[user] for user in (ANN, BOB, CAT))
        assert ann.fingerprint(BOB) == bob.fingerprint(ANN)
        assert len(ann.fingerprint(CAT)) == 64
        assert ann.fingerprint(CAT) == cat.fingerprint(ANN) != ann.fingerprint(BOB)
        with pytest.raises(NotReady):
            ann.fingerprint(DAN)

    @staticmethod
    def _assert_without_group(backend: DaveBackend, other: DaveBackend) -> None:
        assert backend.members == frozenset()
        assert backend.epoch_authenticator is None
        assert not backend.can_encrypt()
        with pytest.raises(NotReady):
            backend.encrypt(b"frame", Codec.OPUS)
        with pytest.raises(NotReady):
            backend.fingerprint(BOB)
        frame = other.encrypt(b"frame", Codec.OPUS)
        assert backend.decrypt(BOB, AUDIO, frame) is Undecryptable.NO_KEY

    @staticmethod
    def _package(make: Make, user_id: int, call: Call) -> bytes:
        backend = make(user_id)
        backend.set_external_sender(call.sender.payload)
        return backend.begin(1)

    @staticmethod
    def _stranger(user_id: int, call: Call) -> DaveBackend:
        from discord_rtc.protocol.dave.libdave import LibdaveBackend

        backend = LibdaveBackend(user_id, call.sender.group_id)
        backend.set_external_sender(call.sender.payload)
        return backend

    @staticmethod
    def _welcome(joiner: DaveBackend, call: Call) -> bytes:
        call.enter({CAT: joiner})
        add = append(call.sender.add(1, call.packages[CAT]))
        made = call.backends[ANN].process_proposals(add, EVERYBODY)
        assert made
        _, welcome = split(made)
        assert welcome
        return welcome
