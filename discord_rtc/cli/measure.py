"""Compares what a user sent with what another one received, frame by frame. Event loop.

Sent and received frames are matched by RTP time: the sender's statistics tell which ticks
stand for pts 0 of its source, and a `RemoteTrack` tells the same for its own pts.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections import OrderedDict, deque
from functools import partial
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import ColorRange

from discord_rtc.cli.report import Percentiles
from discord_rtc.frames import MediaKind
from discord_rtc.media.encode import to_ticks
from discord_rtc.media.track import MediaStreamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from av.frame import Frame
    from av.stream import Stream
    from numpy.typing import NDArray

    from discord_rtc.connection.worker import Worker
    from discord_rtc.media.track import MediaTrack, TrackReader

PICTURES_KEPT = 96
"""Sent pictures held for comparison: 4 s at 24 fps; the oldest gives way."""

PICTURES_MEMORY = 256_000_000
"""Bytes that they may take: a picture of 3840x2160 has 12 MB."""

CHUNKS_KEPT = 512
"""Sent chunks of sound whose times are held: 10 s of 20 ms; the oldest gives way."""

DAMAGE_PSNR = 25.0
"""Decibels below which a received picture counts as damaged."""

SAME_TIME = 0.03
"""Seconds that a picture and the sound it is compared with may be apart in media time: sound
comes in frames of 20 ms, of which the nearest may be missing."""

_TICKS = {MediaKind.AUDIO: 48_000, MediaKind.VIDEO: 90_000}
_TICKS_MODULUS = 1 << 32


class SentTrack:
    """A track that remembers when each frame was read, and the pictures themselves.

    It does not end, it falls silent: the end of a track is announced to the receivers, who then
    drop what is still on its way. A test of what arrives must not race with that.

    Args:
        track: The source.
        now: Clock in seconds.
        on_end: Called once when the source has ended.

    Attributes:
        frames: Frames read.
        pictures: When each was read, and itself, by its ticks.
    """

    def __init__(
        self,
        track: MediaTrack,
        now: Callable[[], float],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.kind = track.kind
        self.frames = 0
        self.pictures: OrderedDict[int, tuple[float, av.VideoFrame]] = OrderedDict()
        self._track = track
        self._now = now
        self._on_end = on_end
        self._rate = _TICKS[MediaKind(track.kind)]
        self._chunks: deque[tuple[int, int, float]] = deque(maxlen=CHUNKS_KEPT)
        self._held = False

    @property
    def readyState(self) -> str:  # noqa: N802 - aiortc's contract
        """Of the source."""
        return self._track.readyState

    def stop(self) -> None:
        """Stop the source."""
        self._track.stop()

    def hold(self) -> None:
        """Give no further frame."""
        self._held = True

    async def recv(self) -> Frame | av.Packet[Stream]:
        """The source's next frame. Waits for ever when there is none."""
        frame = None
        if not self._held:
            try:
                frame = await self._track.recv()
            except MediaStreamError:
                self._on_end()
        if frame is None or self._held:
            await asyncio.Event().wait()
        assert frame is not None
        self._remember(frame)
        return frame

    def _remember(self, frame: Frame | av.Packet[Stream]) -> None:
        now = self._now()
        self.frames += 1
        if frame.pts is None or frame.time_base is None:
            return
        ticks = to_ticks(frame.pts, frame.time_base, self._rate)
        if isinstance(frame, av.VideoFrame):
            self.pictures[ticks] = (now, frame)
            size = sum(plane.buffer_size for plane in frame.planes)
            while len(self.pictures) > min(PICTURES_KEPT, max(2, PICTURES_MEMORY // size)):
                self.pictures.popitem(last=False)
        elif isinstance(frame, av.AudioFrame):
            length = frame.samples * self._rate // frame.sample_rate
            self._chunks.append((ticks, length, now))

    def sample_time(self, ticks: int) -> float | None:
        """When the sample at ``ticks`` was captured: its chunk's time plus its place in it."""
        chunks = list(self._chunks)
        index = bisect_right(chunks, ticks, key=lambda chunk: chunk[0]) - 1
        if index < 0:
            return None
        start, length, read_at = chunks[index]
        # The encoder fills small gaps and ends with whole frames; silence that it sends when
        # the source has nothing to say was never captured.
        return None if ticks >= start + 2 * length else read_at + (ticks - start) / self._rate


class Delays:
    """How long each frame took, by its media time. 16 bytes a frame."""

    def __init__(self) -> None:
        self._times = array("d")
        self._seconds = array("d")

    def __len__(self) -> int:
        return len(self._times)

    def add(self, time: float, seconds: float) -> None:
        """One frame of this media time took so long."""
        self._times.append(time)
        self._seconds.append(seconds)

    def percentiles(self) -> Percentiles:
        """Over all frames."""
        return percentiles(np.array(self._seconds))

    def recent(self) -> float | None:
        """Median in seconds over the last 100 frames, None before the first."""
        return float(np.median(self._seconds[-100:])) if self._seconds else None

    def less(self, other: Delays) -> NDArray[np.float64]:
        """These delays minus those of ``other`` at the same media time.

        Every frame is compared with the nearest of ``other``, and left out where that is more
        than `SAME_TIME` away.
        """
        if not self._times or not other._times:
            return np.zeros(0)
        order = np.argsort(other._times, kind="stable")
        times, seconds = np.array(other._times)[order], np.array(other._seconds)[order]
        mine = np.array(self._times)
        after = np.searchsorted(times, mine).clip(1, max(1, len(times) - 1))
        after = np.minimum(after, len(times) - 1)
        before = np.maximum(after - 1, 0)
        nearest = np.where(mine - times[before] <= times[after] - mine, before, after)
        comparable = np.abs(times[nearest] - mine) <= SAME_TIME
        result: NDArray[np.float64] = (np.array(self._seconds) - seconds[nearest])[comparable]
        return result


class Comparison:
    """One kind of media on its way from the sender's source to the receiver's reader.

    Args:
        sent: The source.
        now: Clock in seconds.

    Attributes:
        received: Frames that came out.
        damaged: Pictures flagged by the decoder or unlike the sent one.
        unchecked: Frames that were not compared: the sent one is unknown, or the machine too
            slow.
        worst_psnr: Least likeness of a picture in decibels, None before the first.
        delays: Of the frames.
    """

    def __init__(self, sent: SentTrack, now: Callable[[], float]) -> None:
        self.sent = sent
        self.kind = MediaKind(sent.kind)
        self.received = 0
        self.damaged = 0
        self.unchecked = 0
        self.worst_psnr: float | None = None
        self.delays = Delays()
        self._now = now
        self._pending = 0

    @property
    def busy(self) -> bool:
        """Whether pictures wait to be compared."""
        return self._pending > 0

    async def follow(
        self, reader: TrackReader, sent_ticks: Callable[[int], int | None], worker: Worker
    ) -> None:
        """Compare until the reader has ended, and close it.

        Args:
            reader: Of the received track.
            sent_ticks: From the pts of a received frame to the ticks of the sent one.
            worker: Where pictures are compared.
        """
        with reader:
            async for frame in reader:
                now = self._now()
                self.received += 1
                ticks = None if frame.pts is None else sent_ticks(frame.pts)
                if ticks is None:
                    self.unchecked += 1
                elif isinstance(frame, av.VideoFrame):
                    self._seen(frame, ticks, now, worker)
                else:
                    self._heard(ticks, now)
        # What the reader had to let go did arrive.
        self.received += reader.dropped
        self.unchecked += reader.dropped

    def _heard(self, ticks: int, now: float) -> None:
        captured = self.sent.sample_time(ticks)
        if captured is None:
            self.unchecked += 1
        else:
            self.delays.add(ticks / _TICKS[self.kind], now - captured)

    def _seen(self, frame: av.VideoFrame, ticks: int, now: float, worker: Worker) -> None:
        read_at, picture = self.sent.pictures.get(ticks, (0.0, None))
        if picture is None:
            self.unchecked += 1
            return
        self.delays.add(ticks / _TICKS[self.kind], now - read_at)
        if worker.submit(partial(psnr, picture, frame), partial(self._judge, frame.is_corrupt)):
            self._pending += 1
        else:
            self.unchecked += 1

    def _judge(self, corrupt: bool, likeness: float) -> None:
        self._pending -= 1
        self.worst_psnr = min(likeness, self.worst_psnr or likeness)
        if corrupt or likeness < DAMAGE_PSNR:
            self.damaged += 1


def psnr(sent: av.VideoFrame, received: av.VideoFrame) -> float:
    """Peak signal-to-noise ratio in decibels over all planes, in yuv420p; 99 when equal.

    The sent picture is brought to the received one's size (encoders want even sizes).
    """
    size = received.width, received.height
    difference = _planes(sent, size).astype(np.int16) - _planes(received, size)
    error = float(np.mean(difference**2, dtype=np.float64))
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def _planes(frame: av.VideoFrame, size: tuple[int, int]) -> NDArray[np.uint8]:
    # The range that video is sent in; RGB and pictures from cameras have the full one.
    limited = ColorRange.MPEG if frame.color_range == ColorRange.JPEG else None
    return frame.reformat(*size, "yuv420p", dst_color_range=limited).to_ndarray().astype(np.uint8)


def percentiles(seconds: NDArray[np.float64]) -> Percentiles:
    """In milliseconds, of values in seconds."""
    if not len(seconds):
        return Percentiles(None, None)
    p50, p95 = np.percentile(seconds, (50, 95))
    return Percentiles(round(1000 * float(p50), 1), round(1000 * float(p95), 1))


def sent_ticks(pts: int, rtp_origin: int, sent_origin: int) -> int:
    """The sender's own ticks (its pts in clock units) of a received pts, may be negative.

    Args:
        pts: Of the received frame, in clock units.
        rtp_origin: RTP ticks that pts 0 of the received track stands for.
        sent_origin: RTP ticks that pts 0 of the source stands for.
    """
    ticks = (pts + rtp_origin - sent_origin) % _TICKS_MODULUS
    return ticks - _TICKS_MODULUS if ticks >= _TICKS_MODULUS // 2 else ticks
