from __future__ import annotations

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange

from discord_rtc.media.picture import black_picture, even, fit_picture
from discord_rtc.media.planes import plane


def _picture(width: int, height: int, pixel_format: str = "yuv420p") -> av.VideoFrame:
    frame = av.VideoFrame(width, height, "yuv420p")
    values = np.random.default_rng(3).integers(16, 235, (height, width))
    plane(frame, 0)[:] = values
    for index in (1, 2):
        plane(frame, index)[:] = 90 + index
    return frame.reformat(format=pixel_format)


@pytest.mark.parametrize(("size", "expected"), [(641, 640), (640, 640), (3, 2), (1, 2)])
def test_even_sizes(size: int, expected: int) -> None:
    assert even(size) == expected


def test_a_black_picture_is_black() -> None:
    rgb = black_picture(64, 48).to_ndarray(format="rgb24")
    assert rgb.shape == (48, 64, 3)
    assert int(rgb.max()) == 0


def test_a_fitting_picture_is_copied_and_not_shared() -> None:
    frame = _picture(64, 48)
    before = plane(frame, 0).copy()
    fitted = fit_picture(frame, 64, 48)
    assert np.array_equal(plane(fitted, 0), before)
    plane(fitted, 0)[:] = 0
    assert np.array_equal(plane(frame, 0), before)


def test_an_odd_row_and_column_are_cut_off_without_scaling() -> None:
    frame = _picture(65, 49)
    fitted = fit_picture(frame, 64, 48)
    assert np.array_equal(plane(fitted, 0), plane(frame, 0)[:48, :64])
    assert plane(fitted, 1).shape == (24, 32)


@pytest.mark.parametrize(
    ("source", "target", "box"),
    [
        ((128, 128), (128, 96), (0, 96, 16, 112)),  # square into 4:3
        ((200, 50), (64, 48), (16, 32, 0, 64)),  # wide
        ((32, 24), (64, 48), (0, 48, 0, 64)),  # smaller, same shape
        ((1280, 2), (64, 48), (22, 24, 0, 64)),  # a line
    ],
)
def test_other_sizes_keep_their_shape_between_black_borders(
    source: tuple[int, int], target: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    frame = av.VideoFrame(*source, "yuv420p")
    for index, value in enumerate((200, 100, 160)):
        plane(frame, index)[:] = value
    luma = plane(fit_picture(frame, *target), 0)
    expected = np.full(target[::-1], 16, np.uint8)
    top, bottom, left, right = box
    expected[top:bottom, left:right] = 200
    assert abs(luma.astype(int) - expected).max() <= 2


def test_full_range_and_rgb_pictures_are_converted() -> None:
    for pixel_format in ("rgb24", "yuvj420p", "gray"):
        fitted = fit_picture(_picture(64, 48, pixel_format), 64, 48)
        assert fitted.format.name == "yuv420p"


@pytest.mark.parametrize("pixel_format", ["rgb24", "yuvj420p"])
def test_full_range_pictures_keep_their_contrast(pixel_format: str) -> None:
    white = np.full((48, 64, 3), 255, np.uint8)
    frame = av.VideoFrame.from_ndarray(white, format="rgb24")
    if pixel_format != "rgb24":
        frame = frame.reformat(format=pixel_format, dst_color_range=ColorRange.JPEG)
    luma = plane(fit_picture(frame, 64, 48), 0)
    assert np.abs(luma.astype(int) - 235).max() <= 1  # white in the studio range
