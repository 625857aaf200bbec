"""The users of a connection and its event bus: what outlives the voice sessions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from discord_rtc.connection.events import EventBus, UserJoined, UserLeft
from discord_rtc.connection.users import RemoteUser
from discord_rtc.errors import ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from discord_rtc.connection.events import Event
    from discord_rtc.frames import MediaKind


class CallPeople:
    """Everybody in the call but ourselves.

    Args:
        on_demand: Told ``(user_id, kind, wanted)`` when a track gets its first reader or
            loses its last one.
        fingerprint: Gives the verification digits of a user.
    """

    def __init__(
        self,
        on_demand: Callable[[int, MediaKind, bool], None],
        fingerprint: Callable[[int], Awaitable[str]] | None = None,
    ) -> None:
        self._on_demand = on_demand
        self._fingerprint = fingerprint
        self._users: dict[int, RemoteUser] = {}
        self._arrivals: dict[int, set[asyncio.Future[RemoteUser]]] = {}
        self._closed = False
        self.events = EventBus()

    @property
    def users(self) -> Mapping[int, RemoteUser]:
        """Users by id, as of now."""
        return dict(self._users)

    def ensure(self, user_id: int) -> RemoteUser:
        """The user, who joins now if not yet known."""
        user = self._users.get(user_id)
        if user is None:
            user = RemoteUser(
                user_id,
                lambda kind, wanted: self._on_demand(user_id, kind, wanted),
                self._fingerprint,
            )
            self._users[user_id] = user
            for future in self._arrivals.pop(user_id, ()):
                if not future.done():
                    future.set_result(user)
            self.emit(UserJoined(user_id))
        return user

    def get(self, user_id: int) -> RemoteUser | None:
        """The user, or None."""
        return self._users.get(user_id)

    def leave(self, user_id: int) -> None:
        """The user is gone; the tracks end."""
        user = self._users.pop(user_id, None)
        if user is not None:
            user.microphone.finish()
            user.camera.finish()
            self.emit(UserLeft(user_id))

    def keep_only(self, user_ids: frozenset[int]) -> None:
        """Let everybody go who is not among these (a new session told who is there)."""
        for user_id in self._users.keys() - user_ids:
            self.leave(user_id)

    async def arrival(self, user_id: int) -> RemoteUser:
        """The user, as soon as they are in the call.

        Raises:
            ConnectionLost: The connection ended first.
        """
        user = self._users.get(user_id)
        if user is not None:
            return user
        if self._closed:
            raise _ended_before(user_id)
        future: asyncio.Future[RemoteUser] = asyncio.get_running_loop().create_future()
        waiting = self._arrivals.setdefault(user_id, set())
        waiting.add(future)
        try:
            return await future
        finally:
            waiting.discard(future)
            # Others may wait for the user's return already, in another set.
            if not waiting and self._arrivals.get(user_id) is waiting:
                del self._arrivals[user_id]

    def emit(self, event: Event) -> None:
        """Tell all subscribers."""
        self.events.emit(event)

    def close(self) -> None:
        """Everybody goes, subscriptions end, waiters are released."""
        self._closed = True
        self.keep_only(frozenset())
        for user_id, waiting in self._arrivals.items():
            for future in waiting:
                if not future.done():
                    future.set_exception(_ended_before(user_id))
        self.events.close()


def _ended_before(user_id: int) -> ConnectionLost:
    return ConnectionLost(None, f"the connection ended before user {user_id} came")
