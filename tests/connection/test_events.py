"""Subscriptions."""

from __future__ import annotations

import asyncio

import pytest

from discord_rtc.connection.events import (
    SUBSCRIPTION_BOUND,
    Event,
    EventBus,
    StateChanged,
    UserJoined,
    UserLeft,
)
from discord_rtc.errors import EventsOverflow

pytestmark = pytest.mark.asyncio


async def test_a_subscription_gets_its_types_in_order() -> None:
    bus = EventBus()
    events = bus.subscribe((UserJoined, UserLeft))
    for event in (UserJoined(1), StateChanged("connected"), UserLeft(1), UserJoined(2)):
        bus.emit(event)
    bus.close()
    assert [event async for event in events] == [UserJoined(1), UserLeft(1), UserJoined(2)]


async def test_the_base_class_means_everything() -> None:
    bus = EventBus()
    events = bus.subscribe((Event,))
    bus.emit(UserJoined(1))
    bus.emit(StateChanged("connected"))
    assert await anext(events) == UserJoined(1)
    assert await anext(events) == StateChanged("connected")


async def test_a_subscription_begins_when_it_is_made() -> None:
    bus = EventBus()
    bus.emit(UserJoined(1))
    events = bus.subscribe((UserJoined,))
    bus.emit(UserJoined(2))
    assert await anext(events) == UserJoined(2)


async def test_a_reader_that_waits_is_woken() -> None:
    bus = EventBus()
    events = bus.subscribe((UserJoined,))
    reading = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    bus.emit(UserJoined(1))
    assert await reading == UserJoined(1)


async def test_several_subscriptions_get_every_event() -> None:
    bus = EventBus()
    one, two = bus.subscribe((UserJoined,)), bus.subscribe((UserJoined,))
    bus.emit(UserJoined(1))
    assert await anext(one) == await anext(two) == UserJoined(1)


async def test_overflow_ends_only_the_subscription_that_is_not_read() -> None:
    bus = EventBus()
    lazy, busy = bus.subscribe((UserJoined,)), bus.subscribe((UserJoined,))
    for number in range(SUBSCRIPTION_BOUND + 1):
        bus.emit(UserJoined(number))
        assert await anext(busy) == UserJoined(number)
    for _ in range(2):
        with pytest.raises(EventsOverflow, match=str(SUBSCRIPTION_BOUND)):
            await anext(lazy)
    bus.emit(UserJoined(5000))
    assert await anext(busy) == UserJoined(5000)


async def test_a_full_subscription_loses_nothing() -> None:
    bus = EventBus()
    events = bus.subscribe((UserJoined,))
    for number in range(SUBSCRIPTION_BOUND):
        bus.emit(UserJoined(number))
    bus.close()
    assert [event.user_id async for event in events] == list(range(SUBSCRIPTION_BOUND))


async def test_closing_ends_the_iteration_after_what_is_held() -> None:
    bus = EventBus()
    async with bus.subscribe((UserJoined,)) as events:
        bus.emit(UserJoined(1))
    bus.emit(UserJoined(2))
    events.close()
    assert [event async for event in events] == [UserJoined(1)]


async def test_a_waiting_reader_is_released_by_the_end() -> None:
    bus = EventBus()
    events = bus.subscribe((UserJoined,))
    reading = asyncio.ensure_future(anext(events, None))
    await asyncio.sleep(0)
    bus.close()
    assert await reading is None


async def test_a_subscription_to_a_closed_bus_is_at_its_end() -> None:
    bus = EventBus()
    bus.close()
    bus.emit(UserJoined(1))
    assert [event async for event in bus.subscribe((UserJoined,))] == []


async def test_a_cancelled_reader_loses_nothing() -> None:
    bus = EventBus()
    events = bus.subscribe((UserJoined,))
    reading = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    reading.cancel()
    bus.emit(UserJoined(1))
    await asyncio.wait([reading])
    assert await anext(events) == UserJoined(1)
