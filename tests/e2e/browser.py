"""A headless Chromium, and looks at what a page of the local server shows in it."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np
import pytest

from discord_rtc import Codec, ConnectionOptions, MediaKind, TestPattern, TestTone
from discord_rtc.media.stamps import Stamp, read_video_stamp
from discord_rtc.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from playwright.async_api import Browser as Chromium
    from playwright.async_api import BrowserContext, Page, ViewportSize

    from discord_rtc import VoiceConnection
    from discord_rtc.lab import Lab

OpenServer = partial(LocalServer, dave="optional")
"""One whose rooms take browsers, as `discord-rtc serve` does: their page does not encrypt."""

EVE, FAY = 7, 8  # users of browsers; the lab's begin at 1001

FOREIGN_HOST = "lan.test"
"""A name of this machine for Chromium, which does not take it for the machine itself."""

# What keeps a browser off the network and gives it a camera and a microphone without hardware.
FLAGS = (
    "--allow-loopback-in-peer-connection",  # for machines that have no interface but lo
    "--autoplay-policy=no-user-gesture-required",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    f"--host-resolver-rules=MAP {FOREIGN_HOST} 127.0.0.1",
    "--no-first-run",
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
)

GRANTING = "--use-fake-ui-for-media-stream"
"""Answers every question of the browser with yes, also which screen to share."""

WINDOW: ViewportSize = {"width": 800, "height": 600}  # small, since it is drawn in software


def chromium_path() -> str | None:
    """Where Chromium is on this machine."""
    return os.environ.get("DISCORD_RTC_CHROMIUM") or shutil.which("chromium")


class Browser:
    """Chromium with pages that know nothing of each other.

    Attributes:
        errors: What pages wrote to the console as errors, and exceptions that nobody caught.
    """

    def __init__(self, chromium: Chromium) -> None:
        self.errors: list[str] = []
        self._chromium = chromium

    async def context(
        self,
        *,
        viewport: ViewportSize = WINDOW,
        dark: bool = False,
        phone: bool = False,
    ) -> BrowserContext:
        """A profile of its own, with its own storage and kind of screen.

        Args:
            viewport: Size of the window.
            dark: Whether the system prefers dark colours.
            phone: Whether there are fingers instead of a mouse.
        """
        return await self._chromium.new_context(
            viewport=viewport,
            color_scheme="dark" if dark else "light",
            has_touch=phone,
            is_mobile=phone,
        )

    async def open(self, url: str, context: BrowserContext | None = None, **query: object) -> Page:
        """A page.

        Args:
            url: Where it is.
            context: From `context`; a new one by default.
            query: Parameters of the URL.
        """
        page = await (context or await self.context()).new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "console",
            lambda message: self.errors.append(message.text) if message.type == "error" else None,
        )
        await page.goto(f"{url}?{urlencode(query)}" if query else url)
        return page


@asynccontextmanager
async def launched(*flags: str) -> AsyncIterator[Chromium]:
    """A headless Chromium; the test is skipped where there is none."""
    path = chromium_path()
    if path is None:
        pytest.skip("Chromium is not installed (or set DISCORD_RTC_CHROMIUM to its path)")
    api = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    async with api.async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=path, headless=True, args=[*FLAGS, *flags]
        )
        yield chromium
        await chromium.close()


@asynccontextmanager
async def used(chromium: Chromium) -> AsyncIterator[Browser]:
    """Chromium as one test sees it; what its pages complain about fails the test."""
    browser = Browser(chromium)
    yield browser
    for context in chromium.contexts:
        await context.close()
    # The browser itself writes this down while a page looks for a server that has gone.
    assert [text for text in browser.errors if "ERR_CONNECTION_REFUSED" not in text] == []


WIDTH, HEIGHT = 320, 180

# The green of a tile's picture, which is luma enough to read a stamp of black and white cells.
GRAB = """([id, width, height]) => {
  const video = document.querySelector(`[data-user="${id}"] video`);
  if (!video?.videoWidth) return null;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  let text = "";
  for (let index = 1; index < data.length; index += 4) text += String.fromCharCode(data[index]);
  return btoa(text);
}"""

INBOUND = """async ([id, kind]) => {
  const report = await page.receiverOf(id, kind)?.getStats();
  return [...report?.values() ?? []].findLast(({ type }) => type === "inbound-rtp") ?? null;
}"""

OUTBOUND = """async (kind) => {
  const report = await page.connection.getStats();
  return [...report.values()].find((one) => one.type === "outbound-rtp" && one.kind === kind);
}"""


async def soon(condition: Callable[[], Awaitable[Any]], *, within: float = 5.0) -> Any:
    """What a condition gives once that is true."""
    async with asyncio.timeout(within):
        while not (found := await condition()):  # noqa: ASYNC110 - it is asked of another process
            await asyncio.sleep(0.05)
    return found


async def luma(page: Page, user_id: int) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    grabbed = await page.evaluate(GRAB, [str(user_id), WIDTH, HEIGHT])
    if grabbed is None:
        return None
    return np.frombuffer(base64.b64decode(grabbed), np.uint8).reshape(HEIGHT, WIDTH)


async def shows(page: Page, user_id: int) -> bool:
    return await luma(page, user_id) is not None


async def stamp_of(page: Page, user_id: int) -> Stamp | None:
    """The stamp in the picture that a page shows of a user now."""
    picture = await luma(page, user_id)
    return None if picture is None else read_video_stamp(picture)


async def inbound(page: Page, user_id: int, kind: str = "video") -> dict[str, Any]:
    """The browser's figures of what it gets from a user."""
    found: dict[str, Any] = await page.evaluate(INBOUND, [str(user_id), kind])
    return found


async def outbound(page: Page, kind: str = "video") -> dict[str, Any]:
    """The browser's figures of what it sends."""
    found: dict[str, Any] = await page.evaluate(OUTBOUND, kind)
    return found


def sent_by(voice: VoiceConnection) -> int:
    """Pictures that a Python user has sent; a busy machine's encoder skips some."""
    return voice.stats().published[MediaKind.VIDEO]["sent"]


async def live(page: Page) -> None:
    await page.locator("body[data-state=live]").wait_for()


def options(codec: Codec, transport: str = "udp") -> ConnectionOptions:
    return ConnectionOptions(transport=transport, codecs=(codec,))  # type: ignore[arg-type]


async def sender(
    lab: Lab, name: str, codec: Codec = Codec.VP8, transport: str = "udp", width: int = 640
) -> VoiceConnection:
    """A Python user who sends a stamped picture and a tone."""
    voice = await lab.user(name, options=options(codec, transport))
    await voice.publish(camera=TestPattern(width, width * 9 // 16, fps=30), microphone=TestTone())
    return voice


async def differs(page: Page, user_id: int, picture: Any) -> bool:
    now = await luma(page, user_id)
    return now is not None and bool(np.any(now != picture))
