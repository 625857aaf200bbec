"""A recording being written: when it begins, what goes where, how it ends. Worker thread.

Gaps in sound become silence when the next frame shows how long they were, never before;
pictures simply keep their times.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import av
from av.error import FFmpegError

from discord_rtc.errors import EncoderFailed, MediaError
from discord_rtc.frames import MediaKind
from discord_rtc.media.outputs import DEFAULT_SIZE, AudioOutput, VideoOutput
from discord_rtc.media.picture import even
from discord_rtc.media.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream

    from discord_rtc.media.formats import FileFormat
    from discord_rtc.media.outputs import Decoded, Output

ZERO_WAIT = 0.5
"""Seconds to wait for the first frame of every track before the file's time zero is set."""

PICTURE_WAIT = 10.0
"""Seconds to wait for the size of a first picture, while there is only sound."""

MAX_HELD = {MediaKind.VIDEO: 32, MediaKind.AUDIO: 1000}
"""Frames per track that are held until then: a second of pictures, 20 s of sound (4 MB)."""


@dataclass(slots=True)
class _Held:
    index: int
    frame: Decoded
    time: Fraction
    now: float


class Mux:
    """A file being written from decoded frames of several tracks.

    Args:
        path: Of the file, which is opened with the first frames.
        file_format: One of `FORMATS`.
        kinds: Of the tracks, in the order of their indexes.

    Attributes:
        outputs: The streams, for their counters.
    """

    def __init__(self, path: Path, file_format: FileFormat, kinds: Sequence[MediaKind]) -> None:
        self._path = path
        self._format = file_format
        self.outputs: list[Output] = [
            VideoOutput(file_format) if kind is MediaKind.VIDEO else AudioOutput(file_format)
            for kind in kinds
        ]
        self.jumps = 0
        self._held: list[_Held] = []
        self._timelines: list[Timeline] = []
        self._attached: list[Output] = []
        self._container: OutputContainer | None = None
        self._failed = False

    def write(self, index: int, frame: Decoded, now: float) -> None:
        """Write one frame.

        Args:
            index: Of its track.
            frame: Not changed, and copied before it is kept.
            now: Monotonic seconds.

        Raises:
            MediaError: The file cannot be written or the frame not encoded.
        """
        if frame.pts is None or not frame.time_base:
            self.outputs[index].skipped += 1
            return
        held = _Held(index, frame, frame.pts * Fraction(frame.time_base), now)
        with self._mapped_errors():
            if self._container is not None:
                self._write(held)
                return
            self._held.append(held)
            if self._may_begin(now):
                self._begin(self.outputs)

    def close(self) -> bool:
        """Finish the file.

        Returns:
            Whether there is one: False when no frame ever came.

        Raises:
            MediaError: The end of the file could not be written.
        """
        with self._mapped_errors():
            try:
                if self._container is None and self._held:
                    heard = {held.index for held in self._held}
                    self._begin([self.outputs[index] for index in sorted(heard)])
                if self._container is not None and not self._failed:
                    self._finish(self._container)
            finally:
                self._close_container()
        return bool(self._attached)

    def _may_begin(self, now: float) -> bool:
        counts = [0] * len(self.outputs)
        for held in self._held:
            counts[held.index] += 1
        if all(counts):
            return True
        full = any(
            count >= MAX_HELD[output.kind]
            for output, count in zip(self.outputs, counts, strict=True)
        )
        waited = now - self._held[0].now
        pictures = [
            count
            for output, count in zip(self.outputs, counts, strict=True)
            if output.kind is MediaKind.VIDEO
        ]
        size_unknown = bool(pictures) and not any(pictures)
        return full or waited >= (PICTURE_WAIT if size_unknown else ZERO_WAIT)

    def _begin(self, outputs: Sequence[Output]) -> None:
        held, self._held = self._held, []
        self._container = av.open(
            str(self._path), "w", format=self._format.muxer, options=dict(self._format.options)
        )
        sizes = {
            item.index: (even(item.frame.width), even(item.frame.height))
            for item in reversed(held)
            if isinstance(item.frame, av.VideoFrame)
        }
        default = next(iter(sizes.values()), DEFAULT_SIZE)
        for index, output in enumerate(self.outputs):
            if output in outputs:
                output.attach(self._container, sizes.get(index, default))
        self._attached = list(outputs)
        zero = min(item.time for item in held)
        self._timelines = [Timeline(zero, held[0].now) for _ in self.outputs]
        for item in held:
            self._write(item)

    def _write(self, item: _Held) -> None:
        timeline = self._timelines[item.index]
        position = timeline.place(item.time, item.now)
        self.jumps = sum(timeline.jumps for timeline in self._timelines)
        self._mux(self.outputs[item.index].write(item.frame, position))

    def _finish(self, container: OutputContainer) -> None:
        end = max(output.end for output in self._attached)
        for output in self._attached:
            self._mux(output.finish(end))
        self._container = None
        container.close()

    def _mux(self, packets: Iterator[Packet[Stream]]) -> None:
        assert self._container is not None
        for packet in packets:
            self._container.mux(packet)

    def _close_container(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            with contextlib.suppress(FFmpegError, OSError):  # the first error is the one to tell
                container.close()

    @contextlib.contextmanager
    def _mapped_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failed = True
            raise MediaError(f"{self._path} cannot be written: {error.strerror}") from error
        except (FFmpegError, ValueError) as error:
            self._failed = True
            raise EncoderFailed(f"{self._path} cannot be encoded: {error}") from error
