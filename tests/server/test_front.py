from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from discord_rtc.lab import Lab
from discord_rtc.server import LocalServer

if TYPE_CHECKING:
    from discord_rtc.server.voice_gateway import VoicePeer

pytestmark = pytest.mark.asyncio


def port_of(server: LocalServer) -> int:
    return int(server.voice_endpoint.rpartition(":")[2])


async def hello(url: str) -> object:
    """Opcode of the first message, or the code of a close without any."""
    async with connect(url) as websocket:
        try:
            return json.loads(await websocket.recv())["op"]
        except ConnectionClosed:
            return websocket.close_code


@pytest.mark.parametrize(
    ("path", "opcode"),
    [
        ("/gateway", 10),
        ("/gateway?v=10", 10),
        ("/?v=10&encoding=json", 10),
        ("/?v=8", 8),
        ("?v=4", 8),
        ("/somewhere/else?v=9", 8),
        ("/?v=3", 4012),
        ("/", 4012),
        ("/?v=", 4012),
        ("/?v=eight", 4012),
        ("/?v=-8", 4012),
        ("/?v=%D9%A8", 4012),
        ("/?v=99999999999999999999", 4012),
    ],
)
async def test_the_path_says_which_gateway_is_meant(path: str, opcode: int) -> None:
    async with LocalServer() as server:
        assert await hello(f"ws://{server.voice_endpoint}{path}") == opcode


async def http(server: LocalServer, request: str) -> tuple[bytes, dict[str, str], bytes]:
    """Status line, headers and body of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(f"{request} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    async with asyncio.timeout(3):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return status.encode(), dict(line.split(": ", 1) for line in lines), body


async def test_plain_http_gets_a_json_404() -> None:
    async with LocalServer() as server:
        status, headers, body = await http(server, "GET /api/v10/gateway")
        assert status.startswith(b"HTTP/1.1 404 ")
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body) == {"message": "404: Not Found", "code": 0}


async def test_the_page_is_served_beside_the_gateways() -> None:
    async with LocalServer() as server:
        assert server.page_url == f"http://{server.voice_endpoint}/"
        status, headers, body = await http(server, "GET /?auto=1")
        assert status.startswith(b"HTTP/1.1 200 ")
        assert f"ws://{server.voice_endpoint} " in headers["Content-Security-Policy"]
        assert body.startswith(b"<!doctype html>")
        assert len(body) == int(headers["Content-Length"])
        assert await hello(f"ws://{server.voice_endpoint}/?v=8") == 8


async def test_rooms_are_told_as_they_are_now() -> None:
    async with Lab() as lab:
        await lab.users(ann="udp", bob="udp")
        _, _, body = await http(lab.server, "GET /rooms.json")
        assert [
            (user["name"], user["transport"]) for user in json.loads(body)["rooms"][0]["users"]
        ] == [("ann", "udp"), ("bob", "udp")]


async def test_what_is_no_http_is_dropped() -> None:
    async with LocalServer() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")
        async with asyncio.timeout(3):
            assert b"101" not in (await reader.read())[:20]
        writer.close()
        assert await hello(server.gateway_url) == 10


async def test_compression_is_given_to_those_who_ask() -> None:
    async with (
        LocalServer() as server,
        connect(f"ws://{server.voice_endpoint}/?encoding=json&compress=zlib-stream") as websocket,
    ):
        frame = await websocket.recv()
        assert isinstance(frame, bytes)
        assert frame.endswith(b"\x00\x00\xff\xff")


async def test_a_bug_ends_one_connection_and_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_self: object, _peer: VoicePeer) -> None:
        raise RuntimeError("a bug")

    async with LocalServer() as server:
        monkeypatch.setattr("discord_rtc.server.voice_gateway.VoiceGateway.drain", fail)
        assert await hello(f"ws://{server.voice_endpoint}/?v=8") in {8, 1011}
        assert await hello(server.gateway_url) == 10
        assert server.counters["crashed"] == 1
    assert "this is a bug of the server" in caplog.text


async def test_closing_does_not_wait_for_clients_that_do_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("discord_rtc.server.front._CLOSE_TIMEOUT", 0.2)
    monkeypatch.setattr("discord_rtc.server.front._PEER_TIMEOUT", 0.4)
    server = LocalServer()
    await server.start()
    url = server.gateway_url
    # One has not finished its handshake, the other never answers a close.
    _, opening = await asyncio.open_connection("127.0.0.1", port_of(server))
    opening.write(b"GET /gateway HT")
    reader, silent = await asyncio.open_connection("127.0.0.1", port_of(server))
    silent.write(
        b"GET /gateway HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    began = time.monotonic()
    await server.aclose()
    assert time.monotonic() - began < 1.0
    with pytest.raises(ConnectionRefusedError):
        await hello(url)
    for writer in (opening, silent):
        writer.close()
