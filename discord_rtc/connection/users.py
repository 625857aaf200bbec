"""The other people in a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.errors import NotReady
from discord_rtc.frames import MediaKind
from discord_rtc.media.track import RemoteTrack
from discord_rtc.protocol.opcodes import SpeakingFlags

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class RemoteUser:
    """A user of the same call.

    The tracks exist from the start and may be read at once: ``recv()`` waits until the
    user sends. They end when the user leaves. Nothing is decoded for a track that
    nobody reads.

    Attributes:
        id: The user's snowflake.
        microphone: Audio, ``recv()`` gives 20 ms ``av.AudioFrame``s, s16 stereo 48 kHz.
        camera: Video, ``recv()`` gives ``av.VideoFrame``s.
        speaking: Whether the user speaks right now.
        flags: How the user speaks or last spoke (voice, soundshare, priority).
        platform: Client platform: 0 desktop, 1 mobile, 2 Xbox, 3 PlayStation; None unknown.
        client_flags: The user's voice flags (clips, recording), None unknown.
    """

    def __init__(
        self,
        user_id: int,
        on_demand: Callable[[MediaKind, bool], None],
        fingerprint: Callable[[int], Awaitable[str]] | None = None,
    ) -> None:
        self.id = user_id
        self._fingerprint = fingerprint
        self.microphone = RemoteTrack(
            MediaKind.AUDIO,
            label=f"microphone of {user_id}",
            on_demand=lambda wanted: on_demand(MediaKind.AUDIO, wanted),
        )
        self.camera = RemoteTrack(
            MediaKind.VIDEO,
            label=f"camera of {user_id}",
            on_demand=lambda wanted: on_demand(MediaKind.VIDEO, wanted),
        )
        self.speaking = False
        self.flags = SpeakingFlags.NONE
        self.platform: int | None = None
        self.client_flags: int | None = None

    def track(self, kind: MediaKind) -> RemoteTrack:
        """The microphone or the camera."""
        return self.microphone if kind is MediaKind.AUDIO else self.camera

    async def fingerprint(self) -> str:
        """45 digits that both of us see when nobody is in between; takes some 0.3 s.

        They stay the same for as long as both have the same client, whatever becomes of the group;
        beyond that only where both have a persistent identity key.

        Raises:
            NotReady: The call is not encrypted (yet), or the user is no member of the group (yet).
        """
        if self._fingerprint is None:
            raise NotReady("this user is not in an encrypted call")
        return await self._fingerprint(self.id)

    def __repr__(self) -> str:
        return f"<RemoteUser {self.id}{' speaking' if self.speaking else ''}>"
