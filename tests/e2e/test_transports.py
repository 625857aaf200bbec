"""Both transports in the same room: every pair of them, any mix, and people who come and go."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import TYPE_CHECKING

import av
import pytest

from discord_rtc import (
    Codec,
    ConnectionOptions,
    PublishingEnded,
    SpeakingFlags,
    TestPattern,
    TestTone,
    TrackEnded,
    UserSpeaking,
    read_stamp,
)
from discord_rtc.errors import UnsupportedMedia
from discord_rtc.frames import MediaKind
from discord_rtc.lab import CHANNEL_ID, GUILD_ID, Lab
from discord_rtc.media.patterns import StampReader
from discord_rtc.server.world import RoomKey

from .calls import (
    assert_in_order,
    assert_media_flows,
    assert_two_way_media,
    eventually,
    note,
    numbers_of,
    resources,
)

if TYPE_CHECKING:
    from discord_rtc import RemoteTrack, VoiceConnection
    from discord_rtc.transport.plan import TransportName

pytestmark = pytest.mark.asyncio

PAIRS: tuple[tuple[TransportName, TransportName], ...] = (
    ("udp", "udp"),
    ("udp", "webrtc"),
    ("webrtc", "webrtc"),
)

VIDEO = (Codec.H264, Codec.VP8)


def offering(transport: TransportName, *codecs: Codec) -> ConnectionOptions:
    """Options for a transport and video codecs, best first."""
    return ConnectionOptions(transport=transport, codecs=codecs)


def assert_nothing_lost(*connections: VoiceConnection) -> None:
    """Not a packet was lost, not a frame was damaged, and no queue was too short."""
    for connection in connections:
        stats = connection.stats()
        assert stats.rtp is not None
        assert stats.transport is not None
        assert not stats.transport.drops
        for stream in stats.rtp.inbound:
            assert (stream.cumulative_lost, stream.malformed_frames, stream.restarts) == (0, 0, 0)
        assert all(queue.dropped == 0 for queue in stats.queues)


class TestPairs:
    @pytest.mark.parametrize("codec", VIDEO)
    @pytest.mark.parametrize(("one", "two"), PAIRS)
    async def test_sound_and_pictures_arrive_whole_and_in_order(
        self, lab: Lab, one: TransportName, two: TransportName, codec: Codec
    ) -> None:
        ann = await lab.user("ann", options=offering(one, codec))
        bob = await lab.user("bob", options=offering(two, codec))
        await assert_media_flows(ann, bob)
        assert (ann.transport, bob.transport) == (one, two)
        assert lab.server.rooms[RoomKey(GUILD_ID, CHANNEL_ID)].transports == {
            ann.id: one,
            bob.id: two,
        }
        assert ann.codec is bob.codec is codec
        assert_nothing_lost(ann, bob)

    @pytest.mark.parametrize("codec", VIDEO)
    @pytest.mark.parametrize(("one", "two"), PAIRS)
    async def test_pictures_survive_loss(
        self, lab: Lab, one: TransportName, two: TransportName, codec: Codec
    ) -> None:
        lab.faults.loss(0.05, seed=7)  # each way, so twice between the two
        ann = await lab.user("ann", options=offering(one, codec))
        bob = await lab.user("bob", options=offering(two, codec))
        for connection in (ann, bob):
            await connection.publish(camera=TestPattern(320, 240, fps=30), microphone=TestTone())
        async with asyncio.timeout(20):
            seen = await asyncio.gather(
                survivors((await bob.user(ann.id)).camera, 60),
                survivors((await ann.user(bob.id)).camera, 60),
                survivors((await bob.user(ann.id)).microphone, 100),
                survivors((await ann.user(bob.id)).microphone, 100),
            )
        shares = [len(numbers) / (numbers[-1] - numbers[0] + 1) for numbers in seen]
        note(f"{one} and {two}, {codec.value}: {', '.join(f'{share:.1%}' for share in shares)}")
        assert all(numbers == sorted(set(numbers)) for numbers in seen)
        assert min(shares[:2]) >= 0.97  # repaired
        assert min(shares[2:]) >= 0.75  # 90 % is what comes through; nothing repairs sound
        assert lab.faults.counters["up-lost"] > 0
        for connection in (ann, bob):
            rtp = connection.stats().rtp
            assert rtp is not None
            assert any(stream.nacked for stream in rtp.inbound)
            assert any(stream.retransmitted for stream in rtp.outbound)


async def survivors(track: RemoteTrack, count: int) -> list[int]:
    """Stamps of the next readable frames; lost packets leave sound concealed."""
    found: list[int] = []
    with track.reader(limit=100) as reader:
        while len(found) < count:
            frame: av.VideoFrame | av.AudioFrame = await reader.recv()  # type: ignore[assignment]
            try:
                found.append(read_stamp(frame).number)
            except UnsupportedMedia:
                assert isinstance(frame, av.AudioFrame)
    return found


class TestMixedRooms:
    async def test_everybody_hears_and_sees_everybody(self, lab: Lab) -> None:
        users = [
            await lab.user("ann", options=offering("udp", Codec.H264, Codec.VP8)),
            await lab.user("bob", options=offering("webrtc", Codec.H264, Codec.VP8)),
            await lab.user("cat", options=offering("udp", Codec.VP8, Codec.H264)),
            await lab.user("dan", options=offering("webrtc", Codec.VP8, Codec.H264)),
        ]
        assert [user.codec for user in users] == [*VIDEO[:1] * 2, *VIDEO[1:] * 2]
        for user in users:
            await user.publish(camera=TestPattern(320, 240, fps=15), microphone=TestTone())
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            reading = [
                group.create_task(numbers_of((await one.user(other.id)).track(kind), count))
                for one in users
                for other in users
                if other is not one
                for kind, count in ((MediaKind.VIDEO, 30), (MediaKind.AUDIO, 100))
            ]
        assert len(reading) == 4 * 3 * 2
        for task in reading:
            assert_in_order(task.result())
        assert_nothing_lost(*users)

    @pytest.mark.parametrize(("one", "two"), PAIRS[1:])
    async def test_who_comes_and_goes_disturbs_nobody(
        self, lab: Lab, one: TransportName, two: TransportName
    ) -> None:
        ann, bob = await lab.users(ann=one, bob=two)
        await assert_media_flows(ann, bob)

        async def visits(name: str, transport: TransportName) -> None:
            for _ in range(3):
                guest = await lab.user(name, transport)
                await guest.publish(camera=TestPattern(320, 240, fps=15), microphone=TestTone())
                tracks = [await numbers_of((await guest.user(ann.id)).camera, 5)]
                tracks += [await numbers_of((await bob.user(guest.id)).camera, 5)]
                for numbers in tracks:
                    assert_in_order(numbers)
                await guest.disconnect()

        async with asyncio.timeout(40), asyncio.TaskGroup() as group:
            reading = [
                group.create_task(numbers_of(reader.users[sender.id].track(kind), count))
                for reader, sender in ((ann, bob), (bob, ann))
                for kind, count in ((MediaKind.VIDEO, 90), (MediaKind.AUDIO, 150))
            ]
            for name, transport in (("cat", "webrtc"), ("dan", "udp")):
                group.create_task(visits(name, transport))  # type: ignore[arg-type]  # literals
        for task in reading:
            assert_in_order(task.result())
        assert_nothing_lost(ann, bob)


class TestPublishing:
    @pytest.mark.parametrize("transport", ["udp", "webrtc"])
    async def test_a_replaced_track_goes_on_without_a_gap_in_the_stream(
        self, lab: Lab, transport: TransportName
    ) -> None:
        ann, bob = await lab.users(ann=transport, bob="webrtc")
        await assert_media_flows(ann, bob)
        before = bob.stats().rtp
        await ann.replace_track(camera=TestPattern(640, 360, fps=30), microphone=TestTone(330))
        camera = bob.users[ann.id].camera
        async with asyncio.timeout(5):
            while (frame := await camera.recv()).width != 640:  # type: ignore[union-attr]
                pass
        assert isinstance(frame, av.VideoFrame)
        after = bob.stats().rtp
        assert before is not None
        assert after is not None
        assert {s.ssrc for s in before.inbound} == {s.ssrc for s in after.inbound}
        assert_nothing_lost(ann, bob)

    @pytest.mark.parametrize("transport", ["udp", "webrtc"])
    async def test_what_is_unpublished_ends_and_can_be_published_again(
        self, lab: Lab, transport: TransportName
    ) -> None:
        ann, bob = await lab.users(ann=transport, bob="webrtc")
        await assert_media_flows(ann, bob)
        async with bob.events(TrackEnded, UserSpeaking) as events, asyncio.timeout(5):
            await ann.unpublish()
            told = {type(event): event for event in (await anext(events), await anext(events))}
        assert told == {
            TrackEnded: TrackEnded(ann.id, MediaKind.VIDEO),
            UserSpeaking: UserSpeaking(ann.id, speaking=False, flags=SpeakingFlags.NONE),
        }
        for _ in range(2):
            await assert_media_flows(ann, bob)
            await ann.unpublish("camera")
        await ann.publish(camera=TestPattern(320, 240, fps=30))
        await assert_two_way_media(ann, bob)

    async def test_a_track_that_ends_tells_its_publisher(self, lab: Lab) -> None:
        ann, _ = await lab.users(ann="webrtc", bob="webrtc")
        tone = TestTone()
        async with ann.events(PublishingEnded) as events, asyncio.timeout(5):
            await ann.publish(microphone=tone)
            tone.stop()
            assert await anext(events) == PublishingEnded(MediaKind.AUDIO, None)


class TestResources:
    @pytest.mark.parametrize("joins", [30, pytest.param(300, marks=pytest.mark.slow)])
    async def test_joins_and_leaves_in_a_row_leave_nothing_behind(
        self, lab: Lab, joins: int
    ) -> None:
        bob = await lab.user("bob", "webrtc")

        async def join_and_leave(transport: TransportName) -> None:
            ann = await lab.user("ann", transport)
            await ann.publish(microphone=TestTone())
            await (await bob.user(ann.id, timeout=5)).microphone.recv()
            await ann.disconnect()
            await eventually(lambda: not bob.users)

        transports: tuple[TransportName, ...] = ("webrtc", "udp", "auto")
        for transport in transports:  # whatever is made once, is made here
            await join_and_leave(transport)
        before, objects = resources(), sys.getallocatedblocks()
        for number in range(joins):
            await join_and_leave(transports[number % 3])
        await eventually(lambda: resources() == before)
        growth = sys.getallocatedblocks() - objects
        note(f"{joins} joins and leaves: {growth:+d} blocks of memory")
        # Streams and tickets are remembered for a while, in tables that are bounded: 40 blocks for
        # each join. A connection is thousands of them.
        assert growth < 1000 + 60 * joins
        assert lab.server.rooms[RoomKey(GUILD_ID, CHANNEL_ID)].user_ids == (bob.id,)

    @pytest.mark.parametrize("frames", [250, pytest.param(3000, marks=pytest.mark.slow)])
    async def test_ten_users_on_both_transports_hear_each_other_in_order(self, frames: int) -> None:
        await party(20)
        before = resources()
        growth = await party(frames)
        assert resources() == before
        note(f"ten users, {frames} frames each: {growth:+d} blocks of memory in the second half")
        # Some windows of seen packets are still filling. A leak per packet would be 45 a frame.
        assert growth < 1500 + frames


async def party(frames: int) -> int:
    """Ten users who all hear each other.

    Returns:
        How many more blocks of memory Python had at the end than halfway. The memory of the
        process tells less: FFmpeg keeps as many frames as ever waited to be read.
    """
    heard: dict[tuple[int, int], int] = {}

    async def hear(receiver: VoiceConnection, sender: VoiceConnection) -> None:
        track = (await receiver.user(sender.id)).microphone
        stamps = StampReader()
        with track.reader(limit=100) as reader:
            first = stamps.read(await reader.recv()).number  # type: ignore[arg-type]  # sound
            assert first <= 1  # the codec needs a frame to find its feet
            for number in range(first + 1, first + frames):
                assert stamps.read(await reader.recv()).number == number  # type: ignore[arg-type]
                heard[receiver.id, sender.id] = number

    async with Lab() as lab:
        users = [await lab.user(f"user {n}", "webrtc" if n % 2 else "udp") for n in range(10)]
        for user in users:
            await user.secured(timeout=10)
        async with asyncio.timeout(60 + frames * 0.05), asyncio.TaskGroup() as group:
            for receiver in users:
                for sender in users:
                    if sender is not receiver:
                        group.create_task(hear(receiver, sender))
            for sender in users:
                await sender.publish(microphone=TestTone())
            await eventually(
                lambda: len(heard) == 90 and min(heard.values()) >= frames // 2,
                within=60 + frames * 0.05,
            )
            gc.collect()
            half = sys.getallocatedblocks()
        gc.collect()
        growth = sys.getallocatedblocks() - half
        for user in users:
            for queue in user.stats().queues:
                assert queue.high_water < queue.bound, (user, queue)
                assert queue.dropped == 0, (user, queue)
        assert lab.server.counters.get("media.send-dropped", 0) == 0
    return growth
