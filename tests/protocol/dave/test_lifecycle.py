"""Groups, epochs and transitions as the server's messages change them."""

from __future__ import annotations

import logging

import pytest

from discord_rtc.errors import DaveError, DaveUnavailable
from discord_rtc.frames import Codec
from discord_rtc.protocol.dave.events import (
    DaveEvent,
    ProposalsRefused,
    ReceiveKeysChanged,
    Recovering,
    Sending,
    SendingChanged,
    StateChanged,
    Undecrypted,
    Unsupported,
)
from discord_rtc.protocol.messages import (
    ClientDisconnect,
    ClientsConnect,
    ExecuteTransition,
    InvalidCommitWelcome,
    MlsAnnounceCommit,
    MlsCommitWelcome,
    MlsExternalSender,
    MlsKeyPackage,
    MlsProposals,
    MlsWelcome,
    PrepareEpoch,
    PrepareTransition,
    TransitionReady,
)

from .bench import ANN, BOB, CAT, FRAME, OWN, Bench, described, package_of
from .fake_group import EXTERNAL_SENDER, append, proposal, split, welcome_of

EVERYBODY = ClientsConnect((OWN, ANN, BOB, CAT))


def founded(transition_id: int = 0, *, follows: bool = False, required: bool = False) -> Bench:
    """Ann and we in a group; events up to then are read."""
    bench = Bench(follows=follows, required=required)
    bench.connect()
    bench.found(transition_id)
    bench.events()
    return bench


def stages(events: list[DaveEvent]) -> list[str]:
    """States and sendings in their order."""
    told: list[str] = []
    for event in events:
        if isinstance(event, StateChanged):
            told.append(event.state)
        elif isinstance(event, SendingChanged):
            told.append(event.sending + (" fresh" if event.fresh else ""))
    return told


# Version 0 and version 1 described


def test_version_0_means_clear_and_no_back_end() -> None:
    bench = Bench()
    assert bench.session.sending is Sending.WAIT
    assert bench.tell(described(0)) == []
    assert (bench.session.state, bench.session.sending) == ("off", Sending.CLEAR)
    assert bench.made == []
    assert bench.events() == [SendingChanged(Sending.CLEAR, fresh=True)]


def test_version_1_means_a_key_package_and_to_wait() -> None:
    bench = Bench()
    assert bench.connect()
    assert (bench.session.state, bench.session.version) == ("pending", 1)
    assert bench.session.sending is Sending.WAIT
    assert bench.events() == [StateChanged("pending", None, None)]
    assert bench.session.next_timeout() is None


def test_the_same_description_again_changes_nothing() -> None:
    bench = founded()
    assert bench.tell(described(1)) == []
    assert bench.session.state == "active"
    assert bench.events() == []


def test_another_description_changes_the_version() -> None:
    bench = founded()
    bench.tell(described(0))
    assert bench.session.sending is Sending.CLEAR
    package_of(bench.tell(described(1)))
    assert bench.session.sending is Sending.WAIT


@pytest.mark.parametrize(
    "message", [described(2), PrepareTransition(2, 1), PrepareEpoch(2, 1)], ids=type
)
def test_a_version_above_ours_is_told_and_not_followed(message: PrepareEpoch) -> None:
    bench = founded()
    assert bench.tell(message) == []
    (event,) = bench.events()
    assert isinstance(event, Unsupported)
    assert event.version == 2
    assert bench.session.sending is Sending.ENCRYPT


def test_a_library_that_is_not_there_is_told() -> None:
    bench = Bench()
    bench.unavailable = DaveUnavailable("pip install dave.py")
    assert bench.tell(described(1)) == []
    assert bench.events()[-1] == Unsupported(1, "pip install dave.py")
    assert bench.session.sending is Sending.WAIT


def test_who_requires_encryption_never_sends_in_the_clear() -> None:
    bench = Bench(required=True)
    bench.tell(described(0))
    (event,) = bench.events()
    assert isinstance(event, Unsupported)
    assert event.version == 0
    assert bench.session.sending is Sending.WAIT
    bench = founded(required=True)
    bench.tell(PrepareTransition(0, 0), PrepareTransition(0, 5), ExecuteTransition(5))
    assert [type(event) for event in bench.events()] == [Unsupported, Unsupported]
    assert bench.session.sending is Sending.ENCRYPT


# The first group


def test_our_commit_counts_when_it_is_announced_and_transition_0_is_immediate() -> None:
    bench = Bench()
    bench.connect()
    bench.events()
    assert bench.found(0) == []  # no op 23
    assert bench.session.members == {OWN, ANN}
    assert stages(bench.events()) == ["active", "encrypt fresh"]
    assert bench.hears_ann() == FRAME
    assert bench.session.next_timeout() is None


def test_a_commit_that_nobody_announced_is_not_merged() -> None:
    bench = Bench()
    bench.connect()
    adding = append(proposal(0, add=b"2:0"))
    (made,) = bench.tell(MlsProposals(adding))
    assert isinstance(made, MlsCommitWelcome)
    assert bench.session.members == frozenset()
    assert bench.session.sending is Sending.WAIT


def test_somebody_elses_first_commit_is_ignored_and_the_welcome_counts() -> None:
    bench = Bench()
    package = bench.connect()
    bench.tell(EVERYBODY)
    assert bench.tell(MlsAnnounceCommit(0, b"{}")) == []
    assert bench.counted("foreign-commits") == 1
    assert bench.tell(bench.welcome(package)) == []
    assert bench.session.members == {OWN, ANN, CAT}
    assert bench.session.state == "active"
    assert bench.hears_ann() == FRAME


def test_the_first_group_may_have_a_transition_of_its_own() -> None:
    bench = Bench()
    bench.connect()
    bench.events()
    assert bench.found(7) == [TransitionReady(7)]
    assert (bench.session.state, bench.session.sending) == ("pending", Sending.WAIT)
    assert bench.hears_ann() == FRAME  # receive keys are there at once
    bench.tell(ExecuteTransition(7))
    told = bench.events()
    assert told[0] == ReceiveKeysChanged(frozenset({OWN, ANN}))
    assert stages(told) == ["active", "encrypt fresh"]


def test_all_members_show_the_same_code() -> None:
    bench = founded()
    assert bench.session.epoch_authenticator == bench.ann.epoch_authenticator
    code = bench.session.privacy_code
    assert code is not None
    assert len(code) == 30


# Transitions


def test_a_new_epoch_is_received_at_once_and_sent_when_executed() -> None:
    bench = founded()
    old = bench.ann.encrypt(FRAME, Codec.OPUS)
    commit = bench.next_commit(1)
    assert bench.tell(commit) == [TransitionReady(1)]
    assert bench.made[0].switched == 1  # still the old key
    assert bench.session.sending is Sending.ENCRYPT
    bench.ann.switch_sender()
    assert bench.hears_ann() == FRAME
    assert bench.session.decrypt(ANN, Codec.OPUS.kind, old, 0.0) == FRAME
    bench.tell(ExecuteTransition(1))
    assert bench.made[0].switched == 2
    told = bench.events()
    assert ReceiveKeysChanged(frozenset({BOB})) in told
    assert stages(told) == ["active"]  # with another code
    assert bench.session.next_timeout() is None


def test_two_open_transitions_switch_the_key_once() -> None:
    bench = founded()
    bench.tell(bench.next_commit(1))
    bench.tell(bench.next_commit(2))
    bench.tell(ExecuteTransition(1), ExecuteTransition(2))  # the fake would refuse a second time
    assert bench.made[0].switched == 2
    assert bench.session.next_timeout() is None


def test_an_unknown_execute_is_ignored_and_counted() -> None:
    bench = founded()
    assert bench.tell(ExecuteTransition(9)) == []
    assert bench.counted("unknown-transitions") == 1
    assert bench.session.state == "active"


def test_a_lost_execute_is_made_up_for_within_three_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = founded()
    bench.tell(bench.next_commit(1, now=10.0), now=10.0)
    assert bench.session.next_timeout() == 12.5
    bench.wait(12.4)
    assert bench.made[0].switched == 1
    bench.wait(12.5)
    assert bench.made[0].switched == 2
    assert "transition 1: no op 22" in caplog.text
    bench.tell(ExecuteTransition(1), now=14.0)
    assert bench.counted("late-executes") == 1
    assert bench.made[0].switched == 2


def test_a_transition_that_changes_nothing_is_answered_too() -> None:
    bench = founded()
    assert bench.tell(PrepareTransition(1, 3)) == [TransitionReady(3)]
    bench.tell(ExecuteTransition(3))
    assert bench.session.sending is Sending.ENCRYPT
    assert bench.made[0].switched == 1


# A library that changes the sending key by itself


def test_frames_are_held_from_the_commit_to_the_execute() -> None:
    bench = founded(follows=True)
    bench.tell(bench.next_commit(1, now=5.0), now=5.0)
    assert bench.session.sending is Sending.HOLD
    assert bench.session.state == "active"
    assert bench.goes_out() is None
    bench.tell(ExecuteTransition(1), now=5.1)
    assert stages(bench.events()) == ["active", "hold", "encrypt"]


def test_frames_are_held_for_two_seconds_at_most(caplog: pytest.LogCaptureFixture) -> None:
    bench = founded(follows=True)
    bench.tell(bench.next_commit(1, now=5.0), now=5.0)
    bench.tell(bench.next_commit(2, now=6.5), now=6.5)
    assert bench.session.next_timeout() == 7.0
    bench.wait(7.0)
    assert bench.session.sending is Sending.ENCRYPT
    assert "held frames" in caplog.text
    assert bench.session.next_timeout() == 7.5


def test_the_first_group_is_held_too_and_begins_fresh() -> None:
    bench = Bench(follows=True)
    bench.connect()
    bench.events()
    bench.found(7)
    assert (bench.session.state, bench.session.sending) == ("pending", Sending.HOLD)
    bench.tell(ExecuteTransition(7))
    assert stages(bench.events()) == ["hold", "active", "encrypt fresh"]


def test_a_transition_without_a_commit_holds_nothing() -> None:
    bench = founded(follows=True)
    bench.tell(PrepareTransition(1, 3))
    assert bench.session.sending is Sending.ENCRYPT


# What cannot be processed


def test_a_bad_commit_is_answered_with_31_and_a_fresh_key_package(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = founded()
    bench.next_commit(4)
    bad, package = bench.tell(MlsAnnounceCommit(4, b"garbage"))
    assert bad == InvalidCommitWelcome(4)
    assert isinstance(package, MlsKeyPackage)
    assert (bench.session.state, bench.session.sending) == ("pending", Sending.WAIT)
    assert bench.session.privacy_code is None
    assert bench.session.epoch_authenticator is None
    recovering = [event for event in bench.events() if isinstance(event, Recovering)]
    assert recovering == [Recovering(4, "a commit could not be processed: unreadable")]
    assert "a commit could not be processed: unreadable" in caplog.text


def test_frames_of_the_lost_group_still_decrypt_and_its_transitions_are_void() -> None:
    bench = founded()
    bench.tell(bench.next_commit(1))
    bench.tell(MlsAnnounceCommit(2, b"garbage"))
    assert bench.hears_ann() == FRAME
    bench.tell(ExecuteTransition(1))
    assert bench.counted("unknown-transitions") == 1
    assert bench.session.sending is Sending.WAIT
    assert bench.session.next_timeout() == 10.0
    bench.wait(10.0)
    assert bench.hears_ann(10.0) == Undecrypted("no-key", retry=True)


def test_a_bad_welcome_is_answered_the_same_way_and_the_next_one_heals() -> None:
    bench = Bench()
    bench.connect()
    bench.tell(EVERYBODY)
    bad, package = bench.tell(MlsWelcome(3, b"garbage"))
    assert bad == InvalidCommitWelcome(3)
    assert isinstance(package, MlsKeyPackage)
    bench.tell(bench.welcome(package.payload, 0))
    assert bench.session.state == "active"


def test_a_welcome_with_an_unexpected_member_is_invalid() -> None:
    bench = Bench()
    package = bench.connect()
    assert bench.tell(bench.welcome(package))[0] == InvalidCommitWelcome(0)  # Cat is not known
    assert bench.session.members == frozenset()


def test_a_welcome_may_list_who_left_a_moment_ago() -> None:
    bench = Bench()
    package = bench.connect()
    bench.tell(EVERYBODY, ClientDisconnect(CAT))
    assert bench.tell(bench.welcome(package)) == []
    assert bench.session.state == "active"


def test_a_server_that_sends_nothing_but_bad_commits_cannot_make_it_spin() -> None:
    bench = founded()
    sent = []
    for number in range(1000):
        now = number / 100
        sent += bench.tell(MlsWelcome(number, b"garbage"), now=now)
        sent += bench.wait(now)
    recoveries = [message for message in sent if isinstance(message, InvalidCommitWelcome)]
    assert len(recoveries) == 5  # at 0, 0.5, 1.5, 3.5 and 7.5 s
    assert recoveries[1].transition_id == 50  # the newest one
    assert bench.session.next_timeout() is not None


def test_a_recovery_that_waits_is_void_when_a_welcome_comes() -> None:
    bench = Bench()
    bench.connect()
    bench.tell(EVERYBODY)
    _, package = bench.tell(MlsWelcome(1, b"garbage"))
    assert isinstance(package, MlsKeyPackage)
    assert bench.tell(MlsWelcome(2, b"garbage")) == []
    bench.tell(bench.welcome(package.payload))
    assert bench.session.next_timeout() is None
    assert bench.wait(60.0) == []


def test_a_library_that_cannot_begin_is_tried_again() -> None:
    bench = Bench()
    bench.connect()
    bench.made[0].failing = [DaveError("no entropy")]
    assert bench.tell(PrepareEpoch(1, 1)) == []
    assert bench.session.next_timeout() == 0.0
    recovery = bench.wait(0.0)
    assert [type(message) for message in recovery] == [InvalidCommitWelcome, MlsKeyPackage]
    assert bench.counted("begin-failed") == 1


def test_frames_that_fail_for_long_mean_that_a_commit_was_lost() -> None:
    bench = founded()
    bench.tell(PrepareTransition(1, 6), ExecuteTransition(6))
    bench.next_commit(7)  # and never announced to us
    bench.ann.switch_sender()
    for number in range(51):
        assert isinstance(bench.hears_ann(1.0 + number / 50), Undecrypted)
    assert bench.session.next_timeout() == 2.0
    bad, package = bench.wait(2.0)
    assert bad == InvalidCommitWelcome(6)  # the last transition that we know of
    assert isinstance(package, MlsKeyPackage)
    assert bench.session.state == "pending"


def test_an_execute_without_its_commit_means_that_the_commit_was_lost() -> None:
    bench = founded()
    assert bench.tell(ExecuteTransition(1)) == []  # nothing is awaited: not ours
    bench.next_commit(2)  # and never announced to us
    bad, package = bench.tell(ExecuteTransition(2))
    assert bad == InvalidCommitWelcome(2)
    assert isinstance(package, MlsKeyPackage)


# Proposals


def test_proposals_with_an_unexpected_member_are_refused_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = founded()
    assert bench.tell(MlsProposals(append(proposal(1, add=b"99:1")))) == []
    assert bench.events() == [ProposalsRefused("user 99 was not announced")]
    assert bench.counted("refused-proposals") == 1
    assert "user 99 was not announced" in caplog.text


def test_proposals_without_a_commit_are_fine() -> None:
    bench = founded()
    assert bench.tell(MlsProposals(append())) == []


def test_proposals_that_overtook_their_epoch_are_taken_after_all() -> None:
    bench = founded()
    commit = bench.next_commit(1)
    bench.tell(EVERYBODY)
    early = append(proposal(2, add=b"4:1"))
    assert bench.tell(MlsProposals(early)) == []
    ready, made = bench.tell(commit)
    assert ready == TransitionReady(1)
    assert isinstance(made, MlsCommitWelcome)
    bench.tell(MlsAnnounceCommit(2, split(made.payload)[0]))
    assert bench.session.members == {OWN, ANN, BOB, CAT}


def test_proposals_before_the_external_sender_are_taken_after_it() -> None:
    bench = Bench()
    bench.tell(described(1), EVERYBODY)
    assert bench.tell(MlsProposals(append(proposal(0, add=b"2:1")))) == []
    (made,) = bench.tell(MlsExternalSender(EXTERNAL_SENDER))
    assert isinstance(made, MlsCommitWelcome)


def test_what_comes_without_a_group_is_counted() -> None:
    bench = Bench()
    bench.connect(0)
    bench.tell(MlsProposals(b""), MlsAnnounceCommit(1, b""), MlsWelcome(1, b""))
    bench.tell(MlsExternalSender(b"the other"), PrepareEpoch(0, 1))
    assert bench.counted("unexpected") == 4
    assert bench.session.sending is Sending.CLEAR


def test_the_same_external_sender_again_is_no_news() -> None:
    bench = founded()
    assert bench.tell(MlsExternalSender(EXTERNAL_SENDER)) == []
    assert bench.session.state == "active"


# New groups, and none


def test_a_new_group_begins_with_op_24() -> None:
    bench = founded()
    old = bench.ann.encrypt(FRAME, Codec.OPUS)
    package_of(bench.tell(PrepareEpoch(1, 1)))
    assert bench.session.sending is Sending.WAIT
    assert bench.session.decrypt(ANN, Codec.OPUS.kind, old, 0.0) == FRAME
    bench.found(0)
    assert bench.session.state == "active"
    assert bench.hears_ann() == FRAME


def test_the_last_member_waits_for_the_next_one_and_sends_nothing_in_the_clear() -> None:
    bench = founded()
    sent = bench.tell(PrepareEpoch(1, 1), PrepareTransition(1, 0))
    package_of(sent)
    assert (bench.session.state, bench.session.sending) == ("pending", Sending.WAIT)
    assert bench.session.version == 1
    bench.found(0, now=100.0)
    assert bench.session.state == "active"
    assert bench.hears_ann(100.0) == FRAME


def test_a_version_of_a_later_epoch_comes_with_the_next_transition() -> None:
    bench = founded()
    assert bench.tell(PrepareEpoch(1, 5)) == []
    bench.tell(bench.next_commit(1), ExecuteTransition(1))
    assert (bench.session.state, bench.session.version) == ("active", 1)


def test_a_downgrade_takes_effect_when_it_is_executed() -> None:
    bench = founded()
    old = bench.ann.encrypt(FRAME, Codec.OPUS)
    assert bench.tell(PrepareTransition(0, 5)) == [TransitionReady(5)]
    assert bench.session.sending is Sending.ENCRYPT
    assert bench.session.decrypt(ANN, Codec.OPUS.kind, b"plain", 0.0) == b"plain"
    bench.tell(ExecuteTransition(5), now=1.0)
    assert (bench.session.state, bench.session.sending) == ("off", Sending.CLEAR)
    assert stages(bench.events()) == ["off", "clear"]
    assert bench.session.decrypt(ANN, Codec.OPUS.kind, old, 2.0) == FRAME
    assert bench.session.next_timeout() == 11.0


def test_a_downgrade_survives_a_recovery() -> None:
    bench = founded()
    bench.tell(PrepareTransition(0, 5), MlsAnnounceCommit(6, b"garbage"))
    assert bench.session.sending is Sending.WAIT
    bench.tell(ExecuteTransition(5))
    assert bench.session.sending is Sending.CLEAR


def test_an_upgrade_stops_clear_frames_at_once_and_takes_those_of_others_for_a_while() -> None:
    bench = Bench()
    bench.connect(0)
    bench.events()
    package_of(bench.tell(PrepareEpoch(1, 1), now=1.0))
    assert stages(bench.events()) == ["wait", "pending"]
    assert bench.session.decrypt(ANN, Codec.OPUS.kind, b"plain", 2.0) == b"plain"
    bench.found(3, now=2.0)
    bench.tell(ExecuteTransition(3), now=2.0)
    assert bench.session.sending is Sending.ENCRYPT
    assert bench.session.decrypt(ANN, Codec.OPUS.kind, b"plain", 11.9) == b"plain"
    assert isinstance(bench.session.decrypt(ANN, Codec.OPUS.kind, b"plain", 12.0), Undecrypted)


def test_an_upgrade_without_op_24_begins_a_group_when_it_is_executed() -> None:
    bench = Bench()
    bench.connect(0)
    assert bench.tell(PrepareTransition(1, 5)) == [TransitionReady(5)]
    assert bench.session.sending is Sending.CLEAR
    package_of(bench.tell(ExecuteTransition(5)))
    assert (bench.session.version, bench.session.sending) == (1, Sending.WAIT)


def test_a_downgrade_that_is_repeated_tells_nothing_new() -> None:
    bench = Bench()
    bench.connect(0)
    bench.events()
    bench.tell(PrepareTransition(0, 0))
    assert bench.events() == []


def test_without_a_sending_key_frames_go_on_waiting() -> None:
    bench = Bench(keyless=True)
    bench.connect()
    bench.found(0)
    assert (bench.session.state, bench.session.sending) == ("pending", Sending.WAIT)
    assert bench.counted("no-sending-key") == 1


def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="discord_rtc.protocol.dave")
    bench = founded()
    bench.tell(bench.next_commit(1), ExecuteTransition(1), MlsAnnounceCommit(2, b"garbage"))
    authenticator, code = bench.ann.epoch_authenticator, founded().session.privacy_code
    assert authenticator is not None
    assert code is not None
    assert "new epoch with 3 members" in caplog.text
    assert authenticator.hex() not in caplog.text
    assert code not in caplog.text
    assert "secret" not in caplog.text


def test_a_damaged_welcome_of_any_kind_is_survived() -> None:
    bench = Bench()
    package = bench.connect().decode()
    for leaves in ({}, {0: OWN}, {0: 99}):
        bench.tell(MlsWelcome(1, welcome_of(leaves, "s", 1, [package])))
    assert bench.session.sending is not Sending.CLEAR
