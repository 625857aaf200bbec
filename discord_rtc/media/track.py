"""Tracks: what media comes from, and what received media is read from. Event loop only.

A track is anything with the shape of aiortc's ``MediaStreamTrack``, so that its players,
relays and recorders, and whatever users built on them, fit without a wrapper.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from discord_rtc.errors import UsageError
from discord_rtc.frames import MediaKind

if TYPE_CHECKING:
    from collections.abc import Callable

    import av
    from av.frame import Frame
    from av.stream import Stream

MediaFrame: TypeAlias = "av.VideoFrame | av.AudioFrame | av.Packet[Stream]"
"""What a track yields: decoded pictures or sound, or encoded packets."""

__all__ = [  # aiortc's names too: no other module imports aiortc for tracks
    "LIVE_LIMITS",
    "MediaFrame",
    "MediaStreamError",
    "MediaStreamTrack",
    "MediaTrack",
    "RemoteTrack",
    "TrackReader",
    "TrackStats",
]

LIVE_LIMITS = {MediaKind.VIDEO: 2, MediaKind.AUDIO: 10}
"""Frames a live reader may lag behind: two pictures, or 200 ms of sound."""


class MediaTrack(Protocol):
    """A source of frames or encoded packets. Every aiortc ``MediaStreamTrack`` is one."""

    kind: str

    @property
    def readyState(self) -> str:  # noqa: N802 - aiortc's contract
        """``"live"`` or ``"ended"``."""
        ...

    async def recv(self) -> Frame | av.Packet[Stream]:
        """Wait for the next `MediaFrame`. Raises aiortc's ``MediaStreamError`` at the end."""
        ...

    def stop(self) -> None:
        """Give the source up."""
        ...


@dataclass(frozen=True, slots=True)
class TrackStats:
    """What went through a received track.

    Attributes:
        delivered: Frames that the connection handed over.
        dropped: Frames that some reader was too slow for, over all readers ever.
        readers: Readers that are open now.
        high_water: Most frames that ever waited in one reader's queue.
        bound: Limit of that queue.
    """

    delivered: int
    dropped: int
    readers: int
    high_water: int
    bound: int


class TrackReader:
    """One consumer's own bounded queue of a track; the oldest frame gives way.

    Use it as a context manager, or call `close`: while a reader is open, its track is decoded.

    Args:
        limit: Frames that may wait.
        on_close: Called once, when the reader is closed.

    Attributes:
        dropped: Frames that gave way.
        high_water: Most frames that ever waited.
    """

    def __init__(self, limit: int, on_close: Callable[[TrackReader], None]) -> None:
        self.limit = limit
        self.dropped = 0
        self.high_water = 0
        self._frames: deque[MediaFrame] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._on_close: Callable[[TrackReader], None] | None = on_close

    def push(self, frame: MediaFrame) -> None:
        """Queue a frame. Called by the track."""
        if len(self._frames) >= self.limit:
            self._frames.popleft()
            self.dropped += 1
        self._frames.append(frame)
        self.high_water = max(self.high_water, len(self._frames))
        self._changed.set()

    def end(self) -> None:
        """No further frame will come. Called by the track."""
        self._ended = True
        self._changed.set()

    async def recv(self) -> MediaFrame:
        """Wait for the next frame.

        Raises:
            MediaStreamError: (aiortc's) The track ended and every frame was read, or the
                reader is closed.
        """
        while not self._frames:
            if self._ended:
                raise MediaStreamError("the track has ended")
            self._changed.clear()
            await self._changed.wait()
        return self._frames.popleft()

    def close(self) -> None:
        """Forget what waits and leave the track. Idempotent."""
        self._frames.clear()
        self.end()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MediaFrame:
        try:
            return await self.recv()
        except MediaStreamError:
            raise StopAsyncIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "ended" if self._ended else "live"
        waiting = f"{len(self._frames)}/{self.limit} waiting"
        return f"<TrackReader {state}, {waiting}, {self.dropped} dropped>"


class RemoteTrack(MediaStreamTrack):
    """Received media, as a real aiortc track.

    Args:
        kind: Audio or video.
        label: Shown in the repr, e.g. whose camera this is.
        on_demand: Called with True when the first reader appears and with False when the
            last one is gone, so that nothing is decoded (or even sent) for nobody.

    Attributes:
        rtp_origin: RTP ticks that pts 0 stands for, when known, so that received frames can
            be matched with what was sent.
    """

    def __init__(
        self,
        kind: MediaKind,
        *,
        label: str = "",
        on_demand: Callable[[bool], None] | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind.value
        self.label = label
        self.rtp_origin: int | None = None
        self._live_limit = LIVE_LIMITS[kind]
        self._on_demand = on_demand
        self._readers: list[TrackReader] = []
        self._default: TrackReader | None = None
        self._delivered = 0
        self._dropped_by_closed = 0
        self._peak = (0, self._live_limit)

    @property
    def wanted(self) -> bool:
        """Whether anybody reads this track."""
        return bool(self._readers)

    def deliver(self, frame: MediaFrame) -> None:
        """Hand a decoded frame to every reader; slow live readers lose their oldest one."""
        self._delivered += 1
        for reader in self._readers:
            reader.push(frame)

    def reader(self, *, limit: int | None = None) -> TrackReader:
        """Open a reader with its own queue.

        Args:
            limit: Frames that may wait before the oldest is dropped and counted; None for a
                live reader (`LIVE_LIMITS`).

        Raises:
            UsageError: The limit is below 1.
        """
        limit = self._live_limit if limit is None else limit
        if limit < 1:
            raise UsageError(f"a reader needs room for at least one frame, not {limit}")
        reader = TrackReader(limit, self._forget)
        if self.readyState == "ended":
            reader.end()
            return reader
        self._readers.append(reader)
        if len(self._readers) == 1:
            self._demand(True)
        return reader

    async def recv(self) -> MediaFrame:
        """Wait for the next frame: aiortc's contract, through a reader of the track's own.

        Raises:
            MediaStreamError: (aiortc's) The track ended and every frame was read.
        """
        if self._default is None:
            self._default = self.reader()
        return await self._default.recv()

    def finish(self) -> None:
        """The remote side ended: readers get what waits, then ``MediaStreamError``."""
        for reader in self._readers:
            reader.end()
        super().stop()

    def stop(self) -> None:
        """The user does not want this track any more: closes every reader."""
        for reader in tuple(self._readers):
            reader.close()
        super().stop()

    def stats(self) -> TrackStats:
        """Counters of this track; the queue shown is the fullest there ever was."""
        fullest = max([self._peak, *map(_peak, self._readers)], key=_fill)
        return TrackStats(
            delivered=self._delivered,
            dropped=self._dropped_by_closed + sum(reader.dropped for reader in self._readers),
            readers=len(self._readers),
            high_water=fullest[0],
            bound=fullest[1],
        )

    def _forget(self, reader: TrackReader) -> None:
        if reader not in self._readers:
            return
        self._readers.remove(reader)
        self._dropped_by_closed += reader.dropped
        self._peak = max(self._peak, _peak(reader), key=_fill)
        if not self._readers:
            self._demand(False)

    def _demand(self, wanted: bool) -> None:
        if self._on_demand is not None and self.readyState == "live":
            self._on_demand(wanted)

    def __repr__(self) -> str:
        stats = self.stats()
        name = f" {self.label!r}" if self.label else ""
        return (
            f"<RemoteTrack {self.kind}{name} {self.readyState}, {stats.readers} readers, "
            f"{stats.delivered} frames, {stats.dropped} dropped>"
        )


def _peak(reader: TrackReader) -> tuple[int, int]:
    return reader.high_water, reader.limit


def _fill(peak: tuple[int, int]) -> float:
    return peak[0] / peak[1]
