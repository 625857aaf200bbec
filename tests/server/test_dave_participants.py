"""What a delivery service remembers of a user."""

from __future__ import annotations

from discord_rtc.server.dave_participants import Participant
from discord_rtc.server.mls import KeyPackage

PACKAGE = KeyPackage(b"data", bytes(32), 1, b"\4" * 65)


def participant() -> Participant:
    return Participant(1, 1, 1, has_sender=True)


def test_key_packages_are_read_at_a_limited_rate_and_the_newest_later() -> None:
    user = participant()

    assert [user.floods(b"early", 0.0) for _ in range(5)] == [False] * 5
    assert user.unread is None
    assert user.floods(b"late", 0.2)
    assert user.floods(b"later", 0.8)
    assert (user.unread, user.read_at) == (b"later", 1.2)
    assert not user.floods(b"later", 1.2)
    assert user.unread is None


def test_four_additions_in_four_seconds() -> None:
    user = participant()
    for at in (0.0, 1.0, 1.5):
        user.addition_spent(at)
        assert user.may_be_added_at() == float("-inf")
    user.addition_spent(2.0)
    assert user.may_be_added_at() == 4.0
    user.addition_spent(4.0)
    assert user.may_be_added_at() == 5.0


def test_invitations_are_rare() -> None:
    user = participant()

    assert [user.may_be_invited(at) for at in (0.0, 9.9, 10.0, 11.0)] == [True, False, True, False]


def test_a_member_has_used_his_key_package() -> None:
    user = participant()
    user.package = PACKAGE
    user.has_proposals = user.unsure = True
    user.entered(3)

    assert user.leaf == 3
    assert user.package is None
    assert not user.has_proposals
    assert not user.unsure


def test_who_lost_the_group_may_still_have_a_key_package() -> None:
    user = participant()
    user.entered(3)
    user.package = PACKAGE
    user.lost_group(7.0)
    assert (user.leaf, user.package, user.reset_at) == (None, PACKAGE, 7.0)

    user.unread = b"data"
    user.begin_anew(8.0)
    assert (user.leaf, user.package, user.reset_at) == (None, None, 8.0)
    assert user.unread is None
