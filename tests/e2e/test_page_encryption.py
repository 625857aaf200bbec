"""The web page where calls are encrypted: it has no DAVE, and says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from discord_rtc import Codec, ConnectionOptions, TestPattern, TestTone
from discord_rtc.lab import CHANNEL_ID, GUILD_ID, Lab
from discord_rtc.server import LocalServer
from discord_rtc.server.world import RoomKey

from .browser import EVE, live, soon, stamp_of
from .dave_user import dave_user

if TYPE_CHECKING:
    from playwright.async_api import Page

    from discord_rtc.server.channel import RoomInfo

    from .browser import Browser

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.interop]

ANN, BOB = 1, 2
WARNING = "This room is encrypted end to end"
OFF = "encryption off: a browser is in the room"


def room(server: LocalServer) -> RoomInfo:
    return server.rooms[RoomKey(GUILD_ID, CHANNEL_ID)]


async def encrypted(server: LocalServer) -> None:
    await soon(lambda: asyncio.sleep(0, room(server).e2ee == "active"))


def notice(page: Page) -> Any:
    return page.locator("#notice:not([hidden])")


async def test_where_encryption_is_required_it_says_why_it_is_refused(browser: Browser) -> None:
    async with LocalServer(dave="required") as server:
        page = await browser.open(server.page_url, auto=1, name="Eve", user=EVE)
        await (
            notice(page).get_by_text("This server requires end-to-end encryption (DAVE)").wait_for()
        )
        assert await notice(page).get_by_text("Start it with --dave optional").is_visible()
        assert await page.locator("#card").is_visible()
        await asyncio.sleep(2.5)  # more than the first pause before trying again
        assert server.counters["voice.opened"] == server.counters["voice.closed.4017"] == 1
        assert await page.locator("#warning").is_hidden()


async def test_a_page_switches_the_encryption_off_and_on_again(browser: Browser) -> None:
    options = ConnectionOptions(dave="preferred", codecs=(Codec.VP8,), transport="udp")
    async with Lab(LocalServer(dave="optional")) as lab:
        ann = await lab.user("Ann", options=options)
        bob = await lab.user("Bob", options=options)
        await ann.publish(camera=TestPattern(640, 360, fps=30), microphone=TestTone())
        await encrypted(lab.server)
        page = await browser.open(lab.server.page_url, name="Eve", user=EVE)
        await page.locator("#warning", has_text=WARNING).wait_for()
        await page.get_by_role("button", name="Join").click()
        await live(page)
        await page.locator("#e2ee", has_text=OFF).wait_for()
        await soon(lambda: stamp_of(page, ann.id))
        assert room(lab.server).e2ee_reason == "a browser is in the room"
        assert (ann.e2ee, bob.e2ee) == ("off", "off")
        await page.get_by_role("button", name="Leave").click()
        await page.locator("#card").wait_for()
        assert await page.locator("#e2ee").is_hidden()
        await encrypted(lab.server)
        await page.locator("#warning", has_text=WARNING).wait_for()
        await soon(lambda: asyncio.sleep(0, (ann.e2ee, bob.e2ee) == ("active", "active")))


async def test_the_warning_is_about_the_room_on_the_card(browser: Browser) -> None:
    async with (
        LocalServer(dave="optional") as server,
        dave_user(server, ANN, "davey"),
        dave_user(server, BOB, "dave.py"),
    ):
        await soon(lambda: asyncio.sleep(0, bool(server.rooms)))
        await encrypted(server)
        page = await browser.open(server.page_url, channel=21)
        channel = page.locator("[name=channel]")
        await asyncio.sleep(0.3)
        assert await page.locator("#warning").is_hidden()
        await channel.fill("20")
        await page.locator("#warning", has_text=WARNING).wait_for()
        await channel.fill("200")
        await page.locator("#warning").wait_for(state="hidden")


async def test_without_encryption_nothing_is_said_about_it(browser: Browser) -> None:
    async with Lab(LocalServer(dave="off")) as lab:
        ann = await lab.user("Ann", options=ConnectionOptions(dave="off", codecs=(Codec.VP8,)))
        page = await browser.open(lab.server.page_url, auto=1, name="Eve", user=EVE)
        await live(page)
        await page.locator(f'[data-user="{ann.id}"] .name', has_text="Ann").wait_for()
        assert await page.locator("#e2ee").is_hidden()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
async def test_what_is_said_fits_the_screen(
    browser: Browser, width: int, height: int, dark: bool
) -> None:
    async with (
        LocalServer(dave="optional") as server,
        dave_user(server, ANN, "davey"),
        dave_user(server, BOB, "dave.py"),
    ):
        await soon(lambda: asyncio.sleep(0, bool(server.rooms)))
        await encrypted(server)
        context = await browser.context(
            viewport={"width": width, "height": height}, dark=dark, phone=width < 600
        )
        page = await browser.open(server.page_url, context, name="Eve")
        await fits(page, "#warning", width)
        join = await page.get_by_role("button", name="Join").bounding_box()
        assert join is not None
        assert join["y"] + join["height"] <= height
        await page.get_by_role("button", name="Join").click()
        await live(page)
        await fits(page, "#e2ee", width)
        bar = await page.locator("#bar").bounding_box()
        assert bar is not None
        assert bar["y"] + bar["height"] <= height


async def fits(page: Page, selector: str, width: int) -> None:
    """Wait until it is there, and see that it is inside of the window."""
    await page.locator(selector).wait_for()
    box = await page.locator(selector).bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert not await page.evaluate(
        "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
