"""From a user's track to frames on the network.

    track.recv() -> encode in a worker -> RtpSession (paced) -> transport

One `Publication` is one published track. It outlives the voice sessions: `run` is called
anew, with another link, for each of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

import av

from discord_rtc.connection.worker import Worker
from discord_rtc.errors import MediaError, RtcError, UnsupportedMedia, UsageError
from discord_rtc.frames import (
    OPUS_FRAME_TICKS,
    OPUS_SILENCE,
    Codec,
    EncodedFrame,
    MediaKind,
)
from discord_rtc.media.encode import OpusEncoder, VideoEncoder, VideoSettings, packet_to_frame
from discord_rtc.media.track import MediaStreamError
from discord_rtc.protocol.opcodes import SpeakingFlags
from discord_rtc.rtp.session import SenderConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from av.stream import Stream

    from discord_rtc.connection.link import MediaLink
    from discord_rtc.media.track import MediaFrame, MediaTrack

MAX_BACKLOG = 0.25
"""Seconds of video in the pacer above which frames are skipped before they are encoded."""

KEYFRAME_SPACING = 1.0
"""At most one keyframe on request per second (protocol reference, "RTCP contents")."""

TRAILING_SILENCE = 5
"""Silence frames at the end of speech (Discord docs, "Voice Data Interpolation")."""

SPEECH_GAP = 0.1
"""Seconds of waiting for the track after which speech counts as ended."""

_SECOND_LOOK = 0.02
"""Part of the gap that is waited after its timer fired: when the loop itself was held up, the
track's frame is handed over in that time, and there was no gap."""

_SILENCE_SPACING = 0.02
_OPUS_TIME_BASE = Fraction(1, Codec.OPUS.clock_rate)
_PACING_HEADROOM = 2.5
"""Pacing rate over encoder bitrate: a keyframe is several times an average frame and must
not delay the next ones by more than a frame time or two."""


_UNKNOWN_SIZE = (0, 0)
"""Announced for packets that do not tell: the receivers see it in the bitstream."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What a video should look like at most.

    Attributes:
        width: Largest width in pixels.
        height: Largest height in pixels.
        fps: Most frames per second.
        bitrate: Encoder's target in bits per second.
    """

    width: int = 1280
    height: int = 720
    fps: float = 30
    bitrate: int = 2_500_000

    def __post_init__(self) -> None:
        if not (min(self.width, self.height) >= 2 and min(self.fps, self.bitrate) > 0):
            raise UsageError(f"no video can be made with {self}")


class Announcer(Protocol):
    """How a publication tells the voice gateway what it is about to send.

    Saying the same again is harmless. The end of a publication is announced by whoever runs it.
    """

    def speaking(self, flags: SpeakingFlags) -> None:
        """Op 5."""
        ...

    def video(self, active: VideoAnnouncement | None) -> None:
        """Op 12; None when video stops."""
        ...


@dataclass(frozen=True, slots=True)
class VideoAnnouncement:
    """The properties of the sent video that op 12 carries."""

    width: int
    height: int
    fps: float
    bitrate: int


class Publication:
    """One published track.

    Args:
        track: Source of frames.
        kind: Audio or video.
        quality: Limits for video; ignored for audio.
        flags: Speaking flags announced while audio is sent.
        worker_name: Name of the encoder's thread.

    Attributes:
        muted: Frames of the track are thrown away.
        stopped: Set before `run` is cancelled because nothing shall be sent any more: speech is
            then ended properly. Not set where another track goes on in its place, so that
            receivers notice only new content.
    """

    def __init__(
        self,
        track: MediaTrack,
        kind: MediaKind,
        *,
        quality: Quality,
        flags: SpeakingFlags = SpeakingFlags.VOICE,
        worker_name: str = "discord-rtc-encode",
    ) -> None:
        self.track = track
        self.kind = kind
        self.quality = quality
        self.flags = flags
        self.muted = False
        self.stopped = False
        self._counters: Counter[str] = Counter()
        self._worker_name = worker_name
        self._wants_keyframe = True
        self._last_keyframe = -KEYFRAME_SPACING

    @property
    def counters(self) -> Mapping[str, int]:
        """Frames ``sent``, ``skipped-backlog``, ``skipped-muted``, ... of this track."""
        return dict(self._counters)

    def keyframe_requested(self) -> None:
        """A receiver cannot decode; the next possible frame becomes a keyframe."""
        self._wants_keyframe = True

    async def run(self, link: MediaLink, announcer: Announcer) -> None:
        """Send the track until it ends.

        Raises:
            MediaError: The track or its encoder failed.
        """
        self._wants_keyframe = True
        worker = Worker(self._worker_name)
        try:
            if self.kind is MediaKind.AUDIO:
                await _AudioSender(self, link, announcer, worker).run()
            else:
                await _VideoSender(self, link, announcer, worker).run()
        finally:
            await worker.aclose()

    async def receive(self) -> MediaFrame | None:
        """The track's next frame, or None at its end. Failures become `MediaError`."""
        try:
            frame = await self.track.recv()
        except MediaStreamError:
            return None
        except RtcError:
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not we are cancelled, but something inside the track.
            raise MediaError(f"the published {self.kind} track was cancelled") from error
        except Exception as error:
            raise MediaError(f"the published {self.kind} track failed: {error!r}") from error
        if not isinstance(frame, av.AudioFrame | av.VideoFrame | av.Packet):
            raise UnsupportedMedia(f"a track gave a {type(frame).__name__}, which is no media")
        return frame

    def count(self, what: str) -> None:
        """Count one frame under a name."""
        self._counters[what] += 1

    def take_keyframe_request(self, now: float) -> bool:
        """Whether the frame about to be encoded must be a keyframe."""
        if not self._wants_keyframe or now - self._last_keyframe < KEYFRAME_SPACING:
            return False
        self._wants_keyframe = False
        self._last_keyframe = now
        return True


class _AudioSender:
    """Audio of one session: encode, announce speech, end it with silence frames."""

    def __init__(
        self, publication: Publication, link: MediaLink, announcer: Announcer, worker: Worker
    ) -> None:
        self._publication = publication
        self._link = link
        self._announcer = announcer
        self._worker = worker
        self._ssrc = link.media.audio_ssrc
        self._loop = asyncio.get_running_loop()
        self._encoder: OpusEncoder | None = None
        self._speaking = False
        self._earliest_pts: int | None = None
        self._next_pts = 0
        self._gap: asyncio.TimerHandle | None = None
        self._trailing = 0

    async def run(self) -> None:
        """Until the track ends, and speech with it."""
        number = self._link.media.payload_types[Codec.OPUS]
        self._link.add_sender(SenderConfig(self._ssrc, Codec.OPUS, number))
        try:
            while (frame := await self._next_frame()) is not None:
                for encoded in await self._encode(frame):
                    self._send(encoded)
            if self._encoder is not None:
                for encoded in await self._worker.run(self._encoder.flush):
                    self._send(encoded)
            await self._finish_speech()
        except asyncio.CancelledError:
            if self._publication.stopped:
                await self._finish_speech()
            raise
        finally:
            self._cancel_gap()

    async def _next_frame(self) -> MediaFrame | None:
        """The track's next frame that is to be sent; speech ends while there is none."""
        while True:
            if self._speaking and self._gap is None:
                self._gap = self._loop.call_later(SPEECH_GAP - _SECOND_LOOK, self._look_again)
            frame = await self._publication.receive()
            if frame is None or not self._publication.muted:
                self._cancel_gap()
                return frame
            self._publication.count("skipped-muted")
            if self._speaking and not self._trailing:
                self._cancel_gap()
                self._trail_off()

    async def _encode(self, frame: MediaFrame) -> list[EncodedFrame]:
        if isinstance(frame, av.Packet):
            return [packet_to_frame(frame, Codec.OPUS)]
        if not isinstance(frame, av.AudioFrame):
            raise UnsupportedMedia(
                f"a microphone track must give audio, not {type(frame).__name__}"
            )
        encoder = self._encoder = self._encoder or OpusEncoder()
        return await self._worker.run(lambda: encoder.encode(frame))

    def _send(self, encoded: EncodedFrame) -> None:
        pts = int(encoded.pts * encoded.time_base / _OPUS_TIME_BASE)
        self._trailing = 0
        if not self._speaking:
            self._announce(self._publication.flags)
        if self._earliest_pts is not None and pts < self._earliest_pts:
            # The track's clock stood still while silence was sent, or went back: go on from
            # here.
            self._link.restart_source(self._ssrc)
        self._earliest_pts = pts + 1
        self._next_pts = pts + OPUS_FRAME_TICKS
        self._publication.count("sent")
        self._link.send_frame(self._ssrc, encoded, speaking=int(self._publication.flags))

    def _look_again(self) -> None:
        self._gap = self._loop.call_later(_SECOND_LOOK, self._trail_off)

    def _trail_off(self) -> None:
        # A chain of timers rather than a task: the frame that ends the gap only has to
        # cancel the handle.
        self._gap = None
        if self._trail():
            self._gap = self._loop.call_later(_SILENCE_SPACING, self._trail_off)

    async def _finish_speech(self) -> None:
        """The same, awaited; it goes on where a gap has begun to trail off already."""
        self._cancel_gap()
        for _ in range(TRAILING_SILENCE + 1):
            if self._trail():
                await asyncio.sleep(_SILENCE_SPACING)

    def _trail(self) -> bool:
        """One step of the end of speech; returns whether there is another one."""
        if self._speaking and self._trailing < TRAILING_SILENCE:
            self._trailing += 1
            self._send_silence()
        elif self._speaking:
            self._announce(SpeakingFlags.NONE)
        return self._speaking

    def _send_silence(self) -> None:
        silence = EncodedFrame(
            OPUS_SILENCE, Codec.OPUS, self._next_pts, _OPUS_TIME_BASE, keyframe=True
        )
        self._next_pts = self._earliest_pts = self._next_pts + OPUS_FRAME_TICKS
        self._publication.count("silence")
        self._link.send_frame(self._ssrc, silence)

    def _announce(self, flags: SpeakingFlags) -> None:
        self._speaking = bool(flags)
        self._announcer.speaking(flags)

    def _cancel_gap(self) -> None:
        if self._gap is not None:
            self._gap.cancel()
            self._gap = None


class _VideoSender:
    """Video of one session: skip when the link is behind, encode, send."""

    def __init__(
        self, publication: Publication, link: MediaLink, announcer: Announcer, worker: Worker
    ) -> None:
        if link.media.video_codec is None or not link.media.video:
            raise UnsupportedMedia("no video codec was negotiated on this connection")
        self._publication = publication
        self._link = link
        self._announcer = announcer
        self._worker = worker
        self._codec = link.media.video_codec
        self._layer = link.media.video[0]
        self._encoder: VideoEncoder | None = None
        self._announced: tuple[int, int] | None = None
        self._started = False
        self._next_time: float | None = None
        self._last_pts: int | None = None
        self._clock: Callable[[], float] = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Until the track ends."""
        media = self._link.media
        self._link.add_sender(
            SenderConfig(
                self._layer.ssrc,
                self._codec,
                media.payload_types[self._codec],
                rid=self._layer.rid,
                content_type=0,  # camera
                rtx_ssrc=self._layer.rtx_ssrc,
                rtx_payload_type=media.rtx_payload_types.get(self._codec),
            )
        )
        self._link.set_pacing_rate(int(self._publication.quality.bitrate * _PACING_HEADROOM))
        try:
            while (frame := await self._publication.receive()) is not None:
                if not self._skipped(frame):
                    await self._send(frame)
        finally:
            if self._encoder is not None:
                self._worker.submit(self._encoder.close, lambda _: None)

    def _skipped(self, frame: MediaFrame) -> bool:
        if self._link.backlog() > MAX_BACKLOG:
            self._publication.count("skipped-backlog")
            # A packet that was skipped breaks the chain of a pre-encoded stream.
            self._started = self._started and not isinstance(frame, av.Packet)
            return True
        if isinstance(frame, av.Packet):
            self._started = self._started or frame.is_keyframe
            if not self._started:
                self._publication.count("skipped-to-keyframe")
            return not self._started
        return self._too_early(frame)

    def _too_early(self, frame: av.AudioFrame | av.VideoFrame) -> bool:
        """Whether the frame would exceed the wanted frame rate."""
        if frame.pts is None or frame.time_base is None:
            return False
        spacing = 1 / self._publication.quality.fps
        time = float(frame.pts * frame.time_base)
        if self._next_time is None or abs(time - self._next_time) > 1:
            self._next_time = time
        if time < self._next_time - spacing / 4:
            self._publication.count("skipped-fps")
            return True
        self._next_time += spacing
        # A source slower than the limit must not save up for a burst.
        self._next_time = max(self._next_time, time)
        return False

    async def _send(self, frame: MediaFrame) -> None:
        if isinstance(frame, av.Packet):
            encoded = [packet_to_frame(frame, self._codec)]
            size = _packet_size(frame)
        elif isinstance(frame, av.VideoFrame):
            video = frame
            encoder = self._encoder = self._encoder or VideoEncoder(self._settings())
            keyframe = self._publication.take_keyframe_request(self._clock())
            encoded = await self._worker.run(lambda: encoder.encode(video, keyframe=keyframe))
            size = encoder.size or _UNKNOWN_SIZE
        else:
            raise UnsupportedMedia(f"a camera track must give video, not {type(frame).__name__}")
        if size != self._announced:
            self._announced = size
            quality = self._publication.quality
            width, height = size
            self._announcer.video(VideoAnnouncement(width, height, quality.fps, quality.bitrate))
        for item in encoded:
            if self._last_pts is not None and item.pts <= self._last_pts:
                # A source that begins again (a loop): receivers must not go back in time.
                self._link.restart_source(self._layer.ssrc)
            self._last_pts = item.pts
            self._publication.count("sent")
            self._link.send_frame(self._layer.ssrc, item)

    def _settings(self) -> VideoSettings:
        quality = self._publication.quality
        interval = self._link.media.keyframe_interval_ms
        return VideoSettings(
            codec=self._codec,
            bitrate=quality.bitrate,
            fps=quality.fps,
            keyframe_interval=2.0 if interval is None else interval / 1000,
            max_width=quality.width,
            max_height=quality.height,
        )


def _packet_size(packet: av.Packet[Stream]) -> tuple[int, int]:
    stream = packet.stream
    if isinstance(stream, av.VideoStream):
        return stream.width, stream.height
    return _UNKNOWN_SIZE
