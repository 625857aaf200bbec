from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from discord_rtc.clock import SystemClock
from discord_rtc.server.websocket import Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio


class Echo:
    """A machine that repeats what it hears and closes when told to."""

    def __init__(self) -> None:
        self.closing: tuple[int, str] | None = None
        self.lost: list[int | None] = []
        self.drained = 0
        self.deadline: float | None = None
        self.output: list[str | bytes] = []

    def open(self, now: float) -> None:
        self.opened = now
        self.output.append("hello")

    def receive_text(self, data: str, now: float) -> None:
        assert now >= self.opened
        if data == "close":
            self.output.append("bye")
            self.closing = (4014, "é" * 100)
        elif data == "wait":
            self.deadline = now + 0.02
        else:
            self.output.append(data)

    def receive_binary(self, data: bytes, now: float) -> None:
        assert now >= self.opened
        self.output.append(data)

    def connection_lost(self, code: int | None, now: float) -> None:
        assert now >= self.opened
        self.lost.append(code)

    def messages_to_send(self) -> list[str | bytes]:
        output, self.output = self.output, []
        return output

    def next_timeout(self) -> float | None:
        return self.deadline

    def handle_timeout(self, now: float) -> None:
        assert self.deadline is not None
        assert now >= self.deadline
        self.deadline = None
        self.output.append("time")

    def drain(self) -> None:
        self.drained += 1


class House:
    """A websocket server that runs one machine for every connection."""

    def __init__(self) -> None:
        self.url = ""
        self.machine = Echo()
        self.links: list[Link] = []
        self.ended = asyncio.Event()

    async def handle(self, websocket: ServerConnection) -> None:
        link = Link(websocket, SystemClock())
        self.links.append(link)
        try:
            await link.run(self.machine, self.machine.drain)
        finally:
            self.ended.set()


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    this = House()
    async with serve(this.handle, "127.0.0.1", 0, compression=None, close_timeout=0.5) as server:
        host, port = next(iter(server.sockets)).getsockname()
        this.url = f"ws://{host}:{port}/"
        yield this


async def test_frames_go_in_and_out_in_order() -> None:
    async with house() as here, connect(here.url) as client:
        await client.send("one")
        await client.send(b"two")
        assert [await client.recv() for _ in range(3)] == ["hello", "one", b"two"]
        assert here.machine.drained >= 3


async def test_the_machine_is_told_how_the_connection_ended() -> None:
    async with house() as here:
        async with connect(here.url) as client:
            await client.close(4321)
        await here.ended.wait()
        assert here.machine.lost == [4321]


async def test_the_machine_can_close_after_its_last_words() -> None:
    async with house() as here, connect(here.url) as client:
        await client.send("close")
        assert [await client.recv() for _ in range(2)] == ["hello", "bye"]
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert (client.close_code, client.close_reason) == (4014, "é" * 61)  # 123 bytes at most
        await here.ended.wait()
        assert here.machine.lost == [4014]


async def test_the_machine_keeps_time() -> None:
    async with house() as here, connect(here.url) as client:
        await client.send("wait")
        assert [await client.recv() for _ in range(2)] == ["hello", "time"]


async def test_others_can_wake_the_machine() -> None:
    async with house() as here, connect(here.url) as client:
        assert await client.recv() == "hello"
        here.machine.output.append("from elsewhere")
        here.links[0].wake()
        assert await client.recv() == "from elsewhere"


async def test_a_cut_connection_is_the_end() -> None:
    async with house() as here, connect(here.url) as client:
        assert await client.recv() == "hello"
        here.links[0].abort()
        await here.ended.wait()
        assert here.machine.lost == [1006]


async def test_a_connection_that_is_gone_stops_the_writer() -> None:
    async with house() as here, connect(here.url) as client:
        assert await client.recv() == "hello"
        here.links[0].abort()
        here.machine.output.append("into the void")
        here.links[0].wake()
        await here.ended.wait()
        assert here.machine.lost == [1006]


async def test_a_client_that_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discord_rtc.server.websocket.SEND_TIMEOUT", 0.1)
    async with house() as here:
        # Nobody reads from this client's socket once its queue of frames is full.
        async with connect(here.url, max_queue=1, max_size=None, close_timeout=0.1):
            here.machine.output += ["x" * 1_000_000] * 30
            here.links[0].wake()
            async with asyncio.timeout(5):
                await here.ended.wait()
        assert here.machine.lost == [1006]
