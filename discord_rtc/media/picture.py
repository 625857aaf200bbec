"""Fitting pictures of any size and format into one of a recording's. Worker thread."""

from __future__ import annotations

import av
from av.video.reformatter import ColorRange

from discord_rtc.media.planes import plane

BLACK = (16, 128, 128)  # studio range, ITU-R BT.601


def even(size: int) -> int:
    """The largest even number of pixels, 2 at least: yuv420p halves its chroma."""
    return max(size & ~1, 2)


def black_picture(width: int, height: int) -> av.VideoFrame:
    """A black yuv420p picture; the size is even."""
    frame = av.VideoFrame(width, height, "yuv420p")
    for index, value in enumerate(BLACK):
        plane(frame, index)[:] = value
    return frame


def fit_picture(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """A yuv420p copy of a picture in the given even size.

    An odd column or row is cut off; any other size is scaled, keeping its shape, with black
    borders. The result shares nothing with the frame, which others may be reading.
    """
    if (even(frame.width), even(frame.height)) == (width, height):
        scaled_width, scaled_height = frame.width, frame.height
    else:
        scale = min(width / frame.width, height / frame.height)
        scaled_width = min(even(round(frame.width * scale)), width)
        scaled_height = min(even(round(frame.height * scale)), height)
    # Video is written in the studio range; RGB and camera pictures have the full one.
    studio = ColorRange.MPEG if frame.color_range == ColorRange.JPEG else None
    scaled = frame.reformat(scaled_width, scaled_height, "yuv420p", dst_color_range=studio)
    fits = scaled_width >= width and scaled_height >= height
    canvas = av.VideoFrame(width, height, "yuv420p") if fits else black_picture(width, height)
    # An even offset, so that luma and chroma stay together.
    left = max(width - scaled_width, 0) // 4 * 2
    top = max(height - scaled_height, 0) // 4 * 2
    for index in range(3):
        shift = 1 if index else 0
        source, target = plane(scaled, index), plane(canvas, index)
        x, y = left >> shift, top >> shift
        part = target[y : y + source.shape[0], x : x + source.shape[1]]
        part[:] = source[: part.shape[0], : part.shape[1]]
    return canvas
