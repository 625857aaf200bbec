"""Received tracks, alone and in the hands of aiortc's own consumers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from aiortc.contrib.media import MediaBlackhole, MediaRecorder, MediaRelay
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, VideoStreamTrack

from discord_rtc.errors import UsageError
from discord_rtc.frames import MediaKind
from discord_rtc.media.track import MediaTrack, RemoteTrack, TrackStats

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio


def picture(number: int) -> av.VideoFrame:
    frame = av.VideoFrame(32, 32, "yuv420p")
    for plane in frame.planes:
        plane.update(bytes([number % 256]) * plane.buffer_size)
    frame.pts, frame.time_base = number * 3000, Fraction(1, 90_000)
    return frame


def sound(number: int) -> av.AudioFrame:
    times = np.arange(number * 960, (number + 1) * 960) / 48_000
    wave = (8000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(wave.repeat(2)[None, :], format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = 48_000, number * 960, Fraction(1, 48_000)
    return frame


async def numbers(track: MediaTrack) -> list[int]:
    """Read to the end."""
    read = []
    with contextlib.suppress(MediaStreamError):
        while True:
            frame = await track.recv()
            assert isinstance(frame, av.VideoFrame)
            assert frame.pts is not None
            read.append(frame.pts // 3000)
    return read


async def test_aiortc_tracks_and_ours_have_the_shape_of_a_track() -> None:
    tracks: list[MediaTrack] = [
        VideoStreamTrack(),
        AudioStreamTrack(),
        RemoteTrack(MediaKind.VIDEO),
    ]
    assert [track.kind for track in tracks] == ["video", "audio", "video"]
    for track in tracks:
        track.stop()
    assert [track.readyState for track in tracks] == ["ended"] * 3


async def test_a_live_reader_keeps_the_newest_two_pictures() -> None:
    track = RemoteTrack(MediaKind.VIDEO)
    reader = track.reader()
    for number in range(5):
        track.deliver(picture(number))
    track.finish()
    assert [frame.pts async for frame in reader] == [9000, 12_000]
    assert reader.dropped == 3
    assert track.stats() == TrackStats(delivered=5, dropped=3, readers=1, high_water=2, bound=2)


async def test_a_live_reader_keeps_200_ms_of_sound() -> None:
    track = RemoteTrack(MediaKind.AUDIO)
    reader = track.reader()
    for number in range(12):
        track.deliver(sound(number))
    track.finish()
    assert [frame.pts async for frame in reader] == [number * 960 for number in range(2, 12)]


async def test_each_reader_has_its_own_queue() -> None:
    track = RemoteTrack(MediaKind.VIDEO)
    patient, live = track.reader(limit=60), track.reader()
    for number in range(10):
        track.deliver(picture(number))
    track.finish()
    assert len([frame async for frame in patient]) == 10
    assert len([frame async for frame in live]) == 2
    assert (patient.dropped, live.dropped) == (0, 8)


async def test_stats_show_the_fullest_queue_and_keep_what_closed_readers_dropped() -> None:
    track = RemoteTrack(MediaKind.VIDEO)
    first, second = track.reader(limit=3), track.reader(limit=100)
    for number in range(4):
        track.deliver(picture(number))
    first.close()
    second.close()
    assert track.stats() == TrackStats(delivered=4, dropped=1, readers=0, high_water=3, bound=3)


async def test_reader_waits_for_the_next_frame() -> None:
    track = RemoteTrack(MediaKind.VIDEO)
    waiting = asyncio.create_task(track.recv())
    await asyncio.sleep(0)
    assert not waiting.done()
    frame = picture(1)
    track.deliver(frame)
    assert await waiting is frame
    track.stop()


async def test_a_cancelled_recv_loses_no_frame() -> None:
    track = RemoteTrack(MediaKind.VIDEO)
    waiting = asyncio.create_task(track.recv())
    await asyncio.sleep(0)
    frame = picture(1)
    track.deliver(frame)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await track.recv() is frame
    track.stop()


async def test_two_waiters_on_one_track_get_one_frame_each() -> None:
    track = RemoteTrack(MediaKind.VIDEO)
    waiting = [asyncio.create_task(track.recv()) for _ in range(2)]
    await asyncio.sleep(0)
    frames = [picture(1), picture(2)]
    track.deliver(frames[0])
    await asyncio.sleep(0)
    track.deliver(frames[1])
    assert await asyncio.gather(*waiting) == frames
    track.stop()


async def test_demand_follows_the_first_and_the_last_reader() -> None:
    demands: list[bool] = []
    track = RemoteTrack(MediaKind.VIDEO, on_demand=demands.append)
    wanted = [track.wanted]
    with track.reader():
        assert demands == [True]
        with track.reader():
            wanted.append(track.wanted)
        assert demands == [True]
    assert demands == [True, False]
    assert [*wanted, track.wanted] == [False, True, False]


async def test_the_first_recv_is_a_demand_and_stop_is_the_end_of_it() -> None:
    demands: list[bool] = []
    track = RemoteTrack(MediaKind.VIDEO, on_demand=demands.append)
    track.deliver(picture(0))
    waiting = asyncio.create_task(track.recv())
    await asyncio.sleep(0)
    assert demands == [True]
    track.stop()
    with pytest.raises(MediaStreamError):
        await waiting
    assert demands == [True, False]


async def test_nothing_is_demanded_of_a_track_that_has_finished() -> None:
    demands: list[bool] = []
    track = RemoteTrack(MediaKind.VIDEO, on_demand=demands.append)
    reader = track.reader()
    track.finish()
    reader.close()
    late = track.reader()
    with pytest.raises(MediaStreamError):
        await late.recv()
    late.close()
    track.stop()
    assert demands == [True]


async def test_frames_before_the_first_reader_are_not_kept() -> None:
    track = RemoteTrack(MediaKind.VIDEO)
    track.deliver(picture(0))
    assert track.stats() == TrackStats(delivered=1, dropped=0, readers=0, high_water=0, bound=2)


async def test_finish_lets_readers_drain_and_emits_ended_once() -> None:
    track = RemoteTrack(MediaKind.VIDEO)
    ended: list[str] = []
    track.on("ended", lambda: ended.append("ended"))
    reading = asyncio.create_task(numbers(track))
    await asyncio.sleep(0)
    track.deliver(picture(7))
    track.finish()
    track.finish()
    assert track.readyState == "ended"
    assert await reading == [7]
    with pytest.raises(MediaStreamError):
        await track.recv()
    track.stop()
    assert ended == ["ended"]


async def test_a_closed_reader_forgets_what_waited() -> None:
    track = RemoteTrack(MediaKind.VIDEO)
    reader = track.reader()
    track.deliver(picture(0))
    reader.close()
    reader.close()
    with pytest.raises(MediaStreamError):
        await reader.recv()


async def test_a_reader_without_room_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one frame"):
        RemoteTrack(MediaKind.VIDEO).reader(limit=0)


async def test_reprs_tell_a_notebook_what_goes_on() -> None:
    track = RemoteTrack(MediaKind.VIDEO, label="bob camera")
    reader = track.reader()
    track.deliver(picture(0))
    assert repr(track) == "<RemoteTrack video 'bob camera' live, 1 readers, 1 frames, 0 dropped>"
    assert repr(reader) == "<TrackReader live, 1/2 waiting, 0 dropped>"
    reader.close()
    assert repr(reader) == "<TrackReader ended, 0/2 waiting, 0 dropped>"
    assert repr(RemoteTrack(MediaKind.AUDIO)).startswith("<RemoteTrack audio live")


async def test_an_abandoned_track_is_collected_without_a_warning() -> None:
    track = RemoteTrack(MediaKind.VIDEO)
    reader = track.reader()
    track.deliver(picture(0))
    del track, reader
    gc.collect()  # a ResourceWarning would be an error here


@pytest.mark.interop
async def test_media_relay_of_aiortc_serves_two_consumers() -> None:
    track = RemoteTrack(MediaKind.VIDEO)
    relay = MediaRelay()
    readings = [asyncio.create_task(numbers(relay.subscribe(track))) for _ in range(2)]
    await asyncio.sleep(0)
    for number in range(10):
        await asyncio.sleep(0)
        track.deliver(picture(number))
        await asyncio.sleep(0)
    track.finish()
    assert await asyncio.gather(*readings) == [list(range(10))] * 2


@pytest.mark.interop
async def test_media_blackhole_of_aiortc_reads_to_the_end() -> None:
    track = RemoteTrack(MediaKind.AUDIO)
    hole = MediaBlackhole()
    hole.addTrack(track)
    await hole.start()
    for number in range(3):
        await asyncio.sleep(0)
        track.deliver(sound(number))
    assert track.stats().readers == 1
    track.finish()
    await asyncio.sleep(0)
    await hole.stop()


@pytest.mark.interop
@pytest.mark.parametrize("name", ["heard.wav", "seen.mp4"])
async def test_media_recorder_of_aiortc_writes_what_was_delivered(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    audio = RemoteTrack(MediaKind.AUDIO)
    tracks = [audio] if name.endswith("wav") else [audio, video := RemoteTrack(MediaKind.VIDEO)]
    recorder = MediaRecorder(str(path))
    for track in tracks:
        recorder.addTrack(track)
    await recorder.start()
    await asyncio.sleep(0)  # it reads from here on
    for number in range(25):
        audio.deliver(sound(number))
        if len(tracks) == 2:
            video.deliver(picture(number))
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    for track in tracks:
        track.finish()
    await asyncio.sleep(0.01)
    await recorder.stop()
    with av.open(str(path)) as recorded:
        decoded = [frame for frame in recorded.decode(audio=0) if frame.pts is not None]
        assert sum(frame.samples for frame in decoded) >= 25 * 960
    if len(tracks) == 2:
        with av.open(str(path)) as recorded:
            assert sum(1 for _ in recorded.decode(video=0)) == 25
