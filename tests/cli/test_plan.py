from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from discord_rtc.cli.plan import open_sources
from discord_rtc.errors import UnsupportedMedia

if TYPE_CHECKING:
    from pathlib import Path


def test_without_a_name_there_is_an_endless_pattern_with_a_tone() -> None:
    with open_sources(None) as sources:
        assert sources.video is not None
        assert sources.audio is not None
        assert sources.duration is None
        assert (sources.video.readyState, sources.audio.readyState) == ("live", "live")
    assert (sources.video.readyState, sources.audio.readyState) == ("ended", "ended")


def test_a_film_is_opened_and_closed(film: Path) -> None:
    async def read() -> str:
        with open_sources(str(film)) as sources:
            assert sources.video is not None
            assert sources.audio is not None
            assert sources.duration == pytest.approx(8, abs=0.1)
            return type(await sources.video.recv()).__name__

    before = threading.active_count()
    assert asyncio.run(read()) == "VideoFrame"  # never a packet: it could not be compared
    assert threading.active_count() == before


def test_what_is_missing_is_empty() -> None:
    with open_sources("lavfi:sine") as sources:
        assert sources.video is None
        assert sources.audio is not None


def test_what_cannot_be_opened_is_a_media_error() -> None:
    with pytest.raises(UnsupportedMedia, match=r"there is no file no\.mp4"), open_sources("no.mp4"):
        pass
