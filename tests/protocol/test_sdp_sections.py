"""Sections of complete descriptions, as browsers and other stacks write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from discord_rtc.errors import MalformedSdp
from discord_rtc.protocol.sdp import MAX_OFFER
from discord_rtc.protocol.sdp_lines import Extmap
from discord_rtc.protocol.sdp_sections import MAX_SECTIONS, Description, parse_description

VECTORS = Path(__file__).parents[1] / "vectors" / "sdp"

SECTION = "m=audio 9 UDP/TLS/RTP/SAVPF 111\na=mid:a\na=rtpmap:111 opus/48000/2\n"


def parse(text: str) -> Description:
    return parse_description(text, limit=MAX_OFFER, what="the offer")


def read(name: str) -> Description:
    return parse((VECTORS / f"{name}.sdp").read_text())


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("chromium_recvonly", [("audio", "0", "recvonly"), ("video", "1", "recvonly")]),
        ("chromium_sendrecv", [("audio", "0", "sendrecv"), ("video", "1", "sendrecv")]),
        ("firefox_recvonly", [("audio", "0", "recvonly"), ("video", "1", "recvonly")]),
        ("aiortc", [("audio", "0", "sendrecv"), ("video", "1", "sendrecv")]),
        ("libdatachannel", [("audio", "0", "sendrecv"), ("video", "1", "sendrecv")]),
        (
            "chromium_data",
            [
                ("audio", "0", "recvonly"),
                ("video", "1", "recvonly"),
                ("application", "2", "sendrecv"),
            ],
        ),
    ],
)
def test_sections_of_real_offers(name: str, sections: list[tuple[str, str, str]]) -> None:
    description = read(name)
    assert [(part.kind, part.mid, part.direction) for part in description.sections] == sections
    assert description.bundle == tuple(mid for _, mid, _ in sections)
    assert not any(part.rejected for part in description.sections)


def test_formats_come_in_the_order_of_the_m_line() -> None:
    audio, video = read("firefox_sendrecv").sections
    assert [offered.name for offered in audio.formats] == [
        "OPUS", "G722", "PCMU", "PCMA", "TELEPHONE-EVENT",
    ]  # fmt: skip
    assert [(offered.name, offered.payload_type) for offered in video.formats] == [
        ("VP8", 120),
        ("RTX", 124),
        ("VP9", 121),
        ("RTX", 125),
        ("AV1", 99),
        ("RTX", 100),
        ("ULPFEC", 123),
        ("RED", 122),
        ("RTX", 119),
    ]
    assert video.numbers == tuple(["120", "124", "121", "125", "99", "100", "123", "122", "119"])
    assert video.formats[0].parameters == {"max-fs": "12288", "max-fr": "60"}
    assert video.formats[0].feedback == {"nack", "pli", "fir", "goog-remb", "transport-cc"}
    assert video.formats[1].feedback == frozenset()


def test_extensions_keep_their_direction() -> None:
    audio, _ = read("firefox_sendrecv").sections
    assert Extmap("urn:ietf:params:rtp-hdrext:csrc-audio-level", 2, "recvonly") in audio.extmaps
    assert Extmap("urn:ietf:params:rtp-hdrext:ssrc-audio-level", 1, None) in audio.extmaps


def test_a_section_without_direction_has_that_of_the_session_or_both() -> None:
    assert parse(SECTION).sections[0].direction == "sendrecv"
    assert parse(f"a=recvonly\n{SECTION}").sections[0].direction == "recvonly"
    assert parse(f"a=recvonly\n{SECTION}a=inactive\n").sections[0].direction == "inactive"


def test_a_port_of_zero_means_rejected_unless_only_bundled() -> None:
    rejected = SECTION.replace(" 9 ", " 0 ")
    assert parse(rejected).sections[0].rejected
    assert not parse(f"{rejected}a=bundle-only\n").sections[0].rejected
    assert not parse(SECTION).sections[0].rejected


def test_the_first_bundle_group_counts() -> None:
    groups = "a=group:LS a\na=group:BUNDLE a b\na=group:BUNDLE c\n"
    assert parse(groups + SECTION).bundle == ("a", "b")
    assert parse(SECTION).bundle == ()


def test_feedback_for_all_formats() -> None:
    text = SECTION + "a=rtcp-fb:* transport-cc\na=rtcp-fb:111 nack\na=rtcp-fb:112 nack pli\n"
    (offered,) = parse(text).sections[0].formats
    assert offered.feedback == {"transport-cc", "nack"}


def test_formats_without_rtpmap_or_outside_of_the_m_line_are_left_out() -> None:
    text = SECTION.replace("SAVPF 111", "SAVPF 0 111 111 96") + "a=rtpmap:97 VP8/90000\n"
    (section,) = parse(text).sections
    assert [offered.payload_type for offered in section.formats] == [111]
    assert section.numbers == ("0", "111", "96")


def test_the_first_of_two_rtpmaps_counts() -> None:
    (section,) = parse(f"{SECTION}a=rtpmap:111 PCMU/8000\n").sections
    assert [offered.name for offered in section.formats] == ["OPUS"]


def test_parameters_are_read_with_and_without_values() -> None:
    text = SECTION + "a=fmtp:111 Minptime=10; useinbandfec=1;;flag; =x;a=b=c\n"
    (offered,) = parse(text).sections[0].formats
    assert offered.parameters == {
        "minptime": "10",
        "useinbandfec": "1",
        "flag": "",
        "a": "b=c",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the offer has 0 m-sections"),
        ("v=0\ns=-\n", "the offer has 0 m-sections"),
        (SECTION * (MAX_SECTIONS + 1), "the offer has 513 m-sections, 1 to 512 are read"),
        (SECTION * 2, "two m-sections with the same a=mid"),
        (SECTION.replace("a=mid:a\n", ""), "without one name"),
        (SECTION + "a=mid:b\n", "without one name"),
        (SECTION.replace("a=mid:a", "a=mid:"), "without one name"),
        (SECTION.replace("a=mid:a", "a=mid:a b"), "without one name"),
        (SECTION.replace("a=mid:a", "a=mid:a\u2028b"), "without one name"),
        (SECTION.replace("a=mid:a", "a=mid:" + "a" * 65), "without one name"),
        (SECTION.replace("m=audio 9", "m=audio 65536"), "m-line that cannot be read"),
        (SECTION.replace("m=audio 9", "m=audio x"), "m-line that cannot be read"),
        (SECTION.replace("m=audio 9", "m= 9"), "m-line that cannot be read"),
        (SECTION.replace(" 111\n", "\n", 1), "m-line that cannot be read"),
        (SECTION.replace("UDP/TLS", "udp\u2028tls"), "m-line that cannot be read"),
        ("x" * (MAX_OFFER + 1), "characters"),
    ],
)
def test_what_cannot_be_answered_is_named(text: str, problem: str) -> None:
    with pytest.raises(MalformedSdp) as caught:
        parse(text)
    assert problem in str(caught.value)
