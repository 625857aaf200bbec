"""Fragments of session descriptions: what Discord and real WebRTC stacks write, and nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest

from discord_rtc.errors import MalformedSdp
from discord_rtc.protocol.sdp import (
    MAX_CLIENT_FRAGMENT,
    MAX_OFFER,
    MAX_SERVER_FRAGMENT,
    ServerFragment,
    host_candidate,
    parse_client_fragment,
    parse_server_fragment,
    reduce_offer,
)
from discord_rtc.protocol.sdp_lines import RtpMap

VECTORS = Path(__file__).parents[1] / "vectors" / "sdp"

DIGEST = "4A:79:94:16:44:3F:BD:05:41:5A:C7:20:F3:12:54:70:00:73:5D:33:00:2D:2C:80:9B:39:E1:9F:2D:A7:49:87"  # noqa: E501 -- one value
FINGERPRINT = f"sha-256 {DIGEST}"
PASSWORD = "0123456789abcdefghijkl"
CANDIDATE = "candidate:1 1 UDP 4261412862 203.0.113.7 50026 typ host"

SERVER = ServerFragment("203.0.113.7", 50026, "Ab12", PASSWORD, FINGERPRINT, (CANDIDATE,))

CLIENT = "\n".join(
    (
        "a=extmap-allow-mixed",
        "a=ice-ufrag:9WZo",
        "a=ice-pwd:vcfFowC3gQI1KHu0Fm5ZTXum",
        "a=ice-options:trickle",
        f"a=fingerprint:{FINGERPRINT}",
        "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
        "a=rtpmap:111 opus/48000/2",
        "a=extmap:13 urn:3gpp:video-orientation",
        "a=rtpmap:96 VP8/90000",
        "a=rtpmap:97 rtx/90000",
    )
)


def vector(name: str) -> str:
    with (VECTORS / name).open(newline="") as file:  # line ends as they are
        return file.read()


def without(text: str, prefix: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith(prefix))


def with_line(text: str, prefix: str, line: str) -> str:
    """Put a line in place of those that start with the prefix."""
    return without(text, prefix) + f"\n{line}"


# The server's fragment


def test_discords_fragment_is_read_and_written_as_it_is() -> None:
    text = vector("discord_server.txt")
    assert parse_server_fragment(text) == SERVER
    assert SERVER.to_text() == text


def test_line_ends_and_order_do_not_matter() -> None:
    lines = SERVER.to_text().splitlines()
    assert parse_server_fragment("\r\n".join(reversed(lines))) == SERVER
    assert parse_server_fragment("\n\n".join(lines)) == SERVER


def test_unknown_lines_and_equal_repetitions_are_ignored() -> None:
    text = SERVER.to_text()
    noise = "v=0\nx\n=\na=\na=rtcp:1\na=candidates\na=ice-lite\na=fingerprints:no\n\u2028\n"
    assert parse_server_fragment(noise + text + text) == SERVER


def test_the_same_fingerprint_in_other_letters_is_the_same() -> None:
    text = SERVER.to_text() + f"a=fingerprint:SHA-256 {DIGEST.lower()}\n"
    assert parse_server_fragment(text) == SERVER


def test_an_ipv6_address_is_read_and_written() -> None:
    fragment = ServerFragment(
        "2001:db8::7", 9, "Ab12", PASSWORD, FINGERPRINT, (host_candidate("2001:db8::7", 9),)
    )
    assert "c=IN IP6 2001:db8::7\n" in fragment.to_text()
    assert parse_server_fragment(fragment.to_text()) == fragment
    assert parse_server_fragment(fragment.to_text().replace("IP6 2001:db8", "IP6 2001:0DB8")) == (
        fragment
    )


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("a=fingerprint:", "a=fingerprint"),
        ("a=ice-ufrag:", "a=ice-ufrag"),
        ("a=ice-pwd:", "a=ice-pwd"),
        ("a=candidate:", "a=candidate"),
        ("c=", "c="),
        ("m=", "m="),
    ],
)
def test_what_the_server_left_out_is_named(prefix: str, name: str) -> None:
    with pytest.raises(MalformedSdp, match=f"^the server's SDP fragment has no {name}$"):
        parse_server_fragment(without(SERVER.to_text(), prefix))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"a=fingerprint:sha-256 00{DIGEST[2:]}", "a=fingerprint"),
        (f"a=fingerprint:sha-384 {DIGEST}:{DIGEST[:47]}", "a=fingerprint"),
        ("a=ice-ufrag:Ab13", "a=ice-ufrag"),
        ("a=ice-pwd:0123456789abcdefghijkm", "a=ice-pwd"),
        ("c=IN IP4 203.0.113.8", "c="),
        ("m=audio 50027 ICE/SDP", "m="),
    ],
)
def test_lines_that_contradict_each_other_are_named(line: str, name: str) -> None:
    text = SERVER.to_text()
    for contradicting in (f"{text}{line}\n", f"{line}\n{text}"):
        with pytest.raises(MalformedSdp, match=f"has different values of {name}$"):
            parse_server_fragment(contradicting)


@pytest.mark.parametrize(
    ("prefix", "line", "problem"),
    [
        ("a=fing", "a=fingerprint:sha-1 " + ":".join(["00"] * 20), "uses 'sha-1' instead of"),
        ("a=fing", f"a=fingerprint:sha-512 {DIGEST}", "is not 64 pairs"),
        ("a=fing", f"a=fingerprint:sha-256 {DIGEST[:-1]}", "is not 32 pairs"),
        ("a=fing", f"a=fingerprint:sha-256 {DIGEST[:-1]}G", "is not 32 pairs"),
        ("a=fing", f"a=fingerprint:sha-256 {DIGEST.replace(':', '-')}", "is not 32 pairs"),
        ("a=fing", "a=fingerprint:sha-256", "is not 32 pairs"),
        ("a=fing", "a=fingerprint:", "uses '' instead of"),
        ("a=ice-u", "a=ice-ufrag:Ab1", "a=ice-ufrag is not 4 to 256"),
        ("a=ice-u", "a=ice-ufrag:" + "A" * 257, "a=ice-ufrag is not 4 to 256"),
        ("a=ice-u", "a=ice-ufrag:Ab:12", "a=ice-ufrag is not 4 to 256"),
        ("a=ice-p", "a=ice-pwd:" + PASSWORD[1:], "a=ice-pwd is not 22 to 256"),
        ("a=ice-p", f"a=ice-pwd:{PASSWORD} ", "a=ice-pwd is not 22 to 256"),
        ("m=", "m=audio 0 ICE/SDP", "m= names port 0"),
        ("m=", "m=audio 65536 ICE/SDP", "m= names port 65536"),
        ("m=", "m=audio 123456 ICE/SDP", "m= is not a kind"),
        ("m=", "m=audio -1 ICE/SDP", "m= is not a kind"),
        ("m=", "m=audio ٥٠٠٢٦ ICE/SDP", "m= is not a kind"),
        ("m=", "m=audio 50026", "m= is not a kind"),
        ("m=", "m=", "m= is not a kind"),
        ("c=", "c=IN IP4", "c= is not IN"),
        ("c=", "c=IN IP4 203.0.113.7 x", "c= is not IN"),
        ("c=", "c=IN IP5 203.0.113.7", "c= is not IN"),
        ("c=", "c=XX IP4 203.0.113.7", "c= is not IN"),
        ("c=", "c=IN IP4 voice.example", "c= names 'voice.example', not an IP address"),
        ("c=", "c=IN IP4 203.0.113.7/127", "not an IP address"),
        ("c=", "c=IN IP4 2001:db8::7", "not an address of its IP version"),
        ("c=", "c=IN IP6 203.0.113.7", "not an address of its IP version"),
        ("c=", "c=IN IP6 fe80::1%eth0", "not an address of its IP version"),
        ("c=", "c=IN IP4 0.0.0.0", "not an address of a host"),
        ("c=", "c=IN IP4 224.0.0.1", "not an address of a host"),
        ("a=cand", "a=candidate:", "a=candidate cannot be read"),
        ("a=cand", "a=candidate:1 1 UDP 1 203.0.113.7 1", "a=candidate cannot be read"),
        ("a=cand", "a=candidate:1 1 UDP 1 203.0.113.7 1 typ x", "a=candidate cannot be read"),
        ("a=cand", "a=candidate:1 x UDP 1 203.0.113.7 1 typ host", "a=candidate cannot be read"),
        ("a=cand", f"a={CANDIDATE} raddr", "a=candidate cannot be read"),
        (
            "a=cand",
            "a=candidate:1 1 UDP 4294967296 203.0.113.7 1 typ host",
            "a=candidate cannot be read",
        ),
        ("a=cand", "a=candidate:1 1 UDP 1 203.0.113.7 0 typ host", "a=candidate names port 0"),
        ("a=cand", "a=candidate:1 1 UDP 1 x.local 1 typ host", "names 'x.local', not an IP"),
        ("a=cand", "a=candidate:1 1 UDP 1 0.0.0.0 1 typ host", "not an address of a host"),
        (
            "a=cand",
            "a=candidate:1 1 tcp 1 203.0.113.7 9 typ host tcptype active",
            "has no a=candidate for RTP over UDP",
        ),
        (
            "a=cand",
            "a=candidate:1 2 UDP 1 203.0.113.7 9 typ host",
            "has no a=candidate for RTP over UDP",
        ),
    ],
)
def test_a_lying_line_is_named(prefix: str, line: str, problem: str) -> None:
    with pytest.raises(MalformedSdp) as caught:
        parse_server_fragment(with_line(SERVER.to_text(), prefix, line))
    assert str(caught.value).startswith("the server's SDP fragment")
    assert problem in str(caught.value)


def test_one_unreadable_candidate_beside_a_good_one_is_an_error() -> None:
    with pytest.raises(MalformedSdp, match="a=candidate cannot be read: 'candidate:2'"):
        parse_server_fragment(SERVER.to_text() + "a=candidate:2\n")


def test_secrets_are_in_no_text() -> None:
    assert PASSWORD not in repr(SERVER)
    assert "vcfFowC3gQI1KHu0Fm5ZTXum" not in repr(parse_client_fragment(CLIENT))
    with pytest.raises(MalformedSdp) as caught:
        parse_server_fragment(with_line(SERVER.to_text(), "a=ice-pwd", "a=ice-pwd:secret!"))
    assert "secret" not in str(caught.value)
    with pytest.raises(MalformedSdp) as caught:
        parse_server_fragment(SERVER.to_text() + f"a=ice-pwd:{PASSWORD[::-1]}\n")
    assert PASSWORD not in str(caught.value)


def test_an_endless_fragment_is_not_read() -> None:
    text = SERVER.to_text()
    parse_server_fragment(text + "x" * (MAX_SERVER_FRAGMENT - len(text)))
    with pytest.raises(MalformedSdp, match="has 16385 characters, at most 16384 are read"):
        parse_server_fragment(text + "x" * (MAX_SERVER_FRAGMENT - len(text) + 1))


def test_addresses_come_best_first_and_only_where_rtp_can_go() -> None:
    others = (
        "candidate:2 1 udp 10 198.51.100.2 2 typ srflx raddr 10.0.0.1 rport 1",
        "candidate:3 1 tcp 4294967295 198.51.100.3 3 typ host tcptype passive",
        "candidate:4 2 UDP 4294967295 198.51.100.4 4 typ host",
        CANDIDATE,
        "candidate:5 1 UDP 4294967295 2001:db8::5 5 typ relay generation 0",
    )
    text = "".join(f"a={candidate}\n" for candidate in others) + SERVER.to_text()
    fragment = parse_server_fragment(text)
    assert fragment.candidates == others
    assert fragment.addresses == (
        ("2001:db8::5", 5),
        ("203.0.113.7", 50026),
        ("198.51.100.2", 2),
    )
    assert parse_server_fragment(fragment.to_text()) == fragment


# The client's fragment


def test_the_documented_fragment_of_a_web_client_is_read() -> None:
    fragment = parse_client_fragment(CLIENT)
    assert (fragment.ufrag, fragment.password) == ("9WZo", "vcfFowC3gQI1KHu0Fm5ZTXum")
    assert fragment.fingerprints == (FINGERPRINT,)
    assert fragment.extension_ids == {
        "urn:ietf:params:rtp-hdrext:ssrc-audio-level": 1,
        "urn:3gpp:video-orientation": 13,
    }
    assert fragment.codecs == (
        RtpMap(111, "opus", 48_000, channels=2),
        RtpMap(96, "VP8", 90_000),
        RtpMap(97, "rtx", 90_000, apt=96),
    )
    assert (fragment.setup, fragment.feedback) == (None, frozenset())


@pytest.mark.parametrize(
    ("name", "codecs", "feedback"),
    [
        (
            "chromium_recvonly",
            {111: "opus", 96: "VP8", 97: (96), 109: "H264", 114: (109), 98: "VP9", 99: (98)},
            {"nack", "pli", "fir", "goog-remb", "transport-cc"},
        ),
        (
            "firefox_sendrecv",
            {109: "opus", 120: "VP8", 124: (120), 121: "VP9", 125: (121), 122: "red", 119: (122)},
            {"nack", "pli", "fir", "goog-remb", "transport-cc"},
        ),
        (
            "aiortc",
            {96: "opus", 97: "VP8", 98: 97, 99: "H264", 100: 99, 101: "H264", 102: 101},
            {"nack", "pli", "goog-remb"},
        ),
        (
            "libdatachannel",
            {120: "opus", 101: "H264", 102: 101, 103: "VP8", 104: 103},
            {"nack", "pli", "fir", "goog-remb", "transport-cc"},
        ),
    ],
)
def test_a_whole_offer_is_read(name: str, codecs: dict[int, str | int], feedback: set[str]) -> None:
    fragment = parse_client_fragment(vector(f"{name}.sdp"))
    found = {
        codec.payload_type: codec.name if codec.apt is None else codec.apt
        for codec in fragment.codecs
    }
    assert {number: found[number] for number in codecs} == codecs
    assert fragment.setup == "actpass"
    assert fragment.feedback == feedback


def test_extension_ids_of_all_sections_come_together() -> None:
    ids = parse_client_fragment(vector("firefox_recvonly.sdp")).extension_ids
    assert {uri.rsplit(":", 1)[-1].rsplit("/", 1)[-1]: number for uri, number in ids.items()} == {
        "ssrc-audio-level": 1,
        "csrc-audio-level": 2,
        "mid": 3,
        "abs-send-time": 4,
        "toffset": 5,
        "playout-delay": 6,
        "draft-holmer-rmcat-transport-wide-cc-extensions-01": 7,
    }


def test_all_good_fingerprints_are_kept() -> None:
    fingerprints = parse_client_fragment(vector("aiortc.sdp")).fingerprints
    assert [value.split()[0] for value in fingerprints] == ["sha-256", "sha-384", "sha-512"]


def test_a_bad_hash_beside_a_good_one_is_ignored() -> None:
    text = "a=fingerprint:md5 00:11\n" + CLIENT
    assert parse_client_fragment(text) == parse_client_fragment(CLIENT)


@pytest.mark.parametrize(
    ("prefix", "line", "problem"),
    [
        ("a=ice-u", "", "the client's SDP fragment has no a=ice-ufrag"),
        ("a=ice-p", "", "the client's SDP fragment has no a=ice-pwd"),
        ("a=fing", "", "the client's SDP fragment has no a=fingerprint"),
        ("a=fing", "a=fingerprint:sha-1 00", "has no a=fingerprint of SHA-256, -384 or -512"),
        ("a=fing", "a=fingerprint:sha-256 00", "client's SDP fragment: a=fingerprint is not 32"),
        ("a=ice-u", "a=ice-ufrag:???", "client's SDP fragment: a=ice-ufrag is not 4 to 256"),
        ("a=ice-p", "a=ice-pwd:", "client's SDP fragment: a=ice-pwd is not 22 to 256"),
        ("x", "a=rtpmap:96 VP9/90000", "a=rtpmap gives 96 to two formats"),
        ("x", "a=extmap:1 urn:other", "a=extmap gives id 1 to two extensions"),
    ],
)
def test_what_nothing_works_without_is_required(prefix: str, line: str, problem: str) -> None:
    with pytest.raises(MalformedSdp) as caught:
        parse_client_fragment(with_line(CLIENT, prefix, line))
    assert problem in str(caught.value)


def test_other_lines_that_cannot_be_read_are_ignored() -> None:
    noise = "\n".join(
        (
            "a=rtpmap:128 x/1",
            "a=rtpmap:x",
            "a=rtpmap:1",
            "a=extmap:x y",
            "a=extmap:0 urn:zero",
            "a=extmap:4096 urn:later",
            "a=extmap:7 urn:ietf:params:rtp-hdrext:encrypt urn:one",
            "a=extmap:8 urn:ietf:params:rtp-hdrext:encrypt urn:two",
            "a=fmtp:97 x",
            "a=fmtp:y",
            "a=rtcp-fb:96 ack rpsi",
            "a=rtcp-fb:y",
            "a=setup:holdconn",
        )
    )
    assert parse_client_fragment(f"{noise}\n{CLIENT}") == parse_client_fragment(CLIENT)


def test_the_first_of_several_values_counts() -> None:
    more = "\n".join(
        (
            "a=ice-ufrag:other",
            "a=ice-pwd:" + PASSWORD,
            "a=extmap:99 urn:3gpp:video-orientation",
            "a=rtpmap:96 vp8/90000",
            "a=fmtp:97 apt=111",
        )
    )
    apt = "a=fmtp:97 rtx-time=3000; apt=96"
    assert parse_client_fragment(f"{CLIENT}\n{apt}\n{more}") == parse_client_fragment(CLIENT)


def test_repair_without_apt_belongs_to_the_video_format_before_it() -> None:
    formats = ("red/90000", "rtx/90000", "H264/90000", "opus/48000/2", "rtx/90000", "rtx/90000")
    lines = [f"a=rtpmap:{number} {name}" for number, name in enumerate(formats, 10)]
    fragment = parse_client_fragment("\n".join([without(CLIENT, "a=rtpmap"), *lines]))
    assert [codec.apt for codec in fragment.codecs] == [None, None, None, None, 12, None]


@pytest.mark.parametrize("setup", ["actpass", "active", "passive"])
def test_the_dtls_role_of_an_offer_is_read(setup: str) -> None:
    assert parse_client_fragment(f"{CLIENT}\na=setup:{setup}").setup == setup


def test_an_endless_client_fragment_is_not_read() -> None:
    with pytest.raises(MalformedSdp, match="at most"):
        parse_client_fragment(CLIENT.ljust(MAX_CLIENT_FRAGMENT + 1, "\n"))


# Reducing an offer


def test_chromiums_offer_is_reduced_as_documented() -> None:
    reduced = reduce_offer(vector("chromium_recvonly.sdp"))
    lines = reduced.split("\n")
    assert [line.split(":")[0] for line in lines[:5]] == [
        "a=extmap-allow-mixed",
        "a=ice-ufrag",
        "a=ice-pwd",
        "a=ice-options",
        "a=fingerprint",
    ]
    assert lines[5:] == [
        "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
        "a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
        "a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
        "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid",
        "a=rtpmap:111 opus/48000/2",
        "a=extmap:14 urn:ietf:params:rtp-hdrext:toffset",
        "a=extmap:13 urn:3gpp:video-orientation",
        "a=extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
        "a=extmap:6 http://www.webrtc.org/experiments/rtp-hdrext/video-content-type",
        "a=extmap:7 http://www.webrtc.org/experiments/rtp-hdrext/video-timing",
        "a=extmap:8 http://www.webrtc.org/experiments/rtp-hdrext/color-space",
        "a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
        "a=extmap:11 urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
        "a=rtpmap:96 VP8/90000",
        "a=rtpmap:97 rtx/90000",
    ]


def test_firefoxs_offer_is_reduced_as_documented() -> None:
    lines = reduce_offer(vector("firefox_recvonly.sdp")).split("\n")
    assert lines[0].startswith("a=fingerprint:sha-256 ")
    assert "a=extmap:2/recvonly urn:ietf:params:rtp-hdrext:csrc-audio-level" in lines
    assert [line for line in lines if line.startswith("a=rtpmap")] == [
        "a=rtpmap:109 opus/48000/2",
        "a=rtpmap:120 VP8/90000",
        "a=rtpmap:124 rtx/90000",
    ]


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.sdp")), ids=lambda path: path.stem)
def test_a_server_reads_every_reduced_offer_as_it_reads_the_whole(path: Path) -> None:
    offer = vector(path.name)
    whole = parse_client_fragment(offer)
    reduced = parse_client_fragment(reduce_offer(offer))
    assert (reduced.ufrag, reduced.password) == (whole.ufrag, whole.password)
    assert reduced.fingerprints == whole.fingerprints
    assert reduced.extension_ids == whole.extension_ids
    assert [codec.name for codec in reduced.codecs] == ["opus", "VP8", "rtx"]
    assert set(reduced.codecs) <= set(whole.codecs)
    assert (reduced.setup, reduced.feedback) == (None, frozenset())


def test_reducing_twice_changes_nothing() -> None:
    reduced = reduce_offer(vector("firefox_sendrecv.sdp"))
    assert reduce_offer(reduced) == reduced


def test_an_offer_without_vp8_gives_no_repair_of_others() -> None:
    offer = without(without(vector("libdatachannel.sdp"), "a=rtpmap:103"), "a=rtpmap:104")
    assert [line for line in reduce_offer(offer).split("\n") if "rtpmap" in line] == [
        "a=rtpmap:120 opus/48000/2"
    ]
    assert "a=rtpmap" not in reduce_offer(without(offer, "a=rtpmap:120"))


def test_only_the_first_credentials_are_kept() -> None:
    first = parse_client_fragment(CLIENT)
    offer = f"{CLIENT}\na=ice-ufrag:zzzz\na=ice-pwd:{PASSWORD}\na=ice-options:trickle"
    assert reduce_offer(offer) == CLIENT
    assert f"a=ice-ufrag:{first.ufrag}" in reduce_offer(offer)


def test_an_offer_before_gathering_is_named() -> None:
    with pytest.raises(MalformedSdp, match=r"^the offer has no a=ice-ufrag$"):
        reduce_offer(without(vector("aiortc.sdp"), "a=ice-ufrag"))
    with pytest.raises(MalformedSdp, match=r"^the offer has 1048577 characters"):
        reduce_offer("x" * (MAX_OFFER + 1))
