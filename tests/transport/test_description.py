"""Complete descriptions: our own offer, and answers to the offers of real WebRTC stacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from discord_rtc.errors import MalformedSdp, NoCommonCodec, UsageError
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.protocol.sdp import (
    ServerFragment,
    host_candidate,
    parse_client_fragment,
    reduce_offer,
)
from discord_rtc.protocol.sdp_sections import parse_description
from discord_rtc.rtp.extensions import MID, NATIVE_EXTENSION_IDS, SPEAKER, TRANSPORT_CC
from discord_rtc.transport.base import DEFAULT_CODECS, CodecOffer, MediaOffer, SendingSsrcs
from discord_rtc.transport.description import (
    OFFERED_EXTENSION_IDS,
    RemoteSource,
    add_candidates,
    build_offer,
    expand_answer,
    negotiated_extensions,
    negotiated_feedback,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "sdp"
AUDIO, VIDEO = MediaKind.AUDIO, MediaKind.VIDEO

CREDENTIALS = ("abcd", "ABCDEFGHIJKLMNOPQRSTUV")
FINGERPRINT = "sha-256 " + ":".join(["AB"] * 32)
LAYER = SendingSsrcs("100", 0x1001, 0x1002)
FRAGMENT = (VECTORS / "discord_server.txt").read_text()


def vector(name: str) -> str:
    with (VECTORS / f"{name}.sdp").open(newline="") as file:
        return file.read()


def our_offer(
    offer: MediaOffer | None = None,
    video: SendingSsrcs | None = LAYER,
    extension_ids: dict[str, int] | None = None,
) -> str:
    return build_offer(
        offer or MediaOffer(),
        CREDENTIALS,
        FINGERPRINT,
        audio_ssrc=0x1000,
        video=video,
        extension_ids=OFFERED_EXTENSION_IDS if extension_ids is None else extension_ids,
    )


def sections(description: str) -> list[list[str]]:
    """The lines of the session and of each section."""
    assert description.endswith("\r\n")
    parts = description.removesuffix("\r\n").split("\r\nm=")
    return [parts[0].split("\r\n"), *(f"m={part}".split("\r\n") for part in parts[1:])]


def directions(description: str) -> dict[str, str]:
    parsed = parse_description(description, limit=100_000, what="it")
    return {part.mid: part.direction for part in parsed.sections}


# Our own offer


def test_our_offer_has_our_numbers() -> None:
    session, audio, video = sections(our_offer())
    assert session == [
        "v=0",
        "o=- 1420070400000 0 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0 1",
        "a=msid-semantic:WMS *",
    ]
    common = {
        "c=IN IP4 0.0.0.0",
        "a=sendrecv",
        "a=rtcp-mux",
        "a=ice-ufrag:abcd",
        "a=ice-pwd:ABCDEFGHIJKLMNOPQRSTUV",
        f"a=fingerprint:{FINGERPRINT}",
        "a=setup:actpass",
        "a=extmap-allow-mixed",
        f"a=extmap:5 {TRANSPORT_CC}",
    }
    assert audio[0] == "m=audio 9 UDP/TLS/RTP/SAVPF 120"
    assert common | {
        "a=mid:0",
        "a=rtpmap:120 opus/48000/2",
        "a=fmtp:120 minptime=10;useinbandfec=1",
        "a=rtcp-fb:120 transport-cc",
        "a=ssrc:4096 cname:00001000",
        "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
        f"a=extmap:9 {SPEAKER}",
    } <= set(audio)
    assert video[0] == "m=video 9 UDP/TLS/RTP/SAVPF 101 102 105 106"
    assert common | {
        "a=mid:1",
        "a=rtpmap:101 H264/90000",
        "a=fmtp:101 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
        "a=rtpmap:102 rtx/90000",
        "a=fmtp:102 apt=101",
        "a=rtpmap:105 VP8/90000",
        "a=rtpmap:106 rtx/90000",
        "a=fmtp:106 apt=105",
        *(
            f"a=rtcp-fb:{number} {value}"
            for number in (101, 105)
            for value in ("goog-remb", "transport-cc", "ccm fir", "nack", "nack pli")
        ),
        "a=ssrc-group:FID 4097 4098",
        "a=ssrc:4097 cname:00001000",
        "a=ssrc:4098 cname:00001000",
        "a=extmap:6 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
        "a=extmap:11 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
    } <= set(video)


def test_our_extension_ids_are_those_of_native_clients_without_mid() -> None:
    assert OFFERED_EXTENSION_IDS.items() <= NATIVE_EXTENSION_IDS.items()
    assert MID not in OFFERED_EXTENSION_IDS
    assert parse_client_fragment(our_offer()).extension_ids == OFFERED_EXTENSION_IDS


def test_extension_ids_may_be_others() -> None:
    ids = {TRANSPORT_CC: 14, "urn:new": 200}
    _, audio, video = sections(our_offer(extension_ids=ids))
    for lines in (audio, video):
        assert [line for line in lines if line.startswith("a=extmap:")] == [
            f"a=extmap:14 {TRANSPORT_CC}",
            "a=extmap:200 urn:new",
        ]


def test_transport_wide_feedback_needs_its_extension() -> None:
    assert "transport-cc" not in our_offer(extension_ids={})
    assert parse_client_fragment(our_offer(extension_ids={})).feedback == {
        "nack",
        "pli",
        "fir",
        "goog-remb",
    }


def test_a_server_reads_our_offer_whole_and_reduced() -> None:
    whole = parse_client_fragment(our_offer())
    assert (whole.ufrag, whole.password, whole.fingerprints) == (*CREDENTIALS, (FINGERPRINT,))
    assert {codec.payload_type: codec.apt for codec in whole.codecs} == {
        120: None,
        101: None,
        102: 101,
        105: None,
        106: 105,
    }
    assert whole.setup == "actpass"
    reduced = reduce_offer(our_offer())
    assert parse_client_fragment(reduced).extension_ids == OFFERED_EXTENSION_IDS
    assert [line for line in reduced.split("\n") if "rtpmap" in line] == [
        "a=rtpmap:120 opus/48000/2",
        "a=rtpmap:105 VP8/90000",
        "a=rtpmap:106 rtx/90000",
    ]


@pytest.mark.parametrize(
    ("offer", "video", "expected"),
    [
        (MediaOffer(), LAYER, ["sendrecv", "sendrecv"]),
        (MediaOffer(), None, ["sendrecv", "recvonly"]),
        (MediaOffer(receive=False), LAYER, ["sendonly", "sendonly"]),
        (MediaOffer(receive=False), None, ["sendonly", "inactive"]),
        (MediaOffer(DEFAULT_CODECS[:1]), LAYER, ["sendrecv"]),
        (MediaOffer(DEFAULT_CODECS[1:]), LAYER, ["sendrecv"]),
        (MediaOffer((CodecOffer(Codec.VP8, 96, 97, encode=False),)), LAYER, ["recvonly"]),
        (MediaOffer((CodecOffer(Codec.VP9, 98, decode=False),)), LAYER, ["sendonly"]),
    ],
)
def test_directions_say_what_we_can_do(
    offer: MediaOffer, video: SendingSsrcs | None, expected: list[str]
) -> None:
    assert list(directions(our_offer(offer, video)).values()) == expected


def test_what_is_not_sent_has_no_ssrc() -> None:
    *_, video = sections(our_offer(video=None))
    assert not any(line.startswith(("a=ssrc", "a=msid:")) for line in video)


def test_without_repair_there_is_no_second_ssrc() -> None:
    text = our_offer(MediaOffer((CodecOffer(Codec.VP9, 98),)))
    assert "a=ssrc:4097 cname:00001000\r\n" in text
    assert "4098" not in text
    assert "a=fmtp:98 profile-id=0\r\n" in text


def test_candidates_go_to_the_first_section() -> None:
    candidates = [host_candidate("192.0.2.1", 1), host_candidate("192.0.2.1", 2)]
    offer = our_offer()
    _, audio, video = sections(add_candidates(offer, candidates))
    assert audio[-2:] == [f"a={candidate}" for candidate in candidates]
    assert video == sections(offer)[2]
    alone = our_offer(MediaOffer(DEFAULT_CODECS[:1]))
    assert sections(add_candidates(alone, candidates))[1][-2:] == audio[-2:]
    assert add_candidates(offer, []) == offer


# The server's answer


def test_the_answer_to_chromium_is_the_documented_one() -> None:
    users = [RemoteSource(7, AUDIO, 100), RemoteSource(7, VIDEO, 101)]
    answer = expand_answer(FRAGMENT, vector("chromium_sendrecv"), users, video_codec="VP8")
    fingerprint = FRAGMENT.splitlines()[1]
    session, audio, video = sections(answer)
    assert session == [
        "v=0",
        "o=- 1420070400000 0 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=ice-lite",
        "a=group:BUNDLE 0 1",
        "a=msid-semantic:WMS *",
    ]
    common = [
        "c=IN IP4 203.0.113.7",
        "a=rtcp:50026",
        "a=rtcp-mux",
        "a=ice-ufrag:Ab12",
        "a=ice-pwd:0123456789abcdefghijkl",
        fingerprint,
        "a=setup:passive",
        "a=candidate:1 1 UDP 4261412862 203.0.113.7 50026 typ host",
    ]
    assert audio[0] == "m=audio 50026 UDP/TLS/RTP/SAVPF 111"
    assert sorted(audio[1:]) == sorted(
        [
            *common,
            "a=mid:0",
            "a=sendrecv",
            "a=rtpmap:111 opus/48000/2",
            "a=fmtp:111 minptime=10;useinbandfec=1;usedtx=0",
            "a=maxptime:60",
            "a=rtcp-fb:111 transport-cc",
            "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
            f"a=extmap:3 {TRANSPORT_CC}",
            "a=msid:7-100 a7-100",
            "a=ssrc:100 cname:7-100",
        ]
    )
    assert video[0] == "m=video 50026 UDP/TLS/RTP/SAVPF 96 97"
    assert sorted(video[1:]) == sorted(
        [
            *common,
            "a=mid:1",
            "a=sendrecv",
            "a=rtpmap:96 VP8/90000",
            "a=fmtp:96 x-google-max-bitrate=2500",
            "a=rtpmap:97 rtx/90000",
            "a=fmtp:97 apt=96",
            "a=rtcp-fb:96 ccm fir",
            "a=rtcp-fb:96 nack",
            "a=rtcp-fb:96 nack pli",
            "a=rtcp-fb:96 goog-remb",
            "a=rtcp-fb:96 transport-cc",
            "a=extmap:14 urn:ietf:params:rtp-hdrext:toffset",
            "a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
            "a=extmap:13 urn:3gpp:video-orientation",
            f"a=extmap:3 {TRANSPORT_CC}",
            "a=extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
            "a=msid:7-101 v7-101",
            "a=ssrc-group:FID 101 102",
            "a=ssrc:101 cname:7-101",
            "a=ssrc:102 cname:7-101",
        ]
    )


def test_h264_is_answered_with_the_constrained_baseline_of_the_offer() -> None:
    offer = vector("chromium_recvonly")
    answer = expand_answer(FRAGMENT, offer, video_codec="H264", max_bitrate_kbps=900)
    _, _, video = sections(answer)
    assert video[0] == "m=video 50026 UDP/TLS/RTP/SAVPF 109 114"
    assert (
        "a=fmtp:109 x-google-max-bitrate=900;level-asymmetry-allowed=1;"
        "packetization-mode=1;profile-level-id=42e01f"
    ) in video
    assert "a=fmtp:114 apt=109" in video


def test_directions_of_extensions_are_turned_around() -> None:
    answer = expand_answer(FRAGMENT, vector("firefox_recvonly"))
    _, audio, video = sections(answer)
    playout_delay = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
    assert f"a=extmap:6/sendonly {playout_delay}" in video
    assert not any("csrc-audio-level" in line for line in audio)
    assert negotiated_extensions(answer)[playout_delay] == 6


def test_extensions_are_answered_once_and_not_when_inactive() -> None:
    offer = vector("aiortc") + f"a=extmap:7 {TRANSPORT_CC}\r\na=extmap:8 {TRANSPORT_CC}\r\n"
    *_, video = sections(expand_answer(FRAGMENT, offer))
    assert [line for line in video if TRANSPORT_CC in line] == [f"a=extmap:7 {TRANSPORT_CC}"]
    answer = expand_answer(FRAGMENT, offer.replace("extmap:7", "extmap:7/inactive"))
    *_, video = sections(answer)
    assert [line for line in video if TRANSPORT_CC in line] == [f"a=extmap:8 {TRANSPORT_CC}"]


def test_an_id_of_two_extensions_cannot_be_answered() -> None:
    with pytest.raises(MalformedSdp, match="id 1 to two extensions"):
        expand_answer(FRAGMENT, vector("aiortc") + "a=extmap:1 urn:other\r\n")


def test_further_extensions_are_answered_on_request() -> None:
    offer = our_offer()
    assert SPEAKER not in negotiated_extensions(expand_answer(FRAGMENT, offer))
    answer = expand_answer(FRAGMENT, offer, extensions=OFFERED_EXTENSION_IDS)
    assert negotiated_extensions(answer) == OFFERED_EXTENSION_IDS
    answer = expand_answer(FRAGMENT, vector("aiortc"), extensions=[SPEAKER])
    assert SPEAKER not in negotiated_extensions(answer)


@pytest.mark.parametrize(
    ("name", "feedback"),
    [
        ("chromium_recvonly", {"nack", "pli", "fir", "goog-remb", "transport-cc"}),
        ("firefox_recvonly", {"nack", "pli", "fir", "goog-remb", "transport-cc"}),
        ("aiortc", {"nack", "pli", "goog-remb"}),
    ],
)
def test_only_offered_feedback_is_agreed_on(name: str, feedback: set[str]) -> None:
    assert negotiated_feedback(expand_answer(FRAGMENT, vector(name))) == feedback


def test_a_section_only_bundled_is_answered_with_a_port() -> None:
    assert "m=video 0 " in vector("firefox_recvonly")
    *_, video = sections(expand_answer(FRAGMENT, vector("firefox_recvonly")))
    assert video[0] == "m=video 50026 UDP/TLS/RTP/SAVPF 120 124"


def test_a_data_channel_is_rejected() -> None:
    session, audio, video, data = sections(expand_answer(FRAGMENT, vector("chromium_data")))
    assert "a=group:BUNDLE 0 1" in session
    assert audio[0].startswith("m=audio 50026 ")
    assert video[0].startswith("m=video 50026 ")
    assert data == [
        "m=application 0 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 0.0.0.0",
        "a=inactive",
        "a=mid:2",
    ]


def test_an_offer_of_nothing_known_is_rejected_whole() -> None:
    offer = "m=audio 9 RTP/AVP 0\r\na=mid:0\r\na=rtpmap:0 PCMU/8000\r\n"
    session, audio = sections(expand_answer(FRAGMENT, offer))
    assert not any("BUNDLE" in line for line in session)
    assert "a=ice-lite" not in session
    assert audio[0] == "m=audio 0 RTP/AVP 0"


def test_users_come_and_go_without_moving_anybody() -> None:
    section = "m={0} 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:{1}\r\na=rtpmap:96 {2}\r\na=recvonly\r\n"
    offer = "a=group:BUNDLE 0 1 2 3\r\n" + "".join(
        section.format(*line)
        for line in (
            ("audio", 0, "opus/48000/2"),
            ("video", 1, "VP8/90000"),
            ("audio", 2, "opus/48000/2"),
            ("video", 3, "VP8/90000"),
        )
    )
    both = [RemoteSource(user, kind, user * 10) for user, kind in ((1, AUDIO), (2, VIDEO))]
    both += [RemoteSource(3, AUDIO, 30)]
    answer = expand_answer(FRAGMENT, offer, both)
    assert directions(answer) == {
        "0": "sendonly",
        "1": "sendonly",
        "2": "sendonly",
        "3": "inactive",
    }
    assert "usedtx=1" in answer
    assert "a=ssrc-group" not in answer
    answer = expand_answer(FRAGMENT, offer, [RemoteSource(3, AUDIO, 30, mid="2")])
    assert directions(answer) == {
        "0": "inactive",
        "1": "inactive",
        "2": "sendonly",
        "3": "inactive",
    }
    assert "a=msid:3-30 a3-30" in sections(answer)[3]
    assert directions(expand_answer(FRAGMENT, offer)) == dict.fromkeys("0123", "inactive")


def test_several_video_codecs_are_answered_in_their_order() -> None:
    answer = expand_answer(FRAGMENT, vector("aiortc"), video_codec=("H264", "VP8", "VP9"))
    *_, video = sections(answer)
    assert video[0] == "m=video 50026 UDP/TLS/RTP/SAVPF 101 102 97 98"


def test_the_answer_takes_every_candidate_and_an_ipv6_address() -> None:
    candidates = (host_candidate("2001:db8::7", 9), "candidate:2 1 TCP 1 192.0.2.2 9 typ host")
    fragment = ServerFragment("2001:db8::7", 9, *CREDENTIALS, FINGERPRINT, candidates)
    answer = expand_answer(fragment.to_text(), vector("aiortc"))
    for lines in sections(answer)[1:]:
        assert "c=IN IP6 2001:db8::7" in lines
        assert lines.count(f"a={candidates[0]}") == lines.count(f"a={candidates[1]}") == 1


def test_the_repair_of_the_last_ssrc_is_the_first() -> None:
    users = [RemoteSource(1, VIDEO, 0xFFFF_FFFF)]
    assert "a=ssrc-group:FID 4294967295 0\r\n" in expand_answer(
        FRAGMENT, vector("chromium_recvonly"), users
    )


def test_nothing_in_common_is_named() -> None:
    with pytest.raises(NoCommonCodec, match="'H264', offered was VP8, VP9, AV1"):
        expand_answer(FRAGMENT, vector("firefox_recvonly"), video_codec="H264")


def test_a_user_too_many_is_named() -> None:
    users = [RemoteSource(1, VIDEO, 1), RemoteSource(2, VIDEO, 3)]
    with pytest.raises(UsageError, match="add a recvonly video transceiver"):
        expand_answer(FRAGMENT, vector("aiortc"), users)


def test_bad_text_is_named() -> None:
    offer = vector("aiortc")
    with pytest.raises(MalformedSdp, match="the server's SDP fragment has no c="):
        expand_answer("", offer)
    with pytest.raises(MalformedSdp, match="the offer has 0 m-sections"):
        expand_answer(FRAGMENT, "")
    with pytest.raises(MalformedSdp, match="a=group:BUNDLE"):
        expand_answer(FRAGMENT, offer.replace("a=group:BUNDLE 0 1", "a=group:BUNDLE 0"))
    with pytest.raises(MalformedSdp, match="the answer has 0 m-sections"):
        negotiated_extensions("")
    with pytest.raises(MalformedSdp, match="the answer has 0 m-sections"):
        negotiated_feedback("")
