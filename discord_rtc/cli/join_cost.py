"""What joining costs in round trips, step by step, on a network of a known round trip."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from discord_rtc.cli.relay import Relay
from discord_rtc.client import RtcClient
from discord_rtc.clock import SystemClock
from discord_rtc.gateway import Gateway
from discord_rtc.media.patterns import TestTone
from discord_rtc.netem import Impairment
from discord_rtc.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from discord_rtc.connection.port import DispatchHandler
    from discord_rtc.connection.voice import VoiceConnection
    from discord_rtc.ids import UserId
    from discord_rtc.transport.plan import TransportName

TRANSPORTS: tuple[TransportName, ...] = ("udp", "webrtc")

NEAR, FAR = 1, 2
"""User ids: one beside the server who hears when media comes, one at the end of a long way."""

_GUILD, _CHANNEL = 10, 20


@dataclass(frozen=True, slots=True)
class Step:
    """One step of joining.

    Attributes:
        name: What happens.
        least: Round trips that the protocol cannot do without.
        seconds: How long it took.
        why: What the round trips are spent on.
    """

    name: str
    least: float
    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class JoinCost:
    """One join.

    Attributes:
        transport: Over which.
        rtt: Seconds of one round trip.
        steps: In order.
    """

    transport: str
    rtt: float
    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float:
        """All steps together."""
        return sum(step.seconds for step in self.steps)

    @property
    def least(self) -> float:
        """Round trips that the protocol cannot do without, altogether."""
        return sum(step.least for step in self.steps)


def best(costs: Sequence[JoinCost]) -> JoinCost:
    """Each step as fast as it ever was: other work of the machine only makes it slower."""
    steps = tuple(
        min(same, key=lambda step: step.seconds)
        for same in zip(*(cost.steps for cost in costs), strict=True)
    )
    return replace(costs[0], steps=steps)


class _Rerouted:
    """A gateway port whose voice servers are reached through a relay."""

    def __init__(self, gateway: Gateway, port: int) -> None:
        self._gateway = gateway
        self._port = port

    @property
    def user_id(self) -> UserId:
        return self._gateway.user_id

    @property
    def secure(self) -> bool:
        return self._gateway.secure

    async def send(self, opcode: int, data: Mapping[str, object]) -> None:
        await self._gateway.send(opcode, data)

    def subscribe(self, handler: DispatchHandler) -> Callable[[], None]:
        def reroute(name: str, data: Mapping[str, object]) -> None:
            if name == "VOICE_SERVER_UPDATE" and data.get("endpoint"):
                data = {**data, "endpoint": f"127.0.0.1:{self._port}"}
            handler(name, data)

        return self._gateway.subscribe(reroute)


async def measure_join(transport: TransportName, rtt: float) -> JoinCost:
    """Join once, with websockets and datagrams delayed, and send sound, end-to-end encrypted.

    Args:
        transport: Which one.
        rtt: Seconds of one round trip.

    Raises:
        RtcError: The call could not be made.
    """
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(LocalServer())
        half = Impairment(delay=rtt / 2)
        server.faults.impair(FAR, up=half, down=half)
        near = await stack.enter_async_context(
            RtcClient(await stack.enter_async_context(server.gateway(NEAR)))
        )
        listening = await near.join(_GUILD, _CHANNEL, transport="udp")
        url = urlsplit(server.gateway_url)
        assert url.hostname is not None
        assert url.port is not None
        relay = await stack.enter_async_context(Relay((url.hostname, url.port), rtt, clock))
        begun = clock.now()
        gateway = await stack.enter_async_context(
            Gateway(server.token_for(FAR), url=f"ws://127.0.0.1:{relay.port}/gateway")
        )
        established = clock.now()
        client = await stack.enter_async_context(RtcClient(_Rerouted(gateway, relay.port)))
        voice = await client.join(_GUILD, _CHANNEL, transport=transport)
        live = clock.now()
        async with asyncio.timeout(10):
            await voice.publish(microphone=TestTone())
            hearing = asyncio.ensure_future((await listening.user(FAR)).microphone.recv())
            try:
                await voice.secured()
                secured = clock.now()
                await hearing
            finally:
                hearing.cancel()
        return JoinCost(
            transport, rtt, _steps(voice, begun, established, live, secured, clock.now())
        )


def _steps(
    voice: VoiceConnection,
    begun: float,
    established: float,
    live: float,
    secured: float,
    heard: float,
) -> tuple[Step, ...]:
    stats = voice.stats()
    assert stats.transport is not None
    join, setup = stats.join, stats.transport.setup
    steps = [
        Step("main gateway", 3, established - begun, "TCP, upgrade, identify to READY"),
        Step("voice server", 1, live - established - join["path"], "op 4 to its two answers"),
        Step("voice socket", 2, join["socket"], "TCP, upgrade"),
        Step("ready", 1, join["ready"] - join["socket"], "identify; Hello came with the upgrade"),
    ]
    selection = join["selection"] - join["ready"]
    description = join["description"] - join["selection"]
    path = join["path"] - join["description"]
    if "discovery" in setup:
        steps.append(Step("discovery", 1, selection, "its answer is part of the selection"))
        steps.append(Step("select", 1, description + path, "select protocol to description"))
        # Before the description it is not known that there is a group to enter. In a call that
        # has one already, ready and execute (op 23, op 22) would take another round trip.
        group = Step("E2EE group", 1, secured - live, "key package to welcome, in a call of two")
    else:
        steps.append(Step("select", 1, selection + description, "select protocol to description"))
        steps.append(Step("ICE", 1, setup["ice"], "one check; candidates were gathered before"))
        rest = path - setup["ice"]
        steps.append(Step("DTLS", 2, rest, "DTLS 1.2, two flights each"))
        group = Step("E2EE group", 0, secured - live, "key package to welcome, beside ICE and DTLS")
    steps.append(group)
    steps.append(
        Step("first media", 0.5, heard - secured, "one way, to the first sound that is decoded")
    )
    return tuple(steps)
