"""Stamped sound for foreign clients to play, and what arrived of it."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import TYPE_CHECKING

import av

from discord_rtc import TestTone
from discord_rtc.errors import UnsupportedMedia
from discord_rtc.media.patterns import read_stamp

from ..e2e.calls import eventually

if TYPE_CHECKING:
    from typing import Self

    from discord_rtc import RemoteTrack, VoiceConnection

RATE = 48_000


async def tone_pcm(count: int) -> list[bytes]:
    """20 ms each of s16 stereo at 48 kHz, stamped from 0 on."""
    tone = TestTone(realtime=False)
    return [bytes((await tone.recv()).planes[0]) for _ in range(count)]


async def tone_opus(count: int) -> list[bytes]:
    """The same as Opus frames of 20 ms."""
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate = RATE
    encoder.layout = "stereo"
    encoder.format = "s16"
    encoder.bit_rate = 96_000
    encoder.time_base = Fraction(1, RATE)
    tone = TestTone(realtime=False)
    frames = [bytes(packet) for _ in range(count) for packet in encoder.encode(await tone.recv())]
    assert len(frames) == count
    return frames


class Heard:
    """The stamps that one track brings, from the beginning of ``async with`` to its end.

    Attributes:
        numbers: Of the stamps, in order.
        unreadable: Frames without a stamp: silence, or what loss concealment made up.
    """

    def __init__(self, track: RemoteTrack) -> None:
        self.numbers: list[int] = []
        self.unreadable = 0
        self._track = track
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def of(cls, listener: VoiceConnection, user_id: int) -> Self:
        """What one of our users hears of somebody who is in the call, or is about to be."""
        return cls((await listener.user(user_id, timeout=5)).microphone)

    async def __aenter__(self) -> Self:
        self._reading = asyncio.create_task(self._read(), name="hear")
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._reading is not None
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def until(self, number: int, *, within: float = 5) -> None:
        """Wait for a stamp."""
        await eventually(lambda: number in self.numbers[-5:], within=within)

    async def _read(self) -> None:
        with self._track.reader(limit=200) as reader:
            while True:
                frame = await reader.recv()
                try:
                    self.numbers.append(read_stamp(frame).number)  # type: ignore[arg-type]
                except UnsupportedMedia:
                    self.unreadable += 1
