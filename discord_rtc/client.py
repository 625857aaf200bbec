"""`RtcClient`: all voice connections of one gateway session; `connect` without a gateway."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from discord_rtc.clock import SystemClock
from discord_rtc.connection.identity import EphemeralIdentity
from discord_rtc.connection.options import ConnectionOptions
from discord_rtc.connection.signaling import FixedSignaling, GatewaySignaling
from discord_rtc.connection.voice import VoiceConnection
from discord_rtc.errors import InvalidState
from discord_rtc.transport.choice import TransportMemory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from discord_rtc.clock import Clock
    from discord_rtc.connection.options import DaveChoice
    from discord_rtc.connection.port import SignalingPort
    from discord_rtc.protocol.voice import VoiceCredentials
    from discord_rtc.transport.plan import TransportFactory, TransportName


class RtcClient:
    """Voice for one account, in any number of guilds and private calls.

    Args:
        port: The gateway session: a `Gateway`, or an adapter of a bot library.
        clock: Source of ``now``.

    Use it as ``async with RtcClient(gateway) as client``; closing it closes all its
    connections.
    """

    def __init__(self, port: SignalingPort, *, clock: Clock | None = None) -> None:
        self._port = port
        self._clock = clock or SystemClock()
        self._connections: dict[int, VoiceConnection] = {}
        self._closed = False
        self._memory = TransportMemory()
        self._identity = EphemeralIdentity()

    @property
    def connections(self) -> Mapping[int, VoiceConnection]:
        """Valid connections by guild id, or by channel id for private calls."""
        return dict(self._connections)

    def connection(
        self,
        guild_id: int | None,
        channel_id: int | None = None,
        *,
        options: ConnectionOptions | None = None,
    ) -> VoiceConnection:
        """The guild's connection, made but not opened if there is none.

        Events can be subscribed to before `VoiceConnection.connect` opens it.

        Args:
            guild_id: The guild, or None for a private call.
            channel_id: The private call's channel; unused with a guild.
            options: How a new connection shall behave.

        Raises:
            InvalidState: The client is closed.
        """
        if self._closed:
            raise InvalidState("this client is closed")
        key = guild_id if guild_id is not None else channel_id
        if key is None:
            raise InvalidState("a connection needs a guild or, for a private call, a channel")
        existing = self._connections.get(key)
        if existing is not None and existing.is_valid:
            return existing

        def forget(closed: VoiceConnection) -> None:
            if self._connections.get(key) is closed:
                del self._connections[key]

        options = options or ConnectionOptions()
        signaling = GatewaySignaling(
            self._port, guild_id, self._clock, timeout=options.timeouts.signaling
        )
        connection = VoiceConnection(
            signaling,
            options,
            self._clock,
            memory=self._memory,
            closed=forget,
            identity=self._identity,
        )
        self._connections[key] = connection
        return connection

    async def join(  # noqa: PLR0913 - keyword options, each with a default
        self,
        guild_id: int | None,
        channel_id: int,
        *,
        transport: TransportName | TransportFactory = "auto",
        self_mute: bool = False,
        self_deaf: bool = False,
        dave: DaveChoice = "preferred",
        identity: str | Path | None = None,
        receive: bool = True,
        options: ConnectionOptions | None = None,
    ) -> VoiceConnection:
        """Join a voice channel and wait until media can flow.

        For a guild that has a connection already, that one is returned as it is.

        Args:
            guild_id: The guild, or None for a private call.
            channel_id: The voice channel, or the private channel.
            transport: ``"webrtc"``, ``"udp"``, ``"auto"`` (webrtc, and udp where that does not
                work), or a transport factory.
            self_mute: Join muted.
            self_deaf: Join deafened.
            dave: End-to-end encryption: ``"required"``, ``"preferred"`` or ``"off"``, see
                `ConnectionOptions`.
            identity: File of a persistent identity key, by which others can verify this account;
                without it there is one key for all connections of this client.
            receive: False to send only.
            options: Everything else; overrides ``transport``, ``dave``, ``identity`` and
                ``receive``.

        Raises:
            SignalingTimeout: The gateway assigned no voice server.
            ConnectError: The voice server could not be reached.
            NegotiationError: Nothing in common with it; `DaveUnavailable`, when one of the two
                requires end-to-end encryption that the other one cannot give.
            UsageError: The identity key cannot be used.
        """
        connection = self.connection(
            guild_id,
            channel_id,
            options=options
            or ConnectionOptions(
                transport=transport, dave=dave, identity=identity, receive=receive
            ),
        )
        if connection.state == "new":
            await connection.connect(channel_id, self_mute=self_mute, self_deaf=self_deaf)
        else:
            await connection.ready()
        return connection

    async def aclose(self) -> None:
        """Leave every channel and close every connection. Idempotent."""
        self._closed = True
        connections = tuple(self._connections.values())
        await asyncio.gather(*(connection.aclose() for connection in connections))

    async def __aenter__(self) -> RtcClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<RtcClient with {len(self._connections)} connections>"


async def connect(
    credentials: VoiceCredentials,
    *,
    secure: bool = True,
    options: ConnectionOptions | None = None,
    clock: Clock | None = None,
) -> VoiceConnection:
    """A voice connection with no gateway at all, for whoever got the credentials elsewhere.

    Args:
        credentials: Endpoint (it may carry ``ws://`` or ``wss://``), token, session, ids.
        secure: Whether an endpoint without a scheme is TLS.
        options: How to behave.
        clock: Source of ``now``.

    Raises:
        ConnectError: The voice server could not be reached.
        NegotiationError: Nothing in common with it.
        ConnectionLost: It ended the connection at once.
    """
    connection = VoiceConnection(
        FixedSignaling(credentials, secure=secure),
        options or ConnectionOptions(),
        clock or SystemClock(),
    )
    return await connection.connect()
