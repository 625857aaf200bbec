"""Whole calls over real sockets: client, local server, client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import av
import pytest

from discord_rtc import (
    Codec,
    ConnectionOptions,
    Invalidated,
    MediaKind,
    PublishingEnded,
    Recorder,
    SpeakingFlags,
    TestPattern,
    TestTone,
    TrackStarted,
    UserLeft,
    UserSpeaking,
    VideoNotGranted,
    connect,
    memory_pair,
    read_stamp,
)
from discord_rtc.crypto.modes import DISCONTINUED_MODES, LIVE_MODES
from discord_rtc.errors import NoCommonMode, UnsupportedMedia
from discord_rtc.lab import Lab
from discord_rtc.netem import Impairment
from discord_rtc.protocol.opcodes import VoiceCloseCode
from discord_rtc.server import LocalServer

if TYPE_CHECKING:
    from pathlib import Path

    from discord_rtc import RemoteTrack, VoiceConnection

pytestmark = pytest.mark.asyncio


async def numbers_of(track: RemoteTrack, count: int) -> list[int]:
    """Stamps of the next frames; the codec's first audio frames may be unreadable."""
    found: list[int] = []
    # A deep queue, so that a busy machine delays frames and does not drop them.
    with track.reader(limit=100) as reader:
        while len(found) < count:
            try:
                found.append(read_stamp(await reader.recv()).number)  # type: ignore[arg-type]
            except UnsupportedMedia:
                assert len(found) < 2, "a frame in mid-call is unreadable"
                found.clear()
    return found


async def assert_media_flows(sender: VoiceConnection, receiver: VoiceConnection) -> None:
    user = await receiver.user(sender.id, timeout=5)
    await sender.publish(camera=TestPattern(320, 240, fps=30), microphone=TestTone())
    async with asyncio.timeout(10):
        pictures, sounds = await asyncio.gather(
            numbers_of(user.camera, 20), numbers_of(user.microphone, 30)
        )
    assert pictures == list(range(pictures[0], pictures[0] + 20))
    assert sounds == list(range(sounds[0], sounds[0] + 30))


@pytest.mark.parametrize("codec", [Codec.H264, Codec.VP8])
async def test_stamped_audio_and_video_arrive_whole_and_in_order(lab: Lab, codec: Codec) -> None:
    options = ConnectionOptions(codecs=(codec,))
    ann = await lab.user("ann", options=options)
    bob = await lab.user("bob", options=options)
    await assert_media_flows(ann, bob)
    assert ann.codec is codec
    stats = bob.stats()
    assert stats.rtp is not None
    assert {s.codec for s in stats.rtp.inbound} == {Codec.OPUS, codec}
    assert all(s.cumulative_lost == 0 and s.malformed_frames == 0 for s in stats.rtp.inbound)
    assert all(queue.dropped == 0 for queue in stats.queues)


@pytest.mark.parametrize("mode", [*LIVE_MODES, *DISCONTINUED_MODES])
async def test_every_transport_mode_carries_a_call(mode: str) -> None:
    async with Lab(LocalServer(modes=(mode,))) as lab:
        options = ConnectionOptions(modes=(mode,))
        ann, bob = await lab.user("ann", options=options), await lab.user("bob", options=options)
        assert ann.transport == bob.transport == "udp"
        await assert_media_flows(ann, bob)


@pytest.mark.parametrize("mode", DISCONTINUED_MODES)
async def test_discontinued_modes_are_not_used_unless_named(mode: str) -> None:
    async with Lab(LocalServer(modes=(mode,))) as lab:
        with pytest.raises(NoCommonMode, match=mode):
            await lab.user("ann", "udp")


@pytest.mark.parametrize("version", range(4, 10))
async def test_every_gateway_version_carries_a_call(lab: Lab, version: int) -> None:
    ann = await lab.user("ann", options=ConnectionOptions(gateway_version=version))
    bob = await lab.user("bob", options=ConnectionOptions(gateway_version=version))
    await assert_media_flows(ann, bob)


async def test_both_orders_of_the_gateway_events_lead_to_a_call() -> None:
    async with Lab(LocalServer(server_update_first=True)) as lab:
        ann, bob = await lab.users(ann="udp", bob="udp")
        await assert_media_flows(ann, bob)


async def test_the_shipped_memory_transport_fits_where_a_socket_fits(lab: Lab) -> None:
    one, two = memory_pair()
    ann = await lab.user("ann", lambda _clock: one)
    bob = await lab.user("bob", lambda _clock: two)
    await assert_media_flows(ann, bob)
    assert "media.rtp-in" not in lab.server.counters


async def test_a_sender_that_does_not_receive_skips_discovery(lab: Lab) -> None:
    ann = await lab.user("ann", options=ConnectionOptions(receive=False))
    assert "media.discovery" not in lab.server.counters
    bob = await lab.user("bob")
    await assert_media_flows(ann, bob)


async def test_credentials_from_elsewhere_are_enough(voice_server: LocalServer) -> None:
    async with (
        await connect(voice_server.admit(1, 10, 20)) as ann,
        await connect(voice_server.admit(2, 10, 20)) as bob,
    ):
        await assert_media_flows(ann, bob)


async def test_a_late_joiner_sees_a_picture_at_once(lab: Lab) -> None:
    ann, bob = await lab.users(ann="udp", bob="udp")
    await assert_media_flows(ann, bob)
    cat = await lab.user("cat")
    camera = (await cat.user(ann.id, timeout=5)).camera
    async with asyncio.timeout(2):
        frame = await camera.recv()
    assert isinstance(frame, av.VideoFrame)


async def test_video_that_is_not_granted_is_refused_before_anything_is_encoded() -> None:
    async with Lab(LocalServer(grant_video=lambda _user: False)) as lab:
        ann = await lab.user("ann")
        with pytest.raises(VideoNotGranted, match="does not let bots send camera or Go Live"):
            await ann.publish(camera=TestPattern(320, 240))
        stats = ann.stats()
        assert stats.rtp is not None
        assert stats.rtp.outbound == ()
        assert stats.published == {}


async def test_what_is_published_before_connecting_takes_effect_when_live(lab: Lab) -> None:
    client = await lab.client("ann")
    ann = client.connection(10)
    started = ann.events()
    await ann.publish(microphone=TestTone())
    await ann.connect(20)
    bob = await lab.user("bob")
    user = await bob.user(ann.id, timeout=5)
    async with asyncio.timeout(5):
        assert len(await numbers_of(user.microphone, 5)) == 5
    started.close()


async def test_speech_begins_and_ends_with_its_flags(lab: Lab) -> None:
    ann, bob = await lab.users(ann="udp", bob="udp")
    flags = SpeakingFlags.VOICE | SpeakingFlags.PRIORITY
    async with bob.events(UserSpeaking, TrackStarted) as events, asyncio.timeout(5):
        await ann.publish(microphone=TestTone(), speaking=flags)
        told = [await anext(events), await anext(events)]
        await ann.unpublish("microphone")
        told.append(await anext(events))
    assert isinstance(told[0], TrackStarted)
    assert told[0].kind is MediaKind.AUDIO
    assert told[1:] == [
        UserSpeaking(ann.id, speaking=True, flags=flags),
        UserSpeaking(ann.id, speaking=False, flags=SpeakingFlags.NONE),
    ]


async def test_muting_stops_the_sound_and_unmuting_brings_it_back(lab: Lab) -> None:
    ann, bob = await lab.users(ann="udp", bob="udp")
    async with bob.events(UserSpeaking) as events, asyncio.timeout(5):
        await ann.publish(microphone=TestTone())
        assert (await anext(events)).speaking
        await ann.update_voice_state(self_mute=True)
        assert not (await anext(events)).speaking
        await ann.update_voice_state(self_mute=False)
        assert (await anext(events)).speaking


async def test_a_replaced_track_goes_on_without_a_gap_in_the_stream(lab: Lab) -> None:
    ann, bob = await lab.users(ann="udp", bob="udp")
    await assert_media_flows(ann, bob)
    before = bob.stats().rtp
    await ann.replace_track(camera=TestPattern(640, 360, fps=30))
    camera = bob.users[ann.id].camera
    async with asyncio.timeout(5):
        while (frame := await camera.recv()).width != 640:  # type: ignore[union-attr]
            pass
    assert isinstance(frame, av.VideoFrame)
    after = bob.stats().rtp
    assert before is not None
    assert after is not None
    assert {s.ssrc for s in before.inbound} == {s.ssrc for s in after.inbound}
    assert all(s.cumulative_lost == 0 and s.restarts == 0 for s in after.inbound)


async def test_a_track_that_ends_tells_its_publisher(lab: Lab) -> None:
    ann, _ = await lab.users(ann="udp", bob="udp")
    tone = TestTone()
    async with ann.events(PublishingEnded) as events, asyncio.timeout(5):
        await ann.publish(microphone=tone)
        tone.stop()
        assert await anext(events) == PublishingEnded(MediaKind.AUDIO, None)


async def test_a_user_who_leaves_ends_the_tracks(lab: Lab) -> None:
    ann, bob = await lab.users(ann="udp", bob="udp")
    await assert_media_flows(ann, bob)
    user = bob.users[ann.id]
    async with asyncio.timeout(5):
        left = asyncio.ensure_future(bob.until(UserLeft))
        await asyncio.sleep(0)
        await lab.leave("ann")
        assert (await left).user_id == ann.id
    assert user.camera.readyState == user.microphone.readyState == "ended"
    assert bob.users == {}


async def test_a_kicked_user_is_told_and_everything_ends(lab: Lab) -> None:
    ann, bob = await lab.users(ann="udp", bob="udp")
    events = ann.events(Invalidated)
    lab.server.kick(ann.id, 10)
    async with asyncio.timeout(5):
        told = await anext(events)
    assert told.error is not None
    assert not ann.is_valid
    assert ann.state == "closed"
    await ann.publish(microphone=TestTone())  # an action on an invalid connection is a no-op
    assert bob.is_valid


async def test_a_session_that_ended_is_joined_anew_and_media_goes_on(lab: Lab) -> None:
    ann, bob = await lab.users(ann="udp", bob="udp")
    await assert_media_flows(ann, bob)
    left = bob.events(UserLeft)
    assert lab.server.close_voice(ann.id, 10, VoiceCloseCode.SESSION_NO_LONGER_VALID)
    async with asyncio.timeout(10):
        await anext(left)
        user = await bob.user(ann.id)
        assert len(await numbers_of(user.camera, 5)) == 5
    assert ann.state == "connected"


async def test_two_rooms_and_two_guilds_do_not_hear_each_other(lab: Lab) -> None:
    ann = await lab.user("ann", channel_id=20)
    bob = await lab.user("bob", channel_id=21)
    cat = await lab.user("cat", guild_id=11, channel_id=20)
    dan = await lab.user("dan", channel_id=20)
    await dan.user(ann.id, timeout=5)
    assert bob.users == {}
    assert cat.users == {}
    assert set(dan.users) == {ann.id}


async def test_junk_on_the_media_port_does_not_disturb_a_call(lab: Lab) -> None:
    ann, bob = await lab.users(ann="udp", bob="udp")
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=lab.server.media_address
    )
    for junk in (b"", b"\x80", bytes(74), b"\x80\x78" + bytes(60), b"\x80\xc8" + bytes(60)):
        transport.sendto(junk)
    transport.close()
    await assert_media_flows(ann, bob)


async def test_padding_csrcs_and_foreign_extensions_lose_nothing(lab: Lab) -> None:
    lab.faults.padding(0.3, padding_only=0.1, seed=3)
    lab.faults.headers(0.3, seed=4)
    ann, bob = await lab.users(ann="udp", bob="udp")
    await assert_media_flows(ann, bob)
    stats = bob.stats()
    assert stats.rtp is not None
    assert stats.transport is not None
    assert not stats.transport.drops
    assert not stats.rtp.drops
    assert all(s.malformed_frames == 0 and s.cumulative_lost == 0 for s in stats.rtp.inbound)


async def test_jitter_reordering_and_duplicates_lose_nothing(lab: Lab) -> None:
    rough = Impairment(delay=0.02, jitter=0.01, reorder=0.05, duplicate=0.05)
    lab.faults.impair(up=rough, down=rough, seed=5)
    ann, bob = await lab.users(ann="udp", bob="udp")
    await assert_media_flows(ann, bob)
    counters = lab.faults.counters
    assert counters["up-reordered"] > 0
    assert counters["down-duplicated"] > 0


async def test_a_recording_of_a_call_keeps_sound_and_picture_together(
    lab: Lab, tmp_path: Path
) -> None:
    ann, bob = await lab.users(ann="udp", bob="udp")
    user = await bob.user(ann.id, timeout=5)
    path = tmp_path / "call.mp4"
    async with Recorder(path, user.camera, user.microphone):
        await ann.publish(camera=TestPattern(320, 240, fps=30), microphone=TestTone())
        await asyncio.sleep(2.5)
    with av.open(str(path)) as recording:
        # Both sources stamp the time of sending: the distance from it to the file's own time
        # must be the same for sound and picture.
        shown = [
            read_stamp(frame).sent_at - float(frame.pts * frame.time_base)
            for frame in recording.decode(video=0)
            if frame.pts is not None and frame.time_base is not None
        ]
    assert len(shown) > 50
    shown.sort()  # a busy machine sends a picture late now and then, and says so in its stamp
    few = len(shown) // 20
    assert shown[-1 - few] - shown[few] < 0.04
