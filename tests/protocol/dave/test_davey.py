"""The DAVE port over davey, alone."""

from __future__ import annotations

import davey
import pytest

from discord_rtc.errors import DaveError, InvalidCommit
from discord_rtc.frames import OPUS_SILENCE, Codec
from discord_rtc.protocol.dave.backend import Undecryptable
from discord_rtc.protocol.dave.davey import DaveyBackend, guarded

from .contract import ANN, AUDIO, BOB, CAT, EVERYBODY, Contract, Make, hears, identity_of
from .external import GROUP, Call, ExternalSender, append, split


class TestDaveyBackend(Contract):
    @pytest.fixture
    def make(self) -> Make:
        return lambda user_id: DaveyBackend(user_id, GROUP)

    @pytest.fixture
    def with_identity(self) -> DaveyBackend:
        return DaveyBackend(ANN, GROUP, identity_of(7))

    def test_it_says_what_it_is(self, make: Make) -> None:
        backend = make(ANN)
        assert backend.library == "davey"
        assert backend.sender_follows_commit

    def test_the_sending_key_changes_with_the_commit(self, make: Make, pair: Call) -> None:
        ann, bob = pair.backends[ANN], pair.backends[BOB]
        pair.enter({CAT: make(CAT)})
        add = append(pair.sender.add(1, pair.packages[CAT]))
        made = ann.process_proposals(add, EVERYBODY)
        bob.process_proposals(add, EVERYBODY)
        assert made
        assert ann.process_commit(split(made)[0])
        early = ann.encrypt(b"early", Codec.OPUS)
        ann.switch_sender()
        assert bob.decrypt(ANN, AUDIO, early) is Undecryptable.FAILED
        assert bob.process_commit(split(made)[0])
        assert bob.decrypt(ANN, AUDIO, early) == b"early"

    def test_a_silence_frame_stays_as_it_is(self, pair: Call) -> None:
        assert pair.backends[ANN].encrypt(OPUS_SILENCE, Codec.OPUS) == OPUS_SILENCE

    def test_a_member_gone_has_no_key(self, make: Make, pair: Call) -> None:
        pair.change({CAT: make(CAT)})
        cat = pair.backends[CAT]
        pair.change(leaving=[CAT])
        frame = cat.encrypt(b"last", Codec.OPUS)
        assert pair.backends[ANN].decrypt(CAT, AUDIO, frame) is Undecryptable.NO_KEY

    def test_a_user_who_is_in_twice_is_not_accepted(self, make: Make, pair: Call) -> None:
        impostor = make(BOB)
        impostor.set_external_sender(pair.sender.payload)
        add = append(pair.sender.add(1, impostor.begin(1)))
        ann = pair.backends[ANN]
        made = ann.process_proposals(add, EVERYBODY)
        assert made
        commit, welcome = split(made)
        assert welcome
        with pytest.raises(InvalidCommit, match="twice"):
            ann.process_commit(commit)
        with pytest.raises(InvalidCommit, match="twice"):
            impostor.process_welcome(welcome, EVERYBODY)
        assert ann.members == impostor.members == frozenset()

    def test_another_external_sender_after_our_commit_counts_from_the_next_group_on(
        self, make: Make
    ) -> None:
        first, second = ExternalSender(), ExternalSender()
        ann, bob = make(ANN), make(BOB)
        ann.set_external_sender(first.payload)
        ann.begin(1)
        bob.set_external_sender(first.payload)
        made = ann.process_proposals(append(first.add(0, bob.begin(1))), EVERYBODY)
        assert made
        ann.set_external_sender(second.payload)
        assert ann.process_commit(split(made)[0])
        ann.begin(1)
        bob.reset()
        bob.set_external_sender(second.payload)
        assert ann.process_proposals(append(second.add(0, bob.begin(1))), EVERYBODY)


def test_a_panic_becomes_an_error(make_call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    session = davey.DaveSession(1, ANN, GROUP)
    other = davey.DaveSession(1, BOB, GROUP)
    for one in (session, other):
        one.set_external_sender(make_call.sender.payload)
    add = append(make_call.sender.add(0, other.get_serialized_key_package()))
    made = session.process_proposals(davey.ProposalsOperationType.append, add[1:], [ANN, BOB])
    assert made
    session.process_commit(made.commit)
    with pytest.raises(DaveError, match="panicked"):
        guarded(lambda: session.encrypt(davey.MediaType.video, davey.Codec.vp8, b"\x10"))
    assert "panicked" in capfd.readouterr().err


@pytest.fixture
def make_call() -> Call:
    return Call()


def test_what_is_no_panic_passes() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(interrupted)


def test_refused_frames_never_reach_the_library(
    make_call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    backends = {user: DaveyBackend(user, GROUP) for user in (ANN, BOB)}
    make_call.found(backends)
    for frame, codec in [
        (b"", Codec.VP8),
        (b"\x10\0", Codec.VP8),
        (b"\0\0\0\1\x65\0", Codec.H264),
        (b"\0\0\0\1\x65\0\0\0", Codec.H264),
    ]:
        with pytest.raises(DaveError):
            backends[ANN].encrypt(frame, codec)
    assert capfd.readouterr() == ("", "")
    assert hears(backends[BOB], backends[ANN], ANN)
