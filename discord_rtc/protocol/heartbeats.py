"""Heartbeats of a voice gateway client: when, numbered how, answered or not. Sans-I/O.

Spec: userdoccers, "Voice Connections", heartbeating.
"""

from __future__ import annotations

_LONGEST_INTERVAL = 5.0  # as the web client and discord.py
_SHORTEST_INTERVAL = 0.02  # a senseless Hello must not make the timer spin
_MISSED_LIMIT = 3  # as discord.js


class Heartbeats:
    """The heartbeats of one session; each websocket starts them anew.

    Args:
        now: Monotonic seconds, where the integers start.
        clock_ms: Start value of the integers; any clock in milliseconds.
    """

    def __init__(self, *, now: float, clock_ms: int) -> None:
        self._opened_at = now
        self._clock_ms = clock_ms
        self._last_t = clock_ms - 1
        self._interval = _LONGEST_INTERVAL
        self._due: float | None = None
        self._unanswered: dict[int, float] = {}
        self._missed = 0

    @property
    def due(self) -> float | None:
        """When the next one has to go out; None while there is no websocket to send it on."""
        return self._due

    @property
    def last(self) -> int:
        """The integer of the last one; those of later ones are larger."""
        return self._last_t

    @property
    def unheeded(self) -> bool:
        """Whether so many in a row were not answered that the websocket has to be dead."""
        return self._missed >= _MISSED_LIMIT

    def start(self, asked_ms: float, now: float) -> float:
        """Hello came.

        Args:
            asked_ms: The interval that it asks for.
            now: Monotonic seconds.

        Returns:
            The interval in use, in seconds.
        """
        self._interval = max(_SHORTEST_INTERVAL, min(asked_ms / 1000, _LONGEST_INTERVAL))
        self._due = now + self._interval
        self._unanswered.clear()
        self._missed = 0
        return self._interval

    def stop(self) -> None:
        """The websocket is gone."""
        self._due = None

    def expect(self, now: float) -> None:
        """One is going out on schedule, and should be answered before the next."""
        self._missed += 1
        self._due = now + self._interval  # from now: a late timer must not cause a burst

    def beat(self, now: float) -> int:
        """The integer of the one that goes out now."""
        elapsed_ms = int((now - self._opened_at) * 1000)
        self._last_t = max(self._last_t + 1, self._clock_ms + elapsed_ms)
        while len(self._unanswered) > _MISSED_LIMIT:
            del self._unanswered[next(iter(self._unanswered))]
        self._unanswered[self._last_t] = now
        return self._last_t

    def answered(self, t: int, now: float) -> float | None:
        """An answer came.

        Returns:
            The round-trip time in seconds; None when that one is not remembered.
        """
        self._missed = 0  # any answer proves that the server is there
        sent_at = self._unanswered.pop(t, None)
        return None if sent_at is None else now - sent_at
