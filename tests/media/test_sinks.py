from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import av
import numpy as np
import pytest

from discord_rtc.errors import EncoderFailed, InvalidState, MediaError, UsageError
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.media.planes import plane
from discord_rtc.media.sinks import Recorder
from discord_rtc.media.sources import open_media
from discord_rtc.media.track import MediaStreamError, MediaStreamTrack, RemoteTrack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

RATE = 48_000
FPS = 30


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 2
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def _picture(number: int, size: tuple[int, int] = (160, 90), start: float = 0) -> av.VideoFrame:
    width, height = size
    frame = av.VideoFrame(width, height, "yuv420p")
    across, down = np.arange(width)[None, :] / width, np.arange(height)[:, None] / height
    plane(frame, 0)[:] = 126 + 60 * np.sin(6 * across + number / 8) + 40 * np.cos(5 * down)
    plane(frame, 1)[:] = 100
    plane(frame, 2)[:] = 150
    frame.pts, frame.time_base = round((start + number / FPS) * 90_000), Fraction(1, 90_000)
    return frame


def _signal(first: int, count: int) -> NDArray[np.float64]:
    """A sweep that is unlike itself at every other place."""
    times = (first + np.arange(count)) / RATE
    return 0.3 * np.sin(2 * np.pi * (200 + 150 * times) * times)


def _sound(number: int, start: float = 0, samples: int = 960) -> av.AudioFrame:
    """The ``number``-th frame of the sweep, at its place in time."""
    pcm = (_signal(number * samples, samples) * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(np.repeat(pcm, 2).reshape(1, -1), "s16", "stereo")
    frame.sample_rate = RATE
    frame.pts, frame.time_base = round(start * RATE) + number * samples, Fraction(1, RATE)
    return frame


class Recorded(NamedTuple):
    pictures: list[av.VideoFrame]
    sound: NDArray[np.float64]
    sound_start: float
    duration: float
    codecs: list[str]


def _load(path: Path) -> Recorded:
    with av.open(str(path)) as container:
        pictures: list[av.VideoFrame] = []
        sound: list[NDArray[np.float64]] = []
        start = 0.0
        resampler = av.AudioResampler("fltp", "stereo", RATE)
        for frame in container.decode(*container.streams.video[:1], *container.streams.audio[:1]):
            if isinstance(frame, av.VideoFrame):
                pictures.append(frame)
                continue
            assert isinstance(frame, av.AudioFrame)
            start = start if sound else float(frame.time or 0)
            sound += [piece.to_ndarray()[0].astype(float) for piece in resampler.resample(frame)]
        duration = (container.duration or 0) / 1_000_000
        codecs = [stream.codec_context.name for stream in container.streams]
    return Recorded(
        pictures, np.concatenate(sound) if sound else np.zeros(0), start, duration, codecs
    )


def _psnr(one: av.VideoFrame, two: av.VideoFrame) -> float:
    difference = plane(one, 0).astype(float) - plane(two, 0)
    return float(10 * np.log10(255**2 / max((difference**2).mean(), 1e-9)))


def _correlation(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    return float(np.corrcoef(one, two)[0, 1])


def _tracks() -> tuple[RemoteTrack, RemoteTrack]:
    return RemoteTrack(MediaKind.VIDEO), RemoteTrack(MediaKind.AUDIO)


def _deliver(
    video: RemoteTrack | None, audio: RemoteTrack | None, seconds: float, start: float = 0
) -> None:
    for number in range(round(seconds * FPS) if video else 0):
        assert video
        video.deliver(_picture(number, start=start))
    for number in range(round(seconds * 50) if audio else 0):
        assert audio
        audio.deliver(_sound(number, start=start))


async def _settled(recorder: Recorder, condition: Callable[[], bool]) -> None:
    for _ in range(4000):  # 20 s
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail(f"still {recorder.stats()}")


@pytest.mark.parametrize(
    ("suffix", "codecs", "loss"),
    [
        (".mp4", ["h264", "aac"], 0.99),
        (".m4v", ["h264", "aac"], 0.99),
        (".mov", ["h264", "aac"], 0.99),
        (".mkv", ["h264", "opus"], 0.99),
        (".webm", ["vp8", "opus"], 0.99),
    ],
)
def test_a_film_is_recorded_as_it_was(
    tmp_path: Path, suffix: str, codecs: list[str], loss: float
) -> None:
    path = tmp_path / f"out{suffix}"

    async def scenario() -> None:
        video, audio = _tracks()
        async with Recorder(path, video, audio) as recorder:
            _deliver(video, audio, 2, start=1234.5)
        stats = recorder.stats()
        assert [track.frames for track in stats.tracks] == [60, 100]
        assert stats.dropped == stats.jumps == 0
        assert all(0 < track.high_water <= track.bound for track in stats.tracks)

    asyncio.run(scenario())
    recorded = _load(path)
    assert recorded.codecs == codecs
    assert recorded.duration == pytest.approx(2, abs=0.05)
    assert len(recorded.pictures) == 60
    for number in range(0, 60, 7):
        assert recorded.pictures[number].time == pytest.approx(number / FPS, abs=0.001)
        assert _psnr(recorded.pictures[number], _picture(number)) > 33
    assert recorded.sound_start == 0
    assert len(recorded.sound) == pytest.approx(2 * RATE, abs=1100)
    assert _correlation(recorded.sound[4800:90_000], _signal(4800, 85_200)) > loss


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".ogg", "opus"), (".opus", "opus"), (".wav", "pcm_s16le")]
)
def test_sound_alone(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"out{suffix}"

    async def scenario() -> None:
        audio = RemoteTrack(MediaKind.AUDIO)
        async with Recorder(path, audio):
            _deliver(None, audio, 2)

    asyncio.run(scenario())
    recorded = _load(path)
    assert recorded.codecs == [codec]
    assert len(recorded.sound) == pytest.approx(2 * RATE, abs=10)
    assert _correlation(recorded.sound[4800:90_000], _signal(4800, 85_200)) > 0.99
    assert path.stat().st_size < 2 * RATE * 4 + 200


def test_gaps_become_exactly_as_much_silence(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"

    async def scenario() -> None:
        audio = RemoteTrack(MediaKind.AUDIO)
        async with Recorder(path, audio) as recorder:
            for number in [*range(10), *range(11, 20), *range(70, 90)]:  # 20 ms and 1 s missing
                audio.deliver(_sound(number, start=7))
        assert recorder.stats().tracks[0].silence_inserted_s == pytest.approx(1.02)

    asyncio.run(scenario())
    sound = _load(path).sound
    assert len(sound) == 90 * 960
    expected = _signal(0, 90 * 960)
    expected[10 * 960 : 11 * 960] = expected[20 * 960 : 70 * 960] = 0
    assert np.abs(sound - expected).max() < 1e-3


def test_overlaps_are_cut_and_jitter_is_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"

    async def scenario() -> None:
        audio = RemoteTrack(MediaKind.AUDIO)
        async with Recorder(path, audio) as recorder:
            for number in [*range(10), 4, *range(8, 20)]:  # again: one, and two
                frame = _sound(number)
                assert frame.pts is not None
                frame.pts += 400 if number in {1, 3, 13} else 0  # 8 ms
                audio.deliver(frame)
        [stats] = recorder.stats().tracks
        assert stats.skipped == 3
        assert stats.silence_inserted_s == 0

    asyncio.run(scenario())
    sound = _load(path).sound
    assert np.abs(sound - _signal(0, 20 * 960)).max() < 1e-3


def test_a_part_of_a_frame_that_overlaps_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"

    async def scenario() -> None:
        audio = RemoteTrack(MediaKind.AUDIO)
        async with Recorder(path, audio):
            audio.deliver(_sound(0, samples=4800))
            late = _sound(1, samples=4800)
            late.pts = 2400
            audio.deliver(late)

    asyncio.run(scenario())
    sound = _load(path).sound
    assert len(sound) == 7200
    assert np.abs(sound[4800:] - _signal(4800 + 2400, 2400)).max() < 1e-3


def test_a_long_silence_is_written_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "out.ogg"

    async def scenario() -> None:
        audio = RemoteTrack(MediaKind.AUDIO)
        async with Recorder(path, audio) as recorder:
            for minute in range(10):  # each within what timestamps may run ahead of the clock
                audio.deliver(_sound(0, start=minute * 59))
        assert recorder.stats().tracks[0].silence_inserted_s == pytest.approx(531 - 9 * 0.02)

    asyncio.run(scenario())
    assert _load(path).duration == pytest.approx(531.02, abs=0.02)
    assert path.stat().st_size < 1_000_000


def test_an_absurd_jump_is_not_filled(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"

    async def scenario() -> None:
        video, audio = _tracks()
        async with Recorder(path, video, audio) as recorder:
            _deliver(video, audio, 0.5)
            _deliver(video, audio, 0.5, start=1_000_000)
        assert recorder.stats().jumps == 2

    asyncio.run(scenario())
    assert _load(path).duration == pytest.approx(1, abs=0.5)


def test_rates_and_formats_of_sound_may_change(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"

    async def scenario() -> None:
        audio = RemoteTrack(MediaKind.AUDIO)
        async with Recorder(path, audio):
            for number in range(10):
                audio.deliver(_sound(number))
            for number in range(10, 20):
                pcm = (_signal(number * 960, 960)[::3]).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), "flt", "mono")
                frame.sample_rate, frame.pts = 16_000, number * 320
                frame.time_base = Fraction(1, 16_000)
                audio.deliver(frame)

    asyncio.run(scenario())
    sound = _load(path).sound
    assert len(sound) == pytest.approx(20 * 960, abs=960)
    assert np.abs(sound[:9600] - _signal(0, 9600)).max() < 1e-3
    late = sound[9600:18_000]
    assert _correlation(late, _signal(9600, 8400)) > 0.98
    assert late.std() == pytest.approx(_signal(9600, 8400).std(), rel=0.02)


def test_a_track_that_begins_late_is_put_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"

    async def scenario() -> None:
        video, audio = _tracks()
        async with Recorder(path, video, audio) as recorder:
            for number in range(45):
                video.deliver(_picture(number, start=100))
            for number in range(30, 75):
                audio.deliver(_sound(number, start=100))
        assert recorder.stats().tracks[1].silence_inserted_s == pytest.approx(0.6, abs=0.002)

    asyncio.run(scenario())
    recorded = _load(path)
    assert recorded.pictures[0].time == 0
    sound = recorded.sound
    assert np.abs(sound[: 29 * 960]).max() < 0.01
    assert _correlation(sound[32 * 960 : 70 * 960], _signal(32 * 960, 38 * 960)) > 0.99


def test_the_last_picture_stays_until_the_sound_ends_and_the_other_way(tmp_path: Path) -> None:
    async def scenario(path: Path, pictures: float, sound: float) -> None:
        video, audio = _tracks()
        async with Recorder(path, video, audio):
            _deliver(video, None, pictures)
            _deliver(None, audio, sound)

    for pictures, sound in ((0.5, 2), (2, 0.5)):
        path = tmp_path / "out.mp4"
        asyncio.run(scenario(path, pictures, sound))
        with av.open(str(path)) as container:
            for stream in container.streams:
                assert stream.duration is not None
                assert stream.time_base is not None
                assert float(stream.duration * stream.time_base) == pytest.approx(2, abs=0.05)
        recorded = _load(path)
        assert _psnr(recorded.pictures[-1], _picture(round(pictures * FPS) - 1)) > 33


def test_pictures_out_of_order_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"

    async def scenario() -> None:
        video = RemoteTrack(MediaKind.VIDEO)
        async with Recorder(path, video) as recorder:
            for number in (0, 1, 2, 2, 1, 3, 10):
                video.deliver(_picture(number))
        assert recorder.stats().tracks[0].skipped == 2

    asyncio.run(scenario())
    times = [frame.time for frame in _load(path).pictures]
    assert times == pytest.approx([0, 1 / FPS, 2 / FPS, 3 / FPS, 10 / FPS], abs=0.001)


def test_pictures_of_other_sizes_are_fitted_into_the_first(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"

    async def scenario() -> None:
        video = RemoteTrack(MediaKind.VIDEO)
        async with Recorder(path, video) as recorder:
            sizes = [(161, 91), (320, 180), (90, 160), (160, 90)]
            for number in range(40):
                video.deliver(_picture(number, sizes[number // 10]))
        assert recorder.stats().tracks[0].resized == 20

    asyncio.run(scenario())
    pictures = _load(path).pictures
    assert {(frame.width, frame.height) for frame in pictures} == {(160, 90)}
    assert _psnr(pictures[15], _picture(15)) > 30  # scaled down from twice the size
    assert abs(plane(pictures[25], 0)[:, :50].astype(int) - 16).max() <= 4  # black beside
    assert _psnr(pictures[35], _picture(35)) > 30


def test_frames_that_others_read_are_not_changed(tmp_path: Path) -> None:
    async def scenario() -> None:
        video, audio = _tracks()
        with video.reader(limit=5) as pictures, audio.reader(limit=5) as sounds:
            async with Recorder(tmp_path / "out.mp4", video, audio):
                for number in range(3):
                    video.deliver(_picture(number, start=50))
                    audio.deliver(_sound(number, start=50))
            for number in range(3):
                picture, sound = await pictures.recv(), await sounds.recv()
                assert isinstance(picture, av.VideoFrame)
                assert (picture.pts, picture.time_base) == (
                    4_500_000 + 3000 * number,
                    Fraction(1, 90_000),
                )
                assert np.array_equal(plane(picture, 0), plane(_picture(number), 0))
                assert (sound.pts, sound.time_base) == (
                    2_400_000 + 960 * number,
                    Fraction(1, RATE),
                )

    asyncio.run(scenario())


def test_nobody_decodes_for_a_stopped_recorder(tmp_path: Path) -> None:
    demand: list[bool] = []

    async def scenario() -> None:
        audio = RemoteTrack(MediaKind.AUDIO, on_demand=demand.append)
        async with Recorder(tmp_path / "out.wav", audio):
            assert demand == [True]
            audio.deliver(_sound(0))
        assert demand == [True, False]

    asyncio.run(scenario())


def test_two_people_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"

    async def scenario() -> None:
        tracks = [*_tracks(), *_tracks()]
        async with Recorder(path, *tracks):
            for video, audio in (tracks[:2], tracks[2:]):
                _deliver(video, audio, 0.5)

    asyncio.run(scenario())
    assert _load(path).codecs == ["h264", "opus", "h264", "opus"]


def test_tracks_that_end_while_recording(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"

    async def scenario() -> None:
        video, audio = _tracks()
        async with Recorder(path, video, audio) as recorder:
            _deliver(video, audio, 1)
            video.finish()
            audio.finish()
            await _settled(recorder, lambda: recorder.stats().frames == 80)

    asyncio.run(scenario())
    assert _load(path).duration == pytest.approx(1, abs=0.05)


def test_a_track_that_never_gives_a_frame_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"

    async def scenario() -> None:
        video, audio = _tracks()
        async with Recorder(path, video, audio):
            _deliver(None, audio, 1)

    asyncio.run(scenario())
    recorded = _load(path)
    assert recorded.codecs == ["aac"]
    assert recorded.duration == pytest.approx(1, abs=0.05)


def test_a_picture_after_long_waiting_finds_its_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discord_rtc.media.mux.PICTURE_WAIT", 0.05)
    path = tmp_path / "out.mp4"

    async def scenario() -> None:
        video, audio = _tracks()
        async with Recorder(path, video, audio) as recorder:
            audio.deliver(_sound(0))
            await asyncio.sleep(0.06)
            audio.deliver(_sound(1))
            await _settled(recorder, lambda: recorder.stats().frames == 2)
            for number in range(2, 50):
                audio.deliver(_sound(number))
            video.deliver(_picture(15))
        assert recorder.stats().tracks[0].frames == 1

    asyncio.run(scenario())
    recorded = _load(path)
    assert recorded.codecs == ["h264", "aac"]
    assert (recorded.pictures[0].width, recorded.pictures[0].height) == (1280, 720)
    assert recorded.duration == pytest.approx(1, abs=0.05)


def test_a_stream_without_any_picture_is_black(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discord_rtc.media.mux.PICTURE_WAIT", 0.0)
    path = tmp_path / "out.mp4"

    async def scenario() -> None:
        video, audio = _tracks()
        async with Recorder(path, video, audio):
            _deliver(None, audio, 1)

    asyncio.run(scenario())
    recorded = _load(path)
    assert abs(plane(recorded.pictures[0], 0).astype(int) - 16).max() <= 2
    assert recorded.pictures[-1].time == pytest.approx(1 - 1 / 30, abs=0.05)


def test_nothing_recorded_leaves_nothing_behind(tmp_path: Path) -> None:
    path, old = tmp_path / "new.mp4", tmp_path / "old.mp4"
    old.write_bytes(b"an older recording")

    async def scenario() -> None:
        for target in (path, old):
            async with Recorder(target, *_tracks()) as recorder:
                pass
            assert recorder.stats().frames == 0

    asyncio.run(scenario())
    assert not path.exists()
    assert old.read_bytes() == b"an older recording"


def test_frames_without_time_are_skipped(tmp_path: Path) -> None:
    async def scenario() -> None:
        audio = RemoteTrack(MediaKind.AUDIO)
        async with Recorder(tmp_path / "out.wav", audio) as recorder:
            timeless = _sound(0)
            timeless.pts = None
            audio.deliver(timeless)
            audio.deliver(_sound(1))
        assert (recorder.stats().frames, recorder.stats().tracks[0].skipped) == (1, 1)

    asyncio.run(scenario())


class _UserTrack(MediaStreamTrack):
    """A track of the user's own, which is pulled."""

    kind = "audio"

    def __init__(self, frames: Iterable[av.AudioFrame], error: Exception | None = None) -> None:
        super().__init__()
        self._frames = iter(frames)
        self._error = error

    async def recv(self) -> av.AudioFrame:
        for frame in self._frames:
            return frame
        if self._error:
            raise self._error
        await asyncio.sleep(3600)
        raise MediaStreamError


@pytest.mark.parametrize("error", [None, MediaStreamError(), RuntimeError("a bug of the user's")])
def test_tracks_of_the_users_own_are_pulled(tmp_path: Path, error: Exception | None) -> None:
    path = tmp_path / "out.wav"

    async def scenario() -> None:
        track = _UserTrack([_sound(number) for number in range(50)], error)
        async with Recorder(path, track) as recorder:
            await _settled(recorder, lambda: recorder.stats().frames == 50)
        assert track.readyState == "live"  # it is the user's to stop

    asyncio.run(scenario())
    assert len(_load(path).sound) == RATE


def test_stopping_at_once_does_not_wait_for_a_pulled_track(tmp_path: Path) -> None:
    async def scenario() -> None:
        start = time.monotonic()
        async with Recorder(tmp_path / "out.wav", _UserTrack([])):
            pass
        assert time.monotonic() - start < 2

    asyncio.run(scenario())


def test_encoded_packets_are_recorded_too(tmp_path: Path, sendable: Path) -> None:
    path = tmp_path / "out.mp4"

    async def scenario() -> None:
        source = open_media(sendable, realtime=False)
        assert source.video is not None
        assert source.video.codec is Codec.H264
        async with Recorder(path, source.video) as recorder:
            await _settled(recorder, lambda: recorder.stats().frames == 96)
        source.close()

    asyncio.run(scenario())
    assert len(_load(path).pictures) == 96


def test_packets_of_an_unknown_codec_end_the_recording_with_a_sentence(tmp_path: Path) -> None:
    async def scenario() -> None:
        audio = RemoteTrack(MediaKind.AUDIO)
        recorder = Recorder(tmp_path / "out.wav", audio)
        await recorder.start()
        audio.deliver(av.Packet(b"\xf8\xff\xfe"))
        with pytest.raises(MediaError, match="tracks with a codec only"):
            await recorder.stop()

    asyncio.run(scenario())


def test_a_malformed_packet_is_left_out(tmp_path: Path, sendable: Path) -> None:
    class Encoded(RemoteTrack):
        codec = Codec.H264

    async def scenario() -> None:
        source = open_media(sendable, realtime=False)
        assert source.video is not None
        video = Encoded(MediaKind.VIDEO)
        async with Recorder(tmp_path / "out.mp4", video) as recorder:
            for _ in range(5):
                video.deliver(await source.video.recv())
                malformed = av.Packet(b"no start code")
                malformed.pts, malformed.time_base = 0, Fraction(1, RATE)
                video.deliver(malformed)
        assert recorder.stats().frames == 5
        source.close()

    asyncio.run(scenario())


def test_a_file_that_takes_too_long_is_finished_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discord_rtc.media.sinks.CLOSE_TIMEOUT", 0.0)
    path = tmp_path / "out.mp4"

    async def scenario() -> None:
        video, audio = _tracks()
        recorder = Recorder(path, video, audio)
        await recorder.start()
        _deliver(video, audio, 1)
        with pytest.raises(MediaError, match="is not finished after 0 s"):
            await recorder.stop()

    asyncio.run(scenario())
    for thread in threading.enumerate():
        if thread.name.startswith("discord_rtc recorder"):
            thread.join()
    assert _load(path).duration == pytest.approx(1, abs=0.05)


def test_what_the_encoder_refuses_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        video = RemoteTrack(MediaKind.VIDEO)
        with pytest.raises(EncoderFailed, match="cannot be encoded"):
            async with Recorder(tmp_path / "out.webm", video):
                video.deliver(_picture(0, (20_000, 2)))  # VP8 ends at 16383

    asyncio.run(scenario())


def test_a_slow_encoder_drops_the_oldest_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discord_rtc.media.sinks.READER_LIMITS", {MediaKind.AUDIO: 10})
    path = tmp_path / "out.wav"

    async def scenario() -> None:
        audio = RemoteTrack(MediaKind.AUDIO)
        async with Recorder(path, audio) as recorder:
            _deliver(None, audio, 1)  # 50 frames at once
        [stats] = recorder.stats().tracks
        assert (stats.dropped, stats.high_water, stats.bound) == (40, 10, 10)

    asyncio.run(scenario())


def test_a_cancelled_block_still_finishes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"

    async def record(recorder: Recorder, video: RemoteTrack, audio: RemoteTrack) -> None:
        async with recorder:
            _deliver(video, audio, 1)
            await asyncio.sleep(3600)

    async def scenario() -> None:
        video, audio = _tracks()
        recorder = Recorder(path, video, audio)
        task = asyncio.create_task(record(recorder, video, audio))
        await _settled(recorder, lambda: recorder.stats().frames > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    recorded = _load(path)
    assert recorded.duration == pytest.approx(1, abs=0.05)
    assert len(recorded.pictures) == 30


def test_a_stop_that_is_cancelled_itself_finishes_in_the_background(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"

    async def scenario() -> None:
        audio = RemoteTrack(MediaKind.AUDIO)
        recorder = Recorder(path, audio)
        await recorder.start()
        _deliver(None, audio, 1)
        await _settled(recorder, lambda: recorder.stats().frames == 50)
        stopping = asyncio.create_task(recorder.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping

    asyncio.run(scenario())
    deadline = time.monotonic() + 5
    while path.read_bytes()[4:8] == b"\xff" * 4 and time.monotonic() < deadline:
        time.sleep(0.01)  # until the header has its length
    assert len(_load(path).sound) == RATE


_KILLED = """
import asyncio, sys
from fractions import Fraction
import numpy as np
from discord_rtc.media.patterns import TestPattern, TestTone
from discord_rtc.media.sinks import Recorder

async def main():
    video, audio = TestPattern(160, 90, realtime=False), TestTone(realtime=False)
    async with Recorder(sys.argv[1], *([video] if len(sys.argv) > 2 else []), audio) as recorder:
        while recorder.stats().tracks[-1].frames < 300:
            await asyncio.sleep(0.01)
        print("recorded", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".wav", ".ogg"])
def test_a_killed_recording_is_good_up_to_the_last_seconds(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    pictures = ["pictures"] if suffix in {".mp4", ".mkv", ".webm"} else []
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path), *pictures], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "recorded\n"
        process.kill()
    with av.open(str(path)) as container:
        ends = {stream.type: 0.0 for stream in container.streams}
        for packet in container.demux():
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame | av.AudioFrame)
                ends[packet.stream.type] = max(ends[packet.stream.type], float(frame.time or 0))
    assert len(ends) == 1 + len(pictures)
    assert all(end > 3.5 for end in ends.values())  # of 6 s and more


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise there")
def test_control_c_finishes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path), "pictures"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "recorded\n"
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert b"mfra" not in path.read_bytes()  # an ordinary file, no fragments
    recorded = _load(path)
    assert recorded.duration > 5.9
    assert len(recorded.pictures) > 100


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")
@pytest.mark.parametrize("suffix", [".wav", ".mkv", ".ogg"])
def test_a_full_disk_is_told_and_nothing_hangs(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.symlink_to("/dev/full")

    async def scenario() -> None:
        audio = RemoteTrack(MediaKind.AUDIO)
        with pytest.raises(MediaError, match="cannot be written: No space left"):
            async with Recorder(path, audio):
                _deliver(None, audio, 2)

    asyncio.run(scenario())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")
def test_an_exception_in_flight_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    path.symlink_to("/dev/full")

    async def scenario() -> None:
        audio = RemoteTrack(MediaKind.AUDIO)
        async with Recorder(path, audio):
            _deliver(None, audio, 1)
            raise KeyError("first")

    with pytest.raises(KeyError, match="first"):
        asyncio.run(scenario())


def test_where_nothing_can_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        async with Recorder(path, *_tracks()):
            pytest.fail("it started")

    for path in (tmp_path / "no" / "folder" / "out.mp4", tmp_path / "folder.mp4"):
        (tmp_path / "folder.mp4").mkdir(exist_ok=True)
        with pytest.raises(MediaError, match=r"cannot be written: (No such file|Is a directory)"):
            asyncio.run(scenario(path))


@pytest.mark.parametrize("name", ["out", "out.avi", "out.mp3"])
def test_unknown_suffixes_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=r"\.mp4 .*\.wav, not "):
        Recorder(name, *_tracks())


def test_tracks_that_do_not_fit_into_the_file_are_refused() -> None:
    video, audio = _tracks()
    for tracks in ((video, audio), (audio, audio), (video,)):
        with pytest.raises(UsageError, match="exactly one audio track"):
            Recorder("out.wav", *tracks)
    with pytest.raises(UsageError, match="no track"):
        Recorder("out.mp4")


def test_a_recorder_is_used_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        recorder = Recorder(tmp_path / "out.mp4", *_tracks())
        await recorder.stop()  # nothing to do yet
        assert "new" in repr(recorder)
        async with recorder:
            assert "recording" in repr(recorder)
            with pytest.raises(InvalidState):
                await recorder.start()
        await recorder.stop()
        assert "stopped" in repr(recorder)

    asyncio.run(scenario())


def test_recording_does_not_block_the_loop(tmp_path: Path) -> None:
    async def scenario() -> None:
        video, audio = _tracks()
        lags: list[float] = []

        async def watch() -> None:
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.002)
                lags.append(time.perf_counter() - before - 0.002)

        watching = asyncio.create_task(watch())
        async with Recorder(tmp_path / "out.mp4", video, audio):
            for number in range(20):
                video.deliver(_picture(number, (1280, 720)))
                await asyncio.sleep(0.005)
        watching.cancel()
        assert sorted(lags)[len(lags) // 2] < 0.01  # x264 takes as long for one picture

    asyncio.run(scenario())
