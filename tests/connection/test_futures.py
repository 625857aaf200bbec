"""Futures that are set at most once."""

from __future__ import annotations

import asyncio

import pytest

from discord_rtc.connection.futures import retire, settle

pytestmark = pytest.mark.asyncio


async def test_the_first_value_stays() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    settle(future, 1)
    settle(future, 2)
    assert await future == 1
    retire(future)
    assert future.result() == 1


async def test_a_retired_future_is_cancelled_or_its_error_seen() -> None:
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[int] = loop.create_future()
    retire(waiting)
    assert waiting.cancelled()
    retire(waiting)
    failed: asyncio.Future[int] = loop.create_future()
    failed.set_exception(ValueError("nobody asks"))
    retire(failed)
    del failed  # an unseen error would be logged now, which fails the test
