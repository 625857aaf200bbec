"""Pixels of PyAV's frames as numpy arrays that share their memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

Plane: TypeAlias = "NDArray[np.uint8]"


def plane(frame: av.VideoFrame, index: int) -> Plane:
    """One plane of an 8-bit planar picture: (height, width) uint8, writing through.

    Args:
        frame: E.g. yuv420p, which has luma (0) and two planes of chroma at half its size.
        index: Of the plane.
    """
    source = frame.planes[index]
    rows = np.frombuffer(memoryview(source), np.uint8).reshape(-1, source.line_size)
    return rows[: source.height, : source.width]
