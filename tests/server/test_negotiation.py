from __future__ import annotations

import pytest

from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.protocol.messages import (
    CodecInfo,
    Identify,
    Ready,
    SelectProtocol,
    Speaking,
    StreamInfo,
    Video,
)
from discord_rtc.protocol.sdp import parse_server_fragment
from discord_rtc.rtp.extensions import ABS_SEND_TIME, NATIVE_EXTENSION_IDS, TRANSPORT_CC
from discord_rtc.server.leg_media import DEFAULT_LEG_MEDIA
from discord_rtc.server.negotiation import (
    BROWSER_FEEDBACK,
    MAX_CODECS,
    SSRCS_PER_SESSION,
    Admission,
    Refusal,
    WebRtcTerms,
    agree_on_webrtc,
    choose_video_codec,
    leg_media,
    make_fragment,
    make_ready,
    refuse_codecs,
    refuse_selection,
    refuse_ssrcs,
    usable_codecs,
    with_codecs,
)

MODES = ("aead_aes256_gcm_rtpsize", "aead_xchacha20_poly1305_rtpsize")
FINGERPRINT = "sha-256 " + ":".join(["AB"] * 32)
OURS = IceCredentials("ours", "p" * 22)
HERE = Admission(500, "127.0.0.1", 40_000, FINGERPRINT, lambda: OURS)


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
        (SelectProtocol("webrtc", sdp="what it says is looked at later"), None),
        (SelectProtocol("webrtc", sdp="", codecs=(codec("VP8", 1, number=127),)), 4020),
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


def test_there_are_no_more_codecs_than_payload_types() -> None:
    codecs = [CodecInfo(f"codec-{number}", "audio", 1000, 120) for number in range(MAX_CODECS + 1)]

    assert refuse_codecs(codecs[1:]) is None
    assert refuse_codecs(codecs) is not None


def terms(*lines: str) -> WebRtcTerms:
    head = ("a=ice-ufrag:abcd", f"a=ice-pwd:{'q' * 22}", f"a=fingerprint:{FINGERPRINT}")
    agreed = agree_on_webrtc(SelectProtocol("webrtc", sdp="\n".join((*head, *lines))), HERE)
    assert isinstance(agreed, WebRtcTerms)
    return agreed


CHROME = (
    f"a=extmap:3 {TRANSPORT_CC}",
    f"a=extmap:2 {ABS_SEND_TIME}",
    "a=rtpmap:111 opus/48000/2",
    "a=rtpmap:96 VP8/90000",
    "a=rtpmap:97 rtx/90000",
)


def test_lines_of_sdp_that_cannot_be_read_are_refused_with_a_sentence() -> None:
    refusal = agree_on_webrtc(SelectProtocol("webrtc"), HERE)
    assert isinstance(refusal, Refusal)
    assert refusal.code == 4020
    assert "a=ice-ufrag" in refusal.reason


def test_the_fragment_names_the_place_of_ready() -> None:
    fragment = parse_server_fragment(make_fragment(terms(), HERE))
    ready = make_ready(identify(), HERE, MODES)
    assert (fragment.ip, fragment.port) == (ready.ip, ready.port)
    assert fragment.addresses == ((ready.ip, ready.port),)
    assert (fragment.ufrag, fragment.password) == (OURS.ufrag, OURS.password)
    assert fragment.fingerprint == FINGERPRINT


def test_a_list_of_codecs_counts_more_than_rtpmaps() -> None:
    select = SelectProtocol("webrtc", sdp="", codecs=(codec("H264", 1000),))
    assert usable_codecs(select, terms(*CHROME)) == select.codecs


def test_without_a_list_the_rtpmaps_count() -> None:
    select = SelectProtocol("webrtc", sdp="")
    offer = terms(
        *CHROME,
        "a=rtpmap:9 G722/8000",
        "a=rtpmap:102 h264/90000",
        "a=rtpmap:103 rtx/90000",
        "a=fmtp:103 apt=102",
        "a=rtpmap:104 H264/90000",
    )
    assert usable_codecs(select, offer) == (
        CodecInfo("opus", "audio", 1000, 111),
        CodecInfo("VP8", "video", 2000, 96, 97),
        CodecInfo("H264", "video", 3000, 102, 103),
    )


def test_plain_clients_have_their_list_or_nothing() -> None:
    assert usable_codecs(SelectProtocol("udp", "127.0.0.1", 1, MODES[0]), None) == ()


def test_payload_types_are_those_of_the_codecs() -> None:
    media = leg_media(
        [CodecInfo("VP8", "video", 1000, 96, 97), CodecInfo("opus", "audio", 1000, 111)]
    )
    assert dict(media.payload_types) == {"VP8": (96, 97), "opus": (111, None)}
    assert media.extension_ids is NATIVE_EXTENSION_IDS
    assert media.feedback == frozenset()


def test_without_codecs_the_usual_payload_types_hold() -> None:
    assert leg_media([]) is DEFAULT_LEG_MEDIA


def test_a_browser_numbers_extensions_and_takes_feedback() -> None:
    media = leg_media([codec("VP8", 1, number=96)], terms(*CHROME))
    assert dict(media.extension_ids) == {TRANSPORT_CC: 3, ABS_SEND_TIME: 2}
    assert dict(media.payload_types) == {"VP8": (96, 97)}
    assert media.feedback == BROWSER_FEEDBACK


def test_transport_wide_feedback_needs_its_extension() -> None:
    assert leg_media([], terms()).feedback == BROWSER_FEEDBACK - {"transport-cc"}


def test_a_whole_offer_says_itself_which_feedback_it_takes() -> None:
    offer = terms(*CHROME, "a=setup:actpass", "a=rtcp-fb:96 nack pli", "a=rtcp-fb:* goog-remb")
    assert leg_media([], offer).feedback == {"pli", "goog-remb"}


def test_new_codecs_change_payload_types_alone() -> None:
    before = leg_media([codec("VP8", 1, number=96)], terms(*CHROME))
    after = with_codecs(before, [codec("H264", 1, number=102)])
    assert dict(after.payload_types) == {"H264": (102, 103)}
    assert (after.extension_ids, after.feedback) == (before.extension_ids, before.feedback)


READY = Ready(500, "", 1, (), streams=(StreamInfo(ssrc=501, rtx_ssrc=502), StreamInfo()))


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        (Speaking(1, 500), False),
        (Speaking(1, 0), False),
        (Speaking(1, 501), True),
        (Video(500), False),
        (Video(0, 0, 0), False),
        (Video(500, 501, 502, (StreamInfo(ssrc=501, rtx_ssrc=502),)), False),
        (Video(500, 501, None, (StreamInfo(ssrc=501),)), False),
        (Video(7), True),
        (Video(500, 7), True),
        (Video(500, 501, 7), True),
        (Video(500, 501, 502, (StreamInfo(ssrc=7),)), True),
        (Video(500, 501, 502, (StreamInfo(ssrc=501, rtx_ssrc=7),)), True),
    ],
)
def test_only_the_ssrcs_of_ready_may_be_named(message: Speaking | Video, refused: bool) -> None:
    assert (refuse_ssrcs(message, READY) is not None) == refused
