"""discord.py's own VoiceClient, unmodified, in calls on a local server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from discord_rtc.lab import CHANNEL_ID, GUILD_ID

from ..e2e.calls import eventually
from .house import OFFICE, agreed, code_of, house
from .sounds import Heard, tone_opus, tone_pcm

discord = pytest.importorskip("discord", reason="discord.py is not installed")
pytest.importorskip("davey", reason="discord.py has no DAVE without davey")

from . import discord_py  # noqa: E402 - it imports discord.py
from .discord_py import OpusFrames, PcmFrames, bot, enter, load_opus, played  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from discord_rtc.server.encryption import DaveMode

pytestmark = [pytest.mark.interop, pytest.mark.asyncio]

BOT, OTHER_BOT = 500, 501


async def test_it_logs_in_and_sees_who_is_where() -> None:
    async with house() as here:
        ann = await here.person("ann")
        async with bot(here.server, BOT) as client:
            guild = client.get_guild(GUILD_ID)
            assert guild is not None
            assert client.user is not None
            assert client.application is not None
            assert [channel.name for channel in guild.voice_channels] == ["lounge", "office"]
            assert guild.me.id == client.user.id == BOT
            assert guild.default_role.name == "@everyone"
            assert [member.name for member in guild.voice_channels[0].members] == ["ann"]
            assert client.application.id == BOT
            # What bots do at any time must not end the session, whatever comes of it.
            await client.change_presence(activity=discord.Game("chess"))
            assert str(await client.fetch_channel(CHANNEL_ID)) == "lounge"
            assert (await client.fetch_guild(GUILD_ID)).name == guild.name
            assert (await client.fetch_user(ann.id)).name == "ann"
            assert [one.id for one in await guild.query_members("ann")] == [ann.id]
            with pytest.raises(discord.NotFound) as unknown:
                await client.fetch_channel(999)
            assert unknown.value.code == 10003
            await client.close()
    assert here.server.counters["gateway.opened"] == 2


async def test_a_token_that_is_none_is_a_login_failure() -> None:
    async with house() as here:
        with pytest.raises(discord.LoginFailure):
            async with bot(here.server, BOT, token="nonsense"):
                raise AssertionError("logged in")


@pytest.mark.parametrize("dave", ["off", "required"])
@pytest.mark.parametrize("transport", ["udp", "webrtc"])
async def test_what_it_plays_is_heard_whole(transport: str, dave: DaveMode) -> None:
    async with house(dave) as here, bot(here.server, BOT) as client:
        ann = await here.person("ann", transport)
        voice = await enter(client, CHANNEL_ID)
        if dave == "required":
            await agreed(code_of(ann), discord_py.code_of(voice))
        async with await Heard.of(ann, BOT) as heard:
            await played(voice, OpusFrames(await tone_opus(100)))
            await heard.until(99)
        assert heard.numbers == list(range(100))
        assert len(here.said[BOT]) == 105  # it ends with five frames of silence
        assert here.in_clear(BOT) == (0 if dave == "required" else 100)


async def test_what_it_encodes_itself_is_heard_whole() -> None:
    load_opus()
    async with house() as here, bot(here.server, BOT) as client:
        ann = await here.person("ann")
        voice = await enter(client, CHANNEL_ID)
        await agreed(code_of(ann), discord_py.code_of(voice))
        async with await Heard.of(ann, BOT) as heard:
            await played(voice, PcmFrames(await tone_pcm(100)))
            await heard.until(99)
        assert heard.numbers == list(range(100))
        assert here.in_clear(BOT) == 0


async def test_who_stays_misses_nothing_when_others_come_and_go() -> None:
    async with (
        house() as here,
        bot(here.server, BOT) as client,
        bot(here.server, OTHER_BOT) as other,
    ):
        ann = await here.person("ann")
        voice = await enter(client, CHANNEL_ID)
        codes = [await agreed(code_of(ann), discord_py.code_of(voice))]
        async with await Heard.of(ann, BOT) as heard:
            playing = asyncio.create_task(played(voice, OpusFrames(await tone_opus(200))))
            await heard.until(20)
            second = await enter(other, CHANNEL_ID)
            both = (code_of(ann), discord_py.code_of(voice))
            codes.append(await agreed(*both, discord_py.code_of(second), but=codes))
            bob = await here.person("bob", "webrtc")
            codes.append(await agreed(*both, discord_py.code_of(second), code_of(bob), but=codes))
            async with await Heard.of(bob, BOT) as latecomer:
                await heard.until(100)
                await second.disconnect()
                codes.append(await agreed(*both, code_of(bob), but=codes))
                await here.leave("bob")
                codes.append(await agreed(*both, but=codes))
            await playing
            await heard.until(199)
        assert len(set(codes)) == 5, "each change of members makes a new group key"
        assert heard.numbers == list(range(200))
        first, last = latecomer.numbers[0], latecomer.numbers[-1]
        assert latecomer.numbers == list(range(first, last + 1))
        assert len(latecomer.numbers) > 20
        assert here.in_clear(BOT) == 0


async def test_it_resumes_after_its_server_has_crashed() -> None:
    async with house() as here, bot(here.server, BOT) as client:
        ann = await here.person("ann")
        voice = await enter(client, CHANNEL_ID)
        both = (code_of(ann), discord_py.code_of(voice))
        before = await agreed(*both)
        async with await Heard.of(ann, BOT) as heard:
            playing = asyncio.create_task(played(voice, OpusFrames(await tone_opus(150))))
            await heard.until(30)
            assert here.server.close_voice(BOT, GUILD_ID, 4015)
            await heard.until(60)
            await agreed(*both, but={before})
            await playing
            await heard.until(149)
        assert here.server.counters["voice.resumed"] == 1
        assert here.server.counters["voice.opened"] == 3, "the session was not joined anew"
        # It takes the new Session Description for a new group, and speaks in the clear until it
        # is back in one: these frames are refused here, as it should be.
        missed = sorted(set(range(150)) - set(heard.numbers))
        assert len(missed) <= 10
        assert here.in_clear(BOT) <= len(missed)


# It makes another socket for the new room and leaves the old one to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning")
async def test_it_moves_without_waiting_for_its_own_thread() -> None:
    async with house() as here, bot(here.server, BOT) as client:
        ann = await here.person("ann")
        voice = await enter(client, OFFICE)
        lounge = client.get_channel(CHANNEL_ID)
        async with asyncio.timeout(3):  # its own patience is 30 s
            await voice.move_to(lounge)
        assert voice.channel == lounge
        await agreed(code_of(ann), discord_py.code_of(voice))
        async with await Heard.of(ann, BOT) as heard:
            await played(voice, OpusFrames(await tone_opus(50)))
            await heard.until(49)
        assert heard.numbers == list(range(50))


async def test_it_knows_all_members_whoever_comes_later() -> None:
    async with house() as here, bot(here.server, BOT) as client:
        guild = client.get_guild(GUILD_ID)
        assert guild is not None
        ann = await here.person("ann")
        await eventually(lambda: guild.get_member(ann.id) is not None, within=2)
        assert guild.chunked


@pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning")
async def test_it_goes_on_playing_where_a_moderator_moves_it() -> None:
    async with house() as here, bot(here.server, BOT) as client:
        ann = await here.person("ann")
        voice = await enter(client, OFFICE)
        playing = asyncio.create_task(played(voice, OpusFrames(await tone_opus(100))))
        await asyncio.sleep(0.1)
        here.server.move(BOT, GUILD_ID, CHANNEL_ID)
        async with await Heard.of(ann, BOT) as heard:
            await agreed(code_of(ann), discord_py.code_of(voice))
            await playing
            await heard.until(99)
        assert voice.channel == client.get_channel(CHANNEL_ID)


async def test_it_logs_in_again_when_the_gateway_was_lost() -> None:
    async with house() as here, bot(here.server, BOT) as client:
        ready = asyncio.Event()
        client.event(_on_ready(ready))
        await client.ws.close(4000)
        async with asyncio.timeout(8):
            await ready.wait()
        assert here.server.counters["gateway.opened"] == 3, "once for the resume that is refused"
        voice = await enter(client, CHANNEL_ID)
        assert voice.is_connected()


async def test_a_bot_with_zstandard_installed_gets_along(monkeypatch: pytest.MonkeyPatch) -> None:
    context = "discord.utils._ActiveDecompressionContext.COMPRESSION_TYPE"
    monkeypatch.setattr(context, "zstd-stream")
    async with house() as here, bot(here.server, BOT) as client:
        assert [guild.id for guild in client.guilds] == [GUILD_ID]


def _on_ready(ready: asyncio.Event) -> Callable[[], Coroutine[None, None, None]]:
    async def on_ready() -> None:
        ready.set()

    return on_ready
