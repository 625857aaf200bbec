"""The main job end-to-end encrypted: what the server sees of the film is of no use to it."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from discord_rtc.cli.call import DemoCall
from discord_rtc.cli.plan import CallPlan, open_sources
from discord_rtc.frames import Codec, EncodedFrame, MediaKind
from discord_rtc.media.decode import OpusDecoder, VideoDecoder
from discord_rtc.server import LocalServer

from ..e2e.seam import Frames

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from numpy.typing import NDArray

    from discord_rtc.cli.report import Report
    from discord_rtc.transport.plan import TransportName

SECONDS = 3.0
PAIRS: list[tuple[TransportName, TransportName]] = [
    ("udp", "udp"),
    ("udp", "webrtc"),
    ("webrtc", "udp"),
    ("webrtc", "webrtc"),
]


def run_demo(
    film: Path,
    out: Path,
    one: TransportName,
    two: TransportName,
    codec: Codec,
    dave: Literal["required", "off"] = "required",
) -> tuple[Report, Frames]:
    """The demo as the command does it, and what its server has forwarded."""
    forwarded = Frames(keep=True)

    def make_server(dave: Literal["required", "off"]) -> LocalServer:
        return LocalServer(dave=dave, tap=lambda _user, packet: forwarded.packet(packet))

    with open_sources(str(film)) as sources:
        plan = CallPlan(
            sources=sources,
            transport=one,
            receiver_transport=two,
            codec=codec,
            dave=dave,
            loss=0,
            seed=0,
            seconds=SECONDS,
            out=out,
            recorded=frozenset(MediaKind),
        )
        call = DemoCall(plan, make_server=make_server)
        asyncio.run(call.run(lambda: None))
    return call.report(), forwarded


@pytest.mark.parametrize(
    ("one", "two", "codec"),
    [*((one, two, Codec.H264) for one, two in PAIRS), ("udp", "webrtc", Codec.VP8)],
)
def test_the_server_forwards_a_film_that_it_cannot_see_or_hear(
    film: Path, tmp_path: Path, one: TransportName, two: TransportName, codec: Codec
) -> None:
    report, forwarded = run_demo(film, tmp_path / "out.mkv", one, two, codec)

    # The marks of the main job.
    assert (report.transport, report.receiver_transport, report.dave) == (one, two, "active")
    assert report.video_frames_sent >= 0.9 * SECONDS * 24
    assert report.video_frames_received >= 0.99 * report.video_frames_sent
    assert report.video_frames_damaged == 0
    assert report.audio_frames_received >= 0.99 * report.audio_frames_sent
    assert report.av_skew_ms.p95 is not None
    assert report.av_skew_ms.p95 < 80

    # Every frame of it that the server forwarded has DAVE's trailer.
    assert (forwarded.clear, forwarded.broken) == ([], 0)
    assert forwarded.encrypted >= report.video_frames_sent + report.audio_frames_sent - 10

    # As if they were clear they give neither sound nor picture.
    sound = decoded_sound(forwarded.kept[Codec.OPUS])
    assert abs(best_correlation(sound, film_sound(film))) < 0.1
    assert most_like(forwarded.kept[codec], codec, film) <= 12


def test_the_same_measures_find_the_film_where_it_is_not_encrypted(
    film: Path, tmp_path: Path
) -> None:
    report, forwarded = run_demo(film, tmp_path / "out.mkv", "udp", "udp", Codec.H264, "off")
    assert report.dave == "off"
    assert forwarded.encrypted == 0
    assert len(forwarded.clear) > SECONDS * 50
    assert best_correlation(decoded_sound(forwarded.kept[Codec.OPUS]), film_sound(film)) > 0.8
    assert most_like(forwarded.kept[Codec.H264], Codec.H264, film) > 25


def decoded_sound(frames: list[bytes]) -> NDArray[np.float64]:
    """What a decoder makes of encrypted Opus, mono."""
    decoder = OpusDecoder()
    parts = [
        frame.to_ndarray().reshape(-1, 2).mean(axis=1)
        for number, data in enumerate(frames)
        for frame in decoder.decode(
            EncodedFrame(data, Codec.OPUS, number * 960, Fraction(1, 48_000), keyframe=True)
        )
    ]
    return np.concatenate(parts) if parts else np.zeros(48_000)


def film_sound(film: Path) -> NDArray[np.float64]:
    """The film's sound, mono, 48 kHz."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=48_000)
    with av.open(str(film)) as container:
        parts = [
            out.to_ndarray()[0]
            for frame in container.decode(audio=0)
            for out in resampler.resample(frame)
        ]
    return np.concatenate(parts).astype(float)


def best_correlation(heard: NDArray[np.float64], said: NDArray[np.float64]) -> float:
    """The greatest correlation over all shifts, by FFT."""
    heard, said = heard - heard.mean(), said[: int(SECONDS * 48_000)] - said.mean()
    norm = float(np.linalg.norm(heard) * np.linalg.norm(said))
    if norm == 0:
        return 0.0
    size = 1 << (len(heard) + len(said)).bit_length()
    product = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(said, size))
    return float(np.abs(np.fft.irfft(product, size)).max() / norm)


def grey(picture: av.VideoFrame) -> NDArray[np.float64]:
    """Its brightness, ``(height, width)``."""
    return picture.to_ndarray(format="gray").astype(float)


def most_like(frames: list[bytes], codec: Codec, film: Path) -> float:
    """The greatest PSNR in dB that any decoded picture has to any picture of the film."""
    decoder = VideoDecoder(codec)
    shown: list[NDArray[np.float64]] = []
    for number, data in enumerate(frames):
        frame = EncodedFrame(data, codec, number * 3750, Fraction(1, 90_000), keyframe=number == 0)
        shown += [grey(picture) for picture in decoder.decode(frame)]
    with av.open(str(film)) as container:
        pictures = [grey(picture) for picture in container.decode(video=0)]
    best = 0.0
    for one in shown[::4]:
        for other in pictures[:: max(1, len(pictures) // 40)]:
            if one.shape == other.shape:
                error = float(np.mean((one - other) ** 2))
                best = max(best, 10 * np.log10(255**2 / max(error, 1e-9)))
    return best
