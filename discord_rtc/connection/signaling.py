"""Where a connection gets its voice servers from: a gateway port, or fixed credentials."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from discord_rtc.errors import ConnectionLost, SignalingTimeout, UsageError, VideoNotGranted
from discord_rtc.protocol.opcodes import VoiceCloseCode
from discord_rtc.protocol.signaling import (
    Disconnected,
    JoinSignaling,
    ServerAssigned,
    ServerUnavailable,
    TimedOut,
    VoiceStateChanged,
)
from discord_rtc.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from discord_rtc.clock import Clock
    from discord_rtc.connection.port import SignalingPort
    from discord_rtc.protocol.signaling import VoiceState
    from discord_rtc.protocol.voice import VoiceCredentials

_LOG = logging.getLogger("discord_rtc.connection")

VIDEO_GRANT_TIMEOUT = 5.0
"""Seconds for the gateway to answer an op 4 that asks for video."""

VIDEO_REFUSAL_GRACE = 0.5
"""Seconds after a voice state without video: it may answer an op 4 sent shortly before."""


LEAVE_TIMEOUT = 1.0
"""Seconds for the gateway to confirm that we left."""


class Signaling(Protocol):
    """What the supervisor needs to know about servers and the own voice state."""

    @property
    def user_id(self) -> int:
        """The own account."""
        ...

    @property
    def secure(self) -> bool:
        """Whether endpoints without a scheme are TLS."""
        ...

    @property
    def renewable(self) -> bool:
        """Whether `join` can be called again after a session ended."""
        ...

    def aim(self, channel_id: int | None, *, self_mute: bool, self_deaf: bool) -> None:
        """Which channel `join` shall ask for, with which flags.

        Raises:
            UsageError: No channel, where one is needed.
        """
        ...

    async def join(self) -> None:
        """Ask for a voice server anew; `credentials` gives the answer."""
        ...

    async def credentials(self) -> VoiceCredentials:
        """The newest assignment; waits for one that was not handed out before.

        Raises:
            SignalingTimeout: None came in time.
            ConnectionLost: The own user was taken out of the channel, or the server went away.
        """
        ...

    async def update(self, **changes: bool) -> None:
        """Change flags of the own voice state."""
        ...

    async def grant_video(self) -> None:
        """Make sure that video may be sent.

        Raises:
            VideoNotGranted: The gateway refused.
            SignalingTimeout: The gateway did not answer.
        """
        ...

    async def withdraw_video(self) -> None:
        """Show that video is not sent any more."""
        ...

    async def leave(self) -> None:
        """Leave the channel. Idempotent."""
        ...

    def close(self) -> None:
        """Stop listening to the gateway."""
        ...


class FixedSignaling:
    """Credentials that the caller got elsewhere; good for one session."""

    def __init__(self, credentials: VoiceCredentials, *, secure: bool = True) -> None:
        self._credentials = credentials
        self._used = False
        self.secure = secure

    @property
    def user_id(self) -> int:
        """The own account."""
        return self._credentials.user_id

    @property
    def renewable(self) -> bool:
        """Never: a session cannot be identified twice with the same credentials."""
        return False

    def aim(self, channel_id: int | None, *, self_mute: bool, self_deaf: bool) -> None:
        """The credentials are for one channel, and the voice state is somebody else's."""

    async def join(self) -> None:
        """Nothing to ask: there is no gateway."""

    async def credentials(self) -> VoiceCredentials:
        """The credentials, once; nothing newer ever comes."""
        if self._used:
            await asyncio.Event().wait()
        self._used = True
        return self._credentials

    async def update(self, **changes: bool) -> None:
        """Refused: the voice state belongs to whoever holds the gateway session."""
        raise UsageError(
            f"{', '.join(sorted(changes))} is set on the main gateway; connect() has none"
        )

    async def grant_video(self) -> None:
        """Whoever brought the credentials has to know."""

    async def withdraw_video(self) -> None:
        """As `grant_video`."""

    async def leave(self) -> None:
        """Closing the voice socket is all that can be done from here."""

    def close(self) -> None:
        """Nothing is held."""


class GatewaySignaling:
    """Joins one guild's voice, or a private call, through a gateway port.

    Args:
        port: The gateway session.
        guild_id: The guild, or None for a private call.
        clock: Source of ``now``.
        timeout: Seconds for the gateway to assign a voice server.
    """

    def __init__(
        self, port: SignalingPort, guild_id: int | None, clock: Clock, *, timeout: float = 10.0
    ) -> None:
        self._port = port
        self._clock = clock
        self._machine = JoinSignaling(port.user_id, guild_id, timeout=timeout)
        self._pump = Pump(self._machine, self._flush, clock)
        self._commands: list[tuple[int, dict[str, object]]] = []
        self._assigned: VoiceCredentials | None = None
        self._failure: Exception | None = None
        self._news = asyncio.Event()
        self._state: VoiceState | None = None
        self._state_news = asyncio.Event()
        self._target: dict[str, bool] = {}
        self._channel_id: int | None = None
        self._joining = False
        self._server_awaited = False
        self._left = asyncio.Event()
        self._unsubscribe: Callable[[], None] | None = port.subscribe(self._dispatch)

    @property
    def user_id(self) -> int:
        """The own account."""
        return self._port.user_id

    @property
    def secure(self) -> bool:
        """As the port says."""
        return self._port.secure

    @property
    def renewable(self) -> bool:
        """Always: another op 4 brings another assignment."""
        return True

    def aim(self, channel_id: int | None, *, self_mute: bool, self_deaf: bool) -> None:
        """Which channel `join` shall ask for, with which flags."""
        if channel_id is None:
            raise UsageError("connect() needs the channel to join")
        self._channel_id = channel_id
        self._target.update(self_mute=self_mute, self_deaf=self_deaf)

    async def join(self) -> None:
        """Send op 4, unless the gateway is going to assign another server by itself.

        Raises:
            ConnectionLost: The own user was taken out of the channel meanwhile.
        """
        if self._channel_id is None:
            raise _taken_out()
        self._joining = True
        if self._server_awaited:
            return
        self._assigned = None
        self._failure = None
        self._pump.run(self._machine.join, self._channel_id, now=self._clock.now(), **self._target)
        await self._send_commands()

    async def credentials(self) -> VoiceCredentials:
        """Both events of an attempt, in either order, make one assignment."""
        while True:
            if self._assigned is not None:
                assigned, self._assigned = self._assigned, None
                self._joining = False
                return assigned
            if self._failure is not None:
                failure, self._failure = self._failure, None
                self._joining = False
                raise failure
            self._news.clear()
            await self._news.wait()

    async def update(self, **changes: bool) -> None:
        """Send op 4 with changed flags for the channel we are in."""
        self._target.update(changes)
        self._pump.run(self._machine.update, now=self._clock.now(), **self._target)
        await self._send_commands()

    async def grant_video(self) -> None:
        """Set ``self_video`` and read what the gateway made of it."""
        self._state_news.clear()
        await self.update(self_video=True)
        try:
            async with asyncio.timeout(VIDEO_GRANT_TIMEOUT):
                await self._next_state()
        except TimeoutError:
            self._target["self_video"] = False
            raise SignalingTimeout("the gateway did not answer the request to send video") from None
        try:
            async with asyncio.timeout(VIDEO_REFUSAL_GRACE):
                while not self._shows_video():
                    await self._next_state()
        except TimeoutError:
            self._target["self_video"] = False
            raise VideoNotGranted(
                "the gateway refused self_video for this account: "
                "Discord does not let bots send camera or Go Live"
            ) from None

    async def withdraw_video(self) -> None:
        """Clear ``self_video``, if we are still in a channel that could show it."""
        self._target["self_video"] = False
        if self._channel_id is not None and self._machine.credentials is not None:
            try:
                await self.update(self_video=False)
            except ConnectionLost:
                _LOG.debug("= the gateway session is gone, nobody to tell about the video")

    async def leave(self) -> None:
        """Send op 4 with no channel, and wait for the gateway's word.

        What comes before that word answers older commands: whoever joins again at once must
        not take it for news.
        """
        if self._channel_id is None:
            return
        self._channel_id = None
        self._server_awaited = False
        self._left.clear()
        self._pump.run(self._machine.leave, self._clock.now())
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT):
                await self._send_commands()
                await self._left.wait()
        except ConnectionLost:
            _LOG.debug("= the gateway session is gone, nothing to leave")
        except TimeoutError:
            _LOG.debug("= the gateway does not confirm that we left")

    def close(self) -> None:
        """Stop listening."""
        self._pump.close()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    async def _next_state(self) -> None:
        await self._state_news.wait()
        self._state_news.clear()

    def _shows_video(self) -> bool:
        return self._state is not None and self._state.self_video

    def _dispatch(self, name: str, data: Mapping[str, object]) -> None:
        self._pump.run(self._machine.receive_event, name, data, self._clock.now())

    async def _send_commands(self) -> None:
        commands, self._commands = self._commands, []
        for opcode, data in commands:
            await self._port.send(opcode, data)

    def _flush(self, now: float) -> None:  # noqa: ARG002 - the pump's contract
        self._commands.extend(self._machine.commands_to_send())
        while (event := self._machine.next_event()) is not None:
            match event:
                case ServerAssigned(credentials=credentials):
                    self._server_awaited = False
                    self._assigned, self._failure = credentials, None
                    self._news.set()
                case ServerUnavailable():
                    self._unavailable()
                case VoiceStateChanged(state=state):
                    self._state = state
                    self._state_news.set()
                    if not self._joining:
                        self._channel_id = state.channel_id  # moved by somebody
                case Disconnected():
                    self._server_awaited = False
                    self._channel_id = None  # there is nothing to leave any more
                    self._left.set()
                    self._fail(_taken_out())
                case TimedOut():
                    self._fail(
                        SignalingTimeout(
                            "the gateway did not assign a voice server: is the channel full, "
                            "or is the permission to connect missing?"
                        )
                    )

    def _unavailable(self) -> None:
        """The server went away; the gateway will name another one, however long it takes."""
        _LOG.info("= the voice server went away, waiting for another one")
        self._server_awaited = True
        if not self._joining:
            self._fail(ConnectionLost(None, "the voice server went away"))

    def _fail(self, failure: Exception) -> None:
        self._assigned, self._failure = None, failure
        self._news.set()


def _taken_out() -> ConnectionLost:
    # The close code comes with it, on the voice server's socket, before or after.
    return ConnectionLost(VoiceCloseCode.DISCONNECTED, "taken out of the voice channel")
