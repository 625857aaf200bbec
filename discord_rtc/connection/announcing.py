"""What a session tells the server about what it sends: op 5 and op 12, each once per change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from discord_rtc.protocol.messages import Resolution, Speaking, StreamInfo, Video
from discord_rtc.protocol.opcodes import SpeakingFlags

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.transport.base import NegotiatedMedia


@dataclass(frozen=True, slots=True)
class VideoAnnouncement:
    """The properties of the sent video that op 12 carries."""

    width: int
    height: int
    fps: float
    bitrate: int


class Announcements:
    """Announces speech and video with the SSRCs of one session.

    Args:
        media: Gives the SSRCs.
        send: Sends a message to the voice gateway.
    """

    def __init__(self, media: NegotiatedMedia, send: Callable[[Speaking | Video], None]) -> None:
        self._media = media
        self._send = send
        self._spoken = SpeakingFlags.NONE
        self._shown: VideoAnnouncement | None = None

    def speaking(self, flags: SpeakingFlags) -> None:
        """Op 5."""
        if flags == self._spoken:
            return
        self._spoken = flags
        self._send(Speaking(int(flags), self._media.audio_ssrc, delay=0))

    def video(self, active: VideoAnnouncement | None) -> None:
        """Op 12: the layer that is really sent, or the cleared form."""
        if active == self._shown:
            return
        self._shown = active
        media = self._media
        if active is None:
            self._send(Video(media.audio_ssrc, 0, 0, ()))
            return
        layer = media.video[0]
        stream = StreamInfo(
            type="video",
            rid=layer.rid,
            quality=layer.quality,
            ssrc=layer.ssrc,
            rtx_ssrc=layer.rtx_ssrc,
            active=True,
            max_bitrate=active.bitrate,
            max_framerate=active.fps,
            max_resolution=Resolution(
                "fixed" if active.width else "source", active.width, active.height
            ),
        )
        self._send(Video(media.audio_ssrc, layer.ssrc, layer.rtx_ssrc, (stream,)))
