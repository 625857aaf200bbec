"""The WebRTC transport against a small voice server on real loopback sockets, over both agents."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from discord_rtc.crypto.certificate import Certificate
from discord_rtc.errors import (
    ConnectError,
    DtlsFailed,
    IceFailed,
    InvalidState,
    MalformedMessage,
    MalformedSdp,
    NoCommonCodec,
    PathLost,
)
from discord_rtc.frames import Codec
from discord_rtc.ice.agent import IceTimings
from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.ice.stun import build_request
from discord_rtc.protocol.messages import SessionDescription, StreamInfo
from discord_rtc.protocol.sdp import parse_client_fragment, reduce_offer
from discord_rtc.rtp.extensions import AUDIO_LEVEL, NATIVE_EXTENSION_IDS, SPEAKER
from discord_rtc.transport.base import CodecOffer, MediaOffer
from discord_rtc.transport.dtls_channel import DtlsChannel
from discord_rtc.transport.ice_lite import LitePath
from discord_rtc.transport.ice_options import IceOptions
from discord_rtc.transport.ice_path import PathOwner, WebRtcTimings
from discord_rtc.transport.inbox import EARLY_DATAGRAMS
from discord_rtc.transport.webrtc import WebRtcTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from discord_rtc.protocol.messages import Ready
    from discord_rtc.transport.base import NegotiatedMedia

    from .conftest import RecordingSink, WebRtcServer

pytestmark = pytest.mark.asyncio

QUICK = WebRtcTimings(
    deadline=0.6,
    ice=IceTimings(
        schedule=tuple(n * 0.02 for n in range(10)), consent_interval=0.02, consent_timeout=0.4
    ),
)
quickly = pytest.mark.parametrize("timings", [QUICK], ids=["quick"])
only_lite = pytest.mark.parametrize("ice", [IceOptions()], ids=["lite"])


@pytest.fixture
def timings() -> WebRtcTimings:
    return WebRtcTimings()


@pytest.fixture(params=[IceOptions(), IceOptions(agent="full")], ids=["lite", "full"])
def ice(request: pytest.FixtureRequest) -> IceOptions:
    options: IceOptions = request.param
    if options.agent == "full":
        request.getfixturevalue("interface")
    return options


@pytest_asyncio.fixture
async def transport(ice: IceOptions, timings: WebRtcTimings) -> AsyncIterator[WebRtcTransport]:
    transport = WebRtcTransport(ice=ice, timings=timings)
    yield transport
    await transport.aclose()


@pytest.fixture
def connect(
    transport: WebRtcTransport, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> Callable[[], asyncio.Task[NegotiatedMedia]]:
    async def connect() -> NegotiatedMedia:
        select = await transport.open(webrtc_ready, MediaOffer())
        return await transport.accept(webrtc_server.expect(select.sdp))

    return lambda: asyncio.get_running_loop().create_task(connect())


async def dropped(transport: WebRtcTransport, reason: str, count: int = 1) -> None:
    """Wait until that many datagrams were dropped for that reason."""
    async with asyncio.timeout(3):
        while transport.stats().drops.get(reason, 0) < count:  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.001)


async def test_offer_is_reduced_and_leaves_at_once(
    transport: WebRtcTransport, webrtc_ready: Ready
) -> None:
    layer = StreamInfo(type="video", rid="100", quality=100, ssrc=1001, rtx_ssrc=1002)
    ready = replace(webrtc_ready, streams=(layer,))
    offer = MediaOffer(rtc_connection_id="an id", experiments=("e",))
    assert transport.local_description is None
    select = await transport.open(ready, offer)
    assert select.protocol == "webrtc"
    assert (select.address, select.port, select.mode) == (None, None, None)
    assert [codec.name for codec in select.codecs] == ["opus", "H264", "VP8"]
    assert (select.rtc_connection_id, select.experiments) == ("an id", ("e",))
    assert select.sdp is not None
    assert transport.local_description is not None
    assert reduce_offer(transport.local_description) == select.sdp
    assert "a=candidate" not in select.sdp
    for line in ("a=ssrc:1000 ", "a=ssrc:1001 ", "a=ssrc-group:FID 1001 1002"):
        assert line in transport.local_description


async def test_prepared_identity_is_the_offered_one(
    transport: WebRtcTransport, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    await asyncio.gather(transport.prepare(), transport.prepare())
    select = await transport.open(webrtc_ready, MediaOffer())
    await transport.prepare()
    await transport.accept(webrtc_server.expect(select.sdp))
    assert webrtc_server.handshakes == 1


async def test_media_travels_both_ways(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
    sink: RecordingSink,
    rtp: Callable[[int], bytes],
    report: bytes,
) -> None:
    await connect()
    transport.deliver_to(sink)
    transport.send_rtp(rtp(1))
    transport.send_rtcp(report)
    await webrtc_server.until(lambda: bool(webrtc_server.rtcp))
    assert (webrtc_server.rtp, webrtc_server.rtcp) == ([rtp(1)], [report])
    webrtc_server.send_rtcp(report)
    webrtc_server.send_rtp(rtp(7))
    await sink.holds(2)
    assert (sink.rtp_packets, sink.rtcp_packets) == ([rtp(7)], [report])
    stats = transport.stats()
    assert stats.datagrams_sent == 2
    assert stats.datagrams_received >= 2
    assert stats.remote_address == webrtc_server.address
    assert set(stats.setup) == {"ice", "dtls"}


async def test_a_packet_that_srtp_cannot_send_twice_is_counted(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
    rtp: Callable[[int], bytes],
) -> None:
    await connect()
    transport.send_rtp(rtp(1))
    transport.send_rtp(rtp(1))
    transport.send_rtp(rtp(2))
    await webrtc_server.until(lambda: len(webrtc_server.rtp) == 2)
    assert webrtc_server.rtp == [rtp(1), rtp(2)]
    assert transport.stats().drops["unsent"] == 1


async def test_negotiated_media_follows_the_descriptions(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: WebRtcTransport,
    webrtc_ready: Ready,
) -> None:
    media = await connect()
    assert media.audio_ssrc == webrtc_ready.ssrc
    assert media.payload_types == {Codec.OPUS: 120, Codec.H264: 101, Codec.VP8: 105}
    assert media.rtx_payload_types == {Codec.H264: 102, Codec.VP8: 106}
    assert media.video_codec is Codec.H264
    assert media.extension_ids[AUDIO_LEVEL] == NATIVE_EXTENSION_IDS[AUDIO_LEVEL]
    assert SPEAKER in media.extension_ids
    assert media.feedback == {"nack", "pli", "fir", "goog-remb", "transport-cc"}
    assert media.max_packet_size == 1280 - 28 - 16  # AES-GCM's tag
    assert media.remote_description == transport.remote_description
    assert "a=setup:passive" in (transport.remote_description or "")
    assert media.local_description == transport.local_description


async def test_extension_ids_are_those_of_the_descriptions_not_constants(
    ice: IceOptions, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    shuffled = {AUDIO_LEVEL: 13, SPEAKER: 12}
    transport = WebRtcTransport(ice=ice, extension_ids=shuffled)
    select = await transport.open(webrtc_ready, MediaOffer())
    media = await transport.accept(webrtc_server.expect(select.sdp))
    await transport.aclose()
    assert media.extension_ids == shuffled


async def test_largest_packet_fits_into_1280_bytes(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
) -> None:
    media = await connect()
    packet = b"\x80" + bytes(media.max_packet_size - 1)
    transport.send_rtp(packet)
    await webrtc_server.until(lambda: bool(webrtc_server.rtp))
    assert webrtc_server.cipher is not None
    assert len(webrtc_server.cipher.protect_rtp(packet)) + 20 + 8 == 1280


async def test_media_before_the_keys_is_kept_and_bounded(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
    sink: RecordingSink,
    rtp: Callable[[int], bytes],
) -> None:
    def overtake() -> None:
        for number in range(EARLY_DATAGRAMS + 3):
            webrtc_server.send_rtp(rtp(number))

    webrtc_server.with_the_keys = overtake
    await connect()
    transport.deliver_to(sink)
    await sink.holds(EARLY_DATAGRAMS)
    assert sink.rtp_packets == [rtp(number) for number in range(EARLY_DATAGRAMS)]
    assert transport.stats().drops["early"] == 3


async def test_bad_datagrams_are_counted_never_raised(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
    sink: RecordingSink,
    rtp: Callable[[int], bytes],
) -> None:
    await connect()
    transport.deliver_to(sink)
    assert webrtc_server.cipher is not None
    good = webrtc_server.cipher.protect_rtp(rtp(1))
    webrtc_server.send(good)
    webrtc_server.send(good)
    webrtc_server.send(webrtc_server.cipher.protect_rtp(rtp(2))[:-1] + b"?")
    webrtc_server.send(b"\x80" * 8)
    webrtc_server.send(b"\xff junk")
    webrtc_server.send(b"\x16 no record")
    webrtc_server.send(b"\0")
    webrtc_server.send_rtp(rtp(3))
    await sink.holds(2)
    assert sink.rtp_packets == [rtp(1), rtp(3)]
    drops = transport.stats().drops
    assert drops["replay"] == drops["bad-auth"] == drops["short"] == drops["dtls-junk"] == 1
    assert drops["junk"] == 2
    assert not sink.errors


async def test_wrong_fingerprint_is_a_dtls_failure_before_any_key(
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
    webrtc_ready: Ready,
    rtp: Callable[[int], bytes],
) -> None:
    select = await transport.open(webrtc_ready, MediaOffer())
    answer = webrtc_server.expect(select.sdp)
    other = Certificate.generate().fingerprint
    lie = replace(webrtc_server.fragment, fingerprint=other).to_text()
    with pytest.raises(DtlsFailed) as caught:
        await transport.accept(replace(answer, sdp=lie))
    assert other.split()[1] in str(caught.value)
    assert webrtc_server.handshakes == 0
    with pytest.raises(InvalidState):
        transport.send_rtp(rtp(1))


@quickly
async def test_silent_server_is_an_ice_failure_that_helps(
    transport: WebRtcTransport, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    webrtc_server.answers_checks = False
    select = await transport.open(webrtc_ready, MediaOffer())
    answer = webrtc_server.expect(select.sdp)
    with pytest.raises(IceFailed) as caught:
        await transport.accept(answer)
    ip, port = webrtc_server.address
    for part in (ip, str(port), "UDP", "blocked", "firewall", "TURN"):
        assert part in str(caught.value)
    assert re.search(r"within 0\.[6-9] s", str(caught.value))


@quickly
async def test_silent_handshake_is_a_dtls_failure(
    transport: WebRtcTransport, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    webrtc_server.answers_dtls = False
    select = await transport.open(webrtc_ready, MediaOffer())
    with pytest.raises(DtlsFailed, match=r"answers connectivity checks, but.* 0\.[6-9] s"):
        await transport.accept(webrtc_server.expect(select.sdp))


@only_lite
@quickly
async def test_refused_credentials_are_named_as_such(
    transport: WebRtcTransport, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    select = await transport.open(webrtc_ready, MediaOffer())
    answer = webrtc_server.expect(select.sdp)
    lie = replace(webrtc_server.fragment, password="x" * 22).to_text()
    with pytest.raises(IceFailed, match="can be reached, but it refuses the credentials"):
        await transport.accept(replace(answer, sdp=lie))


async def test_hurried_accept_fails_earlier(
    transport: WebRtcTransport, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    transport.hurry(0)  # nothing is under way
    webrtc_server.answers_checks = False
    select = await transport.open(webrtc_ready, MediaOffer())
    accepting = asyncio.create_task(transport.accept(webrtc_server.expect(select.sdp)))
    await webrtc_server.until(lambda: webrtc_server.responder.last_check is not None)
    transport.hurry(0.05)
    transport.hurry(100)  # never later
    with pytest.raises(IceFailed, match=r"within 0\.\d s"):
        await accepting


async def test_hurrying_does_not_harm_a_path_that_works(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]], transport: WebRtcTransport
) -> None:
    connecting = connect()
    await asyncio.sleep(0)
    transport.hurry(2)
    await connecting
    transport.hurry(0)


async def test_answer_must_hold_a_usable_fragment(
    transport: WebRtcTransport, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    select = await transport.open(webrtc_ready, MediaOffer())
    answer = webrtc_server.expect(select.sdp)
    with pytest.raises(MalformedMessage):
        await transport.accept(replace(answer, sdp=None))
    lacking = webrtc_server.fragment.to_text().replace("a=ice-ufrag:", "a=")
    with pytest.raises(MalformedSdp, match="a=ice-ufrag"):
        await transport.accept(replace(answer, sdp=lacking))
    with pytest.raises(NoCommonCodec):
        await transport.accept(replace(answer, audio_codec="PCMU"))
    assert transport.remote_description is None
    await transport.accept(answer)  # none of these did harm


async def test_repeated_answer_keeps_path_and_keys(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
) -> None:
    media = await connect()
    checks = webrtc_server.responder.counters["stun-checks"]
    again = replace(server_answer(webrtc_server), video_codec="VP8", keyframe_interval=2000)
    other = await transport.accept(again)
    assert (other.video_codec, other.keyframe_interval_ms) == (Codec.VP8, 2000)
    assert replace(other, video_codec=media.video_codec).payload_types == media.payload_types
    assert webrtc_server.handshakes == 1
    assert webrtc_server.responder.counters["stun-checks"] == checks


def server_answer(server: WebRtcServer) -> SessionDescription:
    """The answer once more, without expecting another handshake."""
    return SessionDescription("opus", "H264", "session", sdp=server.fragment.to_text())


async def test_other_credentials_make_a_new_path(
    *,
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
    sink: RecordingSink,
    rtp: Callable[[int], bytes],
) -> None:
    media = await connect()
    transport.deliver_to(sink)
    webrtc_server.renew()
    await transport.accept(webrtc_server.expect(reduce_offer(media.local_description or "")))
    assert webrtc_server.handshakes == 2
    transport.send_rtp(rtp(1))
    await webrtc_server.until(lambda: bool(webrtc_server.rtp))
    webrtc_server.send_rtp(rtp(2))
    await sink.holds(1)
    assert sink.errors == []


async def test_goodbye_of_the_server_is_a_lost_path(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
    sink: RecordingSink,
) -> None:
    await connect()
    transport.deliver_to(sink)
    webrtc_server.say_goodbye()
    async with asyncio.timeout(3):
        await sink.ends()
    assert [type(error) for error in sink.errors] == [PathLost]
    assert "closed the DTLS association" in str(sink.errors[0])


@only_lite
@quickly
async def test_expired_consent_is_a_lost_path_and_nothing_is_sent_any_more(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
    sink: RecordingSink,
    rtp: Callable[[int], bytes],
) -> None:
    await connect()
    transport.deliver_to(sink)
    await webrtc_server.until(lambda: webrtc_server.responder.counters["stun-checks"] > 3)
    assert sink.errors == []
    webrtc_server.answers_checks = False
    await sink.ends()
    assert [type(error) for error in sink.errors] == [PathLost]
    transport.send_rtp(rtp(1))
    assert transport.stats().drops["no-consent"] == 1
    assert transport.stats().datagrams_sent == 0


async def test_closing_says_goodbye(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
    sink: RecordingSink,
    rtp: Callable[[int], bytes],
) -> None:
    await connect()
    transport.deliver_to(sink)
    await transport.aclose()
    await transport.aclose()
    await webrtc_server.until(lambda: webrtc_server.goodbyes > 0)
    transport.send_rtp(rtp(1))
    assert transport.stats().drops["closed"] == 1
    assert sink.errors == []
    with pytest.raises(InvalidState):
        await transport.accept(server_answer(webrtc_server))


class SlowPath(LitePath):
    """Opens its socket when the test allows it."""

    may_gather = asyncio.Event()

    async def gather(self, server: tuple[str, int] | None) -> None:
        if server is not None:
            await self.may_gather.wait()
        await super().gather(server)


async def test_closing_ends_an_open_under_way(webrtc_ready: Ready) -> None:
    SlowPath.may_gather = asyncio.Event()

    def make(
        options: IceOptions, credentials: IceCredentials, owner: PathOwner, timings: WebRtcTimings
    ) -> SlowPath:
        return SlowPath(credentials, options, owner, timings)

    transport = WebRtcTransport(path_factory=make)
    opening = asyncio.create_task(transport.open(webrtc_ready, MediaOffer()))
    await asyncio.sleep(0)
    await transport.aclose()
    SlowPath.may_gather.set()
    with pytest.raises(ConnectError, match="closed"):
        await opening


@pytest.mark.parametrize("phase", ["ice", "dtls"])
async def test_closing_ends_an_accept_under_way(
    phase: str, transport: WebRtcTransport, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    webrtc_server.answers_checks = phase == "dtls"
    webrtc_server.answers_dtls = False
    select = await transport.open(webrtc_ready, MediaOffer())
    accepting = asyncio.create_task(transport.accept(webrtc_server.expect(select.sdp)))
    await webrtc_server.until(lambda: webrtc_server.responder.last_check is not None)
    await asyncio.sleep(0.05)
    await transport.aclose()
    with pytest.raises(ConnectError, match="closed"):
        await accepting


@only_lite
@pytest.mark.parametrize("step", ["ice", "dtls"])
async def test_closing_in_the_moment_of_success_ends_an_accept_at_once(
    step: str,
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
    webrtc_ready: Ready,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, name = (LitePath, "connect") if step == "ice" else (DtlsChannel, "handshake")
    done = getattr(owner, name)

    async def then_close(*args: object) -> object:
        result = await done(*args)
        await transport.aclose()
        return result

    monkeypatch.setattr(owner, name, then_close)
    select = await transport.open(webrtc_ready, MediaOffer())
    async with asyncio.timeout(2):
        with pytest.raises(ConnectError, match="closed"):
            await transport.accept(webrtc_server.expect(select.sdp))


@only_lite
@quickly
async def test_an_answer_that_failed_is_not_taken_for_a_repeated_one(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
) -> None:
    await connect()
    webrtc_server.renew()
    webrtc_server.answers_checks = False
    for _ in range(2):
        with pytest.raises(IceFailed):
            await transport.accept(server_answer(webrtc_server))


async def test_cancelled_accept_leaves_nothing_behind(
    transport: WebRtcTransport, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    webrtc_server.answers_checks = False
    select = await transport.open(webrtc_ready, MediaOffer())
    accepting = asyncio.create_task(transport.accept(webrtc_server.expect(select.sdp)))
    await webrtc_server.until(lambda: webrtc_server.responder.last_check is not None)
    accepting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await accepting
    await transport.aclose()
    await asyncio.sleep(0.05)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert [task.get_name() for task in others if task.get_name().startswith("ice-")] == []


async def test_calls_in_the_wrong_order_are_refused(
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
    webrtc_ready: Ready,
    rtp: Callable[[int], bytes],
) -> None:
    with pytest.raises(InvalidState):
        await transport.accept(server_answer(webrtc_server))
    with pytest.raises(InvalidState):
        transport.send_rtp(rtp(1))
    await transport.open(webrtc_ready, MediaOffer())
    with pytest.raises(InvalidState):
        await transport.open(webrtc_ready, MediaOffer())
    with pytest.raises(InvalidState):
        transport.send_rtcp(rtp(1))
    assert transport.stats().remote_address == webrtc_server.address


async def test_closed_transport_is_not_opened(
    transport: WebRtcTransport, webrtc_ready: Ready
) -> None:
    await transport.aclose()
    await transport.prepare()
    with pytest.raises(InvalidState):
        await transport.open(webrtc_ready, MediaOffer())
    assert transport.stats().remote_address is None


@pytest.mark.parametrize("ip", ["voice.example.org", "", "300.1.2.3"])
async def test_unusable_address_is_a_connect_error(
    ip: str, transport: WebRtcTransport, webrtc_ready: Ready
) -> None:
    with pytest.raises(ConnectError):
        await transport.open(replace(webrtc_ready, ip=ip), MediaOffer())


async def test_first_video_codec_of_the_answer_is_the_sent_one(
    transport: WebRtcTransport, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    select = await transport.open(webrtc_ready, MediaOffer())
    answer = replace(webrtc_server.expect(select.sdp), video_codec="VP8")
    media = await transport.accept(answer)
    assert media.video_codec is Codec.VP8
    assert "UDP/TLS/RTP/SAVPF 105 106 101 102" in (media.remote_description or "")


async def test_audio_only_offer_works(
    transport: WebRtcTransport, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    offer = MediaOffer(codecs=(CodecOffer(Codec.OPUS, 111),))
    select = await transport.open(webrtc_ready, offer)
    media = await transport.accept(webrtc_server.expect(select.sdp))
    assert media.video_codec is None
    assert "m=video" not in (media.remote_description or "")


@only_lite
async def test_local_address_is_what_the_server_sees(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
) -> None:
    assert transport.stats().local_address is None
    await connect()
    stats = transport.stats()
    assert stats.local_address == webrtc_server.responder.address
    assert stats.rtt is not None
    assert 0 < stats.rtt < 1
    assert stats.drops == {}


@only_lite
async def test_server_may_have_moved_to_another_port(
    transport: WebRtcTransport, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    """The fragment is what counts, though it should say the same as Ready."""
    select = await transport.open(replace(webrtc_ready, port=9), MediaOffer())
    await transport.accept(webrtc_server.expect(select.sdp))
    assert transport.stats().remote_address == webrtc_server.address


async def test_secrets_stay_out_of_logs_and_reprs(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: WebRtcTransport,
    webrtc_server: WebRtcServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="discord_rtc")
    media = await connect()
    ours = parse_client_fragment(media.local_description or "")
    shown = repr(transport) + repr(media) + caplog.text
    for secret in (ours.password, webrtc_server.credentials.password):
        assert secret not in shown


@only_lite
async def test_checks_and_handshakes_before_their_time_are_counted(
    transport: WebRtcTransport, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    select = await transport.open(webrtc_ready, MediaOffer())
    client = parse_client_fragment(select.sdp or "")
    check = build_request(
        bytes(12), username=f"{client.ufrag}:x", password=client.password, priority=1, tie_breaker=1
    )
    assert transport.local_description is not None
    port = int(transport.local_description.split("a=candidate:")[1].split()[5])
    for datagram in (check, b"\x16\xfe\xfd"):
        webrtc_server.send(datagram, to=("127.0.0.1", port))
    await dropped(transport, "stun-early")
    await dropped(transport, "dtls-early")


async def test_credentials_differ_from_call_to_call(webrtc_ready: Ready) -> None:
    found = []
    for _ in range(2):
        transport = WebRtcTransport()
        select = await transport.open(webrtc_ready, MediaOffer())
        await transport.aclose()
        client = parse_client_fragment(select.sdp or "")
        IceCredentials(client.ufrag, client.password)
        found.append((client.ufrag, client.password, client.fingerprints))
    assert found[0] != found[1]
