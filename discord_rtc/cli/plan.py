"""What the demo shall do, and what it has to send."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from discord_rtc.media.patterns import TestPattern, TestTone
from discord_rtc.media.sources import open_media

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Literal

    from discord_rtc.frames import Codec, MediaKind
    from discord_rtc.media.track import MediaTrack
    from discord_rtc.transport.plan import TransportName


@dataclass(frozen=True, slots=True)
class Sources:
    """What the demo may send.

    Attributes:
        video: None without pictures.
        audio: None without sound.
        duration: Seconds, None when unknown or endless.
    """

    video: MediaTrack | None
    audio: MediaTrack | None
    duration: float | None = None


@contextmanager
def open_sources(media: str | None) -> Iterator[Sources]:
    """Open what the user names, or with None the built-in test pattern and tone.

    Raises:
        UnsupportedMedia: There is nothing usable, in one sentence.
    """
    if media is None:
        video, audio = TestPattern(), TestTone()
        try:
            yield Sources(video, audio)
        finally:
            video.stop()
            audio.stop()
        return
    # Always decoded: the comparison needs the pictures that were sent.
    with open_media(media, passthrough="never") as source:
        yield Sources(source.video, source.audio, source.duration)


@dataclass(frozen=True, slots=True)
class CallPlan:
    """What the demo shall do.

    Attributes:
        sources: What to send.
        transport: The sender's.
        receiver_transport: The receiver's.
        codec: Video codec to negotiate.
        dave: End-to-end encryption of the call.
        loss: Probability of loss on each way between a user and the server.
        seed: Of the loss.
        seconds: How long to send; None until the source ends.
        out: The recording.
        recorded: What it holds.
    """

    sources: Sources
    transport: TransportName
    receiver_transport: TransportName
    codec: Codec
    dave: Literal["required", "off"]
    loss: float
    seed: int
    seconds: float | None
    out: Path
    recorded: frozenset[MediaKind]
