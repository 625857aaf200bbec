"""Browsers for the tests of the web page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from .browser import GRANTING, launched, used

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser as Chromium

    from .browser import Browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Chromium]:
    """It starts in a second, so the tests of a module share one."""
    async with launched(GRANTING) as chromium:
        yield chromium


@pytest_asyncio.fixture(loop_scope="module")
async def browser(chromium: Chromium) -> AsyncIterator[Browser]:
    """A browser whose user allows everything."""
    async with used(chromium) as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def wary_browser() -> AsyncIterator[Browser]:
    """A browser whose user allows nothing."""
    async with launched() as chromium, used(chromium) as browser:
        yield browser
