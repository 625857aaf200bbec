"""The machine as the connection sees it: early messages, frames, counters."""

from __future__ import annotations

import pytest

from discord_rtc.errors import NotReady
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.protocol.dave.events import Sending
from discord_rtc.protocol.messages import (
    BackendVersion,
    ClientDisconnect,
    ClientsConnect,
    ExecuteTransition,
    MlsCommitWelcome,
    MlsExternalSender,
    MlsKeyPackage,
    MlsProposals,
    PrepareEpoch,
    PrepareTransition,
    TransitionReady,
)

from .bench import ANN, BOB, FRAME, OWN, Bench, described
from .fake_group import EXTERNAL_SENDER, append, proposal


def founded() -> Bench:
    bench = Bench()
    bench.connect()
    bench.found()
    return bench


def test_before_anything_is_described_frames_wait() -> None:
    session = Bench().session
    assert (session.state, session.version, session.sending) == ("off", 0, Sending.WAIT)
    assert session.members == frozenset()
    assert session.privacy_code is None
    assert session.epoch_authenticator is None
    assert session.next_timeout() is None
    assert session.next_event() is None


def test_messages_before_the_description_are_applied_after_it_in_order() -> None:
    bench = Bench()
    sent = bench.tell(
        MlsExternalSender(EXTERNAL_SENDER),
        MlsProposals(append(proposal(0, add=b"2:1"))),
        PrepareTransition(1, 5),
        ClientsConnect((ANN,)),
    )
    assert sent == []
    sent = bench.tell(described(1))
    assert [type(message) for message in sent] == [MlsKeyPackage, MlsCommitWelcome, TransitionReady]
    assert bench.counted("early-messages") == 2


def test_too_many_early_messages_lose_the_oldest() -> None:
    bench = Bench()
    bench.tell(*(ExecuteTransition(number) for number in range(70)))
    assert bench.counted("early-dropped") == 6
    bench.tell(described(1))
    assert bench.counted("unknown-transitions") == 64


def test_an_early_external_sender_outlives_every_new_group() -> None:
    bench = Bench()
    bench.tell(MlsExternalSender(EXTERNAL_SENDER), ClientsConnect((ANN,)), described(1))
    bench.found()
    bench.tell(PrepareEpoch(1, 1))
    bench.found()
    bench.tell(PrepareTransition(0, 0), PrepareEpoch(1, 1))
    bench.found()
    assert bench.session.state == "active"
    assert len(bench.made) == 3


def test_a_description_that_is_refused_leaves_early_messages_for_the_next() -> None:
    bench = Bench()
    bench.tell(PrepareTransition(1, 5), described(2))
    assert bench.session.messages_to_send() == []
    assert bench.session.sending is Sending.WAIT
    assert bench.tell(described(1))[-1] == TransitionReady(5)


def test_users_who_left_are_not_recognised_any_more() -> None:
    bench = founded()
    bench.tell(ClientsConnect((BOB,)), ClientDisconnect(BOB), ClientDisconnect(OWN))
    assert bench.tell(MlsProposals(append(proposal(1, add=b"3:1")))) == []
    assert bench.counted("refused-proposals") == 1


def test_messages_of_no_concern_are_ignored() -> None:
    bench = founded()
    before = bench.session.counters
    assert bench.tell(BackendVersion("0.0", "0.0")) == []
    assert bench.session.counters == before


def test_frames_go_out_encrypted_once_there_is_a_group() -> None:
    bench = Bench()
    bench.connect()
    assert bench.goes_out() is None
    assert bench.counted("not-encrypting") == 1
    bench.found()
    frame = bench.goes_out()
    assert frame is not None
    assert bench.ann.decrypt(OWN, MediaKind.AUDIO, frame) == FRAME


def test_a_frame_that_cannot_be_encrypted_is_counted() -> None:
    bench = founded()
    assert bench.session.encrypt(b"", Codec.VP8, 0.0) is None
    assert bench.counted("unencryptable") == 1


def test_frames_come_in_decrypted() -> None:
    assert founded().hears_ann() == FRAME


def test_deadlines_are_kept() -> None:
    bench = founded()
    bench.tell(PrepareTransition(0, 5), now=1.0)
    assert bench.session.next_timeout() == 3.5
    bench.wait(3.5)
    assert bench.session.sending is Sending.CLEAR


def test_members_can_be_verified_and_nobody_else() -> None:
    bench = founded()
    assert bench.session.fingerprint(ANN) == bytes(64)
    with pytest.raises(NotReady):
        bench.session.fingerprint(BOB)
    with pytest.raises(NotReady):
        Bench().session.fingerprint(ANN)


def test_queues_are_bounded_for_a_caller_that_never_drains() -> None:
    bench = founded()
    for number in range(1, 400):
        bench.session.receive(PrepareTransition(1, number), 0.0)
        bench.session.receive(MlsProposals(b""), 0.0)
    assert len(bench.session.messages_to_send()) == 256
    assert len(bench.events()) == 256
    assert bench.counted("outgoing-overflow") == 143
    assert bench.counted("event-overflow") > 0
