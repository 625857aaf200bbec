"""Users of a connection, who outlive its sessions."""

from __future__ import annotations

import asyncio

import pytest

from discord_rtc.connection.events import Event, UserJoined, UserLeft
from discord_rtc.connection.people import CallPeople
from discord_rtc.errors import ConnectionLost
from discord_rtc.frames import MediaKind

pytestmark = pytest.mark.asyncio


@pytest.fixture
def people() -> CallPeople:
    return CallPeople(lambda *_: None)


async def test_a_user_joins_once(people: CallPeople) -> None:
    events = people.events.subscribe((Event,))
    user = people.ensure(5)
    assert people.ensure(5) is user
    assert people.get(5) is user
    assert people.get(6) is None
    assert people.users == {5: user}
    people.events.close()
    assert [event async for event in events] == [UserJoined(5)]


async def test_demand_names_the_user() -> None:
    told: list[tuple[int, MediaKind, bool]] = []
    people = CallPeople(lambda *what: told.append(what))
    people.ensure(5).camera.reader().close()
    assert told == [(5, MediaKind.VIDEO, True), (5, MediaKind.VIDEO, False)]


async def test_leaving_ends_the_tracks(people: CallPeople) -> None:
    user = people.ensure(5)
    events = people.events.subscribe((Event,))
    people.leave(5)
    people.leave(5)
    assert user.microphone.readyState == user.camera.readyState == "ended"
    assert people.users == {}
    people.events.close()
    assert [event async for event in events] == [UserLeft(5)]


async def test_those_who_are_not_there_any_more_go(people: CallPeople) -> None:
    for user_id in (1, 2, 3):
        people.ensure(user_id)
    people.keep_only(frozenset({2, 9}))
    assert set(people.users) == {2}


async def test_arrival_waits_for_a_user(people: CallPeople) -> None:
    waiting = [asyncio.ensure_future(people.arrival(5)) for _ in range(2)]
    other = asyncio.ensure_future(people.arrival(6))
    await asyncio.sleep(0)
    user = people.ensure(5)
    assert await asyncio.gather(*waiting) == [user, user]
    assert await people.arrival(5) is user
    assert not other.done()
    last = people.ensure(6)
    assert await other is last


async def test_giving_up_the_wait_does_not_disturb_others(people: CallPeople) -> None:
    impatient, patient = (asyncio.ensure_future(people.arrival(5)) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    user = people.ensure(5)
    assert await patient is user


async def test_waiting_for_a_return_survives_the_end_of_an_earlier_wait(
    people: CallPeople,
) -> None:
    first = asyncio.ensure_future(people.arrival(5))
    await asyncio.sleep(0)
    gone = people.ensure(5)
    people.leave(5)
    second = asyncio.ensure_future(people.arrival(5))
    assert await first is gone
    await asyncio.sleep(0)
    user = people.ensure(5)
    async with asyncio.timeout(1):
        assert await second is user


async def test_the_end_of_the_connection_ends_the_wait(people: CallPeople) -> None:
    present = people.ensure(1)
    waiting = asyncio.ensure_future(people.arrival(5))
    await asyncio.sleep(0)
    people.close()
    with pytest.raises(ConnectionLost, match="ended before user 5 came"):
        await waiting
    with pytest.raises(ConnectionLost, match="ended before user 6 came"):
        await people.arrival(6)
    assert people.users == {}
    assert present.camera.readyState == "ended"
