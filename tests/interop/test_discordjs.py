"""@discordjs/voice, unmodified, in calls on a local server, one of them with discord.py."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from discord_rtc import TestTone
from discord_rtc.lab import CHANNEL_ID, GUILD_ID

from ..e2e.calls import eventually
from .discord_js import discord_js_bot, stamps_of
from .house import agreed, code_of, house
from .sounds import Heard, tone_opus

if TYPE_CHECKING:
    from discord_rtc.server.encryption import DaveMode

pytestmark = [pytest.mark.interop, pytest.mark.asyncio]

BOT, PYTHON_BOT = 600, 500


@pytest.mark.parametrize("dave", ["off", "required"])
@pytest.mark.parametrize("transport", ["udp", "webrtc"])
async def test_both_hear_each_other_whole(transport: str, dave: DaveMode) -> None:
    async with house(dave) as here, discord_js_bot(here.server, BOT, GUILD_ID) as bot:
        ann = await here.person("ann", transport)
        await bot.join(CHANNEL_ID)
        await bot.listen(ann.id)
        if dave == "required":
            await agreed(code_of(ann), bot.privacy_code)
        async with await Heard.of(ann, BOT) as heard:
            await ann.publish(microphone=TestTone())
            await bot.play(await tone_opus(100))
            await heard.until(99)
            numbers = await bot.heard(ann.id, 99)
        assert heard.numbers == list(range(100))
        assert numbers[:100] == list(range(100))
        clear = here.in_clear(BOT), here.in_clear(ann.id)
        assert clear == (0, 0) if dave == "required" else min(clear) >= 100
        assert bot.errors == []


async def test_three_libraries_in_one_call() -> None:
    pytest.importorskip("discord", reason="discord.py is not installed")
    pytest.importorskip("davey", reason="discord.py has no DAVE without davey")
    from . import discord_py

    async with (
        house() as here,
        discord_py.bot(here.server, PYTHON_BOT) as client,
        discord_js_bot(here.server, BOT, GUILD_ID) as bot,
    ):
        voice = await discord_py.enter(client, CHANNEL_ID)
        await bot.join(CHANNEL_ID)
        ann = await here.person("ann")
        await agreed(code_of(ann), bot.privacy_code, discord_py.code_of(voice))
        await bot.listen(ann.id)
        await bot.listen(PYTHON_BOT)
        frames = await tone_opus(100)
        async with await Heard.of(ann, BOT) as script, await Heard.of(ann, PYTHON_BOT) as python:
            await ann.publish(microphone=TestTone())
            playing = discord_py.played(voice, discord_py.OpusFrames(frames))
            await asyncio.gather(playing, bot.play(frames))
            await asyncio.gather(script.until(99), python.until(99))
            numbers = await bot.heard(ann.id, 99), await bot.heard(PYTHON_BOT, 99)
        # discord.py has no way to receive; every other direction is here.
        for heard in (script.numbers, python.numbers, numbers[0][:100], numbers[1]):
            assert heard == list(range(100))
        assert [here.in_clear(user_id) for user_id in (ann.id, BOT, PYTHON_BOT)] == [0, 0, 0]
        assert bot.errors == []


async def test_who_stays_misses_nothing_when_others_come_and_go() -> None:
    async with house() as here, discord_js_bot(here.server, BOT, GUILD_ID) as bot:
        ann = await here.person("ann")
        await bot.join(CHANNEL_ID)
        await bot.listen(ann.id)
        codes = [await agreed(code_of(ann), bot.privacy_code)]
        async with await Heard.of(ann, BOT) as heard:
            await ann.publish(microphone=TestTone())
            playing = asyncio.create_task(bot.play(await tone_opus(200)))
            await heard.until(20)
            bob = await here.person("bob", "webrtc")
            everybody = code_of(ann), bot.privacy_code
            codes.append(await agreed(*everybody, code_of(bob), but=codes))
            await heard.until(100)
            await here.leave("bob")
            codes.append(await agreed(*everybody, but=codes))
            await playing
            await heard.until(199)
            numbers = await bot.heard(ann.id, 190)
        assert heard.numbers == list(range(200))
        assert numbers == list(range(len(numbers)))
        assert here.in_clear(BOT) == here.in_clear(ann.id) == 0
        assert bot.errors == []


async def test_it_resumes_when_its_websocket_was_cut() -> None:
    async with house() as here, discord_js_bot(here.server, BOT, GUILD_ID) as bot:
        ann = await here.person("ann")
        await bot.join(CHANNEL_ID)
        await bot.listen(ann.id)
        code = await agreed(code_of(ann), bot.privacy_code)
        async with await Heard.of(ann, BOT) as heard:
            await ann.publish(microphone=TestTone())
            playing = asyncio.create_task(bot.play(await tone_opus(150)))
            await heard.until(30)
            since = len(bot.reports)
            assert here.server.drop_voice(BOT, GUILD_ID)
            await bot.until("state", since=since, status="ready")
            assert not here.server.counters.get("gateway.closed.1006")
            await playing
            await heard.until(149)
            numbers = await bot.heard(ann.id, 140)
        counters = here.server.counters
        assert (counters["voice.detached.1006"], counters["voice.resumed"]) == (1, 1)
        assert await agreed(code_of(ann), bot.privacy_code) == code, "the group is the same"
        # While it resumes, some 20 ms on an idle machine, it neither plays nor decrypts.
        assert len(set(range(150)) - set(heard.numbers)) <= 10
        assert len(set(range(140)) - set(numbers)) <= 10
        assert here.in_clear(BOT) == 0


async def test_a_bot_that_leaves_and_comes_back_is_heard_again() -> None:
    async with house() as here, discord_js_bot(here.server, BOT, GUILD_ID) as bot:
        ann = await here.person("ann")
        frames = await tone_opus(50)
        codes: list[str] = []
        for _ in range(2):
            await bot.join(CHANNEL_ID)
            codes.append(await agreed(code_of(ann), bot.privacy_code, but=codes))
            async with await Heard.of(ann, BOT) as heard:
                await bot.play(frames)
                await heard.until(49)
            assert heard.numbers == list(range(50))
            since = len(bot.reports)
            await bot.do("leave")
            await bot.until("left", since=since)
            await eventually(lambda: BOT not in ann.users)
        assert bot.errors == []
        assert stamps_of(frames) == list(range(50))
