"""Video of one session: skip when the link is behind, encode, send."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import av

from discord_rtc.connection.announcing import VideoAnnouncement
from discord_rtc.errors import UnsupportedMedia
from discord_rtc.media.encode import VideoEncoder, VideoSettings, packet_to_frame
from discord_rtc.rtp.session import SenderConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from av.stream import Stream

    from discord_rtc.connection.publication import Announcer, Outlet, Publication
    from discord_rtc.connection.worker import Worker
    from discord_rtc.media.track import MediaFrame

MAX_BACKLOG = 0.25
"""Seconds of video in the pacer above which frames are skipped before they are encoded."""

_PACING_HEADROOM = 2.5
"""Pacing rate over encoder bitrate: a keyframe is several times an average frame and must
not delay the next ones by more than a frame time or two."""

_UNKNOWN_SIZE = (0, 0)
"""Announced for packets that do not tell: the receivers see it in the bitstream."""


class VideoSender:
    """Video of one session: skip when the link is behind, encode, send."""

    def __init__(
        self, publication: Publication, outlet: Outlet, announcer: Announcer, worker: Worker
    ) -> None:
        if outlet.media.video_codec is None or not outlet.media.video:
            raise UnsupportedMedia("no video codec was negotiated on this connection")
        self._publication = publication
        self._outlet = outlet
        self._announcer = announcer
        self._worker = worker
        self._codec = outlet.media.video_codec
        self._layer = outlet.media.video[0]
        self._encoder: VideoEncoder | None = None
        self._announced: tuple[int, int] | None = None
        self._started = False
        self._next_time: float | None = None
        self._last_pts: int | None = None
        self._clock: Callable[[], float] = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Until the track ends."""
        media = self._outlet.media
        self._outlet.add_sender(
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
        self._outlet.set_pacing_rate(int(self._publication.quality.bitrate * _PACING_HEADROOM))
        try:
            while (frame := await self._publication.receive()) is not None:
                if not self._skipped(frame):
                    await self._send(frame)
        finally:
            if self._encoder is not None:
                self._worker.submit(self._encoder.close, lambda _: None)

    def _skipped(self, frame: MediaFrame) -> bool:
        if self._outlet.backlog() > MAX_BACKLOG:
            self._publication.count("skipped-backlog")
            # A packet that was skipped breaks the chain of a pre-encoded stream.
            self._started = self._started and not isinstance(frame, av.Packet)
            return True
        if isinstance(frame, av.Packet):
            self._started = self._started or frame.is_keyframe
            if not self._started:
                self._publication.count("skipped-to-keyframe")
            return not self._started
        if self._publication.withheld:
            self._publication.count("skipped-e2ee")
            return True
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
                self._outlet.restart_source(self._layer.ssrc)
            self._last_pts = item.pts
            self._publication.count("sent")
            self._outlet.send_frame(self._layer.ssrc, item)

    def _settings(self) -> VideoSettings:
        quality = self._publication.quality
        interval = self._outlet.media.keyframe_interval_ms
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
