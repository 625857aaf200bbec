"""The DAVE port over libdave, alone."""

from __future__ import annotations

import logging
import subprocess
import sys

import dave
import pytest

from discord_rtc.errors import DaveError, UsageError
from discord_rtc.frames import OPUS_SILENCE, Codec
from discord_rtc.protocol.dave.backend import KEY_LIFETIME, Undecryptable
from discord_rtc.protocol.dave.frame import is_encrypted, parse_trailer
from discord_rtc.protocol.dave.identity import IdentityKey
from discord_rtc.protocol.dave.libdave import (
    LibdaveBackend,
    encrypt_with,
    make_encryptor,
    quieten,
)

from .contract import ANN, AUDIO, BOB, CAT, EVERYBODY, Contract, Make, hears, identity_of
from .external import GROUP, Call, Proposal, append, split


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def nonce_of(frame: bytes) -> int:
    trailer = parse_trailer(frame)
    assert trailer is not None
    return trailer.nonce


class TestLibdaveBackend(Contract):
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def make(self, clock: Clock) -> Make:
        return lambda user_id: LibdaveBackend(user_id, GROUP, clock=clock)

    @pytest.fixture
    def with_identity(self) -> LibdaveBackend:
        return LibdaveBackend(ANN, GROUP, identity_of(7))

    def test_it_says_what_it_is(self, make: Make) -> None:
        backend = make(ANN)
        assert backend.library == "dave.py"
        assert not backend.sender_follows_commit

    def test_the_sending_key_changes_when_the_transition_executes(
        self, make: Make, pair: Call
    ) -> None:
        ann, bob = pair.backends[ANN], pair.backends[BOB]
        pair.enter({CAT: make(CAT)})
        add = append(pair.sender.add(1, pair.packages[CAT]))
        made = ann.process_proposals(add, EVERYBODY)
        bob.process_proposals(add, EVERYBODY)
        assert made
        assert ann.process_commit(split(made)[0])
        assert hears(bob, ann, ANN)
        ann.switch_sender()
        late = ann.encrypt(b"late", Codec.OPUS)
        assert bob.decrypt(ANN, AUDIO, late) is Undecryptable.FAILED
        assert bob.process_commit(split(made)[0])
        assert bob.decrypt(ANN, AUDIO, late) == b"late"

    def test_a_nonce_is_never_used_twice_with_one_key(self, make: Make, pair: Call) -> None:
        ann = pair.backends[ANN]
        nonces = []
        for _ in range(3):
            nonces.append(nonce_of(ann.encrypt(b"frame", Codec.OPUS)))
            ann.switch_sender()
        assert nonces == [1, 2, 3]
        pair.change({CAT: make(CAT)})
        assert nonce_of(ann.encrypt(b"frame", Codec.OPUS)) == 4
        pair.switch()
        assert nonce_of(ann.encrypt(b"frame", Codec.OPUS)) == 1

    def test_a_newcomer_cannot_send_before_the_switch(self, make: Make, pair: Call) -> None:
        pair.change({CAT: make(CAT)})
        assert not pair.backends[CAT].can_encrypt()
        pair.switch()
        assert pair.backends[CAT].can_encrypt()

    def test_a_silence_frame_is_encrypted_too(self, pair: Call) -> None:
        sent = pair.backends[ANN].encrypt(OPUS_SILENCE, Codec.OPUS)
        assert is_encrypted(sent)
        assert pair.backends[BOB].decrypt(ANN, AUDIO, sent) == OPUS_SILENCE

    def test_a_frame_in_more_pieces_than_the_library_has_room_for_is_refused(
        self, pair: Call
    ) -> None:
        slices = b"\0\0\0\1\x65\x88\x84" + b"slice" * 10
        ann, bob = pair.backends[ANN], pair.backends[BOB]
        assert ann.encrypt(slices * 19, Codec.H264)
        with pytest.raises(DaveError, match="pieces"):
            ann.encrypt(slices * 21, Codec.H264)
        assert hears(bob, ann, ANN)

    def test_the_last_frames_of_a_member_gone_are_decrypted(
        self, make: Make, pair: Call, clock: Clock
    ) -> None:
        pair.change({CAT: make(CAT)})
        pair.switch()
        cat, ann = pair.backends[CAT], pair.backends[ANN]
        pair.change(leaving=[CAT])
        clock.now += KEY_LIFETIME
        assert hears(ann, cat, CAT)
        clock.now += 0.1
        last = cat.encrypt(b"last", Codec.OPUS)
        assert ann.decrypt(CAT, AUDIO, last) is Undecryptable.NO_KEY
        with pytest.raises(DaveError):
            ann.fingerprint(CAT)

    def test_members_gone_are_forgotten_in_time_and_number(
        self, make: Make, pair: Call, clock: Clock
    ) -> None:
        ann = pair.backends[ANN]
        gone = range(1000, 1067)
        everybody = EVERYBODY.union(gone)

        def commit(*proposals: Proposal) -> None:
            made = ann.process_proposals(append(*proposals), everybody)
            assert made
            assert ann.process_commit(split(made)[0])

        def known() -> list[int]:
            tried = {user: ann.decrypt(user, AUDIO, b"not a frame") for user in gone}
            return [user for user in gone if tried[user] is Undecryptable.FAILED]

        pair.enter({user: make(user) for user in gone})
        commit(*(pair.sender.add(1, pair.packages[user]) for user in gone))
        commit(pair.sender.remove(2, 2), pair.sender.remove(2, 3))
        assert known() == [*gone]
        commit(*(pair.sender.remove(3, leaf) for leaf in range(4, 2 + len(gone))))
        assert len(known()) == 64
        assert set(known()) <= set(gone[2:])
        clock.now += KEY_LIFETIME + 1
        assert known() == []
        commit(pair.sender.add(4, self._package(make, CAT, pair)))
        assert known() == []

    def test_who_comes_back_is_heard_with_old_and_new_keys(self, make: Make, pair: Call) -> None:
        old = make(CAT)
        pair.change({CAT: old})
        pair.switch()
        pair.change(leaving=[CAT])
        pair.change({CAT: make(CAT)})
        pair.switch()
        for speaker in (old, pair.backends[CAT]):
            assert hears(pair.backends[ANN], speaker, CAT)

    @pytest.mark.parametrize("private", [bytes(32), b"\xff" * 32], ids=["zero", "too large"])
    def test_an_identity_that_is_no_key_is_refused(self, private: bytes) -> None:
        with pytest.raises(UsageError, match="no P-256 key") as caught:
            LibdaveBackend(ANN, GROUP, IdentityKey(private, identity_of(7).public))
        assert caught.value.__cause__ is None


def test_what_the_library_cannot_encrypt_is_an_error() -> None:
    with pytest.raises(DaveError):
        encrypt_with(make_encryptor(), Codec.OPUS, b"there is no key")
    call = Call()
    session = dave.Session(lambda *_: None)
    session.init(1, GROUP, str(ANN), None)
    session.set_external_sender(call.sender.payload)
    other = LibdaveBackend(BOB, GROUP)
    call.enter({BOB: other})
    add = append(call.sender.add(0, call.packages[BOB]))
    made = session.process_proposals(add, {str(ANN), str(BOB)})
    assert made
    session.process_commit(split(made)[0])
    encryptor = make_encryptor()
    encryptor.set_key_ratchet(session.get_key_ratchet(str(ANN)))
    with pytest.raises(DaveError):
        encrypt_with(encryptor, Codec.VP8, b"\x10")
    assert is_encrypted(encrypt_with(encryptor, Codec.VP8, b"\x11"))


_LIFE = """
import sys
{setup}
from discord_rtc.errors import DaveError
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.protocol.dave.identity import IdentityKey
from discord_rtc.protocol.dave.libdave import LibdaveBackend

key = IdentityKey(bytes.fromhex("{private}"), bytes.fromhex("{public}"))
ann = LibdaveBackend(1, 5, key)
ann.begin(1)
sender = bytes.fromhex("{sender}")
ann.set_external_sender(sender)
assert ann.process_proposals(bytes.fromhex("{add}"), frozenset((1, 2)))
for call in (
    lambda: ann.process_commit(b"garbage"),
    lambda: ann.process_welcome(b"garbage", frozenset((1, 2))),
    lambda: ann.process_proposals(b"\\0garbage", frozenset((1, 2))),
):
    try:
        call()
    except DaveError:
        continue
    sys.exit("that should have failed")
ann.decrypt(2, MediaKind.AUDIO, b"frame")
"""


@pytest.mark.parametrize(
    "setup",
    [
        "",
        "import logging; logging.basicConfig()",
        "import logging; logging.basicConfig(level=1); logging.getLogger('dave').setLevel(1)",
    ],
    ids=["no logging", "default logging", "all of it"],
)
def test_the_library_is_silent_unless_asked_and_never_tells_a_key(setup: str) -> None:
    key = identity_of(0x1234567890ABCDEF_1234567890ABCDEF)
    call = Call()
    bob = LibdaveBackend(2, 5)
    sender = type(call.sender)(group_id=5)
    bob.set_external_sender(sender.payload)
    code = _LIFE.format(
        setup=setup,
        private=key.private.hex(),
        public=key.public.hex(),
        sender=sender.payload.hex(),
        add=append(sender.add(0, bob.begin(1))).hex(),
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    said = done.stdout + done.stderr
    assert bool(said) == ("dave" in setup)
    assert key.private.hex().lstrip("0") not in said.lower()


def test_a_level_that_was_set_stays() -> None:
    logger = logging.getLogger("discord_rtc.tests.of_somebody")
    quieten(logger)
    assert logger.level == logging.CRITICAL
    logger.setLevel(logging.INFO)
    quieten(logger)
    assert logger.level == logging.INFO
