"""The public handle of a voice connection."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from discord_rtc.clock import SystemClock
from discord_rtc.connection import call as module
from discord_rtc.connection import encryption_settings as settings_module
from discord_rtc.connection import signaling as signaling_module
from discord_rtc.connection import supervisor as supervisor_module
from discord_rtc.connection.encryption_settings import EncryptionSettings
from discord_rtc.connection.events import (
    E2eeChanged,
    Event,
    Invalidated,
    PublishingEnded,
    StateChanged,
    TrackStarted,
    UserJoined,
    UserLeft,
)
from discord_rtc.connection.options import ConnectionOptions, Timeouts
from discord_rtc.connection.publication import Quality
from discord_rtc.connection.signaling import FixedSignaling, GatewaySignaling
from discord_rtc.connection.voice import VoiceConnection
from discord_rtc.crypto.modes import create_cipher
from discord_rtc.errors import (
    AuthenticationFailed,
    ConnectError,
    ConnectionLost,
    DaveUnavailable,
    InvalidState,
    NotReady,
    SignalingTimeout,
    UsageError,
    VideoNotGranted,
)
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.lab import Lab
from discord_rtc.media.patterns import TestPattern, TestTone
from discord_rtc.protocol.messages import BackendVersion
from discord_rtc.protocol.opcodes import SpeakingFlags
from discord_rtc.protocol.voice import VoiceCredentials
from discord_rtc.server import LocalServer
from discord_rtc.transport.memory import MemoryTransport, memory_pair
from discord_rtc.transport.udp import UdpTransport

from ..protocol.dave.fake_group import EXTERNAL_SENDER, FakeBackend, append, proposal, split

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import av

    from discord_rtc.clock import Clock
    from discord_rtc.connection.events import Subscription
    from discord_rtc.connection.options import DaveChoice
    from discord_rtc.crypto.cipher import TransportCipher
    from discord_rtc.crypto.nonces import Side
    from discord_rtc.protocol.dave.backend import DaveLibrary
    from discord_rtc.transport.base import Transport

    from .conftest import Double, Eventually, Peer, Port, StartDouble, Track

    Script = Callable[[Peer], Awaitable[None]]
    StartRig = Callable[..., AbstractAsyncContextManager["Rig"]]

pytestmark = pytest.mark.asyncio

SMALL = Quality(320, 240, 30, 300_000)


async def stay_live(peer: Peer) -> None:
    await peer.live()


async def silent(peer: Peer) -> None:
    await peer.gone()


async def no_ready(peer: Peer) -> None:
    await peer.hello()


async def no_description(peer: Peer) -> None:
    await peer.hello()
    await peer.ready()


def closing(code: int, before: Script = stay_live) -> Script:
    """A server that closes after a while."""

    async def script(peer: Peer) -> None:
        await before(peer)
        await peer.close(code)

    return script


class Rig:
    """A connection between a fake gateway and a scripted voice server.

    Attributes:
        transports: The far ends of the transports used so far.
        closed: Connections that reported their end.
    """

    def __init__(self, port: Port, double: Double, timeouts: Timeouts) -> None:
        self.port = port
        self.double = double
        self.transports: list[MemoryTransport] = []
        self.closed: list[VoiceConnection] = []
        self.grants_video = True
        port.answer = self._answer
        clock = SystemClock()
        self.voice = VoiceConnection(
            GatewaySignaling(port, 10, clock, timeout=timeouts.signaling),
            ConnectionOptions(transport=self._transport, timeouts=timeouts),
            clock,
            closed=self.closed.append,
        )
        self.events: Subscription[Event] = self.voice.events()

    def _transport(self, _clock: Clock) -> Transport:
        near, far = memory_pair()
        self.transports.append(far)
        return near

    def _answer(self, command: Mapping[str, object]) -> None:
        channel = command["channel_id"]
        if channel is None:
            self.port.state(None)
            return
        video = bool(command["self_video"]) and self.grants_video
        self.port.state(int(str(channel)), self_video=video)
        peers = self.double.peers
        if not peers or peers[-1].close_code is not None:  # as for a join, not a mere update
            self.server()

    def server(self) -> None:
        """Assign the double once more."""
        self.port.server(self.double.endpoint, f"token-{len(self.double.peers)}")

    def received(self, session: int, packets: int) -> bool:
        """Whether more than so many came out of a session's transport."""
        found = self.transports[session : session + 1]
        return any(far.stats().datagrams_received > packets for far in found)

    async def told(self) -> list[Event]:
        """Events since the last time."""
        events, self.events = self.events, self.voice.events()
        events.close()
        return [event async for event in events]

    async def states(self) -> list[str]:
        return [event.state for event in await self.told() if isinstance(event, StateChanged)]


@pytest.fixture
def rig(port: Port, voice_double: StartDouble) -> StartRig:
    """Starts a connection with a scripted server; `connect` is up to the test."""

    @asynccontextmanager
    async def start(*scripts: Script, timeouts: Timeouts | None = None) -> AsyncIterator[Rig]:
        async with voice_double(*(scripts or (stay_live,))) as double:
            rig = Rig(port, double, timeouts or Timeouts(connect=5, signaling=5))
            try:
                yield rig
            finally:
                await rig.voice.aclose()
                assert rig.closed == [rig.voice]
                assert port.handlers == []
                for far in rig.transports:
                    await far.aclose()

    return start


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "BACKOFF_BASE", 0.001)
    monkeypatch.setattr(supervisor_module, "BACKOFF_CAP", 0.002)
    monkeypatch.setattr(supervisor_module, "MOVE_GRACE", 0.1)
    monkeypatch.setattr(signaling_module, "VIDEO_REFUSAL_GRACE", 0.02)
    monkeypatch.setattr(signaling_module, "LEAVE_TIMEOUT", 0.1)


# From new to closed


async def test_a_new_connection_is_nothing_yet(rig: StartRig) -> None:
    async with rig() as it:
        voice = it.voice
        assert (voice.id, voice.state, voice.is_valid) == (7, "new", True)
        assert (voice.transport, voice.codec, voice.e2ee, voice.invalidation) == (
            None, None, "off", None,
        )  # fmt: skip
        assert voice.stats().rtp is None
        assert voice.users == {}
        assert await voice.backend_versions() is None
        assert repr(voice) == "<VoiceConnection of user 7: new, 0 other users>"
        with pytest.raises(InvalidState, match=r"connect\(\) comes first"):
            await voice.ready()
        with pytest.raises(UsageError, match="needs the channel"):
            await voice.connect()
        assert voice.state == "new"


async def test_connecting_ends_when_media_can_flow(rig: StartRig) -> None:
    async with rig() as it:
        async with it.voice as voice:
            assert await voice.connect(20) is voice
            assert (voice.state, voice.transport, voice.codec) == ("connected", "udp", Codec.H264)
            await voice.ready()
            stats = voice.stats()
            assert stats.rtp is not None
            assert {queue.name for queue in stats.queues} >= {"decode", "parking", "pacer"}
            with pytest.raises(InvalidState, match="connected already"):
                await voice.connect(20)
        assert await it.states() == ["connecting", "connected", "closed"]
        assert voice.invalidation == Invalidated("normal", None)
        assert [command["channel_id"] for command in it.port.sent] == ["20", None]
        with pytest.raises(InvalidState, match="closed already"):
            await voice.connect(20)
        with pytest.raises(ConnectionLost, match="was closed"):
            await voice.ready()


async def test_what_happens_before_connecting_can_be_seen(rig: StartRig) -> None:
    async with rig() as it:
        joined = asyncio.ensure_future(it.voice.until(UserJoined, user_id=5))
        arriving = asyncio.ensure_future(it.voice.user(5))
        await it.voice.connect(20)
        await it.double.peers[0].send(11, {"user_ids": ["4", "5"]})
        assert await joined == UserJoined(5)
        assert (await arriving).id == 5
        assert set(it.voice.users) == {4, 5}


async def test_waiting_ends_with_the_connection(rig: StartRig) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        joined = asyncio.ensure_future(it.voice.until(UserJoined))
        arriving = asyncio.ensure_future(it.voice.user(5))
        with pytest.raises(TimeoutError):
            await it.voice.user(5, timeout=0.01)
        await asyncio.sleep(0)
        await it.voice.disconnect()
        with pytest.raises(ConnectionLost, match="before UserJoined came"):
            await joined
        with pytest.raises(ConnectionLost, match="before user 5 came"):
            await arriving
        with pytest.raises(ConnectionLost):
            await it.voice.until(UserJoined)


async def test_every_action_on_an_invalid_connection_is_ignored(
    rig: StartRig, microphone: Track
) -> None:
    async with rig() as it:
        voice = it.voice
        await voice.aclose()
        await voice.publish(microphone=microphone)
        await voice.replace_track(microphone=microphone)
        await voice.unpublish()
        await voice.update_voice_state(self_mute=True)
        assert await voice.backend_versions() is None
        await voice.disconnect()
        assert microphone.asked == 0
        assert it.port.sent == []
        assert it.closed == [voice]


# Connecting that fails


async def test_a_voice_server_that_is_not_there_is_tried_five_times(
    rig: StartRig, unused_tcp_port: int
) -> None:
    async with rig() as it:
        it.double.endpoint = f"127.0.0.1:{unused_tcp_port}"
        with pytest.raises(ConnectError, match="cannot reach the voice server"):
            await it.voice.connect(20)
        assert [command["channel_id"] for command in it.port.sent] == ["20"] * 5 + [None]
        told = await it.told()
        [over] = [event for event in told if isinstance(event, Invalidated)]
        assert over.reason == "ConnectError"
        assert over is it.voice.invalidation
        assert told[-1] is over
        with pytest.raises(ConnectError):
            await it.voice.ready()


async def test_a_gateway_that_does_not_answer_is_told_at_once(rig: StartRig) -> None:
    async with rig(timeouts=Timeouts(signaling=0.02)) as it:
        it.port.answer = None
        with pytest.raises(SignalingTimeout, match="is the channel full"):
            await it.voice.connect(20)
        assert it.double.peers == []


@pytest.mark.parametrize("script", [silent, no_ready, no_description])
async def test_a_server_that_falls_silent_fails_the_connection(
    rig: StartRig, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "MAX_ATTEMPTS", 2)
    async with rig(script, timeouts=Timeouts(signaling=0.05)) as it:
        with pytest.raises(SignalingTimeout, match="did not send"):
            await it.voice.connect(20)
        assert len(it.double.peers) == 2


async def test_a_refused_token_is_final(rig: StartRig) -> None:
    async with rig(closing(4004, no_ready)) as it:
        with pytest.raises(AuthenticationFailed):
            await it.voice.connect(20)
        assert len(it.double.peers) == 1
        assert it.voice.state == "closed"


@pytest.mark.parametrize("script", [silent, no_ready, no_description])
async def test_connecting_can_be_cancelled_in_any_phase(
    rig: StartRig, eventually: Eventually, script: Script
) -> None:
    async with rig(script) as it:
        connecting = asyncio.ensure_future(it.voice.connect(20))
        await eventually(lambda: it.double.peers)
        await asyncio.sleep(0.01)
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()
        assert it.voice.invalidation == Invalidated("normal", None)
        assert it.port.sent[-1]["channel_id"] is None


async def test_connecting_can_be_cancelled_before_anything_happened(rig: StartRig) -> None:
    async with rig() as it:
        it.port.answer = None
        connecting = asyncio.ensure_future(it.voice.connect(20))
        await asyncio.sleep(0)
        connecting.cancel()
        await asyncio.wait([connecting])
        assert it.voice.state == "closed"


async def test_closing_while_somebody_connects_ends_the_wait(
    rig: StartRig, eventually: Eventually
) -> None:
    async with rig(no_ready) as it:
        connecting = asyncio.ensure_future(it.voice.connect(20))
        await eventually(lambda: it.double.peers)
        await it.voice.aclose()
        with pytest.raises(ConnectionLost, match="the connection was closed"):
            await connecting


async def test_a_transport_factory_with_a_bug_ends_the_connection_not_the_wait(
    rig: StartRig, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_clock: Clock) -> Transport:
        raise ZeroDivisionError

    async with rig() as it:
        clock = SystemClock()
        voice = VoiceConnection(
            GatewaySignaling(it.port, 10, clock), ConnectionOptions(transport=fail), clock
        )
        with pytest.raises(ZeroDivisionError):
            await voice.connect(20)
        assert voice.state == "closed"
        assert "a bug ended the connection" in caplog.text


# Closing


async def test_closing_is_idempotent_and_every_caller_waits_for_it(rig: StartRig) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        await asyncio.gather(it.voice.aclose(), it.voice.aclose(), it.voice.disconnect())
        [peer] = it.double.peers
        await peer.gone()
        assert peer.close_code == 1000
        assert len(it.port.sent) == 2
        await it.voice.aclose()


async def test_closing_that_is_cancelled_closes_all_the_same(
    rig: StartRig, eventually: Eventually
) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        closing = asyncio.ensure_future(it.voice.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await eventually(lambda: it.voice.state == "closed")


async def test_closing_hears_the_gateways_word_even_if_the_session_ends_before_it(
    rig: StartRig, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signaling_module, "LEAVE_TIMEOUT", 5)
    async with rig() as it:
        await it.voice.connect(20)
        it.port.answer = None  # the gateway takes its time
        closing = asyncio.ensure_future(it.voice.aclose())
        await eventually(lambda: it.port.sent[-1]["channel_id"] is None)
        await it.double.peers[0].close(4006)
        await eventually(lambda: it.voice.transport is None)
        await asyncio.sleep(0.02)  # for whatever the end of the session sets off
        it.port.state(None)
        async with asyncio.timeout(1):
            await closing
        assert it.voice.invalidation == Invalidated("normal", None)


async def test_closing_does_not_wait_for_a_gateway_that_hangs(
    rig: StartRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_DEADLINE", 0.1)

    async def hang(opcode: int, data: Mapping[str, object]) -> None:
        del opcode, data
        await asyncio.Event().wait()

    async with rig() as it:
        await it.voice.connect(20)
        it.port.send = hang  # type: ignore[method-assign]  # an adapter that hangs
        await it.voice.aclose()
        assert it.voice.state == "closed"


async def test_closing_from_within_a_published_track_does_not_hang(
    rig: StartRig, eventually: Eventually
) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        voice = it.voice

        class Closer(TestTone):
            async def recv(self) -> av.AudioFrame:
                await voice.aclose()
                raise AssertionError("closing cancels whoever is being waited for")

        await voice.publish(microphone=Closer())
        await eventually(lambda: voice.state == "closed")


# Sessions that end


async def test_a_session_that_ends_is_replaced_and_users_stay(
    rig: StartRig, eventually: Eventually
) -> None:
    async def first(peer: Peer) -> None:
        await peer.live()
        await peer.send(11, {"user_ids": ["4", "5"]})
        await peer.expect(16)
        await peer.close(4006)

    async def second(peer: Peer) -> None:
        await peer.live()
        await peer.send(11, {"user_ids": ["5", "6"]})

    async with rig(first, second) as it:
        await it.voice.connect(20)
        user = await it.voice.user(5)
        with pytest.raises(ConnectionLost, match="before the server told its versions"):
            await it.voice.backend_versions()
        await eventually(lambda: set(it.voice.users) == {5, 6})
        assert it.voice.users[5] is user
        assert user.camera.readyState == "live"
        told = await it.told()
        assert [event.state for event in told if isinstance(event, StateChanged)] == [
            "connecting", "connected", "reconnecting", "connected",
        ]  # fmt: skip
        assert [event for event in told if isinstance(event, UserJoined | UserLeft)] == [
            UserJoined(4), UserJoined(5), UserLeft(4), UserJoined(6),
        ]  # fmt: skip


async def test_what_is_published_goes_on_in_the_next_session(
    rig: StartRig, eventually: Eventually
) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        await it.voice.publish(microphone=TestTone(), camera=TestPattern(160, 120), quality=SMALL)
        for number in range(2):
            await eventually(partial(it.received, number, 10))
            await it.double.peers[number].close(4006)
        await eventually(lambda: len(it.double.peers) == 3)
        assert not [e for e in await it.told() if isinstance(e, PublishingEnded)]


async def test_what_is_published_while_reconnecting_begins_then(
    rig: StartRig, eventually: Eventually
) -> None:
    released = asyncio.Event()

    async def second(peer: Peer) -> None:
        await released.wait()
        await peer.live()

    async with rig(stay_live, second) as it:
        await it.voice.connect(20)
        await it.double.peers[0].close(4006)
        await eventually(lambda: it.voice.state == "reconnecting")
        await it.voice.publish(microphone=TestTone())
        released.set()
        await it.voice.ready()
        await eventually(lambda: it.voice.stats().published[MediaKind.AUDIO].get("sent", 0) > 1)


async def test_another_assignment_brings_a_new_session_and_media_goes_on(
    rig: StartRig, eventually: Eventually
) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        await it.voice.publish(microphone=TestTone())
        it.server()
        await eventually(partial(it.received, 1, 5))
        old, new = it.double.peers
        await eventually(lambda: old.close_code == 1000)
        assert new.close_code is None
        assert len([c for c in it.port.sent if c["channel_id"] is not None]) == 1


@pytest.mark.parametrize("first", ["socket", "gateway"])
async def test_a_move_is_followed_whichever_socket_tells_it_first(
    rig: StartRig, eventually: Eventually, first: str
) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        if first == "socket":
            await it.double.peers[0].close(4014)
            await eventually(lambda: it.voice.state == "reconnecting")
        it.port.state(21)
        it.server()
        await eventually(lambda: len(it.double.peers) == 2)
        if first == "gateway":
            await it.double.peers[0].close(4014)
        await it.voice.ready()
        await eventually(lambda: it.voice.state == "connected")
        assert it.voice.is_valid


@pytest.mark.parametrize("first", ["socket", "gateway"])
async def test_a_kick_ends_the_connection_whichever_socket_tells_it_first(
    rig: StartRig, eventually: Eventually, first: str
) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        if first == "socket":
            await it.double.peers[0].close(4014)
            await eventually(lambda: it.voice.state == "reconnecting")
        it.port.state(None)
        await eventually(lambda: not it.voice.is_valid)
        assert it.voice.invalidation is not None
        error = it.voice.invalidation.error
        assert isinstance(error, ConnectionLost)
        assert error.close_code == 4014
        assert len(it.double.peers) == 1


async def test_a_server_that_went_away_is_waited_for(rig: StartRig, eventually: Eventually) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        it.port.server(None)
        await eventually(lambda: it.voice.state == "reconnecting")
        await eventually(lambda: it.double.peers[0].close_code == 1000)
        await asyncio.sleep(0.02)
        assert len(it.double.peers) == 1
        it.server()
        await it.voice.ready()
        assert len(it.port.sent) == 1


async def test_a_final_close_leaves_the_channel(rig: StartRig, eventually: Eventually) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        await it.double.peers[0].close(4016)
        await eventually(lambda: not it.voice.is_valid)
        assert it.port.sent[-1]["channel_id"] is None
        assert await it.states() == ["connecting", "connected", "closed"]


# Publishing


async def test_what_is_published_before_connecting_is_kept(
    rig: StartRig, eventually: Eventually
) -> None:
    async with rig() as it:
        await it.voice.publish(
            microphone=TestTone(), camera=TestPattern(160, 120), quality=SMALL,
            speaking=SpeakingFlags.SOUNDSHARE,
        )  # fmt: skip
        await it.voice.connect(20)
        await eventually(
            lambda: all(it.voice.stats().published[kind].get("sent", 0) > 1 for kind in MediaKind)
        )
        [peer] = it.double.peers
        await eventually(lambda: (5, {"speaking": 2, "ssrc": 1000, "delay": 0}) in peer.received)


async def test_a_track_of_the_wrong_kind_is_refused(rig: StartRig) -> None:
    async with rig() as it:
        with pytest.raises(UsageError, match="of kind video is needed here, not audio"):
            await it.voice.publish(camera=TestTone())


async def test_video_that_is_not_granted_is_an_error_of_publish(rig: StartRig) -> None:
    async with rig() as it:
        it.grants_video = False
        await it.voice.connect(20)
        with pytest.raises(VideoNotGranted):
            await it.voice.publish(camera=TestPattern(160, 120))
        assert it.voice.stats().published == {}


async def test_video_published_too_early_to_raise_ends_with_an_event(rig: StartRig) -> None:
    async with rig() as it:
        it.grants_video = False
        await it.voice.publish(camera=TestPattern(160, 120))
        events = it.voice.events(PublishingEnded)
        await it.voice.connect(20)
        async with asyncio.timeout(2):
            ended = await anext(events)
        assert ended.kind is MediaKind.VIDEO
        assert isinstance(ended.error, VideoNotGranted)
        assert it.voice.is_valid
        assert it.voice.stats().published == {}


async def test_unpublishing_takes_the_camera_symbol_away(
    rig: StartRig, eventually: Eventually
) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        await it.voice.publish(camera=TestPattern(160, 120), microphone=TestTone())
        assert it.port.sent[-1]["self_video"] is True
        await it.voice.unpublish("camera")
        assert it.port.sent[-1]["self_video"] is False
        assert set(it.voice.stats().published) == {MediaKind.AUDIO}
        await it.voice.unpublish()
        await it.voice.unpublish()
        assert it.voice.stats().published == {}


async def test_a_camera_that_ends_takes_its_symbol_away(
    rig: StartRig, eventually: Eventually
) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        pattern = TestPattern(160, 120)
        await it.voice.publish(camera=pattern)
        pattern.stop()
        assert await it.voice.until(PublishingEnded) == PublishingEnded(MediaKind.VIDEO, None)
        assert it.port.sent[-1]["self_video"] is False
        await it.voice.publish(camera=TestPattern(160, 120))
        assert it.port.sent[-1]["self_video"] is True
        await eventually(lambda: it.voice.stats().published[MediaKind.VIDEO].get("sent"))


async def test_replacing_needs_something_to_replace_and_keeps_its_settings(
    rig: StartRig, eventually: Eventually
) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        with pytest.raises(InvalidState, match="no audio is published"):
            await it.voice.replace_track(microphone=TestTone())
        await it.voice.publish(microphone=TestTone(), speaking=SpeakingFlags.PRIORITY)
        await it.voice.replace_track(microphone=TestTone(300))
        await eventually(lambda: it.voice.stats().published[MediaKind.AUDIO].get("sent", 0) > 1)
        [peer] = it.double.peers
        await eventually(lambda: (5, {"speaking": 4, "ssrc": 1000, "delay": 0}) in peer.received)


async def test_joining_muted_sends_nothing_until_unmuted(
    rig: StartRig, eventually: Eventually
) -> None:
    async with rig() as it:
        await it.voice.publish(microphone=TestTone())
        await it.voice.connect(20, self_mute=True, self_deaf=True)
        assert (it.port.sent[0]["self_mute"], it.port.sent[0]["self_deaf"]) == (True, True)

        def counters() -> Mapping[str, int]:
            return it.voice.stats().published[MediaKind.AUDIO]

        await eventually(lambda: counters().get("skipped-muted", 0) > 2)
        assert "sent" not in counters()
        await it.voice.update_voice_state(self_mute=False)
        assert (it.port.sent[-1]["self_mute"], it.port.sent[-1]["self_deaf"]) == (False, True)
        await eventually(lambda: counters().get("sent", 0) > 0)
        await it.voice.update_voice_state(self_deaf=False)
        await it.voice.update_voice_state(self_mute=True)
        await it.voice.publish(microphone=TestTone())
        await eventually(lambda: counters().get("skipped-muted", 0) > 1)
        assert "sent" not in counters()


async def test_a_failing_track_is_told_and_the_call_goes_on(
    rig: StartRig, microphone: Track
) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        await it.voice.publish(microphone=microphone)
        microphone.push(OSError("unplugged"))
        ended = await it.voice.until(PublishingEnded)
        assert "unplugged" in str(ended.error)
        assert it.voice.state == "connected"


async def test_publishing_while_the_session_ends_is_kept_for_the_next_one(
    rig: StartRig, eventually: Eventually
) -> None:
    async with rig() as it:
        await it.voice.connect(20)
        it.port.answer = None
        publishing = asyncio.ensure_future(it.voice.publish(camera=TestPattern(160, 120)))
        await eventually(lambda: it.port.sent[-1]["self_video"] is True)
        it.server()  # a new session while the gateway thinks about the camera
        await eventually(lambda: len(it.double.peers) == 2)
        await it.voice.ready()
        it.port.state(20, self_video=True)
        await publishing
        await eventually(lambda: it.voice.stats().published[MediaKind.VIDEO].get("sent", 0) > 1)


async def test_backend_versions_are_asked_for(rig: StartRig) -> None:
    async def script(peer: Peer) -> None:
        await peer.live()
        await peer.expect(16)
        await peer.send(16, {"voice": "0.11", "rtc_worker": "0.3"})
        await peer.expect(16)

    async with rig(script, timeouts=Timeouts(signaling=0.2)) as it:
        await it.voice.connect(20)
        assert await it.voice.backend_versions() == BackendVersion("0.11", "0.3")
        with pytest.raises(SignalingTimeout, match="versions"):
            await it.voice.backend_versions()


# Without a gateway


async def test_credentials_are_good_for_one_session(voice_double: StartDouble) -> None:
    async with voice_double(stay_live) as double:
        voice = VoiceConnection(
            FixedSignaling(double.credentials()),
            ConnectionOptions(transport=lambda _: memory_pair()[0]),
            SystemClock(),
        )
        await voice.connect()
        await voice.publish(camera=TestPattern(160, 120))
        await voice.unpublish("camera")
        with pytest.raises(UsageError, match="self_mute is set on the main gateway"):
            await voice.update_voice_state(self_mute=True)
        over = asyncio.ensure_future(voice.until(Invalidated))
        await asyncio.sleep(0)
        await double.peers[0].close(4014)
        async with asyncio.timeout(1):
            error = (await over).error
        assert isinstance(error, ConnectionLost)
        assert error.close_code == 4014


async def test_a_senseless_endpoint_is_named() -> None:
    credentials = VoiceCredentials("http://voice.example", "t", "s", 7, 10)
    voice = VoiceConnection(FixedSignaling(credentials), ConnectionOptions(), SystemClock())
    with pytest.raises(UsageError, match="ws:// or wss://"):
        await voice.connect()


# Over real sockets


def short_lived(packets: int) -> Callable[[Clock], Transport]:
    """Makes transports, the first of which can send only so many packets with its key."""
    made: list[UdpTransport] = []

    def cipher(mode: str, key: bytes, *, side: Side) -> TransportCipher:
        cipher = create_cipher(mode, key, side=side, first_nonce=0x7FFF_FFFF - packets)
        cipher.protect_rtcp(bytes(8))
        return cipher

    def make(clock: Clock) -> Transport:
        factory = create_cipher if made else cipher
        made.append(UdpTransport(clock, cipher_factory=factory))
        return made[-1]

    return make


async def reconnected(voice: VoiceConnection, states: Subscription[StateChanged]) -> None:
    async with asyncio.timeout(5):
        assert (await anext(states)).state == "reconnecting"
        assert (await anext(states)).state == "connected"
    assert voice.is_valid


async def test_a_sender_whose_key_is_used_up_gets_a_fresh_one_and_media_goes_on() -> None:
    async with Lab(LocalServer()) as lab:
        ann, bob = await lab.user("ann", short_lived(25)), await lab.user("bob")
        states = ann.events(StateChanged)
        await ann.publish(microphone=TestTone(), camera=TestPattern(160, 120), quality=SMALL)
        await reconnected(ann, states)
        returned = asyncio.ensure_future(bob.until(TrackStarted, kind=MediaKind.VIDEO))
        async with asyncio.timeout(2):
            user = await bob.user(ann.id)
            await user.microphone.recv()
            await returned


async def test_a_receiver_whose_key_is_used_up_gets_a_fresh_one_and_media_goes_on(
    eventually: Eventually,
) -> None:
    async with Lab(LocalServer()) as lab:
        ann, bob = await lab.user("ann"), await lab.user("bob", short_lived(0))
        states = bob.events(StateChanged)
        await ann.publish(camera=TestPattern(160, 120), quality=SMALL)
        user = await bob.user(ann.id, timeout=2)
        await eventually(lambda: bob.stats().drops.get("unread"))
        with user.camera.reader() as reader:  # asks for a keyframe, which has to be sent
            await reconnected(bob, states)
            async with asyncio.timeout(2):
                await reader.recv()
        assert bob.users[ann.id] is user


async def test_a_move_by_a_moderator_takes_the_media_along() -> None:
    async with Lab(LocalServer()) as lab:
        ann = await lab.user("ann")
        bob = await lab.user("bob", channel_id=21)
        cat = await lab.user("cat")
        await ann.user(cat.id, timeout=2)
        await ann.publish(microphone=TestTone())
        lab.server.move(ann.id, 10, 21)
        user = await bob.user(ann.id, timeout=2)
        async with asyncio.timeout(2):
            await user.microphone.recv()
        assert set(ann.users) == {bob.id}
        assert cat.users == {}
        assert ann.state == "connected"


# End-to-end encryption


def credentials_of(double: Double, *, channel_id: int | None = 20) -> VoiceCredentials:
    return VoiceCredentials(double.endpoint, "token", "session", 7, 10, channel_id)


async def joined(
    double: Double, options: ConnectionOptions, *, channel_id: int | None = 20
) -> VoiceConnection:
    """A connection with fixed credentials."""
    signaling = FixedSignaling(credentials_of(double, channel_id=channel_id), secure=False)
    return await VoiceConnection(signaling, options, SystemClock()).connect()


def over_memory(dave: DaveChoice, library: DaveLibrary | None = None) -> ConnectionOptions:
    return ConnectionOptions(transport=lambda _: memory_pair()[0], dave=dave, dave_library=library)


@pytest.mark.parametrize(
    ("dave", "channel_id", "version"),
    [("off", 20, 0), ("preferred", 20, 1), ("required", 20, 1), ("preferred", None, 0)],
)
async def test_identify_tells_what_was_chosen(
    voice_double: StartDouble, dave: DaveChoice, channel_id: int | None, version: int
) -> None:
    async def script(peer: Peer) -> None:
        await peer.live(dave=version)

    async with voice_double(script) as double:
        async with await joined(double, over_memory(dave), channel_id=channel_id) as voice:
            assert voice.e2ee == ("pending" if version else "off")
        identify = next(data for opcode, data in double.peers[0].received if opcode == 0)
    assert isinstance(identify, dict)
    assert identify.get("max_dave_protocol_version", 0) == version


async def test_required_without_a_channel_id_is_told_before_anything_is_sent(
    voice_double: StartDouble,
) -> None:
    async with voice_double(stay_live) as double:
        with pytest.raises(UsageError, match="channel_id"):
            await joined(double, over_memory("required"), channel_id=None)
        assert double.peers == []


async def test_required_without_a_library_is_told_at_once(
    voice_double: StartDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "available", tuple)
    async with voice_double(stay_live) as double:
        with pytest.raises(DaveUnavailable, match=r"pip install dave\.py"):
            await joined(double, over_memory("required"))
        assert double.peers == []


async def test_an_identity_key_that_cannot_be_used_is_told_without_joining(
    port: Port, tmp_path: Path
) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(b"nonsense")
    file.chmod(0o600)
    options = ConnectionOptions(dave="preferred", identity=file)
    voice = VoiceConnection(GatewaySignaling(port, 10, SystemClock()), options, SystemClock())
    with pytest.raises(UsageError, match="no identity key"):
        await voice.connect(20)
    assert [command for command in port.sent if command["channel_id"]] == []
    assert not voice.is_valid


async def test_two_who_meet_are_encrypted_see_one_code_and_can_verify_each_other(
    tmp_path: Path,
) -> None:
    options = ConnectionOptions(transport="udp", dave="required", identity=tmp_path / "key.pem")
    async with Lab(LocalServer(dave="required")) as lab:
        ann = await lab.user("ann", options=options)
        async with ann.events(E2eeChanged) as changes:
            assert (ann.e2ee, ann.privacy_code) == ("pending", None)
            bob = await lab.user("bob", options=replace(options, identity=None))
            change = await anext(changes)
            assert (change.state, change.privacy_code) == ("active", ann.privacy_code)
        await bob.secured(timeout=5)
        assert ann.privacy_code == bob.privacy_code
        assert len(ann.privacy_code or "") == 30
        theirs = await (await ann.user(bob.id)).fingerprint()
        assert theirs == await (await bob.user(ann.id)).fingerprint()
        assert (len(theirs), theirs.isdecimal()) == (45, True)
        stats = ann.stats().dave
        assert stats is not None
        assert (stats.state, stats.version, stats.members) == ("active", 1, {ann.id, bob.id})
        late = ann.users[bob.id]
    assert (ann.e2ee, ann.privacy_code, ann.stats().dave) == ("off", None, None)
    with pytest.raises(NotReady):
        await late.fingerprint()


@pytest.mark.parametrize("libraries", [("dave.py", "davey"), ("davey", "dave.py")])
async def test_who_somebody_is_outlasts_groups_sessions_and_channels(
    libraries: tuple[DaveLibrary, DaveLibrary], eventually: Eventually
) -> None:
    def using(library: DaveLibrary) -> ConnectionOptions:
        return ConnectionOptions(transport="udp", dave="required", dave_library=library)

    async with Lab(LocalServer(dave="required")) as lab:
        ann = await lab.user("ann", options=using(libraries[0]))
        bob = await lab.user("bob", options=using(libraries[1]))
        client = await lab.client("bob")

        async def seen() -> str:
            await asyncio.gather(ann.secured(timeout=5), bob.secured(timeout=5))
            await eventually(lambda: ann.privacy_code == bob.privacy_code is not None)
            return await (await ann.user(bob.id)).fingerprint()

        def recoveries() -> int:
            groups = [each.stats().dave for each in (ann, bob)]
            return sum(group.counters.get("recovered", 0) for group in groups if group)

        first = await seen()
        # Alone, so that the group is given up; then together again.
        await bob.disconnect()
        await eventually(lambda: ann.e2ee == "pending")
        bob = await client.join(10, 20, options=using(libraries[1]))
        assert await seen() == first
        # A commit or welcome that is damaged: op 31.
        await bob.disconnect()
        await eventually(lambda: ann.e2ee == "pending")
        lab.server.faults.dave.corrupt_welcome()
        lab.server.faults.dave.corrupt_commit()
        bob = await client.join(10, 20, options=using(libraries[1]))
        assert await seen() == first
        assert recoveries()
        # Another channel.
        lab.server.move(ann.id, 10, 21)
        lab.server.move(bob.id, 10, 21)
        await eventually(lambda: ann.e2ee == bob.e2ee == "pending")
        assert await seen() == first
        # Another client is somebody else.
        await lab.leave("bob")
        bob = await lab.user("bob", channel_id=21, options=using(libraries[1]))
        assert await seen() != first


async def test_being_secured_waits_for_the_connection_and_ends_with_it(rig: StartRig) -> None:
    async with rig() as it:
        voice = it.voice
        with pytest.raises(InvalidState):
            await voice.secured()
        connecting = asyncio.create_task(voice.connect(20))
        await asyncio.sleep(0)
        assert voice.state == "connecting"
        assert await voice.secured(timeout=5) == "off"
        assert voice.state == "connected"
        await connecting
        await voice.aclose()
        with pytest.raises(ConnectionLost):
            await voice.secured()


async def test_the_end_of_a_connection_ends_its_encryption_and_says_so() -> None:
    async with Lab(LocalServer(dave="required")) as lab:
        ann, _bob = await lab.users(ann="udp", bob="udp")
        changes = ann.events(E2eeChanged)
        await lab.leave("ann")
        assert [change.state async for change in changes] == ["off"]


async def test_while_a_session_is_replaced_encryption_is_pending(
    voice_double: StartDouble, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(settings: EncryptionSettings, user_id: int, group_id: int | None) -> FakeBackend:
        del settings, group_id
        return FakeBackend(user_id)

    monkeypatch.setattr(EncryptionSettings, "make_backend", make)

    async def encrypted(peer: Peer) -> None:
        await peer.live(dave=1)
        package = await peer.expect(26)
        assert isinstance(package, bytes)
        other = FakeBackend(5)
        other.set_external_sender(EXTERNAL_SENDER)
        other.begin(1)
        made = other.process_proposals(append(proposal(0, add=package)), frozenset({5, 7}))
        assert made is not None
        _, welcome = split(made)
        assert welcome is not None
        await peer.send(11, {"user_ids": ["5", "7"]})
        await peer.send_raw(b"\0\1\x19" + EXTERNAL_SENDER)
        await peer.send_raw(b"\0\2\x1e\0\0" + welcome)

    async with voice_double(encrypted, stay_live) as double:

        def answer(command: Mapping[str, object]) -> None:
            channel = command["channel_id"]
            port.state(None if channel is None else int(str(channel)))
            if channel is not None:
                port.server(double.endpoint)

        port.answer = answer
        options = over_memory("preferred")
        voice = VoiceConnection(GatewaySignaling(port, 10, SystemClock()), options, SystemClock())
        async with asyncio.timeout(5), voice, voice.events(E2eeChanged) as changes:
            await voice.connect(20)
            states = [(await anext(changes)).state for _ in range(2)]
            port.server(double.endpoint, "another")  # the call moves to another server
            states += [(await anext(changes)).state for _ in range(2)]
            assert states == ["pending", "active", "pending", "off"]
            assert voice.e2ee == "off"
