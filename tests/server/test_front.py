from __future__ import annotations

import asyncio
import json
import ssl
import time
from typing import TYPE_CHECKING, cast

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from discord_rtc.errors import InvalidState
from discord_rtc.lab import Lab
from discord_rtc.server import AddressInUse, LocalServer

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

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
        ("/gateway/?v=10", 10),
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


async def dispatched(websocket: ClientConnection, name: str) -> dict[str, object]:
    """What comes with the next event of that name."""
    async with asyncio.timeout(3):
        while True:
            message = json.loads(await websocket.recv())
            if message["t"] == name:
                return cast("dict[str, object]", message["d"])


async def http(
    server: LocalServer, request: str, *headers: str
) -> tuple[bytes, dict[str, str], bytes]:
    """Status line, headers and body of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    lines = [f"{request} HTTP/1.1", "Host: here", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    async with asyncio.timeout(3):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return status.encode(), dict(line.split(": ", 1) for line in lines), body


async def test_plain_http_gets_a_json_404() -> None:
    async with LocalServer() as server:
        status, headers, body = await http(server, "GET /somewhere")
        assert status.startswith(b"HTTP/1.1 404 ")
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body) == {"message": "404: Not Found", "code": 0}


async def test_bots_find_discords_interface_below_api() -> None:
    async with LocalServer() as server:
        assert server.api_url == f"http://{server.voice_endpoint}/api/v10"
        status, headers, body = await http(server, "GET /api/v10/gateway?with=query")
        assert status.startswith(b"HTTP/1.1 200 ")
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body) == {"url": server.gateway_url}
        status, _, _ = await http(server, "GET /api/v10/users/@me")
        assert status.startswith(b"HTTP/1.1 401 ")
        asked = "GET /api/v10/users/@me", "Authorization: Bot user-1"
        _, _, body = await http(server, *asked)
        assert json.loads(body)["id"] == "1"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_requests_that_would_change_something_are_refused(method: str) -> None:
    async with LocalServer() as server:
        asked = f"{method} /api/v10/channels/20", "Authorization: Bot user-1"
        status, _, body = await http(server, *asked)
        assert status.startswith(b"HTTP/1.1 405 ")
        assert json.loads(body) == {"message": "405: Method Not Allowed", "code": 0}
        # What websockets does not parse is a request with a body: it is dropped.
        assert (await http(server, *asked, "Content-Length: 2"))[0] == b""
        assert await hello(server.gateway_url) == 10


async def test_a_client_is_sent_to_the_port_that_it_came_to() -> None:
    async with LocalServer(tls=True) as server:
        trust = ssl.create_default_context(cafile=server.ca_file)
        plain, secure = server.gateway_url, server.tls_gateway_url
        assert plain.startswith("ws://")
        assert secure.startswith("wss://")
        assert server.api_url == f"{secure.replace('wss', 'https').removesuffix('gateway')}api/v10"
        for url, tls in ((plain, None), (secure, trust)):
            async with connect(url, ssl=tls) as websocket:
                login = {"op": 2, "d": {"token": server.token_for(1)}}
                await websocket.send(json.dumps(login))
                ready = await dispatched(websocket, "READY")
                assert ready["resume_gateway_url"] == url
                channel = {"guild_id": "10", "channel_id": "20"}
                await websocket.send(json.dumps({"op": 4, "d": channel}))
                endpoint = (await dispatched(websocket, "VOICE_SERVER_UPDATE"))["endpoint"]
                assert f"//{endpoint}/gateway" in url
            async with connect(f"{url.removesuffix('gateway')}?v=8", ssl=tls) as websocket:
                assert json.loads(await websocket.recv())["op"] == 8


async def test_nobody_trusts_the_tls_port_by_chance() -> None:
    async with LocalServer(tls=True) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await hello(server.tls_gateway_url)
        ca_file = server.ca_file
        assert ca_file.is_file()
    assert not ca_file.parent.exists()


async def test_a_tls_port_that_is_taken_takes_nothing_else() -> None:
    async with LocalServer() as other:
        server = LocalServer(tls=True, tls_port=port_of(other))
        with pytest.raises(AddressInUse):
            await server.start()
        async with LocalServer(tls=True) as third:
            assert third.tls_gateway_url != other.gateway_url


async def test_without_tls_there_is_nothing_to_trust() -> None:
    async with LocalServer() as server:
        with pytest.raises(InvalidState, match="tls=True"):
            _ = server.ca_file
        with pytest.raises(InvalidState, match="tls=True"):
            _ = server.tls_gateway_url


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


async def test_who_asks_for_another_compression_gets_text() -> None:
    # discord.py asks for zstd-stream where it finds zstandard, and reads text all the same.
    async with (
        LocalServer() as server,
        connect(f"ws://{server.voice_endpoint}/?encoding=json&compress=zstd-stream") as websocket,
    ):
        assert json.loads(await websocket.recv())["op"] == 10


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
