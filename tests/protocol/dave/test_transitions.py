"""Transitions that were prepared: several at a time, superseded, overdue."""

from __future__ import annotations

from collections import Counter

from discord_rtc.protocol.dave.transitions import OpenTransitions, Transition


def transition(
    transition_id: int, deadline: float = 2.5, *, version: int = 1, new_epoch: bool = True
) -> Transition:
    return Transition(transition_id, version, deadline, new_epoch)


def opened(*transitions: Transition) -> tuple[OpenTransitions, Counter[str]]:
    counters: Counter[str] = Counter()
    table = OpenTransitions(counters)
    for each in transitions:
        table.open(each)
    return table, counters


def test_an_open_transition_is_executed_once() -> None:
    table, counters = opened(transition(1))
    assert table.execute(1) == transition(1)
    assert table.execute(1) is None
    assert counters == {"unknown-transitions": 1}


def test_a_later_transition_supersedes_those_before_it_and_not_those_after() -> None:
    table, counters = opened(transition(1), transition(2), transition(3))
    assert table.execute(2) == transition(2)
    assert counters == {"superseded": 1}
    assert len(table) == 1
    assert table.execute(3) == transition(3)


def test_a_lost_execute_is_made_up_for_and_a_late_one_is_told_from_an_unknown_one() -> None:
    table, counters = opened(transition(1, 2.5), transition(2, 3.0))
    assert table.next_timeout() == 2.5
    assert table.overdue(2.4) is None
    assert table.overdue(2.5) == transition(1, 2.5)
    assert table.next_timeout() == 3.0
    assert table.execute(1) is None
    assert counters == {"late-executes": 1}


def test_nothing_open_has_no_deadline() -> None:
    table, _ = opened()
    assert table.next_timeout() is None
    assert table.overdue(1e9) is None


def test_a_transition_prepared_twice_keeps_its_deadline() -> None:
    table, _ = opened(transition(1, 2.5, version=1, new_epoch=False))
    table.open(transition(1, 9.0, new_epoch=True))
    assert table.execute(1) == transition(1, 2.5, new_epoch=True)


def test_the_oldest_of_too_many_is_dropped_and_counted() -> None:
    table, counters = opened(*(transition(number) for number in range(1, 18)))
    assert len(table) == 16
    assert counters == {"transitions-dropped": 1}
    assert table.execute(1) is None


def test_a_lost_group_takes_its_epochs_along_but_no_change_of_version() -> None:
    table, _ = opened(transition(1), transition(2, version=0, new_epoch=False))
    table.forget_epochs()
    assert table.downgrading
    assert len(table) == 1
    table.clear()
    assert not table.downgrading


def test_a_transition_after_all_we_know_of_is_news() -> None:
    table, _ = opened()
    assert table.is_unheard_of(1)
    assert not table.is_unheard_of(0)
    table.open(transition(0xFFFF))
    table.execute(0xFFFF)
    assert table.is_unheard_of(1)  # the ids wrap
    assert not table.is_unheard_of(0xFFFF)
    assert not table.is_unheard_of(0xFFFE)  # prepared before we came
