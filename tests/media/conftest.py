"""Clips that the media tests make for themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias, cast

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.video.stream import VideoStream


@dataclass(frozen=True)
class Recipe:
    """What a clip is made of; an empty codec leaves the stream out."""

    name: str = "film.mp4"
    video: str = "libx264"
    audio: str = "aac"
    seconds: int = 4
    fps: int = 24
    size: tuple[int, int] = (320, 180)
    pix_fmt: str = "yuv420p"
    video_options: dict[str, str] = field(default_factory=dict)
    audio_options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)


ClipMaker: TypeAlias = Callable[[Recipe], Path]

FILM = Recipe(video_options={"preset": "ultrafast", "bf": "3", "g": "48"})
"""Like a film from a shop: H.264 with B-frames, AAC, MP4."""

SENDABLE = Recipe(
    name="sendable.mp4",
    audio="",
    video_options={"preset": "ultrafast", "tune": "zerolatency", "g": "24"},
)


def _picture(number: int, recipe: Recipe) -> av.VideoFrame:
    width, height = recipe.size
    across, down = np.arange(width)[None, :], np.arange(height)[:, None]
    luma = (128 + 60 * np.sin((across + 3 * number) / 20) + 50 * np.cos(down / 15)).astype(np.uint8)
    luma[height // 3 : height // 2, (5 * number) % width :][:, :30] = 235
    planes = [luma, np.full((height // 2, width), 128, np.uint8)]
    frame = av.VideoFrame.from_ndarray(np.vstack(planes), format="yuv420p")
    frame.pts, frame.time_base = number, Fraction(1, recipe.fps)
    return frame.reformat(format=recipe.pix_fmt)


def _sound(seconds: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    times = np.arange(48_000 * seconds) / 48_000
    sweep = 0.3 * np.sin(2 * np.pi * (300 + 200 * times) * times)
    return np.repeat((sweep * 32767).astype(np.int16), 2)


def _make(path: Path, recipe: Recipe) -> Path:
    with av.open(str(path), "w", options=recipe.container_options) as container:
        video = audio = None
        if recipe.video:
            stream = container.add_stream(
                recipe.video, rate=recipe.fps, options=recipe.video_options
            )
            video = cast(VideoStream, stream)
            video.codec_context.width, video.codec_context.height = recipe.size
            video.pix_fmt = recipe.pix_fmt
        if recipe.audio:
            stream = container.add_stream(recipe.audio, rate=48_000, options=recipe.audio_options)
            audio = cast(AudioStream, stream)
            audio.codec_context.layout = "stereo"
        sound = _sound(recipe.seconds)
        for number in range(recipe.seconds * recipe.fps):
            if video:
                container.mux(video.encode(_picture(number, recipe)))
            if audio:
                samples = 48_000 // recipe.fps
                part = sound[number * samples * 2 : (number + 1) * samples * 2]
                frame = av.AudioFrame.from_ndarray(part.reshape(1, -1), "s16", "stereo")
                frame.sample_rate, frame.pts = 48_000, number * samples
                frame.time_base = Fraction(1, 48_000)
                container.mux(audio.encode(frame))
        for output in (video, audio):
            if output:
                container.mux(output.encode(None))
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipMaker:
    """Make a clip, once for each recipe and session. It must not be changed."""
    made: dict[str, Path] = {}

    def make(recipe: Recipe) -> Path:
        key = repr(recipe)
        if key not in made:
            made[key] = _make(tmp_path_factory.mktemp("clip") / recipe.name, recipe)
        return made[key]

    return make


@pytest.fixture(scope="session")
def film(clip: ClipMaker) -> Path:
    """4 s of 320x180 at 24 fps, H.264 with B-frames and AAC in MP4."""
    return clip(FILM)


@pytest.fixture(scope="session")
def sendable(clip: ClipMaker) -> Path:
    """4 s of H.264 that may be sent as it is."""
    return clip(SENDABLE)


@pytest.fixture(scope="session")
def recipe() -> type[Recipe]:
    """The class of recipes, for tests that need clips of their own."""
    return Recipe
