"""The pytest plugin: voice calls in your own tests, without account or internet.

Fixtures: ``lab`` (a `Lab`), ``voice_server`` (a started `LocalServer`), ``manual_clock``
(a `ManualClock`), ``lossy_link`` (a factory of impaired in-memory transports). Async
fixtures need pytest-asyncio. Loading the plugin imports nothing of this library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pytest_asyncio import fixture as _async_fixture

    from discord_rtc.clock import ManualClock
    from discord_rtc.lab import Lab
    from discord_rtc.server import LocalServer
    from discord_rtc.transport.memory import MemoryTransport

    LossyLink = Callable[..., tuple[MemoryTransport, MemoryTransport]]
else:
    try:
        from pytest_asyncio import fixture as _async_fixture
    except ModuleNotFoundError:  # the plugin must load wherever this library is installed
        _async_fixture = pytest.fixture


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker for tests that need a real Discord account."""
    config.addinivalue_line(
        "markers", "discord_live: needs a real Discord account (DISCORD_TOKEN in the environment)"
    )


@_async_fixture
async def voice_server() -> AsyncIterator[LocalServer]:
    """A started local server."""
    from discord_rtc.server import LocalServer  # noqa: PLC0415 - installing costs nothing

    async with LocalServer() as server:
        yield server


@_async_fixture
async def lab() -> AsyncIterator[Lab]:
    """A local server with named clients."""
    from discord_rtc.lab import Lab  # noqa: PLC0415 - as above

    async with Lab() as lab:
        yield lab


@pytest.fixture
def manual_clock() -> ManualClock:
    """A clock that moves only when the test moves it."""
    from discord_rtc.clock import ManualClock  # noqa: PLC0415 - as above

    return ManualClock()


@pytest.fixture
def lossy_link() -> LossyLink:
    """A factory: ``lossy_link(loss=0.05, jitter=0.01, seed=7)`` gives two connected transports.

    The keywords are those of `discord_rtc.netem.Impairment`; both directions get the same
    impairment, with different seeds. Call it from within the test's running loop.
    """
    from discord_rtc.netem import Impairment, Netem  # noqa: PLC0415 - as above
    from discord_rtc.transport.memory import memory_pair  # noqa: PLC0415 - as above

    def make(*, seed: int = 0, **impairment: float) -> tuple[MemoryTransport, MemoryTransport]:
        there = Netem(Impairment(**impairment), seed)  # type: ignore[arg-type]  # rate is an int
        back = Netem(Impairment(**impairment), seed + 1)  # type: ignore[arg-type]  # as above
        return memory_pair(a_to_b=there, b_to_a=back)

    return make
