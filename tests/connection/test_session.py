"""One voice session, from Identify to its end, against a scripted server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest

from discord_rtc.clock import SystemClock
from discord_rtc.connection.encryption_settings import EncryptionSettings
from discord_rtc.connection.events import (
    CodecsChanged,
    Event,
    LayerWanted,
    TrackEnded,
    TrackStarted,
    UnknownReceived,
    UserJoined,
    UserLeft,
)
from discord_rtc.connection.link import MediaLink
from discord_rtc.connection.people import CallPeople
from discord_rtc.connection.publication import Publication, Quality
from discord_rtc.connection.session import LiveSession
from discord_rtc.errors import (
    AuthenticationFailed,
    ConnectionLost,
    DaveUnavailable,
    DiscoveryTimeout,
    IceFailed,
    MediaError,
    NoCommonMode,
    NoRoute,
    PathLost,
    SignalingTimeout,
    VideoNotGranted,
)
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.media.patterns import TestPattern, TestTone
from discord_rtc.protocol.messages import BackendVersion
from discord_rtc.protocol.voice import VoiceOptions
from discord_rtc.rtp.session import SenderConfig
from discord_rtc.transport.base import MediaOffer
from discord_rtc.transport.memory import memory_pair
from discord_rtc.transport.path import UdpTimings
from discord_rtc.transport.udp import UdpTransport

from ..protocol.dave.fake_group import FakeBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from discord_rtc.connection.options import DaveChoice
    from discord_rtc.frames import EncodedFrame
    from discord_rtc.media.track import MediaTrack
    from discord_rtc.protocol.dave.events import E2eeState
    from discord_rtc.protocol.voice import VoiceCredentials
    from discord_rtc.transport.base import NegotiatedMedia, Transport

    from .conftest import Double, Eventually, Peer, Sink, StartDouble, Track

    Script = Callable[[Peer], Awaitable[None]]
    StartCall = Callable[..., AbstractAsyncContextManager["Call"]]

pytestmark = pytest.mark.asyncio


@dataclass(frozen=True)
class Deadlines:
    connect: float = 5.0
    signaling: float = 5.0


class Owner:
    """The connection, as its sessions see it.

    Attributes:
        refusal: Raised when video is asked for.
        granting: Video is granted once this is set.
        failed_paths: Errors of media paths that did not come up.
        lost_paths: Errors of media paths that died.
        route: What a failed path is answered with; None to go on with its own error.
    """

    def __init__(self) -> None:
        self.people = CallPeople(lambda *_: None)
        self.live = asyncio.Event()
        self.ended: list[tuple[MediaKind, Exception | None]] = []
        self.refusal: Exception | None = None
        self.failed_paths: list[Exception] = []
        self.privacy: list[tuple[E2eeState, str | None, str | None]] = []
        self.lost_paths: list[Exception] = []
        self.route: NoRoute | None = None
        self.granting = asyncio.Event()
        self.granting.set()
        self.events = self.people.events.subscribe((Event,))

    def session_live(self) -> None:
        self.live.set()

    def e2ee_changed(self, state: E2eeState, privacy_code: str | None, reason: str | None) -> None:
        self.privacy.append((state, privacy_code, reason))

    def path_failed(self, error: Exception) -> Exception:
        self.failed_paths.append(error)
        return self.route or error

    def path_lost(self, error: Exception) -> None:
        self.lost_paths.append(error)

    async def allow(self, publication: Publication) -> None:
        await self.granting.wait()
        if publication.kind is MediaKind.VIDEO and self.refusal is not None:
            raise self.refusal

    async def publication_ended(self, publication: Publication, error: Exception | None) -> None:
        self.ended.append((publication.kind, error))

    async def told(self) -> list[Event]:
        """Events since the last time."""
        events, self.events = self.events, self.people.events.subscribe((Event,))
        events.close()
        return [event async for event in events]


@pytest.fixture
def owner() -> Owner:
    return Owner()


def session_of(
    credentials: VoiceCredentials,
    owner: Owner,
    transport: Transport | None = None,
    *,
    timeout: float = 5.0,
    encryption: EncryptionSettings | None = None,
) -> LiveSession:
    clock = SystemClock()
    return LiveSession(
        credentials,
        VoiceOptions(timeout=timeout),
        MediaOffer(),
        transport=transport or memory_pair()[0],
        owner=owner,
        secure=False,
        clock=clock,
        epoch=clock.now(),
        encryption=encryption,
    )


def publication_of(track: MediaTrack) -> Publication:
    return Publication(track, MediaKind(track.kind), quality=Quality(320, 240, 30, 300_000))


@dataclass
class Call:
    """A live session and the far end of its transport."""

    session: LiveSession
    task: asyncio.Task[None]
    peer: Peer
    far: Sink
    link: MediaLink

    async def sent(self, opcode: int) -> list[object]:
        return [data for op, data in self.peer.received if op == opcode]


async def stay_live(peer: Peer) -> None:
    await peer.live()


@pytest.fixture
def call(voice_double: StartDouble, owner: Owner, media: NegotiatedMedia, sink: Sink) -> StartCall:
    """Starts a session that is live; cancelled at the end."""

    @asynccontextmanager
    async def start(*publications: Publication) -> AsyncIterator[Call]:
        near, far = memory_pair()
        async with voice_double(stay_live) as double:
            session = session_of(double.credentials(), owner, near)
            kept = {publication.kind: publication for publication in publications}
            task = asyncio.ensure_future(session.run(kept, Deadlines()))
            link = MediaLink(far, media, sink, SystemClock())
            async with asyncio.timeout(5):
                await asyncio.wait(
                    [task, live := asyncio.ensure_future(owner.live.wait())],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            await live
            try:
                yield Call(session, task, double.peers[-1], sink, link)
            finally:
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    task.exception()
                link.close()
                await far.aclose()

    return start


# How a session comes up, or not


async def test_a_session_goes_live_and_says_so(call: StartCall, owner: Owner) -> None:
    async with call() as it:
        assert it.session.protocol == "udp"
        assert it.session.link is not None
        assert it.session.link.media.video_codec is Codec.H264
        assert [queue.name for queue in it.session.queues()] == ["decode", "parking", "undecrypted"]
        assert not it.task.done()


async def until_over(
    double: Double,
    owner: Owner,
    *,
    transport: Transport | None = None,
    encryption: EncryptionSettings | None = None,
    **deadlines: float,
) -> BaseException:
    """Run a session to its end; gives the reason."""
    timing = Deadlines(**deadlines)
    session = session_of(
        double.credentials(),
        owner,
        transport,
        timeout=timing.signaling,
        encryption=encryption,
    )
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - returned
        async with asyncio.timeout(5):
            await session.run({}, timing)
    assert not isinstance(caught.value, BaseExceptionGroup)
    return caught.value


async def silent(peer: Peer) -> None:
    await peer.gone()


async def no_ready(peer: Peer) -> None:
    await peer.hello()


async def no_description(peer: Peer) -> None:
    await peer.hello()
    await peer.ready()


@pytest.mark.parametrize(
    ("script", "phase"),
    [(silent, "hello"), (no_ready, "ready"), (no_description, "description")],
)
async def test_a_server_that_falls_silent_is_a_timeout_that_names_the_phase(
    voice_double: StartDouble, owner: Owner, script: Script, phase: str
) -> None:
    async with voice_double(script) as double:
        error = await until_over(double, owner, signaling=0.05)
    assert isinstance(error, SignalingTimeout)
    assert str(error) == f"the voice server did not send {phase} in time"


async def test_the_whole_way_has_a_deadline_of_its_own(
    voice_double: StartDouble, owner: Owner
) -> None:
    async with voice_double(no_ready) as double:
        error = await until_over(double, owner, connect=0.05)
    assert isinstance(error, SignalingTimeout)
    assert str(error) == "the voice server did not bring up media within 0.05 s"


async def test_udp_that_is_blocked_is_a_discovery_timeout(
    voice_double: StartDouble, owner: Owner
) -> None:
    timings = UdpTimings(discovery_schedule=(0.0,), discovery_deadline=0.05)
    async with voice_double(no_description) as double:
        error = await until_over(double, owner, transport=UdpTransport(timings=timings))
    assert isinstance(error, DiscoveryTimeout)


async def test_no_mode_in_common_is_told(voice_double: StartDouble, owner: Owner) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello()
        await peer.ready(modes=("rot13",))

    async with voice_double(script) as double:
        assert isinstance(await until_over(double, owner), NoCommonMode)


async def at_once(peer: Peer) -> None:
    del peer


async def after_identify(peer: Peer) -> None:
    await peer.hello()
    await peer.expect(0)


async def after_select(peer: Peer) -> None:
    await peer.hello()
    await peer.ready()
    await peer.expect(1)


@pytest.mark.parametrize("before", [at_once, after_identify, after_select, stay_live])
@pytest.mark.parametrize("code", [4004, 4006, 4014, 4016, 4017])
async def test_a_close_in_any_phase_ends_the_session_with_a_typed_error(
    voice_double: StartDouble, owner: Owner, before: Script, code: int
) -> None:
    async def script(peer: Peer) -> None:
        await before(peer)
        await peer.close(code)

    async with voice_double(script) as double:
        error = await until_over(double, owner)
    if code == 4004:
        assert isinstance(error, AuthenticationFailed)
        assert str(error) == "the voice server refused the token or the session"
    elif code == 4017:
        assert isinstance(error, DaveUnavailable)
        assert "end-to-end encryption" in str(error)
    else:
        assert isinstance(error, ConnectionLost)
        assert error.close_code == code
        assert str(error) == f"the voice server closed the connection (close code {code})"


@pytest.mark.parametrize("before", [at_once, after_identify, after_select])
async def test_a_server_that_dies_before_the_session_is_live_is_a_lost_connection(
    voice_double: StartDouble, owner: Owner, before: Script
) -> None:
    async def script(peer: Peer) -> None:
        await before(peer)
        peer.abort()

    async with voice_double(script) as double:
        error = await until_over(double, owner)
    assert isinstance(error, ConnectionLost)
    assert error.close_code == 1006


@pytest.mark.parametrize("before", [silent, no_ready, no_description, stay_live])
async def test_a_session_can_be_cancelled_in_any_phase(
    voice_double: StartDouble, owner: Owner, before: Script
) -> None:
    reached = asyncio.Event()

    async def script(peer: Peer) -> None:
        if before is not silent:
            await before(peer)
        reached.set()
        await peer.gone()

    async with voice_double(script) as double:
        session = session_of(double.credentials(), owner, UdpTransport())
        task = asyncio.ensure_future(session.run({}, Deadlines()))
        if before is not stay_live:  # that needs a media server
            await reached.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def forgotten(peer: Peer) -> None:
    """A server that knows nothing of the session any more."""
    await peer.close(4006)


async def test_a_live_session_whose_resume_is_refused_is_a_lost_connection(
    voice_double: StartDouble, owner: Owner
) -> None:
    async def script(peer: Peer) -> None:
        await peer.live()
        peer.abort()

    async with voice_double(script, forgotten) as double:
        error = await until_over(double, owner)
    assert isinstance(error, ConnectionLost)
    assert error.close_code == 4006


async def test_a_live_session_that_is_resumed_goes_on(
    voice_double: StartDouble, owner: Owner
) -> None:
    async def resume(peer: Peer) -> None:
        await peer.hello()
        await peer.expect(7)
        await peer.send(9, None)
        await peer.expect(16)
        await peer.send(16, {"voice": "1", "rtc_worker": "2"})

    async with voice_double(stay_live, resume) as double:
        session = session_of(double.credentials(), owner)
        running = asyncio.ensure_future(session.run({}, Deadlines()))
        async with asyncio.timeout(5):
            await owner.live.wait()
            double.peers[0].abort()
            assert await session.backend_versions() == BackendVersion("1", "2")
        assert session.websockets == {"resumes": 1, "resume-failures": 0}
        running.cancel()
        await asyncio.wait([running])


async def test_missed_heartbeats_end_a_session_that_is_not_live(
    voice_double: StartDouble, owner: Owner
) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello(interval_ms=20)
        await peer.ready()

    async with voice_double(script) as double:
        error = await until_over(double, owner)
    assert isinstance(error, ConnectionLost)
    assert str(error) == "the voice server stopped answering heartbeats"


async def test_what_is_published_outlives_missed_heartbeats(
    voice_double: StartDouble, owner: Owner
) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello(interval_ms=20)
        await peer.ready()
        await peer.description()

    async with voice_double(script, forgotten) as double:
        session = session_of(double.credentials(), owner)
        publications = {MediaKind.AUDIO: publication_of(TestTone())}
        with pytest.raises(ConnectionLost, match="close code 4006"):
            await session.run(publications, Deadlines())
    assert owner.ended == []
    assert publications[MediaKind.AUDIO].counters["sent"] > 0


async def test_a_lost_path_ends_the_session_with_its_reason(
    voice_double: StartDouble, owner: Owner
) -> None:
    transport, _ = memory_pair()
    async with voice_double(stay_live) as double:
        running = asyncio.ensure_future(until_over(double, owner, transport=transport))
        await owner.live.wait()
        transport.lose(ConnectionLost(None, "the path is gone"))
        error = await running
    assert str(error) == "the path is gone"


async def test_a_path_that_died_is_told_before_the_session_ends(
    voice_double: StartDouble, owner: Owner
) -> None:
    transport, _ = memory_pair()
    lost = PathLost("no consent for 30 s")
    async with voice_double(stay_live) as double:
        running = asyncio.ensure_future(until_over(double, owner, transport=transport))
        await owner.live.wait()
        transport.lose(lost)
        assert await running is lost
    assert owner.lost_paths == [lost]


async def test_without_any_route_the_server_is_told(
    voice_double: StartDouble, owner: Owner
) -> None:
    peers: list[Peer] = []

    async def script(peer: Peer) -> None:
        peers.append(peer)
        await peer.hello()
        await peer.ready()
        await peer.expect(32)

    owner.route = NoRoute("nothing works")
    timings = UdpTimings(discovery_schedule=(0.0,), discovery_deadline=0.05)
    async with voice_double(script) as double:
        error = await until_over(double, owner, transport=UdpTransport(timings=timings))
    assert error is owner.route
    assert isinstance(owner.failed_paths[0], DiscoveryTimeout)
    assert (32, {}) in peers[0].received


async def test_without_a_route_after_the_selection_the_server_is_told_too(
    voice_double: StartDouble, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers: list[Peer] = []

    async def deaf(_answer: object) -> None:
        raise IceFailed("no answer to any check")

    async def script(peer: Peer) -> None:
        peers.append(peer)
        await peer.hello()
        await peer.ready()
        await peer.description()
        await peer.expect(32)

    owner.route = NoRoute("nothing works")
    transport, _ = memory_pair()
    monkeypatch.setattr(transport, "accept", deaf)
    async with voice_double(script) as double:
        error = await until_over(double, owner, transport=transport)
    assert error is owner.route
    assert (32, {}) in peers[0].received


async def test_a_transport_that_cannot_be_opened_ends_the_session(
    voice_double: StartDouble, owner: Owner
) -> None:
    transport = memory_pair()[0]
    await transport.aclose()
    async with voice_double(no_description) as double:
        error = await until_over(double, owner, transport=transport)
    assert "opened once" in str(error)


# Who is there


async def test_the_first_list_of_a_session_says_who_is_still_there(
    call: StartCall, owner: Owner, eventually: Eventually
) -> None:
    for user_id in (1, 2):
        owner.people.ensure(user_id)
    await owner.told()
    async with call() as it:
        await it.peer.send(11, {"user_ids": ["2", "3", "7"]})
        await eventually(lambda: set(owner.people.users) == {2, 3})
        await it.peer.send(11, {"user_ids": ["4"]})  # a newcomer
        await eventually(lambda: set(owner.people.users) == {2, 3, 4})
        await it.peer.send(13, {"user_id": "3"})
        await eventually(lambda: set(owner.people.users) == {2, 4})
    assert await owner.told() == [UserLeft(1), UserJoined(3), UserJoined(4), UserLeft(3)]


async def test_what_the_server_tells_becomes_events(
    call: StartCall, owner: Owner, eventually: Eventually
) -> None:
    async with call() as it:
        await it.peer.send(15, {"any": 100, "1001": 50})
        await it.peer.send(14, {"audio_codec": "opus", "video_codec": "VP8"})
        await it.peer.send(77, {"new": True})
        await it.peer.send(11, {"user_ids": ["5"]})
        await eventually(lambda: 5 in owner.people.users)
    assert await owner.told() == [
        LayerWanted(100, {1001: 50}),
        CodecsChanged(()),
        UnknownReceived(77, {"new": True}),
        UserJoined(5),
    ]


async def test_backend_versions_are_asked_for_once(call: StartCall, eventually: Eventually) -> None:
    async with call() as it:
        asking = [asyncio.ensure_future(it.session.backend_versions()) for _ in range(2)]
        await eventually(lambda: any(op == 16 for op, _ in it.peer.received))
        await it.peer.send(16, {"voice": "0.11.0", "rtc_worker": "0.3.35"})
        expected = BackendVersion("0.11.0", "0.3.35")
        assert await asyncio.gather(*asking) == [expected, expected]
        assert len(await it.sent(16)) == 1


async def test_a_session_that_ends_answers_whoever_asked_for_versions(
    call: StartCall,
) -> None:
    async with call() as it:
        asking = asyncio.ensure_future(it.session.backend_versions())
        await asyncio.sleep(0)
        await it.peer.close(4006)
        with pytest.raises(ConnectionLost, match="before the server told its versions"):
            await asking


# Sending


async def test_publications_are_announced_and_sent_from_the_start(
    call: StartCall, eventually: Eventually
) -> None:
    tone, pattern = publication_of(TestTone()), publication_of(TestPattern(160, 120))
    async with call(tone, pattern) as it:
        await it.far.until(lambda: {frame.ssrc for frame in it.far.frames} == {1000, 1001})
        await eventually(lambda: len(it.peer.received) == 6)
        speaking, video = (await it.sent(5))[-1], (await it.sent(12))[-1]
    assert speaking == {"speaking": 1, "ssrc": 1000, "delay": 0}
    assert isinstance(video, dict)
    assert (video["audio_ssrc"], video["video_ssrc"], video["rtx_ssrc"]) == (1000, 1001, 1002)
    [stream] = video["streams"]
    assert stream["active"] is True
    assert stream["max_resolution"] == {"type": "fixed", "width": 160, "height": 120}


async def test_unpublished_video_is_cleared_and_sound_trails_off(
    call: StartCall, eventually: Eventually
) -> None:
    tone, pattern = publication_of(TestTone()), publication_of(TestPattern(160, 120))
    async with call(tone, pattern) as it:
        await it.far.until(lambda: {frame.ssrc for frame in it.far.frames} == {1000, 1001})
        await asyncio.gather(*(it.session.stop(kind) for kind in MediaKind))
        await eventually(lambda: [op for op, _ in it.peer.received].count(12) == 3)
        assert (await it.sent(12))[-1] == {
            "audio_ssrc": 1000,
            "video_ssrc": 0,
            "rtx_ssrc": 0,
            "streams": [],
        }
        await eventually(lambda: it.peer.received[-1][0] == 5 or it.peer.received[-2][0] == 5)
        assert [cast("dict[str, int]", data)["speaking"] for data in await it.sent(5)] == [0, 1, 0]
        await it.session.stop(MediaKind.AUDIO)
    assert tone.counters["silence"] == 5


async def test_another_track_takes_over_without_any_announcement(
    call: StartCall,
) -> None:
    first, second = publication_of(TestTone()), publication_of(TestTone(300))
    async with call(first) as it:
        await it.far.until(lambda: len(it.far.frames) >= 3)
        it.session.start(second)
        await it.far.until(lambda: second.counters.get("sent", 0) >= 3)
        sent = first.counters["sent"]
        await it.far.until(lambda: second.counters["sent"] >= 5)
        assert first.counters["sent"] == sent
        assert len(await it.sent(5)) == 2  # the prologue and the beginning
        ticks = [frame.ticks for frame in it.far.frames]
        assert ticks == sorted(set(ticks))
        [stream] = it.link.stats()[0].inbound
        assert (stream.restarts, stream.cumulative_lost) == (0, 0)


async def test_publishing_and_unpublishing_in_a_row_sends_nothing_any_more(
    call: StartCall, eventually: Eventually
) -> None:
    first, second = publication_of(TestPattern(160, 120)), publication_of(TestPattern(160, 120))
    async with call(first) as it:
        await it.far.until(lambda: len(it.far.frames) >= 1)
        it.session.start(second)
        await it.session.stop(MediaKind.VIDEO)
        sent = first.counters["sent"]
        await asyncio.sleep(0.1)
        assert first.counters["sent"] == sent
        assert "sent" not in second.counters
        await eventually(lambda: it.peer.received[-1][0] == 12)
        assert cast("dict[str, object]", it.peer.received[-1][1])["streams"] == []


async def test_publishing_while_the_old_track_trails_off_takes_over(
    call: StartCall,
) -> None:
    first, second = publication_of(TestTone()), publication_of(TestTone())
    async with call(first) as it:
        await it.far.until(lambda: len(it.far.frames) >= 1)
        stopping = asyncio.ensure_future(it.session.stop(MediaKind.AUDIO))
        await asyncio.sleep(0.03)
        it.session.start(second)
        await stopping
        await it.far.until(lambda: second.counters.get("sent", 0) >= 2)
        speaking = [cast("dict[str, int]", data)["speaking"] for data in await it.sent(5)]
        assert speaking[-1] == 1


async def test_a_track_that_ends_is_told_and_cleared(
    call: StartCall, owner: Owner, eventually: Eventually
) -> None:
    pattern = TestPattern(160, 120)
    async with call(publication_of(pattern)) as it:
        await it.far.until(lambda: len(it.far.frames) >= 1)
        pattern.stop()
        await eventually(lambda: owner.ended == [(MediaKind.VIDEO, None)])
        cleared = {"audio_ssrc": 1000, "video_ssrc": 0, "rtx_ssrc": 0, "streams": []}
        await eventually(lambda: it.peer.received[-1] == (12, cleared))
        await it.session.stop(MediaKind.VIDEO)


@pytest.mark.parametrize("trouble", [ValueError("broken"), ConnectionLost(None, "mine, not yours")])
async def test_a_track_that_fails_ends_alone(
    call: StartCall,
    owner: Owner,
    eventually: Eventually,
    microphone: Track,
    trouble: Exception,
) -> None:
    async with call(publication_of(microphone)) as it:
        microphone.push(trouble)
        await eventually(lambda: owner.ended)
        [(kind, error)] = owner.ended
        assert kind is MediaKind.AUDIO
        assert isinstance(error, MediaError | ConnectionLost)
        assert not it.task.done()


async def test_a_bug_in_a_pipeline_ends_that_pipeline_only(
    call: StartCall,
    owner: Owner,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_self: Publication, _what: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Publication, "count", fail)
    async with call(publication_of(TestTone())) as it:
        await eventually(lambda: owner.ended)
        assert isinstance(owner.ended[0][1], ZeroDivisionError)
        assert not it.task.done()


async def test_video_that_is_not_granted_ends_before_anything_is_asked_of_the_track(
    call: StartCall, owner: Owner, eventually: Eventually, camera: Track
) -> None:
    owner.refusal = VideoNotGranted("no")
    async with call(publication_of(camera)) as it:
        await eventually(lambda: owner.ended == [(MediaKind.VIDEO, owner.refusal)])
        assert camera.asked == 0
        assert not it.task.done()


async def test_starting_on_a_session_that_is_ending_does_nothing(
    call: StartCall, owner: Owner
) -> None:
    late = publication_of(TestTone())
    async with call() as it:
        it.task.cancel()
        await asyncio.wait([it.task])
        it.session.start(late)
        await it.session.stop(MediaKind.AUDIO)
    assert late.counters == {}
    assert owner.ended == []


async def test_keyframe_requests_reach_what_is_published(
    call: StartCall,
) -> None:
    pattern = publication_of(TestPattern(160, 120))
    async with call(pattern) as it:
        await it.far.until(lambda: len(it.far.frames) >= 2)
        it.link.request_keyframe(1001)
        async with asyncio.timeout(3):
            await it.far.until(lambda: sum(frame.keyframe for frame in it.far.frames) >= 2)
        assert len(it.far.frames) < 50  # the regular one would come after 60


# Receiving


async def test_received_media_reaches_the_tracks_and_readers_ask_for_keyframes(
    call: StartCall, owner: Owner, eventually: Eventually,
    opus: Callable[[int], EncodedFrame],
) -> None:  # fmt: skip
    async with call() as it:
        await it.peer.send(5, {"user_id": "5", "ssrc": 2000, "speaking": 1})
        await eventually(lambda: 5 in owner.people.users)
        it.link.add_sender(SenderConfig(2000, Codec.OPUS, 120))
        it.link.send_frame(2000, opus(0))
        user = owner.people.users[5]
        await eventually(lambda: user.speaking)
        assert it.session.receiver.drops["unread"] == 1
    told = await owner.told()
    assert TrackStarted(5, MediaKind.AUDIO, user.microphone) in told
    assert TrackEnded(5, MediaKind.AUDIO) in told
    assert user.microphone.readyState == "live"


# End-to-end encryption


def encrypting(choice: DaveChoice, *, installed: bool = True) -> EncryptionSettings:
    """Settings with a library that joins groups, or with none."""
    factory = (lambda user_id, _: FakeBackend(user_id)) if installed else None
    return EncryptionSettings(choice, factory=factory)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        (encrypting("off"), 'use dave="preferred"'),
        (encrypting("preferred", installed=False), "pip install dave.py"),
        (encrypting("preferred"), "a version that is not supported"),
    ],
)
async def test_a_server_that_requires_encryption_is_answered_with_what_to_do(
    voice_double: StartDouble, owner: Owner, settings: EncryptionSettings, advice: str
) -> None:
    async def script(peer: Peer) -> None:
        await after_identify(peer)
        await peer.close(4017, "E2EE/DAVE protocol required")

    async with voice_double(script) as double:
        error = await until_over(double, owner, encryption=settings)
    assert isinstance(error, DaveUnavailable)
    assert advice in str(error)


async def test_required_does_not_go_on_in_a_call_without_encryption(
    voice_double: StartDouble, owner: Owner
) -> None:
    async with voice_double(stay_live) as double:
        error = await until_over(double, owner, encryption=encrypting("required"))
    assert isinstance(error, DaveUnavailable)
    assert 'dave="preferred" would accept it' in str(error)


async def stay_encrypted(peer: Peer) -> None:
    await peer.live(dave=1)
    await peer.expect(26)


@asynccontextmanager
async def running(session: LiveSession, *tracks: MediaTrack) -> AsyncIterator[list[Publication]]:
    """A session that runs, with these tracks published from the start."""
    made = [publication_of(track) for track in tracks]
    task = asyncio.ensure_future(session.run({it.kind: it for it in made}, Deadlines()))
    try:
        async with asyncio.timeout(5):
            yield made
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()


@pytest.mark.parametrize("message", [(21, {"protocol_version": 0, "transition_id": 4})])
async def test_required_ends_when_the_call_is_about_to_be_downgraded(
    voice_double: StartDouble, owner: Owner, message: tuple[int, object]
) -> None:
    async def script(peer: Peer) -> None:
        await stay_encrypted(peer)
        await peer.send(*message)

    async with voice_double(script) as double:
        error = await until_over(double, owner, encryption=encrypting("required"))
    assert isinstance(error, DaveUnavailable)


async def test_who_is_alone_in_an_encrypted_call_sends_nothing_and_can_leave(
    voice_double: StartDouble,
    owner: Owner,
    media: NegotiatedMedia,
    sink: Sink,
    eventually: Eventually,
) -> None:
    near, far = memory_pair()
    link = MediaLink(far, media, sink, SystemClock())
    async with voice_double(stay_encrypted) as double:
        session = session_of(double.credentials(), owner, near, encryption=encrypting("preferred"))
        async with running(session, TestTone(), TestPattern(320, 240)) as (audio, video):
            await owner.live.wait()
            await eventually(
                lambda: audio.counters.get("held-dropped") and video.counters.get("skipped-e2ee")
            )
            await session.stop(MediaKind.AUDIO)
            assert audio.counters["held-dropped"] == audio.counters["sent"] + audio.counters.get(
                "silence", 0
            )
            assert {queue.name for queue in session.queues()} >= {"held-audio", "held-video"}
    assert owner.privacy == [("pending", None, None)]
    assert sink.frames == []
    assert link.stats()[0].inbound == ()
    link.close()
    await far.aclose()


async def test_a_call_that_is_downgraded_goes_on_in_the_clear_where_that_is_accepted(
    voice_double: StartDouble, owner: Owner, media: NegotiatedMedia, sink: Sink
) -> None:
    async def script(peer: Peer) -> None:
        await stay_encrypted(peer)
        await owner.live.wait()
        await peer.send(21, {"protocol_version": 0, "transition_id": 4})
        assert await peer.expect(23) == {"transition_id": 4}
        assert sink.frames == []
        await peer.send(22, {"transition_id": 4})

    near, far = memory_pair()
    link = MediaLink(far, media, sink, SystemClock())
    async with voice_double(script) as double:
        session = session_of(double.credentials(), owner, near, encryption=encrypting("preferred"))
        async with running(session, TestTone()):
            await sink.until(lambda: len(sink.frames) > 5)
    assert [state for state, _, _ in owner.privacy] == ["pending", "off"]
    link.close()
    await far.aclose()
