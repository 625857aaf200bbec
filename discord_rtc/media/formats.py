"""What goes into a recording, by the suffix of its name. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class FileFormat:
    """What goes into files with a certain suffix.

    Attributes:
        muxer: FFmpeg's name of the container.
        video: FFmpeg's encoder; None for sound alone, and then of one track only.
        audio: FFmpeg's encoder.
        ticks: Time stamps per second of video.
        options: Of the muxer.
    """

    muxer: str
    video: str | None
    audio: str
    ticks: int = 90_000
    options: Mapping[str, str] = field(default_factory=dict)


# Everything is flushed at once, so that a file is good up to a moment before a kill. MP4 is
# written in fragments and made an ordinary file at the end (FFmpeg 7.1, hybrid_fragmented).
_MP4 = {
    # delay_moov: else it has no edit list, and AAC's 1024 samples of priming delay the sound.
    "movflags": "+hybrid_fragmented+frag_keyframe+delay_moov",
    "frag_duration": "1000000",
    "flush_packets": "1",
}
_MATROSKA = {"cluster_time_limit": "1000", "flush_packets": "1"}
_FLUSHED = {"flush_packets": "1"}

FORMATS = {
    ".mp4": FileFormat("mp4", "libx264", "aac", options=_MP4),
    ".m4v": FileFormat("mp4", "libx264", "aac", options=_MP4),
    ".mov": FileFormat("mov", "libx264", "aac", options=_MP4),
    # Matroska counts in milliseconds.
    ".mkv": FileFormat("matroska", "libx264", "libopus", 1000, _MATROSKA),
    ".webm": FileFormat("webm", "libvpx", "libopus", 1000, _MATROSKA),
    ".ogg": FileFormat("ogg", None, "libopus", options=_FLUSHED),
    ".opus": FileFormat("opus", None, "libopus", options=_FLUSHED),
    ".wav": FileFormat("wav", None, "pcm_s16le", options=_FLUSHED),
}
