"""The web page in a real browser: what people read, press and see."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from discord_rtc import Codec
from discord_rtc.lab import Lab
from discord_rtc.server.world import RoomKey

from .browser import (
    EVE,
    FAY,
    OpenServer,
    differs,
    live,
    luma,
    options,
    sender,
    shows,
    soon,
    stamp_of,
)

if TYPE_CHECKING:
    from playwright.async_api import Page

    from .browser import Browser

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.interop]


# What goes wrong, and what people read then


def notice(page: Page) -> Any:
    return page.locator("#notice:not([hidden])")


@pytest.mark.parametrize("device", ["camera", "microphone"])
async def test_a_refused_device_is_explained_and_the_call_goes_on(
    wary_browser: Browser, device: str
) -> None:
    async with Lab(OpenServer()) as lab:
        ann = await sender(lab, "Ann")
        page = await wary_browser.open(f"{lab.server.page_url}?auto=1&name=Eve&{device}=1")
        await notice(page).get_by_text(f"did not get permission for the {device}").wait_for()
        await notice(page).get_by_text(f"allow the {device} for this page").wait_for()
        await live(page)
        await soon(lambda: stamp_of(page, ann.id))
        button = page.locator(f"[data-send={device}]")
        assert await button.get_attribute("aria-pressed") == "false"
        assert await button.is_enabled()
        await page.locator("#notice-close").click()
        assert await page.locator("#notice").is_hidden()


async def test_a_page_from_elsewhere_says_why_there_is_no_camera(browser: Browser) -> None:
    async with Lab(OpenServer()) as lab:
        ann = await lab.user("Ann", options=options(Codec.VP8))
        url = lab.server.page_url.replace("127.0.0.1", "lan.test")
        page = await browser.open(url, auto=1, user=EVE, name="Eve", camera=1)
        await notice(page).get_by_text("pages from https or from this computer").wait_for()
        await notice(page).get_by_text("http://127.0.0.1:").wait_for()
        assert await page.locator("[data-send=screen]").is_hidden()
        await page.locator("[data-send=pattern]").click()
        eve = await ann.user(EVE, timeout=5)
        async with asyncio.timeout(10):
            await eve.camera.recv()


async def test_the_page_comes_back_with_the_server(browser: Browser) -> None:
    server = OpenServer()
    await server.start()
    port = int(server.voice_endpoint.rpartition(":")[2])
    page = await browser.open(server.page_url, auto=1, name="Eve", user=EVE, pattern=1)
    await live(page)
    await server.aclose()
    await notice(page).get_by_text("The server went away").wait_for()
    await page.get_by_role("button", name="Rejoin now").wait_for()
    assert await page.locator("#state").inner_text() == "Disconnected"
    async with Lab(OpenServer(port=port)) as lab:
        ann = await lab.user("Ann", options=options(Codec.VP8))
        await live(page)
        assert await page.locator("#notice").is_hidden()
        eve = await ann.user(EVE, timeout=5)
        async with asyncio.timeout(10):
            await eve.camera.recv()


async def test_who_is_kicked_reads_so_and_may_join_again(browser: Browser) -> None:
    async with Lab(OpenServer()) as lab:
        page = await browser.open(lab.server.page_url, auto=1, name="Eve", user=EVE)
        await live(page)
        lab.server.kick(EVE, 10)
        await notice(page).get_by_text("You were removed from the room.").wait_for()
        assert await page.locator("#card").is_visible()
        await page.get_by_role("button", name="Join again").click()
        await live(page)
        assert lab.server.rooms[RoomKey(10, 20)].user_ids == (EVE,)


@pytest.mark.parametrize("server_first", [False, True])
async def test_who_is_moved_goes_along(browser: Browser, server_first: bool) -> None:
    async with Lab(OpenServer(server_update_first=server_first)) as lab:
        ann = await lab.user("Ann", channel_id=21, options=options(Codec.VP8))
        page = await browser.open(lab.server.page_url, auto=1, name="Eve", user=EVE, pattern=1)
        await live(page)
        lab.server.move(EVE, 10, 21)
        eve = await ann.user(EVE, timeout=5)
        async with asyncio.timeout(10):
            await eve.camera.recv()
        await page.locator("#room", has_text="channel 21").wait_for()
        await live(page)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (4017, "requires end-to-end encryption (DAVE), which this page does not have"),
        (4014, "You were removed from the room."),
        (4012, "does not speak this page's version"),
    ],
)
async def test_a_refusal_is_put_into_words(browser: Browser, code: int, text: str) -> None:
    async with Lab(OpenServer()) as lab:
        page = await browser.open(lab.server.page_url, auto=1, name="Eve", user=EVE)
        await live(page)
        lab.server.close_voice(EVE, 10, code=code, reason="as a test")
        await notice(page).get_by_text(text).wait_for()


async def test_a_crashed_voice_server_is_joined_anew(browser: Browser) -> None:
    async with Lab(OpenServer()) as lab:
        page = await browser.open(lab.server.page_url, auto=1, name="Eve", user=EVE)
        await live(page)
        lab.server.close_voice(EVE, 10, code=4015)
        await notice(page).get_by_text("The server went away (code 4015").wait_for()
        await page.get_by_role("button", name="Rejoin now").click()
        await live(page)


async def test_blocked_udp_is_named(browser: Browser) -> None:
    async with Lab(OpenServer()) as lab:
        lab.faults.block()
        page = await browser.open(lab.server.page_url, auto=1, name="Eve", user=EVE)
        await (
            notice(page)
            .get_by_text("Is UDP between here and the server blocked?")
            .wait_for(timeout=15_000)
        )
        assert lab.server.counters["voice.no-route"] == 1


async def test_video_that_is_not_granted_ends_with_a_sentence(browser: Browser) -> None:
    async with Lab(OpenServer(grant_video=lambda user_id: user_id != EVE)) as lab:
        page = await browser.open(lab.server.page_url, auto=1, name="Eve", user=EVE, pattern=1)
        await notice(page).get_by_text("does not let this user send video").wait_for()
        assert await page.locator("[data-send=pattern]").get_attribute("aria-pressed") == "false"


# The page itself


async def test_joining_by_keyboard_and_being_remembered(browser: Browser) -> None:
    async with Lab(OpenServer()) as lab:
        context = await browser.context()
        page = await browser.open(lab.server.page_url, context)
        assert await page.locator("[name=guild]").input_value() == "10"
        assert await page.locator("[name=channel]").input_value() == "20"
        await page.keyboard.type("Eve <b>")  # the field has the focus from the start
        await page.keyboard.press("Enter")
        await live(page)
        assert await page.locator(".own .name").text_content() == "Eve <b> (you)"
        assert list(lab.server.users.values()) == ["Eve <b>"]
        await page.get_by_role("button", name="Leave").click()
        await page.locator("#card").wait_for()
        await soon(lambda: asyncio.sleep(0, not lab.server.rooms))
        await page.reload()
        assert await page.locator("[name=name]").input_value() == "Eve <b>"


async def test_a_call_without_a_guild(browser: Browser) -> None:
    async with Lab(OpenServer()) as lab:
        url = lab.server.page_url
        one = await browser.open(url, auto=1, name="Eve", user=EVE, guild="", pattern=1)
        two = await browser.open(url, auto=1, name="Fay", user=FAY, guild="")
        await soon(lambda: shows(two, EVE))
        await two.locator(f'[data-user="{EVE}"] .name', has_text="Eve").wait_for()
        await one.locator(f'[data-user="{FAY}"] .name', has_text="Fay").wait_for()
        assert list(lab.server.rooms) == [(None, 20)]


async def test_somebody_is_silenced_for_oneself_only(browser: Browser) -> None:
    async with Lab(OpenServer()) as lab:
        ann = await sender(lab, "Ann")
        page = await browser.open(lab.server.page_url, auto=1, name="Eve", user=EVE)
        tile = page.locator(f'[data-user="{ann.id}"]')
        await tile.and_(page.locator(".speaking")).wait_for()
        silence = tile.get_by_role("button", name="Silence Ann for you")
        await silence.click()
        assert await silence.get_attribute("aria-pressed") == "true"
        await tile.get_by_text("silenced by you").wait_for()
        volume = tile.get_by_role("slider", name="Volume of Ann")
        await volume.fill("30")
        await silence.click()
        await tile.get_by_text("silenced by you").wait_for(state="detached")
        # Muting at the source is shown too.
        await ann.update_voice_state(self_mute=True)
        await tile.get_by_text("muted", exact=True).wait_for()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
async def test_it_fits_the_screen(browser: Browser, width: int, height: int, dark: bool) -> None:
    async with Lab(OpenServer()) as lab:
        ann = await sender(lab, "Ann")
        bob = await lab.user("Bob with a name that takes up a whole line at the very least")
        context = await browser.context(
            viewport={"width": width, "height": height}, dark=dark, phone=width < 600
        )
        page = await browser.open(lab.server.page_url, context, auto=1, name="Eve", camera=1)
        await soon(lambda: shows(page, ann.id))
        await page.locator(".own.showing").wait_for()
        assert not await page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        for user in (ann, bob):
            box = await page.locator(f'[data-user="{user.id}"]').bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["width"] >= 0.3 * width
        bar = await page.locator("#bar").bounding_box()
        assert bar is not None
        assert bar["y"] + bar["height"] <= height
        # A tile's picture is no still.
        first = await luma(page, ann.id)
        await soon(lambda: differs(page, ann.id, first))
