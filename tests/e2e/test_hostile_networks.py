"""Networks that let only some datagrams through: which path a call takes, how soon, what it says.

The server's faults are the hostile network here, so that this runs on every machine;
`test_namespaces` does the same with a packet filter.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import psutil
import pytest

from discord_rtc import (
    ConnectionOptions,
    IceOptions,
    Invalidated,
    TransportChanged,
    TransportFailed,
    connect,
)
from discord_rtc.errors import (
    ConnectionLost,
    DiscoveryTimeout,
    DtlsFailed,
    IceFailed,
    NoRoute,
    PathLost,
)
from discord_rtc.ice.agent import IceTimings
from discord_rtc.lab import CHANNEL_ID, GUILD_ID, Lab
from discord_rtc.protocol.opcodes import VoiceCloseCode
from discord_rtc.server.world import RoomKey
from discord_rtc.transport import fallback, webrtc
from discord_rtc.transport.path import UdpTimings
from discord_rtc.transport.udp import UdpTransport
from discord_rtc.transport.webrtc import WebRtcTimings, WebRtcTransport

from .calls import (
    Witness,
    assert_media_flows,
    assert_media_goes_on,
    assert_two_way_media,
    eventually,
    join,
    note,
    publish,
    resources,
)
from .turn import is_relay, running_turn_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from discord_rtc.server.faults import Blockable

    from .calls import Join
    from .turn import TurnServer

pytestmark = pytest.mark.asyncio

FAILURE_COST = 5.0
"""Seconds that each path may take to fail."""

NO_ROUTE_COST = 10.0
"""Seconds from Ready to the error when nothing is left."""

DIRECT_UDP: tuple[Blockable, ...] = ("stun", "dtls", "discovery", "media")

ROOM = RoomKey(GUILD_ID, CHANNEL_ID)

UDP = ConnectionOptions(transport="udp")
WEBRTC = ConnectionOptions(transport="webrtc")


@pytest.fixture(scope="module")
def turn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TurnServer]:
    """A TURN server for this module."""
    with running_turn_server(tmp_path_factory.mktemp("turn")) as server:
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is given up after one second instead of 4.5, and counts as lost after one, not 30."""
    ice = IceTimings(consent_interval=0.2, consent_timeout=1)
    checks = partial(WebRtcTransport, timings=WebRtcTimings(deadline=1, ice=ice))
    monkeypatch.setattr(webrtc, "WebRtcTransport", checks)
    discovery = partial(UdpTransport, timings=UdpTimings(discovery_deadline=1))
    monkeypatch.setattr(fallback, "UdpTransport", discovery)


def no_route(joined: Join) -> NoRoute:
    """The error of a join that found no path."""
    assert isinstance(joined.error, NoRoute), joined.error
    assert joined.connection.state == "closed"
    assert joined.told(Invalidated) == [Invalidated("NoRoute", joined.error)]
    # The events and the error tell the same.
    failed = [(event.transport, event.error) for event in joined.told(TransportFailed)]
    assert list(joined.error.attempts) == failed
    return joined.error


class TestStunIsDropped:
    async def test_auto_is_live_on_udp_soon_and_remembers_it(self, lab: Lab) -> None:
        lab.faults.block("stun", user_id=lab.user_id("ann"))
        joined = await join(lab, "ann")
        note(f"live on udp after {joined.seconds:.2f} s")
        assert joined.error is None
        assert joined.seconds < FAILURE_COST
        assert joined.failures == [("webrtc", IceFailed)]
        assert joined.transports == ["udp"]
        failed, changed = joined.told(TransportFailed)[0], joined.told(TransportChanged)[0]
        assert joined.events.index(failed) < joined.events.index(changed)
        bob = await lab.user("bob", "udp")
        await assert_media_flows(joined.connection, bob)
        assert lab.server.counters["voice.opened"] == 3  # twice for ann: fresh identification

        await joined.connection.disconnect()
        again = await join(lab, "ann")
        note(f"live on udp again after {again.seconds:.2f} s")
        assert (again.failures, again.transports) == ([], ["udp"])
        assert again.seconds < 1
        assert lab.server.counters["voice.opened"] == 4
        assert "voice.no-route" not in lab.server.counters

    @pytest.mark.usefixtures("impatient")
    async def test_a_path_that_is_remembered_is_tried_first_and_given_up_for_another(
        self, lab: Lab
    ) -> None:
        ann = lab.user_id("ann")
        lab.faults.block("stun", user_id=ann)
        joined = await join(lab, "ann")
        assert joined.transports == ["udp"]
        await joined.connection.disconnect()

        lab.faults.clear(ann)
        lab.faults.block("discovery", user_id=ann)
        again = await join(lab, "ann")
        assert (again.failures, again.transports) == ([("udp", DiscoveryTimeout)], ["webrtc"])
        await again.connection.disconnect()

        once_more = await join(lab, "ann")
        assert (once_more.failures, once_more.transports) == ([], ["webrtc"])


class TestDtlsIsDropped:
    async def test_auto_is_live_on_udp(self, lab: Lab) -> None:
        lab.faults.block("dtls", user_id=lab.user_id("ann"))
        joined = await join(lab, "ann")
        note(f"live on udp after {joined.seconds:.2f} s")
        assert joined.error is None
        assert joined.seconds < FAILURE_COST
        assert joined.failures == [("webrtc", DtlsFailed)]
        assert joined.transports == ["udp"]
        bob = await lab.user("bob", "webrtc")
        await assert_media_flows(joined.connection, bob)


async def test_a_bad_network_is_not_taken_for_a_hostile_one() -> None:
    async def bad(seed: int) -> Join:
        async with Lab() as lab:
            lab.faults.loss(0.2, seed=seed)
            return await join(lab, "ann")

    async with asyncio.TaskGroup() as group:
        joining = [group.create_task(bad(seed)) for seed in range(10)]
    slowest = max(joining, key=lambda task: task.result().seconds).result()
    note(f"live with a fifth of all datagrams lost after {slowest.seconds:.2f} s at the latest")
    for task in joining:
        joined = task.result()
        assert (joined.error, joined.failures, joined.transports) == (None, [], ["webrtc"])
        assert joined.seconds < FAILURE_COST


class TestDirectUdpIsDropped:
    async def test_auto_is_live_on_webrtc_through_the_relay(
        self, lab: Lab, turn: TurnServer
    ) -> None:
        lab.faults.block(*DIRECT_UDP, user_id=lab.user_id("ann"), allow=is_relay)
        ice = IceOptions(servers=(turn.ice_server("udp"),))
        joined = await join(lab, "ann", ConnectionOptions(ice=ice))
        note(f"live on webrtc through the relay after {joined.seconds:.2f} s")
        assert joined.error is None
        assert joined.seconds < FAILURE_COST
        assert (joined.failures, joined.transports) == ([], ["webrtc"])
        bob = await lab.user("bob", "udp")
        await assert_media_flows(joined.connection, bob)

    async def test_a_call_that_worked_directly_goes_on_through_the_relay(
        self, lab: Lab, turn: TurnServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if all(name == "lo" for name in psutil.net_if_addrs()):
            pytest.skip("aioice finds no direct path where there is only loopback")
        # aioice has no consent timeout that can be shortened, so its constants are.
        monkeypatch.setattr("aioice.ice.CONSENT_INTERVAL", 0.1)
        monkeypatch.setattr("aioice.ice.CONSENT_FAILURES", 3)
        ice = IceOptions(servers=(turn.ice_server("udp"),), agent="full")
        joined = await join(lab, "ann", ConnectionOptions(ice=ice))
        bob = await lab.user("bob", "udp")
        await assert_media_flows(joined.connection, bob)
        before = bob.users[joined.connection.id]
        lab.faults.block(user_id=before.id, allow=is_relay)
        await eventually(lambda: joined.failures == [("webrtc", PathLost)], within=10)
        await assert_media_goes_on(bob, before, joined.connection)
        assert joined.transports == ["webrtc"]


async def refused(options: ConnectionOptions, *blocked: Blockable) -> tuple[Join, NoRoute]:
    """Join where there is no way; see that the server is told and nobody stays behind.

    Args:
        options: How to try it.
        blocked: What vanishes; without any, everything does.
    """
    async with Lab() as lab, Witness(lab) as witness:
        ann = lab.user_id("ann")
        lab.faults.block(*blocked, user_id=ann)
        bob = await lab.user("bob", "udp")  # somebody for whom everything is as it should be
        joined = await join(lab, "ann", options)
        note(f"{options.transport}: no route after {joined.seconds:.2f} s")
        assert lab.server.counters["voice.no-route"] == 1
        assert lab.server.rooms[ROOM].user_ids == (bob.id,)
        await eventually(lambda: ann not in bob.users)
        assert witness.channel_of(bob.id) == CHANNEL_ID
        await eventually(lambda: witness.has_seen(ann) and witness.channel_of(ann) is None)
        await bob.disconnect()
        await eventually(lambda: not lab.server.rooms)
    return joined, no_route(joined)


class TestNothingIsLeft:
    async def test_no_route_says_what_each_path_saw_and_nothing_is_left_behind(self) -> None:
        before = resources()
        async with asyncio.TaskGroup() as group:
            joining = [
                group.create_task(refused(ConnectionOptions())),
                group.create_task(refused(UDP)),
                group.create_task(refused(WEBRTC)),
                group.create_task(refused(WEBRTC, "stun")),
                group.create_task(refused(WEBRTC, "dtls")),
            ]
        (auto, auto_error), (udp, udp_error), (all_dropped, _), (stun, _), (dtls, dtls_error) = (
            task.result() for task in joining
        )
        del joining
        assert resources() == before

        for joined in (auto, udp, all_dropped, stun, dtls):
            assert joined.seconds < FAILURE_COST  # auto tries both side by side
            assert max(joined.failed_after) <= joined.seconds
        assert sorted(auto.failures) == [("udp", DiscoveryTimeout), ("webrtc", IceFailed)]
        assert udp.failures == [("udp", DiscoveryTimeout)]
        assert all_dropped.failures == stun.failures == [("webrtc", IceFailed)]
        assert dtls.failures == [("webrtc", DtlsFailed)]
        text = str(auto_error)
        for part in ("udp: UDP to", "webrtc: no answer", "Allow outgoing UDP", "TURN server"):
            assert part in text
        assert "webrtc" not in str(udp_error)
        assert "answers connectivity checks" in str(dtls_error)
        assert "TURN" not in str(dtls_error)  # it would not help

    async def test_both_paths_of_one_session_take_no_longer_than_two(self, lab: Lab) -> None:
        ann, dan = lab.user_id("ann"), lab.user_id("dan")
        lab.faults.block("stun", user_id=ann)
        joined = await join(lab, "ann")
        assert joined.transports == ["udp"]
        await joined.connection.disconnect()

        lab.faults.block(user_id=ann)
        lab.faults.block(user_id=dan)
        opened = lab.server.counters["voice.opened"]
        credentials = lab.server.admit(dan, GUILD_ID, CHANNEL_ID)
        async with asyncio.timeout(NO_ROUTE_COST), asyncio.TaskGroup() as group:
            joining = group.create_task(join(lab, "ann"))
            with pytest.raises(NoRoute) as raised:
                await connect(credentials)
        # What worked before is tried first, and so is udp where nobody gives out a second session.
        both = [("udp", DiscoveryTimeout), ("webrtc", IceFailed)]
        again = joining.result()
        no_route(again)
        assert again.failures == both
        udp_failed, webrtc_failed = again.failed_after
        assert udp_failed < FAILURE_COST
        assert webrtc_failed - udp_failed < FAILURE_COST
        assert [(name, type(error)) for name, error in raised.value.attempts] == both
        assert lab.server.counters["voice.opened"] == opened + 2
        assert lab.server.counters["voice.no-route"] == 2
        assert not lab.server.rooms


@pytest.mark.usefixtures("impatient")
class TestThePathIsLostInTheCall:
    async def test_the_call_goes_on_over_udp_when_only_webrtc_is_dropped(self, lab: Lab) -> None:
        joined = await join(lab, "ann")
        bob = await lab.user("bob", "udp")
        await assert_media_flows(joined.connection, bob)
        assert joined.transports == ["webrtc"]
        before = bob.users[joined.connection.id]
        lab.faults.block("stun", "dtls", user_id=before.id)
        await eventually(lambda: joined.transports == ["webrtc", "udp"], within=8)
        assert joined.failures == [("webrtc", PathLost), ("webrtc", IceFailed)]
        # What was published goes on by itself.
        await assert_media_goes_on(bob, before, joined.connection)
        assert joined.connection.state == "connected"

    async def test_a_short_outage_ends_where_it_began(self, lab: Lab) -> None:
        joined = await join(lab, "ann")
        bob = await lab.user("bob", "webrtc")
        await assert_media_flows(joined.connection, bob)
        before = bob.users[joined.connection.id]
        lab.faults.block(user_id=before.id)
        await eventually(lambda: joined.failures == [("webrtc", PathLost)])
        lab.faults.clear()
        await assert_media_goes_on(bob, before, joined.connection)
        assert joined.failures == [("webrtc", PathLost)]
        assert joined.transports == ["webrtc"]  # it did not change

    async def test_one_full_selection_is_tried_before_the_call_is_given_up(self, lab: Lab) -> None:
        joined = await join(lab, "ann")
        bob = await lab.user("bob", "udp")
        await assert_media_flows(joined.connection, bob)
        lab.faults.block(user_id=lab.user_id("ann"))
        await eventually(lambda: not joined.connection.is_valid, within=12)
        lost, *others = joined.failures
        assert lost == ("webrtc", PathLost)
        assert sorted(others) == [("udp", DiscoveryTimeout), ("webrtc", IceFailed)]
        invalidation = joined.connection.invalidation
        assert invalidation is not None
        assert isinstance(invalidation.error, NoRoute)
        # What was lost before is not what the selection saw.
        assert [name for name, _ in invalidation.error.attempts] == [name for name, _ in others]
        assert lab.server.counters["voice.no-route"] == 1
        assert lab.server.rooms[ROOM].user_ids == (bob.id,)

    async def test_a_kick_is_told_as_what_it_is(
        self, lab: Lab, caplog: pytest.LogCaptureFixture
    ) -> None:
        joined = await join(lab, "ann", WEBRTC)
        bob = await lab.user("bob", "webrtc")
        await assert_media_flows(joined.connection, bob)
        lab.server.kick(lab.user_id("ann"), GUILD_ID)
        await eventually(lambda: not joined.connection.is_valid)
        # The server closes DTLS at the same time, which must not be mistaken for the reason.
        await asyncio.sleep(1)
        assert joined.failures == []
        assert not [record for record in caplog.records if "webrtc" in record.getMessage()]
        invalidation = joined.connection.invalidation
        assert invalidation is not None
        assert isinstance(invalidation.error, ConnectionLost)
        assert not isinstance(invalidation.error, PathLost)
        assert invalidation.error.close_code == VoiceCloseCode.DISCONNECTED
        assert bob.is_valid


class TestSomebodyIsImpatient:
    async def test_a_cancelled_join_leaves_nothing_behind(self) -> None:
        async def cancelled(seconds: float) -> None:
            async with Lab() as lab:
                lab.faults.block("stun", user_id=lab.user_id("ann"))
                client = await lab.client("ann")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await client.join(GUILD_ID, CHANNEL_ID)
                assert not client.connections
                await eventually(lambda: not lab.server.rooms)

        before = resources()
        async with asyncio.TaskGroup() as group:
            # From the main gateway's answer to just before the second session.
            for seconds in (0, 0.005, 0.01, 0.02, 0.05, 0.5, 1.4):
                group.create_task(cancelled(seconds))
        assert resources() == before

    @pytest.mark.usefixtures("impatient")
    async def test_a_call_can_be_left_while_another_path_is_looked_for(self) -> None:
        async def left(seconds: float) -> None:
            async with Lab() as lab:
                joined = await join(lab, "ann")
                await publish(joined.connection)
                lab.faults.block(user_id=lab.user_id("ann"))
                await eventually(lambda: joined.failures == [("webrtc", PathLost)])
                await asyncio.sleep(seconds)
                async with asyncio.timeout(0.5):
                    await joined.connection.disconnect()
                await eventually(lambda: not lab.server.rooms)
                assert joined.told(Invalidated) == [Invalidated("normal", None)]

        before = resources()
        async with asyncio.TaskGroup() as group:
            for seconds in (0, 0.01, 0.05, 0.5, 0.9):
                group.create_task(left(seconds))
        await eventually(lambda: resources() == before)

    @pytest.mark.usefixtures("impatient")
    async def test_a_move_ends_the_search_in_the_old_channel(self, lab: Lab) -> None:
        bob = await lab.user("bob", "udp", channel_id=CHANNEL_ID + 1)
        joined = await join(lab, "ann")
        await publish(joined.connection, bob)
        lab.faults.block(user_id=lab.user_id("ann"))
        await eventually(lambda: joined.failures == [("webrtc", PathLost)])
        lab.server.move(lab.user_id("ann"), GUILD_ID, CHANNEL_ID + 1)
        lab.faults.clear()
        await assert_two_way_media(joined.connection, bob)
        assert joined.connection.transport == "webrtc"
        assert joined.failures == [("webrtc", PathLost)]


class TestWithoutAGateway:
    """Nobody gives out a second session, so both paths have to do with the one there is."""

    @pytest.mark.usefixtures("impatient")
    async def test_webrtc_takes_over_in_the_same_session(self, lab: Lab) -> None:
        lab.faults.block("discovery", user_id=1)
        credentials = lab.server.admit(1, GUILD_ID, CHANNEL_ID)
        bob = await lab.user("bob", "udp")
        async with await connect(credentials) as ann:
            assert ann.transport == "webrtc"
            await assert_media_flows(ann, bob)
        assert lab.server.counters["voice.opened"] == 2  # one each

    async def test_plain_udp_is_what_is_used_where_it_works(self, lab: Lab) -> None:
        async with await connect(lab.server.admit(1, GUILD_ID, CHANNEL_ID)) as ann:
            assert ann.transport == "udp"


@pytest.mark.slow
async def test_a_path_is_lost_half_a_minute_after_its_last_sign_of_life(lab: Lab) -> None:
    joined = await join(lab, "ann")
    bob = await lab.user("bob", "udp")
    await assert_media_flows(joined.connection, bob)
    loop = asyncio.get_running_loop()
    before = bob.users[joined.connection.id]
    lab.faults.block("stun", "dtls", user_id=before.id)
    blocked = loop.time()
    await eventually(lambda: joined.failures, within=40)
    # The last check was answered at most one interval before, and the server's socket gets its
    # half second to tell a better reason.
    assert 30 - 6 < loop.time() - blocked < 30 + 2
    assert joined.failures == [("webrtc", PathLost)]
    await eventually(lambda: joined.transports == ["webrtc", "udp"])
    await assert_media_goes_on(bob, before, joined.connection)
