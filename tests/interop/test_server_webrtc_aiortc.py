"""Stock aiortc peers in calls of the local server: nothing of theirs is patched or subclassed.

The signalling is done by hand over a raw voice websocket, the way the web client does it. What
arrives is judged by the stamps in pictures and sound.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import av
import pytest
import pytest_asyncio
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from websockets.asyncio.client import connect

from discord_rtc import Codec, ConnectionOptions, TestPattern, TestTone, read_stamp
from discord_rtc.errors import UnsupportedMedia
from discord_rtc.frames import MediaKind
from discord_rtc.lab import CHANNEL_ID, GUILD_ID, Lab
from discord_rtc.protocol.sdp import reduce_offer
from discord_rtc.server import LocalServer
from discord_rtc.transport.description import RemoteSource, expand_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from websockets.asyncio.client import ClientConnection

    Receive = Callable[[], Awaitable[object]]

pytestmark = [pytest.mark.interop, pytest.mark.asyncio]

STRANGER, OTHER = 9001, 9002
SIZE = (320, 240)
FPS = 15
PROFILE = "42e01f"

Json = dict[str, object]


def own_address() -> str:
    """An address of this machine that is not loopback, which aioice does not gather.

    Nothing is sent: connecting a UDP socket only looks at the routing table.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))  # TEST-NET-2, RFC 5737
        address: str = probe.getsockname()[0]
    return address


@pytest_asyncio.fixture
async def lab() -> AsyncIterator[Lab]:
    async with Lab(LocalServer(host=own_address(), dave="off")) as made:
        yield made


class StockPeer:
    """An aiortc peer connection and the voice websocket that it was negotiated over."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        # No STUN servers: the default one is Google's.
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.tracks: dict[str, MediaStreamTrack] = {}
        self.pc.on("track", lambda track: self.tracks.__setitem__(track.kind, track))
        self.sources: dict[MediaKind, RemoteSource] = {}
        self.description: Json = {}
        self.pictures = TestPattern(*SIZE, FPS)
        self.sound = TestTone()

    @property
    def dtls_role(self) -> str:
        """Nothing public tells it."""
        transport = self.pc.getSenders()[0].transport
        return str(transport._role)  # noqa: SLF001

    async def send(self, opcode: int, data: object) -> None:
        await self.websocket.send(json.dumps({"op": opcode, "d": data}))

    async def until(self, opcode: int) -> Json:
        """The next message of that kind. Streams of others are noted on the way."""
        async with asyncio.timeout(5):
            while True:
                message = json.loads(await self.websocket.recv())
                self._note(message["op"], message["d"])
                if message["op"] == opcode:
                    return cast("Json", message["d"])

    def _note(self, opcode: int, data: Json) -> None:
        if opcode == 5:
            kind, ssrc = MediaKind.AUDIO, cast("int", data["ssrc"])
        elif opcode == 12 and data["video_ssrc"]:
            kind, ssrc = MediaKind.VIDEO, cast("int", data["video_ssrc"])
        else:
            return
        user_id = int(cast("str", data["user_id"]))
        self.sources[kind] = RemoteSource(user_id, kind, ssrc)

    async def identify(self, user_id: int, session_id: str, token: str) -> None:
        await self.until(8)
        stream = {"type": "video", "rid": "100", "quality": 100}
        await self.send(
            0,
            {
                "server_id": str(GUILD_ID),
                "user_id": str(user_id),
                "session_id": session_id,
                "token": token,
                "video": True,
                "streams": [stream],
            },
        )
        await self.until(2)

    async def select(self, codec: Codec, *, whole: bool = False, passive: bool = False) -> None:
        """Offer what this peer can do and announce what it will send."""
        self.pc.addTrack(self.sound)
        self.pc.addTrack(self.pictures)
        (video,) = [one for one in self.pc.getTransceivers() if one.kind == "video"]
        wanted = {f"video/{codec.value}", "video/rtx"}
        capabilities = RTCRtpSender.getCapabilities("video").codecs
        video.setCodecPreferences(
            [
                one
                for one in capabilities
                # Of its two profiles of H.264 the one that the answer takes.
                if one.mimeType in wanted
                and one.parameters.get("profile-level-id", PROFILE) == PROFILE
            ]
        )
        await self.pc.setLocalDescription(await self.pc.createOffer())
        self.offer = self.pc.localDescription.sdp
        said = self.offer
        if passive:
            said = said.replace("a=setup:actpass", "a=setup:passive")
        self.passive = passive
        data = said if whole else reduce_offer(said)
        codecs = [] if whole else self._codecs(codec)
        await self.send(1, {"protocol": "webrtc", "data": data, "sdp": data, "codecs": codecs})
        self.description = await self.until(4)
        await self._announce()

    def _codecs(self, codec: Codec) -> list[Json]:
        """The list of the web client, out of what aiortc offers."""
        numbers = {
            name.lower(): int(number)
            for number, name in re.findall(r"a=rtpmap:(\d+) (\w+)/", self.offer)
        }
        number = numbers[codec.value.lower()]
        (repair,) = re.findall(rf"a=fmtp:(\d+) apt={number}\b", self.offer)
        opus: Json = {
            "name": "opus",
            "type": "audio",
            "priority": 1000,
            "payload_type": numbers["opus"],
        }
        video: Json = {
            "name": codec.value,
            "type": "video",
            "priority": 1000,
            "payload_type": number,
            "rtx_payload_type": int(repair),
        }
        return [opus, video]

    async def _announce(self) -> None:
        """Name the SSRCs that aiortc has chosen, found where the web client finds them."""
        audio, video = self.offer.split("m=video")
        (audio_ssrc,) = set(re.findall(r"a=ssrc:(\d+)", audio))
        media, repair = re.findall(r"a=ssrc-group:FID (\d+) (\d+)", video)[0]
        await self.send(5, {"speaking": 1, "ssrc": int(audio_ssrc), "delay": 5})
        stream = {
            "type": "video",
            "rid": "100",
            "quality": 100,
            "active": True,
            "ssrc": int(media),
            "rtx_ssrc": int(repair),
        }
        await self.send(
            12,
            {
                "audio_ssrc": int(audio_ssrc),
                "video_ssrc": int(media),
                "rtx_ssrc": int(repair),
                "streams": [stream],
            },
        )

    async def connect(self) -> None:
        """Answer its offer in the server's name, with the streams of the other user."""
        while len(self.sources) < 2:
            message = json.loads(await asyncio.wait_for(self.websocket.recv(), 5))
            self._note(message["op"], message["d"])
        answer = expand_answer(
            cast("str", self.description["sdp"]), self.offer, self.sources.values()
        )
        if self.passive:
            answer = answer.replace("a=setup:passive", "a=setup:active")
        await self.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        async with asyncio.timeout(5):
            while self.pc.connectionState != "connected":
                assert self.pc.connectionState != "failed"
                await asyncio.sleep(0.01)


@asynccontextmanager
async def stock_peer(lab: Lab, user_id: int) -> AsyncIterator[StockPeer]:
    """One that has identified."""
    credentials = lab.server.admit(user_id, GUILD_ID, CHANNEL_ID)
    async with connect(f"{credentials.endpoint}/?v=8") as websocket:
        peer = StockPeer(websocket)
        try:
            await peer.identify(user_id, credentials.session_id, credentials.token)
            yield peer
        finally:
            await peer.pc.close()


async def numbers_of(receive: Receive, count: int) -> list[int]:
    """Stamps of frames; what a codec makes of its first ones may be unreadable."""
    found: list[int] = []
    while len(found) < count:
        frame = await receive()
        assert isinstance(frame, av.VideoFrame | av.AudioFrame)
        try:
            found.append(read_stamp(frame).number)
        except UnsupportedMedia:
            assert len(found) < 5, "a frame in mid-call is unreadable"
            found.clear()
    return found


async def assert_all_frames_arrive(*tracks: Receive, count: int = 20) -> None:
    async with asyncio.timeout(15):
        for numbers in await asyncio.gather(*(numbers_of(receive, count) for receive in tracks)):
            assert numbers == list(range(numbers[0], numbers[0] + count))


def receive_from(peer: StockPeer, kind: str) -> Receive:
    return peer.tracks[kind].recv


@pytest.mark.parametrize("codec", [Codec.VP8, Codec.H264])
@pytest.mark.parametrize(
    ("whole", "passive"),
    [(False, False), (True, True)],
    ids=["reduced offer, server is DTLS server", "whole offer, server is DTLS client"],
)
async def test_a_stock_peer_and_a_udp_user_see_and_hear_each_other(
    lab: Lab, codec: Codec, whole: bool, passive: bool
) -> None:
    bob = await lab.user("bob", options=ConnectionOptions(transport="udp", codecs=(codec,)))
    await bob.publish(camera=TestPattern(*SIZE, FPS), microphone=TestTone())
    async with stock_peer(lab, STRANGER) as peer:
        await peer.select(codec, whole=whole, passive=passive)
        assert peer.description["video_codec"] == codec.value
        await peer.connect()
        assert peer.dtls_role == ("server" if passive else "client")
        user = await bob.user(STRANGER, timeout=5)
        with user.camera.reader(limit=100) as camera, user.microphone.reader(limit=100) as sound:
            await assert_all_frames_arrive(
                receive_from(peer, "video"), receive_from(peer, "audio"), camera.recv, sound.recv
            )
        (room,) = lab.server.rooms.values()
        assert dict(room.transports) == {bob.id: "udp", STRANGER: "webrtc"}
        counters = lab.server.counters
        for drop in ("unannounced", "foreign-ssrc", "bad-auth", "replay", "unknown-payload-type"):
            assert counters.get(f"media.{drop}", 0) == 0, drop
    assert counters["media.stun-checks"] >= 1


@pytest.mark.parametrize("codec", [Codec.VP8, Codec.H264])
async def test_two_stock_peers_see_and_hear_each_other(lab: Lab, codec: Codec) -> None:
    async with stock_peer(lab, STRANGER) as one, stock_peer(lab, OTHER) as two:
        await asyncio.gather(one.select(codec), two.select(codec))
        # Neither has a path yet, so what each announces is all that the other knows of it.
        await asyncio.gather(one.connect(), two.connect())
        await assert_all_frames_arrive(
            *(receive_from(peer, kind) for peer in (one, two) for kind in ("audio", "video"))
        )


async def test_a_stock_peer_repairs_what_is_lost_by_retransmission(lab: Lab) -> None:
    """Its RTX comes under an SSRC of its own choice, announced in op 12."""
    bob = await lab.user("bob", options=ConnectionOptions(transport="udp", codecs=(Codec.VP8,)))
    await bob.publish(camera=TestPattern(*SIZE, FPS), microphone=TestTone())
    async with stock_peer(lab, STRANGER) as peer:
        await peer.select(Codec.VP8)
        await peer.connect()
        user = await bob.user(STRANGER, timeout=5)
        with user.camera.reader(limit=100) as camera:
            await assert_all_frames_arrive(camera.recv)
            lab.faults.loss(0.05, seed=3, user_id=STRANGER)
            async with asyncio.timeout(20):
                numbers = await numbers_of(camera.recv, 60)
        assert lab.faults.counters["up-lost"] > 0
        assert lab.server.counters["media.restored"] > 0
        assert len(set(numbers)) >= 0.97 * (numbers[-1] - numbers[0] + 1)


async def test_a_stock_peer_that_hangs_up_is_noticed_and_nobody_else(lab: Lab) -> None:
    ann, bob = await lab.users(ann="udp", bob="udp")
    await ann.publish(camera=TestPattern(*SIZE, FPS), microphone=TestTone())
    user = await bob.user(ann.id, timeout=5)
    with user.microphone.reader(limit=100) as sound:
        async with stock_peer(lab, STRANGER) as peer:
            await peer.select(Codec.H264)
            await peer.connect()
            await assert_all_frames_arrive(sound.recv)
            await peer.pc.close()
            async with asyncio.timeout(5):
                while not lab.server.counters.get("media.peer-closed"):  # noqa: ASYNC110  a counter
                    await asyncio.sleep(0.01)
            await assert_all_frames_arrive(sound.recv)
    assert lab.server.counters.get("voice.closed.4006", 0) == 0
