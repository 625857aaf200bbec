"""All voice connections of one gateway session."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from discord_rtc.client import RtcClient, connect
from discord_rtc.connection import supervisor
from discord_rtc.connection.options import ConnectionOptions, Timeouts
from discord_rtc.errors import ConnectError, ConnectionLost, InvalidState, UsageError
from discord_rtc.protocol.voice import VoiceCredentials
from discord_rtc.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def server() -> AsyncIterator[LocalServer]:
    async with LocalServer() as server:
        yield server


@pytest_asyncio.fixture
async def client(server: LocalServer) -> AsyncIterator[RtcClient]:
    before = asyncio.all_tasks()
    async with server.gateway(7) as gateway, RtcClient(gateway) as client:
        yield client

    def left() -> set[str]:
        names = {task.get_name() for task in asyncio.all_tasks() - before}
        return {name for name in names if name.startswith("discord-rtc")}

    for _ in range(50):
        if left():
            await asyncio.sleep(0.01)
    assert left() == set()


async def test_joining_gives_the_guild_s_connection(client: RtcClient, server: LocalServer) -> None:
    voice = await client.join(10, 20, self_mute=True)
    assert voice.state == "connected"
    assert client.connections == {10: voice}
    assert repr(client) == "<RtcClient with 1 connections>"
    assert await client.join(10, 20) is voice
    assert await client.join(10, 99) is voice  # as it is, in its channel
    [room] = server.rooms.values()
    assert (room.guild_id, room.channel_id, room.user_ids) == (10, 20, (7,))


async def test_a_connection_can_be_had_before_it_is_opened(client: RtcClient) -> None:
    voice = client.connection(10)
    assert voice.state == "new"
    assert client.connection(10) is voice
    assert await client.join(10, 20) is voice
    assert voice.state == "connected"


async def test_joining_twice_at_a_time_joins_once(client: RtcClient, server: LocalServer) -> None:
    one, two = await asyncio.gather(client.join(10, 20), client.join(10, 20))
    assert one is two
    assert server.counters["voice.opened"] == 1


async def test_guilds_and_private_calls_are_separate(client: RtcClient) -> None:
    voices = await asyncio.gather(client.join(10, 20), client.join(11, 20), client.join(None, 30))
    assert len(set(voices)) == 3
    assert set(client.connections) == {10, 11, 30}
    await client.connections[30].disconnect()
    assert set(client.connections) == {10, 11}


async def test_a_connection_that_is_over_is_replaced_by_the_next_join(client: RtcClient) -> None:
    voice = await client.join(10, 20)
    await voice.disconnect()
    assert client.connections == {}
    again = await client.join(10, 20)
    assert again is not voice
    assert again.state == "connected"


async def test_a_join_that_fails_leaves_no_connection(
    client: RtcClient, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "backoff", lambda *_: 0)

    def fail(_clock: object) -> None:
        raise ConnectError("no transport today")

    options = ConnectionOptions(transport=fail)  # type: ignore[arg-type]  # it never returns one
    with pytest.raises(ConnectError, match="no transport today"):
        await client.join(10, 20, options=options)
    assert client.connections == {}
    assert server.rooms == {}
    assert (await client.join(10, 20)).state == "connected"


async def test_a_join_that_is_cancelled_leaves_the_channel(
    client: RtcClient, server: LocalServer
) -> None:
    joining = asyncio.ensure_future(client.join(10, 20))
    await asyncio.sleep(0)
    joining.cancel()
    await asyncio.wait([joining])
    assert joining.cancelled()
    assert client.connections == {}
    voice = await client.join(10, 20)
    assert voice.state == "connected"
    assert len(server.rooms) == 1


async def test_wrong_options_leave_no_connection(client: RtcClient) -> None:
    with pytest.raises(UsageError, match="not 'pigeon'"):
        await client.join(10, 20, transport="pigeon")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not 'perhaps'"):
        await client.join(10, 20, dave="perhaps")  # type: ignore[arg-type]  # wrong on purpose
    assert client.connections == {}


async def test_a_private_call_needs_its_channel(client: RtcClient) -> None:
    with pytest.raises(InvalidState, match="needs a guild"):
        client.connection(None)


async def test_a_closed_client_has_left_everything_and_joins_nothing(
    client: RtcClient, server: LocalServer
) -> None:
    voices = await asyncio.gather(client.join(10, 20), client.join(11, 20))
    await asyncio.gather(client.aclose(), client.aclose())
    assert [voice.state for voice in voices] == ["closed", "closed"]
    assert client.connections == {}
    async with asyncio.timeout(2):
        for _ in iter(lambda: len(server.rooms), 0):
            await asyncio.sleep(0.005)
    with pytest.raises(InvalidState, match="this client is closed"):
        await client.join(10, 20)


async def test_a_gateway_that_is_gone_fails_the_join(server: LocalServer) -> None:
    gateway = server.gateway(7)
    async with gateway:
        client = RtcClient(gateway)
    with pytest.raises(ConnectionLost, match="gateway session is closed"):
        await client.join(10, 20)
    await client.aclose()


async def test_credentials_from_elsewhere_are_enough(server: LocalServer) -> None:
    entry = server.admit(7, 10, 20)
    credentials = VoiceCredentials(
        f"ws://{server.voice_endpoint}", entry.token, entry.session_id, 7, 10, 20
    )
    async with await connect(credentials) as voice:
        assert (voice.state, voice.id) == ("connected", 7)
    with pytest.raises(ConnectionLost):  # they are good for one session
        await connect(credentials)


async def test_endpoints_without_a_scheme_are_tls_unless_told_otherwise(
    server: LocalServer,
) -> None:
    entry = server.admit(7, 10, 20)
    credentials = VoiceCredentials(server.voice_endpoint, entry.token, entry.session_id, 7, 10, 20)
    options = ConnectionOptions(timeouts=Timeouts(signaling=1))
    with pytest.raises(ConnectError):
        await connect(credentials, options=options)
    async with await connect(credentials, secure=False, options=options) as voice:
        assert voice.state == "connected"
