"""From a user's track to frames on the network.

    track.recv() -> encode in a worker -> encrypt -> RtpSession (paced) -> transport

One `Publication` is one published track. It outlives the voice sessions: `send_track` is called
anew, with another outlet, for each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.connection.audio_sender import AudioSender
from discord_rtc.connection.video_sender import VideoSender
from discord_rtc.connection.worker import Worker
from discord_rtc.frames import MediaKind

if TYPE_CHECKING:
    from discord_rtc.connection.publication import Announcer, Outlet, Publication


async def send_track(publication: Publication, outlet: Outlet, announcer: Announcer) -> None:
    """Send a published track until it ends.

    Raises:
        MediaError: The track or its encoder failed.
    """
    publication.keyframe_requested()
    worker = Worker(publication.worker_name)
    sender = AudioSender if publication.kind is MediaKind.AUDIO else VideoSender
    try:
        await sender(publication, outlet, announcer, worker).run()
    finally:
        publication.withheld = False
        await worker.aclose()
