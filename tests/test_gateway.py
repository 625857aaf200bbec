"""The small main-gateway session, against the local server and against scripts."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.server import serve

from discord_rtc.errors import (
    AuthenticationFailed,
    ConnectError,
    ConnectionLost,
    InvalidState,
    SignalingTimeout,
)
from discord_rtc.gateway import DISCORD_URL, Gateway
from discord_rtc.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from websockets.asyncio.server import ServerConnection

    Script = Callable[["Socket"], Awaitable[None]]

pytestmark = pytest.mark.asyncio


class Socket:
    """The server's end, as a script sees it."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection

    async def send(self, **message: object) -> None:
        await self.connection.send(json.dumps(message))

    async def hello(self, interval_ms: float = 41_250) -> None:
        await self.send(op=10, d={"heartbeat_interval": interval_ms})

    async def ready(self) -> None:
        await self.expect(2)
        await self.send(op=0, t="READY", s=1, d={"user": {"id": "7"}})

    async def expect(self, opcode: int) -> object:
        while True:
            message = json.loads(await self.connection.recv())
            if message["op"] == opcode:
                return message["d"]


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[str]:
    """A gateway that follows a script; gives its address."""

    async def handle(connection: ServerConnection) -> None:
        await script(Socket(connection))
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0, ping_interval=None) as server:
        [listening] = server.sockets
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}"


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Every task that begins inside is gone at the end."""
    before = asyncio.all_tasks()
    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, it: troubles.append(it))
    yield
    for _ in range(50):
        if asyncio.all_tasks() <= before:
            break
        await asyncio.sleep(0.01)
    assert (asyncio.all_tasks() - before, troubles) == (set(), [])


async def live(socket: Socket) -> None:
    await socket.hello()
    await socket.ready()


async def test_a_session_is_established_and_carries_commands_and_dispatches() -> None:
    async with nothing_left(), LocalServer() as server:
        told: list[tuple[str, Mapping[str, object]]] = []
        states = asyncio.Event()

        def handler(name: str, data: Mapping[str, object]) -> None:
            told.append((name, data))
            if name == "VOICE_SERVER_UPDATE":
                states.set()

        gateway = server.gateway(7, name="ann")
        with pytest.raises(InvalidState, match="not connected"):
            _ = gateway.user_id
        with pytest.raises(ConnectionLost, match="closed"):
            await gateway.send(4, {})
        unsubscribe = gateway.subscribe(handler)
        async with gateway:
            assert gateway.user_id == 7
            assert not gateway.secure
            assert server.users == {7: "ann"}
            await gateway.send(
                4, {"guild_id": "10", "channel_id": "20", "self_mute": False, "self_deaf": False}
            )
            async with asyncio.timeout(2):
                await states.wait()
            assert {name for name, _ in told} >= {"VOICE_STATE_UPDATE", "VOICE_SERVER_UPDATE"}
            unsubscribe()
            unsubscribe()
        with pytest.raises(ConnectionLost, match="closed"):
            await gateway.send(4, {})
        await gateway.aclose()


async def test_a_gateway_is_used_once() -> None:
    async with nothing_left(), scripted(live) as url:
        async with Gateway("t", url=url) as gateway:
            with pytest.raises(InvalidState, match="make a new one"):
                await gateway.connect()
        with pytest.raises(InvalidState, match="make a new one"):
            await gateway.connect()


@pytest.mark.parametrize(
    ("url", "secure", "expected"),
    [
        (DISCORD_URL, None, True),
        ("ws://x", None, False),
        ("ws://x", True, True),
        ("wss://x", False, False),
    ],
)
async def test_voice_is_tls_where_the_gateway_is(
    url: str, secure: bool | None, expected: bool
) -> None:
    gateway = Gateway("hush", url=url, secure=secure)
    assert gateway.secure is expected
    assert "hush" not in repr(gateway)


async def test_a_handler_that_fails_does_not_disturb_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[str] = []
    done = asyncio.Event()

    async def script(socket: Socket) -> None:
        await live(socket)
        await socket.send(op=0, t="ONE", s=2, d={})
        await socket.send(op=0, t="TWO", s=3, d={})

    def broken(name: str, _data: Mapping[str, object]) -> None:
        raise ZeroDivisionError(name)

    def handler(name: str, _data: Mapping[str, object]) -> None:
        told.append(name)
        if name == "TWO":
            done.set()

    async with nothing_left(), scripted(script) as url:
        gateway = Gateway("t", url=url)
        gateway.subscribe(broken)
        gateway.subscribe(handler)
        async with gateway, asyncio.timeout(2):
            await done.wait()
    assert told == ["READY", "ONE", "TWO"]
    assert "a handler of ONE failed" in caplog.text


async def test_a_handler_may_send() -> None:
    answered = asyncio.Event()

    async def script(socket: Socket) -> None:
        await live(socket)
        assert await socket.expect(4) == {"n": 1}
        answered.set()

    async with nothing_left(), scripted(script) as url:
        gateway = Gateway("t", url=url)
        sending: list[asyncio.Task[None]] = []

        def handler(name: str, _data: Mapping[str, object]) -> None:
            if name == "READY":
                sending.append(asyncio.ensure_future(gateway.send(4, {"n": 1})))

        gateway.subscribe(handler)
        async with gateway, asyncio.timeout(2):
            await answered.wait()


# What goes wrong


async def test_nobody_there_is_a_connect_error(unused_tcp_port: int) -> None:
    url = f"ws://127.0.0.1:{unused_tcp_port}"
    with pytest.raises(ConnectError, match=f"cannot reach the gateway {url}: "):
        await Gateway("t", url=url).connect()


async def test_an_address_that_is_none_is_a_connect_error() -> None:
    with pytest.raises(ConnectError, match="cannot reach the gateway gopher://x"):
        await Gateway("t", url="gopher://x").connect()


async def test_a_port_that_says_nothing_is_a_timeout() -> None:
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _r, w: writers.append(w), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with nothing_left():
        with pytest.raises(SignalingTimeout, match="did not answer"):
            await Gateway("t", url=f"ws://127.0.0.1:{port}", timeout=0.05).connect()
        for writer in writers:
            writer.close()
        silent.close()
        await silent.wait_closed()


async def say_nothing(socket: Socket) -> None:
    del socket


async def greet_only(socket: Socket) -> None:
    await socket.hello()


@pytest.mark.parametrize("script", [say_nothing, greet_only])
async def test_no_ready_is_a_timeout(script: Script) -> None:
    async with nothing_left(), scripted(script) as url:
        with pytest.raises(SignalingTimeout, match="did not send READY in time"):
            async with asyncio.timeout(2):
                await Gateway("t", url=url, timeout=0.05).connect()


async def test_a_refused_token_is_named() -> None:
    async with nothing_left(), LocalServer() as server:
        with pytest.raises(AuthenticationFailed, match="the gateway refused the token"):
            await Gateway("nonsense", url=server.gateway_url).connect()


async def test_an_invalid_session_is_a_refusal() -> None:
    async def script(socket: Socket) -> None:
        await socket.hello()
        await socket.expect(2)
        await socket.send(op=9, d=False)

    async with nothing_left(), scripted(script) as url:
        with pytest.raises(ConnectError, match="refused the session") as caught:
            await Gateway("t", url=url).connect()
    assert not isinstance(caught.value, SignalingTimeout)


@pytest.mark.parametrize("code", [1000, 4000])
async def test_a_close_before_ready_is_a_connect_error(code: int) -> None:
    async def script(socket: Socket) -> None:
        await socket.hello()
        await socket.expect(2)
        await socket.connection.close(code)

    async with nothing_left(), scripted(script) as url:
        with pytest.raises(ConnectError, match=f"close code {code}"):
            await Gateway("t", url=url).connect()


async def send_until_refused(gateway: Gateway) -> None:
    async with asyncio.timeout(2):
        while True:
            await gateway.send(4, {})
            await asyncio.sleep(0.005)


async def test_a_gateway_that_goes_away_makes_sending_fail() -> None:
    leave = asyncio.Event()

    async def script(socket: Socket) -> None:
        await live(socket)
        await leave.wait()
        socket.connection.transport.abort()

    async with nothing_left(), scripted(script) as url, Gateway("t", url=url) as gateway:
        await gateway.send(4, {})
        leave.set()
        with pytest.raises(ConnectionLost, match="closed"):
            await send_until_refused(gateway)


async def test_more_commands_than_the_socket_takes_cut_it() -> None:
    async with nothing_left(), scripted(live) as url, Gateway("t", url=url) as gateway:
        for _ in range(300):  # without ever letting the writer run
            await gateway.send(4, {})
        with pytest.raises(ConnectionLost, match="closed"):
            await send_until_refused(gateway)


@pytest.mark.parametrize("script", [say_nothing, greet_only, live])
async def test_connecting_can_be_cancelled_at_any_time(script: Script) -> None:
    async with nothing_left(), scripted(script) as url:
        for turns in (0, 1, 2, 5, 20, 100):
            gateway = Gateway("t", url=url)
            connecting = asyncio.ensure_future(gateway.connect())
            for _ in range(turns):
                await asyncio.sleep(0)
            connecting.cancel()
            await asyncio.wait([connecting])
            await gateway.aclose()


async def test_closing_while_somebody_connects_ends_the_wait() -> None:
    async with nothing_left(), scripted(say_nothing) as url:
        gateway = Gateway("t", url=url)
        connecting = asyncio.ensure_future(gateway.connect())
        await asyncio.sleep(0.05)
        await gateway.aclose()
        await asyncio.wait([connecting])
        assert isinstance(connecting.exception(), ConnectError)


async def test_no_log_of_any_level_quotes_a_frame(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with scripted(live) as url, Gateway("hush", url=url):
        pass
    ours = [it.getMessage() for it in caplog.records if it.name != "websockets.server"]
    assert len(ours) < len(caplog.records)
    assert not [message for message in ours if "hush" in message or "TEXT" in message]
