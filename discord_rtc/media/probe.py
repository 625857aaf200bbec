"""Opening media to read: where it is, which streams are usable, what may pass as it is.

Blocking, any thread. The one place where FFmpeg's errors of opening become ours.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import av
from av.audio.stream import AudioStream
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from discord_rtc.errors import UnsupportedMedia
from discord_rtc.frames import Codec, MediaKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream

TIMEOUT = 10.0
"""Seconds that a URL may take to open, and to give more data."""

CAPTURE = re.compile(r"(screen|camera|microphone)(:.*)?", re.DOTALL)
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
LAVFI = "lavfi:"

PASSTHROUGH_CODECS = {"h264": Codec.H264, "vp8": Codec.VP8, "opus": Codec.OPUS}
MAX_KEYFRAME_DISTANCE = 4
"""Seconds. Nobody can join or recover between keyframes, and a file makes none on request."""

PROBE_SECONDS = 10
PROBE_PACKETS = 3000
"""Ends a probe of media without usable timestamps: 10 s of 240 fps video with sound."""

FIRST_FRAME_PACKETS = 100
"""A stream that gives no frame from so many packets is broken; x264 reorders 16 at most."""


@dataclass(frozen=True, slots=True)
class Location:
    """A source as FFmpeg is to open it.

    Attributes:
        name: What the user called it.
        url: For FFmpeg.
        format: Demuxer, when FFmpeg must not guess.
        local: A file, which can be read twice.
    """

    name: str
    url: str
    format: str | None = None
    local: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe says about one stream.

    Attributes:
        decodes: Whether a frame came out.
        codec: The codec, where it is one that can be sent.
        refusal: Why its packets cannot be sent as they are; None when they can.
    """

    decodes: bool
    codec: Codec | None
    refusal: str | None


def locate(source: str | os.PathLike[str]) -> Location:
    """Understand what the user wants opened.

    Raises:
        UnsupportedMedia: No such file, a directory, or a capture device.
    """
    name = os.fspath(source)
    if isinstance(source, str):
        if name.startswith(LAVFI):
            return Location(name, name.removeprefix(LAVFI), format="lavfi")
        if device := CAPTURE.fullmatch(name):
            raise UnsupportedMedia(
                f"capturing the {device[1]} is not supported by this version of discord_rtc"
            )
        if URL.match(name) and not name.lower().startswith("file://"):
            return Location(name, name)
    path = Path(url2pathname(urlsplit(name).path) if URL.match(name) else name)
    if path.is_dir():
        raise UnsupportedMedia(f"{name} is a directory, not a media file")
    if not path.exists():
        raise UnsupportedMedia(f"there is no file {name}")
    # With its protocol named, FFmpeg takes no part of a file name for one.
    return Location(name, f"file:{path}", local=True)


def open_container(location: Location) -> InputContainer:
    """Open a source for reading.

    Raises:
        UnsupportedMedia: FFmpeg cannot open or understand it.
    """
    timeout = None if location.local or location.format else (TIMEOUT, TIMEOUT)
    try:
        return av.open(location.url, "r", format=location.format, timeout=timeout)
    except (FFmpegError, ValueError, OSError) as error:
        raise UnsupportedMedia(f"{location.name} cannot be opened: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    match error:
        case av.error.InvalidDataError():
            return "it is corrupt or no media that FFmpeg knows"
        case av.error.ExitError() | av.error.TimeoutError():
            return f"no answer within {TIMEOUT:.0f} s"
        case FFmpegError(strerror=str(text)):
            return text[:1].lower() + text[1:]
        case _:
            return str(error)


def choose_streams(container: InputContainer) -> dict[MediaKind, VideoStream | AudioStream]:
    """The video and the audio stream that FFmpeg thinks best; cover pictures do not count."""
    chosen: dict[MediaKind, VideoStream | AudioStream] = {}
    video = container.streams.best("video")
    if isinstance(video, VideoStream) and not video.disposition & Disposition.attached_pic:
        chosen[MediaKind.VIDEO] = video
    audio = container.streams.best("audio")
    if isinstance(audio, AudioStream):
        chosen[MediaKind.AUDIO] = audio
    return chosen


def probe(location: Location) -> dict[MediaKind, Finding]:
    """Read the beginning of a file: at most 10 s of media, typically 10 ms of time.

    Raises:
        UnsupportedMedia: It cannot be opened.
    """
    with open_container(location) as container:
        probes = {
            stream.index: _StreamProbe(stream) for stream in choose_streams(container).values()
        }
        if probes:
            _read_beginning(container, probes)
        return {probe.kind: probe.finding() for probe in probes.values()}


def _read_beginning(container: InputContainer, probes: Mapping[int, _StreamProbe]) -> None:
    streams = [container.streams[index] for index in probes]
    try:
        for count, packet in enumerate(container.demux(*streams)):
            probes[packet.stream.index].examine(packet)
            if count > PROBE_PACKETS or all(probe.done for probe in probes.values()):
                return
    except FFmpegError:
        return  # what has been seen decides; reading on is the demuxer's affair


class _StreamProbe:
    """Judges one stream, packet by packet."""

    def __init__(self, stream: VideoStream | AudioStream) -> None:
        self.kind = MediaKind(stream.type)
        self._codec = PASSTHROUGH_CODECS.get(stream.codec_context.name)
        self._refusal = _refusal_of_stream(stream, self._codec)
        self._time_base = stream.time_base or Fraction(1)
        self._decodes = False
        self._packets = 0
        self._first: int | None = None
        self._keyframe: int | None = None
        self._seconds = Fraction(0)

    @property
    def done(self) -> bool:
        if not self._decodes and self._packets < FIRST_FRAME_PACKETS:
            return False
        return self._refusal is not None or self._seconds > PROBE_SECONDS

    def finding(self) -> Finding:
        refusal = self._refusal
        if refusal is None and not self._packets:
            refusal = "it has no packets"
        return Finding(self._decodes, self._codec, refusal)

    def examine(self, packet: Packet[Stream]) -> None:
        if not self._decodes and self._packets < FIRST_FRAME_PACKETS:
            with contextlib.suppress(FFmpegError):  # perhaps the next one
                self._decodes = bool(packet.decode())
        if not packet.size:
            return  # PyAV's mark of the end
        self._packets += 1
        if self._refusal is None:
            self._refusal = self._refusal_of_packet(packet)

    def _refusal_of_packet(self, packet: Packet[Stream]) -> str | None:
        pts = packet.pts
        if pts is None:
            return "its packets have no timestamps"
        if self._first is None:
            self._first = pts
        self._seconds = (pts - self._first) * self._time_base
        if self._codec is Codec.OPUS:
            return None if opus_milliseconds(bytes(packet)) == 20 else "its packets are not 20 ms"
        return self._refusal_of_picture(packet, pts)

    def _refusal_of_picture(self, packet: Packet[Stream], pts: int) -> str | None:
        if pts != packet.dts:
            return "its frames are reordered"
        if self._codec is Codec.VP8 and not bytes(packet)[0] & 0x10:  # RFC 6386 9.1, show_frame
            return "it has frames that are not shown"
        if packet.is_keyframe:
            self._keyframe = pts
        if self._keyframe is None:
            return "it does not begin with a keyframe"
        if (pts - self._keyframe) * self._time_base > MAX_KEYFRAME_DISTANCE:
            return f"its keyframes are more than {MAX_KEYFRAME_DISTANCE} s apart"
        return None


def _refusal_of_stream(stream: VideoStream | AudioStream, codec: Codec | None) -> str | None:
    if codec is None:
        return f"its codec is {stream.codec_context.name}"
    if isinstance(stream, AudioStream):
        # More than two channels are several Opus streams in one packet, RFC 7845 section 5.1.1.
        return "it has more than two channels" if stream.codec_context.channels > 2 else None
    context = stream.codec_context
    if context.pix_fmt != "yuv420p":
        return f"its pixel format is {context.pix_fmt}"
    if context.has_b_frames:
        return "its frames are reordered"
    if context.field_order > 1:  # AV_FIELD_PROGRESSIVE; 0 is unknown
        return "it is interlaced"
    return None


def opus_milliseconds(packet: bytes) -> float:
    """Length of an Opus packet, 0 when it is malformed. Spec: RFC 6716 section 3.1."""
    if not packet:
        return 0
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:  # SILK
        length: float = (10, 20, 40, 60)[config % 4]
    elif config < 16:  # hybrid
        length = (10, 20)[config % 2]
    else:  # CELT
        length = (2.5, 5, 10, 20)[config % 4]
    if code == 3:
        return length * (packet[1] & 0x3F) if len(packet) > 1 else 0
    return length * (1, 2, 2)[code]
