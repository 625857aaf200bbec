"""One time axis for all streams of one user. Sans-I/O. Spec: RFC 3550 section 6.4.1.

RTP ticks of two streams start at random values. A sender report says which wallclock a
tick stands for; with it, audio and video of a user are put on one axis: seconds on our
own clock at which the frame was captured, plus a constant. Until a report comes, a
stream is anchored by the arrival of its first frame.
"""

from __future__ import annotations

REANCHOR_THRESHOLD = 0.015
"""Seconds a report may differ from the anchor before the stream is moved: less is not
visible as lip-sync error (ITU-R BT.1359: 45 ms), and every move is a jump for the reader."""


class UserTimeline:
    """Shared by the streams of one user: the distance of the user's wallclock to our clock."""

    def __init__(self) -> None:
        self._offset: float | None = None

    def local_time(self, ntp: float, now: float) -> float:
        """Our time of something that happened at ``ntp`` (seconds) on the sender's clock.

        The first report fixes the distance; it holds the network delay of that report,
        which is the same for all streams of the user.
        """
        if self._offset is None:
            self._offset = now - ntp
        return ntp + self._offset


class StreamTimeline:
    """Maps the ticks of one stream to pts.

    Args:
        user: The sender's timeline.
        clock_rate: Ticks per second.
        epoch: Our time that pts 0 stands for, in seconds.
    """

    def __init__(self, user: UserTimeline, clock_rate: int, epoch: float) -> None:
        self._user = user
        self._clock_rate = clock_rate
        self._epoch = epoch
        self._origin: int | None = None
        self._reported = False

    @property
    def origin(self) -> int | None:
        """Ticks that pts 0 stands for; None before the first frame or report."""
        return self._origin

    def report(self, ntp: float, ticks: int, now: float) -> None:
        """Take a sender report.

        Args:
            ntp: Seconds since 1900 on the sender's clock.
            ticks: The stream's unwrapped ticks at that instant.
            now: Our time of arrival.
        """
        origin = self._origin_at(ticks, self._user.local_time(ntp, now))
        if self._origin is None or not self._reported:
            moved = self._origin is None or self._differs(origin, REANCHOR_THRESHOLD)
        else:
            # After the first report only a broken clock or a new source moves the anchor.
            moved = self._differs(origin, 4 * REANCHOR_THRESHOLD)
        if moved:
            self._origin = origin
        self._reported = True

    def pts(self, ticks: int, now: float) -> int:
        """Presentation time in units of ``1 / clock_rate`` since the epoch."""
        if self._origin is None:
            self._origin = self._origin_at(ticks, now)
        return ticks - self._origin

    def _origin_at(self, ticks: int, local: float) -> int:
        return ticks - round((local - self._epoch) * self._clock_rate)

    def _differs(self, origin: int, seconds: float) -> bool:
        assert self._origin is not None
        return abs(origin - self._origin) > seconds * self._clock_rate
