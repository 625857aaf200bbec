from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from discord_rtc.cli import call as calls
from discord_rtc.cli.call import DemoCall
from discord_rtc.cli.plan import CallPlan, Sources
from discord_rtc.errors import MediaError
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.lab import GUILD_ID, Lab
from discord_rtc.media.patterns import TestPattern, TestTone
from discord_rtc.media.track import MediaStreamError, MediaStreamTrack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.frame import Frame

    from discord_rtc.connection.voice import VoiceConnection

BOTH = frozenset(MediaKind)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


class Short(MediaStreamTrack):
    """A pattern or tone that ends, or fails, after some frames."""

    def __init__(self, track: TestPattern | TestTone, frames: int, error: bool = False) -> None:
        super().__init__()
        self.kind = track.kind
        self._track = track
        self._left = frames
        self._error = error

    async def recv(self) -> Frame:
        if not self._left:
            raise ValueError("the tape is torn") if self._error else MediaStreamError
        self._left -= 1
        return await self._track.recv()


def plan(path: Path, sources: Sources) -> CallPlan:
    kinds = {MediaKind(track.kind) for track in (sources.video, sources.audio) if track}
    return CallPlan(
        sources=sources,
        transport="auto",
        receiver_transport="udp",
        codec=Codec.H264,
        dave="required",
        loss=0,
        seed=0,
        seconds=0.5,
        out=path / "out.mkv",
        recorded=frozenset(kinds),
    )


@pytest.fixture
def pattern(tmp_path: Path) -> CallPlan:
    """Half a second of test pattern with tone."""
    return plan(tmp_path, Sources(TestPattern(160, 90), TestTone()))


def run(call: DemoCall) -> None:
    asyncio.run(call.run(lambda: None))


def test_before_a_call_the_report_is_empty(pattern: CallPlan) -> None:
    call = DemoCall(pattern)
    report = call.report()
    assert (report.transport, report.video_codec, report.recording) == (None, None, None)
    assert (report.finished, report.came_through) == (False, False)
    assert (call.elapsed, call.length) == (0, 0.5)


def test_all_that_is_sent_until_time_is_up_arrives(pattern: CallPlan) -> None:
    call = DemoCall(pattern)
    run(call)
    report = call.report()
    assert report.finished
    assert (report.transport, report.receiver_transport, report.dave) == ("webrtc", "udp", "active")
    assert report.video_codec == "H264"
    assert report.video_frames_received == report.video_frames_sent >= 14
    assert report.audio_frames_received == report.audio_frames_sent >= 23
    assert (report.video_frames_damaged, report.video_frames_unchecked) == (0, 0)
    assert report.video_frames_skipped == 0
    assert report.packets_sent >= report.video_frames_sent + report.audio_frames_sent
    assert report.packets_lost == 0
    assert report.bitrate_bps > 50_000
    assert report.duration_s == pytest.approx(0.5, abs=0.1)
    assert report.recording == str(pattern.out)
    assert call.elapsed == pytest.approx(report.duration_s, abs=0.001)
    assert call.over


def test_progress_is_told_while_it_goes(pattern: CallPlan) -> None:
    call = DemoCall(pattern)
    seen: list[tuple[bool, int]] = []
    asyncio.run(call.run(lambda: seen.append((call.over, call.sent(MediaKind.AUDIO)))))
    assert len(seen) >= 4
    assert not seen[0][0]
    assert seen[-1] == (True, call.report().audio_frames_sent)
    assert sorted(seen) == seen


def test_it_ends_with_the_last_of_its_sources(tmp_path: Path) -> None:
    sources = Sources(Short(TestPattern(160, 90), 6), Short(TestTone(), 20))
    call = DemoCall(replace(plan(tmp_path, sources), seconds=None))
    run(call)
    report = call.report()
    assert report.finished
    assert (report.video_frames_sent, report.video_frames_received) == (6, 6)
    assert (report.audio_frames_sent, report.audio_frames_received) == (20, 20)
    assert report.duration_s == pytest.approx(0.4, abs=0.1)


@pytest.mark.parametrize("kind", list(MediaKind))
def test_one_kind_alone(kind: MediaKind, tmp_path: Path) -> None:
    video = TestPattern(160, 90) if kind is MediaKind.VIDEO else None
    call = DemoCall(plan(tmp_path, Sources(video, None if video else TestTone())))
    run(call)
    report = call.report()
    assert report.came_through
    assert (report.video_codec is None) == (kind is MediaKind.AUDIO)
    assert (report.video_frames_sent == 0) == (kind is MediaKind.AUDIO)
    assert (report.audio_frames_sent == 0) == (kind is MediaKind.VIDEO)
    assert report.av_skew_ms.p50 is None


def test_pictures_above_the_frame_rate_are_left_out_and_counted(tmp_path: Path) -> None:
    call = DemoCall(plan(tmp_path, Sources(TestPattern(160, 90, fps=60), None)))
    run(call)
    report = call.report()
    assert report.video_frames_sent == pytest.approx(15, abs=2)
    assert report.video_frames_skipped == pytest.approx(15, abs=2)


def test_lost_packets_are_counted(pattern: CallPlan) -> None:
    call = DemoCall(replace(pattern, loss=0.2, seed=7))
    run(call)
    report = call.report()
    assert report.packets_lost > 0
    assert report.audio_frames_received < report.audio_frames_sent


def test_a_source_that_fails_ends_the_call_with_its_error(tmp_path: Path) -> None:
    sources = Sources(Short(TestPattern(160, 90), 6, error=True), TestTone())
    call = DemoCall(replace(plan(tmp_path, sources), seconds=20))
    with pytest.raises(MediaError, match="the tape is torn"):
        run(call)
    report = call.report()
    assert not report.finished
    assert report.duration_s < 5
    # What was done is told all the same.
    assert report.video_frames_received == report.video_frames_sent == 6
    assert report.recording is not None


def test_a_connection_that_breaks_is_told_and_nothing_counted_twice(
    pattern: CallPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shaky(Lab):
        """Throws the sender out after half a second."""

        async def user(self, name: str, *args: Any, **options: Any) -> VoiceConnection:
            joined = await super().user(name, *args, **options)
            if name == "receiver":
                sender = self.user_id("sender")
                throw_out = partial(self.server.close_voice, sender, GUILD_ID, 4006)
                asyncio.get_running_loop().call_later(0.5, throw_out)
            return joined

    monkeypatch.setattr(calls, "Lab", Shaky)
    call = DemoCall(replace(pattern, seconds=1.2))
    run(call)
    report = call.report()
    assert report.reconnects == 1
    assert report.finished
    # Sent in both sessions; the tracks that the receiver listened to ended with the first.
    assert 50 < report.audio_frames_sent <= 66
    assert 15 < report.audio_frames_received < 40
    assert 30 < report.video_frames_sent <= 37
    assert 8 < report.video_frames_received < 25


def test_cancelled_it_closes_everything_and_still_knows_what_was_done(pattern: CallPlan) -> None:
    call = DemoCall(replace(pattern, seconds=20))

    async def cancel() -> None:
        async with asyncio.timeout(0.8):
            await call.run(lambda: None)

    with pytest.raises(TimeoutError):
        asyncio.run(cancel())
    report = call.report()
    assert not report.finished
    assert 0 < report.duration_s < 1
    assert report.video_frames_received == report.video_frames_sent > 0
    assert report.recording is not None


def test_the_recording_holds_what_was_asked_for(pattern: CallPlan) -> None:
    out = pattern.out.with_suffix(".wav")
    call = DemoCall(replace(pattern, out=out, recorded=frozenset({MediaKind.AUDIO})))
    run(call)
    assert call.report().recording == str(out)
    assert out.stat().st_size > 10_000


def test_nothing_recorded_is_no_recording(pattern: CallPlan) -> None:
    pattern.out.write_bytes(b"from yesterday")
    call = DemoCall(replace(pattern, loss=0.999999, seed=1))
    run(call)
    report = call.report()
    assert (report.video_frames_received, report.audio_frames_received) == (0, 0)
    assert report.recording is None
    assert not report.came_through
