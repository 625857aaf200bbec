"""The room in which foreign libraries and ours meet, and who looks at what is said in it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from discord_rtc import ConnectionOptions
from discord_rtc.lab import CHANNEL_ID, GUILD_ID, Lab
from discord_rtc.protocol.dave.frame import is_encrypted
from discord_rtc.rtp.packet import parse_rtp
from discord_rtc.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    from discord_rtc import VoiceConnection
    from discord_rtc.connection.options import DaveChoice
    from discord_rtc.server.encryption import DaveMode

OFFICE = 21

SILENCE = b"\xf8\xff\xfe"


class House(Lab):
    """A lab whose server bots can come to, with a guild that everybody sees.

    Args:
        dave: What the server says about encryption.

    Attributes:
        said: Payloads of the packets that were forwarded, by user.
    """

    def __init__(self, dave: DaveMode) -> None:
        self.said: dict[int, list[bytes]] = {}
        super().__init__(LocalServer(tls=True, dave=dave, tap=self._overhear))

    def _overhear(self, user_id: int, packet: bytes) -> None:
        self.said.setdefault(user_id, []).append(parse_rtp(packet).payload)

    async def person(self, name: str, transport: str = "udp") -> VoiceConnection:
        """One of our users, in the call, who insists on encryption if the server does."""
        choice: DaveChoice = "off" if self.server.dave == "off" else "required"
        assert transport in {"udp", "webrtc"}
        return await self.user(name, options=ConnectionOptions(transport=transport, dave=choice))  # type: ignore[arg-type]

    def in_clear(self, user_id: int) -> int:
        """How many frames of a user everybody could have listened to, but for silence."""
        frames = self.said.get(user_id, [])
        return sum(not is_encrypted(frame) for frame in frames if frame != SILENCE)

    def has(self, counter: str, count: int = 1) -> Callable[[], bool]:
        """Whether the server has counted that far."""
        return lambda: self.server.counters.get(counter, 0) >= count


@asynccontextmanager
async def house(dave: DaveMode = "required") -> AsyncIterator[House]:
    """An open house."""
    async with House(dave) as opened:
        opened.server.add_guild(GUILD_ID, {CHANNEL_ID: "lounge", OFFICE: "office"})
        yield opened


async def agreed(
    *codes: Callable[[], Awaitable[str | None]], but: Collection[str] = (), within: float = 5
) -> str:
    """Wait until everybody shows the same privacy code.

    Args:
        codes: What each of them shows.
        but: Codes of groups that are over.
        within: Seconds.

    Returns:
        The code.
    """
    async with asyncio.timeout(within):
        while True:
            shown = {await code() for code in codes}
            if len(shown) == 1 and shown.isdisjoint({None, *but}):
                return str(shown.pop())
            await asyncio.sleep(0.02)


def code_of(person: VoiceConnection) -> Callable[[], Awaitable[str | None]]:
    """What one of our users may compare with the others."""

    async def code() -> str | None:
        return person.privacy_code if person.e2ee == "active" else None

    return code
