"""A small main-gateway session for scripts and notebooks; a `SignalingPort`.

Bots that run on a full library use that library's session through an adapter instead.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from discord_rtc.clock import SystemClock
from discord_rtc.errors import (
    AuthenticationFailed,
    ConnectError,
    ConnectionLost,
    InvalidState,
    SignalingTimeout,
)
from discord_rtc.ids import UserId
from discord_rtc.protocol.main_gateway import (
    Dispatched,
    Established,
    GatewayFailed,
    GatewaySession,
)
from discord_rtc.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from discord_rtc.clock import Clock

_LOG = logging.getLogger("discord_rtc.gateway")

# At DEBUG websockets logs whole frames, tokens included.
_WEBSOCKETS_LOG = logging.getLogger("discord_rtc.gateway.websockets")
_WEBSOCKETS_LOG.setLevel(logging.CRITICAL)

DISCORD_URL = "wss://gateway.discord.gg"
GUILDS = 1 << 0
GUILD_VOICE_STATES = 1 << 7
DEFAULT_INTENTS = GUILDS | GUILD_VOICE_STATES
"""The voice states intent is needed to be told the own voice session id."""

_CLOSE_MEANINGS = {
    4004: "the gateway refused the token",
    4013: "the gateway refused the intents",
    4014: "the gateway does not grant these intents to this application",
}
"""Discord API docs, "Gateway Close Event Codes"."""


class Gateway:
    """One session on Discord's main gateway, or on a server that speaks like it.

    Args:
        token: Token of the account.
        url: WebSocket address without query.
        intents: Gateway intents; the voice states one is needed.
        secure: Whether the voice endpoints are TLS; by default, whether ``url`` is.
        timeout: Seconds for opening the socket, and then for the session to be established.
        clock: Source of ``now``.

    Use it as ``async with Gateway(token) as gateway``.
    """

    def __init__(
        self,
        token: str,
        *,
        url: str = DISCORD_URL,
        intents: int = DEFAULT_INTENTS,
        secure: bool | None = None,
        timeout: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        self._token = token
        self._url = url
        self._intents = intents
        self._secure = not url.startswith("ws://") if secure is None else secure
        self._timeout = timeout
        self._clock = clock or SystemClock()
        self._handlers: list[Callable[[str, Mapping[str, object]], None]] = []
        self._socket: ClientConnection | None = None
        self._machine: GatewaySession | None = None
        self._pump: Pump | None = None
        self._outbox: asyncio.Queue[str] = asyncio.Queue(256)
        self._dispatches: list[Dispatched] = []
        self._established: asyncio.Future[int] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def user_id(self) -> UserId:
        """The account of the session.

        Raises:
            InvalidState: Not connected yet.
        """
        user_id = self._machine.user_id if self._machine else None
        if user_id is None:
            raise InvalidState("the gateway is not connected: use `async with` or connect()")
        return UserId(user_id)

    @property
    def secure(self) -> bool:
        """Whether voice endpoints are ``wss://``."""
        return self._secure

    def subscribe(self, handler: Callable[[str, Mapping[str, object]], None]) -> Callable[[], None]:
        """Call ``handler(name, data)`` for every dispatch; the returned function ends it."""
        self._handlers.append(handler)

        def unsubscribe() -> None:
            if handler in self._handlers:
                self._handlers.remove(handler)

        return unsubscribe

    async def send(self, opcode: int, data: Mapping[str, object]) -> None:
        """Send one gateway command.

        Raises:
            ConnectionLost: The session is closed.
        """
        if self._pump is None or self._machine is None or self._task is None or self._task.done():
            raise ConnectionLost(None, "the gateway session is closed")
        self._pump.run(self._machine.send, opcode, data)

    async def connect(self) -> Gateway:
        """Open the session and wait for READY.

        Raises:
            AuthenticationFailed: The token was refused.
            SignalingTimeout: No answer in time.
            ConnectError: The gateway cannot be reached.
        """
        if self._task is not None:
            raise InvalidState("this gateway was connected before; make a new one")
        socket = await self._open()
        self._socket = socket
        self._machine = GatewaySession(
            self._token, self._intents, self._clock.now(), timeout=self._timeout
        )
        self._pump = Pump(self._machine, self._flush, self._clock)
        self._established = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(
            self._serve(socket), name="discord-rtc-gateway"
        )
        try:
            await self._established
        except BaseException:
            await self.aclose()
            raise
        return self

    async def aclose(self) -> None:
        """Close the session. Idempotent, bounded to 3 s."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=3)
        if self._established is not None and not self._established.done():
            self._established.cancel()

    async def __aenter__(self) -> Gateway:
        return await self.connect()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Gateway {self._url}>"

    async def _open(self) -> ClientConnection:
        try:
            async with asyncio.timeout(self._timeout):
                return await connect(
                    f"{self._url.rstrip('/')}/?v=10&encoding=json",
                    compression=None,
                    ping_interval=None,
                    max_size=1 << 24,  # a large bot's READY and GUILD_CREATE are megabytes
                    open_timeout=None,
                    close_timeout=1,
                    logger=_WEBSOCKETS_LOG,
                )
        except TimeoutError:
            raise SignalingTimeout(f"the gateway {self._url} did not answer") from None
        except (OSError, InvalidHandshake, InvalidURI) as error:
            reason = str(error) or type(error).__name__
            raise ConnectError(f"cannot reach the gateway {self._url}: {reason}") from error

    async def _serve(self, socket: ClientConnection) -> None:
        assert self._pump is not None
        assert self._machine is not None
        try:
            # Nothing is due yet, but the time for READY runs from now on.
            self._pump.run(self._machine.handle_timeout, self._clock.now())
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(socket), name="main-gateway-writer")
                async for data in socket:
                    text = data if isinstance(data, str) else ""
                    self._pump.run(self._machine.receive_text, text, self._clock.now())
                    self._hand_over()
                writer.cancel()
        except* ConnectionClosed:
            pass
        finally:
            self._pump.close()
            await _close(socket)
            self._fail(self._closed_error(socket))

    async def _write(self, socket: ClientConnection) -> None:
        while True:
            await socket.send(await self._outbox.get())

    def _flush(self, now: float) -> None:  # noqa: ARG002 - the pump's contract
        assert self._machine is not None
        for message in self._machine.messages_to_send():
            if self._outbox.full():
                _LOG.warning("! the gateway takes nothing any more, closing")
                self._abort()
                return
            self._outbox.put_nowait(message)
        while (event := self._machine.next_event()) is not None:
            match event:
                case Dispatched():
                    self._dispatches.append(event)
                case Established(user_id=user_id):
                    if self._established is not None and not self._established.done():
                        self._established.set_result(user_id)
                case GatewayFailed(reason=reason, timed_out=timed_out):
                    self._fail(SignalingTimeout(reason) if timed_out else ConnectError(reason))
                    self._abort()

    def _hand_over(self) -> None:
        # After the flush: handlers may send.
        dispatches, self._dispatches = self._dispatches, []
        for event in dispatches:
            for handler in tuple(self._handlers):
                try:
                    handler(event.name, event.data)
                except Exception:  # noqa: BLE001 - a bug of one handler does not end the session
                    _LOG.exception("! a handler of %s failed", event.name)

    def _fail(self, error: Exception) -> None:
        if self._established is not None and not self._established.done():
            self._established.set_exception(error)
        else:
            _LOG.info("= gateway session over: %s", error)

    def _abort(self) -> None:
        if self._socket is not None:
            self._socket.transport.abort()

    def _closed_error(self, socket: ClientConnection) -> Exception:
        code = socket.close_code
        if code in _CLOSE_MEANINGS:
            return AuthenticationFailed(_CLOSE_MEANINGS[code])
        if self._machine is None or self._machine.user_id is None:
            return ConnectError(f"the gateway closed the connection (close code {code})")
        return ConnectionLost(code, "the gateway closed the connection")


async def _close(socket: ClientConnection) -> None:
    try:
        async with asyncio.timeout(1.5):
            await socket.close(1000)
    except TimeoutError:
        pass
    finally:
        socket.transport.abort()  # however it went; nothing is lost after a close
