"""Transitions of the server: ids, and who is waited for."""

from __future__ import annotations

from discord_rtc.server.dave_transitions import OpenTransition, TransitionIds


def test_ids_wrap_around_and_are_never_0() -> None:
    ids = TransitionIds()
    taken = [ids.take() for _ in range(65537)]

    assert taken[:2] == [1, 2]
    assert taken[65534:] == [65535, 1, 2]
    assert 0 not in taken


def test_an_answer_counts_once() -> None:
    transition = OpenTransition(1, 1, [1, 2], {1, 2}, 2.0)

    assert transition.answered(1)
    assert not transition.answered(1)
    assert not transition.answered(3)
    assert transition.awaited == {2}
    assert transition.affected == [1, 2]


def test_who_leaves_is_neither_waited_for_nor_told() -> None:
    transition = OpenTransition(1, 1, [1, 2, 3], {1, 2}, 2.0)
    for user_id in (1, 3, 3):
        transition.forget(user_id)

    assert transition.awaited == {2}
    assert transition.affected == [2]
