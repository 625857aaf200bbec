"""Test sources: a moving picture and a tone whose frames can be told apart at the far end."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np

from discord_rtc.errors import UnsupportedMedia, UsageError
from discord_rtc.media.pacing import STALL, Pacing
from discord_rtc.media.planes import Plane, plane
from discord_rtc.media.stamps import (
    AUDIO_NUMBER_BITS,
    FRAME_SAMPLES,
    NUMBER_BITS,
    SAMPLE_RATE,
    STRIP,
    Stamp,
    audio_stamp,
    draw_video_stamp,
    luma_of,
    mono_of,
    read_audio_stamp,
    read_video_stamp,
)
from discord_rtc.media.track import MediaStreamError, MediaStreamTrack

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Stamp", "StampReader", "TestPattern", "TestTone", "read_stamp"]

MIN_SIZE = 64
"""Smallest side of a test picture in pixels: stamp cells of 3 pixels."""

WAVE = 128
"""Pixels after which the moving background repeats."""

PIXELS_PER_FRAME = 2
TONE_RANGE = (100, 600)
"""Hz. The stamp's tones begin at 750 Hz and would be drowned by a loud one beside them."""

TONE_AMPLITUDE = 0.05  # beside 0.2 of stamp


class _PacedTrack(MediaStreamTrack):
    """Frames made on demand, one per period, in real time."""

    def __init__(self, period: Fraction, *, realtime: bool) -> None:
        super().__init__()
        self._period = period
        self._pacing = Pacing(realtime=realtime)
        self._number = 0

    async def _next_stamp(self) -> Stamp:
        if self.readyState != "live":
            raise MediaStreamError("the track has ended")
        number = self._number
        media_time = float(number * self._period)
        if await self._pacing.wait(media_time) > STALL:
            self._pacing.restart(media_time)
        if self.readyState != "live":
            raise MediaStreamError("the track was stopped")
        self._number = number + 1
        return Stamp(number, time.monotonic())


class TestPattern(_PacedTrack):
    """A moving test picture whose frames carry a `Stamp`. An aiortc ``MediaStreamTrack``.

    Frames are yuv420p, numbered from 0, their pts being the number; they come in real time
    and none is skipped, however late it is fetched.

    Args:
        width: Pixels, 64 or more.
        height: Pixels, 64 or more.
        fps: Frames per second.
        realtime: False gives frames as fast as they are fetched.

    Raises:
        UsageError: A size below 64 or a rate that is not positive.
    """

    __test__ = False  # the name is no invitation to pytest
    kind = "video"

    def __init__(
        self, width: int = 640, height: int = 360, fps: float = 30, *, realtime: bool = True
    ) -> None:
        if min(width, height) < MIN_SIZE or not fps > 0:
            raise UsageError(f"a test picture of {width}x{height} at {fps} fps cannot be made")
        # 1001 is the denominator of NTSC rates such as 30000/1001.
        rate = Fraction(fps).limit_denominator(1001)
        super().__init__(1 / rate, realtime=realtime)
        self.width, self.height, self.fps = width, height, fps
        self._background = _make_background(width, height)

    async def recv(self) -> av.VideoFrame:
        """Wait until the next frame is due.

        Raises:
            MediaStreamError: (aiortc's) The track was stopped.
        """
        return self._draw(await self._next_stamp())

    def _draw(self, stamp: Stamp) -> av.VideoFrame:
        frame = av.VideoFrame(self.width, self.height, "yuv420p")
        luma = plane(frame, 0)
        strip = int(self.height * STRIP)
        shift = stamp.number * PIXELS_PER_FRAME % WAVE
        luma[strip:] = self._background[strip:, shift : shift + self.width]
        draw_video_stamp(luma, stamp)
        hue = stamp.number * np.pi / 150  # once around the colours in 300 frames
        plane(frame, 1)[:] = 128 + int(40 * np.cos(hue))
        plane(frame, 2)[:] = 128 + int(40 * np.sin(hue))
        frame.pts = stamp.number
        frame.time_base = self._period
        return frame


class TestTone(_PacedTrack):
    """A steady tone whose frames carry a `Stamp`. An aiortc ``MediaStreamTrack``.

    Frames are 20 ms of s16 stereo at 48 kHz, in real time, none skipped. The stamp sounds
    like a soft buzz above the tone.

    Args:
        frequency: Of the tone, 100 to 600 Hz.
        realtime: False gives frames as fast as they are fetched.

    Raises:
        UsageError: The frequency is out of range.
    """

    __test__ = False  # as above
    kind = "audio"

    def __init__(self, frequency: float = 440, *, realtime: bool = True) -> None:
        low, high = TONE_RANGE
        if not low <= frequency <= high:
            raise UsageError(f"a test tone has {low} to {high} Hz, not {frequency}")
        super().__init__(Fraction(FRAME_SAMPLES, SAMPLE_RATE), realtime=realtime)
        self.frequency = frequency

    async def recv(self) -> av.AudioFrame:
        """Wait until the next 20 ms are due.

        Raises:
            MediaStreamError: (aiortc's) The track was stopped.
        """
        stamp = await self._next_stamp()
        start = stamp.number * FRAME_SAMPLES
        turns = (start + np.arange(FRAME_SAMPLES)) * (self.frequency / SAMPLE_RATE)
        mono = audio_stamp(stamp) + TONE_AMPLITUDE * np.sin(2 * np.pi * turns)
        pcm = (mono * 32767).astype(np.int16)
        frame = av.AudioFrame(format="s16", layout="stereo", samples=FRAME_SAMPLES)
        frame.planes[0].update(np.repeat(pcm, 2).tobytes())
        frame.sample_rate = SAMPLE_RATE
        frame.pts = start
        frame.time_base = Fraction(1, SAMPLE_RATE)
        return frame


def read_stamp(
    frame: av.VideoFrame | av.AudioFrame, *, now: Callable[[], float] = time.monotonic
) -> Stamp:
    """Read the stamp of a frame, fresh or decoded.

    Pictures may have been scaled and lossily coded (300 kbit/s H.264 or VP8 at 640x360).
    Sound must still be in its 20 ms frames, at most 6.6 ms late in them, as a decoder of 64
    kbit/s Opus gives it. A frame made up by loss concealment may repeat the stamp before it.

    Args:
        frame: A picture of any size, or 20 ms of s16 or float sound at 48 kHz.
        now: The sender's monotonic clock. Sound carries its send time modulo 4.096 s, so it
            must be read within that time after sending for ``sent_at`` to be right.

    Returns:
        The stamp, its number modulo 2**32 (picture) or 2**16 (sound): see `StampReader`.

    Raises:
        UnsupportedMedia: There is no stamp, or it is damaged beyond reading.
    """
    if isinstance(frame, av.VideoFrame):
        stamp = read_video_stamp(luma_of(frame))
    elif frame.sample_rate != SAMPLE_RATE or frame.samples < FRAME_SAMPLES:
        raise UnsupportedMedia(
            f"a stamp needs 20 ms at 48 kHz, not {frame.samples} samples at {frame.sample_rate} Hz"
        )
    else:
        stamp = read_audio_stamp(mono_of(frame), now())
    if stamp is None:
        raise UnsupportedMedia(f"no readable stamp in {frame}")
    return stamp


class StampReader:
    """Reads the stamps of one track and makes their numbers go on where the bits wrap.

    Args:
        now: As in `read_stamp`.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last: int | None = None

    def read(self, frame: av.VideoFrame | av.AudioFrame) -> Stamp:
        """Like `read_stamp`, with the number nearest to the one before.

        Raises:
            UnsupportedMedia: There is no readable stamp.
        """
        stamp = read_stamp(frame, now=self._now)
        if self._last is None:
            self._last = stamp.number
        period = 2 ** (NUMBER_BITS if isinstance(frame, av.VideoFrame) else AUDIO_NUMBER_BITS)
        ahead = (stamp.number - self._last + period // 2) % period - period // 2
        self._last += ahead
        return Stamp(self._last, stamp.sent_at)


def _make_background(width: int, height: int) -> Plane:
    across, down = np.arange(width + WAVE), np.arange(height)[:, None]
    # Diagonal waves: smooth, so that 300 kbit/s are enough, and never the same twice in a row.
    waves = np.sin(2 * np.pi * across / WAVE) + np.sin(2 * np.pi * down / WAVE)
    picture: Plane = (126 + 50 * waves).astype(np.uint8)
    return picture
