"""A film of our own, and the command line as a user starts it: in a process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
import pytest
from numpy.typing import NDArray

WIDTH, HEIGHT, FPS = 640, 360, 24
SECONDS = 8
RATE = 48_000

Pcm: TypeAlias = NDArray[np.float64]


def _picture(number: int) -> av.VideoFrame:
    """Waves and a bar that move: no two pictures of the film are alike."""
    across, down = np.arange(WIDTH)[None, :], np.arange(HEIGHT)[:, None]
    luma = 120 + 50 * np.sin((across + 7 * number) / 40) + 40 * np.sin((down - 5 * number) / 30)
    left = 3 * number % (WIDTH - 40)
    luma[100:260, left : left + 40] = 220
    chroma = np.full((HEIGHT // 2, WIDTH), 128)
    chroma[:, : WIDTH // 2] += int(40 * np.sin(number / 20))
    frame = av.VideoFrame.from_ndarray(np.vstack([luma, chroma]).astype(np.uint8), format="yuv420p")
    frame.pts, frame.time_base = number, Fraction(1, FPS)
    return frame


def _sound() -> Pcm:
    """(samples, 2): a chirp from 100 to 1700 Hz with noise below 4 kHz, unlike left and right."""
    times = np.arange(RATE * SECONDS) / RATE
    chirp = 0.3 * np.sin(2 * np.pi * (100 + 100 * times) * times)
    spectrum = np.fft.rfft(np.random.default_rng(1).normal(0, 0.3, len(times)))
    spectrum[np.fft.rfftfreq(len(times), 1 / RATE) > 4000] = 0
    noise = np.fft.irfft(spectrum, len(times))
    return np.stack([chirp + noise, chirp - 0.5 * noise], axis=1)


def _make_film(path: Path) -> None:
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "bf": "3", "b-adapt": "0", "g": "48"}
        video = container.add_stream("libx264", rate=FPS, options=options)
        video.codec_context.width, video.codec_context.height = WIDTH, HEIGHT
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=RATE)
        audio.codec_context.layout, audio.codec_context.bit_rate = "stereo", 192_000
        pcm = (_sound() * 32767).astype(np.int16)
        step = RATE // FPS
        for number in range(SECONDS * FPS):
            container.mux(video.encode(_picture(number)))
            part = pcm[number * step : (number + 1) * step]
            frame = av.AudioFrame.from_ndarray(part.reshape(1, -1), "s16", "stereo")
            frame.sample_rate, frame.pts = RATE, number * step
            frame.time_base = Fraction(1, RATE)
            container.mux(audio.encode(frame))
        for stream in (video, audio):
            container.mux(stream.encode(None))


@dataclass(frozen=True)
class Watched:
    """A file as a player shows it.

    Attributes:
        duration: Seconds, as the container says.
        times: Of the pictures, in seconds from the beginning of the file.
        pictures: Their luma, (height, width).
        sound: (samples, channels) at 48 kHz; sample 0 is at time 0 of the file.
    """

    duration: float
    times: list[float] = field(default_factory=list)
    pictures: list[NDArray[np.uint8]] = field(default_factory=list)
    sound: Pcm = field(default_factory=lambda: np.zeros((0, 2)))

    def picture_at(self, time: float) -> NDArray[np.uint8]:
        """What is on the screen at a time."""
        shown = [i for i, begin in enumerate(self.times) if begin <= time + 1e-3]
        return self.pictures[shown[-1] if shown else 0]


def watch(path: Path) -> Watched:
    """Decode a whole file."""
    times: list[float] = []
    pictures: list[NDArray[np.uint8]] = []
    sounds: list[Pcm] = []
    with av.open(str(path)) as container:
        assert container.duration is not None
        duration = container.duration / 1_000_000
        resampler = av.AudioResampler("fltp", "stereo", RATE)
        start: float | None = None
        for frame in container.decode():
            assert frame.time is not None
            if isinstance(frame, av.VideoFrame):
                times.append(frame.time)
                pictures.append(frame.to_ndarray(format="gray").astype(np.uint8))
            elif isinstance(frame, av.AudioFrame):
                start = frame.time if start is None else start
                sounds += [piece.to_ndarray().T for piece in resampler.resample(frame)]
    sound: Pcm = np.concatenate(sounds) if sounds else np.zeros((0, 2))
    if start is not None:
        offset = round(start * RATE)
        sound = sound[-offset:] if offset < 0 else np.pad(sound, ((offset, 0), (0, 0)))
    return Watched(duration, times, pictures, sound)


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def sentence(self) -> str:
        """The one line that it complained with."""
        assert self.stderr.startswith("discord-rtc: "), self.stderr
        assert self.stderr.count("\n") == 1, self.stderr
        return self.stderr.removeprefix("discord-rtc: ").rstrip()


@dataclass(frozen=True)
class Shell:
    """A directory in which commands are run."""

    directory: Path

    @staticmethod
    def command(*arguments: object) -> list[str]:
        # ResourceWarnings of what was not closed would be seen on stderr.
        python = [sys.executable, "-W", "always::ResourceWarning"]
        return [*python, "-m", "discord_rtc", *map(str, arguments)]

    def run(self, *arguments: object) -> Ended:
        """Run ``discord-rtc`` to its end."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start ``discord-rtc``."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def path(self, name: str) -> Path:
        return self.directory / name

    def json(self, name: str) -> dict[str, object]:
        """A report that was written."""
        report = json.loads(self.path(name).read_text(encoding="utf-8"))
        assert isinstance(report, dict)
        return report


Watch: TypeAlias = Callable[[Path], Watched]


@pytest.fixture(scope="session", name="watch")
def _watch() -> Watch:
    """Decodes a whole file."""
    return watch


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 s of 640x360 at 24 fps, H.264 with B-frames and AAC in MP4, as films come."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    _make_film(path)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.has_b_frames
    return path


@pytest.fixture(scope="session")
def film_seen(film: Path) -> Watched:
    """The film, decoded."""
    return watch(film)


@pytest.fixture(scope="session")
def new_shell(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Shell]:
    """Makes a shell in a directory of its own."""
    return lambda: Shell(tmp_path_factory.mktemp("shell"))


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell in an empty directory."""
    return Shell(tmp_path)
