"""DAVE calls through the local server over real sockets, between clients that are not ours."""

from __future__ import annotations

import asyncio
import struct
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from discord_rtc.server import LocalServer
from discord_rtc.server.world import RoomKey

from .dave_user import GUILD, DaveUser, dave_user, soon

if TYPE_CHECKING:
    from collections.abc import Iterable

    from discord_rtc.server.channel import RoomInfo

pytestmark = [pytest.mark.asyncio, pytest.mark.interop]

ANN, BOB, EVE, FAY = 1, 2, 3, 4
LOUNGE, STAGE = 20, 30


def room(server: LocalServer, channel_id: int = LOUNGE) -> RoomInfo:
    return server.rooms[RoomKey(GUILD, channel_id)]


async def together(server: LocalServer, *users: DaveUser) -> None:
    """Wait until all are in one group, and show that they are in the same."""
    ids = frozenset(user.user_id for user in users)
    await soon(lambda: all(user.version for user in users) and room(server).e2ee_members == ids)
    await soon(lambda: len(authenticators(users)) == 1)
    assert b"" not in authenticators(users)
    assert room(server).e2ee == "active"


def authenticators(users: Iterable[DaveUser]) -> set[bytes]:
    return {user.library.authenticator() for user in users if user.library is not None}


async def everybody_hears(*users: DaveUser) -> None:
    """Everybody says something new, and all others get exactly that."""
    await soon(lambda: all(user.known >= ids(users) and user.settled for user in users))
    said = {user.user_id: b"said by %d, %d" % (user.user_id, user.packets) for user in users}
    for user in users:
        user.speak(said[user.user_id])
    for user in users:
        others = {(other, frame) for other, frame in said.items() if other != user.user_id}
        await soon(lambda user=user, others=others: others <= set(user.heard))  # type: ignore[misc]


def ids(users: Iterable[DaveUser]) -> set[int]:
    return {user.user_id for user in users}


@pytest.mark.parametrize("mode", ["required", "optional"])
async def test_two_libraries_meet_and_understand_each_other(mode: str) -> None:
    async with (
        LocalServer(dave=mode) as server,
        dave_user(server, ANN, "davey") as ann,
        dave_user(server, BOB, "dave.py") as bob,
    ):
        await together(server, ann, bob)
        await everybody_hears(ann, bob)
        assert room(server).e2ee_epoch == 1


async def test_what_clients_need_comes_in_the_order_in_which_they_need_it() -> None:
    async with (
        LocalServer(dave="required") as server,
        dave_user(server, ANN, "davey") as ann,
        dave_user(server, BOB, "dave.py") as bob,
    ):
        await together(server, ann, bob)
        for user in (ann, bob):
            order = [opcode for opcode in user.opcodes if opcode in {4, 11, 25, 27}]
            assert order[:3] == [4, 25, 11]
            assert user.opcodes[user.opcodes.index(4) + 1] == 25
            assert 27 not in order[:3]


async def test_members_come_and_go_in_the_middle_of_a_call() -> None:
    async with LocalServer(dave="required") as server, AsyncExitStack() as stays:
        ann = await stays.enter_async_context(dave_user(server, ANN, "davey"))
        bob = await stays.enter_async_context(dave_user(server, BOB, "dave.py"))
        await together(server, ann, bob)
        async with dave_user(server, EVE, "dave.py") as eve:
            await together(server, ann, bob, eve)
            await everybody_hears(ann, bob, eve)
            async with dave_user(server, FAY, "davey") as fay:
                await together(server, ann, bob, eve, fay)
                await everybody_hears(ann, bob, eve, fay)
            await together(server, ann, bob, eve)
        await together(server, ann, bob)
        await everybody_hears(ann, bob)


async def test_who_is_left_alone_meets_the_next_one() -> None:
    async with LocalServer(dave="required") as server, dave_user(server, ANN, "dave.py") as ann:
        for _ in range(2):
            async with dave_user(server, BOB, "davey") as bob:
                await together(server, ann, bob)
                await everybody_hears(ann, bob)
            await soon(lambda: room(server).e2ee == "pending")
        assert room(server).e2ee_members == frozenset()


async def test_who_leaves_gets_nothing_any_more() -> None:
    async with (
        LocalServer(dave="required") as server,
        dave_user(server, ANN, "davey") as ann,
        dave_user(server, BOB, "dave.py") as bob,
    ):
        async with dave_user(server, EVE, "davey") as eve:
            await together(server, ann, bob, eve)
            assert server.close_voice(EVE, GUILD, 4014, "removed by the test")
            ann.speak(b"secret")
            await soon(lambda: (ANN, b"secret") in bob.heard)
            assert eve.packets == 0
        await together(server, ann, bob)


async def test_a_client_without_dave_is_refused_where_it_is_required() -> None:
    async with (
        LocalServer(dave="required") as server,
        dave_user(server, ANN, "davey") as ann,
        dave_user(server, BOB, None) as bob,
    ):
        await soon(lambda: bob.closed)
        assert bob.closed == (4017, "E2EE/DAVE protocol required")
        assert 2 not in bob.opcodes
        assert room(server).user_ids == (ANN,)
        assert (11 in ann.opcodes[ann.opcodes.index(11) + 1 :]) is False
        # It may ask again, for which it gets another ticket.
        async with dave_user(server, BOB, "dave.py") as able:
            await together(server, ann, able)


async def test_stage_channels_are_for_everybody() -> None:
    async with (
        LocalServer(dave="required", stage_channels={STAGE}) as server,
        dave_user(server, ANN, "davey", STAGE) as ann,
        dave_user(server, BOB, None, STAGE) as bob,
    ):
        await soon(lambda: {ANN, BOB} <= ann.known & bob.known)
        await everybody_hears(ann, bob)
        info = room(server, STAGE)
        assert (info.e2ee, info.e2ee_reason) == ("off", "stage channels are not encrypted")
        assert ann.version == 0
        assert 25 not in ann.opcodes


async def test_encryption_goes_off_for_who_has_none_and_comes_back() -> None:
    told: list[tuple[str, str | None]] = []

    def tell(info: RoomInfo) -> None:
        told.append((info.e2ee, info.e2ee_reason))

    async with (
        LocalServer(dave="optional", on_encryption=tell) as server,
        dave_user(server, ANN, "davey") as ann,
        dave_user(server, BOB, "dave.py") as bob,
    ):
        await together(server, ann, bob)
        async with dave_user(server, EVE, None) as eve:
            await soon(lambda: EVE in ann.known and room(server).e2ee == "off")
            assert room(server).e2ee_reason == f"user {EVE} does not support it"
            await soon(lambda: ann.version == bob.version == 0)
            await asyncio.sleep(0.15)  # for as long as nothing is forwarded to her
            await everybody_hears(ann, bob, eve)
        await together(server, ann, bob)
        await everybody_hears(ann, bob)
        off = ("off", f"user {EVE} does not support it")
        assert told == [("active", None), off, ("active", None)]


async def test_who_cannot_decrypt_is_sent_nothing_that_is_encrypted() -> None:
    async with (
        LocalServer(dave="optional") as server,
        dave_user(server, ANN, "davey") as ann,
        dave_user(server, BOB, "dave.py") as bob,
    ):
        await together(server, ann, bob)
        # A long way down: op 22 is late, and both go on to encrypt.
        server.faults.dave.delay_execute(0.5)
        async with dave_user(server, EVE, None) as eve:
            await soon(lambda: ANN in eve.known)
            for _ in range(10):
                ann.speak(b"not for Eve")
                await asyncio.sleep(0.02)
            assert ann.version == 1
            await soon(lambda: bob.heard.count((ANN, b"not for Eve")) == 10)
            assert eve.packets == 0
            await soon(lambda: ann.version == 0)
            await asyncio.sleep(0.15)
            ann.speak(b"for everybody")
            await soon(lambda: eve.heard == [(ANN, b"for everybody")])


async def test_who_lost_the_websocket_and_goes_on_encrypting_is_no_noise_to_others() -> None:
    async with (
        LocalServer(dave="optional") as server,
        dave_user(server, ANN, "davey") as ann,
        dave_user(server, BOB, "dave.py") as bob,
    ):
        await together(server, ann, bob)
        assert server.drop_voice(ANN, GUILD)
        ann.speak(b"not for Eve")
        await soon(lambda: bob.heard == [(ANN, b"not for Eve")])
        async with dave_user(server, EVE, None) as eve:
            await soon(lambda: room(server).e2ee == "off")
            await asyncio.sleep(0.15)
            assert ann.version == 1
            ann.speak(b"not for Eve")
            bob.speak(b"for everybody")
            await soon(lambda: eve.heard == [(BOB, b"for everybody")])
            assert eve.packets == 1


async def test_who_joins_a_call_that_is_not_encrypted_learns_so_at_once() -> None:
    async with LocalServer(dave="optional") as server, AsyncExitStack() as stays:
        bob = await stays.enter_async_context(dave_user(server, BOB, "dave.py"))
        async with dave_user(server, EVE, None) as eve:
            await soon(lambda: EVE in bob.known and room(server).e2ee == "off")
            ann = await stays.enter_async_context(dave_user(server, ANN, "davey"))
            await soon(lambda: 11 in ann.opcodes)
            assert 25 not in ann.opcodes
            await soon(lambda: bob.version == 0)
            await asyncio.sleep(0.15)
            await everybody_hears(ann, bob, eve)
        await together(server, ann, bob)
        await everybody_hears(ann, bob)


async def test_the_tap_shows_what_is_forwarded() -> None:
    seen: list[tuple[int, bytes]] = []

    async with (
        LocalServer(dave="required", tap=lambda *packet: seen.append(packet)) as server,
        dave_user(server, ANN, "davey") as ann,
        dave_user(server, BOB, "dave.py") as bob,
    ):
        await together(server, ann, bob)
        ann.speak(b"through the tap")
        await soon(lambda: bob.heard == [(ANN, b"through the tap")])
        ((user_id, packet),) = seen
        assert user_id == ANN
        assert struct.unpack("!I", packet[8:12])[0] == ann.ssrc
        assert packet.endswith(b"\xfa\xfa")
        assert b"through the tap" not in packet


async def test_what_goes_wrong_is_counted_by_the_server() -> None:
    async with (
        LocalServer(dave="required") as server,
        dave_user(server, ANN, "davey") as ann,
        dave_user(server, BOB, "dave.py") as bob,
    ):
        await together(server, ann, bob)
        await ann.send_binary(26, b"no key package")
        await ann.send_binary(28, b"no commit")
        await soon(lambda: server.counters.get("dave.key-package-malformed") == 1)
        assert ann.closed is None
        await everybody_hears(ann, bob)
