from __future__ import annotations

import asyncio
import threading
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange

from discord_rtc.cli import measure
from discord_rtc.cli.measure import Comparison, Delays, SentTrack, percentiles, psnr, sent_ticks
from discord_rtc.connection.worker import Worker
from discord_rtc.frames import MediaKind
from discord_rtc.media.track import MediaStreamError, MediaStreamTrack, RemoteTrack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from av.frame import Frame


def picture(number: int = 0, *, luma: int = 100, size: tuple[int, int] = (64, 48)) -> av.VideoFrame:
    """A picture at ``number / 25`` seconds."""
    width, height = size
    planes = np.full((height * 3 // 2, width), 128, np.uint8)
    planes[:height] = luma + np.arange(width) % 32
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    frame.pts, frame.time_base = number, Fraction(1, 25)
    return frame


def sound(start: int, samples: int = 1024) -> av.AudioFrame:
    frame = av.AudioFrame(format="s16", layout="stereo", samples=samples)
    frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
    return frame


class Tape(MediaStreamTrack):
    """Plays given frames, then ends."""

    def __init__(self, kind: MediaKind, frames: Iterable[Frame]) -> None:
        super().__init__()
        self.kind = kind.value
        self._frames = iter(frames)

    async def recv(self) -> Frame:
        for frame in self._frames:
            return frame
        raise MediaStreamError


class Hours:
    """A clock that goes on by one second with each look at it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


async def read(track: SentTrack, frames: int) -> None:
    for _ in range(frames):
        await track.recv()


async def is_silent(track: SentTrack) -> bool:
    try:
        async with asyncio.timeout(0.01):
            await track.recv()
    except TimeoutError:
        return True
    return False


class TestSentTrack:
    def test_it_remembers_pictures_by_their_ticks(self) -> None:
        track = SentTrack(Tape(MediaKind.VIDEO, [picture(0), picture(1)]), Hours())
        asyncio.run(read(track, 2))
        assert track.frames == 2
        assert {ticks: read_at for ticks, (read_at, _) in track.pictures.items()} == {
            0: 101.0,
            3600: 102.0,
        }

    def test_it_forgets_the_oldest_pictures(self) -> None:
        frames = [picture(number) for number in range(100)]
        track = SentTrack(Tape(MediaKind.VIDEO, frames), Hours())
        asyncio.run(read(track, 100))
        assert list(track.pictures) == [3600 * number for number in range(4, 100)]

    def test_large_pictures_are_fewer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        size = sum(plane.buffer_size for plane in picture().planes)
        monkeypatch.setattr(measure, "PICTURES_MEMORY", 5 * size)
        track = SentTrack(Tape(MediaKind.VIDEO, map(picture, range(20))), Hours())
        asyncio.run(read(track, 20))
        assert len(track.pictures) == 5

    def test_it_knows_when_each_sample_was_captured(self) -> None:
        track = SentTrack(Tape(MediaKind.AUDIO, [sound(0), sound(1024)]), Hours())
        asyncio.run(read(track, 2))
        assert track.sample_time(0) == 101
        assert track.sample_time(480) == pytest.approx(101.01)
        assert track.sample_time(1024) == 102

    def test_it_does_not_know_what_was_never_captured(self) -> None:
        track = SentTrack(Tape(MediaKind.AUDIO, [sound(1024)]), Hours())
        asyncio.run(read(track, 1))
        assert track.sample_time(1000) is None
        assert track.sample_time(2100) is not None  # the encoder fills its last frame
        assert track.sample_time(4800) is None

    def test_at_the_end_it_falls_silent_and_tells(self) -> None:
        ends: list[str] = []
        tape = Tape(MediaKind.VIDEO, [picture()])
        track = SentTrack(tape, Hours(), lambda: ends.append("end"))

        async def play() -> bool:
            await read(track, 1)
            assert ends == []
            return await is_silent(track)

        assert asyncio.run(play())
        assert ends == ["end"]
        assert track.frames == 1

    def test_held_it_falls_silent_though_there_is_more(self) -> None:
        track = SentTrack(Tape(MediaKind.VIDEO, map(picture, range(9))), Hours())

        async def play() -> bool:
            await read(track, 1)
            track.hold()
            return await is_silent(track)

        assert asyncio.run(play())
        assert track.frames == 1

    def test_what_arrives_while_it_is_held_is_not_sent(self) -> None:
        class Slow(Tape):
            async def recv(self) -> Frame:
                await asyncio.sleep(0.005)
                return await super().recv()

        track = SentTrack(Slow(MediaKind.VIDEO, [picture()]), Hours())

        async def play() -> bool:
            silent = asyncio.create_task(is_silent(track))
            await asyncio.sleep(0)
            track.hold()
            return await silent

        assert asyncio.run(play())
        assert track.frames == 0

    def test_frames_without_a_time_pass(self) -> None:
        frame = picture()
        frame.pts = None
        track = SentTrack(Tape(MediaKind.VIDEO, [frame]), Hours())
        asyncio.run(read(track, 1))
        assert (track.frames, len(track.pictures)) == (1, 0)

    def test_it_is_its_source_otherwise(self) -> None:
        tape = Tape(MediaKind.AUDIO, [])
        track = SentTrack(tape, Hours())
        assert (track.kind, track.readyState) == ("audio", "live")
        track.stop()
        assert (tape.readyState, track.readyState) == ("ended", "ended")


def delays(*pairs: tuple[float, float]) -> Delays:
    result = Delays()
    for pair in pairs:
        result.add(*pair)
    return result


class TestDelays:
    def test_percentiles_are_milliseconds(self) -> None:
        found = delays(*((0.02 * i, 0.001 * i) for i in range(101))).percentiles()
        assert (found.p50, found.p95) == (50.0, 95.0)

    def test_of_nothing_there_are_none(self) -> None:
        assert percentiles(np.zeros(0)).p50 is None
        assert Delays().percentiles().p95 is None
        assert Delays().recent() is None
        assert len(Delays()) == 0

    def test_recent_looks_at_the_last_hundred(self) -> None:
        found = delays(*((0.0, 9.0) for _ in range(500)), *((0.0, 0.25) for _ in range(100)))
        assert found.recent() == 0.25
        assert len(found) == 600

    def test_less_compares_at_the_same_media_time(self) -> None:
        video = delays((0.0, 0.030), (0.04, 0.030), (0.08, 0.030))
        audio = delays((0.08, 0.005), (0.0, 0.010), (0.042, 0.020))  # in any order
        assert video.less(audio) == pytest.approx([0.020, 0.010, 0.025])

    def test_less_leaves_out_what_has_no_counterpart(self) -> None:
        video = delays((0.0, 0.030), (1.0, 0.030), (2.0, 0.030))
        assert video.less(delays((1.0, 0.010))) == pytest.approx([0.020])
        assert len(video.less(Delays())) == 0
        assert len(Delays().less(video)) == 0


class TestPsnr:
    def test_equal_pictures(self) -> None:
        assert psnr(picture(), picture()) == 99

    def test_the_formula(self) -> None:
        # Luma differs by 10, chroma not: a mean of 100 * 2/3.
        expected = 10 * np.log10(255**2 / (100 * 2 / 3))
        assert psnr(picture(luma=100), picture(luma=110)) == pytest.approx(expected)

    def test_another_size_is_no_damage(self) -> None:
        assert psnr(picture(size=(128, 96)), picture(size=(126, 96))) > 25

    def test_another_range_is_no_damage(self) -> None:
        full = picture().reformat(format="yuvj420p", dst_color_range=ColorRange.JPEG)
        assert full.color_range == ColorRange.JPEG
        assert psnr(full, picture()) > 45


@pytest.mark.parametrize(
    ("pts", "rtp_origin", "sent_origin", "ticks"),
    [
        (0, 1000, 1000, 0),
        (90, 1000, 400, 690),
        (-1100, 1000, 0, -100),
        (10, 2**32 - 5, 2**32 - 5, 10),
        (10, 3, 2**32 - 5, 18),
    ],
)
def test_ticks_of_the_sender(pts: int, rtp_origin: int, sent_origin: int, ticks: int) -> None:
    assert sent_ticks(pts, rtp_origin, sent_origin) == ticks


def received(frame: av.VideoFrame, ticks: int) -> av.VideoFrame:
    """The same picture as it comes out."""
    copy = av.VideoFrame.from_ndarray(frame.to_ndarray(), format="yuv420p")
    copy.pts, copy.time_base = ticks, Fraction(1, 90_000)
    return copy


class TestComparison:
    async def follow(
        self,
        sent: list[av.VideoFrame] | list[av.AudioFrame],
        frames: Iterable[Frame],
        *,
        offset: int | None = 0,
        limit: int = 50,
        blocked: bool = False,
    ) -> Comparison:
        """Send, deliver, and compare; received pts are ``offset`` ahead of sent ticks."""
        kind = MediaKind.VIDEO if isinstance(sent[0], av.VideoFrame) else MediaKind.AUDIO
        clock = Hours()
        comparison = Comparison(SentTrack(Tape(kind, sent), clock), clock)
        await read(comparison.sent, len(sent))
        track = RemoteTrack(kind)
        reader = track.reader(limit=limit)
        for frame in frames:
            assert isinstance(frame, av.VideoFrame | av.AudioFrame)
            track.deliver(frame)
        reader.end()
        worker = Worker("compare", bound=2)
        release = threading.Event()
        if blocked:
            worker.submit(release.wait, lambda _: None)
        try:
            ticks = (lambda _: None) if offset is None else (lambda pts: pts - offset)
            await comparison.follow(reader, ticks, worker)
            release.set()
            async with asyncio.timeout(5):
                while comparison.busy:  # noqa: ASYNC110 - nothing tells when it is done
                    await asyncio.sleep(0.001)
        finally:
            await worker.aclose()
        assert not track.wanted  # the reader is closed
        return comparison

    def test_pictures_are_compared_with_those_of_the_same_time(self) -> None:
        sent = [picture(0, luma=40), picture(1, luma=140)]
        back = [received(frame, 500 + 3600 * index) for index, frame in enumerate(sent)]
        found = asyncio.run(self.follow(sent, back, offset=500))
        assert (found.received, found.damaged, found.unchecked) == (2, 0, 0)
        assert found.worst_psnr == 99
        # Read at 101 and 102, seen at 103 and 104.
        assert found.delays.percentiles().p50 == 2000

    def test_another_picture_is_damage(self) -> None:
        found = asyncio.run(self.follow([picture(0, luma=40)], [received(picture(luma=140), 0)]))
        assert (found.received, found.damaged) == (1, 1)
        assert found.worst_psnr is not None
        assert found.worst_psnr < 25

    @pytest.mark.parametrize("offset", [None, 77], ids=["no origin", "unknown picture"])
    def test_a_picture_without_counterpart_is_not_called_good(self, offset: int | None) -> None:
        found = asyncio.run(self.follow([picture()], [received(picture(), 0)], offset=offset))
        assert (found.received, found.damaged, found.unchecked) == (1, 0, 1)
        assert found.worst_psnr is None

    def test_a_frame_without_time_is_not_compared(self) -> None:
        frame = received(picture(), 0)
        frame.pts = None
        found = asyncio.run(self.follow([picture()], [frame]))
        assert (found.received, found.unchecked) == (1, 1)

    def test_what_the_machine_is_too_slow_for_is_received_but_not_compared(self) -> None:
        sent = [picture(number) for number in range(5)]
        back = [received(frame, 3600 * index) for index, frame in enumerate(sent)]
        found = asyncio.run(self.follow(sent, back, blocked=True))
        assert (found.received, found.unchecked) == (5, 4)
        found = asyncio.run(self.follow(sent, back, limit=2))
        assert (found.received, found.unchecked) == (5, 3)

    def test_sound_has_delays_too(self) -> None:
        found = asyncio.run(self.follow([sound(0)], [sound(0, 960), sound(960, 960)]))
        assert (found.received, found.unchecked) == (2, 0)
        # Read at 101, heard at 102 and 103, the latter 20 ms into the chunk.
        assert found.delays.percentiles().p50 == pytest.approx((1000 + 1980) / 2)

    def test_silence_that_was_never_captured_has_none(self) -> None:
        found = asyncio.run(self.follow([sound(0)], [sound(48_000, 960)]))
        assert (found.received, found.unchecked, len(found.delays)) == (1, 1, 0)
