"""The streams of a recording: pictures at their times, sound without a gap. Worker thread.

Every stream is encoded, not copied: received media may change its size, lose frames or begin
in the middle, and a file must not.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias, cast

import av
import numpy as np

from discord_rtc.frames import MediaKind
from discord_rtc.media.picture import black_picture, even, fit_picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from discord_rtc.media.formats import FileFormat

Decoded: TypeAlias = "av.VideoFrame | av.AudioFrame"
Pcm: TypeAlias = "NDArray[np.int16]"

SAMPLE_RATE = 48_000
DEFAULT_SIZE = (1280, 720)  # of a stream that has to begin before its first picture
AUDIO_TOLERANCE = 960
"""Samples (20 ms, one frame): less is jitter or drift and neither filled nor cut."""

SILENCE_CHUNK = SAMPLE_RATE
"""Samples of silence encoded at a time, so that hours of it take no memory."""

MAX_PERIOD = Fraction(1)
"""Seconds that a last picture counts for, when the one before it was longer ago."""

_CODEC_OPTIONS = {
    # No B-frames: they would begin the file at a negative time, which players treat unlike.
    "libx264": {"preset": "veryfast", "crf": "20", "bf": "0", "g": "60"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "crf": "8", "lag-in-frames": "0"},
}
_AUDIO_BITRATE = {"aac": 160_000, "libopus": 128_000}


class VideoOutput:
    """One video stream of the file.

    Attributes:
        frames: Pictures written.
        skipped: Pictures left out because they were not later than the one before.
        resized: Pictures that had another size than the first.
    """

    kind = MediaKind.VIDEO

    def __init__(self, file_format: FileFormat) -> None:
        self.frames = self.skipped = self.resized = self.silence = 0
        self._codec = cast(str, file_format.video)
        self._ticks = file_format.ticks
        self._stream: VideoStream | None = None
        self._size = DEFAULT_SIZE
        self._tick = -1
        self._period = self._ticks // 30
        self._last: av.VideoFrame | None = None

    @property
    def end(self) -> Fraction:
        """Seconds from the beginning of the file to where the last picture ends."""
        return Fraction(self._tick + self._period, self._ticks) if self.frames else Fraction(0)

    def attach(self, container: OutputContainer, size: tuple[int, int]) -> None:
        """Add the stream to the file, with pictures of this even size."""
        stream = container.add_stream(self._codec, rate=30, options=_CODEC_OPTIONS[self._codec])
        self._stream = cast("VideoStream", stream)
        context = self._stream.codec_context
        self._size = context.width, context.height = size
        context.pix_fmt = "yuv420p"
        context.time_base = Fraction(1, self._ticks)
        if self._codec == "libvpx":
            # An upper limit beside the constant quality: 4 bits per pixel and second.
            context.bit_rate = max(1_000_000, 4 * size[0] * size[1])

    def write(self, frame: Decoded, position: Fraction) -> Iterator[Packet[Stream]]:
        """Encode a picture that belongs at ``position`` seconds."""
        assert isinstance(frame, av.VideoFrame)
        tick = round(position * self._ticks)
        if tick <= self._tick:
            self.skipped += 1
            return
        if self._tick >= 0:
            self._period = min(tick - self._tick, int(MAX_PERIOD * self._ticks))
        if (even(frame.width), even(frame.height)) != self._size:
            self.resized += 1
        self.frames += 1
        yield from self._encode(fit_picture(frame, *self._size), tick)

    def finish(self, end: Fraction) -> Iterator[Packet[Stream]]:
        """Show the last picture until ``end`` and empty the encoder."""
        assert self._stream is not None
        picture = self._last or black_picture(*self._size)
        last_tick = round(end * self._ticks) - self._period
        # Twice, because players show the last frame for as long as the one before it.
        for tick in (0, last_tick - self._period, last_tick):
            if tick > self._tick:
                yield from self._encode(fit_picture(picture, *self._size), tick)
        yield from self._stream.encode(None)

    def _encode(self, picture: av.VideoFrame, tick: int) -> Iterator[Packet[Stream]]:
        assert self._stream is not None
        self._tick = tick
        self._last = picture
        picture.pts, picture.time_base = tick, Fraction(1, self._ticks)
        yield from self._stream.encode(picture)


class AudioOutput:
    """One audio stream of the file: 48 kHz stereo without a gap.

    Attributes:
        frames: Frames written.
        skipped: Frames left out because others had their place.
        silence: Samples of silence put in.
    """

    kind = MediaKind.AUDIO

    def __init__(self, file_format: FileFormat) -> None:
        self.frames = self.skipped = self.resized = self.silence = 0
        self._codec = file_format.audio
        self._stream: AudioStream | None = None
        self._resampler: av.AudioResampler | None = None
        self._input: tuple[str, str, int] | None = None
        self._written = 0

    @property
    def end(self) -> Fraction:
        """Seconds of sound written."""
        return Fraction(self._written, SAMPLE_RATE)

    def attach(self, container: OutputContainer, size: tuple[int, int]) -> None:  # noqa: ARG002
        """Add the stream to the file. The size is the pictures' affair."""
        self._stream = cast("AudioStream", container.add_stream(self._codec, rate=SAMPLE_RATE))
        self._stream.codec_context.layout = "stereo"
        if self._codec in _AUDIO_BITRATE:
            self._stream.codec_context.bit_rate = _AUDIO_BITRATE[self._codec]

    def write(self, frame: Decoded, position: Fraction) -> Iterator[Packet[Stream]]:
        """Encode sound that belongs at ``position`` seconds, after silence where it is late."""
        assert isinstance(frame, av.AudioFrame)
        pcm = self._resample(frame)
        gap = round(position * SAMPLE_RATE) - self._written
        if gap >= AUDIO_TOLERANCE:
            yield from self._encode_silence(gap)
        elif gap <= -AUDIO_TOLERANCE:
            pcm = pcm[-gap:]
        if len(pcm):
            self.frames += 1
            yield from self._encode(pcm)
        else:
            self.skipped += 1

    def finish(self, end: Fraction) -> Iterator[Packet[Stream]]:
        """Fill with silence until ``end`` and empty the encoder."""
        assert self._stream is not None
        missing = round(end * SAMPLE_RATE) - self._written
        if missing > 0:
            yield from self._encode_silence(missing)
        yield from self._stream.encode(None)

    def _encode_silence(self, samples: int) -> Iterator[Packet[Stream]]:
        self.silence += samples
        zeros = np.zeros((min(samples, SILENCE_CHUNK), 2), np.int16)
        while samples > 0:
            yield from self._encode(zeros[:samples])
            samples -= len(zeros)

    def _encode(self, pcm: Pcm) -> Iterator[Packet[Stream]]:
        assert self._stream is not None
        frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), "s16", "stereo")
        frame.sample_rate = SAMPLE_RATE
        frame.pts, frame.time_base = self._written, Fraction(1, SAMPLE_RATE)
        self._written += len(pcm)
        yield from self._stream.encode(frame)

    def _resample(self, frame: av.AudioFrame) -> Pcm:
        """The frame as (samples, 2) int16 at 48 kHz."""
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        # FFmpeg makes stereo of mono 3 dB quieter; a copy for each ear is as loud as it was.
        channels = min(len(frame.layout.channels), 2)
        if self._resampler is None or form != self._input:
            layout = "stereo" if channels == 2 else "mono"
            self._resampler = av.AudioResampler("s16", layout, SAMPLE_RATE)
            self._input = form
        pieces = [
            cast("Pcm", piece.to_ndarray()).reshape(-1, channels)
            for piece in self._resampler.resample(frame)
        ]
        pcm = np.concatenate(pieces) if pieces else np.zeros((0, channels), np.int16)
        return pcm if channels == 2 else np.repeat(pcm, 2, axis=1)


Output: TypeAlias = "VideoOutput | AudioOutput"
