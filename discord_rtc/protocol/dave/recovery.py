"""When to give up a group and join it anew, and how often at most. Sans-I/O.

Two things lead here: a commit or welcome that cannot be processed, which is known at once, and
frames of the others that cannot be decrypted for long, which tell that a commit never came.
Each recovery costs the whole call a commit or two, and a hostile server could ask for them
without end; so the first is immediate and those after it are put off for longer and longer.

Spec: DAVE protocol whitepaper 1.1.4, "Recovery from Invalid Commit or Welcome"; 36 failures in
a row are what discord.js waits for.
"""

from __future__ import annotations

from dataclasses import dataclass

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 5.0
_FAILURES = 36  # as discord.js
_WATCH_PAUSE = 10.0
"""Seconds between two recoveries because of frames: the first one needs time to show."""


@dataclass(frozen=True, slots=True)
class RecoveryRequest:
    """What to put into op 31, and what to tell."""

    transition_id: int
    reason: str


class Recovery:
    """Puts recoveries off so that they stay rare.

    One request waits at a time: a newer one takes its place and keeps its time. Between two
    recoveries are 0.5 s, and twice as long each time that none of them led into a group, up to
    5 s.
    """

    def __init__(self) -> None:
        self._request: RecoveryRequest | None = None
        self._due = 0.0
        self._earliest = float("-inf")
        self._pause = _FIRST_PAUSE

    def request(self, request: RecoveryRequest, now: float) -> None:
        """Ask for one, as soon as it may be."""
        if self._request is None:
            self._due = max(now, self._earliest)
        self._request = request

    def take(self, now: float) -> RecoveryRequest | None:
        """The request, when it is due; it leaves and the next one has to wait."""
        request = self._request
        if request is None or now < self._due:
            return None
        self._request = None
        self._earliest = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return request

    def next_timeout(self) -> float | None:
        """When `take` gives something; None when nothing was asked for."""
        return None if self._request is None else self._due

    def cancel(self) -> None:
        """A new group begins anyway: what was asked for is void."""
        self._request = None

    def succeeded(self) -> None:
        """We are in a group: nothing to recover from, and the pauses are short again."""
        self._request = None
        self._pause = _FIRST_PAUSE


class FailureWatch:
    """Tells when frames could not be decrypted for too long.

    Args:
        span: Least seconds from the first failure of a row to the one that counts.
    """

    def __init__(self, span: float) -> None:
        self._span = span
        self._failures = 0
        self._since = 0.0
        self._earliest = float("-inf")

    def failure(self, now: float) -> bool:
        """Count a frame; True when 36 in a row failed over the whole span.

        True at most once in 10 s.
        """
        if not self._failures:
            self._since = now
        self._failures += 1
        if self._failures < _FAILURES or now - self._since < self._span or now < self._earliest:
            return False
        self._failures = 0
        self._earliest = now + _WATCH_PAUSE
        return True

    def reset(self) -> None:
        """A frame was decrypted, or keys changed: begin to count anew."""
        self._failures = 0
