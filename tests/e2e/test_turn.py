"""A call through a real TURN server (coturn), with everything else blocked."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

import pytest

from discord_rtc import Codec, ConnectionOptions, IceOptions, IceServer
from discord_rtc.errors import IceFailed, NoRoute, PathLost
from discord_rtc.lab import Lab
from discord_rtc.server import LocalServer

from .calls import (
    assert_media_flows,
    assert_two_way_media,
    eventually,
    join,
    note,
    publish,
    resources,
)
from .turn import HOST, USERNAME, WAYS, free_port, is_relay, running_turn_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .turn import TurnServer, Way

pytestmark = pytest.mark.asyncio

FAILURE_COST = 5.0
"""Seconds that a path may take to fail."""


@pytest.fixture(scope="module")
def turn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TurnServer]:
    """A TURN server for this module."""
    with running_turn_server(tmp_path_factory.mktemp("turn")) as server:
        yield server


@pytest.fixture
def trusted(turn: TurnServer, monkeypatch: pytest.MonkeyPatch) -> TurnServer:
    """The same, with a certificate that this process trusts."""
    # What OpenSSL looks at; aioice takes no SSL context, only whether there shall be one.
    monkeypatch.setenv("SSL_CERT_FILE", str(turn.certificate))
    return turn


def through(*servers: IceServer, codec: Codec = Codec.H264) -> ConnectionOptions:
    """WebRTC through the relay and nothing else."""
    return ConnectionOptions(
        transport="webrtc",
        codecs=(codec,),
        ice=IceOptions(servers=servers, relay_only=True),
    )


class Gate:
    """Lets only a relay's datagrams through, and remembers all who knocked."""

    def __init__(self) -> None:
        self.knocked: set[tuple[str, int]] = set()

    def __call__(self, address: tuple[str, int]) -> bool:
        self.knocked.add(address)
        return is_relay(address)


@pytest.mark.parametrize("codec", [Codec.H264, Codec.VP8])
@pytest.mark.parametrize("way", WAYS)
async def test_the_call_is_carried_both_ways(
    way: Way, codec: Codec, trusted: TurnServer, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secured, released = trusted.allocations_over_tls(), trusted.allocations_released()
    gate = Gate()
    lab.faults.block(user_id=lab.user_id("ann"), allow=gate)

    joined = await join(lab, "ann", through(trusted.ice_server(way), codec=codec))
    note(f"live through TURN over {way} after {joined.seconds:.3f} s")
    assert joined.error is None
    assert joined.seconds < FAILURE_COST
    ann = joined.connection
    bob = await lab.user("bob", options=ConnectionOptions(transport="udp", codecs=(codec,)))
    await assert_media_flows(ann, bob)

    # The voice server knows nothing but the relay.
    (relay,) = gate.knocked
    assert is_relay(relay)
    assert not [name for name in lab.faults.counters if name.startswith("blocked")]
    transport = ann.stats().transport
    assert transport is not None
    assert transport.local_address == relay
    assert transport.remote_address == lab.server.media_address
    assert not transport.drops
    assert ann.local_description is not None
    assert f"{relay[0]} {relay[1]} typ relay" in ann.local_description
    assert "typ host" not in ann.local_description
    for connection in (ann, bob):
        rtp = connection.stats().rtp
        assert rtp is not None
        assert {stream.codec for stream in rtp.inbound} == {Codec.OPUS, codec}
        assert all(stream.cumulative_lost == 0 for stream in rtp.inbound)

    assert trusted.streams() == (way != "udp")

    # The relay is given back at the end.
    await ann.disconnect()
    await eventually(lambda: trusted.allocations_released() - released == 1)
    assert trusted.allocations_over_tls() - secured == (way == "tls")
    assert trusted.credential not in caplog.text


async def test_two_users_behind_two_relays_see_each_other(turn: TurnServer, lab: Lab) -> None:
    lab.faults.block(allow=is_relay)
    ann = await join(lab, "ann", through(turn.ice_server("udp")))
    bob = await join(lab, "bob", through(turn.ice_server("tcp")))
    await assert_media_flows(ann.connection, bob.connection)


async def test_auto_with_a_relay_alone_never_sends_plain_udp(turn: TurnServer) -> None:
    gate = Gate()
    async with Lab(LocalServer(dave="off")) as lab:  # nobody is there to be encrypted for
        lab.faults.block(allow=gate)
        ice = IceOptions(servers=(turn.ice_server("udp"),), relay_only=True)
        joined = await join(lab, "ann", ConnectionOptions(ice=ice))
        assert joined.transports == ["webrtc"]
        await publish(joined.connection)
        await eventually(lambda: lab.server.counters.get("media.rtp-received", 0) > 20)
        assert "media.discovery" not in lab.server.counters
    assert {is_relay(address) for address in gate.knocked} == {True}


async def test_a_relay_that_dies_is_a_lost_path(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    # aioice has no consent timeout that can be shortened, so its constants are.
    monkeypatch.setattr("aioice.ice.CONSENT_INTERVAL", 0.1)
    monkeypatch.setattr("aioice.ice.CONSENT_FAILURES", 3)
    with running_turn_server(tmp_path) as mortal:
        joined = await join(lab, "ann", through(mortal.ice_server("tcp")))
        await publish(joined.connection)
    await eventually(lambda: not joined.connection.is_valid, within=15)
    assert joined.failures == [("webrtc", PathLost), ("webrtc", IceFailed)]
    invalidation = joined.connection.invalidation
    assert invalidation is not None
    assert isinstance(invalidation.error, NoRoute)
    assert f"the TURN server {HOST} port {mortal.port}" in str(invalidation.error)


class TestARelayThatIsNotToBeHad:
    """The error names the TURN server and what it said, never the credential."""

    async def refuse(self, server: IceServer, *, relay_only: bool = True) -> tuple[str, float]:
        """What the error says, and how long it took; nothing must stay behind."""
        before = resources()
        async with Lab() as lab:
            lab.faults.block(user_id=lab.user_id("ann"), allow=is_relay)
            ice = IceOptions(servers=(server,), relay_only=relay_only)
            joined = await join(lab, "ann", ConnectionOptions(transport="webrtc", ice=ice))
            assert isinstance(joined.error, NoRoute)
            assert joined.failures == [("webrtc", IceFailed)]
            assert lab.server.counters["voice.no-route"] == 1
            assert not lab.server.rooms
        await eventually(lambda: resources() == before)  # aioice takes its time to give up
        text = str(joined.error)
        note(f"{server.url}: after {joined.seconds:.2f} s: {text}")
        assert f"the TURN server {server.host} port {server.port} " in text
        assert "check its address, credentials and reach" in text
        return text, joined.seconds

    @pytest.mark.parametrize("way", WAYS)
    async def test_a_wrong_credential(
        self, way: Way, trusted: TurnServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        text, seconds = await self.refuse(trusted.ice_server(way, credential="not-the-right-one"))
        assert "401 Unauthorized" in text
        assert seconds < 1  # the server answers, so there is nothing to wait for
        for credential in ("not-the-right-one", trusted.credential):
            assert credential not in caplog.text
            assert credential not in text

    async def test_a_certificate_of_somebody_unknown(self, turn: TurnServer) -> None:
        text, seconds = await self.refuse(turn.ice_server("tls"))
        assert "certificate verify failed" in text
        assert seconds < 1

    @pytest.mark.parametrize("scheme", ["turn", "turns"])
    async def test_nobody_listens_on_tcp(self, scheme: str) -> None:
        transport = "?transport=tcp" if scheme == "turn" else ""
        server = IceServer(f"{scheme}:{HOST}:{free_port()}{transport}", USERNAME, "secret")
        text, seconds = await self.refuse(server)
        assert "Connection refused" in text
        assert seconds < 1

    async def test_it_is_silent(self, lab: Lab) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as datagrams, socket.socket() as streams:
            datagrams.bind((HOST, 0))
            streams.bind((HOST, 0))
            streams.listen()
            urls = (
                f"turn:{HOST}:{datagrams.getsockname()[1]}",
                f"turn:{HOST}:{streams.getsockname()[1]}?transport=tcp",
                f"turns:{HOST}:{streams.getsockname()[1]}",
            )
            async with asyncio.TaskGroup() as group:
                joining = [
                    group.create_task(join(lab, url, through(IceServer(url, USERNAME, "secret"))))
                    for url in urls
                ]
        for task, url in zip(joining, urls, strict=True):
            joined = task.result()
            note(f"{url}: after {joined.seconds:.2f} s: {joined.error}")
            port = url.split("?")[0].rsplit(":", 1)[1]
            assert f"the TURN server {HOST} port {port} did not answer" in str(joined.error)
            assert joined.failures == [("webrtc", IceFailed)]
            assert joined.failed_after[0] < FAILURE_COST

    async def test_a_silent_one_costs_little_where_it_is_not_needed(self, lab: Lab) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as silent:
            silent.bind((HOST, 0))
            server = IceServer(f"turn:{HOST}:{silent.getsockname()[1]}", USERNAME, "secret")
            joined = await join(lab, "ann", ConnectionOptions(ice=IceOptions(servers=(server,))))
            note(f"live beside a silent TURN server after {joined.seconds:.2f} s")
            bob = await lab.user("bob", "udp")
            await assert_media_flows(joined.connection, bob)
            await joined.connection.disconnect()
        assert joined.seconds < FAILURE_COST


async def test_a_voice_server_that_is_not_there_is_told_from_a_relay_that_is_not(
    turn: TurnServer, lab: Lab
) -> None:
    lab.faults.block(user_id=lab.user_id("ann"))  # not even the relay gets through
    joined = await join(lab, "ann", through(turn.ice_server("udp")))
    assert joined.failures == [("webrtc", IceFailed)]
    assert joined.seconds < FAILURE_COST
    assert "gave a relay, but the voice server did not answer through it" in str(joined.error)


async def test_tasks_and_sockets_are_given_back(turn: TurnServer) -> None:
    async def call() -> None:
        async with Lab() as lab:
            ann = await join(lab, "ann", through(turn.ice_server("tcp")))
            bob = await join(lab, "bob", through(turn.ice_server("udp")))
            await publish(ann.connection, bob.connection)
            await assert_two_way_media(ann.connection, bob.connection)

    await call()
    before = resources()
    for _ in range(3):
        await call()
    await eventually(lambda: resources() == before)
