"""The WebSocket shell around the voice gateway machine; only it knows websockets here.

A websocket that breaks under a live session is replaced by another one, on which the machine
resumes the session. Nobody above notices: media flows on, messages come a little later.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from discord_rtc.errors import ConnectError, ConnectionLost, SignalingTimeout, UsageError
from discord_rtc.protocol.voice import (
    Closed,
    ResumeFailed,
    Resuming,
    SessionResumed,
    Stalled,
    VoiceSession,
)
from discord_rtc.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Mapping

    from discord_rtc.clock import Clock
    from discord_rtc.protocol.messages import SelectProtocol
    from discord_rtc.protocol.voice import Sendable, VoiceCredentials, VoiceEvent, VoiceOptions

_LOG = logging.getLogger("discord_rtc.protocol")

# At DEBUG websockets logs whole frames, tokens and keys included.
_WEBSOCKETS_LOG = logging.getLogger("discord_rtc.protocol.websockets")
_WEBSOCKETS_LOG.setLevel(logging.CRITICAL)

OUTBOX_BOUND = 512
"""Frames waiting for the socket. A socket that takes none for so long is dead; the
connection is closed rather than left to grow."""

RESUME_BACKOFF = 0.1
RESUME_BACKOFF_CAP = 2.0
"""Seconds between attempts to open another websocket; doubled from the one to the other, with
jitter. The first attempt is made at once; how long they go on is an option of the machine."""

MAX_MESSAGE = 1 << 20
"""Largest message accepted; Discord's own are a few kilobytes."""


class VoiceEventHandler(Protocol):
    """Where the machine's events go. Called on the event loop; may send."""

    def socket_open(self) -> None:
        """TCP, TLS and the upgrade are done, for the first websocket of the session."""
        ...

    def voice_event(self, event: VoiceEvent) -> None:
        """One event, in order."""
        ...


def voice_url(endpoint: str, version: int, *, secure: bool) -> str:
    """The voice gateway's URL.

    Args:
        endpoint: Host with optional port, kept verbatim; may carry ``ws://`` or ``wss://``.
        version: Gateway version.
        secure: Scheme when the endpoint names none.

    Raises:
        UsageError: The endpoint names another scheme or no host.

    Spec:
        Discord API docs, "Establishing a Voice Websocket Connection".
    """
    scheme, separator, rest = endpoint.partition("://")
    if not separator:
        scheme, rest = ("wss" if secure else "ws"), endpoint
    if scheme not in {"ws", "wss"}:
        raise UsageError(f"a voice endpoint starts with ws:// or wss://, not {scheme}://")
    url = f"{scheme}://{rest.rstrip('/')}/?v={version}"
    try:
        valid = bool(urlsplit(url).hostname)
        _ = urlsplit(url).port
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"not a voice endpoint: {endpoint!r}")
    return url


class VoiceGateway:
    """One voice session with one voice server, over one websocket after the other.

    Args:
        credentials: Where and as whom.
        options: Version and capabilities.
        secure: Whether an endpoint without a scheme is TLS.
        handler: Gets the events.
        clock: Source of ``now``.
    """

    def __init__(
        self,
        credentials: VoiceCredentials,
        options: VoiceOptions,
        *,
        secure: bool,
        handler: VoiceEventHandler,
        clock: Clock,
    ) -> None:
        self._url = voice_url(credentials.endpoint, options.version, secure=secure)
        self._handler = handler
        self._clock = clock
        self._machine = VoiceSession(credentials, options, now=clock.now())
        self._events: deque[VoiceEvent] = deque()
        self._handing_over = False
        self._pump = Pump(self._machine, self._flush, clock)
        self._outbox: asyncio.Queue[str | bytes] = asyncio.Queue(OUTBOX_BOUND)
        self._socket: ClientConnection | None = None
        self._counters = Counter({"resumes": 0, "resume-failures": 0})
        self._attempts = 0  # sockets opened, or tried to, since the session was last live
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret

    @property
    def counters(self) -> Mapping[str, int]:
        """``resumes``: websockets replaced; ``resume-failures``: attempts at it that failed."""
        return MappingProxyType(self._counters)

    def select_protocol(self, message: SelectProtocol) -> None:
        """Answer Ready with the chosen transport."""
        self._pump.run(self._machine.select_protocol, message, self._clock.now())
        self._hand_over()

    def send(self, message: Sendable) -> None:
        """Send when live; kept until then. Nothing happens once the session is over."""
        if not isinstance(self._machine.state, Closed):
            self._pump.run(self._machine.send, message, self._clock.now())
            self._hand_over()

    async def run(self, timeout: float) -> None:
        """Connect and serve the session until it ends, over more than one socket if need be.

        Args:
            timeout: Seconds for TCP, TLS and the upgrade of a socket.

        Raises:
            SignalingTimeout: No connection in time.
            ConnectError: The connection was refused.
            ConnectionLost: It closed, and the session could not be resumed or was refused
                a resume; carries the close code.
        """
        try:
            socket = await self._connect(timeout)
            self._handler.socket_open()
            while True:
                lost = await self._serve(socket)
                another = await self._reconnect(timeout)
                if another is None:
                    raise lost
                socket = another
        finally:
            self._pump.close()

    async def _serve(self, socket: ClientConnection) -> ConnectionLost:
        """Serve one socket until it closes, and tell the machine."""
        self._socket = socket
        try:
            self._pump.run(self._machine.socket_opened, self._clock.now())
            self._hand_over()
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(socket), name="gateway-writer")
                await self._read(socket)
                writer.cancel()
        except* ConnectionClosed:
            pass
        finally:
            await self._close(socket)
        code = socket.close_code
        if self._pump.run(self._machine.socket_lost, code, self._clock.now()):
            _LOG.info("= the voice websocket was lost (close code %s), resuming", code)
        self._hand_over()
        return ConnectionLost(
            code, f"the voice server closed the connection{_quoted(socket.close_reason)}"
        )

    async def _reconnect(self, timeout: float) -> ClientConnection | None:
        """Open another socket for the same session. None once that is over."""
        if self._attempts > 0:  # the last socket was opened, and closed again without a resume
            await self._failed_to_resume()
        while isinstance(state := self._machine.state, Resuming):
            self._attempts += 1
            left = max(0.0, state.deadline - self._clock.now())
            try:
                socket = await self._connect(min(timeout, left))
            except ConnectError as error:
                _LOG.debug("= no voice websocket: %s", error)
                await self._failed_to_resume()
            else:
                self._discard_outbox()
                return socket
        return None

    async def _failed_to_resume(self) -> None:
        self._counters["resume-failures"] += 1
        if isinstance(state := self._machine.state, Resuming):
            ceiling = min(RESUME_BACKOFF_CAP, RESUME_BACKOFF * float(2**self._attempts))
            left = max(0.0, state.deadline - self._clock.now())
            await asyncio.sleep(min(left, self._rng.uniform(ceiling / 2, ceiling)))

    def _discard_outbox(self) -> None:
        # It was for the old socket; what the session still wants to say, the machine has.
        while not self._outbox.empty():
            self._outbox.get_nowait()

    async def _connect(self, timeout: float) -> ClientConnection:
        try:
            async with asyncio.timeout(timeout):
                # Discord's voice gateway knows neither compression nor pings of ours.
                return await connect(
                    self._url,
                    compression=None,
                    ping_interval=None,
                    max_size=MAX_MESSAGE,
                    open_timeout=None,
                    close_timeout=1,
                    logger=_WEBSOCKETS_LOG,
                )
        except TimeoutError:
            raise SignalingTimeout(
                f"the voice server {self._host()} did not answer within {timeout:g} s"
            ) from None
        except (OSError, InvalidHandshake, InvalidURI) as error:
            reason = str(error) or type(error).__name__
            raise ConnectError(f"cannot reach the voice server {self._host()}: {reason}") from error

    async def _read(self, socket: ClientConnection) -> None:
        async for data in socket:
            now = self._clock.now()
            if isinstance(data, str):
                self._pump.run(self._machine.receive_text, data, now)
            else:
                self._pump.run(self._machine.receive_binary, data, now)
            self._hand_over()

    async def _write(self, socket: ClientConnection) -> None:
        while True:
            await socket.send(await self._outbox.get())

    async def _close(self, socket: ClientConnection) -> None:
        try:
            async with asyncio.timeout(1):
                while not self._outbox.empty():
                    await socket.send(self._outbox.get_nowait())
                await socket.close(1000)
        except (TimeoutError, ConnectionClosed):
            pass
        finally:
            socket.transport.abort()  # however it went; nothing is lost after a close

    def _flush(self, now: float) -> None:  # noqa: ARG002 - the pump's contract
        for message in self._machine.messages_to_send():
            try:
                self._outbox.put_nowait(message)
            except asyncio.QueueFull:
                _LOG.warning("! the voice gateway takes nothing any more, closing")
                if self._socket is not None:
                    self._socket.transport.abort()
                return
        while (event := self._machine.next_event()) is not None:
            self._events.append(event)
        if self._events and asyncio.current_task() is None:
            # Woken by the timer, nobody else hands the events over.
            asyncio.get_running_loop().call_soon(self._hand_over)

    def _hand_over(self) -> None:
        # After the flush, because handlers answer with new input; never nested, so that
        # events stay in order.
        if self._handing_over:
            return
        self._handing_over = True
        try:
            while self._events:
                event = self._events.popleft()
                self._note(event)
                self._handler.voice_event(event)
        finally:
            self._handing_over = False

    def _note(self, event: VoiceEvent) -> None:
        match event:
            case SessionResumed(away=away):
                self._attempts = 0
                self._counters["resumes"] += 1
                _LOG.info("= the voice session was resumed after %.2f s", away)
            case Stalled() | ResumeFailed() if self._socket is not None:
                self._socket.transport.abort()

    def _host(self) -> str:
        return urlsplit(self._url).netloc


def _quoted(reason: str | None) -> str:
    return f" ({reason})" if reason else ""
