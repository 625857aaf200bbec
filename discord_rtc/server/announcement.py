"""What a WebRTC client's op 12 means in the SSRCs of Ready. Sans-I/O.

Spec: userdoccers, "Voice Connections" (video, WebRTC).

Such a client names SSRCs that it has chosen itself; everybody else knows the ones of Ready. Its
layers are those of Ready in the same order, except that who names an SSRC of Ready means that one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from discord_rtc.protocol.messages import StreamInfo

if TYPE_CHECKING:
    from discord_rtc.protocol.messages import Video
    from discord_rtc.server.leg_media import LegSsrcs


def own_layers(video: Video, ssrcs: LegSsrcs) -> tuple[tuple[int, int | None], ...]:
    """The client's own ``(media SSRC, RTX SSRC)`` of each layer of Ready.

    Args:
        video: As the client sent it.
        ssrcs: What Ready gave to it.

    Returns:
        As many as Ready has layers; a media SSRC of 0 stands for a layer that is not sent, no
        RTX SSRC for one that the client does not name.
    """
    own: list[tuple[int, int | None]] = [(0, None)] * len(ssrcs.video)
    for place, stream in _layers(video, ssrcs).items():
        own[place] = (stream.ssrc or 0, stream.rtx_ssrc)
    return tuple(own)


def in_ready_ssrcs(video: Video, ssrcs: LegSsrcs) -> Video:
    """The same message with the SSRCs of Ready; layers that Ready does not have are left out.

    Args:
        video: As the client sent it.
        ssrcs: What Ready gave to it.
    """
    layers = _layers(video, ssrcs)
    selected = 0
    if video.video_ssrc and layers:
        named = (place for place, stream in layers.items() if stream.ssrc == video.video_ssrc)
        selected = ssrcs.video[next(named, next(iter(layers)))][0]
    streams = [
        replace(stream, ssrc=ssrcs.video[place][0], rtx_ssrc=ssrcs.video[place][1])
        for place, stream in layers.items()
    ]
    return replace(
        video,
        audio_ssrc=ssrcs.audio,
        video_ssrc=selected,
        streams=tuple(streams) if video.streams else (),
    )


def _layers(video: Video, ssrcs: LegSsrcs) -> dict[int, StreamInfo]:
    """The layers that are sent, by their place among those of Ready; in the client's order."""
    streams = video.streams or (StreamInfo(),)
    if len(streams) == 1 and not streams[0].ssrc:
        streams = (replace(streams[0], ssrc=video.video_ssrc),)
    known = {media: place for place, (media, _) in enumerate(ssrcs.video)}
    named = {stream.ssrc for stream in streams}
    free = [place for media, place in known.items() if media not in named]
    layers: dict[int, StreamInfo] = {}
    for stream in streams:
        place = known.get(stream.ssrc or 0)
        if place is None and stream.ssrc and free:
            place = free.pop(0)
        if place is not None:
            layers[place] = _with_rtx(stream, video)
    return layers


def _with_rtx(stream: StreamInfo, video: Video) -> StreamInfo:
    if stream.rtx_ssrc is None and stream.ssrc == video.video_ssrc:
        return replace(stream, rtx_ssrc=video.rtx_ssrc)
    return stream
