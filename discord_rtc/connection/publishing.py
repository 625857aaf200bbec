"""What a connection sends: its published tracks, through one voice session after another."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from discord_rtc.connection.events import PublishingEnded
from discord_rtc.connection.publication import Publication, Quality
from discord_rtc.errors import InvalidState, RtcError, UsageError
from discord_rtc.frames import MediaKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from discord_rtc.connection.events import Event
    from discord_rtc.connection.session import LiveSession
    from discord_rtc.connection.signaling import Signaling
    from discord_rtc.media.track import MediaTrack
    from discord_rtc.protocol.opcodes import SpeakingFlags

_LOG = logging.getLogger("discord_rtc.connection")


class Publisher:
    """Keeps the published tracks and hands them to whichever session is live.

    Args:
        signaling: Asked for the permission to send video.
        emit: Tells the connection's subscribers.

    Attributes:
        session: The live session, set and taken away by the connection.
    """

    def __init__(self, signaling: Signaling, emit: Callable[[Event], None]) -> None:
        self._signaling = signaling
        self._emit = emit
        self._publications: dict[MediaKind, Publication] = {}
        self._video_granted = False
        self._muted = False
        self.session: LiveSession | None = None

    @property
    def publications(self) -> Mapping[MediaKind, Publication]:
        """What is published; a session that begins sends it."""
        return self._publications

    async def publish(
        self, track: MediaTrack, kind: MediaKind, *, quality: Quality, flags: SpeakingFlags
    ) -> None:
        """Send a track in place of what was published as this kind; see `VoiceConnection.publish`.

        Raises:
            UsageError: A track of the wrong kind.
            VideoNotGranted: The gateway does not let this account send video.
        """
        if track.kind != kind:
            raise UsageError(f"a track of kind {kind} is needed here, not {track.kind}")
        publication = Publication(track, kind, quality=quality, flags=flags)
        publication.muted = self._muted and kind is MediaKind.AUDIO
        if self.session is not None:
            await self.allow(publication)
        self._publications[kind] = publication
        # Whichever session is live by now; one that comes later begins with it.
        if self.session is not None:
            self.session.start(publication)

    async def replace(self, track: MediaTrack, kind: MediaKind) -> None:
        """Change the source of what is published as this kind.

        Raises:
            InvalidState: Nothing is.
        """
        current = self._publications.get(kind)
        if current is None:
            raise InvalidState(f"no {kind} is published that could be replaced")
        await self.publish(track, kind, quality=current.quality, flags=current.flags)

    async def unpublish(self, kind: MediaKind) -> None:
        """Stop sending what is published as this kind, if anything is."""
        if self._publications.pop(kind, None) is None:
            return
        if self.session is not None:
            await self.session.stop(kind)
        await self._ended(kind)

    def mute(self, *, muted: bool) -> None:
        """Throw the microphone's frames away, or send them again."""
        self._muted = muted
        microphone = self._publications.get(MediaKind.AUDIO)
        if microphone is not None:
            microphone.muted = muted

    async def allow(self, publication: Publication) -> None:
        """Make sure that the gateway grants what is about to be sent.

        Raises:
            VideoNotGranted: It does not.
        """
        if publication.kind is MediaKind.VIDEO and not self._video_granted:
            await self._signaling.grant_video()
            self._video_granted = True

    async def publication_ended(self, publication: Publication, error: Exception | None) -> None:
        """A track came to its end by itself, or failed."""
        if error is not None:
            unexpected = None if isinstance(error, RtcError) else error
            _LOG.warning("= publishing %s ended: %s", publication.kind, error, exc_info=unexpected)
        if self._publications.get(publication.kind) is publication:
            del self._publications[publication.kind]
            await self._ended(publication.kind)
        self._emit(PublishingEnded(publication.kind, error))

    async def _ended(self, kind: MediaKind) -> None:
        if kind is MediaKind.VIDEO and self._video_granted:
            self._video_granted = False
            await self._signaling.withdraw_video()
