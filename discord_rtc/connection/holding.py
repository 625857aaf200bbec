"""Frames of one sent stream that must not leave yet. Sans-I/O.

A frame waits while there is no key that the others have. The newest are kept, over a bounded
stretch of media. Video is a chain: where a frame is dropped, all up to the next keyframe are
worth nothing and go with it, so what is kept always begins with a frame that can be decoded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from discord_rtc.frames import MediaKind
from discord_rtc.queues import QueueStats

if TYPE_CHECKING:
    from discord_rtc.frames import EncodedFrame

HOLD_BOUND = 256
"""Frames, whatever their times say: 2 s of 120 frames per second."""

STALE_AFTER = 0.5
"""Seconds beyond the stretch of media that is kept, after which a frame is too old to be sent
even if nothing newer came: what somebody said alone in the call is not for whoever comes later."""

_LONGEST_STEP = 1.0
"""Seconds from one frame to the next that count as media; more is a pause, or another clock."""


_ROUNDING = 1e-6
"""Seconds, so that a stretch added up in floats is not too long by their rounding."""


class Source(Protocol):
    """Whose frames they are: a publication."""

    withheld: bool

    def count(self, what: str) -> None:
        """Count one frame under a name."""
        ...

    def keyframe_requested(self) -> None:
        """A keyframe is needed soon."""
        ...

    def demand_keyframe(self) -> None:
        """The next frame must be a keyframe."""
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """One frame that waits.

    Attributes:
        frame: The frame, not encrypted yet.
        source: Who sends it.
        at: When it was handed over.
        speaking: Speaking flags that go with it.
        restarted: Whether it comes from another source than the frame before.
        step: Seconds of media since the frame before.
    """

    frame: EncodedFrame
    source: Source
    at: float
    speaking: int | None = None
    restarted: bool = False
    step: float = 0.0


class FrameHold:
    """A FIFO over a bounded stretch of media.

    Args:
        kind: Audio or video.

    Attributes:
        needs_keyframe: The chain is broken: only a keyframe is taken.
    """

    def __init__(self, kind: MediaKind) -> None:
        self._kind = kind
        self._frames: deque[Held] = deque()
        self._span = 0.0  # seconds of media from the first to the last
        self._last: EncodedFrame | None = None
        self._restarting = False
        self._high_water = 0
        self._dropped = 0
        self.needs_keyframe = False

    def __len__(self) -> int:
        return len(self._frames)

    def restart(self) -> None:
        """The next frame comes from another source."""
        self._restarting = True

    def put(self, held: Held, limit: float) -> list[Held]:
        """Take a frame; the oldest make room.

        Args:
            held: The frame; ``restarted`` and ``step`` are filled in here.
            limit: Seconds of media to keep.

        Returns:
            What was dropped, oldest first; that may be the frame itself.
        """
        frame = held.frame
        if self.needs_keyframe and not frame.keyframe:
            self._dropped += 1
            return [held]
        self.needs_keyframe = False
        step = 0.0 if self._restarting or self._last is None else _step(self._last, frame)
        self._span += step if self._frames else 0.0
        self._frames.append(replace(held, restarted=self._restarting, step=step))
        self._restarting, self._last = False, frame
        dropped: list[Held] = []
        while self._span > limit + _ROUNDING or len(self._frames) > HOLD_BOUND:
            dropped += self._drop_oldest()
        dropped += self.expire(held.at, limit)
        self._high_water = max(self._high_water, len(self._frames))
        return dropped

    def expire(self, now: float, limit: float) -> list[Held]:
        """Drop what is too old to be sent; gives it, oldest first."""
        dropped: list[Held] = []
        while self._frames and now - self._frames[0].at > limit + STALE_AFTER:
            dropped += self._drop_oldest()
        return dropped

    def take(self) -> Held | None:
        """The oldest frame, which may leave now; None when there is none."""
        if not self._frames:
            return None
        held = self._frames.popleft()
        self._shorten()
        return held

    def to_keyframe(self) -> list[Held]:
        """Drop what cannot be decoded without a frame before; gives it, oldest first."""
        if self._kind is MediaKind.AUDIO:
            return []
        dropped: list[Held] = []
        while self._frames and not self._frames[0].frame.keyframe:
            dropped.append(self._pop())
        self.needs_keyframe = not self._frames
        return dropped

    def clear(self) -> list[Held]:
        """Drop everything; gives it, oldest first."""
        dropped = [self._pop() for _ in range(len(self._frames))]
        self.needs_keyframe = self._kind is MediaKind.VIDEO
        return dropped

    def stats(self) -> QueueStats:
        """How full it was."""
        name = f"held-{self._kind.value}"
        return QueueStats(name, self._high_water, HOLD_BOUND, self._dropped)

    def _drop_oldest(self) -> list[Held]:
        return [self._pop(), *self.to_keyframe()]

    def _pop(self) -> Held:
        held = self._frames.popleft()
        self._dropped += 1
        self._shorten()
        if held.restarted and self._frames:
            self._frames[0] = replace(self._frames[0], restarted=True)
        elif held.restarted:
            self._restarting = True
        return held

    def _shorten(self) -> None:
        self._span = self._span - self._frames[0].step if self._frames else 0.0


def _step(before: EncodedFrame, frame: EncodedFrame) -> float:
    passed = float(frame.pts * frame.time_base - before.pts * before.time_base)
    return passed if 0 < passed < _LONGEST_STEP else 0.0
