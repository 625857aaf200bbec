"""A local server and named clients in one object, for tests, notebooks and demos.

The only module that knows both sides.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from discord_rtc.client import RtcClient
from discord_rtc.connection.options import ConnectionOptions
from discord_rtc.errors import UsageError
from discord_rtc.server import LocalServer

if TYPE_CHECKING:
    from discord_rtc.connection.voice import VoiceConnection
    from discord_rtc.transport.plan import TransportFactory, TransportName

FIRST_USER_ID = 1001
GUILD_ID = 10
CHANNEL_ID = 20


class Lab:
    """Everything that a call needs, in one process, without account or internet.

    Args:
        server: A server that is not started yet; by default a plain `LocalServer`.

    Attributes:
        server: The local server.
        faults: What it does to packets; the same object as ``server.faults``.

    Use it as ``async with Lab() as lab``::

        ann, bob = await lab.users(ann="udp", bob="udp")
        await ann.publish(camera=TestPattern())
        frame = await (await bob.user(ann.id)).camera.recv()
    """

    def __init__(self, server: LocalServer | None = None) -> None:
        self.server = server or LocalServer()
        self.faults = self.server.faults
        self._names: dict[str, int] = {}
        self._clients: dict[str, RtcClient] = {}
        self._stack = AsyncExitStack()

    def user_id(self, name: str) -> int:
        """The user id that a name stands for; the same name always gets the same."""
        return self._names.setdefault(name, FIRST_USER_ID + len(self._names))

    async def client(self, name: str) -> RtcClient:
        """The client of a user, with its gateway session open."""
        existing = self._clients.get(name)
        if existing is not None:
            return existing
        gateway = await self._stack.enter_async_context(
            self.server.gateway(self.user_id(name), name=name)
        )
        client = await self._stack.enter_async_context(RtcClient(gateway))
        self._clients[name] = client
        return client

    async def user(
        self,
        name: str,
        transport: TransportName | TransportFactory = "auto",
        *,
        guild_id: int = GUILD_ID,
        channel_id: int = CHANNEL_ID,
        options: ConnectionOptions | None = None,
    ) -> VoiceConnection:
        """A user in a call.

        Args:
            name: Any name.
            transport: As `RtcClient.join`.
            guild_id: Where to join.
            channel_id: Where to join.
            options: Everything else; overrides ``transport``.
        """
        client = await self.client(name)
        return await client.join(
            guild_id, channel_id, options=options or ConnectionOptions(transport=transport)
        )

    async def users(
        self, **transports: TransportName | TransportFactory
    ) -> tuple[VoiceConnection, ...]:
        """Several users in the same call, each of whom already sees all the others.

        Where the call is encrypted, the group stands: whatever they send is heard at once.

        Args:
            transports: Name to transport, as in ``users(ann="udp", bob="udp")``.

        Returns:
            Their connections, in the order of the arguments.
        """
        if not transports:
            raise UsageError("users() needs at least one name, e.g. users(ann='udp')")
        joined = [await self.user(name, transport) for name, transport in transports.items()]
        for one in joined:
            for other in joined:
                if other is not one:
                    await one.user(other.id, timeout=5)
        if len(joined) > 1:
            await asyncio.gather(*(one.secured(timeout=5) for one in joined))
        return tuple(joined)

    async def leave(self, name: str) -> None:
        """Let a user go, with the gateway session."""
        client = self._clients.pop(name, None)
        if client is not None:
            await client.aclose()

    async def aclose(self) -> None:
        """Let everybody go and stop the server. Idempotent."""
        clients = tuple(self._clients.values())
        self._clients.clear()
        try:
            await asyncio.gather(*(client.aclose() for client in clients))
        finally:
            await self._stack.aclose()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.server)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
