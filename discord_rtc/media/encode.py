"""Encoders: pictures and packets to `EncodedFrame`. Synchronous, for a worker thread.

One frame in, one frame out: no B-frames, no lookahead, no frame dropping. Backed by libx264
and libvpx of the PyAV wheel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeVar, cast

import av
import av.filter
from av.bitstream import BitStreamFilterContext
from av.stream import Stream
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, VideoReformatter

from discord_rtc.errors import EncoderFailed, InvalidState, UnsupportedMedia, UsageError
from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.media.bitstream import is_keyframe, normalise_h264
from discord_rtc.media.opus import OpusEncoder
from discord_rtc.media.timebase import exact, to_ticks

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext

__all__ = [
    "OpusEncoder",
    "VideoEncoder",
    "VideoSettings",
    "packet_to_frame",
    "to_ticks",
]

_StreamT = TypeVar("_StreamT", bound=Stream)

VIDEO_TIME_BASE = Fraction(1, Codec.H264.clock_rate)
_MIN_BITRATE = 10_000  # below this neither encoder has a rate control worth the name
_LONGEST_STEP = 10 * 90_000  # ticks; a longer pause must not reach the rate control as such


@dataclass(frozen=True, slots=True)
class VideoSettings:
    """What a video encoder is asked for.

    Attributes:
        codec: H264 or VP8.
        bitrate: Bits per second.
        fps: Expected frames per second; real ones follow the pts.
        keyframe_interval: Seconds from one keyframe to the next at most. A cut of the scene
            makes a keyframe too, where a predicted picture would be as large.
        max_width: Larger pictures are scaled down in proportion.
        max_height: As ``max_width``.
    """

    codec: Codec = Codec.H264
    bitrate: int = 2_500_000
    fps: float = 30.0
    keyframe_interval: float = 2.0
    max_width: int | None = None
    max_height: int | None = None

    def __post_init__(self) -> None:
        if self.codec not in _OPTIONS:
            raise UnsupportedMedia(f"{self.codec.value} cannot be encoded")
        if min(self.bitrate, self.fps, self.keyframe_interval) <= 0:
            raise UsageError("bitrate, fps and keyframe_interval must be above 0")


class VideoEncoder:
    """Encodes pictures of any size and format; changes of size are followed.

    H.264 is constrained baseline: that is what ``profile-level-id=42e01f`` promises, it
    decodes a third faster, and main profile would gain 0.4 dB (film, 480p, 2.5 Mbit/s).

    Args:
        settings: Codec, bitrate and so on.
    """

    def __init__(self, settings: VideoSettings) -> None:
        self.settings = settings
        self._bitrate = max(settings.bitrate, _MIN_BITRATE)
        self._opened_bitrate = 0
        self._frame_ticks = max(1, round(Codec.H264.clock_rate / settings.fps))
        self._keyframe_ticks = settings.keyframe_interval * Codec.H264.clock_rate
        self._codec: VideoCodecContext | None = None
        self._share: _Share | None = None
        self._reformatter = VideoReformatter()
        self._last_ticks: int | None = None
        self._clock = 0  # the encoder's own pts: always grows, whatever the source's does
        self._last_keyframe = 0
        self._closed = False

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the encoded pictures in pixels; None before the first."""
        return None if self._codec is None else (self._codec.width, self._codec.height)

    def encode(self, frame: av.VideoFrame, *, keyframe: bool = False) -> list[EncodedFrame]:
        """Encode one picture.

        Args:
            frame: Any size from 2x2 and any pixel format; odd sizes lose a line or column.
                It is not changed, so it may be shared. Without a pts it follows the frame
                before; a pts that does not grow is carried through all the same.
            keyframe: Make this one a keyframe.

        Returns:
            Exactly one frame with the pts of the picture in units of 1/90000 s.

        Raises:
            EncoderFailed: The encoder refused the picture or its size.
            InvalidState: The encoder is closed.
        """
        if self._closed:
            raise InvalidState("the video encoder is closed")
        ticks = self._advance(frame)
        try:
            picture, codec, fresh = self._prepare(frame)
            forced = keyframe or fresh or self._clock - self._last_keyframe >= self._keyframe_ticks
            picture.pict_type = PictureType.I if forced else PictureType.NONE
            picture.pts, picture.time_base = self._clock, VIDEO_TIME_BASE
            packets = codec.encode(picture)
        except (av.FFmpegError, ValueError) as error:
            self._codec = None
            raise EncoderFailed(f"{self.settings.codec.value} encoder: {error}") from error
        if len(packets) != 1:
            raise EncoderFailed(f"{len(packets)} frames came out of the encoder for one")
        data = bytes(packets[0])
        if self.settings.codec is Codec.H264:
            data = normalise_h264(data)
        is_key = is_keyframe(self.settings.codec, data)
        if is_key:
            self._last_keyframe = self._clock
        return [EncodedFrame(data, self.settings.codec, ticks, VIDEO_TIME_BASE, is_key)]

    def set_bitrate(self, bps: int) -> None:
        """Change the target bitrate from the next frame on.

        x264 follows a moderate decrease as it runs. Everything else reopens the encoder,
        which costs a keyframe, unless the change is below 10 %: libvpx is not reconfigured by
        FFmpeg, and the VBV of x264, which bounds keyframes, keeps the rate it was opened with.
        """
        self._bitrate = max(bps, _MIN_BITRATE)
        opened = self._opened_bitrate
        if self._codec is None:
            return
        if self.settings.codec is Codec.H264 and opened / 2 <= bps <= opened * 1.1:
            self._codec.bit_rate = min(self._bitrate, opened)
        elif abs(bps - opened) > opened / 10:
            self._codec = None

    def close(self) -> None:
        """Free the encoder. Idempotent."""
        self._closed = True
        self._codec = self._share = None

    def _advance(self, frame: av.VideoFrame) -> int:
        """Move the encoder's clock to this frame; gives the frame's own pts in ticks."""
        last = self._last_ticks
        if frame.pts is None or frame.time_base is None:
            ticks = 0 if last is None else last + self._frame_ticks
        else:
            ticks = to_ticks(frame.pts, frame.time_base, Codec.H264.clock_rate)
        step = 0 if last is None else ticks - last
        self._clock += step if 0 < step <= _LONGEST_STEP else self._frame_ticks
        self._last_ticks = ticks
        return ticks

    def _prepare(self, frame: av.VideoFrame) -> tuple[av.VideoFrame, VideoCodecContext, bool]:
        """Give a picture that may be written on, the encoder for it, and whether it is new."""
        width, height = self._target_size(frame.width, frame.height)
        codec, share = self._codec, self._share
        fresh = codec is None or (codec.width, codec.height) != (width, height)
        if codec is None or share is None or fresh:
            self._opened_bitrate = self._bitrate
            codec = self._codec = _open_video(self.settings, width, height, self._bitrate)
            share = self._share = _Share(width, height)
        full_range = frame.color_range == ColorRange.JPEG
        picture = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="yuv420p",
            dst_color_range=ColorRange.MPEG if full_range else None,
        )
        return (share.of(picture) if picture is frame else picture), codec, fresh

    def _target_size(self, width: int, height: int) -> tuple[int, int]:
        scale = min(
            1.0,
            (self.settings.max_width or width) / max(width, 1),
            (self.settings.max_height or height) / max(height, 1),
        )
        # 4:2:0 has one chroma sample for two by two pixels.
        return max(2, int(width * scale) & ~1), max(2, int(height * scale) & ~1)


class _Share:
    """Makes a second frame over the same pixels, in 4 us where a copy takes 700 (720p).

    PyAV writes pts, time base and picture type into the frame that it encodes, but a source's
    frame may be in other hands too (a relay). A filter graph without filters gives another
    frame that refers to the same buffers; PyAV has no plainer call for that.
    """

    def __init__(self, width: int, height: int) -> None:
        graph = av.filter.Graph()
        self._source = graph.add_buffer(
            width=width,
            height=height,
            format=av.VideoFormat("yuv420p", width, height),
            time_base=VIDEO_TIME_BASE,
        )
        self._sink = graph.add("buffersink")
        self._source.link_to(self._sink)
        graph.configure()
        self._graph = graph

    def of(self, frame: av.VideoFrame) -> av.VideoFrame:
        self._source.push(frame)
        return cast(av.VideoFrame, self._sink.pull())


def _open_video(
    settings: VideoSettings, width: int, height: int, bitrate: int
) -> VideoCodecContext:
    name, options = _OPTIONS[settings.codec]
    codec = cast("VideoCodecContext", av.CodecContext.create(name, "w"))
    codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
    codec.time_base = VIDEO_TIME_BASE
    codec.framerate = Fraction(settings.fps).limit_denominator(1001)
    codec.bit_rate = bitrate
    # Keyframes are asked for by pts; this only keeps the encoder from putting in its own.
    codec.gop_size = max(2, round(2 * settings.fps * settings.keyframe_interval))
    codec.max_b_frames = 0
    # Threads cost quality (slices) and, on a busy machine, libvpx spins on them, so there are
    # none where one core is fast enough: 720p takes 5 ms (x264) or 8 ms (libvpx).
    large = width * height > 1280 * 720
    codec.thread_count = min(2, os.cpu_count() or 1) if large else 1
    half_a_second = str(bitrate // 2)  # a keyframe takes at most this long to send
    codec.options = {**options, "maxrate": str(bitrate), "bufsize": half_a_second}
    if settings.codec is Codec.VP8:
        codec.options |= {"minrate": str(bitrate)}  # equal to maxrate: constant bitrate
    codec.open()
    return codec


_OPTIONS: dict[Codec, tuple[str, dict[str, str]]] = {
    Codec.H264: (
        "libx264",
        {
            "preset": "superfast",
            "tune": "zerolatency",
            "profile": "baseline",
            "forced-idr": "1",
        },
    ),
    Codec.VP8: (
        "libvpx",
        {
            "deadline": "realtime",
            # A fixed speed (positive values follow the machine's load); -6 takes a third
            # longer for 0.04 dB, -12 loses 0.6 dB (film, 720p, 2.5 Mbit/s).
            "cpu-used": "-8",
            "lag-in-frames": "0",
            "auto-alt-ref": "0",
            "error-resilient": "default",
        },
    ),
}


def packet_to_frame(packet: av.Packet[_StreamT], codec: Codec) -> EncodedFrame:
    """Take an encoded packet as it is, without encoding again.

    H.264 out of MP4 or MKV (length-prefixed, parameter sets in the stream's header) becomes
    Annex B with the parameter sets in front of each IDR. The packet is not changed.

    Args:
        packet: With a pts, of a stream without B-frames.
        codec: What the packet holds: H264, VP8 or Opus.

    Raises:
        UnsupportedMedia: Not a codec that can be passed through, no pts, or no data.
        MalformedFrame: H.264 that cannot be brought into Annex B form.
    """
    pts, time_base = packet.pts, packet.time_base
    if pts is None or not packet.size or not time_base:
        raise UnsupportedMedia("a packet without data or pts cannot be sent")
    data = bytes(packet)
    if codec is Codec.H264:
        data = normalise_h264(_to_annexb(data, packet))
    return EncodedFrame(data, codec, pts, exact(time_base), is_keyframe(codec, data))


def _to_annexb(data: bytes, packet: av.Packet[_StreamT]) -> bytes:
    stream: Stream | None = packet.stream
    extradata = stream.codec_context.extradata if stream is not None else None
    if stream is None or not extradata or extradata[0] != 1:  # avcC begins with version 1
        return data
    try:
        # A filter per packet costs 20 us and spares a state that a seek would spoil. It takes
        # over what it is given, so it is given a copy.
        converted = BitStreamFilterContext("h264_mp4toannexb", stream).filter(av.Packet(data))
    except av.FFmpegError as error:
        raise UnsupportedMedia(f"H.264 packet cannot be converted: {error}") from error
    return b"".join(map(bytes, converted))
