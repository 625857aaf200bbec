"""Files, URLs and filter graphs as tracks in real time. Event loop; a thread does the work."""

from __future__ import annotations

import asyncio
import warnings
import weakref
from functools import partial
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

import av

from discord_rtc.errors import UnsupportedMedia
from discord_rtc.frames import MediaKind
from discord_rtc.media.demux import Demuxer
from discord_rtc.media.lane import Lane
from discord_rtc.media.pacing import STALL, Pacing
from discord_rtc.media.probe import Finding, choose_streams, locate, open_container, probe
from discord_rtc.media.track import MediaStreamError, MediaStreamTrack

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from av.container import InputContainer

    from discord_rtc.frames import Codec
    from discord_rtc.media.lane import Item, LaneStats
    from discord_rtc.media.probe import Location
    from discord_rtc.media.track import MediaFrame

Passthrough: TypeAlias = Literal["auto", "always", "never"]

CLOSE_WAIT = 0.2
"""Seconds that `MediaSource.close` waits for the thread, which is mostly idle and ends at
once. Only a URL that gives no data keeps it longer, without anybody waiting."""


def open_media(
    source: str | os.PathLike[str],
    *,
    loop: bool = False,
    passthrough: Passthrough = "auto",
    realtime: bool = True,
) -> MediaSource:
    """Open media to be sent.

    Opening is synchronous: some milliseconds for a file. A slow URL may take 10 s; inside a
    running loop use ``await asyncio.to_thread(open_media, url)``.

    Args:
        source: A file, a URL that FFmpeg knows, or ``"lavfi:"`` and a filter graph, e.g.
            ``"lavfi:testsrc2=size=640x360:rate=30"`` or ``"lavfi:sine=frequency=440"``.
        loop: Begin again at the end, timestamps going on.
        passthrough: Whether encoded packets are handed on instead of frames. ``"auto"``: where
            a file's H.264, VP8 or Opus can be sent as it is (frames in order, a keyframe every
            4 s, Opus in 20 ms); ``"always"``: all of it or an error; ``"never"``: decode.
        realtime: Hand frames out when they are due; False: as fast as they are fetched.

    Returns:
        The source, whose tracks start when the first of them is read.

    Raises:
        UnsupportedMedia: There is nothing usable, in one sentence.
    """
    location = locate(source)
    container = open_container(location)
    try:
        findings = _findings(location, container, passthrough)
    except UnsupportedMedia:
        container.close()
        raise
    lanes = [
        Lane(kind, None if passthrough == "never" or finding.refusal else finding.codec)
        for kind, finding in findings.items()
    ]
    duration = container.duration / 1_000_000 if container.duration else None  # AV_TIME_BASE
    demuxer = Demuxer(location, container, lanes, loop=loop)
    tracks = [
        SourceTrack(lane, demuxer, findings[lane.kind].refusal, pacing)
        for pacing in [Pacing(realtime=realtime)]
        for lane in lanes
    ]
    return MediaSource(location.name, demuxer, tracks, duration)


class SourceTrack(MediaStreamTrack):
    """One stream of a `MediaSource`. An aiortc ``MediaStreamTrack``.

    Attributes:
        codec: What `recv` yields packets of; None when it yields frames.
        passthrough_refusal: Why the stream cannot be sent as it is; None when it can.
    """

    def __init__(
        self, lane: Lane, demuxer: Demuxer, passthrough_refusal: str | None, pacing: Pacing
    ) -> None:
        super().__init__()
        self.kind = lane.kind.value
        self.codec: Codec | None = lane.passthrough
        self.passthrough_refusal = passthrough_refusal
        self.source: MediaSource | None = None
        self._lane = lane
        self._demuxer = demuxer
        self._pacing = pacing
        self._arrived = asyncio.Event()
        self._turn = asyncio.Lock()
        self._await_keyframe = False

    @property
    def in_use(self) -> bool:
        """Whether this track was read and has not ended."""
        return self._lane.wanted and self.readyState == "live"

    async def recv(self) -> MediaFrame:
        """Wait until the next frame or packet is due.

        The first call starts the clock of the whole source. A track that is first read later
        than its sibling joins at the sibling's place. One that falls back by more than 1 s
        leaves out what its sibling is past, or else lets the clock start anew.

        Raises:
            MediaStreamError: (aiortc's) The media has ended or the track was stopped.
        """
        if self.readyState == "live" and not self._lane.wanted:
            # Bound to the event alone: the thread must not keep an abandoned source alive.
            self._demuxer.want(
                self._lane, partial(_call_soon, asyncio.get_running_loop(), self._arrived.set)
            )
            await asyncio.sleep(0)  # a sibling that is read from now on too misses nothing
        async with self._turn:
            while True:
                item = await self._next_item()
                late = await self._pacing.wait(float(item.time))
                if self.readyState != "live":
                    raise MediaStreamError("the track was stopped")
                keep = self._keeps_up(item, late)
                # Only now, so that a cancelled call loses nothing.
                self._demuxer.take(self._lane, drop=not keep)
                if keep:
                    return item.media

    async def _next_item(self) -> Item:
        while (item := self._demuxer.peek(self._lane)) is None:
            if self.readyState != "live" or self._demuxer.finished(self._lane):
                self.stop()
                raise MediaStreamError("the media has ended")
            self._arrived.clear()
            await self._arrived.wait()
        return item

    def _keeps_up(self, item: Item, late: float) -> bool:
        if late > STALL:
            if self._demuxer.position > item.time + STALL:
                self._await_keyframe = self.codec is not None and self.kind == MediaKind.VIDEO
                return False
            self._pacing.restart(float(item.time))
        if self._await_keyframe and isinstance(item.media, av.Packet):
            self._await_keyframe = not item.media.is_keyframe
        return not self._await_keyframe

    def stop(self) -> None:
        """Give the track up. The source is closed with the last of its tracks in use."""
        if self.readyState == "ended":
            return
        super().stop()
        self._demuxer.leave(self._lane)
        self._arrived.set()
        if self.source is not None:
            self.source.close_unless_in_use()

    def stats(self) -> LaneStats:
        """Counters of this track's queue."""
        return self._lane.stats()


class MediaSource:
    """Opened media: a video and an audio track on one clock. Made by `open_media`.

    A context manager. It closes by itself when its tracks have ended or were stopped; a track
    that was never read does not count. A track keeps its source alive.

    Attributes:
        name: What was opened.
        video: The video track, None without video.
        audio: The audio track, None without audio.
        duration: Seconds, None when unknown or endless.
    """

    def __init__(
        self, name: str, demuxer: Demuxer, tracks: list[SourceTrack], duration: float | None
    ) -> None:
        self.name = name
        self.duration = duration
        self.video = next((track for track in tracks if track.kind == MediaKind.VIDEO), None)
        self.audio = next((track for track in tracks if track.kind == MediaKind.AUDIO), None)
        self._tracks = tracks
        self._demuxer = demuxer
        self._abandon = weakref.finalize(self, _abandon, demuxer, name)
        self._abandon.atexit = False
        for track in tracks:
            track.source = self

    def close(self) -> None:
        """End both tracks, the thread and the file. Idempotent."""
        if self._abandon.detach() is None:
            return
        for track in self._tracks:
            track.stop()
        self._demuxer.close(CLOSE_WAIT)

    def close_unless_in_use(self) -> None:
        """Close when no track is being read."""
        if not any(track.in_use for track in self._tracks):
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        kinds = " and ".join(track.kind for track in self._tracks)
        state = "open" if self._abandon.alive else "closed"
        return f"<MediaSource {self.name!r}, {kinds}, {state}>"


def _findings(
    location: Location, container: InputContainer, passthrough: Passthrough
) -> dict[MediaKind, Finding]:
    if location.local:
        findings = probe(location)
    else:
        refusal = "only files can be examined for it"
        findings = {kind: Finding(True, None, refusal) for kind in choose_streams(container)}
    usable = {kind: finding for kind, finding in findings.items() if finding.decodes}
    if not usable:
        what = "that can be decoded" if findings else "at all"
        raise UnsupportedMedia(f"{location.name} holds no picture or sound {what}")
    for kind, finding in usable.items():
        if passthrough == "always" and finding.refusal is not None:
            raise UnsupportedMedia(
                f"the {kind} of {location.name} cannot be sent as it is: {finding.refusal}"
            )
    return usable


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return  # the loop is closed, so nobody waits


def _abandon(demuxer: Demuxer, name: str) -> None:
    demuxer.close(0)
    warnings.warn(f"unclosed media source {name!r}", ResourceWarning, stacklevel=2)
