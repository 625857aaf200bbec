"""The WebSocket shell of the voice gateway, against a scripted server."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from discord_rtc.clock import SystemClock
from discord_rtc.connection.gateway import OUTBOX_BOUND, VoiceGateway, voice_url
from discord_rtc.errors import ConnectError, ConnectionLost, SignalingTimeout, UsageError
from discord_rtc.protocol.messages import ClientsConnect, SelectProtocol, Speaking
from discord_rtc.protocol.voice import (
    Described,
    Greeted,
    HeartbeatAnswered,
    HeartbeatMissed,
    ReadyReceived,
    Received,
    ResumeFailed,
    SessionResumed,
    TimedOut,
    VoiceCredentials,
    VoiceOptions,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from discord_rtc.protocol.voice import VoiceEvent

    from .conftest import Eventually, Peer, StartDouble

pytestmark = pytest.mark.asyncio

SELECT = SelectProtocol("udp", "127.0.0.1", 9, "aead_aes256_gcm_rtpsize")


class Handler:
    """Keeps events; a test may answer them."""

    def __init__(self) -> None:
        self.events: list[VoiceEvent] = []
        self.opened = 0
        self.answer: Callable[[VoiceEvent], None] = lambda _: None

    def socket_open(self) -> None:
        self.opened += 1

    def voice_event(self, event: VoiceEvent) -> None:
        self.events.append(event)
        self.answer(event)

    def kinds(self) -> list[type[VoiceEvent]]:
        return [type(event) for event in self.events]


@pytest.fixture
def handler() -> Handler:
    return Handler()


def gateway(
    credentials: VoiceCredentials,
    handler: Handler,
    *,
    timeout: float = 5.0,
    resume_timeout: float = 15.0,
) -> VoiceGateway:
    options = VoiceOptions(timeout=timeout, resume_timeout=resume_timeout)
    return VoiceGateway(credentials, options, secure=False, handler=handler, clock=SystemClock())


class Running:
    """A gateway that runs in a task."""

    def __init__(self, it: VoiceGateway) -> None:
        self.task = asyncio.ensure_future(it.run(5))

    async def __aenter__(self) -> asyncio.Task[None]:
        return self.task

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        if not self.task.cancelled():
            self.task.exception()


def answering(it: VoiceGateway, handler: Handler) -> None:
    """Select a protocol as soon as the server is ready."""

    def answer(event: VoiceEvent) -> None:
        if isinstance(event, ReadyReceived):
            it.select_protocol(SELECT)

    handler.answer = answer


# Addresses


@pytest.mark.parametrize(
    ("endpoint", "secure", "url"),
    [
        ("voice.example", True, "wss://voice.example/?v=8"),
        ("voice.example:2087", True, "wss://voice.example:2087/?v=8"),
        ("voice.example:80", False, "ws://voice.example:80/?v=8"),
        ("ws://127.0.0.1:5", True, "ws://127.0.0.1:5/?v=8"),
        ("wss://voice.example/", False, "wss://voice.example/?v=8"),
        ("[::1]:7", False, "ws://[::1]:7/?v=8"),
    ],
)
async def test_an_endpoint_is_kept_verbatim(endpoint: str, secure: bool, url: str) -> None:
    assert voice_url(endpoint, 8, secure=secure) == url


@pytest.mark.parametrize("endpoint", ["", "http://x", "x:y", "x:99999", "://", "ws://", "[::1"])
async def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError, match="endpoint"):
        voice_url(endpoint, 8, secure=True)


# The way to being live


async def test_a_session_comes_up_and_keeps_its_order(
    voice_double: StartDouble, handler: Handler, eventually: Eventually
) -> None:
    async def script(peer: Peer) -> None:
        await peer.live()
        await peer.send(11, {"user_ids": ["1"]})

    async with voice_double(script) as double:
        it = gateway(double.credentials(), handler)
        answering(it, handler)
        it.send(Speaking(1, 1000, delay=0))  # kept until live
        async with Running(it):
            await eventually(lambda: len(handler.events) == 4)
            [peer] = double.peers
            await eventually(lambda: [op for op, _ in peer.received] == [0, 1, 5, 12, 5])
    assert handler.kinds() == [Greeted, ReadyReceived, Described, Received]
    last = handler.events[-1]
    assert isinstance(last, Received)
    assert last.message == ClientsConnect((1,))


async def test_events_that_answer_events_are_not_nested(
    voice_double: StartDouble, handler: Handler, eventually: Eventually
) -> None:
    depth = 0

    async def script(peer: Peer) -> None:
        await peer.live()

    async with voice_double(script) as double:
        it = gateway(double.credentials(), handler)

        def answer(event: VoiceEvent) -> None:
            nonlocal depth
            depth += 1
            assert depth == 1
            if isinstance(event, ReadyReceived):
                it.send(Speaking(1, 1000))
                it.select_protocol(SELECT)
            depth -= 1

        handler.answer = answer
        async with Running(it):
            await eventually(lambda: Described in handler.kinds())


async def test_heartbeats_are_sent_and_answered(
    voice_double: StartDouble, handler: Handler, eventually: Eventually
) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello(interval_ms=20)
        for _ in range(3):
            data = await peer.expect(3)
            assert isinstance(data, dict)
            await peer.send(6, {"t": data["t"]})

    async with voice_double(script) as double, Running(gateway(double.credentials(), handler)):
        await eventually(lambda: handler.kinds().count(HeartbeatAnswered) == 3)


async def test_binary_frames_do_no_harm(
    voice_double: StartDouble, handler: Handler, eventually: Eventually
) -> None:
    async def script(peer: Peer) -> None:
        await peer.send_raw(b"\x00\x01\x63junk")
        await peer.hello()

    async with voice_double(script) as double, Running(gateway(double.credentials(), handler)):
        await eventually(lambda: Greeted in handler.kinds())


# Websockets that are lost while live


async def resume(peer: Peer) -> None:
    """Resume the session, with one message that was missed."""
    await peer.hello()
    data = await peer.expect(7)
    assert isinstance(data, dict)
    assert (data["server_id"], data["session_id"]) == ("10", "session")
    await peer.send(9, None)
    await peer.send(11, {"user_ids": ["1"]})


async def forgotten(peer: Peer) -> None:
    """The server knows nothing of the session any more."""
    await peer.close(4006, "gone")


async def live_then_aborted(peer: Peer) -> None:
    await peer.live()
    await peer.expect(12)
    peer.abort()


@pytest.mark.parametrize("code", [None, 1001, 4015])
async def test_a_live_session_goes_on_over_another_websocket(
    voice_double: StartDouble,
    handler: Handler,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
    code: int | None,
) -> None:
    caplog.set_level(logging.INFO, "discord_rtc")

    async def script(peer: Peer) -> None:
        await peer.live()
        await peer.expect(12)
        if code is None:
            peer.abort()
        else:
            await peer.close(code)

    async with voice_double(script, resume) as double:
        it = gateway(double.credentials(), handler)
        answering(it, handler)
        async with Running(it) as task:
            await eventually(lambda: Received in handler.kinds())
            it.send(Speaking(1, 1000, delay=0))
            again = double.peers[1]
            await eventually(lambda: [op for op, _ in again.received] == [7, 5, 12, 3, 5])
            assert not task.done()
    assert handler.opened == 1
    assert it.counters == {"resumes": 1, "resume-failures": 0}
    assert handler.kinds()[2:] == [Described, SessionResumed, Received]
    said = [record.getMessage() for record in caplog.records]
    assert any("the voice websocket was lost" in message for message in said)
    assert any("the voice session was resumed after" in message for message in said)


async def test_what_is_sent_without_a_websocket_is_sent_on_the_next(
    voice_double: StartDouble, handler: Handler, eventually: Eventually
) -> None:
    released = asyncio.Event()

    async def later(peer: Peer) -> None:
        await released.wait()
        await resume(peer)

    async with voice_double(live_then_aborted, later) as double:
        it = gateway(double.credentials(), handler)
        answering(it, handler)
        async with Running(it):
            await eventually(lambda: len(double.peers) == 2)
            for flags in (1, 3, 0):
                it.send(Speaking(flags, 1000, delay=0))
            released.set()
            again = double.peers[1]
            await eventually(lambda: len(again.received) == 7)
    flags_said = [data["speaking"] for op, data in again.received if op == 5]  # type: ignore[index]
    assert flags_said == [0, 1, 3, 0]


async def test_a_refused_resume_is_lost_with_its_code(
    voice_double: StartDouble, handler: Handler
) -> None:
    async with voice_double(live_then_aborted, forgotten) as double:
        it = gateway(double.credentials(), handler)
        answering(it, handler)
        with pytest.raises(ConnectionLost, match="gone") as caught:
            await it.run(5)
    assert caught.value.close_code == 4006
    assert it.counters == {"resumes": 0, "resume-failures": 1}


async def test_websockets_that_do_not_last_are_replaced_ever_more_slowly(
    voice_double: StartDouble, handler: Handler, eventually: Eventually
) -> None:
    async def cut(peer: Peer) -> None:
        peer.abort()

    async with voice_double(live_then_aborted, cut, cut, resume) as double:
        it = gateway(double.credentials(), handler)
        answering(it, handler)
        started = asyncio.get_running_loop().time()
        async with Running(it):
            await eventually(lambda: SessionResumed in handler.kinds())
        # Half of 0.2 s and half of 0.4 s at least; the first attempt waits for nothing.
        assert asyncio.get_running_loop().time() - started > 0.3
    assert it.counters == {"resumes": 1, "resume-failures": 2}


async def test_a_session_that_cannot_be_resumed_in_time_is_lost_with_the_first_code(
    voice_double: StartDouble, handler: Handler
) -> None:
    async with voice_double(live_then_aborted) as double:
        it = gateway(double.credentials(), handler, resume_timeout=0.3)
        answering(it, handler)
        task = asyncio.ensure_future(it.run(5))
        while not double.peers:  # noqa: ASYNC110 - there is nothing else to wait for
            await asyncio.sleep(0.002)
        double.stop_listening()
        with pytest.raises(ConnectionLost) as caught:
            async with asyncio.timeout(2):
                await task
    assert caught.value.close_code == 1006
    assert handler.kinds()[-1] is ResumeFailed
    assert it.counters["resumes"] == 0
    assert it.counters["resume-failures"] >= 2


async def test_a_server_that_does_not_answer_the_resume_is_waited_for_no_longer_than_that(
    voice_double: StartDouble, handler: Handler
) -> None:
    async def silent(peer: Peer) -> None:
        await peer.gone()

    async with voice_double(live_then_aborted, silent) as double:
        it = gateway(double.credentials(), handler, resume_timeout=0.2)
        answering(it, handler)
        with pytest.raises(ConnectionLost):
            async with asyncio.timeout(2):
                await it.run(5)
    assert it.counters == {"resumes": 0, "resume-failures": 1}


async def test_a_websocket_that_answers_no_heartbeats_is_replaced(
    voice_double: StartDouble, handler: Handler, eventually: Eventually
) -> None:
    async def mute(peer: Peer) -> None:
        await peer.hello(interval_ms=20)
        await peer.ready()
        await peer.description()

    async with voice_double(mute, resume) as double:
        it = gateway(double.credentials(), handler)
        answering(it, handler)
        async with Running(it):
            await eventually(lambda: SessionResumed in handler.kinds())
        assert double.peers[0].close_code == 1006
    assert HeartbeatMissed not in handler.kinds()


@pytest.mark.parametrize("waiting", [0.0, 0.01, 0.15])
async def test_cancelling_while_there_is_no_websocket_leaves_nothing_behind(
    voice_double: StartDouble, handler: Handler, eventually: Eventually, waiting: float
) -> None:
    async with voice_double(live_then_aborted) as double:
        it = gateway(double.credentials(), handler)
        answering(it, handler)
        async with Running(it):
            await eventually(lambda: Described in handler.kinds())
            double.stop_listening()
            await eventually(lambda: double.peers[0].close_code is not None)
            await asyncio.sleep(waiting)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not [task for task in others if task.get_name().startswith("gateway")]


# What goes wrong


async def test_nobody_there_is_a_connect_error(handler: Handler, unused_tcp_port: int) -> None:
    credentials = VoiceCredentials(f"127.0.0.1:{unused_tcp_port}", "t", "s", 7, 10)
    with pytest.raises(ConnectError, match=rf"voice server 127.0.0.1:{unused_tcp_port}: "):
        await gateway(credentials, handler).run(5)


@asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """A TCP port that accepts and says nothing."""
    sockets: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _r, w: sockets.append(w), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    for writer in sockets:
        writer.close()
    server.close()
    await server.wait_closed()


async def test_a_port_that_says_nothing_is_a_timeout(handler: Handler) -> None:
    async with silent_port() as port:
        credentials = VoiceCredentials(f"127.0.0.1:{port}", "t", "s", 7, 10)
        with pytest.raises(SignalingTimeout, match=r"did not answer within 0\.05 s"):
            await gateway(credentials, handler).run(0.05)


async def test_a_port_that_speaks_http_is_a_connect_error(handler: Handler) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    credentials = VoiceCredentials(f"127.0.0.1:{port}", "t", "s", 7, 10)
    with pytest.raises(ConnectError, match="503"):
        await gateway(credentials, handler).run(5)
    server.close()
    await server.wait_closed()


async def test_no_hello_is_a_timeout_of_its_own(
    voice_double: StartDouble, handler: Handler, eventually: Eventually
) -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()

    async with (
        voice_double(script) as double,
        Running(gateway(double.credentials(), handler, timeout=0.05)),
    ):
        await eventually(lambda: handler.events == [TimedOut("hello")])


async def test_no_ready_is_a_timeout_of_its_own(
    voice_double: StartDouble, handler: Handler, eventually: Eventually
) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello()

    async with (
        voice_double(script) as double,
        Running(gateway(double.credentials(), handler, timeout=0.05)),
    ):
        await eventually(lambda: handler.events[-1:] == [TimedOut("ready")])


async def test_unanswered_heartbeats_are_told_and_sending_is_harmless_afterwards(
    voice_double: StartDouble, handler: Handler, eventually: Eventually
) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello(interval_ms=20)

    async with voice_double(script) as double:
        it = gateway(double.credentials(), handler)
        async with Running(it):
            await eventually(lambda: HeartbeatMissed in handler.kinds())
            it.send(Speaking(0, 1000))


@pytest.mark.parametrize(("code", "reason"), [(4006, "stale"), (4014, ""), (1000, "bye")])
async def test_a_close_carries_its_code_and_reason(
    voice_double: StartDouble, handler: Handler, code: int, reason: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.close(code, reason)

    async with voice_double(script) as double:
        with pytest.raises(ConnectionLost) as caught:
            await gateway(double.credentials(), handler).run(5)
    assert caught.value.close_code == code
    quoted = f" ({reason})" if reason else ""
    expected = f"the voice server closed the connection{quoted} (close code {code})"
    assert str(caught.value) == expected


async def test_a_connection_that_breaks_before_it_is_live_is_lost(
    voice_double: StartDouble, handler: Handler
) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello()
        await peer.expect(0)
        peer.abort()

    async with voice_double(script) as double:
        with pytest.raises(ConnectionLost) as caught:
            await gateway(double.credentials(), handler).run(5)
    assert caught.value.close_code == 1006


async def test_a_server_that_reads_nothing_is_cut_not_waited_for(
    voice_double: StartDouble, handler: Handler, eventually: Eventually
) -> None:
    async def script(peer: Peer) -> None:
        await peer.live()
        await peer.wait()

    async with voice_double(script, forgotten) as double:
        it = gateway(double.credentials(), handler)
        answering(it, handler)
        task = asyncio.ensure_future(it.run(5))
        await eventually(lambda: Described in handler.kinds())
        for number in range(OUTBOX_BOUND + 10):
            it.send(Speaking(number % 8, 1000))
        with pytest.raises(ConnectionLost, match="4006"):
            async with asyncio.timeout(2):
                await task


async def test_a_handler_that_fails_ends_the_socket(
    voice_double: StartDouble, handler: Handler
) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello()

    def fail(_event: VoiceEvent) -> None:
        raise ZeroDivisionError

    handler.answer = fail
    async with voice_double(script) as double:
        with pytest.raises(ExceptionGroup) as caught:  # unwrapped by the session
            await gateway(double.credentials(), handler).run(5)
        assert caught.group_contains(ZeroDivisionError)


# Closing


async def test_cancelling_closes_politely_after_what_was_still_to_be_sent(
    voice_double: StartDouble, handler: Handler, eventually: Eventually
) -> None:
    async def script(peer: Peer) -> None:
        await peer.live()
        await peer.gone()

    async with voice_double(script) as double:
        it = gateway(double.credentials(), handler)
        answering(it, handler)
        async with Running(it):
            await eventually(lambda: Described in handler.kinds())
            it.send(Speaking(0, 1000))
        [peer] = double.peers
        await eventually(lambda: peer.close_code == 1000)
    assert [opcode for opcode, _ in peer.received][-1] == 5


async def test_a_server_that_does_not_close_is_not_waited_for(
    voice_double: StartDouble, handler: Handler, eventually: Eventually
) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello()
        peer.pause()
        await peer.wait()

    async with voice_double(script) as double:
        async with Running(gateway(double.credentials(), handler)):
            await eventually(lambda: Greeted in handler.kinds())
            started = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started < 1.9
        double.release()


async def test_cancelling_while_connecting_leaves_nothing_behind(handler: Handler) -> None:
    async with silent_port() as port:
        credentials = VoiceCredentials(f"127.0.0.1:{port}", "t", "s", 7, 10)
        for turns in range(6):
            async with Running(gateway(credentials, handler)):
                for _ in range(turns):
                    await asyncio.sleep(0)


async def test_no_log_of_any_level_holds_a_secret(
    voice_double: StartDouble,
    handler: Handler,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)

    async def resume_hushed(peer: Peer) -> None:
        await peer.hello()
        await peer.expect(7)
        await peer.send(9, None)

    async with voice_double(live_then_aborted, resume_hushed) as double:
        credentials = VoiceCredentials(double.endpoint, "hush-token", "hush-session", 7, 10)
        it = gateway(credentials, handler)
        answering(it, handler)
        async with Running(it):
            await eventually(lambda: SessionResumed in handler.kinds())
    # The double's own log may say what it likes; ours must not even quote frames.
    ours = [it.getMessage() for it in caplog.records if it.name != "websockets.server"]
    assert len(ours) < len(caplog.records)
    assert not [message for message in ours if "hush" in message or "TEXT" in message]
