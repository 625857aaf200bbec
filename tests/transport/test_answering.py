"""What an answer takes from an offer: formats, parameters, feedback, users."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from discord_rtc.errors import MalformedSdp, NoCommonCodec, UsageError
from discord_rtc.frames import MediaKind
from discord_rtc.protocol.sdp_sections import parse_description
from discord_rtc.transport.answering import (
    RemoteSource,
    answer_direction,
    answer_feedback,
    answer_parameters,
    assign_sources,
    check_common,
    choose_formats,
    sends_video,
)

if TYPE_CHECKING:
    from discord_rtc.protocol.sdp_sections import Description, MediaSection

AUDIO, VIDEO = MediaKind.AUDIO, MediaKind.VIDEO

H264 = """\
a=rtpmap:1 H264/90000
a=fmtp:1 packetization-mode=0;profile-level-id=42e01f
a=rtpmap:2 H264/90000
a=fmtp:2 packetization-mode=1;profile-level-id=640c1f
a=rtpmap:3 H264/90000
a=fmtp:3 packetization-mode=1;profile-level-id=42E034
a=rtpmap:4 rtx/90000
a=fmtp:4 apt=3
a=rtpmap:5 rtx/90000
a=fmtp:5 apt=2
a=rtpmap:6 rtx/90000
"""


def offer(*sections: str, bundle: str = "0 1 2 3 4 5") -> Description:
    """Number the sections, each given as its m-line without ``m=`` and what follows."""
    text = f"a=group:BUNDLE {bundle}\n" + "".join(
        f"m={section.rstrip()}\na=mid:{number}\n" for number, section in enumerate(sections)
    )
    return parse_description(text, limit=10_000, what="the offer")


def section(text: str) -> MediaSection:
    return offer(text).sections[0]


def video(formats: str, rtpmaps: str) -> MediaSection:
    return section(f"video 9 UDP/TLS/RTP/SAVPF {formats}\n{rtpmaps}")


def chosen(part: MediaSection, *names: str) -> list[int]:
    return [offered.payload_type for offered in choose_formats(part, names)]


OPUS = "audio 9 UDP/TLS/RTP/SAVPF 0 111\na=rtpmap:0 PCMU/8000\na=rtpmap:111 opus/48000/2"
VP8 = "video 9 UDP/TLS/RTP/SAVPF 96\na=rtpmap:96 VP8/90000"


def test_audio_is_opus() -> None:
    assert chosen(section(OPUS)) == [111]
    assert chosen(section(OPUS), "H264") == [111]
    assert chosen(section("audio 9 RTP/AVP 0\na=rtpmap:0 PCMU/8000")) == []


@pytest.mark.parametrize(
    "text",
    [
        OPUS.replace(" 9 ", " 0 "),
        "application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "text 9 RTP/AVP 96\na=rtpmap:96 opus/48000/2",
        "video 9 UDP/TLS/RTP/SAVPF 96\na=rtpmap:96 H263/90000",
    ],
)
def test_other_sections_are_rejected(text: str) -> None:
    assert chosen(section(text)) == []


def test_the_most_compatible_h264_is_chosen_with_its_repair() -> None:
    assert chosen(video("1 2 3 4 5 6", H264), "H264") == [3, 4]
    assert chosen(video("1 2 4 5 6", H264), "H264") == [2, 5]
    assert chosen(video("1 4 5", H264), "h264") == [1]


def test_the_first_profile_of_vp9_is_chosen() -> None:
    rtpmaps = "a=rtpmap:1 VP9/90000\na=fmtp:1 profile-id=2\na=rtpmap:2 VP9/90000"
    assert chosen(video("1 2", rtpmaps), "VP9") == [2]
    assert chosen(video("1", rtpmaps), "VP9") == [1]


def test_without_a_name_the_first_offered_video_codec_is_chosen() -> None:
    rtpmaps = "a=rtpmap:1 red/90000\na=rtpmap:2 VP8/90000\na=rtpmap:3 H264/90000"
    assert chosen(video("1 2 3", rtpmaps)) == [2]
    assert chosen(video("1 3 2", rtpmaps)) == [3]


def test_several_names_are_answered_in_their_order() -> None:
    rtpmaps = "a=rtpmap:2 VP8/90000\na=rtpmap:3 H264/90000"
    assert chosen(video("2 3", rtpmaps), "AV1", "H264", "VP8") == [3, 2]


def test_video_in_no_codec_that_was_asked_for_is_an_error() -> None:
    description = offer(OPUS, VP8)
    with pytest.raises(NoCommonCodec, match="wants video as 'H264/AV1', offered was VP8"):
        check_common(description, {"0": ()}, ("H264", "AV1"))
    with pytest.raises(NoCommonCodec, match="offered was nothing"):
        check_common(offer(VP8.replace("VP8", "H263")), {}, ("H264",))


def test_no_video_or_no_wish_is_no_error() -> None:
    check_common(offer(OPUS, VP8), {"0": ()}, ())
    check_common(offer(OPUS, VP8.replace(" 9 ", " 0 ")), {"0": ()}, ("H264",))
    check_common(offer(OPUS, VP8), {"0": (), "1": ()}, ("VP8",))


def test_sections_on_several_transports_cannot_be_answered() -> None:
    with pytest.raises(MalformedSdp, match="max-bundle"):
        check_common(offer(OPUS, VP8, bundle="0"), {"0": (), "1": ()}, ())
    check_common(offer(OPUS, VP8, bundle="0"), {"0": ()}, ())
    check_common(offer(OPUS, bundle="7"), {"0": ()}, ())


@pytest.mark.parametrize(
    ("direction", "sends"),
    [("sendrecv", True), ("sendonly", True), ("recvonly", False), ("inactive", False)],
)
def test_whether_video_is_sent_depends_on_direction(direction: str, sends: bool) -> None:
    description = offer(OPUS, f"{VP8}\na={direction}")
    assert sends_video(description, {"0": (), "1": ()}) == sends
    assert not sends_video(description, {"0": ()})


def parameters(text: str, number: int = 0, *, sends_video: bool = True) -> dict[str, str]:
    offered = section(text).formats[number]
    return answer_parameters(offered, sends_video=sends_video, max_bitrate_kbps=700)


def test_parameters_are_the_documented_ones() -> None:
    opus = {"minptime": "10", "useinbandfec": "1"}
    assert parameters(OPUS, 1) == opus | {"usedtx": "0"}
    assert parameters(OPUS, 1, sends_video=False) == opus | {"usedtx": "1"}
    assert parameters(VP8) == {"x-google-max-bitrate": "700"}
    assert list(parameters(VP8.replace("VP8", "H264")).items()) == [
        ("x-google-max-bitrate", "700"),
        ("level-asymmetry-allowed", "1"),
        ("packetization-mode", "1"),
        ("profile-level-id", "42e01f"),
    ]


def test_what_makes_formats_differ_is_repeated_from_the_offer() -> None:
    high = f"{VP8.replace('VP8', 'H264')}\na=fmtp:96 packetization-mode=0;profile-level-id=640c1f"
    assert parameters(high) == {
        "x-google-max-bitrate": "700",
        "level-asymmetry-allowed": "1",
        "packetization-mode": "0",
        "profile-level-id": "640c1f",
    }
    vp9 = f"{VP8.replace('VP8', 'VP9')}\na=fmtp:96 profile-id=2;x=y"
    assert parameters(vp9) == {"x-google-max-bitrate": "700", "profile-id": "2"}
    firefox = f"{VP8}\na=fmtp:96 max-fs=12288;max-fr=60"
    assert parameters(firefox) == {"x-google-max-bitrate": "700"}


def test_a_repair_repeats_its_format() -> None:
    part = video("3 4", H264)
    offered = part.formats[1]
    assert answer_parameters(offered, sends_video=True, max_bitrate_kbps=1) == {"apt": "3"}


def test_feedback_is_what_was_offered_in_the_documented_order() -> None:
    lines = "".join(
        f"\na=rtcp-fb:* {value}"
        for value in ("nack", "transport-cc", "nack pli", "ccm tmmbr", "ccm fir")
    )
    (offered,) = section(VP8 + lines).formats
    assert answer_feedback("video", offered) == ("ccm fir", "nack", "nack pli", "transport-cc")
    assert answer_feedback("audio", offered) == ("transport-cc", "nack")
    (offered,) = section(VP8).formats
    assert answer_feedback("video", offered) == ()


@pytest.mark.parametrize(
    ("offered", "with_source", "without"),
    [
        ("recvonly", "sendonly", "inactive"),
        ("sendrecv", "sendrecv", "recvonly"),
        ("sendonly", None, "recvonly"),
        ("inactive", None, "inactive"),
    ],
)
def test_directions_are_the_documented_ones(
    offered: str, with_source: str | None, without: str
) -> None:
    part = replace(section(VP8), direction=offered)
    assert answer_direction(part, None) == without
    if with_source is not None:
        assert answer_direction(part, RemoteSource(1, VIDEO, 1)) == with_source
    else:
        with pytest.raises(UsageError):
            assign_sources([RemoteSource(1, VIDEO, 1)], [part])


def test_users_get_the_first_free_sections_of_their_kind() -> None:
    parts = offer(OPUS, VP8, OPUS + "\na=sendonly", OPUS, VP8 + "\na=inactive", VP8).sections
    users = [
        RemoteSource(1, VIDEO, 10),
        RemoteSource(1, AUDIO, 11),
        RemoteSource(2, AUDIO, 12),
        RemoteSource(2, VIDEO, 13),
    ]
    taken = assign_sources(users, parts)
    assert {mid: source.ssrc for mid, source in taken.items()} == {
        "1": 10,
        "0": 11,
        "3": 12,
        "5": 13,
    }


def test_users_who_name_a_section_are_served_first() -> None:
    parts = offer(OPUS, OPUS).sections
    taken = assign_sources([RemoteSource(1, AUDIO, 1), RemoteSource(2, AUDIO, 2, "0")], parts)
    assert {mid: source.user_id for mid, source in taken.items()} == {"0": 2, "1": 1}


@pytest.mark.parametrize(
    ("users", "problem"),
    [
        (
            [RemoteSource(1, AUDIO, 1), RemoteSource(2, AUDIO, 2)],
            "no section of the offer is free to receive audio of user 2; "
            "add a recvonly audio transceiver and make a new offer",
        ),
        ([RemoteSource(1, VIDEO, 1, "0")], "not section '0' of the offer is free to receive video"),
        ([RemoteSource(1, AUDIO, 1, "9")], "not section '9'"),
        ([RemoteSource(1, AUDIO, 1, "0"), RemoteSource(2, AUDIO, 2, "0")], "of user 2"),
        ([RemoteSource(1, AUDIO, 7), RemoteSource(2, VIDEO, 7)], "SSRC 7 is out of range or given"),
        ([RemoteSource(1, AUDIO, 0)], "SSRC 0 is out of range"),
        ([RemoteSource(1, AUDIO, 1 << 32)], "SSRC 4294967296 is out of range"),
    ],
)
def test_a_user_without_a_section_is_named(users: list[RemoteSource], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        assign_sources(users, offer(OPUS, VP8).sections)
    assert problem in str(caught.value)
