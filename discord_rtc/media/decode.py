"""Decoders: `EncodedFrame` to pictures and sound. Synchronous, for a worker thread.

One frame in, one frame out. Damage never raises: it is counted, and nothing is shown until
the next keyframe.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.codec.context import Flags

from discord_rtc.errors import DecoderFailed, MalformedFrame
from discord_rtc.frames import OPUS_FRAME_TICKS, Codec, EncodedFrame
from discord_rtc.media.bitstream import normalise_h264

if TYPE_CHECKING:
    from av.audio.codeccontext import AudioCodecContext
    from av.stream import Stream
    from av.video.codeccontext import VideoCodecContext
    from numpy.typing import NDArray

_DECODERS = {
    Codec.H264: "h264",
    Codec.H265: "hevc",
    Codec.VP8: "vp8",
    Codec.VP9: "vp9",
    Codec.AV1: "libdav1d",
}

_SAMPLE = Fraction(1, Codec.OPUS.clock_rate)

_AUDIBLE_LOSSES = 5
"""Concealed frames in a row before silence. Up to 100 ms a guess is better than a hole; libopus
goes on humming after that."""

# Raised cosines, so that neither end of a fade clicks: over the last frame before silence, and
# over the first 5 ms after it.
_FALL = 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, OPUS_FRAME_TICKS))
_RISE = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, OPUS_FRAME_TICKS // 4))


class VideoDecoder:
    """Decodes one video stream, each picture as soon as its frame is there.

    A frame that is missing altogether is noticed by whoever counts packets; decoders conceal
    that. Call `skip_to_keyframe` then.

    Args:
        codec: Any video codec.

    Raises:
        DecoderFailed: Not a video codec, or this PyAV cannot decode it.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._needs_keyframe = True
        self._damaged = 0
        self._context: VideoCodecContext | None = _open(codec)

    @property
    def needs_keyframe(self) -> bool:
        """Whether frames are thrown away until a keyframe comes."""
        return self._needs_keyframe

    @property
    def damaged(self) -> int:
        """Frames that did not decode into a clean picture."""
        return self._damaged

    def decode(self, frame: EncodedFrame) -> list[av.VideoFrame]:
        """Decode one frame.

        Returns:
            The picture with the pts and time base of the frame; nothing when the frame is
            damaged or a keyframe is needed first.
        """
        if self._context is None or (self._needs_keyframe and not frame.keyframe):
            return []
        try:
            # An empty packet would mean the end of the stream to FFmpeg.
            pictures = self._context.decode(self._packet(frame)) if frame.data else []
        except (av.FFmpegError, ValueError):
            pictures = []
        if not pictures or any(picture.is_corrupt for picture in pictures):
            self._damaged += 1
            self._needs_keyframe = True
            self._context.flush_buffers()
            return []
        self._needs_keyframe = False
        for picture in pictures:
            picture.pts, picture.time_base = frame.pts, frame.time_base
        return pictures

    def skip_to_keyframe(self) -> None:
        """A frame was lost on the way: show nothing until a keyframe comes."""
        self._needs_keyframe = True

    def close(self) -> None:
        """Free the decoder; later frames give nothing. Idempotent."""
        self._context = None

    def _packet(self, frame: EncodedFrame) -> av.Packet[Stream]:
        if self.codec is not Codec.H264 or not frame.keyframe:
            return _packet(frame)
        # A sender that did not rewrite its SPS may have announced reordering, and FFmpeg
        # would hold a picture back for ever. WebRTC rewrites on receiving, too.
        try:
            return _packet(replace(frame, data=normalise_h264(frame.data)))
        except MalformedFrame:
            return _packet(frame)


class OpusDecoder:
    """Decodes Opus with libopus, which gives interleaved 16-bit stereo as it is.

    Attributes:
        damaged: Packets that did not decode.
        concealed: Frames that `conceal` made up.
    """

    def __init__(self) -> None:
        context = av.CodecContext.create("libopus", "r")
        context.sample_rate, context.layout, context.format = 48_000, "stereo", "s16"
        self.damaged = self.concealed = 0
        self._context: AudioCodecContext | None = context
        self._lost: bytes | None = None  # the packet that stands for a lost one
        self._ends: tuple[int, Fraction] = (0, _SAMPLE)  # of the last sound: pts, time base
        self._missing = 0  # frames concealed since the last real one

    def decode(self, frame: EncodedFrame) -> list[av.AudioFrame]:
        """Decode one packet.

        Returns:
            Sound as (samples, 2) int16 at 48 kHz with the pts and time base of the frame;
            nothing when the packet is damaged.
        """
        sounds = self._decode(_packet(frame)) if frame.data else []
        if not sounds:
            self.damaged += self._context is not None
            return []
        if self._missing >= _AUDIBLE_LOSSES:
            sounds[0] = _faded(sounds[0], _RISE)
        for sound in sounds:
            sound.pts, sound.time_base = frame.pts, frame.time_base
        self._missing = 0
        self._lost = bytes((_lost_frame(frame.data[0]),))
        self._ends = frame.pts + _ticks(sounds, frame.time_base), frame.time_base
        return sounds

    def conceal(self) -> list[av.AudioFrame]:
        """Make up the sound of a frame that is lost or cannot be decrypted.

        libopus continues the sound before and lets it fade; the fifth frame in a row ends in
        silence, and all after it are silent. A real frame may follow at any time.

        Returns:
            One frame of 20 ms as from `decode`, whose pts continues the sound before; nothing
            before the first packet and after `close`.

        Spec:
            RFC 6716 section 4.4 (concealment); section 3.1: an empty frame stands for a lost one.
        """
        if self._context is None or self._lost is None:
            return []
        self._missing += 1
        sounds = []
        if self._missing <= _AUDIBLE_LOSSES:
            sounds = self._decode(av.Packet(self._lost))
        if not sounds:
            sounds = [_silence()]
        elif self._missing == _AUDIBLE_LOSSES:
            sounds = [_faded(sounds[0], _FALL)]
        pts, time_base = self._ends
        for sound in sounds:
            sound.pts, sound.time_base = pts, time_base
        self._ends = pts + _ticks(sounds, time_base), time_base
        self.concealed += 1
        return sounds

    def close(self) -> None:
        """Free the decoder; later packets give nothing. Idempotent."""
        self._context = None

    def _decode(self, packet: av.Packet[Stream]) -> list[av.AudioFrame]:
        if self._context is None:
            return []
        try:
            # A packet that fails leaves libopus as it was: what it would conceal is still there.
            return self._context.decode(packet)
        except (av.FFmpegError, ValueError):
            return []


def _lost_frame(head: int) -> int:
    """The first byte of an empty 20 ms frame in the mode of another packet.

    Spec:
        RFC 6716 section 3.1: five bits of configuration, of which the lowest say how long a
        frame is; mono or stereo; two bits that are zero for one frame.
    """
    config = head >> 3
    if config < 12:  # SILK: 10, 20, 40, 60 ms
        config = config & ~3 | 1
    else:  # hybrid: 10, 20 ms; CELT: 2.5, 5, 10, 20 ms
        config |= 1 if config < 16 else 3
    return config << 3 | head & 0b100


def _ticks(sounds: list[av.AudioFrame], time_base: Fraction) -> int:
    return round(sum(sound.samples for sound in sounds) * _SAMPLE / time_base)


def _faded(sound: av.AudioFrame, envelope: NDArray[np.float64]) -> av.AudioFrame:
    """A copy whose beginning is multiplied with the envelope, as far as that goes."""
    samples = sound.to_ndarray().reshape(-1, 2).astype(np.float64)
    faded = envelope[: len(samples), None]
    samples[: len(faded)] *= faded
    made = av.AudioFrame.from_ndarray(
        samples.round().astype(np.int16).reshape(1, -1), format="s16", layout="stereo"
    )
    made.sample_rate = sound.sample_rate
    return made


def _silence() -> av.AudioFrame:
    silence = np.zeros((1, 2 * OPUS_FRAME_TICKS), np.int16)
    made = av.AudioFrame.from_ndarray(silence, format="s16", layout="stereo")
    made.sample_rate = 48_000
    return made


def _open(codec: Codec) -> VideoCodecContext:
    if codec not in _DECODERS:
        raise DecoderFailed(f"{codec.value} is not a video codec")
    try:
        context = cast("VideoCodecContext", av.CodecContext.create(_DECODERS[codec], "r"))
        context.thread_count = 1  # more would hold back a picture per thread
        context.flags |= Flags.low_delay
        if codec is Codec.AV1:
            context.options = {"max_frame_delay": "1"}
        context.open()
    except (av.FFmpegError, ValueError) as error:
        raise DecoderFailed(f"no {codec.value} decoder: {error}") from error
    return context


def _packet(frame: EncodedFrame) -> av.Packet[Stream]:
    packet: av.Packet[Stream] = av.Packet(frame.data)
    packet.pts, packet.time_base = frame.pts, frame.time_base
    return packet
