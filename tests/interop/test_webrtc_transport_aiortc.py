"""Our WebRTC client against a stock aiortc `RTCPeerConnection` that plays the voice server.

The test does what a voice server does with descriptions, and nothing else: it hands our offer to
aiortc, and makes the eight lines of a fragment out of aiortc's answer. Over there are a full ICE
agent in the controlled role, the DTLS server, and aiortc's own RTP, Opus, VP8 and H.264.
"""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import pytest
import pytest_asyncio
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from discord_rtc.clock import SystemClock
from discord_rtc.connection.link import MediaLink
from discord_rtc.errors import UnsupportedMedia
from discord_rtc.frames import Codec, EncodedFrame, MediaKind
from discord_rtc.media.decode import OpusDecoder, VideoDecoder
from discord_rtc.media.encode import VideoEncoder, VideoSettings
from discord_rtc.media.opus import OpusEncoder
from discord_rtc.media.patterns import TestPattern, TestTone, read_stamp
from discord_rtc.protocol.messages import Ready, SessionDescription, StreamInfo
from discord_rtc.protocol.sdp import ServerFragment
from discord_rtc.rtp.session import SenderConfig
from discord_rtc.transport.base import CodecOffer, MediaOffer
from discord_rtc.transport.ice_options import IceOptions
from discord_rtc.transport.webrtc import WebRtcTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import av
    from aiortc import MediaStreamTrack

    from discord_rtc.rtp.session import FrameReceived, SenderReportReceived

pytestmark = [pytest.mark.interop, pytest.mark.asyncio]

CLOCK = SystemClock()
OFFERS = {
    Codec.H264: CodecOffer(Codec.H264, 101, 102),
    Codec.VP8: CodecOffer(Codec.VP8, 105, 106),
}
AUDIO_SSRC, VIDEO_SSRC = 7000, 7001
WANTED = 30
"""Frames of each kind that shall arrive in each direction."""


def own_address() -> str:
    """An address of this machine that aiortc gathers; nothing is sent to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.connect(("192.0.2.1", 9))
        address = str(sock.getsockname()[0])
        if not address.startswith("127."):
            return address
    pytest.skip("aiortc needs a network interface other than loopback")


class Stamps:
    """Numbers of the stamped frames of one track, and who waits for them."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._changed = asyncio.Event()

    def read(self, frame: av.VideoFrame | av.AudioFrame) -> None:
        with suppress(UnsupportedMedia):  # concealment and the codec's first 20 ms
            self.numbers.append(read_stamp(frame).number)
        self._changed.set()

    async def arrive(self) -> None:
        while len(set(self.numbers)) < WANTED:
            self._changed.clear()
            await self._changed.wait()
        assert self.numbers == sorted(self.numbers)


class AiortcServer:
    """An `RTCPeerConnection` behind a voice server's fragment."""

    def __init__(self) -> None:
        self.received = {"audio": Stamps(), "video": Stamps()}
        self._sent: list[MediaStreamTrack] = [TestTone(), TestPattern(320, 240)]
        self._connection = RTCPeerConnection()
        self._connection.on("track", self._listen)
        self._tasks: list[asyncio.Task[None]] = []

    async def answer(self, offer: str) -> SessionDescription:
        # Voice servers are passive, and what an answerer is depends on the offer in aiortc.
        offer = offer.replace("a=setup:actpass", "a=setup:active")
        await self._connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        for track in self._sent:
            self._connection.addTrack(track)
        await self._connection.setLocalDescription(await self._connection.createAnswer())
        text = self._connection.localDescription.sdp
        assert "a=setup:passive" in text
        video = re.search(r"m=video \d+ \S+ (\d+)", text)
        assert video is not None
        codec = re.search(rf"a=rtpmap:{video[1]} (\w+)", text)
        assert codec is not None
        return SessionDescription("opus", codec[1], "session", sdp=_fragment(text).to_text())

    async def close(self) -> None:
        await self._connection.close()
        for task in self._tasks:
            await task
        for track in self._sent:
            track.stop()

    def _listen(self, track: MediaStreamTrack) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(self._drain(track)))

    async def _drain(self, track: MediaStreamTrack) -> None:
        with suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                self.received[track.kind].read(cast("av.VideoFrame | av.AudioFrame", frame))


def _fragment(answer: str) -> ServerFragment:
    candidates = re.findall(r"a=(candidate:\S+ 1 udp \d+ (\S+) (\d+) typ host)", answer)
    mine = own_address()
    candidate, ip, port = next(found for found in candidates if found[1] == mine)

    def value(name: str) -> str:
        found = re.search(rf"a={name}:(\S.*?)\r\n", answer)
        assert found is not None
        return found[1]

    return ServerFragment(
        ip, int(port), value("ice-ufrag"), value("ice-pwd"), value("fingerprint"), (candidate,)
    )


class Client:
    """Everything of ours above the transport that a call needs: RTP, encoders, decoders."""

    def __init__(self, transport: WebRtcTransport) -> None:
        self.received = {MediaKind.AUDIO: Stamps(), MediaKind.VIDEO: Stamps()}
        self.keyframes_wanted: list[int] = []
        self.lost: list[Exception] = []
        self._transport = transport
        self._link: MediaLink | None = None
        self._opus = OpusDecoder()
        self._video: VideoDecoder | None = None

    async def join(self, server: AiortcServer, codec: Codec) -> None:
        layer = StreamInfo("video", "100", 100, ssrc=VIDEO_SSRC, rtx_ssrc=VIDEO_SSRC + 1)
        ready = Ready(AUDIO_SSRC, own_address(), 9, (), streams=(layer,))
        offer = MediaOffer(codecs=(CodecOffer(Codec.OPUS, 120), OFFERS[codec]))
        await self._transport.open(ready, offer)
        assert self._transport.local_description is not None
        answer = await server.answer(self._transport.local_description)
        media = await self._transport.accept(answer)
        assert media.video_codec is codec
        self._video = VideoDecoder(codec)
        self._link = MediaLink(self._transport, media, self, CLOCK)
        self._link.add_sender(SenderConfig(AUDIO_SSRC, Codec.OPUS, media.payload_types[Codec.OPUS]))
        self._link.add_sender(SenderConfig(VIDEO_SSRC, codec, media.payload_types[codec]))

    async def speak(self) -> None:
        track, encoder = TestTone(), OpusEncoder()
        assert self._link is not None
        while True:
            for frame in encoder.encode(await track.recv()):
                self._link.send_frame(AUDIO_SSRC, frame, speaking=1)

    async def show(self, codec: Codec) -> None:
        track = TestPattern(320, 240)
        encoder = VideoEncoder(VideoSettings(codec, bitrate=800_000))
        assert self._link is not None
        while True:
            picture = await track.recv()
            wanted, self.keyframes_wanted = self.keyframes_wanted, []
            for frame in encoder.encode(picture, keyframe=bool(wanted)):
                self._link.send_frame(VIDEO_SSRC, frame)

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
        self._opus.close()
        if self._video is not None:
            self._video.close()

    def frame_received(self, frame: FrameReceived) -> None:
        encoded = EncodedFrame(
            frame.data,
            frame.codec,
            frame.ticks,
            Fraction(1, frame.codec.clock_rate),
            frame.keyframe,
        )
        assert self._video is not None
        decoder = self._opus if frame.codec is Codec.OPUS else self._video
        for decoded in decoder.decode(encoded):
            self.received[frame.codec.kind].read(decoded)

    def sender_report(self, report: SenderReportReceived) -> None:
        pass

    def stream_ended(self, ssrc: int) -> None:
        pass

    def keyframe_requested(self, ssrc: int) -> None:
        self.keyframes_wanted.append(ssrc)

    def link_lost(self, error: Exception) -> None:
        self.lost.append(error)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[AiortcServer]:
    own_address()
    server = AiortcServer()
    yield server
    await server.close()


@pytest_asyncio.fixture(params=["lite", "full"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    transport = WebRtcTransport(ice=IceOptions(agent=request.param))
    client = Client(transport)
    yield client
    client.close()
    await transport.aclose()


@pytest.mark.parametrize("codec", [Codec.H264, Codec.VP8], ids=lambda codec: codec.value)
async def test_media_is_decoded_on_both_sides(
    codec: Codec, server: AiortcServer, client: Client
) -> None:
    await client.join(server, codec)
    sending = [asyncio.create_task(client.speak()), asyncio.create_task(client.show(codec))]
    try:
        async with asyncio.timeout(20):
            for stamps in (*server.received.values(), *client.received.values()):
                await stamps.arrive()
    finally:
        for task in sending:
            task.cancel()
        await asyncio.wait(sending)
    assert client.lost == []


async def test_goodbye_of_aiortc_ends_the_path(server: AiortcServer, client: Client) -> None:
    await client.join(server, Codec.VP8)
    await server.close()
    async with asyncio.timeout(5):
        while not client.lost:  # noqa: ASYNC110 - a list
            await asyncio.sleep(0.01)
    assert "closed the DTLS association" in str(client.lost[0])
