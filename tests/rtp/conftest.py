"""Fixtures for the RTP tests."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from discord_rtc.frames import Codec
from discord_rtc.rtp.events import FrameReceived
from discord_rtc.rtp.extensions import NATIVE_EXTENSION_IDS
from discord_rtc.rtp.inbound import InboundContext
from discord_rtc.rtp.packet import RtpPacket
from discord_rtc.rtp.payloads.base import payload_format
from discord_rtc.rtp.receivers import Receivers

if TYPE_CHECKING:
    from discord_rtc.rtp.events import Event
    from discord_rtc.rtp.stats import InboundStats

_OPUS = payload_format(Codec.OPUS)
_VP8 = payload_format(Codec.VP8)


@pytest.fixture(scope="session")
def vectors() -> dict[str, bytes]:
    """The byte vectors of tests/vectors/rtp.json by name."""
    path = Path(__file__).parents[1] / "vectors" / "rtp.json"
    return {name: bytes.fromhex(text) for name, text in json.loads(path.read_text()).items()}


class ReceivedStreams:
    """Received streams, what they emitted, and the SSRCs of their PLI and NACK.

    Args:
        nack: Whether packets are sent again on request.
    """

    def __init__(self, *, nack: bool = False) -> None:
        self.events: list[Event] = []
        self.requests: list[int] = []
        self.missing: list[tuple[int, list[int]]] = []
        self.drops: Counter[str] = Counter()
        self.streams = Receivers(
            InboundContext(
                NATIVE_EXTENSION_IDS,
                self.drops,
                self.events.append,
                self.requests.append,
                lambda ssrc, numbers: self.missing.append((ssrc, list(numbers))),
                nack,
            )
        )

    def audio(
        self, sequence: int, now: float = 0.0, *, ssrc: int = 1, extension: bytes | None = None
    ) -> None:
        packet = RtpPacket(120, sequence % 65536, sequence * 960 % (1 << 32), ssrc, b"opus")
        if extension is not None:
            packet = packet._replace(extension_profile=0xBEDE, extension_data=extension)
        self.streams.receive(packet, _OPUS, now)

    def video(self, sequence: int, payload: bytes, now: float = 0.0, *, ssrc: int = 2) -> None:
        packet = RtpPacket(105, sequence % 65536, sequence * 3000, ssrc, payload, marker=True)
        self.streams.receive(packet, _VP8, now)

    def rtx(
        self, sequence: int, payload: bytes, now: float = 0.0, *, ssrc: int = 3, probe: bool = False
    ) -> None:
        """A retransmission of what `video` gives for the same number."""
        body = b"" if probe else (sequence % 65536).to_bytes(2, "big") + payload
        packet = RtpPacket(106, 1, sequence * 3000, ssrc, body, marker=True)
        self.streams.receive_retransmission(packet, 105, _VP8, now)

    def frames(self) -> list[FrameReceived]:
        return [event for event in self.events if isinstance(event, FrameReceived)]

    def stats(self, ssrc: int) -> InboundStats:
        return next(stats for stats in self.streams.stats() if stats.ssrc == ssrc)


@pytest.fixture
def received() -> ReceivedStreams:
    """No stream yet."""
    return ReceivedStreams()


@pytest.fixture
def repaired() -> ReceivedStreams:
    """The same, where packets are sent again on request."""
    return ReceivedStreams(nack=True)
