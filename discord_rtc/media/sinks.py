"""Recording tracks to a file. Event loop; encoding and writing happen in one worker thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import av

from discord_rtc.errors import (
    InvalidState,
    MalformedFrame,
    MediaError,
    UnsupportedMedia,
    UsageError,
)
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.media.decode import OpusDecoder, VideoDecoder
from discord_rtc.media.encode import packet_to_frame
from discord_rtc.media.formats import FORMATS
from discord_rtc.media.mux import Mux
from discord_rtc.media.outputs import SAMPLE_RATE
from discord_rtc.media.track import MediaStreamError, RemoteTrack

if TYPE_CHECKING:
    import os
    from concurrent.futures import Future
    from types import TracebackType

    from discord_rtc.media.formats import FileFormat
    from discord_rtc.media.track import MediaFrame, MediaTrack, TrackReader

logger = logging.getLogger("discord_rtc.media")

READER_LIMITS = {MediaKind.VIDEO: 60, MediaKind.AUDIO: 100}
"""Frames that may wait for the encoder: 2 s at 30 fps and at 20 ms."""

DRAIN_TIMEOUT = 5.0
"""Seconds to encode the 2 s that may wait. x264 veryfast does 720p30 five times as fast."""

CLOSE_TIMEOUT = 10.0
"""Seconds to finish a file; turning a fragmented MP4 into an ordinary one rewrites its index."""


@dataclass(frozen=True, slots=True)
class RecordedTrack:
    """What became of one track.

    Attributes:
        kind: Audio or video.
        frames: Frames written.
        dropped: Frames given up because encoding was too slow (the oldest give way).
        skipped: Frames left out because others had their time.
        silence_inserted_s: Seconds of silence put into gaps of the sound.
        resized: Pictures that had another size than the file.
        high_water: Most frames that ever waited; 0 for a track that is pulled by `recv`.
        bound: Limit of that queue; 0 likewise.
    """

    kind: MediaKind
    frames: int
    dropped: int
    skipped: int
    silence_inserted_s: float
    resized: int
    high_water: int
    bound: int


@dataclass(frozen=True, slots=True)
class RecorderStats:
    """What a recording holds so far.

    Attributes:
        tracks: In the order in which they were given.
        jumps: How often a track's timestamps jumped and it went on by the clock.
    """

    tracks: tuple[RecordedTrack, ...]
    jumps: int

    @property
    def frames(self) -> int:
        """Frames written, over all tracks."""
        return sum(track.frames for track in self.tracks)

    @property
    def dropped(self) -> int:
        """Frames given up because encoding was too slow, over all tracks."""
        return sum(track.dropped for track in self.tracks)


class Recorder:
    """Records tracks to a file whose suffix says what it is.

    .mp4 .m4v .mov: H.264 and AAC; .mkv: H.264 and Opus; .webm: VP8 and Opus; .ogg .opus: one
    Opus track; .wav: one PCM track. Use it with ``async with``, or `start` and `stop`::

        async with Recorder("bob.mp4", bob.camera, bob.microphone):
            await asyncio.sleep(10)

    The file begins with the earliest first frame. The size of the first picture is the size of
    all; others are scaled into it. Silence fills the gaps of sound, and the last picture stays
    until the end. The file is finished however the block is left, cancelled too; after a kill
    it is good up to about a second before. The tracks are not stopped.

    Args:
        path: Of the file, which is overwritten.
        tracks: One or more. Received ones are read beside whoever else reads them.

    Raises:
        UsageError: No such suffix, or tracks that do not fit into such a file.
    """

    def __init__(self, path: str | os.PathLike[str], *tracks: MediaTrack) -> None:
        self._path = Path(path)
        file_format = FORMATS.get(self._path.suffix.lower())
        if file_format is None:
            known = " ".join(FORMATS)
            raise UsageError(f"recordings are {known}, not {self._path.suffix or self._path.name}")
        kinds = [MediaKind(track.kind) for track in tracks]
        _check_tracks(self._path, file_format, kinds)
        self._mux = Mux(self._path, file_format, kinds)
        self._inputs = [_Input(track) for track in tracks]
        self._executor: ThreadPoolExecutor | None = None
        self._runner: asyncio.Task[None] | None = None
        self._failure: MediaError | None = None
        self._created = False

    async def start(self) -> None:
        """Begin recording.

        Raises:
            MediaError: The file cannot be written.
            InvalidState: It was started before.
        """
        if self._executor is not None:
            raise InvalidState("a recorder can be started once")
        self._executor = ThreadPoolExecutor(1, f"discord_rtc recorder {self._path.name}")
        try:
            self._created = await asyncio.wrap_future(self._executor.submit(_touch, self._path))
        except OSError as error:
            self._executor.shutdown(wait=False)
            raise MediaError(f"{self._path} cannot be written: {error.strerror}") from error
        for source in self._inputs:
            source.open()
        self._runner = asyncio.create_task(self._run(), name=f"record {self._path.name}")

    async def stop(self) -> None:
        """Write what waits and finish the file. Idempotent.

        Takes 15 s at most; a file that needs longer is still finished in the background, as
        it is when this call is cancelled.

        Raises:
            MediaError: The recording failed, in one sentence; what could be written was.
        """
        runner, self._runner = self._runner, None
        if runner is None or self._executor is None:
            return
        for source in self._inputs:
            source.close()
        try:
            await asyncio.wait({runner}, timeout=DRAIN_TIMEOUT)
        finally:
            runner.cancel()
            closing = self._executor.submit(self._close)
            self._executor.shutdown(wait=False)
        await self._finished(closing)
        if runner.done() and not runner.cancelled() and (bug := runner.exception()):
            raise bug
        if self._failure is not None:
            raise self._failure

    async def _finished(self, closing: Future[None]) -> None:
        # Not awaited itself: a timeout or a cancelled caller must not cancel the writing.
        done, _ = await asyncio.wait({asyncio.wrap_future(closing)}, timeout=CLOSE_TIMEOUT)
        if not done:
            raise MediaError(f"{self._path} is not finished after {CLOSE_TIMEOUT:.0f} s")
        closing.result()
        if not self.stats().frames and self._failure is None:
            logger.warning("nothing was recorded, so there is no file %s", self._path)

    def stats(self) -> RecorderStats:
        """Counters so far; ``stats().frames == 0`` after `stop` means that there is no file."""
        pairs = zip(self._mux.outputs, self._inputs, strict=True)
        tracks = tuple(
            RecordedTrack(
                kind=output.kind,
                frames=output.frames,
                dropped=source.reader.dropped if source.reader else 0,
                skipped=output.skipped,
                silence_inserted_s=output.silence / SAMPLE_RATE,
                resized=output.resized,
                high_water=source.reader.high_water if source.reader else 0,
                bound=source.reader.limit if source.reader else 0,
            )
            for output, source in pairs
        )
        return RecorderStats(tracks, self._mux.jumps)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.stop()
        except MediaError as failure:
            if error is None:
                raise
            logger.warning("%s", failure)  # the exception in flight is the one to see

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for index, source in enumerate(self._inputs):
                name = f"record {source.track.kind} {index}"
                source.task = group.create_task(self._record(index, source), name=name)

    async def _record(self, index: int, source: _Input) -> None:
        """Hand one track's frames to the worker, one at a time, until the track ends."""
        assert self._executor is not None
        try:
            while self._failure is None:
                frame = await source.recv()
                await asyncio.wrap_future(self._executor.submit(self._write, index, frame))
        except MediaStreamError:
            return
        finally:
            source.release()

    def _write(self, index: int, media: MediaFrame) -> None:
        """Write a frame. Worker thread; errors are kept for `stop`."""
        if self._failure is not None:
            return
        try:
            for frame in self._inputs[index].decode(media):
                self._mux.write(index, frame, time.monotonic())
        except MediaError as error:
            self._failure = error
        except MalformedFrame as error:
            logger.debug("! %s", error)

    def _close(self) -> None:
        try:
            exists = self._mux.close()
        except MediaError as error:
            self._failure = self._failure or error
            return
        if not exists and self._created:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def __repr__(self) -> str:
        state = "recording" if self._runner else "stopped" if self._executor else "new"
        return f"<Recorder {str(self._path)!r}, {len(self._inputs)} tracks, {state}>"


class _Input:
    """A track, and how it is read: through a reader of our own where it has such."""

    def __init__(self, track: MediaTrack) -> None:
        self.track = track
        self.reader: TrackReader | None = None
        self.task: asyncio.Task[None] | None = None
        self.closed = False
        self._decoder: VideoDecoder | OpusDecoder | None = None

    def open(self) -> None:
        if isinstance(self.track, RemoteTrack):
            self.reader = self.track.reader(limit=READER_LIMITS[MediaKind(self.track.kind)])

    async def recv(self) -> MediaFrame:
        """The next frame. A track of the user's that fails has ended."""
        if self.reader is not None:
            return await self.reader.recv()
        if self.closed:
            raise MediaStreamError("the recording was stopped")
        try:
            return cast("MediaFrame", await self.track.recv())
        except MediaStreamError:
            raise
        except Exception as error:
            logger.exception("recording goes on without a %s track that failed", self.track.kind)
            raise MediaStreamError("the track failed") from error

    def close(self) -> None:
        """Let the recording task end: after what waits in a reader, else at once."""
        self.closed = True
        if self.reader is not None:
            self.reader.end()
        elif self.task is not None:
            self.task.cancel()

    def release(self) -> None:
        """Read no more, so that nobody decodes for nobody."""
        if self.reader is not None:
            self.reader.close()

    def decode(self, media: MediaFrame) -> list[av.VideoFrame] | list[av.AudioFrame]:
        """The frames in what a track gave: itself, or what an encoded packet holds."""
        if isinstance(media, av.VideoFrame):
            return [media]
        if isinstance(media, av.AudioFrame):
            return [media]
        codec = getattr(self.track, "codec", None)
        if not isinstance(codec, Codec):
            raise UnsupportedMedia("encoded packets are recorded from tracks with a codec only")
        if self._decoder is None:
            self._decoder = OpusDecoder() if codec is Codec.OPUS else VideoDecoder(codec)
        return self._decoder.decode(packet_to_frame(media, codec))


def _check_tracks(path: Path, file_format: FileFormat, kinds: list[MediaKind]) -> None:
    if not kinds:
        raise UsageError("there is no track to record")
    if file_format.video is None and kinds != [MediaKind.AUDIO]:
        raise UsageError(f"a {path.suffix} file holds exactly one audio track")


def _touch(path: Path) -> bool:
    """Check that the file can be written. Returns whether it was created for that."""
    existed = path.exists()
    with path.open("ab"):
        return not existed
