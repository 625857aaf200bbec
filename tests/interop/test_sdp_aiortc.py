"""Descriptions against aiortc: its `sdp` module, which is not documented, and its connections.

The first part is the contract that `discord_rtc.transport.description` relies on, losses included:
where one of these tests fails after an upgrade, lines are written twice or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from aiortc import (
    AudioStreamTrack,
    RTCConfiguration,
    RTCIceParameters,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
)
from aiortc import sdp as theirs

from discord_rtc.frames import MediaKind
from discord_rtc.protocol.sdp import host_candidate, parse_client_fragment
from discord_rtc.transport.base import MediaOffer, SendingSsrcs
from discord_rtc.transport.description import (
    OFFERED_EXTENSION_IDS,
    RemoteSource,
    add_candidates,
    build_offer,
    expand_answer,
    negotiated_extensions,
    negotiated_feedback,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.interop

VECTORS = Path(__file__).parents[1] / "vectors" / "sdp"
FRAGMENT = (VECTORS / "discord_server.txt").read_text().replace("203.0.113.7", "127.0.0.1")
FINGERPRINT = "sha-256 " + ":".join(["AB"] * 32)
USERS = (RemoteSource(7, MediaKind.AUDIO, 100), RemoteSource(7, MediaKind.VIDEO, 101))

OUR_OFFER = add_candidates(
    build_offer(
        MediaOffer(),
        ("abcd", "ABCDEFGHIJKLMNOPQRSTUV"),
        FINGERPRINT,
        audio_ssrc=1000,
        video=SendingSsrcs("100", 1001, 1002),
    ),
    [host_candidate("127.0.0.1", 9)],
)


def vector(name: str) -> str:
    with (VECTORS / f"{name}.sdp").open(newline="") as file:
        return file.read()


def answer(name: str) -> str:
    return expand_answer(FRAGMENT, vector(name), USERS)


def per_section(description: str) -> list[list[str]]:
    """Lines, sorted within each section: their order has no meaning there."""
    return [sorted(part.split("\r\n")) for part in description.split("\r\nm=")]


def lost(description: str) -> list[str]:
    """Lines that aiortc does not write again after reading them."""
    again = str(theirs.SessionDescription.parse(description))
    missing = []
    for before, after in zip(per_section(description), per_section(again), strict=True):
        for line in after:
            before.remove(line)  # nothing is invented
        missing += before
    return missing


# The module


@pytest.mark.parametrize("name", ["chromium_sendrecv", "aiortc", "libdatachannel"])
def test_aiortc_reads_all_of_our_answers_but_maxptime(name: str) -> None:
    assert lost(answer(name)) == ["a=maxptime:60"]


def test_aiortc_loses_the_directions_of_extensions() -> None:
    text = answer("firefox_sendrecv")
    line = "a=extmap:6/sendonly http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
    assert line in text
    again = str(theirs.SessionDescription.parse(text))
    assert line not in again
    assert line.replace("/sendonly", "") in again


def test_aiortc_reads_all_of_our_offer_but_mixed_extensions() -> None:
    assert lost(OUR_OFFER) == ["a=extmap-allow-mixed"] * 2


def test_aiortc_writes_multiplexing_only_with_an_rtcp_port() -> None:
    section = theirs.MediaDescription("audio", 9, "UDP/TLS/RTP/SAVPF", [111])
    section.ice = RTCIceParameters()
    section.rtcp_mux = True
    assert "a=rtcp-mux" not in str(section)
    section.rtcp_port = 9
    assert "a=rtcp-mux" in str(section)


@pytest.mark.parametrize(
    "text",
    [
        "m=audio x\r\n",
        "m=audio 9 udp/tls 111\r\n",
        "m=audio 9 RTP/AVP 72\r\n",
        "m=audio 9 RTP/AVP 111\r\na=setup:holdconn\r\n",
        "m=audio 9 RTP/AVP 111\r\na=fmtp:111 a=b\r\n",
        "m=audio 9 RTP/AVP 111\r\na=rtpmap:111\r\n",
        "c=IN\r\n",
    ],
)
def test_aiortc_does_not_say_what_is_wrong_with_a_text(text: str) -> None:
    with pytest.raises((AssertionError, KeyError, StopIteration, ValueError)):
        theirs.SessionDescription.parse(text)


def test_aiortc_understands_what_we_offer() -> None:
    description = theirs.SessionDescription.parse(OUR_OFFER)
    audio, video = description.media
    assert [(codec.payloadType, codec.name, codec.parameters) for codec in audio.rtp.codecs] == [
        (120, "opus", {"minptime": 10, "useinbandfec": 1})
    ]
    assert {codec.payloadType: codec.parameters.get("apt") for codec in video.rtp.codecs} == {
        101: None,
        102: 101,
        105: None,
        106: 105,
    }
    assert {
        extension.uri: extension.id
        for section in description.media
        for extension in section.rtp.headerExtensions
    } == OFFERED_EXTENSION_IDS
    assert [source.ssrc for source in video.ssrc] == [1001, 1002]
    assert [str(group) for group in video.ssrc_group] == ["FID 1001 1002"]
    assert audio.dtls is not None
    assert audio.dtls.role == "auto"
    assert [(found.algorithm, found.value) for found in audio.dtls.fingerprints] == [
        ("sha-256", FINGERPRINT.split()[1])
    ]
    assert audio.ice is not None
    assert (audio.ice.usernameFragment, audio.ice.password) == ("abcd", "ABCDEFGHIJKLMNOPQRSTUV")
    assert [candidate.port for candidate in audio.ice_candidates] == [9]


def test_aiortc_understands_what_the_server_answers() -> None:
    audio, video = theirs.SessionDescription.parse(answer("chromium_sendrecv")).media
    for section in (audio, video):
        assert (section.host, section.port, section.rtcp_mux) == ("127.0.0.1", 50026, True)
        assert section.ice is not None
        assert section.ice.iceLite
        assert section.dtls is not None
        assert section.dtls.role == "server"
        (candidate,) = section.ice_candidates
        assert (candidate.ip, candidate.port, candidate.protocol) == ("127.0.0.1", 50026, "UDP")
    assert (audio.direction, audio.msid) == ("sendrecv", "7-100 a7-100")
    assert [(source.ssrc, source.cname) for source in video.ssrc] == [
        (101, "7-101"),
        (102, "7-101"),
    ]


# Connections


@pytest_asyncio.fixture
async def connection() -> AsyncIterator[RTCPeerConnection]:
    """A stock connection with a microphone and a camera."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    yield peer
    await peer.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("video_codec", "formats"),
    [
        ("VP8", ["VP8", "rtx"]),
        ("H264", ["H264", "rtx"]),
        (("H264", "VP8"), ["H264", "rtx", "VP8", "rtx"]),
    ],
)
@pytest.mark.parametrize("users", [(), USERS], ids=["alone", "with another"])
async def test_a_connection_takes_our_answer_to_its_offer(
    connection: RTCPeerConnection,
    video_codec: str | tuple[str, ...],
    formats: list[str],
    users: tuple[RemoteSource, ...],
) -> None:
    connection.addTrack(AudioStreamTrack())
    connection.addTrack(VideoStreamTrack())
    await connection.setLocalDescription(await connection.createOffer())
    offer = connection.localDescription.sdp
    text = expand_answer(FRAGMENT, offer, users, video_codec=video_codec)
    await connection.setRemoteDescription(RTCSessionDescription(text, "answer"))
    assert connection.signalingState == "stable"
    audio, video = connection.getTransceivers()
    expected = "sendrecv" if users else "sendonly"
    assert (audio.currentDirection, video.currentDirection) == (expected, expected)
    sections = theirs.SessionDescription.parse(text).media
    assert [codec.name for codec in sections[1].rtp.codecs] == formats
    # It has taken nothing that it had not offered.
    assert negotiated_feedback(text) == {"nack", "pli", "goog-remb"}
    offered = parse_client_fragment(offer).extension_ids
    assert negotiated_extensions(text).items() <= offered.items()


@pytest.mark.asyncio
async def test_a_connection_answers_our_offer_with_our_numbers(
    connection: RTCPeerConnection,
) -> None:
    await connection.setRemoteDescription(RTCSessionDescription(OUR_OFFER, "offer"))
    connection.addTrack(AudioStreamTrack())
    connection.addTrack(VideoStreamTrack())
    text = (await connection.createAnswer()).sdp
    audio, video = theirs.SessionDescription.parse(text).media
    assert (audio.direction, video.direction) == ("sendrecv", "sendrecv")
    assert [codec.payloadType for codec in audio.rtp.codecs] == [120]
    assert [codec.payloadType for codec in video.rtp.codecs] == [101, 102, 105, 106]
    ids = negotiated_extensions(text)
    assert len(ids) == 2  # audio level and absolute send time are what aiortc knows of ours
    assert ids.items() <= OFFERED_EXTENSION_IDS.items()
    assert negotiated_feedback(text) == {"nack", "pli", "goog-remb"}
    assert parse_client_fragment(text).setup == "active"
