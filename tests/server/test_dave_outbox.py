"""What leaves a delivery service, with and without faults."""

from __future__ import annotations

from discord_rtc.crypto.p256 import SigningKey
from discord_rtc.protocol.messages import (
    ExecuteTransition,
    MlsAnnounceCommit,
    MlsProposals,
    MlsWelcome,
    PrepareEpoch,
)
from discord_rtc.server.dave_faults import DaveFaults
from discord_rtc.server.dave_outbox import Outbox
from discord_rtc.server.mls import ExternalSender, proposals_payload, revoke_payload

SENDER = ExternalSender(SigningKey.generate())
FIRST, SECOND = SENDER.remove(1, 1, 1), SENDER.remove(1, 1, 2)
COMMIT = MlsAnnounceCommit(3, b"commit")
BAD_COMMIT = MlsAnnounceCommit(3, b"commiu")
BOTH = MlsProposals(proposals_payload([FIRST, SECOND]))


def outbox() -> tuple[Outbox, DaveFaults]:
    faults = DaveFaults()
    return Outbox(faults), faults


def test_messages_leave_in_order_and_once() -> None:
    box = Outbox()
    box.propose({1: [FIRST, SECOND], 2: [FIRST, SECOND]})
    box.revoke(1, [FIRST, SECOND])
    box.announce(3, [1, 2], b"commit")
    box.welcome(3, 4, b"welcome")
    box.execute(3, [1, 2])
    box.send(1, PrepareEpoch(1, 1))

    assert box.drain() == [
        (1, BOTH),
        (2, BOTH),
        (1, MlsProposals(revoke_payload([FIRST.ref, SECOND.ref]))),
        (1, COMMIT),
        (2, COMMIT),
        (4, MlsWelcome(3, b"welcome")),
        (1, ExecuteTransition(3)),
        (2, ExecuteTransition(3)),
        (1, PrepareEpoch(1, 1)),
    ]
    assert box.drain() == []
    assert box.delay_of_execute() == 0.0


def test_proposals_are_scattered_only_when_there_are_several() -> None:
    box, faults = outbox()
    faults.proposals_out_of_order()
    box.propose({1: [FIRST]})
    assert len(box.drain()) == 1
    box.propose({1: [FIRST, SECOND]})

    assert box.drain() == [(1, MlsProposals(proposals_payload([each]))) for each in (SECOND, FIRST)]
    box.propose({1: [FIRST, SECOND]})
    assert box.drain() == [(1, BOTH)]


def test_proposals_are_held_back_for_one_of_several_until_the_commit() -> None:
    box, faults = outbox()
    faults.proposals_out_of_order(after_commit=True)
    box.propose({1: [FIRST, SECOND]})
    assert box.drain() == [(1, BOTH)]
    box.propose({1: [FIRST, SECOND], 2: [FIRST, SECOND]})
    assert box.drain() == [(1, BOTH)]

    box.announce(3, [1, 2], b"commit")
    assert box.drain() == [(1, COMMIT), (2, COMMIT), (2, BOTH)]
    box.announce(3, [1], b"commit")
    assert box.drain() == [(1, COMMIT)]


def test_what_is_held_back_can_be_void() -> None:
    for user_id, left in ((2, 0), (None, 0), (1, 1)):
        box, faults = outbox()
        faults.proposals_out_of_order(after_commit=True)
        box.propose({1: [FIRST], 2: [FIRST]})
        box.drain()
        box.forget(user_id)
        box.release()
        assert len(box.drain()) == left


def test_a_commit_is_altered_for_all_or_for_one_but_never_the_first_of_a_group() -> None:
    box, faults = outbox()
    faults.corrupt_commit()
    faults.corrupt_commit(user_id=2)
    box.announce(0, [1, 2], b"commit")
    assert [message for _, message in box.drain()] == [MlsAnnounceCommit(0, b"commit")] * 2
    box.announce(3, [1, 3], b"commit")
    assert box.drain() == [(1, BAD_COMMIT), (3, BAD_COMMIT)]
    box.announce(3, [1, 2], b"commit")
    assert box.drain() == [(1, COMMIT), (2, BAD_COMMIT)]


def test_a_commit_is_lost_for_whoever_comes_next_or_for_one() -> None:
    box, faults = outbox()
    faults.lose_commit()
    faults.lose_commit(user_id=3)
    box.announce(0, [1], b"commit")
    assert len(box.drain()) == 1
    box.announce(3, [1, 2, 3], b"commit")
    assert box.drain() == [(2, COMMIT)]


def test_a_welcome_is_altered_or_lost() -> None:
    box, faults = outbox()
    faults.lose_welcome()
    faults.corrupt_welcome(user_id=6)
    box.welcome(0, 5, b"welcome")
    box.welcome(3, 5, b"welcome")
    box.welcome(3, 6, b"welcome")

    assert box.drain() == [(5, MlsWelcome(0, b"welcome")), (6, MlsWelcome(3, b"welcomd"))]


def test_op_22_is_lost_for_all_or_for_one_and_late_once() -> None:
    box, faults = outbox()
    faults.lose_execute()
    faults.lose_execute(user_id=2)
    faults.delay_execute(1.0)
    box.execute(3, [1, 2])
    assert box.drain() == []
    box.execute(3, [1, 2])
    assert box.drain() == [(1, ExecuteTransition(3))]
    assert [box.delay_of_execute(), box.delay_of_execute()] == [1.0, 0.0]
