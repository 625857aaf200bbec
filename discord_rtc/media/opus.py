"""Opus encoder over libopus of the PyAV wheel. Synchronous, for a worker thread. Spec: RFC 6716."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, cast

import av
import numpy as np

from discord_rtc.errors import EncoderFailed, InvalidState
from discord_rtc.frames import OPUS_FRAME_TICKS, Codec, EncodedFrame
from discord_rtc.media.timebase import to_ticks

_TIME_BASE = Fraction(1, Codec.OPUS.clock_rate)
_GAP = 1920  # 40 ms: larger jumps of the source's clock are real, smaller ones are jitter
_BYTES_PER_SAMPLE = 4  # s16 stereo
_FRAME_BYTES = OPUS_FRAME_TICKS * _BYTES_PER_SAMPLE


class OpusEncoder:
    """Encodes sound of any rate, layout and format into 20 ms frames of 48 kHz stereo.

    The pts of a frame is the capture time of its first sample: it is taken from the source
    once and then counted in samples, so that jitter of the source's clock does not get
    through. Only when the source's clock is more than 40 ms away from the count, the frame
    begun is filled with silence and counting starts anew at the source's pts.

    Args:
        bitrate: Bits per second.
        fec: Add in-band forward error correction, which about doubles the cost.
        packet_loss: Expected loss in percent that FEC prepares for.
        application: libopus mode: ``"voip"`` favours speech.
    """

    def __init__(
        self,
        *,
        bitrate: int = 128_000,
        fec: bool = False,
        packet_loss: int = 0,
        application: Literal["audio", "voip"] = "audio",
    ) -> None:
        codec = av.CodecContext.create("libopus", "w")
        codec.sample_rate, codec.layout, codec.format = 48_000, "stereo", "s16"
        codec.bit_rate, codec.time_base = bitrate, _TIME_BASE
        codec.options = {
            "application": application,
            "frame_duration": "20",
            "fec": str(int(fec)),
            "packet_loss": str(packet_loss),
        }
        try:
            codec.open()
        except (av.FFmpegError, ValueError) as error:
            raise EncoderFailed(f"Opus encoder: {error}") from error
        self._codec: av.AudioCodecContext | None = codec
        self._resampler: av.AudioResampler | None = None
        self._resampler_input: object = None
        self._samples = bytearray()
        self._next_pts: int | None = None  # of the first sample in _samples
        self._expected = Fraction(0)  # where the source's next frame should begin
        self._clock = 0  # the encoder's own pts

    def encode(self, frame: av.AudioFrame) -> list[EncodedFrame]:
        """Take sound in; gives every 20 ms frame that is complete.

        Args:
            frame: Any length, rate, layout and format. Without a pts it follows the frame
                before. It is not changed.

        Raises:
            EncoderFailed: The sound cannot be converted or encoded.
            InvalidState: The encoder is closed.
        """
        codec = self._opened()
        if not frame.samples:
            return []
        if frame.sample_rate <= 0:
            raise EncoderFailed("sound without a sample rate")
        try:
            encoded = self._anchor(codec, frame)
            self._resample(frame)
            return encoded + self._complete_frames(codec)
        except (av.FFmpegError, ValueError) as error:
            raise EncoderFailed(f"Opus encoder: {error}") from error

    def flush(self) -> list[EncodedFrame]:
        """Give the frame begun, filled with silence. What comes next starts a new count."""
        return self._finish_segment(self._opened())

    def close(self) -> None:
        """Free the encoder. Idempotent."""
        self._codec = self._resampler = None

    def _opened(self) -> av.AudioCodecContext:
        if self._codec is None:
            raise InvalidState("the Opus encoder is closed")
        return self._codec

    def _anchor(self, codec: av.AudioCodecContext, frame: av.AudioFrame) -> list[EncodedFrame]:
        """Compare the frame's clock with the count of samples; start anew when they differ."""
        finished: list[EncodedFrame] = []
        begins: Fraction | int = self._expected
        if frame.pts is not None and frame.time_base is not None:
            begins = to_ticks(frame.pts, frame.time_base, 48_000)
        if self._next_pts is not None and abs(begins - self._expected) > _GAP:
            finished = self._finish_segment(codec)
        if self._next_pts is None:
            self._next_pts = round(begins)
            self._expected = Fraction(self._next_pts)
        self._expected += Fraction(frame.samples * 48_000, frame.sample_rate)
        return finished

    def _resample(self, frame: av.AudioFrame) -> None:
        described = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or described != self._resampler_input:
            self._drain_resampler()
            # FFmpeg makes stereo of mono 3 dB quieter; a copy for each ear is as loud as it was.
            layout = "mono" if len(frame.layout.channels) == 1 else "stereo"
            self._resampler = av.AudioResampler(format="s16", layout=layout, rate=48_000)
            self._resampler_input = described
        self._append(self._resampler.resample(frame))

    def _drain_resampler(self) -> None:
        if self._resampler is not None:
            resampler, self._resampler = self._resampler, None
            self._append(resampler.resample(None))

    def _append(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            mono = len(frame.layout.channels) == 1
            size = frame.samples * _BYTES_PER_SAMPLE // (2 if mono else 1)
            filled = memoryview(frame.planes[0])[:size]  # planes are padded
            if mono:
                self._samples += np.repeat(np.frombuffer(filled, np.int16), 2).tobytes()
            else:
                self._samples += filled

    def _finish_segment(self, codec: av.AudioCodecContext) -> list[EncodedFrame]:
        self._drain_resampler()
        self._samples += bytes(-len(self._samples) % _FRAME_BYTES)
        encoded = self._complete_frames(codec)
        self._next_pts = None
        return encoded

    def _complete_frames(self, codec: av.AudioCodecContext) -> list[EncodedFrame]:
        encoded = []
        while len(self._samples) >= _FRAME_BYTES:
            encoded.append(self._encode_one(codec, bytes(self._samples[:_FRAME_BYTES])))
            del self._samples[:_FRAME_BYTES]
        return encoded

    def _encode_one(self, codec: av.AudioCodecContext, samples: bytes) -> EncodedFrame:
        frame = av.AudioFrame(format="s16", layout="stereo", samples=OPUS_FRAME_TICKS)
        frame.planes[0].update(samples)
        frame.sample_rate, frame.pts, frame.time_base = 48_000, self._clock, _TIME_BASE
        self._clock += OPUS_FRAME_TICKS
        packets = codec.encode(frame)
        if len(packets) != 1:
            raise EncoderFailed(f"{len(packets)} frames came out of the Opus encoder for one")
        # The packet's own pts is 312 samples early (libopus' lookahead), which belongs into
        # files; on the wire it would shift sound against the picture.
        pts = cast(int, self._next_pts)
        self._next_pts = pts + OPUS_FRAME_TICKS
        return EncodedFrame(bytes(packets[0]), Codec.OPUS, pts, _TIME_BASE, True)
