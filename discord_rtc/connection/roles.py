"""What a voice session needs of those around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from discord_rtc.connection.events import Event
    from discord_rtc.connection.publication import Publication
    from discord_rtc.connection.users import RemoteUser
    from discord_rtc.protocol.dave.events import E2eeState


class People(Protocol):
    """The users of a connection; they outlive its sessions."""

    def ensure(self, user_id: int) -> RemoteUser:
        """The user, who joins now if not yet known."""
        ...

    def get(self, user_id: int) -> RemoteUser | None:
        """The user, or None."""
        ...

    def leave(self, user_id: int) -> None:
        """The user is gone."""
        ...

    def emit(self, event: Event) -> None:
        """Tell the connection's subscribers."""
        ...


class SessionPeople(People, Protocol):
    """The users of a connection, of whom a new session says who is still there."""

    def keep_only(self, user_ids: frozenset[int]) -> None:
        """Let everybody go who is not among these."""
        ...


class SessionOwner(Protocol):
    """The connection, as its sessions see it."""

    @property
    def people(self) -> SessionPeople:
        """The users of the connection."""
        ...

    def session_live(self) -> None:
        """Media can flow from now on."""
        ...

    def e2ee_changed(self, state: E2eeState, privacy_code: str | None, reason: str | None) -> None:
        """End-to-end encryption went on, off or to wait, or the code is another."""
        ...

    def path_failed(self, error: Exception) -> Exception:
        """No media path came up in this session; returns what to end it with."""
        ...

    def path_lost(self, error: Exception) -> None:
        """The media path of the live session died."""
        ...

    async def allow(self, publication: Publication) -> None:
        """Make sure that the gateway grants what is about to be sent."""
        ...

    async def publication_ended(self, publication: Publication, error: Exception | None) -> None:
        """A published track came to its end or failed."""
        ...


class SessionTimeouts(Protocol):
    """Deadlines in seconds, as the connection's options name them."""

    @property
    def connect(self) -> float:
        """From the opening of the socket to media."""
        ...

    @property
    def signaling(self) -> float:
        """Opening the socket."""
        ...
