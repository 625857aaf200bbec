"""The page's SDP against the browser that has to take it. No media flows here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from discord_rtc.protocol.sdp import ServerFragment, host_candidate, parse_client_fragment
from discord_rtc.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Page

    from .browser import Browser

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.interop]

FRAGMENT = ServerFragment(
    ip="192.0.2.7",
    port=50026,
    ufrag="Ab12",
    password="0123456789abcdefghijkl",
    fingerprint="sha-256 " + ":".join(["4A"] * 32),
    candidates=(host_candidate("192.0.2.7", 50026),),
).to_text()

# What the tests say to the page begins with this.
SETUP = """async ([fragment, codec]) => {
  const sdp = await import("/page/sdp.js");
  const { Peer } = await import("/page/peer.js");
  const server = sdp.parseFragment(fragment);
  const connection = () => new RTCPeerConnection({ bundlePolicy: "max-bundle" });
  const answer = (pc, sources = new Map()) => pc.setRemoteDescription({
    type: "answer",
    sdp: sdp.writeAnswer(pc.localDescription.sdp, server, sources, { codec, maxKbps: 2500 }),
  });
  const offer = async (pc) => {
    await pc.setLocalDescription();
    return pc.localDescription.sdp;
  };
  const canvas = () => document.createElement("canvas").captureStream(1).getVideoTracks()[0];
"""


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    async with LocalServer(dave="off") as server:
        yield await browser.open(server.page_url)


async def run(page: Page, script: str, codec: str = "VP8") -> Any:
    return await page.evaluate(f"{SETUP}{script}}}", [FRAGMENT, codec])


async def test_the_reduced_offer_is_the_documented_one(page: Page) -> None:
    text = await run(
        page,
        """
  const pc = connection();
  pc.addTransceiver("audio", { direction: "recvonly" });
  pc.addTransceiver("video", { direction: "recvonly" });
  return sdp.reduceOffer(await offer(pc));
""",
    )
    lines = text.split("\n")
    assert len(set(lines)) == len(lines)
    kinds = "extmap-allow-mixed|ice-ufrag|ice-pwd|ice-options|fingerprint|extmap|rtpmap"
    assert [line for line in lines if not re.match(f"a=({kinds})", line)] == []
    maps = [re.sub(r"^a=rtpmap:\d+ ", "", line) for line in lines if "rtpmap" in line]
    assert maps == ["opus/48000/2", "VP8/90000", "rtx/90000"]
    client = parse_client_fragment(text)
    assert client.setup is None
    assert len(client.fingerprints) == 1
    opus, vp8, rtx = client.codecs
    assert (opus.name, vp8.name, rtx.apt) == ("opus", "VP8", vp8.payload_type)


@pytest.mark.parametrize("first", ["VP8", "H264", "VP9", "AV1"])
async def test_the_codec_list_begins_with_what_is_wanted(page: Page, first: str) -> None:
    codecs, text = await run(
        page,
        """
  const pc = connection();
  pc.addTransceiver("audio");
  pc.addTransceiver("video");
  const text = await offer(pc);
  return [sdp.listCodecs(text, codec), text];
""",
        first,
    )
    opus, *videos = codecs
    assert (opus["name"], opus["type"], opus["rtx_payload_type"]) == ("opus", "audio", None)
    assert videos[0]["name"] == first
    assert {video["name"] for video in videos} == {"H264", "VP8", "VP9", "AV1"}
    assert [video["priority"] for video in videos] == [1000, 2000, 3000, 4000]
    for video in videos:
        number, repair = video["payload_type"], video["rtx_payload_type"]
        assert f"a=rtpmap:{number} {video['name']}/90000\r\n" in text
        assert f"a=fmtp:{repair} apt={number}\r\n" in text
    h264 = next(video["payload_type"] for video in videos if video["name"] == "H264")
    fmtp = re.search(rf"a=fmtp:{h264} (.*)\r", text)
    assert fmtp is not None
    assert "packetization-mode=1" in fmtp[1]
    assert "profile-level-id=42e01f" in fmtp[1]


async def test_the_browser_takes_the_answer_to_each_direction(page: Page) -> None:
    """The table of the web client, as the browser understood it."""
    found = await run(
        page,
        """
  const pc = connection();
  const directions = ["recvonly", "sendonly", "sendrecv", "inactive"];
  for (const direction of directions) {
    for (const kind of ["audio", "video"]) {
      pc.addTransceiver(kind, { direction });
      pc.addTransceiver(kind, { direction });
    }
  }
  await offer(pc);
  // Of each pair the first has somebody to hear or see.
  const sources = new Map();
  pc.getTransceivers().forEach(({ mid }, index) => {
    if (index % 2 === 0) sources.set(mid, { userId: String(index), ssrc: 100 + 2 * index });
  });
  await answer(pc, sources);
  return pc.getTransceivers().map((one) => [one.direction, one.currentDirection]);
""",
    )
    heard = {"recvonly": "recvonly", "sendonly": "sendonly", "sendrecv": "sendrecv"}
    silent = {"recvonly": "inactive", "sendonly": "sendonly", "sendrecv": "sendonly"}
    for index, (direction, current) in enumerate(found):
        assert current == (silent if index % 2 else heard).get(direction, "inactive")


@pytest.mark.parametrize("codec", ["VP8", "H264", "VP9", "AV1"])
async def test_the_wanted_codec_is_the_one_that_is_sent(page: Page, codec: str) -> None:
    types, numbers, text = await run(
        page,
        """
  const pc = connection();
  const video = pc.addTransceiver(canvas(), { direction: "sendrecv" });
  const text = await offer(pc);
  await answer(pc);
  const codecs = video.sender.getParameters().codecs;
  return [codecs.map(({ mimeType }) => mimeType), sdp.ownSsrcs(text), text];
""",
        codec,
    )
    assert types[:2] == [f"video/{codec}", "video/rtx"]
    assert {"video/VP8", "video/H264"} <= set(types)  # others may send these to us
    video = numbers["video"]
    assert numbers["audio"] is None
    assert f"a=ssrc-group:FID {video['media']} {video['retransmission']}\r\n" in text


async def test_stereo_is_asked_for(page: Page) -> None:
    text = await run(
        page,
        """
  const peer = new Peer(codec);
  await peer.open();
  const text = peer.connection.localDescription.sdp;
  peer.close();
  return text;
""",
    )
    (parameters,) = re.findall(r"a=fmtp:\d+ (.*useinbandfec=1.*)\r", text)
    assert "stereo=1" in parameters.split(";")


async def test_people_come_and_go_without_moving_a_section(page: Page) -> None:
    rounds = await run(
        page,
        """
  const peer = new Peer(codec);
  const pc = peer.connection;
  await peer.open();
  await peer.accept(fragment, codec);
  const rounds = [];
  const round = async (changes) => {
    await Promise.all(changes.map((change) => peer.setSource(...change)));
    rounds.push(pc.getTransceivers().map((one) => [
      one.mid, one.receiver.track.kind, one.currentDirection,
    ]));
  };
  await round([["1", "audio", 11], ["1", "video", 12]]);
  await round([["2", "audio", 21], ["2", "video", 22], ["3", "video", 32]]);
  await round([["2", "audio", null], ["2", "video", null]]);
  const left = peer.receiverOf("2", "video");
  await round([["4", "video", 42]]);
  await round([["4", "video", 44]]);
  rounds.push([left === null, peer.receiverOf("4", "video") !== null]);
  // Many changes in one go are one negotiation.
  let negotiations = 0;
  peer.addEventListener("tracks", () => { negotiations += 1; });
  const ids = Array.from({ length: 30 }, (_, index) => 10 + index);
  await Promise.all(ids.map((id) => peer.setSource(String(id), "video", 1000 + 2 * id)));
  rounds.push(negotiations);
  peer.close();
  return rounds;
""",
    )
    first, second, third, fourth, fifth, (gone, there), negotiations = rounds
    both = [["0", "audio", "recvonly"], ["1", "video", "recvonly"]]
    assert first == both
    more = [["2", "audio", "recvonly"], ["3", "video", "recvonly"], ["4", "video", "recvonly"]]
    assert second == both + more
    third_expected = [[*section[:2], "inactive"] for section in more[:2]] + more[2:]
    assert third == both + third_expected
    assert gone
    assert there
    assert fourth == [*both, third_expected[0], *more[1:]]
    assert fifth == fourth
    assert negotiations == 1


async def test_what_we_send_is_announced_with_the_numbers_of_the_browser(page: Page) -> None:
    announced, groups = await run(
        page,
        """
  const peer = new Peer(codec);
  const announced = [];
  const groups = [];
  peer.addEventListener("announce", ({ detail }) => {
    // The answer is not there yet: nothing can have left before this.
    announced.push([detail, peer.connection.signalingState]);
    groups.push(/a=ssrc-group:FID (\\d+) (\\d+)/.exec(peer.connection.localDescription.sdp));
  });
  await peer.open();
  await peer.accept(fragment, codec);
  const track = canvas();
  await peer.setVideo(track);
  await peer.setVideo(null);
  await peer.setVideo(track);
  peer.close();
  return [announced, groups];
""",
    )
    assert [state for _, state in announced] == ["have-local-offer"] * 4
    shown = [detail["video"] for detail, _ in announced]
    assert [video is not None for video in shown] == [False, True, False, True]
    for video, group in zip(shown, groups, strict=True):
        if video is not None:
            assert group[1:] == [str(video["media"]), str(video["retransmission"])]


@pytest.mark.parametrize(
    ("cut", "missing"),
    [
        ("a=ice-ufrag:", "ufrag"),
        ("a=ice-pwd:", "password"),
        ("a=fingerprint:", "fingerprint"),
        ("c=", "address"),
        ("a=candidate:", "candidates"),
    ],
)
async def test_what_a_fragment_lacks_is_named(page: Page, cut: str, missing: str) -> None:
    lines = [line for line in FRAGMENT.split("\n") if not line.startswith(cut)]
    message = await page.evaluate(
        """async (text) => {
  const { BadFragment, parseFragment } = await import("/page/sdp.js");
  try {
    parseFragment(text);
  } catch (error) {
    return error instanceof BadFragment && error.message;
  }
}""",
        "\n".join(lines),
    )
    assert message == f"the server's SDP has no {missing}"
