"""Where a track's frames belong in a recording. No I/O, no clock: time is a parameter."""

from __future__ import annotations

from fractions import Fraction

MAX_STEP_BACK = Fraction(2)
"""Seconds. More is no disorder but a timeline that began again (another source, a loop)."""

MAX_LEAD = Fraction(60)
"""Seconds that timestamps may run ahead of the clock on the wall. A speaker's silence of an
hour takes an hour; a jump of an hour within a minute is a new timeline, and filling it would
fill the disk."""


class Timeline:
    """Maps the media time of one track to seconds from the beginning of the file.

    Normally that only subtracts the file's zero. Where timestamps jump beyond what the time
    that passed allows, the track goes on where the clock says.

    Args:
        zero: Media time at which the file begins, seconds.
        now: Monotonic seconds when it began.

    Attributes:
        jumps: How often the timestamps jumped.
    """

    def __init__(self, zero: Fraction, now: float) -> None:
        self.jumps = 0
        self._offset = zero
        self._position = Fraction(0)
        self._now = now

    def place(self, time: Fraction, now: float) -> Fraction:
        """Seconds from the beginning of the file, possibly a little negative or backwards.

        Args:
            time: Media time of a frame, seconds.
            now: Monotonic seconds of its arrival.
        """
        elapsed = max(Fraction(now - self._now), Fraction(0))
        position = time - self._offset
        if not -MAX_STEP_BACK < position - self._position < elapsed + MAX_LEAD:
            self.jumps += 1
            position = self._position + elapsed
            self._offset = time - position
        self._position = max(self._position, position)
        self._now = now
        return position
