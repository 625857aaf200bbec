"""Who may be in the group."""

from __future__ import annotations

from collections import Counter

from discord_rtc.protocol.dave.recognised import RecognisedUsers

OWN, ANN, BOB = 1, 2, 3


def test_we_ourselves_are_always_recognised() -> None:
    users = RecognisedUsers(OWN, Counter())
    users.leave(OWN, 0.0)  # an op 13 for ourselves is about another session of ours
    assert users.present == {OWN}


def test_users_come_and_go() -> None:
    users = RecognisedUsers(OWN, Counter())
    users.join((ANN, OWN, ANN, BOB))
    users.leave(BOB, 1.0)
    users.leave(BOB, 2.0)
    assert users.present == {OWN, ANN}


def test_who_just_left_may_still_be_listed_by_a_welcome() -> None:
    users = RecognisedUsers(OWN, Counter())
    users.join((ANN, BOB))
    users.leave(BOB, 1.0)
    assert users.present_or_just_left(10.9) == {OWN, ANN, BOB}
    assert users.present_or_just_left(11.0) == {OWN, ANN}


def test_those_above_a_thousand_are_counted_and_not_recognised() -> None:
    counters: Counter[str] = Counter()
    users = RecognisedUsers(OWN, counters)
    users.join(range(1, 1003))
    users.join((5, 2000))
    assert len(users.present) == 1000
    assert counters["user-overflow"] == 3
