"""The relay that stands for a long way to a TCP server."""

from __future__ import annotations

import asyncio

import pytest

from discord_rtc.cli.relay import Relay
from discord_rtc.clock import SystemClock

pytestmark = pytest.mark.asyncio

RTT = 0.2


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


async def test_bytes_arrive_unchanged_after_a_round_trip_and_a_handshake() -> None:
    clock = SystemClock()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Relay(("127.0.0.1", port), RTT, clock) as relay:
        begun = clock.now()
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        first = bytes(range(256)) * 400
        writer.write(first)
        assert await reader.readexactly(len(first)) == first
        answered = clock.now()
        assert answered - begun >= 2 * RTT
        writer.write(b"again")
        assert await reader.readexactly(5) == b"again"
        assert RTT <= clock.now() - answered < 2 * RTT
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_a_server_that_is_not_there_closes_the_connection() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with Relay(("127.0.0.1", port), 0.0, SystemClock()) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        assert await reader.read() == b""
        writer.close()


async def test_leaving_closes_what_is_open() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        async with Relay(("127.0.0.1", port), 0.0, SystemClock()) as relay:
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        assert await reader.read() == b""
        writer.close()
