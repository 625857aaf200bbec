"""Frames whose sender is not known yet. Sans-I/O.

Op 5 and op 12, which name the owner of an SSRC, travel over another socket than media and may
come after it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from discord_rtc.rtp.session import FrameReceived

PARKING_SECONDS = 0.5
"""How long frames of an unnamed SSRC wait (userdoccers, "Media Receive Loop")."""

PARKING_BOUND = 256
"""Frames that wait in all; the oldest is dropped and counted when a further one comes."""


class Parking:
    """Frames whose sender is not known yet. Sans-I/O."""

    def __init__(self) -> None:
        self._frames: deque[FrameReceived] = deque()
        self.high_water = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._frames)

    def park(self, frame: FrameReceived) -> None:
        """Keep a frame; the oldest one makes room."""
        if len(self._frames) >= PARKING_BOUND:
            self._frames.popleft()
            self.dropped += 1
        self._frames.append(frame)
        self.high_water = max(self.high_water, len(self._frames))

    def take(self, ssrc: int) -> list[FrameReceived]:
        """Everything that waits for this SSRC to be named, in order."""
        taken = [frame for frame in self._frames if frame.ssrc == ssrc]
        if taken:
            self._frames = deque(frame for frame in self._frames if frame.ssrc != ssrc)
        return taken

    def expire(self, now: float) -> None:
        """Drop and count what has waited too long."""
        while self._frames and now - self._frames[0].now > PARKING_SECONDS:
            self._frames.popleft()
            self.dropped += 1
