"""A connection whose sessions change the media path, against scripted servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from discord_rtc.clock import SystemClock
from discord_rtc.connection.events import TransportChanged, TransportFailed
from discord_rtc.connection.options import ConnectionOptions, Timeouts
from discord_rtc.connection.signaling import GatewaySignaling
from discord_rtc.connection.voice import VoiceConnection
from discord_rtc.errors import ConnectionLost, IceFailed, NoRoute
from discord_rtc.transport import fallback
from discord_rtc.transport.memory import memory_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from discord_rtc.transport.base import Transport
    from discord_rtc.transport.plan import Attempt

    from .conftest import Double, Peer, Port, StartDouble

pytestmark = pytest.mark.asyncio


async def refuse_the_protocol(peer: Peer) -> None:
    await peer.hello()
    await peer.ready()
    await peer.expect(1)
    await peer.close(4012)


async def stay_live(peer: Peer) -> None:
    await peer.live()


async def describe(peer: Peer) -> None:
    await peer.hello()
    await peer.ready()
    await peer.description()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Attempt]:
    """The attempts so far; a memory transport is made for each."""
    attempts: list[Attempt] = []

    def make(
        attempt: Attempt, _ice: object, _clock: object, note: Callable[[str, Exception], None]
    ) -> Transport:
        attempts.append(attempt)
        transport = memory_pair()[0]

        async def deaf(_answer: object) -> None:
            error = IceFailed("no answer to any check")
            note(attempt.names[0], error)
            raise error

        if attempt.names == ("webrtc",):
            monkeypatch.setattr(transport, "accept", deaf)
        return transport

    monkeypatch.setattr(fallback, "make_transport", make)
    return attempts


def connection(port: Port, double: Double, **options: object) -> VoiceConnection:
    """Through a gateway that assigns the double whenever it is asked."""

    def answer(command: Mapping[str, object]) -> None:
        channel = command["channel_id"]
        port.state(None if channel is None else int(str(channel)))
        if channel is not None:
            port.server(double.endpoint, f"token-{len(double.peers)}")

    port.answer = answer
    clock = SystemClock()
    return VoiceConnection(
        GatewaySignaling(port, 10, clock, timeout=5),
        ConnectionOptions(timeouts=Timeouts(connect=5, signaling=5), **options),  # type: ignore[arg-type]
        clock,
    )


async def test_where_ice_fails_the_next_session_takes_the_next_transport(
    port: Port, voice_double: StartDouble, made: list[Attempt]
) -> None:
    async with voice_double(describe, stay_live) as double:
        voice = connection(port, double)
        events = voice.events(TransportFailed, TransportChanged)
        await voice.connect(20)
        assert [attempt.names for attempt in made] == [("webrtc",), ("udp",)]
        await voice.aclose()
        told = [event async for event in events]
    assert isinstance(told[0], TransportFailed)
    assert (told[0].transport, type(told[0].error)) == ("webrtc", IceFailed)
    assert told[1] == TransportChanged("udp")


async def test_a_server_without_the_selected_transport_gets_another_selection(
    port: Port, voice_double: StartDouble, made: list[Attempt]
) -> None:
    async with voice_double(refuse_the_protocol, stay_live) as double:
        voice = connection(port, double)
        events = voice.events(TransportFailed)
        await voice.connect(20)
        assert [attempt.names for attempt in made] == [("webrtc",), ("udp",)]
        await voice.aclose()
        (failed,) = [event async for event in events]
    assert isinstance(failed.error, ConnectionLost)
    assert failed.error.close_code == 4012


async def test_a_server_that_refuses_every_transport_ends_it_with_its_close_code(
    port: Port, voice_double: StartDouble, made: list[Attempt]
) -> None:
    async with voice_double(refuse_the_protocol, refuse_the_protocol) as double:
        voice = connection(port, double)
        with pytest.raises(ConnectionLost) as caught:
            await voice.connect(20)
    assert caught.value.close_code == 4012
    assert len(made) == 2


async def test_the_only_transport_that_is_allowed_is_not_replaced(
    port: Port, voice_double: StartDouble, made: list[Attempt]
) -> None:
    async with voice_double(describe) as double:
        voice = connection(port, double, transport="webrtc")
        with pytest.raises(NoRoute, match="no answer to any check"):
            await voice.connect(20)
    assert [attempt.names for attempt in made] == [("webrtc",)]
    assert double.peers[0].received[-1] == (32, {})
