"""What client and server agree on, made from their messages. No I/O.

The numbers of all transports come from Ready and the codec offer; WebRTC numbers header extensions
and feedback in its descriptions. Spec: userdoccers, "Voice Connections".
"""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import TYPE_CHECKING

from discord_rtc.errors import NoCommonCodec
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.protocol.messages import CodecInfo, SelectProtocol
from discord_rtc.rtp.extensions import NATIVE_EXTENSION_IDS
from discord_rtc.transport.base import NegotiatedMedia, SendingSsrcs

if TYPE_CHECKING:
    from discord_rtc.protocol.messages import Ready, SessionDescription
    from discord_rtc.transport.base import MediaOffer

_LOG = logging.getLogger("discord_rtc.transport")

_PRIORITY_STEP = 1000  # "multiple of 1000, unique per type, 1000 = first" (codec structure)
_FALLBACK_VIDEO = Codec.H264  # what the server assumes without usable codec information
_TEST_STREAM = "test"  # stream type of bandwidth tests, no video layer


def select_udp(offer: MediaOffer, *, mode: str, address: tuple[str, int]) -> SelectProtocol:
    """Build the message that selects the native UDP protocol.

    Args:
        offer: What this client brings.
        mode: The chosen transport encryption mode.
        address: Where the server shall send to.
    """
    return SelectProtocol(
        protocol="udp",
        address=address[0],
        port=address[1],
        mode=mode,
        codecs=codec_list(offer),
        rtc_connection_id=offer.rtc_connection_id,
        experiments=offer.experiments,
    )


def select_webrtc(offer: MediaOffer, fragment: str) -> SelectProtocol:
    """Build the message that selects WebRTC.

    Args:
        offer: What this client brings.
        fragment: The lines of our offer, as from `reduce_offer`.
    """
    return SelectProtocol(
        protocol="webrtc",
        sdp=fragment,
        codecs=codec_list(offer),
        rtc_connection_id=offer.rtc_connection_id,
        experiments=offer.experiments,
    )


def codec_list(offer: MediaOffer) -> tuple[CodecInfo, ...]:
    """The offered codecs as the server wants them, with priorities per kind."""
    ranks = dict.fromkeys(MediaKind, 0)
    infos: list[CodecInfo] = []
    for entry in offer.codecs:
        kind = entry.codec.kind
        ranks[kind] += 1
        infos.append(
            CodecInfo(
                name=entry.codec.value,
                type=kind.value,
                priority=ranks[kind] * _PRIORITY_STEP,
                payload_type=entry.payload_type,
                rtx_payload_type=entry.rtx_payload_type,
                encode=entry.encode,
                decode=entry.decode,
            )
        )
    return tuple(infos)


def negotiate(
    ready: Ready, offer: MediaOffer, answer: SessionDescription, *, max_packet_size: int
) -> NegotiatedMedia:
    """Put together what the layers above need from the three messages of a negotiation.

    Args:
        ready: Gives the SSRCs.
        offer: Gives payload types, which are binding as offered.
        answer: Names the codecs that we shall send.
        max_packet_size: Largest plain RTP packet in bytes.

    Raises:
        NoCommonCodec: The answer wants audio in a codec that was not offered.
    """
    return NegotiatedMedia(
        audio_codec=_audio_codec(offer, answer.audio_codec),
        video_codec=_video_codec(offer, answer.video_codec),
        payload_types=MappingProxyType({entry.codec: entry.payload_type for entry in offer.codecs}),
        rtx_payload_types=MappingProxyType(
            {
                entry.codec: entry.rtx_payload_type
                for entry in offer.codecs
                if entry.rtx_payload_type is not None
            }
        ),
        extension_ids=NATIVE_EXTENSION_IDS,
        audio_ssrc=ready.ssrc,
        video=video_layers(ready),
        max_packet_size=max_packet_size,
        keyframe_interval_ms=answer.keyframe_interval,
    )


def _codec_named(name: str | None) -> Codec | None:
    return next((codec for codec in Codec if codec.value == name), None)


def _audio_codec(offer: MediaOffer, name: str | None) -> Codec:
    # An answer that names no audio codec means the only one there is.
    codec = Codec.OPUS if name is None else _codec_named(name)
    offered = [entry.codec for entry in offer.codecs if entry.codec.kind is MediaKind.AUDIO]
    if codec is None or codec not in offered:
        names = ", ".join(entry.value for entry in offered) or "nothing"
        raise NoCommonCodec(f"the server wants audio as {name!r:.40}, offered was {names}")
    return codec


def _video_codec(offer: MediaOffer, name: str | None) -> Codec | None:
    wanted = _codec_named(name)
    sendable = [entry.codec for entry in offer.codecs if entry.encode]
    # Only two codecs are known to be understood on the other side: the one it named, and the one
    # that it falls back to by itself.
    for codec in (wanted, _FALLBACK_VIDEO):
        if codec is not None and codec.kind is MediaKind.VIDEO and codec in sendable:
            if codec is not wanted:
                _LOG.info("! no usable video codec in the answer, sending %s", codec.value)
            return codec
    return None


def video_layers(ready: Ready) -> tuple[SendingSsrcs, ...]:
    """The video layers that Ready lets us send, the best one first."""
    layers = [
        SendingSsrcs(
            rid=stream.rid,
            ssrc=stream.ssrc,
            # "if absent: ssrc+1" (stream structure)
            rtx_ssrc=(stream.ssrc + 1) & 0xFFFF_FFFF
            if stream.rtx_ssrc is None
            else stream.rtx_ssrc,
            quality=stream.quality,
        )
        for stream in ready.streams
        if stream.ssrc is not None and stream.type != _TEST_STREAM
    ]
    return tuple(sorted(layers, key=lambda layer: layer.quality, reverse=True))
