"""The two-way door to any Discord gateway library.

A port carries main-gateway commands out and dispatches in; it owns no voice state. The
library's own `discord_rtc.Gateway` is one, and every adapter is another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from discord_rtc.ids import UserId

    DispatchHandler = Callable[[str, Mapping[str, object]], None]
    """Called with the event name (``VOICE_STATE_UPDATE``, ...) and its ``d``."""


class SignalingPort(Protocol):
    """What this library needs of a main gateway session."""

    @property
    def user_id(self) -> UserId:
        """The account that this session belongs to."""
        ...

    @property
    def secure(self) -> bool:
        """Whether voice endpoints are ``wss://`` (Discord) or ``ws://`` (a local server)."""
        ...

    async def send(self, opcode: int, data: Mapping[str, object]) -> None:
        """Send one gateway command.

        Raises:
            ConnectionLost: The session is closed.
        """
        ...

    def subscribe(self, handler: DispatchHandler) -> Callable[[], None]:
        """Call ``handler`` for every dispatch; the returned function ends it."""
        ...
