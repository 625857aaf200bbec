from __future__ import annotations

import pytest

from discord_rtc.protocol.messages import CodecInfo, Identify, SelectProtocol, StreamInfo
from discord_rtc.server.negotiation import (
    SSRCS_PER_SESSION,
    Admission,
    choose_video_codec,
    make_ready,
    refuse_codecs,
    refuse_selection,
)

MODES = ("aead_aes256_gcm_rtpsize", "aead_xchacha20_poly1305_rtpsize")
HERE = Admission(500, "127.0.0.1", 40_000)


def identify(*, video: bool = False, streams: tuple[StreamInfo, ...] = ()) -> Identify:
    return Identify(1, 2, "session", "token", video=video, streams=streams)


def codec(name: str, priority: int, *, encode: bool = True, number: int = 100) -> CodecInfo:
    return CodecInfo(name, "video", priority, number, number + 1, encode=encode)


def test_ready_without_video_has_no_streams() -> None:
    ready = make_ready(identify(), HERE, MODES)
    assert (ready.ssrc, ready.ip, ready.port, ready.modes) == (500, "127.0.0.1", 40_000, MODES)
    assert ready.streams == ()


def test_video_without_streams_gets_one_layer() -> None:
    (stream,) = make_ready(identify(video=True), HERE, MODES).streams
    assert (stream.rid, stream.ssrc, stream.rtx_ssrc, stream.active) == ("100", 501, 502, False)


def test_each_layer_gets_its_own_pair_of_ssrcs() -> None:
    layers = (StreamInfo(rid="100"), StreamInfo(rid="50", quality=50))
    ready = make_ready(identify(streams=layers), HERE, MODES)
    assert [(s.rid, s.quality, s.ssrc, s.rtx_ssrc) for s in ready.streams] == [
        ("100", 100, 501, 502),
        ("50", 50, 503, 504),
    ]
    assert ready.streams[-1].rtx_ssrc is not None
    assert ready.streams[-1].rtx_ssrc < 500 + SSRCS_PER_SESSION


def test_the_video_codec_is_the_first_choice_that_the_client_can_encode() -> None:
    codecs = [
        codec("VP8", 3000),
        codec("AV1", 1000, encode=False),
        codec("H264", 4000),
        codec("RV40", 1),
        CodecInfo("opus", "audio", 1000, 120),
    ]
    assert choose_video_codec(codecs) == "VP8"


def test_without_a_usable_codec_the_choice_is_h264() -> None:
    assert choose_video_codec([]) == "H264"
    assert choose_video_codec([codec("AV1", 1000, encode=False)]) == "H264"


@pytest.mark.parametrize(
    ("select", "code"),
    [
        (SelectProtocol("udp", "127.0.0.1", 1, MODES[1]), None),
        (SelectProtocol("webrtc", sdp="v=0"), 4012),
        (SelectProtocol("carrier pigeon", sdp=""), 4012),
        (SelectProtocol("udp", "127.0.0.1", 1, "xsalsa20_poly1305"), 4016),
        (
            SelectProtocol("udp", "127.0.0.1", 1, MODES[0], codecs=(codec("VP8", 1, number=127),)),
            4020,
        ),
    ],
)
def test_what_cannot_be_selected_is_refused(select: SelectProtocol, code: int | None) -> None:
    refusal = refuse_selection(select, MODES)
    assert (None if refusal is None else refusal.code) == code


def test_payload_types_of_more_than_seven_bits_are_refused() -> None:
    assert refuse_codecs([codec("VP8", 1000, number=126)]) is None
    assert refuse_codecs([codec("VP8", 1000, number=127)]) is not None
    assert refuse_codecs([CodecInfo("opus", "audio", 1000, 128)]) is not None
