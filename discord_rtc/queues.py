"""Queues that cannot grow without end, and how full they have been. Ground floor."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How full a bounded queue has been.

    Attributes:
        name: Which queue.
        high_water: Most items that it ever held.
        bound: Most items that it may hold.
        dropped: Items that were refused or pushed out because of the bound.
    """

    name: str
    high_water: int
    bound: int
    dropped: int


class BoundedQueue(Generic[T]):
    """A FIFO that refuses the newest item when it is full, and remembers how full it was.

    Args:
        name: Name in the statistics.
        bound: Most items that it holds.
    """

    def __init__(self, name: str, bound: int) -> None:
        self._name = name
        self._bound = bound
        self._items: deque[T] = deque()
        self._high_water = 0
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def room(self) -> int:
        """How many more items fit."""
        return self._bound - len(self._items)

    def refuse(self, count: int) -> None:
        """Count items that the caller did not even try to put in."""
        self._dropped += count

    def put(self, item: T) -> bool:
        """Append, or count a drop and return False when the queue is full."""
        items = self._items
        if len(items) >= self._bound:
            self._dropped += 1
            return False
        items.append(item)
        self._high_water = max(self._high_water, len(items))
        return True

    def peek(self) -> T:
        """The oldest item, which stays. The queue must not be empty."""
        return self._items[0]

    def take(self) -> T:
        """The oldest item, which leaves. The queue must not be empty."""
        return self._items.popleft()

    def stats(self) -> QueueStats:
        """What happened so far."""
        return QueueStats(self._name, self._high_water, self._bound, self._dropped)


class RollingQueue(Generic[T]):
    """First in, first out; when it is full the oldest item is dropped and counted.

    Args:
        limit: Largest number of items, at least 1.

    Attributes:
        dropped: Items lost so far.
        high_water: Most items ever held.
    """

    __slots__ = ("_items", "_limit", "dropped", "high_water")

    def __init__(self, limit: int) -> None:
        self._items: deque[T] = deque()
        self._limit = limit
        self.dropped = 0
        self.high_water = 0

    def __len__(self) -> int:
        return len(self._items)

    def append(self, item: T) -> None:
        """Add an item at the end."""
        if len(self._items) >= self._limit:
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)
        self.high_water = max(self.high_water, len(self._items))

    def pop(self) -> T | None:
        """Take the oldest item; None when there is none."""
        return self._items.popleft() if self._items else None

    def drain(self) -> list[T]:
        """Take all items, oldest first."""
        items = list(self._items)
        self._items.clear()
        return items
