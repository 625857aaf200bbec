"""What a voice client says again after a resume, and what not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from discord_rtc.protocol.messages import (
    BackendVersionRequest,
    ClientsConnect,
    ExecuteTransition,
    InvalidCommitWelcome,
    MediaSinkWants,
    MlsAnnounceCommit,
    MlsCommitWelcome,
    MlsExternalSender,
    MlsKeyPackage,
    MlsProposals,
    MlsWelcome,
    NoRoute,
    Speaking,
    TransitionReady,
    Video,
)
from discord_rtc.protocol.outbox import KEPT_LIMIT, UNPROVEN_LIMIT, Outbox

if TYPE_CHECKING:
    from discord_rtc.protocol.messages import ServerMessage
    from discord_rtc.protocol.outbox import Sendable


def test_what_waits_comes_out_in_order_once() -> None:
    outbox = Outbox()
    outbox.keep(Speaking(1, 5))
    outbox.keep(MlsKeyPackage(b"k"))
    assert outbox.take() == [Speaking(1, 5), MlsKeyPackage(b"k")]
    assert outbox.take() == []


def test_what_was_said_before_an_answered_heartbeat_is_not_said_again() -> None:
    outbox = Outbox()
    outbox.said(MlsKeyPackage(b"k"), 7000)
    outbox.said(TransitionReady(1), 7005)
    outbox.said(TransitionReady(2), 7010)
    outbox.proven(7010)
    assert outbox.again() == []
    assert outbox.held_back() == [TransitionReady(2)]
    assert outbox.held_back() == []


def test_a_heartbeat_proves_nothing_about_what_went_out_after_it() -> None:
    outbox = Outbox()
    outbox.said(BackendVersionRequest(), 7000)
    outbox.proven(7000)
    assert outbox.again() == [BackendVersionRequest()]


def test_the_speaking_flags_are_said_again_even_when_they_arrived() -> None:
    outbox = Outbox()
    outbox.said(Speaking(0, 5), 7000)
    outbox.said(Speaking(1, 5), 7000)
    outbox.proven(7005)
    assert outbox.again() == [Speaking(1, 5)]


def test_of_states_only_the_newest_is_said_again() -> None:
    outbox = Outbox()
    for video_ssrc in (6, 0):
        outbox.said(Video(5, video_ssrc, 0), 7000)
        outbox.said(NoRoute(), 7000)
        outbox.said(MediaSinkWants(any=video_ssrc), 7000)
        outbox.said(Speaking(1, 5), 7000)
    assert outbox.again() == [
        Speaking(1, 5),
        NoRoute(),
        Video(5, 0, 0),
        NoRoute(),
        MediaSinkWants(any=0),
    ]


PACKAGE, COMMIT = MlsKeyPackage(b"k"), MlsCommitWelcome(b"c")
READY, INVALID = TransitionReady(1), InvalidCommitWelcome(1)


@pytest.mark.parametrize(
    ("heard", "left"),
    [
        (ClientsConnect((1,)), [PACKAGE, COMMIT, READY, INVALID]),
        (MlsExternalSender(b""), [PACKAGE, COMMIT, READY, INVALID]),
        (MlsProposals(b""), [COMMIT, READY, INVALID]),
        (MlsAnnounceCommit(1, b""), [READY, INVALID]),
        (MlsWelcome(1, b""), [READY, INVALID]),
        (ExecuteTransition(1), [PACKAGE, COMMIT, INVALID]),
    ],
)
@pytest.mark.parametrize("replayed", [True, False])
def test_what_the_server_says_about_the_group_proves_what_arrived(
    heard: ServerMessage, left: list[Sendable], replayed: bool
) -> None:
    outbox = Outbox()
    for message in (PACKAGE, COMMIT, READY, INVALID):
        outbox.said(message, 7000)
    if replayed:
        assert outbox.again() == []
        outbox.proven_by(heard)
    else:
        outbox.proven_by(heard)
        assert outbox.again() == []
    assert outbox.held_back() == left


def test_what_is_held_back_is_not_lost_with_another_websocket() -> None:
    outbox = Outbox()
    outbox.said(PACKAGE, 7000)
    outbox.again()
    outbox.said(READY, 7010)
    outbox.again()
    assert outbox.held_back() == [PACKAGE, READY]


def test_what_waited_comes_after_what_was_said() -> None:
    outbox = Outbox()
    outbox.said(NoRoute(), 7000)
    outbox.keep(Speaking(2, 5))
    outbox.keep(READY)
    assert outbox.again() == [NoRoute(), Speaking(2, 5), READY]
    assert outbox.again() == []


def test_both_are_bounded_and_count_what_they_drop() -> None:
    outbox = Outbox()
    for number in range(KEPT_LIMIT + 2):
        outbox.keep(TransitionReady(number))
    for number in range(UNPROVEN_LIMIT + 3):
        outbox.said(TransitionReady(number), 7000)
    assert outbox.drops == {"send-overflow": 2, "unproven-overflow": 3}
    assert len(outbox.again()) == KEPT_LIMIT
    held = outbox.held_back()
    assert (len(held), held[0]) == (UNPROVEN_LIMIT, TransitionReady(3))


def test_a_newer_key_package_makes_void_what_is_held_back() -> None:
    """Said after it, the older one would replace it at the server."""
    outbox = Outbox()
    for message in (INVALID, PACKAGE, COMMIT, READY):
        outbox.said(message, 7000)
    outbox.again()
    outbox.said(MlsKeyPackage(b"newer"), 7010)
    assert outbox.held_back() == []


def test_a_newer_commit_makes_void_the_one_held_back() -> None:
    outbox = Outbox()
    for message in (COMMIT, READY):
        outbox.said(message, 7000)
    outbox.again()
    outbox.said(MlsCommitWelcome(b"newer"), 7010)
    assert outbox.held_back() == [READY]


@pytest.mark.parametrize("heard", [MlsProposals(b""), MlsAnnounceCommit(1, b"")])
def test_what_is_said_to_a_member_proves_no_key_package_behind_a_complaint(
    heard: ServerMessage,
) -> None:
    """Else the complaint would be said again without it: out of the group, and never in again."""
    outbox = Outbox()
    for message in (INVALID, PACKAGE):
        outbox.said(message, 7000)
    outbox.again()
    outbox.proven_by(heard)
    assert outbox.held_back() == [INVALID, PACKAGE]


@pytest.mark.parametrize("replayed", [True, False])
def test_a_welcome_proves_the_key_package_and_the_complaint_before_it(replayed: bool) -> None:
    """Else the complaint would be said again, and take us out of the group we just entered."""
    outbox = Outbox()
    for message in (READY, INVALID, PACKAGE):
        outbox.said(message, 7000)
    outbox.said(Speaking(1, 5), 7000)
    if replayed:
        outbox.again()
    outbox.proven_by(MlsWelcome(1, b""))
    if not replayed:
        assert outbox.again() == [Speaking(1, 5)]
    assert outbox.held_back() == []
