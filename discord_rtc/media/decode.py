"""Decoders: `EncodedFrame` to pictures and sound. Synchronous, for a worker thread.

One frame in, one frame out. Damage never raises: it is counted, and nothing is shown until
the next keyframe.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import av
from av.codec.context import Flags

from discord_rtc.errors import DecoderFailed, MalformedFrame
from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.media.bitstream import normalise_h264

if TYPE_CHECKING:
    from av.audio.codeccontext import AudioCodecContext
    from av.stream import Stream
    from av.video.codeccontext import VideoCodecContext

_DECODERS = {
    Codec.H264: "h264",
    Codec.H265: "hevc",
    Codec.VP8: "vp8",
    Codec.VP9: "vp9",
    Codec.AV1: "libdav1d",
}


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
    """

    def __init__(self) -> None:
        context = av.CodecContext.create("libopus", "r")
        context.sample_rate, context.layout, context.format = 48_000, "stereo", "s16"
        self.damaged = 0
        self._context: AudioCodecContext | None = context

    def decode(self, frame: EncodedFrame) -> list[av.AudioFrame]:
        """Decode one packet.

        Returns:
            Sound as (samples, 2) int16 at 48 kHz with the pts and time base of the frame;
            nothing when the packet is damaged.
        """
        if self._context is None:
            return []
        try:
            sounds = self._context.decode(_packet(frame)) if frame.data else []
        except (av.FFmpegError, ValueError):
            sounds = []
        if not sounds:
            self.damaged += 1
            self._context.flush_buffers()
        for sound in sounds:
            sound.pts, sound.time_base = frame.pts, frame.time_base
        return sounds

    def close(self) -> None:
        """Free the decoder; later packets give nothing. Idempotent."""
        self._context = None


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
