"""A published track, and what it is sent with: values and interfaces of the sending half."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import av

from discord_rtc.errors import MediaError, RtcError, UnsupportedMedia, UsageError
from discord_rtc.media.track import MediaStreamError
from discord_rtc.protocol.opcodes import SpeakingFlags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from discord_rtc.connection.announcing import VideoAnnouncement
    from discord_rtc.frames import EncodedFrame, MediaKind
    from discord_rtc.media.track import MediaFrame, MediaTrack
    from discord_rtc.rtp.session import SenderConfig
    from discord_rtc.transport.base import NegotiatedMedia

KEYFRAME_SPACING = 1.0
"""At most one keyframe on request per second (protocol reference, "RTCP contents")."""


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


class Outlet(Protocol):
    """Where a publication hands its frames over; between it and the link is encryption."""

    @property
    def media(self) -> NegotiatedMedia:
        """What was negotiated."""
        ...

    def add_sender(self, config: SenderConfig) -> None:
        """Begin a stream of ours, or go on with one from another source."""
        ...

    def send_frame(self, ssrc: int, frame: EncodedFrame, *, speaking: int | None = None) -> None:
        """Send one encoded frame, now or as soon as it may leave."""
        ...

    def restart_source(self, ssrc: int) -> None:
        """The next frame of this stream comes from another source."""
        ...

    def set_pacing_rate(self, bitrate_bps: int) -> None:
        """How fast video may leave."""
        ...

    def backlog(self) -> float:
        """Seconds of video that wait in the pacer."""
        ...


class Publication:
    """One published track. It outlives the voice sessions.

    Args:
        track: Source of frames.
        kind: Audio or video.
        quality: Limits for video; ignored for audio.
        flags: Speaking flags announced while audio is sent.
        worker_name: Name of the encoder's thread.

    Attributes:
        muted: Frames of the track are thrown away.
        stopped: Set before sending is cancelled because nothing shall be sent any more: speech is
            then ended properly. Not set where another track goes on in its place, so that
            receivers notice only new content.
        worker_name: As given.
        withheld: Set while what is encoded now could not be sent anyway, for want of a group.
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
        self.withheld = False
        self._counters: Counter[str] = Counter()
        self.worker_name = worker_name
        self._wants_keyframe = True
        self._last_keyframe = -KEYFRAME_SPACING

    @property
    def counters(self) -> Mapping[str, int]:
        """Frames ``sent``, ``skipped-backlog``, ``skipped-muted``, ... of this track.

        ``sent`` frames were handed over; of these ``held-dropped`` did not leave because the call
        was not encrypted yet, ``unencryptable`` because the library refused them, and
        ``unsendable`` because they had waited and turned out to be no frame that can be sent.
        """
        return dict(self._counters)

    def keyframe_requested(self) -> None:
        """A receiver cannot decode; the next possible frame becomes a keyframe."""
        self._wants_keyframe = True

    def demand_keyframe(self) -> None:
        """What was encoded since the last keyframe was thrown away: the next frame becomes one,
        however short ago that was.
        """
        self._wants_keyframe = True
        self._last_keyframe = -KEYFRAME_SPACING

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
