"""From the messages of a negotiation to the value that travels up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from discord_rtc.errors import NoCommonCodec
from discord_rtc.frames import Codec
from discord_rtc.protocol.messages import CodecInfo, SelectProtocol, StreamInfo
from discord_rtc.rtp.extensions import NATIVE_EXTENSION_IDS
from discord_rtc.transport.base import CodecOffer, MediaOffer, NegotiatedMedia, SendingSsrcs
from discord_rtc.transport.negotiation import (
    codec_list,
    negotiate,
    select_udp,
    select_webrtc,
    video_layers,
)

if TYPE_CHECKING:
    from discord_rtc.protocol.messages import Ready, SessionDescription

OPUS = CodecOffer(Codec.OPUS, 120)
VP8 = CodecOffer(Codec.VP8, 105, 106)
H264 = CodecOffer(Codec.H264, 101, 102)


def test_select_says_everything() -> None:
    offer = MediaOffer((OPUS,), rtc_connection_id="uuid", experiments=("one",))
    assert select_udp(offer, mode="a_mode", address=("203.0.113.7", 9)) == SelectProtocol(
        protocol="udp",
        address="203.0.113.7",
        port=9,
        mode="a_mode",
        codecs=(CodecInfo("opus", "audio", 1000, 120),),
        rtc_connection_id="uuid",
        experiments=("one",),
    )


def test_select_with_a_description_says_everything() -> None:
    offer = MediaOffer((OPUS,), rtc_connection_id="uuid", experiments=("one",))
    assert select_webrtc(offer, "a=ice-ufrag:abcd") == SelectProtocol(
        protocol="webrtc",
        sdp="a=ice-ufrag:abcd",
        codecs=(CodecInfo("opus", "audio", 1000, 120),),
        rtc_connection_id="uuid",
        experiments=("one",),
    )


def test_best_layer_comes_first(ready: Ready) -> None:
    streams = (
        StreamInfo(rid="50", quality=50, ssrc=1003, rtx_ssrc=1004),
        StreamInfo(rid="100", quality=100, ssrc=1001, rtx_ssrc=1002),
    )
    layers = video_layers(replace(ready, streams=streams))
    assert [layer.rid for layer in layers] == ["100", "50"]
    assert video_layers(ready) == ()


def test_priorities_count_per_kind_in_the_offered_order() -> None:
    h265 = CodecOffer(Codec.H265, 103, 104, encode=False)
    assert codec_list(MediaOffer((VP8, OPUS, H264, h265))) == (
        CodecInfo("VP8", "video", 1000, 105, 106),
        CodecInfo("opus", "audio", 1000, 120),
        CodecInfo("H264", "video", 2000, 101, 102),
        CodecInfo("H265", "video", 3000, 103, 104, encode=False),
    )


def test_negotiated_media_is_complete(ready: Ready, answer: SessionDescription) -> None:
    stream = StreamInfo(ssrc=1001, rtx_ssrc=1002)
    media = negotiate(
        replace(ready, streams=(stream,)),
        MediaOffer(),
        replace(answer, keyframe_interval=2000),
        max_packet_size=1232,
    )
    assert media == NegotiatedMedia(
        audio_codec=Codec.OPUS,
        video_codec=Codec.H264,
        payload_types={Codec.OPUS: 120, Codec.H264: 101, Codec.VP8: 105},
        rtx_payload_types={Codec.H264: 102, Codec.VP8: 106},
        extension_ids=NATIVE_EXTENSION_IDS,
        audio_ssrc=1000,
        video=(SendingSsrcs("100", 1001, 1002),),
        max_packet_size=1232,
        keyframe_interval_ms=2000,
    )


@pytest.mark.parametrize(
    ("codecs", "named", "chosen"),
    [
        ((OPUS, H264, VP8), "VP8", Codec.VP8),
        ((OPUS, H264, VP8), "AV1", Codec.H264),  # not offered: what every receiver knows
        ((OPUS, H264, VP8), "MPEG2", Codec.H264),
        ((OPUS, H264, VP8), "opus", Codec.H264),
        ((OPUS, H264, VP8), None, Codec.H264),
        ((OPUS, VP8), "AV1", None),
        ((OPUS, VP8), "H264", None),
        ((OPUS, VP8, replace(H264, encode=False)), "H264", None),
        ((OPUS,), "H264", None),
    ],
)
def test_video_codec(
    codecs: tuple[CodecOffer, ...],
    named: str | None,
    chosen: Codec | None,
    ready: Ready,
    answer: SessionDescription,
) -> None:
    answer = replace(answer, video_codec=named)
    media = negotiate(ready, MediaOffer(codecs), answer, max_packet_size=1200)
    assert media.video_codec is chosen


def test_unnamed_audio_codec_is_opus(ready: Ready, answer: SessionDescription) -> None:
    answer = replace(answer, audio_codec=None)
    assert negotiate(ready, MediaOffer(), answer, max_packet_size=1).audio_codec is Codec.OPUS


@pytest.mark.parametrize(
    ("codecs", "named", "complaint"),
    [
        ((OPUS, H264), "lyra", "'lyra'.*opus"),
        ((OPUS, H264), "H264", "'H264'.*opus"),
        ((H264,), "opus", "'opus'.*nothing"),
    ],
)
def test_audio_that_was_not_offered_is_an_error(
    codecs: tuple[CodecOffer, ...],
    named: str,
    complaint: str,
    ready: Ready,
    answer: SessionDescription,
) -> None:
    with pytest.raises(NoCommonCodec, match=complaint):
        negotiate(
            ready, MediaOffer(codecs), replace(answer, audio_codec=named), max_packet_size=1200
        )


def test_video_layers_are_sorted_and_completed(ready: Ready, answer: SessionDescription) -> None:
    streams = (
        StreamInfo(rid="50", quality=50, ssrc=1003),
        StreamInfo(rid="100", quality=100, ssrc=1001, rtx_ssrc=1007),
        StreamInfo(rid="0", quality=0),  # no SSRC, nothing to send with
        StreamInfo(type="test", rid="100", quality=100, ssrc=1009),
        StreamInfo(rid="25", quality=25, ssrc=0xFFFF_FFFF),
    )
    media = negotiate(replace(ready, streams=streams), MediaOffer(), answer, max_packet_size=1200)
    assert media.video == (
        SendingSsrcs("100", 1001, 1007, 100),
        SendingSsrcs("50", 1003, 1004, 50),
        SendingSsrcs("25", 0xFFFF_FFFF, 0, 25),
    )
