"""Chromium takes the answers that are made of its own offers, through joins and leaves."""

from __future__ import annotations

import os
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from discord_rtc.frames import MediaKind
from discord_rtc.protocol.sdp import parse_client_fragment, reduce_offer
from discord_rtc.transport.base import MediaOffer, SendingSsrcs
from discord_rtc.transport.description import RemoteSource, build_offer, expand_answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.interop

VECTORS = Path(__file__).parents[1] / "vectors" / "sdp"
FRAGMENT = (VECTORS / "discord_server.txt").read_text().replace("203.0.113.7", "127.0.0.1")
AUDIO, VIDEO = MediaKind.AUDIO, MediaKind.VIDEO

FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)

OPEN = """async ({sends, data}) => {
  window.pc = new RTCPeerConnection({bundlePolicy: "max-bundle"});
  window.streams = [];
  pc.ontrack = event => streams.push(`${event.track.kind} ${event.streams[0].id}`);
  const media = sends && await navigator.mediaDevices.getUserMedia({audio: true, video: true});
  for (const kind of ["audio", "video"]) {
    const track = media && media.getTracks().find(track => track.kind === kind);
    pc.addTransceiver(track || kind, {direction: track ? "sendrecv" : "recvonly"});
  }
  if (data) pc.createDataChannel("data");
}"""

OFFER = """async more => {
  for (const kind of more) pc.addTransceiver(kind, {direction: "recvonly"});
  await pc.setLocalDescription(await pc.createOffer());
  return pc.localDescription.sdp;
}"""

ANSWER = """async sdp => {
  await pc.setRemoteDescription({type: "answer", sdp});
  const codecs = found => (found.getParameters().codecs || []).map(
    codec => [codec.mimeType, codec.payloadType, codec.sdpFmtpLine || ""]);
  return {
    state: pc.signalingState,
    directions: pc.getTransceivers().map(each => each.currentDirection),
    sent: pc.getTransceivers().map(each => codecs(each.sender)),
    extensions: pc.getTransceivers().map(each => Object.fromEntries(
      each.sender.getParameters().headerExtensions.map(found => [found.uri, found.id]))),
    streams: streams.splice(0),
  };
}"""

ACCEPT = """async sdp => {
  const pc = new RTCPeerConnection({bundlePolicy: "max-bundle"});
  await pc.setRemoteDescription({type: "offer", sdp});
  const media = await navigator.mediaDevices.getUserMedia({audio: true, video: true});
  for (const track of media.getTracks()) pc.addTrack(track, media);
  const answer = await pc.createAnswer();
  await pc.setLocalDescription(answer);
  pc.close();
  return answer.sdp;
}"""


class BlankPage(BaseHTTPRequestHandler):
    """Media devices exist on http://127.0.0.1, not on about:blank."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>blank</title>")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = os.environ.get("DISCORD_RTC_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with ThreadingHTTPServer(("127.0.0.1", 0), BlankPage) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        yield page
        page.close()
        server.shutdown()
        thread.join()


def renegotiate(
    page: Page, users: list[RemoteSource], more: tuple[str, ...] = (), codec: str | None = None
) -> dict[str, Any]:
    """Make the page offer, with more transceivers, and give it the answer."""
    offer = page.evaluate(OFFER, list(more))
    answer = expand_answer(FRAGMENT, offer, users, video_codec=codec)
    result: dict[str, Any] = page.evaluate(ANSWER, answer)
    assert result["state"] == "stable"
    return result


def test_users_join_and_leave_a_listening_page(page: Page) -> None:
    page.evaluate(OPEN, {"sends": False, "data": False})
    assert renegotiate(page, [])["directions"] == ["inactive", "inactive"]

    one = [RemoteSource(7, AUDIO, 100, "0"), RemoteSource(7, VIDEO, 101, "1")]
    result = renegotiate(page, one)
    assert result["directions"] == ["recvonly", "recvonly"]
    assert result["streams"] == ["audio 7-100", "video 7-101"]

    three = one + [
        RemoteSource(user, kind, user * 100 + (kind is VIDEO))
        for user in (8, 9)
        for kind in MediaKind
    ]
    result = renegotiate(page, three, ("audio", "video") * 2)
    assert result["directions"] == ["recvonly"] * 6
    assert result["streams"] == ["audio 8-800", "video 8-801", "audio 9-900", "video 9-901"]

    left = [*one, RemoteSource(9, AUDIO, 900, "4"), RemoteSource(9, VIDEO, 901, "5")]
    result = renegotiate(page, left)
    assert result["directions"] == ["recvonly", "recvonly", "inactive", "inactive"] + (
        ["recvonly"] * 2
    )
    assert result["streams"] == []  # nobody else noticed

    result = renegotiate(page, [*left, RemoteSource(10, AUDIO, 1000)])
    assert result["directions"][2:4] == ["recvonly", "inactive"]
    assert result["streams"] == ["audio 10-1000"]


@pytest.mark.parametrize("codec", ["VP8", "H264", "VP9", "AV1"])
def test_a_page_that_sends_uses_what_the_answer_says(page: Page, codec: str) -> None:
    page.evaluate(OPEN, {"sends": True, "data": False})
    result = renegotiate(page, [], codec=codec)
    assert result["directions"] == ["sendonly", "sendonly"]
    audio, video = result["sent"]
    assert [name for name, _, _ in audio] == ["audio/opus"]
    assert "maxptime=60" in audio[0][2]
    assert "usedtx=0" in audio[0][2]
    assert [name for name, _, _ in video] == [f"video/{codec}", "video/rtx"]
    assert "x-google-max-bitrate=2500" in video[0][2]
    assert video[1][2] == f"apt={video[0][1]}"
    offered = parse_client_fragment(page.evaluate("pc.localDescription.sdp")).extension_ids
    for used in result["extensions"]:
        assert used.items() <= offered.items()
    assert any("transport-wide-cc" in uri for uri in result["extensions"][1])

    users = [RemoteSource(7, AUDIO, 100), RemoteSource(7, VIDEO, 101)]
    result = renegotiate(page, users, codec=codec)
    assert result["directions"] == ["sendrecv", "sendrecv"]
    assert result["streams"] == ["audio 7-100", "video 7-101"]


def test_a_rejected_data_channel_leaves_media_alone(page: Page) -> None:
    page.evaluate(OPEN, {"sends": False, "data": True})
    users = [RemoteSource(7, AUDIO, 100)]
    assert renegotiate(page, users)["directions"] == ["recvonly", "inactive"]
    assert renegotiate(page, users)["directions"] == ["recvonly", "inactive"]


def test_a_fresh_offer_is_reduced_to_what_is_documented(page: Page) -> None:
    page.evaluate(OPEN, {"sends": False, "data": False})
    reduced = reduce_offer(page.evaluate(OFFER, []))
    fragment = parse_client_fragment(reduced)
    assert [codec.name for codec in fragment.codecs] == ["opus", "VP8", "rtx"]
    assert fragment.codecs[2].apt == fragment.codecs[1].payload_type
    assert {line.split(":")[0] for line in reduced.split("\n")} == {
        "a=extmap-allow-mixed",
        "a=ice-ufrag",
        "a=ice-pwd",
        "a=ice-options",
        "a=fingerprint",
        "a=extmap",
        "a=rtpmap",
    }


def test_chromium_answers_our_own_offer(page: Page) -> None:
    offer = build_offer(
        MediaOffer(),
        ("abcd", "ABCDEFGHIJKLMNOPQRSTUV"),
        "sha-256 " + ":".join(["AB"] * 32),
        audio_ssrc=1000,
        video=SendingSsrcs("100", 1001, 1002),
    )
    answer = parse_client_fragment(page.evaluate(ACCEPT, offer))
    assert {codec.payload_type: codec.name for codec in answer.codecs} == {
        120: "opus",
        101: "H264",
        102: "rtx",
        105: "VP8",
        106: "rtx",
    }
    assert answer.extension_ids.items() <= parse_client_fragment(offer).extension_ids.items()
    assert answer.setup == "active"
