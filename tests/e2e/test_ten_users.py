"""Ten users in one room, each sending stamped audio and hearing the nine others."""

from __future__ import annotations

import asyncio
import gc
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest

from discord_rtc import TestTone
from discord_rtc.lab import Lab
from discord_rtc.media.patterns import StampReader

if TYPE_CHECKING:
    import av

    from discord_rtc import RemoteTrack, VoiceConnection

USERS = 10
MIB = 1 << 20

pytestmark = pytest.mark.asyncio


@dataclass(slots=True)
class Heard:
    """What one user heard of another, checked as it comes: storing it would look like a leak."""

    first: int = -1
    frames: int = 0
    out_of_order: int = 0

    def add(self, number: int) -> None:
        if self.first < 0:
            self.first = number
        self.out_of_order += number != self.first + self.frames
        self.frames += 1


async def hear(track: RemoteTrack, frames: int, heard: Heard) -> None:
    """Check the numbers of the next frames."""
    stamps = StampReader()
    with track.reader(limit=100) as reader:
        while heard.frames < frames:
            frame: av.AudioFrame = await reader.recv()  # type: ignore[assignment]
            heard.add(stamps.read(frame).number)


def resources() -> tuple[int, int, int]:
    gc.collect()
    return len(asyncio.all_tasks()), threading.active_count(), psutil.Process().num_fds()


async def call(frames: int) -> list[Heard]:
    """Everybody hears everybody; returns what each heard of each other."""
    process = psutil.Process()
    heard: list[Heard] = []
    async with Lab() as lab:
        users: list[VoiceConnection] = [await lab.user(f"user {n}") for n in range(USERS)]
        for user in users:
            await user.secured(timeout=10)
        async with asyncio.timeout(60 + frames * 0.05), asyncio.TaskGroup() as group:
            for receiver in users:
                for sender in users:
                    if sender is receiver:
                        continue
                    track = (await receiver.user(sender.id, timeout=10)).microphone
                    heard.append(Heard())
                    group.create_task(hear(track, frames, heard[-1]))
            for sender in users:
                await sender.publish(microphone=TestTone())
            while min(one.frames for one in heard) < frames // 2:  # noqa: ASYNC110 - 90 readers
                await asyncio.sleep(0.05)
            gc.collect()
            half = process.memory_info().rss
        gc.collect()
        growth = process.memory_info().rss - half
        assert growth < 2 * MIB
        for connection in users:
            for queue in connection.stats().queues:
                assert queue.high_water < queue.bound, (connection, queue)
                assert queue.dropped == 0, (connection, queue)
            for stats in connection.stats().received.values():
                assert stats.dropped == 0
                assert stats.high_water < stats.bound or stats.high_water == 0
        assert lab.server.counters.get("media.send-dropped", 0) == 0
    return heard


@pytest.mark.parametrize("frames", [1000, pytest.param(3000, marks=pytest.mark.slow)])
async def test_every_frame_of_each_arrives_in_order_at_every_other(frames: int) -> None:
    await call(20)  # whatever is allocated once, is allocated here
    before = resources()
    heard = await call(frames)
    assert resources() == before
    assert len(heard) == USERS * (USERS - 1)
    assert {one.frames for one in heard} == {frames}
    assert {one.out_of_order for one in heard} == {0}
    assert max(one.first for one in heard) <= 1  # the codec needs a frame to find its feet
