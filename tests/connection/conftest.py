"""What the tests of a voice connection share: small fakes, and a search for what is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from contextlib import asynccontextmanager
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING

import av
import pytest
import pytest_asyncio
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from discord_rtc.clock import SystemClock
from discord_rtc.connection.link import MediaLink
from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.ids import UserId
from discord_rtc.media.track import MediaStreamError
from discord_rtc.protocol.voice import VoiceCredentials
from discord_rtc.rtp.extensions import NATIVE_EXTENSION_IDS
from discord_rtc.transport.base import NegotiatedMedia, SendingSsrcs
from discord_rtc.transport.memory import memory_pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from websockets.asyncio.server import ServerConnection

    from discord_rtc.connection.announcing import VideoAnnouncement
    from discord_rtc.media.track import MediaFrame
    from discord_rtc.protocol.opcodes import SpeakingFlags
    from discord_rtc.rtp.session import FrameReceived, SenderReportReceived
    from discord_rtc.transport.memory import MemoryTransport

    Eventually = Callable[[Callable[[], object]], Awaitable[None]]
    StartDouble = Callable[..., AbstractAsyncContextManager["Double"]]

AUDIO_SSRC = 1000
VIDEO_SSRC = 1001


@pytest_asyncio.fixture(autouse=True)
async def _nothing_is_left_behind() -> AsyncIterator[None]:
    """Every task and thread is gone after a test, and nothing went wrong unheard."""
    loop = asyncio.get_running_loop()
    troubles: list[str] = []
    loop.set_exception_handler(lambda _loop, context: troubles.append(repr(context)))
    before = asyncio.all_tasks()
    threads = threading.enumerate()
    yield

    def left() -> list[str]:
        tasks = asyncio.all_tasks() - before - {asyncio.current_task()}
        ours = [it.name for it in threading.enumerate() if it.name.startswith("discord-rtc")]
        older = [it.name for it in threads if it.is_alive() and it.name in ours]
        return ours[len(older) :] + [task.get_name() for task in tasks]

    for _ in range(100):
        if not left():
            break
        await asyncio.sleep(0.01)
    gc.collect()  # futures complain when they are freed
    await asyncio.sleep(0)
    assert (left(), troubles) == ([], [])


@pytest.fixture
def eventually() -> Eventually:
    """Waits until a condition holds."""

    async def wait(condition: Callable[[], object]) -> None:
        deadline = asyncio.get_running_loop().time() + 5
        for _ in iter(lambda: bool(condition()), True):
            assert asyncio.get_running_loop().time() < deadline, "it never came to that"
            await asyncio.sleep(0.002)

    return wait


class Sink:
    """A `MediaSink` that keeps everything and can be waited for."""

    def __init__(self) -> None:
        self.frames: list[FrameReceived] = []
        self.reports: list[SenderReportReceived] = []
        self.ended: list[int] = []
        self.keyframes_wanted: list[int] = []
        self.errors: list[Exception] = []
        self._changed = asyncio.Event()

    def frame_received(self, frame: FrameReceived) -> None:
        self.frames.append(frame)
        self._changed.set()

    def sender_report(self, report: SenderReportReceived) -> None:
        self.reports.append(report)
        self._changed.set()

    def stream_ended(self, ssrc: int) -> None:
        self.ended.append(ssrc)
        self._changed.set()

    def keyframe_requested(self, ssrc: int) -> None:
        self.keyframes_wanted.append(ssrc)
        self._changed.set()

    def link_lost(self, error: Exception) -> None:
        self.errors.append(error)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to have come."""
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Ends:
    """Two connected links: ours, and the far one with a sink that keeps everything."""

    def __init__(self, media: NegotiatedMedia) -> None:
        clock = SystemClock()
        self.media = media
        self.transport, self.far_transport = memory_pair()
        self.near, self.far = Sink(), Sink()
        self.link = MediaLink(self.transport, media, self.near, clock)
        self.far_link = MediaLink(self.far_transport, media, self.far, clock)

    async def aclose(self) -> None:
        self.link.close()
        self.far_link.close()
        await self.transport.aclose()
        await self.far_transport.aclose()


@pytest.fixture
def media() -> NegotiatedMedia:
    return NegotiatedMedia(
        audio_codec=Codec.OPUS,
        video_codec=Codec.H264,
        payload_types=MappingProxyType({Codec.OPUS: 120, Codec.H264: 101, Codec.VP8: 105}),
        rtx_payload_types=MappingProxyType({Codec.H264: 102, Codec.VP8: 106}),
        extension_ids=NATIVE_EXTENSION_IDS,
        audio_ssrc=AUDIO_SSRC,
        video=(SendingSsrcs("100", VIDEO_SSRC, VIDEO_SSRC + 1),),
    )


@pytest_asyncio.fixture
async def ends(media: NegotiatedMedia) -> AsyncIterator[Ends]:
    ends = Ends(media)
    yield ends
    await ends.aclose()


@pytest.fixture
def sink() -> Sink:
    return Sink()


class Announced:
    """An `Announcer` that remembers."""

    def __init__(self) -> None:
        self.flags: list[SpeakingFlags] = []
        self.videos: list[VideoAnnouncement | None] = []
        self._changed = asyncio.Event()

    def speaking(self, flags: SpeakingFlags) -> None:
        self.flags.append(flags)
        self._changed.set()

    def video(self, active: VideoAnnouncement | None) -> None:
        self.videos.append(active)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def announced() -> Announced:
    return Announced()


class Track:
    """A track that gives what a test pushes, and raises what a test pushes."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.readyState = "live"
        self.asked = 0
        self._items: asyncio.Queue[object] = asyncio.Queue()

    def push(self, *items: object) -> None:
        for item in items:
            self._items.put_nowait(item)

    def end(self) -> None:
        self.push(MediaStreamError("over"))

    async def recv(self) -> MediaFrame:
        self.asked += 1
        item = await self._items.get()
        if isinstance(item, BaseException):
            raise item
        return item  # type: ignore[return-value]  # a test may push nonsense on purpose

    def stop(self) -> None:
        self.readyState = "ended"


@pytest.fixture
def microphone() -> Track:
    return Track("audio")


@pytest.fixture
def camera() -> Track:
    return Track("video")


def make_sound(pts: int, *, samples: int = 960) -> av.AudioFrame:
    frame = av.AudioFrame(format="s16", layout="stereo", samples=samples)
    frame.planes[0].update(bytes(range(256)) * (samples * 4 // 256) + bytes(samples * 4 % 256))
    frame.sample_rate, frame.pts, frame.time_base = 48_000, pts, Fraction(1, 48_000)
    return frame


def make_picture(number: int, *, width: int = 64, height: int = 64) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane in frame.planes:
        plane.update(bytes([number % 200]) * plane.buffer_size)
    frame.pts, frame.time_base = number, Fraction(1, 30)
    return frame


@pytest.fixture
def sound() -> Callable[..., av.AudioFrame]:
    """``sound(pts)`` gives 20 ms of sound."""
    return make_sound


@pytest.fixture
def picture() -> Callable[..., av.VideoFrame]:
    """``picture(number)`` gives a small picture."""
    return make_picture


@pytest.fixture
def opus() -> Callable[[int], EncodedFrame]:
    """``opus(pts)`` gives a frame of 20 ms that is no silence."""

    def make(pts: int) -> EncodedFrame:
        data = b"\xfc" + pts.to_bytes(8, "big", signed=True)
        return EncodedFrame(data, Codec.OPUS, pts, Fraction(1, 48_000), keyframe=True)

    return make


class Port:
    """A `SignalingPort` that remembers commands; tests dispatch the answers.

    Attributes:
        answer: Called with every command.
        error: Raised instead of sending.
    """

    def __init__(self, user_id: int = 7) -> None:
        self.user_id = UserId(user_id)
        self.secure = False
        self.sent: list[Mapping[str, object]] = []
        self.handlers: list[Callable[[str, Mapping[str, object]], None]] = []
        self.answer: Callable[[Mapping[str, object]], None] | None = None
        self.error: Exception | None = None

    async def send(self, opcode: int, data: Mapping[str, object]) -> None:
        if self.error is not None:
            raise self.error
        assert opcode == 4
        self.sent.append(data)
        if self.answer is not None:
            self.answer(data)

    def subscribe(self, handler: Callable[[str, Mapping[str, object]], None]) -> Callable[[], None]:
        self.handlers.append(handler)
        return lambda: self.handlers.remove(handler)

    def dispatch(self, name: str, **data: object) -> None:
        for handler in tuple(self.handlers):
            handler(name, data)

    def state(self, channel_id: int | None = 20, **changes: object) -> None:
        data: dict[str, object] = {"user_id": "7", "session_id": "s", "guild_id": "10"}
        data["channel_id"] = None if channel_id is None else str(channel_id)
        self.dispatch("VOICE_STATE_UPDATE", **(data | changes))

    def server(self, endpoint: str | None = "127.0.0.1:1", token: str = "t") -> None:
        self.dispatch("VOICE_SERVER_UPDATE", guild_id="10", endpoint=endpoint, token=token)


@pytest.fixture
def port() -> Port:
    return Port()


class Peer:
    """One client of a `voice_double`, as a script sees it.

    Attributes:
        received: Opcode and data of everything the client sent.
    """

    def __init__(self, connection: ServerConnection, released: asyncio.Event) -> None:
        self._socket = connection
        self.released = released
        self.received: list[tuple[int, object]] = []

    async def send(self, opcode: int, data: object) -> None:
        await self._socket.send(json.dumps({"op": opcode, "d": data}))

    async def hello(self, interval_ms: float = 41_250) -> None:
        await self.send(8, {"v": 8, "heartbeat_interval": interval_ms})

    async def ready(
        self, port: int = 9, *, modes: tuple[str, ...] = ("aead_aes256_gcm_rtpsize",)
    ) -> None:
        """Ready after Identify; the media port is that of nobody."""
        await self.expect(0)
        await self.send(
            2,
            {
                "ssrc": AUDIO_SSRC,
                "ip": "127.0.0.1",
                "port": port,
                "modes": modes,
                "streams": [
                    {
                        "type": "video",
                        "rid": "100",
                        "quality": 100,
                        "ssrc": VIDEO_SSRC,
                        "rtx_ssrc": VIDEO_SSRC + 1,
                        "active": False,
                    }
                ],
            },
        )

    async def description(self, mode: str = "aead_aes256_gcm_rtpsize", *, dave: int = 0) -> None:
        """Session Description after Select Protocol."""
        await self.expect(1)
        await self.send(
            4,
            {
                "audio_codec": "opus",
                "video_codec": "H264",
                "media_session_id": "m",
                "mode": mode,
                "secret_key": list(range(32)),
                "dave_protocol_version": dave,
            },
        )

    async def live(self, port: int = 9, *, dave: int = 0) -> None:
        await self.hello()
        await self.ready(port)
        await self.description(dave=dave)

    async def expect(self, opcode: int) -> object:
        """The data of the client's next message with this opcode."""
        while True:
            frame = await self._socket.recv()
            if isinstance(frame, bytes):  # MLS
                self.received.append((frame[0], frame[1:]))
                if frame[0] == opcode:
                    return frame[1:]
                continue
            message = json.loads(frame)
            self.received.append((message["op"], message.get("d")))
            if message["op"] == opcode:
                return message.get("d")

    async def close(self, code: int, reason: str = "") -> None:
        await self._socket.close(code, reason)

    async def send_raw(self, frame: bytes) -> None:
        await self._socket.send(frame)

    def abort(self) -> None:
        self._socket.transport.abort()

    def pause(self) -> None:
        """Read nothing more, not even a close."""
        self._socket.transport.pause_reading()

    async def wait(self) -> None:
        """Do nothing until the test is over."""
        await self.released.wait()
        self.abort()

    async def gone(self) -> None:
        """Read until the client is gone."""
        try:
            while True:
                await self.expect(-1)
        except ConnectionClosed:
            return

    @property
    def close_code(self) -> int | None:
        return self._socket.close_code


class Double:
    """A voice server that does what a script says, to every client in turn.

    Attributes:
        endpoint: Where it is, with scheme.
        peers: All clients so far.
        stop_listening: Lets nobody else in; those who are there stay.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.peers: list[Peer] = []
        self.released = asyncio.Event()
        self.stop_listening: Callable[[], None] = lambda: None

    def release(self) -> None:
        """Let go of those who wait."""
        self.released.set()

    def credentials(self) -> VoiceCredentials:
        return VoiceCredentials(self.endpoint, "token", "session", 7, 10, 20)


@pytest.fixture
def voice_double() -> StartDouble:
    """Starts a scripted voice server; its n-th client gets the n-th script, or the last one."""

    @asynccontextmanager
    async def run(*scripts: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[Double]:
        async def handle(connection: ServerConnection) -> None:
            peer = Peer(connection, double.released)
            double.peers.append(peer)
            script = scripts[min(len(double.peers), len(scripts)) - 1]
            try:
                await script(peer)
                await peer.gone()
            except ConnectionClosed:
                pass

        async with serve(handle, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
            [listening] = server.sockets
            double = Double(f"ws://127.0.0.1:{listening.getsockname()[1]}")
            double.stop_listening = server.server.close
            try:
                yield double
            finally:
                double.release()

    return run


@pytest.fixture
def memory_transport() -> MemoryTransport:
    """One end of a pair whose other end does not matter."""
    return memory_pair()[0]
