"""How many messages a client may send. Sans-I/O."""

from __future__ import annotations


class MessageRate:
    """Counts messages in windows of one second.

    Args:
        limit: Most messages accepted in one window. Discord closes on floods too (its main
            gateway allows 120 a minute, the voice gateway's limit is not published); 500 a second
            leaves room for tests that do in one second what takes people an hour.
    """

    def __init__(self, limit: int = 500) -> None:
        self._limit = limit
        self._window_end = float("-inf")
        self._count = 0

    def exceeded(self, now: float) -> bool:
        """Count one message that came at ``now``; True when it is one too many."""
        if now >= self._window_end:
            self._window_end = now + 1.0
            self._count = 0
        self._count += 1
        return self._count > self._limit
