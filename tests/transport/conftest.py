"""Messages, packets and a sink that the transport tests share."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from discord_rtc.protocol.messages import Ready, SessionDescription

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = bytes(range(32))


class RecordingSink:
    """A `PacketSink` that keeps everything and can be waited for."""

    def __init__(self) -> None:
        self.rtp_packets: list[bytes] = []
        self.rtcp_packets: list[bytes] = []
        self.errors: list[Exception] = []
        self.times: list[float] = []
        self._changed = asyncio.Event()

    def rtp(self, packet: bytes, now: float) -> None:
        self.rtp_packets.append(packet)
        self._note(now)

    def rtcp(self, packet: bytes, now: float) -> None:
        self.rtcp_packets.append(packet)
        self._note(now)

    def lost(self, error: Exception) -> None:
        self.errors.append(error)
        self._changed.set()

    def _note(self, now: float) -> None:
        self.times.append(now)
        self._changed.set()

    async def holds(self, count: int) -> None:
        """Wait until that many packets came."""
        async with asyncio.timeout(3):
            while len(self.times) < count:
                self._changed.clear()
                await self._changed.wait()


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """As Windows' default loop in the one respect that matters here."""

    def add_reader(self, *_: object) -> None:
        raise NotImplementedError


@pytest.fixture
def loop_without_readers() -> Callable[[], asyncio.AbstractEventLoop]:
    return LoopWithoutReaders


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def drops() -> Counter[str]:
    return Counter()


@pytest.fixture
def rtp() -> Callable[[int], bytes]:
    def build(sequence: int) -> bytes:
        return struct.pack("!BBHII", 0x80, 0x78, sequence, 960 * sequence, 99) + b"\xf8\xff\xfe"

    return build


@pytest.fixture
def report() -> bytes:
    return bytes.fromhex("80c8000600000063e000000080000000000003c00000003200000fa0")


@pytest.fixture
def ready() -> Ready:
    return Ready(
        ssrc=1000,
        ip="127.0.0.1",
        port=50_000,
        modes=("aead_aes256_gcm_rtpsize", "aead_xchacha20_poly1305_rtpsize"),
    )


@pytest.fixture
def answer() -> SessionDescription:
    return SessionDescription(
        audio_codec="opus",
        video_codec="H264",
        media_session_id="session",
        mode="aead_aes256_gcm_rtpsize",
        secret_key=KEY,
    )
