"""One track's way out of a container: packets that wait, frames that are ready. Any thread.

Two bounded stages: packets as they lie in the file (cheap, so that badly interleaved files do
not matter) and decoded frames (dear, so only a few).
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import av
from av.bitstream import BitStreamFilterContext
from av.error import FFmpegError

from discord_rtc.frames import Codec, MediaKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from av.audio.stream import AudioStream
    from av.packet import Packet
    from av.stream import Stream
    from av.video.stream import VideoStream

    from discord_rtc.media.track import MediaFrame

logger = logging.getLogger("discord_rtc.media")

MediaStream: TypeAlias = "VideoStream | AudioStream"

READY_BOUND = {MediaKind.VIDEO: 8, MediaKind.AUDIO: 50}
"""Frames decoded ahead: a third of a second of video, a second of sound."""

PENDING_BOUND = 4000
PENDING_BYTES = 32 * 1024 * 1024
"""Packets held ahead of a lane: about a minute of film, or one second of huge packets."""

PRUNE_EVERY = 32  # packets between looks at what an unread lane holds
LONG_FRAME = 0.1
"""Seconds of sound above which a decoded frame is cut up, so that it can be paced."""


class Item(NamedTuple):
    """A frame or packet and its seconds on the timeline that all tracks of a source share."""

    media: MediaFrame
    time: Fraction


@dataclass(frozen=True, slots=True)
class LaneStats:
    """What happened to one track of a source.

    Attributes:
        frames: Frames or packets that were read by the track's owner.
        dropped: Packets and frames that were given up because nobody fetched them in time.
        damaged: Packets that could not be read or decoded.
        high_water: Most frames that ever waited.
        bound: Limit of that queue.
    """

    frames: int
    dropped: int
    damaged: int
    high_water: int
    bound: int


class Lane:
    """One track's packets and frames. Guarded by the demuxer's lock, decoding apart."""

    def __init__(self, kind: MediaKind, passthrough: Codec | None) -> None:
        self.kind = kind
        self.passthrough = passthrough
        self.pending: deque[Packet[Stream] | None] = deque()  # None: flush the decoder
        self.ready: deque[Item] = deque()
        self.wanted = False
        self.closed = False
        self.decoding = False
        self.waker: Callable[[], None] | None = None
        self.skip_until = Fraction(0)
        self.frames = self.dropped = self.damaged = self.high_water = 0
        self._bytes = 0
        self._await_keyframe = False
        self._stream: MediaStream | None = None
        self._filter: BitStreamFilterContext | None = None
        self._shift = Fraction(0)
        self._next_time = Fraction(0)

    @property
    def active(self) -> bool:
        """Whether somebody reads this lane."""
        return self.wanted and not self.closed

    @property
    def has_room(self) -> bool:
        """Whether another packet may be decoded."""
        return len(self.ready) < READY_BOUND[self.kind]

    def attach(self, stream: MediaStream, shift: Fraction) -> None:
        """Read this stream from now on; ``shift`` seconds are added to its timestamps."""
        self._stream = stream
        self._shift = shift
        # Annex B input passes through it unchanged.
        h264 = self.passthrough is Codec.H264
        self._filter = BitStreamFilterContext("h264_mp4toannexb", stream) if h264 else None

    def append(self, packet: Packet[Stream], position: Fraction) -> None:
        """Hold a packet until there is room to decode it."""
        self.pending.append(packet)
        self._bytes += packet.size
        if not self.wanted and len(self.pending) % PRUNE_EVERY == 0:
            self._prune(position)
        if len(self.pending) > PENDING_BOUND or self._bytes > PENDING_BYTES:
            self._give_up_oldest()

    def begin_decoding(self) -> Packet[Stream] | None:
        """The next packet to decode, or None for "flush"."""
        self.decoding = True
        return self._pop()

    def _pop(self) -> Packet[Stream] | None:
        packet = self.pending.popleft()
        self._bytes -= packet.size if packet is not None else 0
        return packet

    def discard(self) -> None:
        """Forget every packet that waits."""
        self.pending.clear()
        self._bytes = 0

    def _prune(self, position: Fraction) -> None:
        """Keep what is needed to join at ``position``: from the last keyframe before it."""
        start = 0
        for index, packet in enumerate(self.pending):
            if packet is not None and packet.is_keyframe:
                if self._time_of(packet) > position:
                    break
                start = index
        for _ in range(start):
            self._pop()

    def _give_up_oldest(self) -> None:
        """Keep what follows the newest keyframe, nothing where there is none."""
        keyframes = (i for i, packet in enumerate(self.pending) if packet and packet.is_keyframe)
        keep_from = max(keyframes, default=0) or len(self.pending)
        for _ in range(keep_from):
            self._pop()
        self.dropped += keep_from
        self._await_keyframe = True

    def decode(self, packet: Packet[Stream] | None) -> list[Item]:
        """Turn a packet into what the track yields. Worker thread, without the lock."""
        assert self._stream is not None
        if self._await_keyframe and packet is not None:
            if not packet.is_keyframe:
                self.dropped += 1
                return []
            self._await_keyframe = False
            self._stream.codec_context.flush_buffers()
        try:
            items = list(self._pass(packet) if self.passthrough else self._frames(packet))
        except FFmpegError as error:
            if packet is not None:  # flushing a decoder that failed fails too
                self.damaged += 1
                logger.debug("! damaged %s packet: %s", self.kind, error)
            return []
        return [item for item in items if item.time >= self.skip_until]

    def _pass(self, packet: Packet[Stream] | None) -> Iterator[Item]:
        if packet is None:
            return  # there is no decoder to flush
        time = self._time_of(packet)
        base = self._time_base_of(packet)
        duration, keyframe = packet.duration, packet.is_keyframe  # the filter empties the packet
        for out in self._filter.filter(packet) if self._filter else [packet]:
            # Of its own, without the stream, which is gone when the source is closed and whose
            # header no longer describes filtered H.264.
            free: Packet[Stream] = av.Packet(bytes(out))
            free.time_base = base
            free.pts = free.dts = round(time / base)
            free.duration = duration
            free.is_keyframe = keyframe
            yield Item(free, time)

    def _frames(self, packet: Packet[Stream] | None) -> Iterator[Item]:
        assert self._stream is not None
        for frame in self._stream.codec_context.decode(packet):
            pieces = _split(frame) if isinstance(frame, av.AudioFrame) else [frame]
            for piece in pieces:
                time = self._time_of(piece)
                base = self._time_base_of(piece)
                piece.time_base = base
                piece.pts = round(time / base)
                self._next_time = time + self._length_of(piece)
                yield Item(piece, time)

    def _time_of(self, media: MediaFrame) -> Fraction:
        if media.pts is None:
            return self._next_time
        return media.pts * self._time_base_of(media) + self._shift

    def _time_base_of(self, media: MediaFrame) -> Fraction:
        # PyAV leaves it out of frames that come from flushing the decoder.
        assert self._stream is not None
        return Fraction(media.time_base or self._stream.time_base or Fraction(1, 90_000))

    def _length_of(self, frame: av.VideoFrame | av.AudioFrame) -> Fraction:
        if isinstance(frame, av.AudioFrame):
            return Fraction(frame.samples, frame.sample_rate)
        rate = self._stream.average_rate if self._stream else None
        return Fraction(1) / Fraction(rate) if rate else Fraction(1, 30)

    def stats(self) -> LaneStats:
        """Counters so far."""
        bound = READY_BOUND[self.kind]
        return LaneStats(self.frames, self.dropped, self.damaged, self.high_water, bound)


def _split(frame: av.AudioFrame) -> list[av.AudioFrame]:
    """Cut a long sound frame into pieces of `LONG_FRAME` at most."""
    size = int(frame.sample_rate * LONG_FRAME)
    if frame.samples <= size or frame.pts is None or not frame.time_base:
        return [frame]
    samples = frame.to_ndarray()
    width = 1 if frame.format.is_planar else len(frame.layout.channels)
    pieces = []
    for start in range(0, frame.samples, size):
        array = samples[:, start * width : (start + size) * width]
        piece = av.AudioFrame.from_ndarray(array.copy(), frame.format.name, frame.layout.name)
        piece.sample_rate = frame.sample_rate
        piece.time_base = frame.time_base
        passed = Fraction(start, frame.sample_rate) / Fraction(frame.time_base)
        piece.pts = frame.pts + round(passed)
        pieces.append(piece)
    return pieces
