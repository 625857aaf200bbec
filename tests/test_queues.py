"""Queues that cannot grow without end."""

from __future__ import annotations

from discord_rtc.queues import BoundedQueue, QueueStats, RollingQueue


def test_items_leave_in_the_order_of_coming() -> None:
    queue: BoundedQueue[str] = BoundedQueue("letters", 3)
    assert [queue.put(item) for item in "abc"] == [True, True, True]
    assert queue.peek() == "a"
    assert [queue.take() for _ in range(3)] == ["a", "b", "c"]
    assert not queue


def test_a_full_queue_refuses_the_newest_and_counts_it() -> None:
    queue: BoundedQueue[int] = BoundedQueue("numbers", 2)
    assert [queue.put(item) for item in range(4)] == [True, True, False, False]
    assert queue.room == 0
    assert queue.take() == 0
    assert queue.room == 1
    assert queue.stats() == QueueStats("numbers", high_water=2, bound=2, dropped=2)


def test_the_high_water_mark_stays_when_the_queue_empties() -> None:
    queue: BoundedQueue[int] = BoundedQueue("numbers", 9)
    for item in range(5):
        queue.put(item)
    for _ in range(5):
        queue.take()
    queue.put(0)
    assert queue.stats().high_water == 5


def test_items_refused_by_the_owner_are_counted() -> None:
    queue: BoundedQueue[int] = BoundedQueue("numbers", 9)
    queue.refuse(4)
    assert queue.stats().dropped == 4


def test_items_leave_in_the_order_in_which_they_came() -> None:
    queue: RollingQueue[int] = RollingQueue(4)
    for item in (1, 2, 3):
        queue.append(item)
    assert len(queue) == 3
    assert queue.pop() == 1
    assert queue.drain() == [2, 3]
    assert queue.drain() == []
    assert queue.pop() is None


def test_a_full_queue_drops_the_oldest_and_counts_it() -> None:
    queue: RollingQueue[int] = RollingQueue(2)
    for item in range(5):
        queue.append(item)
    assert queue.drain() == [3, 4]
    assert queue.dropped == 3
    assert queue.high_water == 2
