"""discord.py, unmodified, pointed at a local server, and sources for it to play."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import av
import discord
import yarl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from discord_rtc.server import LocalServer

LOGIN_TIMEOUT = 10.0


@contextmanager
def pointed_at(server: LocalServer) -> Iterator[None]:
    """Let discord.py talk to a server. This is all that a bot's author has to do, too."""
    base, gateway = discord.http.Route.BASE, discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY
    discord.http.Route.BASE = server.api_url
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(server.tls_gateway_url)
    try:
        yield
    finally:
        discord.http.Route.BASE = base
        discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = gateway


@asynccontextmanager
async def bot(
    server: LocalServer, user_id: int, *, token: str | None = None
) -> AsyncIterator[discord.Client]:
    """A client that has logged in and sees its guilds.

    Args:
        server: One with ``tls=True``.
        user_id: Who the bot is.
        token: Instead of the one that this user has.
    """
    trust = ssl.create_default_context(cafile=server.ca_file)
    client = discord.Client(
        intents=discord.Intents.all(),
        connector=aiohttp.TCPConnector(ssl=trust),
        guild_ready_timeout=0.05,  # seconds without another guild until on_ready
    )
    with pointed_at(server):
        running = asyncio.create_task(
            client.start(token or server.token_for(user_id)), name="discord.py"
        )
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT):
                while not client.is_ready():
                    if running.done():
                        running.result()
                    await asyncio.sleep(0.01)
            yield client
        finally:
            for voice in tuple(client.voice_clients):
                await voice.disconnect(force=True)
            await client.close()
            await running


async def enter(
    client: discord.Client, channel_id: int, *, timeout: float = 5
) -> discord.VoiceClient:
    """Join a voice channel, as every bot does."""
    channel = client.get_channel(channel_id)
    assert isinstance(channel, discord.VoiceChannel)
    return await channel.connect(timeout=timeout)


def code_of(voice: discord.VoiceClient) -> Callable[[], Awaitable[str | None]]:
    """What its users may compare with the others."""

    async def code() -> str | None:
        return voice.voice_privacy_code

    return code


class OpusFrames(discord.AudioSource):
    """Plays ready-made frames."""

    def __init__(self, frames: Sequence[bytes]) -> None:
        self._frames = iter(frames)

    def read(self) -> bytes:
        return next(self._frames, b"")

    def is_opus(self) -> bool:
        return True


class PcmFrames(OpusFrames):
    """Plays samples, which discord.py encodes itself."""

    def is_opus(self) -> bool:
        return False


def load_opus() -> None:
    """Give discord.py the libopus that PyAV brings; it brings none except on Windows."""
    if not discord.opus.is_loaded():
        libraries = Path(av.__file__).parent.with_name("av.libs")
        discord.opus.load_opus(str(next(libraries.glob("libopus-*"))))


async def played(voice: discord.VoiceClient, source: discord.AudioSource) -> None:
    """Play something to its end."""
    loop = asyncio.get_running_loop()
    errors: asyncio.Queue[Exception | None] = asyncio.Queue()

    def after(error: Exception | None) -> None:
        loop.call_soon_threadsafe(errors.put_nowait, error)

    voice.play(source, after=after)
    error = await errors.get()
    if error is not None:
        raise error
