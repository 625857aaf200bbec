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
    credentials: VoiceCredentials, handler: Handler, *, timeout: float = 5.0
) -> VoiceGateway:
    return VoiceGateway(
        credentials, VoiceOptions(timeout=timeout), secure=False, handler=handler,
        clock=SystemClock(),
    )  # fmt: skip


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


async def test_a_connection_that_breaks_is_lost(
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

    async with voice_double(script) as double:
        it = gateway(double.credentials(), handler)
        answering(it, handler)
        task = asyncio.ensure_future(it.run(5))
        await eventually(lambda: Described in handler.kinds())
        for number in range(OUTBOX_BOUND + 10):
            it.send(Speaking(number % 8, 1000))
        with pytest.raises(ConnectionLost):
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

    async def script(peer: Peer) -> None:
        await peer.live()

    async with voice_double(script) as double:
        credentials = VoiceCredentials(double.endpoint, "hush-token", "hush-session", 7, 10)
        it = gateway(credentials, handler)
        answering(it, handler)
        async with Running(it):
            await eventually(lambda: Described in handler.kinds())
    # The double's own log may say what it likes; ours must not even quote frames.
    ours = [it.getMessage() for it in caplog.records if it.name != "websockets.server"]
    assert len(ours) < len(caplog.records)
    assert not [message for message in ours if "hush" in message or "TEXT" in message]
