"""The whole server over real loopback sockets, with raw clients of our own."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from functools import partial
from random import Random
from typing import TYPE_CHECKING, cast

import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from discord_rtc.crypto.modes import create_cipher
from discord_rtc.errors import InvalidState, UsageError
from discord_rtc.protocol.discovery import build_ping, build_request, parse_pong, parse_response
from discord_rtc.rtp.packet import RtpPacket, parse_rtp
from discord_rtc.rtp.rtcp import PictureLoss, parse_rtcp
from discord_rtc.server import AddressInUse, Faults, LocalServer
from discord_rtc.server.world import RoomKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from discord_rtc.crypto.cipher import TransportCipher

PlainServer = partial(LocalServer, dave="off")
"""The raw clients here do not encrypt."""

pytestmark = pytest.mark.asyncio

ANN, BOB, EVE = 1, 2, 3
GUILD, LOUNGE, OFFICE = 10, 20, 21
SILENCE = b"\xf8\xff\xfe"

Json = dict[str, object]


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002  asyncio's
        self.queue.put_nowait(data)


class Voice:
    """A raw voice client: websocket, UDP socket, cipher."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self.ready: Json = {}
        self.description: Json = {}
        self.seen: list[tuple[int, Json]] = []
        self.datagrams = Datagrams()
        self.transport: asyncio.DatagramTransport | None = None
        self.sequence = 0

    @property
    def ssrc(self) -> int:
        return cast("int", self.ready["ssrc"])

    async def send(self, opcode: int, data: object) -> None:
        await self.websocket.send(json.dumps({"op": opcode, "d": data}))

    async def until(self, opcode: int) -> Json:
        """The next message with this opcode; others before it go to ``seen``."""
        async with asyncio.timeout(3):
            while True:
                message = json.loads(await self.websocket.recv())
                if message["op"] == opcode:
                    return cast("Json", message["d"])
                self.seen.append((message["op"], message["d"]))

    async def closed(self) -> int | None:
        """Wait for the end; with which code it came."""
        async with asyncio.timeout(5):
            try:
                while True:
                    await self.websocket.recv()
            except ConnectionClosed:
                return self.websocket.close_code

    async def select(self, *, mode: str | None = None, codecs: list[Json] | None = None) -> None:
        loop = asyncio.get_running_loop()
        address = (cast("str", self.ready["ip"]), cast("int", self.ready["port"]))
        self.transport, _ = await loop.create_datagram_endpoint(
            lambda: self.datagrams, remote_addr=address
        )
        self.transport.sendto(build_request(self.ssrc))
        host, port = parse_response(await self.datagram(), self.ssrc)
        assert (host, port) == self.transport.get_extra_info("sockname")[:2]
        mode = mode or cast("list[str]", self.ready["modes"])[0]
        data = {"address": host, "port": port, "mode": mode}
        await self.send(1, {"protocol": "udp", "data": data, "codecs": codecs or []})
        self.description = await self.until(4)
        key = bytes(cast("list[int]", self.description["secret_key"]))
        self.cipher: TransportCipher = create_cipher(mode, key, side="client")

    @property
    def udp(self) -> asyncio.DatagramTransport:
        assert self.transport is not None
        return self.transport

    async def datagram(self) -> bytes:
        async with asyncio.timeout(3):
            return await self.datagrams.queue.get()

    async def rtp(self) -> RtpPacket:
        return parse_rtp(self.cipher.unprotect_rtp(await self.datagram()))

    def speak(self, payload: bytes = SILENCE) -> None:
        self.sequence += 1
        packet = RtpPacket(120, self.sequence, 960 * self.sequence, self.ssrc, payload)
        self.udp.sendto(self.cipher.protect_rtp(packet.to_bytes()))


class Gateway:
    """A raw main gateway client."""

    def __init__(self, websocket: ClientConnection, user_id: int) -> None:
        self.websocket = websocket
        self.user_id = user_id
        self.seen: list[str] = []

    async def send(self, opcode: int, data: object) -> None:
        await self.websocket.send(json.dumps({"op": opcode, "d": data}))

    async def until(self, name: str) -> Json:
        async with asyncio.timeout(3):
            while True:
                message = json.loads(await self.websocket.recv())
                self.seen.append(message["t"])
                if message["t"] == name:
                    return cast("Json", message["d"])

    async def join(
        self, channel_id: int | None, guild_id: int | None = GUILD, **more: object
    ) -> Json:
        """Ask for voice and return the fields that Identify needs, and the endpoint."""
        where = {
            "guild_id": None if guild_id is None else str(guild_id),
            "channel_id": None if channel_id is None else str(channel_id),
        }
        await self.send(4, where | {"self_mute": False, "self_deaf": False} | more)
        state = server = None
        async with asyncio.timeout(3):
            while state is None or server is None:
                message = json.loads(await self.websocket.recv())
                name, data = message["t"], message["d"]
                if name == "VOICE_STATE_UPDATE" and data["user_id"] == str(self.user_id):
                    state = data
                elif name == "VOICE_SERVER_UPDATE":
                    server = data
        return {
            "server_id": server["guild_id"] or server["channel_id"],
            "user_id": str(self.user_id),
            "session_id": state["session_id"],
            "token": server["token"],
            "endpoint": server["endpoint"],
        }


@asynccontextmanager
async def gateway(
    server: LocalServer, user_id: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Gateway]:
    async with connect(server.gateway_url, ssl=tls) as websocket:
        client = Gateway(websocket, user_id)
        await client.send(2, {"token": server.token_for(user_id), "intents": 0, "properties": {}})
        await client.until("READY")
        yield client


@asynccontextmanager
async def voice(
    credentials: Json, *, version: int = 8, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Voice]:
    """A voice session up to Ready."""
    scheme = "ws" if tls is None else "wss"
    url = f"{scheme}://{credentials['endpoint']}/?v={version}"
    async with connect(url, ssl=tls) as websocket:
        client = Voice(websocket)
        await client.until(8)
        identify = {key: value for key, value in credentials.items() if key != "endpoint"}
        await client.send(0, identify | {"video": True})
        client.ready = await client.until(2)
        try:
            yield client
        finally:
            if client.transport is not None:
                client.transport.close()


def admitted(server: LocalServer, user_id: int, channel_id: int = LOUNGE) -> Json:
    """Credentials without a main gateway."""
    granted = asdict(server.admit(user_id, GUILD, channel_id))
    scheme, _, endpoint = granted["endpoint"].partition("://")
    assert scheme == ("wss" if server.secure else "ws")
    return {key: str(value) for key, value in granted.items()} | {"endpoint": endpoint}


async def test_two_users_join_and_hear_each_other() -> None:
    async with (
        PlainServer() as server,
        gateway(server, ANN) as ann_gateway,
        gateway(server, BOB) as bob_gateway,
        voice(await ann_gateway.join(LOUNGE)) as ann,
        voice(await bob_gateway.join(LOUNGE)) as bob,
    ):
        await ann.select()
        await bob.select()
        assert await ann.until(11) == {"user_ids": ["1"]}
        assert await ann.until(11) == {"user_ids": ["2"]}
        assert await bob.until(11) == {"user_ids": ["1", "2"]}
        await ann.send(5, {"speaking": 1, "ssrc": ann.ssrc, "delay": 0})
        said = await bob.until(5)
        assert said == {"speaking": 1, "ssrc": ann.ssrc, "user_id": "1"}
        for number in range(20):
            ann.speak(bytes([number]))
        heard = [await bob.rtp() for _ in range(20)]
        assert [packet.payload[0] for packet in heard] == list(range(20))
        assert {packet.ssrc for packet in heard} == {ann.ssrc}
        assert server.rooms[RoomKey(GUILD, LOUNGE)].user_ids == (ANN, BOB)
        assert server.users == {ANN: "user-1", BOB: "user-2"}
        assert server.counters["media.rtp-out"] == 20
    assert server.counters["voice.closed.1000"] == 2


async def test_payload_types_are_the_receivers() -> None:
    opus: Json = {"name": "opus", "type": "audio", "priority": 1000, "payload_type": 111}
    async with (
        PlainServer() as server,
        voice(admitted(server, ANN)) as ann,
        voice(admitted(server, BOB)) as bob,
    ):
        await ann.select()
        await bob.select(codecs=[opus])
        await ann.send(5, {"speaking": 1, "ssrc": ann.ssrc, "delay": 0})
        ann.speak()
        assert (await bob.rtp()).payload_type == 111


async def test_whoever_shows_video_is_asked_for_a_keyframe_by_a_newcomer() -> None:
    async with PlainServer() as server, voice(admitted(server, ANN)) as ann:
        await ann.select()
        (stream,) = cast("list[Json]", ann.ready["streams"])
        video_ssrc = cast("int", stream["ssrc"])
        announced = {
            "audio_ssrc": ann.ssrc,
            "video_ssrc": video_ssrc,
            "rtx_ssrc": stream["rtx_ssrc"],
            "streams": [stream | {"active": True}],
        }
        await ann.send(12, announced)
        assert await ann.until(15) == {"any": 100}
        async with voice(admitted(server, BOB)) as bob:
            await bob.select()
            (request,) = parse_rtcp(ann.cipher.unprotect_rtcp(await ann.datagram()))
            assert isinstance(request, PictureLoss)
            assert request.media_ssrc == video_ssrc
            shown = await bob.until(12)
            assert (shown["user_id"], shown["video_ssrc"]) == ("1", video_ssrc)


async def test_deafened_users_are_not_sent_audio() -> None:
    async with (
        PlainServer() as server,
        gateway(server, BOB) as bob_gateway,
        voice(admitted(server, ANN)) as ann,
        voice(await bob_gateway.join(LOUNGE)) as bob,
    ):
        await ann.select()
        await bob.select()
        await ann.send(5, {"speaking": 1, "ssrc": ann.ssrc, "delay": 0})
        ann.speak(b"one")
        assert (await bob.rtp()).payload == b"one"
        where = {"guild_id": str(GUILD), "channel_id": str(LOUNGE)}
        await bob_gateway.send(4, where | {"self_deaf": True})
        await bob_gateway.until("VOICE_STATE_UPDATE")
        ann.speak(b"two")
        # The server reads its UDP socket in order, so this answer comes after the packet.
        ann.udp.sendto(build_ping(9))
        assert parse_pong(await ann.datagram()) == 9
        await bob_gateway.send(4, where | {"self_deaf": False})
        await bob_gateway.until("VOICE_STATE_UPDATE")
        ann.speak(b"three")
        assert (await bob.rtp()).payload == b"three"


@pytest.mark.parametrize("server_update_first", [False, True])
async def test_both_orders_of_the_two_events_can_be_had(*, server_update_first: bool) -> None:
    async with (
        PlainServer(server_update_first=server_update_first) as server,
        gateway(server, ANN) as ann,
    ):
        await ann.send(4, {"guild_id": "10", "channel_id": "20"})
        last = "VOICE_STATE_UPDATE" if server_update_first else "VOICE_SERVER_UPDATE"
        await ann.until(last)
        assert sorted(ann.seen[-2:]) == ["VOICE_SERVER_UPDATE", "VOICE_STATE_UPDATE"]


async def test_a_move_closes_the_old_session_and_opens_a_new_one() -> None:
    async with PlainServer() as server, gateway(server, ANN) as ann:
        first = await ann.join(LOUNGE)
        async with voice(first) as old:
            await old.select()
            second = await ann.join(OFFICE)
            assert await old.closed() == 4014
        assert second["token"] != first["token"]
        async with voice(second) as new:
            await new.select()
            assert list(server.rooms) == [(GUILD, OFFICE)]


async def test_leaving_on_the_main_gateway_closes_the_voice_session() -> None:
    async with PlainServer() as server, gateway(server, ANN) as ann:
        async with voice(await ann.join(LOUNGE)) as client:
            await client.select()
            await ann.send(4, {"guild_id": "10", "channel_id": None})
            assert await client.closed() == 4014
        assert (await ann.until("VOICE_STATE_UPDATE"))["channel_id"] is None
        assert server.rooms == {}


async def test_losing_the_main_gateway_closes_the_voice_session() -> None:
    async with PlainServer() as server, AsyncExitStack() as stack:
        ann = await stack.enter_async_context(gateway(server, ANN))
        async with voice(await ann.join(LOUNGE)) as client:
            await stack.aclose()
            assert await client.closed() == 4014


async def test_moderators_can_move_kick_and_crash() -> None:
    async with PlainServer() as server, gateway(server, ANN) as ann:
        async with voice(await ann.join(LOUNGE)) as client:
            server.move(ANN, GUILD, OFFICE)
            assert await client.closed() == 4014
        assert (await ann.until("VOICE_STATE_UPDATE"))["channel_id"] == str(OFFICE)
        await ann.until("VOICE_SERVER_UPDATE")
        async with voice(await ann.join(OFFICE)) as client:
            assert server.close_voice(ANN, GUILD)
            assert await client.closed() == 4015
            assert not server.close_voice(ANN, GUILD)
        async with voice(await ann.join(OFFICE)) as client:
            server.kick(ANN, GUILD)
            assert await client.closed() == 4014
        assert (await ann.until("VOICE_STATE_UPDATE"))["channel_id"] is None
        server.kick(ANN, GUILD)
        assert not server.close_voice(ANN, GUILD)


async def test_a_cut_websocket_leaves_the_user_where_he_is() -> None:
    async with LocalServer(dave="off") as server, gateway(server, ANN) as ann:
        async with voice(await ann.join(LOUNGE)) as client:
            await client.select()
            assert server.drop_voice(ANN, GUILD)
            assert await client.closed() == 1006
        assert server.rooms[RoomKey(GUILD, LOUNGE)].user_ids == (ANN,)
        assert not server.drop_voice(ANN, GUILD)
        assert not server.drop_voice(ANN, GUILD + 1)


async def test_video_is_granted_by_the_servers_owner() -> None:
    async with (
        PlainServer(grant_video=lambda user_id: user_id == BOB) as server,
        gateway(server, ANN) as ann,
        gateway(server, BOB) as bob,
    ):
        for client, granted in ((ann, False), (bob, True)):
            wish = {"guild_id": "10", "channel_id": "20", "self_video": True}
            await client.send(4, wish)
            state = await client.until("VOICE_STATE_UPDATE")
            assert state["self_video"] is granted


async def test_a_private_call_works_like_a_guild() -> None:
    async with (
        PlainServer() as server,
        gateway(server, ANN) as ann_gateway,
        voice(await ann_gateway.join(77, None)) as ann,
    ):
        await ann.select()
        assert list(server.rooms) == [(None, 77)]


async def test_guilds_and_names_can_be_prepared() -> None:
    async with PlainServer() as server:
        server.add_guild(GUILD, {LOUNGE: "lounge"})
        server.set_name(ANN, "ann")
        async with gateway(server, ANN) as ann:
            guild = await ann.until("GUILD_CREATE")
            assert guild["name"] == "guild-10"
            assert server.users == {ANN: "ann"}


async def test_stages_look_like_stages() -> None:
    stage, later = 30, 31
    async with LocalServer(stage_channels={stage}) as server:
        server.add_guild(GUILD, {LOUNGE: "lounge", later: "later"}, stages={later})
        async with gateway(server, ANN) as ann:
            guild = await ann.until("GUILD_CREATE")
            channels = {one["id"]: one["type"] for one in cast("list[Json]", guild["channels"])}
            assert channels == {"20": 2, "31": 13}
            async with gateway(server, BOB) as bob:
                await bob.join(stage, GUILD)
                assert (await ann.until("CHANNEL_CREATE"))["type"] == 13


@pytest.mark.parametrize("dave", ["required", "optional", "off"])
async def test_what_was_asked_for_about_encryption_can_be_read(dave: str) -> None:
    assert LocalServer(dave=dave).dave == dave


async def test_used_up_nonces_end_a_session_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    last = partial(create_cipher, first_nonce=0xFFFF_FFFF)
    monkeypatch.setattr("discord_rtc.server.udp_leg.create_cipher", last)
    async with (
        PlainServer() as server,
        voice(admitted(server, ANN)) as ann,
        voice(admitted(server, BOB)) as bob,
    ):
        await ann.select()
        await bob.select()
        await ann.send(5, {"speaking": 1, "ssrc": ann.ssrc, "delay": 0})
        for _ in range(3):
            ann.speak()
        assert await bob.closed() == 4006
        assert server.rooms[RoomKey(GUILD, LOUNGE)].user_ids == (ANN,)


@pytest.mark.parametrize("version", [4, 7, 9])
async def test_older_and_newer_versions_are_served(version: int) -> None:
    async with PlainServer() as server, voice(admitted(server, ANN), version=version) as ann:
        await ann.select()
        assert list(server.rooms) == [(GUILD, LOUNGE)]


async def test_only_the_offered_modes_can_be_selected() -> None:
    only = "aead_xchacha20_poly1305_rtpsize"
    async with PlainServer(modes=[only]) as server:
        async with voice(admitted(server, ANN)) as ann:
            assert ann.ready["modes"] == [only]
            udp = {"address": "127.0.0.1", "port": 9, "mode": "aead_aes256_gcm_rtpsize"}
            await ann.send(1, {"protocol": "udp", "data": udp})
            assert await ann.closed() == 4016
        async with voice(admitted(server, ANN)) as ann:
            await ann.select()
            assert ann.description["mode"] == only


async def test_a_silent_client_is_closed_after_two_intervals() -> None:
    async with (
        PlainServer(heartbeat_interval_ms=50) as server,
        voice(admitted(server, ANN)) as ann,
    ):
        assert await ann.closed() == 4009
        assert server.counters["voice.closed.4009"] == 1


async def test_faults_reach_the_media() -> None:
    faults = Faults()
    async with (
        PlainServer(faults=faults) as server,
        voice(admitted(server, ANN)) as ann,
        voice(admitted(server, BOB)) as bob,
    ):
        assert server.faults is faults
        await ann.select()
        await bob.select()
        await ann.send(5, {"speaking": 1, "ssrc": ann.ssrc, "delay": 0})
        await bob.until(5)
        faults.loss(1.0, seed=1)
        ann.speak(b"lost")
        await asyncio.sleep(0.05)
        faults.clear()
        ann.speak(b"kept")
        assert (await bob.rtp()).payload == b"kept"


async def test_start_and_aclose_can_be_repeated() -> None:
    server = PlainServer()
    await server.aclose()
    server = PlainServer()
    await server.start()
    url = server.gateway_url
    await server.start()
    assert server.gateway_url == url
    await server.aclose()
    await server.aclose()
    with pytest.raises(InvalidState):
        await server.start()


async def test_a_server_that_was_not_started_has_no_address() -> None:
    server = PlainServer()
    for name in ("gateway_url", "voice_endpoint", "media_address", "rooms", "users"):
        with pytest.raises(InvalidState):
            getattr(server, name)
    assert server.counters == {}
    assert not server.secure


async def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="dave is one of required, optional, off, not 'nonsense'"):
        LocalServer(dave="nonsense")
    for modes in ([], ["rot13"]):
        with pytest.raises(UsageError, match="modes"):
            PlainServer(modes=modes)
    with pytest.raises(UsageError, match="max_video_bps"):
        PlainServer(max_video_bps=0)


async def test_media_uses_the_same_port_when_it_is_free() -> None:
    async with PlainServer() as server:
        assert server.voice_endpoint == f"127.0.0.1:{server.media_address[1]}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with PlainServer(port=port) as server:
            assert server.voice_endpoint == f"127.0.0.1:{port}"
            assert server.media_address[1] != port


async def test_a_busy_port_is_a_typed_error() -> None:
    async with PlainServer() as first:
        port = first.media_address[1]
        second = PlainServer(port=port)
        with pytest.raises(AddressInUse, match=f"port {port} on 127.0.0.1 is already in use"):
            await second.start()
        await second.aclose()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_a_host_that_is_not_here_is_a_typed_error(host: str) -> None:
    server = PlainServer(host=host)
    with pytest.raises(UsageError, match="cannot listen on"):
        await server.start()


async def test_no_udp_port_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("discord_rtc.server.media_socket.MediaSocket.open", refuse)
    server = PlainServer()
    with pytest.raises(UsageError, match="Too many open files"):
        await server.start()
    await server.aclose()


async def test_closing_sends_1001_to_everybody() -> None:
    server = PlainServer()
    await server.start()
    async with gateway(server, ANN) as ann, voice(await ann.join(LOUNGE)) as client:
        await client.select()
        await server.aclose()
        assert await client.closed() == 1001
        with pytest.raises(ConnectionClosed):
            await ann.until("nothing")
        assert ann.websocket.close_code == 1001
    assert server.rooms == {}


def resources() -> tuple[int, int, int]:
    return len(asyncio.all_tasks()), psutil.Process().num_fds(), threading.active_count()


async def test_nothing_is_left_behind() -> None:
    async with PlainServer() as warm, voice(admitted(warm, ANN)) as client:
        await client.select()  # what is created once per process
    before = resources()
    for _ in range(3):
        server = PlainServer()
        await server.start()
        async with gateway(server, ANN) as ann, voice(await ann.join(LOUNGE)) as client:
            await client.select()
            await asyncio.sleep(0)
        async with gateway(server, BOB) as bob, voice(await bob.join(LOUNGE)) as client:
            await client.select()
            await server.aclose()
    await asyncio.sleep(0.05)
    assert resources() == before


async def test_junk_neither_kills_the_server_nor_disturbs_a_call() -> None:
    random = Random(7)
    opcodes = [*range(-1, 34), None, "0"]
    values: list[object] = [
        None,
        0,
        -1,
        2**70,
        "x",
        "1",
        [],
        {},
        [{}],
        {"ssrc": 1},
        {"token": "user-9"},
        True,
    ]

    def junk() -> str | bytes:
        kind = random.randrange(4)
        if kind == 0:
            return random.randbytes(random.randrange(300))
        if kind == 1:
            return random.randbytes(random.randrange(50)).decode("latin-1")
        opcode, data = random.choice(opcodes), random.choice(values)
        return json.dumps({"op": opcode, "d": data})

    async def attack(url: str) -> None:
        try:
            async with connect(url) as websocket:
                if random.random() < 0.5:
                    await websocket.send(json.dumps({"op": 2, "d": {"token": "user-9"}}))
                for _ in range(20):
                    await websocket.send(junk())
                async with asyncio.timeout(0.2):
                    await websocket.recv()
        except (ConnectionClosed, TimeoutError):
            return

    async with (
        PlainServer() as server,
        voice(admitted(server, ANN)) as ann,
        voice(admitted(server, BOB)) as bob,
    ):
        await ann.select()
        await bob.select()
        await ann.send(5, {"speaking": 1, "ssrc": ann.ssrc, "delay": 0})
        await bob.until(5)
        urls = [server.gateway_url, f"ws://{server.voice_endpoint}/?v=8"]
        for round_number in range(10):
            await asyncio.gather(*(attack(url) for url in urls for _ in range(5)))
            ann.udp.sendto(random.randbytes(random.randrange(1, 400)))
            ann.speak(bytes([round_number]))
            assert (await bob.rtp()).payload == bytes([round_number])
        await ann.send(3, {"t": 5, "seq_ack": 0})
        assert await ann.until(6) == {"t": 5}
        assert "crashed" not in server.counters


async def test_secrets_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("websockets.client").setLevel(logging.WARNING)  # the client is not ours
    async with PlainServer() as server, gateway(server, ANN) as ann:
        credentials = await ann.join(LOUNGE)
        async with voice(credentials) as client:
            await client.select()
            key = client.description["secret_key"]
            session = client.description["media_session_id"]
    assert "joined" in caplog.text
    for secret in (credentials["token"], credentials["session_id"], session, "user-1'"):
        assert str(secret) not in caplog.text
    assert repr(bytes(cast("list[int]", key))) not in caplog.text


async def test_a_start_that_is_cancelled_leaves_no_port_behind() -> None:
    server = PlainServer(tls=True)
    starting = asyncio.create_task(server.start())
    while not _bound(server):  # noqa: ASYNC110  there is no event for the middle of a start
        await asyncio.sleep(0)
    port = int(server.voice_endpoint.rpartition(":")[2])
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises(FileNotFoundError):
        server.ca_file.stat()
    async with PlainServer(port=port) as another:
        assert another.voice_endpoint.endswith(f":{port}")
    await server.aclose()


def _bound(server: LocalServer) -> bool:
    try:
        return bool(server.voice_endpoint)
    except InvalidState:
        return False


async def test_tls_serves_both_gateways(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    trust = ssl.create_default_context(cafile=str(certificate))
    async with PlainServer(host="localhost", ssl_context=context) as server:
        assert server.secure
        assert server.gateway_url.startswith("wss://localhost:")
        async with (
            gateway(server, ANN, trust) as ann,
            voice(await ann.join(LOUNGE), tls=trust) as client,
        ):
            await client.select()
            assert list(server.rooms) == [(GUILD, LOUNGE)]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for ``localhost``."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


async def test_a_wildcard_host_is_reachable_by_its_real_addresses() -> None:
    async with PlainServer(host="0.0.0.0") as server:
        assert server.gateway_url.startswith("ws://127.0.0.1:")
        async with gateway(server, ANN) as ann:
            credentials = await ann.join(LOUNGE)
            assert credentials["endpoint"] == server.voice_endpoint
            async with voice(credentials) as client:
                assert client.ready["ip"] == "127.0.0.1"
                await client.select()


async def test_ipv6_is_served() -> None:
    try:
        server = PlainServer(host="::1")
        await server.start()
    except UsageError:
        pytest.skip("this machine has no IPv6")
    async with server, voice(admitted(server, ANN)) as ann:
        assert server.gateway_url.startswith("ws://[::1]:")
        await ann.select()
