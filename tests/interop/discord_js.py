"""A bot with @discordjs/voice, unmodified, in a process of its own, and how to talk to it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import av
import pytest

from discord_rtc.errors import UnsupportedMedia
from discord_rtc.media.patterns import read_stamp

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Sequence

    from discord_rtc.server import LocalServer

FOLDER = Path(__file__).with_name("discordjs")

INSTALL_TIMEOUT = 120.0

_LINE_LIMIT = 1 << 22  # bytes; a command holds all frames to play

Report: TypeAlias = "dict[str, object]"


def install() -> None:
    """Fetch the packages of the lock file, once; skips the tests where there is no Node.js."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    wanted = (FOLDER / "package-lock.json").read_bytes()
    done = FOLDER / "node_modules" / ".installed"
    if done.is_file() and done.read_bytes() == wanted:
        return
    run = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT,
        check=False,
    )
    if run.returncode:
        pytest.skip(f"npm cannot install @discordjs/voice: {run.stderr[-500:]}")
    done.write_bytes(wanted)


class DiscordJsBot:
    """What the process reports, in order, and the frames that it hears."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._arrived = asyncio.Condition()
        self.reports: list[Report] = []
        self.frames: dict[int, list[bytes]] = {}

    async def do(self, command: str, **options: object) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        line = json.dumps({"command": command, **options})
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def until(
        self, event: str, *, since: int = 0, within: float = 5, **wanted: object
    ) -> Report:
        """The first report of a kind, with these values among others.

        Args:
            event: Which kind.
            since: Number of reports to leave out.
            within: Seconds.
            wanted: Values that it has.
        """

        def found() -> list[Report]:
            return [
                report
                for report in self.reports[since:]
                if report.items() >= {"event": event, **wanted}.items()
            ]

        async with asyncio.timeout(within), self._arrived:
            await self._arrived.wait_for(found)
        return found()[0]

    async def join(self, channel_id: int) -> None:
        """Join a voice channel."""
        since = len(self.reports)
        await self.do("join", channel=str(channel_id))
        await self.until("state", since=since, status="ready")

    async def listen(self, user_id: int) -> None:
        """Keep the frames of a user from now on."""
        await self.do("listen", user=str(user_id))
        await self.until("listening", user=str(user_id))

    async def play(self, frames: Sequence[bytes]) -> None:
        """Play Opus frames to their end."""
        since = len(self.reports)
        await self.do("play", frames=[base64.b64encode(frame).decode() for frame in frames])
        await self.until("played", since=since, within=5 + len(frames) * 0.02)

    async def privacy_code(self) -> str | None:
        """What its users may compare."""
        since = len(self.reports)
        await self.do("code")
        return cast("str | None", (await self.until("code", since=since))["code"])

    @property
    def errors(self) -> list[str]:
        """What went wrong there."""
        return [str(report["message"]) for report in self.reports if report["event"] == "error"]

    async def read(self) -> None:
        """Take its reports, until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            report = cast("Report", json.loads(line))
            if report["event"] == "frame":
                user_id = int(cast("str", report["user"]))
                frame = base64.b64decode(cast("str", report["frame"]))
                self.frames.setdefault(user_id, []).append(frame)
            async with self._arrived:
                if report["event"] != "frame":
                    self.reports.append(report)
                self._arrived.notify_all()

    async def heard(self, user_id: int, number: int, *, within: float = 5) -> list[int]:
        """Stamps of the frames of a user, up to that one."""
        async with asyncio.timeout(within), self._arrived:
            await self._arrived.wait_for(lambda: number in stamps_of(self.frames.get(user_id, ())))
        return stamps_of(self.frames[user_id])


@asynccontextmanager
async def discord_js_bot(
    server: LocalServer, user_id: int, guild_id: int
) -> AsyncIterator[DiscordJsBot]:
    """A bot that has logged in.

    Args:
        server: One with ``tls=True``.
        user_id: Who the bot is.
        guild_id: The only guild that it knows.
    """
    install()
    options = {
        "api": server.api_url,
        "token": server.token_for(user_id),
        "guild": str(guild_id),
    }
    process = await asyncio.create_subprocess_exec(
        "node",
        str(FOLDER / "bot.mjs"),
        json.dumps(options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_LIMIT,
        env=os.environ | {"NODE_EXTRA_CA_CERTS": str(server.ca_file)},
    )
    bot = DiscordJsBot(process)
    reading = asyncio.create_task(bot.read(), name="discord.js")
    try:
        await bot.until("ready", within=10)
        yield bot
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(3):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        with suppress(asyncio.CancelledError):
            await reading


def stamps_of(frames: Sequence[bytes]) -> list[int]:
    """Numbers of the stamps in Opus frames; what has none or is no Opus is left out."""
    decoder = av.CodecContext.create("libopus", "r")
    assert isinstance(decoder, av.AudioCodecContext)
    decoder.sample_rate = 48_000
    decoder.layout = "stereo"
    numbers = []
    for frame in frames:
        with suppress(UnsupportedMedia, av.InvalidDataError):
            numbers += [read_stamp(sound).number for sound in decoder.decode(av.Packet(frame))]
    return numbers
