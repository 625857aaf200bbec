"""What one session sends: its publications, each with the task that runs it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from discord_rtc.connection.sending import send_track
from discord_rtc.frames import MediaKind
from discord_rtc.protocol.opcodes import SpeakingFlags

if TYPE_CHECKING:
    from discord_rtc.connection.announcing import Announcements
    from discord_rtc.connection.encrypting import EncryptingLink
    from discord_rtc.connection.publication import Publication
    from discord_rtc.connection.roles import SessionOwner


class Outgoing:
    """Runs the publications of one live session.

    Args:
        owner: Grants them, and is told of their end.
        encrypting: Takes their frames.
        announcements: Tells the server about them.
        group: Holds their tasks.
    """

    def __init__(
        self,
        owner: SessionOwner,
        encrypting: EncryptingLink,
        announcements: Announcements,
        group: asyncio.TaskGroup,
    ) -> None:
        self._owner = owner
        self._encrypting = encrypting
        self._announcements = announcements
        self._group = group
        self._sending: dict[MediaKind, asyncio.Task[None]] = {}
        self._publications: dict[MediaKind, Publication] = {}

    def start(self, publication: Publication) -> None:
        """Begin to send a publication, in place of one of its kind.

        Nothing happens when the session is ending: the next one begins with it.
        """
        kind = publication.kind
        previous = self._sending.get(kind)
        sending = self._send(publication, previous)
        try:
            self._sending[kind] = self._group.create_task(sending, name=f"send:{kind}")
        except RuntimeError:  # the group is being cancelled
            sending.close()
            return
        self._publications[kind] = publication
        if previous is not None:
            previous.cancel()

    async def stop(self, kind: MediaKind) -> None:
        """Stop sending what is published as this kind."""
        publication = self._publications.pop(kind, None)
        if publication is None:
            return
        task = self._sending[kind]
        publication.stopped = True
        task.cancel()
        await asyncio.wait([task])
        self._encrypting.discard(publication)
        if self._sending.get(kind) is task:  # nothing else was published meanwhile
            del self._sending[kind]
            self._withdraw(kind)

    def keyframe_requested(self) -> None:
        """Somebody cannot decode our video."""
        for publication in self._publications.values():
            publication.keyframe_requested()

    async def _send(self, publication: Publication, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        error: Exception | None = None
        try:
            await self._owner.allow(publication)
            await send_track(publication, self._encrypting.outlet(publication), self._announcements)
        except Exception as caught:  # noqa: BLE001 - a failing track ends its own pipeline only
            error = caught
        if self._publications.get(publication.kind) is publication:
            del self._publications[publication.kind]
            del self._sending[publication.kind]
            self._withdraw(publication.kind)
            await self._owner.publication_ended(publication, error)

    def _withdraw(self, kind: MediaKind) -> None:
        if kind is MediaKind.AUDIO:
            self._announcements.speaking(SpeakingFlags.NONE)
        else:
            self._announcements.video(None)
