"""A long way to a TCP server: a relay that keeps every byte back for half a round trip.

The kernel shakes hands with whoever connects before the relay hears of it, so that round trip is
added to the first bytes of the client instead: whoever waits for an answer sees the same.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from discord_rtc.netem import Impairment, Netem

if TYPE_CHECKING:
    from discord_rtc.clock import Clock

CHUNK = 1 << 16
"""Bytes read at a time."""


class Relay:
    """Passes TCP connections on to another port, delayed by a `Netem`.

    Args:
        target: Host and port of the server.
        rtt: Seconds there and back.
        clock: Ticks like the running loop's time.

    Attributes:
        port: Where it listens on 127.0.0.1, once entered.
    """

    def __init__(self, target: tuple[str, int], rtt: float, clock: Clock) -> None:
        self.port = 0
        self._target = target
        self._rtt = rtt
        self._clock = clock
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._serving):
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._carry(reader, upstream_writer, handshake=self._rtt))
                    group.create_task(self._carry(upstream_reader, writer))
            finally:
                await _close(upstream_writer)
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # one end is gone, or the relay is closed: so the other end is told
        finally:
            self._serving.discard(task)
            await _close(writer)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        handshake: float = 0.0,
    ) -> None:
        link = Netem(Impairment(delay=self._rtt / 2, queue_limit=1 << 16))
        arrived = asyncio.Event()
        ended = False
        opened = self._clock.now()

        async def deliver() -> None:
            while not ended or link.next_timeout() is not None:
                due = link.next_timeout()
                if due is None:
                    arrived.clear()
                    await arrived.wait()
                    continue
                await asyncio.sleep(max(0.0, due - self._clock.now()))
                for chunk in link.receive(max(due, self._clock.now())):
                    writer.write(chunk)
                await writer.drain()
            with suppress(OSError):
                writer.write_eof()

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            while chunk := await reader.read(CHUNK):
                link.send(chunk, max(self._clock.now(), opened + handshake))
                arrived.set()
            ended = True
            arrived.set()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
