"""The asyncio shell around one websocket and its sans-I/O session machine.

A reader feeds the machine, a writer sends what it has to say, the pump keeps its time. The
writer is woken rather than called, so that sessions can speak to each other in the middle of
an input. The bound on what a slow client may leave unread is the machine's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from websockets.exceptions import ConnectionClosed

from discord_rtc.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.asyncio.server import ServerConnection

    from discord_rtc.clock import Clock

SEND_TIMEOUT = 5.0
"""Seconds that a client may take to read one message, or to answer a close, before it is cut."""

_REASON_LIMIT = 123
"""Bytes of a close reason (RFC 6455 section 5.5: control frames hold 125, two are the code)."""


class SessionMachine(Protocol):
    """What both gateways' server machines have in common."""

    @property
    def closing(self) -> tuple[int, str] | None:
        """Code and reason with which the websocket has to be closed."""
        ...

    def open(self, now: float) -> None:
        """The websocket is there."""
        ...

    def receive_text(self, data: str, now: float) -> None:
        """A text frame came."""
        ...

    def receive_binary(self, data: bytes, now: float) -> None:
        """A binary frame came."""
        ...

    def connection_lost(self, code: int | None, now: float) -> None:
        """The websocket is gone."""
        ...

    def messages_to_send(self) -> list[str | bytes]:
        """What has to be written."""
        ...

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called."""
        ...

    def handle_timeout(self, now: float) -> None:
        """Time has come."""
        ...


class Link:
    """Runs one machine over one websocket until either ends.

    Args:
        websocket: The connection, handshake done.
        clock: Ticks like the running loop's time.
    """

    def __init__(self, websocket: ServerConnection, clock: Clock) -> None:
        self._websocket = websocket
        self._clock = clock
        self._awake = asyncio.Event()
        self._ended = False

    def wake(self) -> None:
        """The machine has something to send, or wants to close."""
        self._awake.set()

    def abort(self) -> None:
        """Cut the connection without any ceremony."""
        self._websocket.transport.abort()

    async def run(self, machine: SessionMachine, drain: Callable[[], None]) -> None:
        """Serve the client.

        Args:
            machine: Its session.
            drain: Handles the machine's events, after each of its inputs.
        """

        def flush(_now: float) -> None:
            drain()
            self.wake()

        pump = Pump(machine, flush, self._clock)
        try:
            pump.run(machine.open, self._clock.now())
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(machine), name="gateway-writer")
                await self._read(machine, pump)
                self._ended = True
                self.wake()
        finally:
            pump.close()
            pump.run(machine.connection_lost, self._websocket.close_code, self._clock.now())

    async def _read(self, machine: SessionMachine, pump: Pump) -> None:
        try:
            async for data in self._websocket:
                now = self._clock.now()
                if isinstance(data, str):
                    pump.run(machine.receive_text, data, now)
                else:
                    pump.run(machine.receive_binary, data, now)
        except ConnectionClosed:
            return  # the machine is told the code by `run`, however the connection ended

    async def _write(self, machine: SessionMachine) -> None:
        try:
            while not self._ended:
                await self._awake.wait()
                self._awake.clear()
                for message in machine.messages_to_send():
                    async with asyncio.timeout(SEND_TIMEOUT):
                        await self._websocket.send(message)
                if machine.closing is not None:
                    code, reason = machine.closing
                    async with asyncio.timeout(SEND_TIMEOUT):
                        await self._websocket.close(code, _shorten(reason))
                    return
        except ConnectionClosed:
            return  # the reader sees it too
        except TimeoutError:
            self.abort()


def _shorten(reason: str) -> str:
    return reason.encode()[:_REASON_LIMIT].decode(errors="ignore")
