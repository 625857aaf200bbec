"""The lab: named users in one call, and nothing left afterwards."""

from __future__ import annotations

import asyncio
import threading

import pytest

from discord_rtc import ConnectionOptions, UsageError
from discord_rtc.lab import Lab
from discord_rtc.server import LocalServer

pytestmark = pytest.mark.asyncio


async def test_users_see_each_other_when_they_are_handed_out(lab: Lab) -> None:
    ann, bob, cat = await lab.users(ann="udp", bob="udp", cat="auto")
    assert set(ann.users) == {bob.id, cat.id}
    assert set(bob.users) == {ann.id, cat.id}
    assert set(cat.users) == {ann.id, bob.id}


async def test_a_name_stands_for_one_user_and_one_connection(lab: Lab) -> None:
    ann = await lab.user("ann")
    assert await lab.user("ann") is ann
    assert lab.user_id("ann") == ann.id
    assert lab.server.users[ann.id] == "ann"


async def test_a_user_can_leave_and_come_back(lab: Lab) -> None:
    ann, bob = await lab.users(ann="udp", bob="udp")
    await lab.leave("ann")
    await lab.leave("nobody")
    assert not ann.is_valid
    again = await lab.user("ann")
    assert again.id == ann.id
    assert (await bob.user(again.id, timeout=5)).id == ann.id


async def test_a_call_needs_somebody(lab: Lab) -> None:
    with pytest.raises(UsageError, match="at least one name"):
        await lab.users()


async def test_a_lab_on_a_given_server_uses_its_faults() -> None:
    server = LocalServer()
    async with Lab(server) as lab:
        assert lab.server is server
        assert lab.faults is server.faults
        options = ConnectionOptions(gateway_version=4)
        assert (await lab.user("ann", options=options)).state == "connected"


async def test_nothing_is_left_when_a_lab_is_closed() -> None:
    # Threads of the loop's own executor (name resolution) belong to the loop.
    await asyncio.to_thread(int)
    tasks = asyncio.all_tasks()
    async with Lab() as lab:
        await lab.users(ann="udp", bob="udp")
    await lab.aclose()
    assert asyncio.all_tasks() == tasks
    assert not [t.name for t in threading.enumerate() if t.name.startswith("discord-rtc")]
