"""Frames of one received stream that cannot be decrypted yet. Sans-I/O.

Not everybody changes keys at the same instant: a sender may be in the next epoch a moment before
us. Such a frame, and all that come behind it, wait in order until the key is there.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from discord_rtc.rtp.session import FrameReceived

RETRY_SECONDS = 0.5
"""How long a frame is tried again; transitions take some 50 ms, and sound that comes any later
would only be a stutter."""

RETRY_BOUND = 128
"""Frames of one stream; the oldest is given up when a further one comes."""


class Waiting(NamedTuple):
    """One frame that is tried again until ``until``."""

    frame: FrameReceived
    until: float


class RetryHold:
    """A FIFO of frames that wait for a key."""

    def __init__(self) -> None:
        self._frames: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: FrameReceived, now: float) -> FrameReceived | None:
        """Take a frame; gives the oldest one when there was no room."""
        given_up = self.take() if len(self._frames) >= RETRY_BOUND else None
        self._frames.append(Waiting(frame, now + RETRY_SECONDS))
        return given_up

    def peek(self) -> Waiting:
        """The oldest, which stays. There must be one."""
        return self._frames[0]

    def take(self) -> FrameReceived:
        """The oldest, which leaves. There must be one."""
        return self._frames.popleft().frame
