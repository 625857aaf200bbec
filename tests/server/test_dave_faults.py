"""Faults of the delivery service: how often, for whom, and that they end."""

from __future__ import annotations

import pytest

from discord_rtc.errors import UsageError
from discord_rtc.server.dave_faults import DaveFaults
from discord_rtc.server.faults import Faults


def test_nothing_goes_wrong_unasked() -> None:
    faults = DaveFaults()

    assert not faults.take("lost-execute")
    assert not faults.take("corrupt-welcome", 1)
    assert faults.take_delay() == 0.0
    assert faults.counters == {}


def test_a_fault_happens_as_often_as_it_was_asked_for() -> None:
    faults = DaveFaults()
    faults.corrupt_commit(2)
    faults.corrupt_commit()

    assert [faults.take("corrupt-commit") for _ in range(4)] == [True, True, True, False]
    assert faults.counters == {"corrupt-commit": 3}


def test_what_was_asked_for_one_user_happens_to_nobody_else() -> None:
    faults = DaveFaults()
    faults.lose_welcome(user_id=5)
    faults.lose_welcome(user_id=6)

    assert not faults.take("lost-welcome")
    assert not faults.take("lost-welcome", 7)
    assert faults.take("lost-welcome", 6)
    assert faults.take("lost-welcome", 5)


def test_each_kind_is_kept_apart() -> None:
    faults = DaveFaults()
    faults.lose_commit()
    faults.lose_execute()
    faults.proposals_out_of_order()
    faults.proposals_out_of_order(after_commit=True)
    faults.corrupt_welcome()

    for fault in (
        "lost-commit",
        "lost-execute",
        "proposals-out-of-order",
        "proposals-after-commit",
        "corrupt-welcome",
    ):
        assert faults.take(fault)
        assert not faults.take(fault)


def test_a_delay_lasts_for_so_many_transitions() -> None:
    faults = DaveFaults()
    faults.delay_execute(1.5, 2)

    assert [faults.take_delay() for _ in range(3)] == [1.5, 1.5, 0.0]


@pytest.mark.parametrize("seconds", [0.0, -1.0, 10.1, float("nan")])
def test_a_delay_must_be_one(seconds: float) -> None:
    with pytest.raises(UsageError, match="late"):
        DaveFaults().delay_execute(seconds)


def test_a_fault_that_never_happens_is_none() -> None:
    with pytest.raises(UsageError, match="once"):
        DaveFaults().lose_execute(0)


def test_clearing_the_faults_of_a_server_clears_these_too() -> None:
    faults = Faults()
    faults.dave.lose_commit()
    faults.clear(7)
    assert faults.dave.take("lost-commit")
    faults.dave.lose_commit(3)
    faults.clear()

    assert not faults.dave.take("lost-commit")
    assert faults.dave.counters == {"lost-commit": 1}
