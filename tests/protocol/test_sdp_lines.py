"""Single SDP lines: what is read, what is refused, what is passed over."""

from __future__ import annotations

import pytest

from discord_rtc.errors import MalformedSdp
from discord_rtc.protocol.sdp_lines import (
    FEEDBACK_NAMES,
    Candidate,
    Extmap,
    RtpMap,
    is_known_hash,
    merge_extmaps,
    read_apt,
    read_candidate,
    read_connection,
    read_extmap,
    read_feedback,
    read_fingerprint,
    read_fmtp,
    read_media_port,
    read_password,
    read_rtpmap,
    read_ufrag,
    sdp_lines,
)


def test_only_cr_and_lf_end_a_line() -> None:
    assert sdp_lines("a\r\nb\n\nc\rd\u2028e\x0bf\x85", 99, "it") == [
        "a",
        "b",
        "c",
        "d\u2028e\x0bf\x85",
    ]
    assert sdp_lines("", 0, "it") == []


def test_too_much_text_is_refused() -> None:
    with pytest.raises(MalformedSdp, match="it has 3 characters, at most 2 are read"):
        sdp_lines("a\nb", 2, "it")


@pytest.mark.parametrize(
    ("line", "rtpmap"),
    [
        ("a=rtpmap:0 PCMU/8000", RtpMap(0, "PCMU", 8000)),
        ("a=rtpmap:111 opus/48000/2", RtpMap(111, "opus", 48_000, channels=2)),
        ("a=rtpmap:127 flexfec-03/90000", RtpMap(127, "flexfec-03", 90_000)),
        ("a=rtpmap:128 opus/48000/2", None),
        ("a=rtpmap:-1 opus/48000/2", None),
        ("a=rtpmap:111 opus", None),
        ("a=rtpmap:111 opus/48000/2 ", None),
        ("a=rtpmap:\uff11 opus/48000", None),
        ("a=rtpmap:111 op\u2028us/48000", None),
        ("a=rtpmaps:1 x/1", None),
        ("", None),
    ],
)
def test_rtpmap(line: str, rtpmap: RtpMap | None) -> None:
    assert read_rtpmap(line) == rtpmap


@pytest.mark.parametrize(
    ("line", "extmap"),
    [
        ("a=extmap:1 urn:x", Extmap("urn:x", 1, None)),
        ("a=extmap:255 urn:x", Extmap("urn:x", 255, None)),
        ("a=extmap:2/recvonly urn:x", Extmap("urn:x", 2, "recvonly")),
        ("a=extmap:2/sendrecv urn:x some attributes", Extmap("urn:x", 2, "sendrecv")),
        ("a=extmap:0 urn:x", None),
        ("a=extmap:256 urn:x", None),
        ("a=extmap:4096 urn:x", None),
        ("a=extmap:2/both urn:x", None),
        ("a=extmap:2", None),
        ("a=extmap:2 ", None),
        ("a=extmap:2 urn:\u2028x", None),
        ("a=extmap:2 urn:ietf:params:rtp-hdrext:encrypt urn:x", None),
        ("a=extmap-allow-mixed", None),
    ],
)
def test_extmap(line: str, extmap: Extmap | None) -> None:
    assert read_extmap(line) == extmap


@pytest.mark.parametrize(
    ("line", "feedback"),
    [
        ("a=rtcp-fb:96 nack", (96, "nack")),
        ("a=rtcp-fb:96 nack pli", (96, "pli")),
        ("a=rtcp-fb:96 ccm  fir ", (96, "fir")),
        ("a=rtcp-fb:* transport-cc", (None, "transport-cc")),
        ("a=rtcp-fb:96 ccm tmmbr", None),
        ("a=rtcp-fb:96", None),
        ("a=rtcp:96 nack", None),
    ],
)
def test_feedback(line: str, feedback: tuple[int | None, str] | None) -> None:
    assert read_feedback(line) == feedback


def test_feedback_has_the_names_of_negotiated_media() -> None:
    assert set(FEEDBACK_NAMES.values()) == {"nack", "pli", "fir", "goog-remb", "transport-cc"}


def test_fmtp_and_what_a_repair_repeats() -> None:
    assert read_fmtp("a=fmtp:97 apt=96;rtx-time=3000") == (97, "apt=96;rtx-time=3000")
    assert read_fmtp("a=fmtp:97") is None
    assert read_fmtp("a=rtpmap:97 rtx/90000") is None
    assert read_apt("a=fmtp:97 apt=96") == (97, 96)
    assert read_apt("a=fmtp:97 rtx-time=1; apt=96 ;x=1") == (97, 96)
    assert read_apt("a=fmtp:97 adapt=96") is None
    assert read_apt("a=fmtp:97 apt=x") is None
    assert read_apt("a=rtcp-mux") is None


def test_extensions_come_together_and_the_first_id_counts() -> None:
    merged = merge_extmaps(
        [
            Extmap("a", 1, None),
            Extmap("b", 2, "sendonly"),
            Extmap("a", 1, None),
            Extmap("b", 3, None),
        ]
    )
    assert merged == {"a": 1, "b": 2}
    with pytest.raises(MalformedSdp, match="id 1 to two extensions"):
        merge_extmaps([Extmap("a", 1, None), Extmap("b", 1, None)])


def test_fingerprints_get_one_form() -> None:
    assert read_fingerprint("SHA-256 " + ":".join(["aB"] * 32)) == "sha-256 " + ":".join(
        ["AB"] * 32
    )
    assert read_fingerprint("sha-384 " + ":".join(["00"] * 48)).count(":") == 47
    assert read_fingerprint("sha-512 " + ":".join(["00"] * 64)).count(":") == 63
    assert is_known_hash("SHA-384 x")
    assert not is_known_hash("sha-1 x")
    for value in ("", "sha-256", "sha-1 00", "sha-256  00", "sha-256 " + "00" * 32):
        with pytest.raises(MalformedSdp, match="a=fingerprint"):
            read_fingerprint(value)


def test_credentials_have_the_length_and_letters_of_ice() -> None:
    assert read_ufrag("aZ+/") == "aZ+/"
    assert read_password("0" * 256) == "0" * 256
    for value in ("", "abc", "a" * 257, "abcd\n", "ab d", "abcé"):
        with pytest.raises(MalformedSdp, match="a=ice-ufrag"):
            read_ufrag(value)
        with pytest.raises(MalformedSdp, match="a=ice-pwd"):
            read_password(value)


def test_addresses_get_one_form() -> None:
    assert read_connection("IN IP4 192.0.2.1") == "192.0.2.1"
    assert read_connection("IN IP6 2001:0DB8:0::1") == "2001:db8::1"
    for value in (
        "",
        "IN IP4 192.0.2.01",
        "IN IP6 ::",
        "IN IP6 ff02::1",
        "IN IP4 1",
        "IN IP4 ::1",
        "IN  192.0.2.1",
    ):
        with pytest.raises(MalformedSdp, match="c="):
            read_connection(value)


def test_the_port_of_an_m_line() -> None:
    assert read_media_port("audio 1 ICE/SDP") == 1
    assert read_media_port("video 65535 UDP/TLS/RTP/SAVPF 96 97") == 65_535
    for value in ("audio 0 ICE/SDP", "audio 65536 ICE/SDP", "audio", "audio 1", "audio x ICE/SDP"):
        with pytest.raises(MalformedSdp, match="m="):
            read_media_port(value)


def test_candidates() -> None:
    found = read_candidate("candidate:1 1 udp 7 2001:DB8::1 9 typ relay raddr 0.0.0.0 rport 0")
    assert found == Candidate(1, "UDP", 7, ("2001:db8::1", 9))
    assert found.is_usable
    assert not found._replace(component=2).is_usable
    assert not found._replace(transport="TCP").is_usable
    for text in (
        "candidate:1 1 udp 7 192.0.2.1 9 typ",
        "1 1 udp 7 192.0.2.1 9 typ host",
        "candidate:1 1 udp 4294967296 192.0.2.1 9 typ host",
        "candidate:1 1 udp 7 a.local 9 typ host",
        "candidate:1 1 udp 7 192.0.2.1 70000 typ host",
        "candidate:1 1 udp 7 192.0.2.1 9 typ host x",
        "candidate:1 1 udp 7 192.0.2.1 9 typ host a \u2028",
    ):
        with pytest.raises(MalformedSdp, match="a=candidate"):
            read_candidate(text)
