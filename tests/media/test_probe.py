from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol

import pytest

from discord_rtc.errors import UnsupportedMedia
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.media.probe import choose_streams, locate, open_container, opus_milliseconds, probe

if TYPE_CHECKING:
    from pathlib import Path


class Recipe(Protocol):
    def __call__(self, **parts: object) -> object: ...


class ClipMaker(Protocol):
    def __call__(self, recipe: object) -> Path: ...


FAST = {"preset": "ultrafast", "tune": "zerolatency"}


def test_files_are_found_by_path_and_file_url(film: Path) -> None:
    for source in (film, str(film), film.as_uri()):
        location = locate(source)
        assert location.local
        assert location.url == f"file:{film}"


def test_urls_and_graphs_are_told_from_files() -> None:
    assert locate("https://example.org/a.mp4").url == "https://example.org/a.mp4"
    graph = locate("lavfi:sine=frequency=440")
    assert (graph.url, graph.format, graph.local) == ("sine=frequency=440", "lavfi", False)


@pytest.mark.parametrize("device", ["screen", "screen::0+10,20 640x360", "camera:1", "microphone"])
def test_capture_is_refused_in_a_sentence(device: str) -> None:
    with pytest.raises(UnsupportedMedia, match=r"^capturing the \w+ is not supported"):
        locate(device)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedMedia, match="there is no file"):
        locate(tmp_path / "missing.mp4")
    with pytest.raises(UnsupportedMedia, match="is a directory"):
        locate(str(tmp_path))


def test_a_name_that_looks_like_a_protocol_is_a_file(film: Path, tmp_path: Path) -> None:
    odd = tmp_path / "concat:12%20.mp4"
    odd.write_bytes(film.read_bytes())
    with open_container(locate(odd)) as container:
        assert set(choose_streams(container)) == set(MediaKind)


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"", "empty.mp4"), (b"\x00" * 5000, "zeros.mp4"), (b"junk" * 99, "a.ogg")],
)
def test_corrupt_files_are_refused_in_a_sentence(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnsupportedMedia, match=rf"{name} cannot be opened: it is corrupt"):
        open_container(locate(path))


def test_an_unknown_filter_is_refused_in_a_sentence() -> None:
    with pytest.raises(UnsupportedMedia, match="lavfi:nosuchfilter cannot be opened"):
        open_container(locate("lavfi:nosuchfilter"))


def test_nobody_answering_is_said() -> None:
    with pytest.raises(UnsupportedMedia, match="cannot be opened: connection refused"):
        open_container(locate("http://127.0.0.1:9/none.mp4"))


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discord_rtc.media.probe.TIMEOUT", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(UnsupportedMedia, match="cannot be opened: no answer within"),
    ):
        open_container(locate(f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"))


def test_a_film_cannot_pass(film: Path) -> None:
    findings = probe(locate(film))
    video, audio = findings[MediaKind.VIDEO], findings[MediaKind.AUDIO]
    assert (video.decodes, video.codec) == (True, Codec.H264)
    assert video.refusal == "its frames are reordered"
    assert (audio.decodes, audio.codec, audio.refusal) == (True, None, "its codec is aac")


def test_h264_in_order_can_pass(sendable: Path) -> None:
    [finding] = probe(locate(sendable)).values()
    assert finding.refusal is None
    assert finding.codec is Codec.H264


@pytest.mark.parametrize(
    ("parts", "refusal"),
    [
        ({"video_options": {**FAST, "g": "500"}, "seconds": 5}, "keyframes are more than 4 s"),
        ({"video_options": FAST, "pix_fmt": "yuv444p"}, "pixel format is yuv444p"),
        ({"video_options": {"preset": "ultrafast", "bf": "2"}}, "reordered"),
        ({"video": "mpeg4"}, "codec is mpeg4"),
        ({"name": "raw.h264", "video_options": FAST}, "no timestamps"),
        ({"video": "libvpx", "name": "a.webm", "video_options": {"g": "500"}, "seconds": 5}, "4 s"),
        ({"video_options": {**FAST, "flags": "+ildct", "x264-params": "tff=1"}}, "interlaced"),
    ],
)
def test_other_video_is_refused_with_the_reason(
    clip: ClipMaker, recipe: Recipe, parts: dict[str, object], refusal: str
) -> None:
    [finding] = probe(locate(clip(recipe(**{"audio": "", **parts})))).values()
    assert finding.refusal is not None
    assert refusal in finding.refusal
    assert finding.decodes


def test_vp8_and_opus_can_pass(clip: ClipMaker, recipe: Recipe) -> None:
    path = clip(
        recipe(
            name="a.webm",
            video="libvpx",
            audio="libopus",
            seconds=2,
            video_options={"deadline": "realtime", "lag-in-frames": "0", "g": "24"},
        )
    )
    findings = probe(locate(path))
    assert [finding.refusal for finding in findings.values()] == [None, None]
    assert {finding.codec for finding in findings.values()} == {Codec.VP8, Codec.OPUS}


def test_vp8_with_frames_that_are_not_shown_is_refused(
    clip: ClipMaker, recipe: Recipe, tmp_path: Path
) -> None:
    shown = clip(recipe(name="a.webm", video="libvpx", audio="", seconds=1))
    with open_container(locate(shown)) as container:
        packets = [bytes(packet) for packet in container.demux() if packet.size]
    hidden = bytes([packets[5][0] & ~0x10]) + packets[5][1:]  # RFC 6386 section 9.1
    path = tmp_path / "hidden.webm"
    path.write_bytes(shown.read_bytes().replace(packets[5], hidden))
    [finding] = probe(locate(path)).values()
    assert finding.refusal == "it has frames that are not shown"


def test_opus_of_other_lengths_is_refused(clip: ClipMaker, recipe: Recipe) -> None:
    path = clip(
        recipe(name="a.ogg", video="", audio="libopus", audio_options={"frame_duration": "40"})
    )
    [finding] = probe(locate(path)).values()
    assert finding.refusal == "its packets are not 20 ms"


def test_a_stream_of_garbage_does_not_decode(film: Path, tmp_path: Path) -> None:
    data = bytearray(film.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start:end] = b"\xff" * (end - start)
    path = tmp_path / "garbage.mp4"
    path.write_bytes(data)
    assert not any(finding.decodes for finding in probe(locate(path)).values())


@pytest.mark.parametrize(
    ("packet", "milliseconds"),
    [
        (b"", 0),
        (b"\xf8\xff\xfe", 20),  # CELT
        (b"\xe0", 2.5),
        (b"\x08", 20),  # SILK
        (b"\x18", 60),
        (b"\x68", 20),  # hybrid
        (b"\xf9", 40),  # two frames
        (b"\xfb\x03", 60),  # three
        (b"\xfb", 0),  # count missing
    ],
)
def test_lengths_of_opus_packets(packet: bytes, milliseconds: float) -> None:
    assert opus_milliseconds(packet) == milliseconds
