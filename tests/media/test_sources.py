from __future__ import annotations

import asyncio
import gc
import http.server
import socket
import struct
import threading
import time
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import av
import pytest

from discord_rtc.errors import UnsupportedMedia
from discord_rtc.frames import Codec
from discord_rtc.media.bitstream import iter_nal_units
from discord_rtc.media.sources import MediaSource, SourceTrack, open_media
from discord_rtc.media.track import MediaFrame, MediaStreamError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Recipe(Protocol):
    def __call__(self, **parts: object) -> object: ...


class ClipMaker(Protocol):
    def __call__(self, recipe: object) -> Path: ...


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 2
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def _video(source: MediaSource) -> SourceTrack:
    assert source.video is not None
    return source.video


def _audio(source: MediaSource) -> SourceTrack:
    assert source.audio is not None
    return source.audio


def _seconds(media: MediaFrame) -> Fraction:
    assert media.pts is not None
    assert media.time_base
    return media.pts * Fraction(media.time_base)


async def _read(track: SourceTrack, count: int = 1_000_000) -> list[MediaFrame]:
    frames: list[MediaFrame] = []
    try:
        while len(frames) < count:
            frames.append(await track.recv())
    except MediaStreamError:
        pass
    return frames


def test_a_film_is_decoded_completely_and_in_order(film: Path) -> None:
    async def scenario() -> None:
        source = open_media(film, realtime=False)
        assert source.duration == pytest.approx(4, abs=0.05)
        video, audio = await asyncio.gather(_read(_video(source)), _read(_audio(source)))
        assert [_seconds(frame) for frame in video] == [Fraction(n, 24) for n in range(96)]
        samples = sum(frame.samples for frame in audio if isinstance(frame, av.AudioFrame))
        assert samples == pytest.approx(4 * 48_000, abs=1024)
        assert _seconds(audio[0]) == 0
        for one, two in pairwise(audio):
            assert isinstance(one, av.AudioFrame)
            assert _seconds(two) == _seconds(one) + Fraction(one.samples, 48_000)
        assert "closed" in repr(source)  # by itself, at the end

    asyncio.run(scenario())


def test_frames_come_in_real_time_on_one_clock(film: Path) -> None:
    async def scenario() -> None:
        with open_media(film) as source:
            start = time.monotonic()

            async def watch(track: SourceTrack) -> None:
                for _ in range(10):
                    frame = await track.recv()
                    assert time.monotonic() - start >= float(_seconds(frame)) - 0.001

            await asyncio.gather(watch(_video(source)), watch(_audio(source)))
            assert time.monotonic() - start < 3  # 9/24 s, on a busy machine

    asyncio.run(scenario())


def test_a_loop_goes_on_with_both_tracks_in_step(film: Path) -> None:
    async def scenario() -> None:
        with open_media(film, loop=True, realtime=False) as source:
            video, audio = await asyncio.gather(
                _read(_video(source), 96 * 2 + 48), _read(_audio(source), 470)
            )
        times = [_seconds(frame) for frame in video]
        assert all(one < two for one, two in pairwise(times))
        assert times[96] == times[192] - times[96]  # every pass takes as long
        assert abs(times[96] - 4) < Fraction(3, 100)
        ends = [_seconds(frame) for frame in audio]
        steps = [two - one for one, two in pairwise(ends)]
        assert max(steps) < Fraction(5, 100)
        assert min(steps) > 0

    asyncio.run(scenario())


def test_a_loop_of_one_track_with_the_other_unread(film: Path) -> None:
    async def scenario() -> None:
        with open_media(film, loop=True, realtime=False) as source:
            assert len(await _read(_video(source), 200)) == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_an_unread_track_holds_nobody_up(film: Path, kind: str) -> None:
    async def scenario() -> None:
        source = open_media(film, realtime=False)
        track = _video(source) if kind == "video" else _audio(source)
        frames = await _read(track)
        assert _seconds(frames[-1]) > 3.9
        other = _audio(source) if kind == "video" else _video(source)
        assert other.readyState == "ended"  # the source is closed

    asyncio.run(scenario())


@pytest.mark.parametrize("first", ["video", "audio"])
def test_a_track_read_later_joins_at_its_siblings_place(film: Path, first: str) -> None:
    async def scenario() -> None:
        with open_media(film, realtime=False) as source:
            tracks = [_video(source), _audio(source)]
            early, late = tracks if first == "video" else reversed(tracks)
            seen = await _read(early, 70)
            joined = await late.recv()
            assert 0 <= _seconds(joined) - _seconds(seen[-1]) < Fraction(1, 10)

    asyncio.run(scenario())


@pytest.mark.parametrize("keyframe_distance", [12, 40])
def test_a_paused_track_holds_nobody_up_and_resumes_at_a_keyframe(
    clip: ClipMaker, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, keyframe_distance: int
) -> None:
    options = {"preset": "ultrafast", "bf": "2", "sc_threshold": "0", "g": str(keyframe_distance)}
    film = clip(recipe(name="gops.mkv", video_options=options))
    monkeypatch.setattr("discord_rtc.media.lane.PENDING_BOUND", 20)

    async def scenario() -> None:
        source = open_media(film, realtime=False)
        await _video(source).recv()
        audio = await _read(_audio(source))
        assert _seconds(audio[-1]) > 3.9
        video = await _read(_video(source))
        stats = _video(source).stats()
        assert stats.dropped > 0
        assert stats.frames == len(video) + 1
        assert stats.high_water <= stats.bound
        jumps = [two for one, two in pairwise(video) if _seconds(two) - _seconds(one) > 0.1]
        assert all(jump.key_frame for jump in jumps if isinstance(jump, av.VideoFrame))
        assert keyframe_distance == 40 or (len(jumps) == 1 and _seconds(video[-1]) > 3.8)
        assert not any(f.is_corrupt for f in video if isinstance(f, av.VideoFrame))

    asyncio.run(scenario())


def test_who_falls_behind_its_sibling_leaves_out_what_is_past(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discord_rtc.media.sources.STALL", 0.2)

    async def scenario() -> None:
        with open_media(film) as source:
            await _video(source).recv()
            heard = await _read(_audio(source), 40)  # 0.85 s
            seen = await _video(source).recv()
            assert _seconds(heard[-1]) - _seconds(seen) < Fraction(3, 10)
            assert _video(source).stats().dropped >= 10
            await _audio(source).recv()  # still on the same clock

    asyncio.run(scenario())


def test_after_a_stall_of_everybody_the_clock_starts_anew(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discord_rtc.media.sources.STALL", 0.1)

    async def scenario() -> None:
        with open_media(film) as source:
            await asyncio.gather(_video(source).recv(), _audio(source).recv())
            await asyncio.sleep(0.4)
            start = time.monotonic()
            frames = await _read(_video(source), 4)
            assert [_seconds(frame) for frame in frames] == [Fraction(n, 24) for n in range(1, 5)]
            assert time.monotonic() - start >= 3 / 24 - 0.001
            assert _video(source).stats().dropped == 0

    asyncio.run(scenario())


def test_a_cancelled_recv_loses_nothing(film: Path) -> None:
    async def scenario() -> None:
        with open_media(film) as source:
            await _video(source).recv()
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(_video(source).recv(), 0.005)
            assert _seconds(await _video(source).recv()) == Fraction(1, 24)

    asyncio.run(scenario())


def test_closing_ends_a_waiting_recv(film: Path) -> None:
    async def scenario() -> None:
        source = open_media(film)
        ended = []
        _video(source).on("ended", lambda: ended.append(True))
        await _video(source).recv()
        waiting = asyncio.ensure_future(_read(_video(source), 50))
        await asyncio.sleep(0.05)
        source.close()
        source.close()
        assert len(await waiting) < 10
        assert ended == [True]
        with pytest.raises(MediaStreamError):
            await _audio(source).recv()

    asyncio.run(scenario())


def test_stopping_every_track_in_use_closes_the_source(film: Path) -> None:
    async def scenario() -> None:
        source = open_media(film)
        await asyncio.gather(_video(source).recv(), _audio(source).recv())
        _video(source).stop()
        assert _seconds(await _audio(source).recv()) > 0
        _audio(source).stop()
        assert "closed" in repr(source)

    asyncio.run(scenario())


@pytest.mark.parametrize("started", [False, True])
def test_an_abandoned_source_warns_and_closes(film: Path, started: bool) -> None:
    async def scenario() -> None:
        source = open_media(film)
        if started:
            await _video(source).recv()

    def abandon() -> None:
        asyncio.run(scenario())
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed media source"):
        abandon()


def test_a_track_keeps_its_source_alive(film: Path) -> None:
    async def scenario() -> None:
        track = _video(open_media(film, realtime=False))
        gc.collect()
        assert len(await _read(track)) == 96

    asyncio.run(scenario())


def test_filter_graphs() -> None:
    async def scenario() -> None:
        graph = "lavfi:testsrc2=size=64x48:rate=10:duration=1[out0];sine=frequency=440:d=1[out1]"
        source = open_media(graph, realtime=False)
        video, audio = await asyncio.gather(_read(_video(source)), _read(_audio(source)))
        assert len(video) == 10
        assert sum(f.samples for f in audio if isinstance(f, av.AudioFrame)) == 44_100
        with open_media("lavfi:sine") as tone:
            assert (tone.video, tone.duration) == (None, None)
            assert _audio(tone).passthrough_refusal == "only files can be examined for it"

    asyncio.run(scenario())


def test_a_finite_graph_can_loop() -> None:
    async def scenario() -> None:
        with open_media("lavfi:testsrc2=d=1:r=10", loop=True, realtime=False) as source:
            times = [_seconds(frame) for frame in await _read(_video(source), 25)]
            assert times == [Fraction(n, 10) for n in range(25)]

    asyncio.run(scenario())


def test_long_sound_frames_are_cut_up(tmp_path: Path, clip: ClipMaker, recipe: Recipe) -> None:
    path = clip(
        recipe(
            name="a.flac",
            video="",
            audio="flac",
            seconds=2,
            fps=1,
            audio_options={"frame_size": "20000"},
        )
    )

    async def scenario() -> None:
        source = open_media(path, realtime=False)
        frames = await _read(_audio(source))
        lengths = [frame.samples for frame in frames if isinstance(frame, av.AudioFrame)]
        assert max(lengths) <= 4800
        assert sum(lengths) == 2 * 48_000
        for one, two in pairwise(frames):
            assert isinstance(one, av.AudioFrame)
            assert _seconds(two) - _seconds(one) == Fraction(one.samples, 48_000)

    asyncio.run(scenario())


def test_a_url(clip: ClipMaker, recipe: Recipe) -> None:
    film = clip(recipe(name="film.mkv", video_options={"preset": "ultrafast"}))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = partial(Quiet, directory=str(film.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:

            async def scenario() -> None:
                url = f"http://127.0.0.1:{server.server_port}/{film.name}"
                source = await asyncio.to_thread(open_media, url, realtime=False)
                assert len(await _read(_video(source))) == 96

            asyncio.run(scenario())
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("reset", [False, True])
def test_a_url_that_breaks_off_ends_the_tracks(
    clip: ClipMaker, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, reset: bool
) -> None:
    monkeypatch.setattr("discord_rtc.media.probe.TIMEOUT", 0.3)
    data = clip(recipe(name="film.mkv", video_options={"preset": "ultrafast"})).read_bytes()
    over = threading.Event()

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            header = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(header.encode() + data[: len(data) * 3 // 4])
            if reset:
                time.sleep(0.2)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                over.wait(10)

    async def scenario(port: int) -> None:
        url = f"http://127.0.0.1:{port}/film.mkv"
        source = await asyncio.to_thread(open_media, url, realtime=False)
        frames = await _read(_video(source))
        assert 20 < len(frames) < 96

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=[server])
        thread.start()
        asyncio.run(scenario(server.getsockname()[1]))
        over.set()
        thread.join()


def test_h264_in_order_is_passed_on_as_annex_b(sendable: Path) -> None:
    async def scenario() -> None:
        source = open_media(sendable, loop=True, realtime=False)
        assert _video(source).codec is Codec.H264
        assert _video(source).passthrough_refusal is None
        packets = await _read(_video(source), 100)
        source.close()
        assert [_seconds(packet) for packet in packets] == [Fraction(n, 24) for n in range(100)]
        for number, packet in enumerate(packets):
            assert isinstance(packet, av.Packet)
            assert packet.is_keyframe == (number % 24 == 0)
            types = {unit[0] & 31 for unit in iter_nal_units(bytes(packet))}
            assert ({7, 8, 5} <= types) == packet.is_keyframe

    asyncio.run(scenario())


def test_packets_and_frames_of_one_source_share_a_timeline(clip: ClipMaker, recipe: Recipe) -> None:
    path = clip(
        recipe(
            name="a.mkv",
            audio="libopus",
            seconds=2,
            video_options={"preset": "ultrafast", "bf": "2"},
        )
    )

    async def scenario() -> None:
        source = open_media(path, realtime=False)
        assert (_video(source).codec, _audio(source).codec) == (None, Codec.OPUS)
        video, audio = await asyncio.gather(_read(_video(source)), _read(_audio(source)))
        assert isinstance(video[0], av.VideoFrame)
        assert isinstance(audio[0], av.Packet)
        assert min(_seconds(video[0]), _seconds(audio[0])) == 0
        assert len(audio) in (100, 101)

    asyncio.run(scenario())


def test_a_paused_passthrough_track_resumes_with_a_keyframe(
    monkeypatch: pytest.MonkeyPatch, clip: ClipMaker, recipe: Recipe
) -> None:
    monkeypatch.setattr("discord_rtc.media.sources.STALL", 0.1)
    path = clip(
        recipe(
            name="both.mkv",
            audio="libopus",
            video_options={"preset": "ultrafast", "tune": "zerolatency", "g": "12"},
        )
    )

    async def scenario() -> None:
        with open_media(path) as source:
            await _video(source).recv()
            await _read(_audio(source), 45)  # 0.9 s
            seen = await _video(source).recv()
            assert isinstance(seen, av.Packet)
            assert seen.is_keyframe
            assert _seconds(seen) >= Fraction(1, 2)

    asyncio.run(scenario())


def test_passthrough_never_decodes_and_always_insists(sendable: Path, film: Path) -> None:
    async def scenario() -> None:
        with open_media(sendable, passthrough="never", realtime=False) as source:
            assert isinstance(await _video(source).recv(), av.VideoFrame)
            assert _video(source).codec is None
        with open_media(sendable, passthrough="always") as source:
            assert _video(source).codec is Codec.H264

    asyncio.run(scenario())
    with pytest.raises(UnsupportedMedia, match=r"video of .* as it is: its frames are reordered"):
        open_media(film, passthrough="always")


def test_what_cannot_be_opened_is_said(tmp_path: Path, film: Path) -> None:
    with pytest.raises(UnsupportedMedia, match="there is no file"):
        open_media(tmp_path / "none.mp4")
    data = bytearray(film.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start:end] = b"\xff" * (end - start)
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(data)
    with pytest.raises(UnsupportedMedia, match="no picture or sound that can be decoded"):
        open_media(garbage)
    subtitles = tmp_path / "a.srt"
    subtitles.write_text("1\n00:00:01,000 --> 00:00:02,000\nHello\n")
    with pytest.raises(UnsupportedMedia, match="no picture or sound at all"):
        open_media(subtitles)


def test_damage_in_the_middle_is_counted_and_passed(film: Path, tmp_path: Path) -> None:
    data = bytearray(film.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    middle = (start + end) // 2
    data[middle : middle + (end - start) // 8] = b"\xff" * ((end - start) // 8)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)

    async def scenario() -> None:
        source = open_media(path, realtime=False)
        video, audio = await asyncio.gather(_read(_video(source)), _read(_audio(source)))
        assert _seconds(video[-1]) > 3.5
        assert _seconds(audio[-1]) > 3.5
        damaged = _video(source).stats().damaged + _audio(source).stats().damaged
        assert damaged > 0

    asyncio.run(scenario())


CUT = [
    {"name": "film.mkv"},
    {"name": "film.mp4", "container_options": {"movflags": "+faststart"}},
    {"name": "film.ts"},
]


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("parts", CUT, ids=lambda parts: parts["name"])
def test_a_file_that_was_cut_off_ends(
    clip: ClipMaker, recipe: Recipe, tmp_path: Path, parts: dict[str, object], loop: bool
) -> None:
    whole = clip(recipe(video_options={"preset": "ultrafast"}, **parts))
    path = tmp_path / whole.name
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])

    async def scenario() -> None:
        with open_media(path, realtime=False, loop=loop) as source:
            frames = await _read(_video(source), 150)
            assert (len(frames) == 150) is loop
            assert len(frames) > 30

    asyncio.run(scenario())


def test_a_file_that_disappears_while_it_loops_ends(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(film.read_bytes())

    async def scenario() -> None:
        source = open_media(path, loop=True, realtime=False)
        await _video(source).recv()
        path.unlink()
        assert len(await _read(_video(source))) == 95

    asyncio.run(scenario())
