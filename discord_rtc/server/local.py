"""The local server: one TCP port for both gateways, one UDP socket for all media."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from discord_rtc.clock import SystemClock
from discord_rtc.crypto.modes import LIVE_MODES, MODES
from discord_rtc.errors import InvalidState, UsageError
from discord_rtc.gateway import Gateway
from discord_rtc.protocol.credentials import VoiceCredentials
from discord_rtc.protocol.opcodes import VoiceCloseCode
from discord_rtc.server.certificate import LocalTls
from discord_rtc.server.channel import RoomHooks
from discord_rtc.server.congestion import MAX_VIDEO_BPS
from discord_rtc.server.encryption import EncryptionPolicy
from discord_rtc.server.faults import Faults
from discord_rtc.server.front import Front
from discord_rtc.server.gateway import GatewayConfig
from discord_rtc.server.hub import GatewayHub, token_for
from discord_rtc.server.media_socket import MediaSocket
from discord_rtc.server.session import SessionConfig
from discord_rtc.server.voice_gateway import VoiceGateway
from discord_rtc.server.world import VoiceRequest, World

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from discord_rtc.clock import Clock
    from discord_rtc.errors import RtcError
    from discord_rtc.server.channel import RoomInfo
    from discord_rtc.server.encryption import DaveMode
    from discord_rtc.server.socket_leg import SocketLeg
    from discord_rtc.server.world import RoomKey

_LOG = logging.getLogger("discord_rtc.server")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What exists once the server was started."""

    media: MediaSocket
    voice: VoiceGateway
    hub: GatewayHub


class LocalServer:
    """A Discord-compatible voice server in this process: gateways, rooms and media.

    Every guild and channel that a client names exists. `token_for` gives the token of any user.
    Use it with ``async with``, or `start` and `aclose`.

    Args:
        host: Name or address to listen on.
        port: TCP port, 0 for any free one. Media gets the same UDP port when it is free.
        dave: End-to-end encryption. ``"required"`` refuses clients without it (close code 4017),
            as Discord does; ``"optional"`` lets them in, and a call with one of them is not
            encrypted; ``"off"`` encrypts nothing.
        modes: Transport encryption modes that are offered, best first.
        faults: What happens to the users' media; `faults` shows it.
        heartbeat_interval_ms: What the voice gateway's Hello asks for.
        ssl_context: Makes both gateways TLS (``wss``).
        tls: Whether to serve the same over TLS on a second port, with a certificate that is
            made on the spot, for bots whose library hard-codes TLS: see `ca_file`.
        tls_port: TCP port for that, 0 for any free one.
        grant_video: Whether a user may switch the camera on. Discord refuses it to bots.
        server_update_first: Whether VOICE_SERVER_UPDATE goes before VOICE_STATE_UPDATE; Discord
            promises no order.
        max_video_bps: Bitrate of video that browsers are told to stay below; receivers may ask
            for less.
        stage_channels: Ids of channels that are never encrypted, as Discord's stages are not.
        tap: For tests, called with the sender's user id and the plain RTP packet for each media
            packet that a room is about to forward, whoever gets it. Retransmissions come as what
            they repair.
        on_encryption: Told about a room when its encryption goes on or off, also when its first
            user can have none. It must return at once.
        clock: Ticks like the running loop's time.

    Raises:
        UsageError: A mode or ``dave`` value that does not exist, or no bitrate.
    """

    def __init__(  # noqa: PLR0913  the whole configuration, all by keyword and optional
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        dave: str = "required",
        modes: Sequence[str] = LIVE_MODES,
        faults: Faults | None = None,
        heartbeat_interval_ms: float = 13_750,
        ssl_context: ssl.SSLContext | None = None,
        tls: bool = False,
        tls_port: int = 0,
        grant_video: Callable[[int], bool] = lambda _user_id: True,
        server_update_first: bool = False,
        max_video_bps: int = MAX_VIDEO_BPS,
        stage_channels: Collection[int] = (),
        tap: Callable[[int, bytes], None] | None = None,
        on_encryption: Callable[[RoomInfo], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not modes or not set(modes) <= MODES.keys():
            raise UsageError(f"transport encryption modes are some of {', '.join(MODES)}")
        if max_video_bps <= 0:
            raise UsageError("max_video_bps is a number of bits per second above 0")
        self._faults = Faults() if faults is None else faults
        self._config = SessionConfig(
            tuple(modes), heartbeat_interval_ms, max_video_bps=max_video_bps
        )
        self._secure = ssl_context is not None
        self._host = host
        self._server_update_first = server_update_first
        self._clock = SystemClock() if clock is None else clock
        self._stage_channels = set(stage_channels)
        self._encryption = EncryptionPolicy(dave, self._stage_channels, faults=self._faults.dave)
        self._hooks = RoomHooks(tap, on_encryption)
        self._world = World(grant_video=grant_video, stage_channels=self._stage_channels)
        self._counters: Counter[str] = Counter()
        self._front = Front(
            host, port, ssl_context=ssl_context, clock=self._clock, counters=self._counters
        )
        self._tls_port = tls_port if tls else None
        self._tls: LocalTls | None = None
        self._parts: _Parts | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def gateway_url(self) -> str:
        """Where the main gateway is, e.g. ``ws://127.0.0.1:50000/gateway``."""
        return self._front.url()

    @property
    def page_url(self) -> str:
        """Where the web page is that joins a room in a browser, e.g. ``http://127.0.0.1:50000/``."""
        return self._front.page_url()

    @property
    def voice_endpoint(self) -> str:
        """Host and port of the voice gateway, as VOICE_SERVER_UPDATE names it."""
        return self._front.endpoint()

    @property
    def secure(self) -> bool:
        """Whether the gateways are TLS."""
        return self._secure

    @property
    def api_url(self) -> str:
        """Base of the REST routes, e.g. ``https://127.0.0.1:50001/api/v10``; of the TLS port
        when there is one.
        """
        base = self.page_url if self._tls is None else f"https://{self._front.tls_endpoint()}/"
        return f"{base}api/v10"

    @property
    def tls_gateway_url(self) -> str:
        """Where the main gateway is on the TLS port, e.g. ``wss://127.0.0.1:50001/gateway``.

        Clients that come this way are sent to the voice gateway on the same port.

        Raises:
            InvalidState: There is no TLS port.
        """
        return f"wss://{self._front.tls_endpoint()}/gateway"

    @property
    def ca_file(self) -> Path:
        """Certificate (PEM) that makes a client trust the TLS port, while the server runs.

        Name it in ``SSL_CERT_FILE`` (Python) or ``NODE_EXTRA_CA_CERTS`` (Node.js) before the
        client starts, or give it to `ssl.create_default_context`.

        Raises:
            InvalidState: There is no TLS port.
        """
        if self._tls is None:
            raise InvalidState("the server has no TLS port; it has one with tls=True once started")
        return self._tls.ca_file

    @property
    def media_address(self) -> tuple[str, int]:
        """Address and port of the UDP socket."""
        return self._running.media.address

    @property
    def faults(self) -> Faults:
        """What happens to the users' media; may be changed at any time."""
        return self._faults

    @property
    def rooms(self) -> Mapping[RoomKey, RoomInfo]:
        """Voice channels with somebody in them, by ``(guild_id, channel_id)``."""
        return self._running.voice.rooms

    @property
    def dave(self) -> DaveMode:
        """What was asked for about end-to-end encryption."""
        return self._encryption.mode

    @property
    def users(self) -> Mapping[int, str]:
        """Name of every user who is logged in to the main gateway, by id."""
        return self._running.hub.users

    @property
    def counters(self) -> Mapping[str, int]:
        """What happened so far, e.g. ``voice.closed.4009`` or ``media.rtp-out``."""
        media = {} if self._parts is None else self._parts.media.counters
        parts = {"media": media, "dave": self._encryption.counters}
        return dict(self._counters) | {
            f"{part}.{name}": count
            for part, counters in parts.items()
            for name, count in counters.items()
        }

    async def start(self) -> None:
        """Listen. Does nothing when it does already.

        Raises:
            AddressInUse: The port is taken.
            UsageError: The host is not an address of this machine, or not allowed.
            InvalidState: The server was closed.
        """
        if self._closed:
            raise InvalidState("a closed server cannot be started again")
        if self._parts is not None:
            return
        await self._front.bind()
        try:
            await self._bind_tls()
            media = await self._open_media(*self._front.address)
        except OSError as error:
            await self._abandon()
            raise UsageError(f"no UDP port for media: {error.strerror}") from error
        except BaseException:  # cancelled, too: nobody closes what did not start
            await self._abandon()
            raise
        voice = VoiceGateway(
            self._world,
            media,
            self._config,
            self._counters,
            encryption=self._encryption,
            hooks=self._hooks,
        )
        hub = GatewayHub(
            self._world,
            voice,
            GatewayConfig(),
            self._counters,
            server_update_first=self._server_update_first,
        )
        self._parts = _Parts(media, voice, hub)
        await self._front.accept(hub, voice)
        _LOG.info("= listening on %s, media on UDP port %d", self.gateway_url, media.address[1])

    async def aclose(self) -> None:
        """Close every connection (code 1001) and both ports, within 3 s. Idempotent."""
        already, self._closed = self._closed, True
        if self._parts is None or already:
            return
        try:
            await self._front.aclose()
        finally:
            self._forget_tls()
            self._parts.voice.close()
            await self._parts.media.aclose()
        _LOG.info("= closed")

    def token_for(self, user_id: int) -> str:
        """The token that logs a user in to the main gateway."""
        return token_for(user_id)

    def gateway(self, user_id: int, *, name: str | None = None) -> Gateway:
        """A main-gateway session of a user, pointed at this server; connects on ``async with``.

        Args:
            user_id: Any positive id.
            name: Shown to others; ``user-<id>`` by default.
        """
        if name is not None:
            self.set_name(user_id, name)
        return Gateway(self.token_for(user_id), url=self.gateway_url, clock=self._clock)

    def set_name(self, user_id: int, name: str) -> None:
        """Call a user something better than ``user-<id>``, from the next message on."""
        self._running.hub.set_name(user_id, name)

    def add_guild(
        self,
        guild_id: int,
        channels: Mapping[int, str],
        *,
        name: str | None = None,
        stages: Collection[int] = (),
    ) -> None:
        """Make a guild that every user sees from the login on, for clients that need to.

        Args:
            guild_id: Its id.
            channels: Voice channels, id to name.
            name: ``guild-<id>`` by default.
            stages: Ids of those that are stage channels, from the next call in them on.
        """
        self._stage_channels.update(stages)
        self._running.hub.add_guild(guild_id, name or f"guild-{guild_id}", channels)

    def admit(self, user_id: int, guild_id: int | None, channel_id: int) -> VoiceCredentials:
        """Put a user into a channel without a main gateway session.

        Returns:
            What `discord_rtc.connect`, or a raw client, enters with; once. The endpoint
            carries its scheme.
        """
        change = self._world.update_voice(
            user_id, secrets.token_hex(16), VoiceRequest(guild_id, channel_id)
        )
        self._running.hub.apply(change)
        ticket = change.issued
        assert ticket is not None  # a new session id always gets one
        return VoiceCredentials(
            endpoint=f"{'wss' if self._secure else 'ws'}://{self.voice_endpoint}",
            token=ticket.token,
            session_id=ticket.session_id,
            user_id=user_id,
            server_id=ticket.server_id,
            channel_id=channel_id,
        )

    def kick(self, user_id: int, guild_id: int | None) -> None:
        """Remove a user from voice, as a moderator does. Nothing happens to who is not in it."""
        self.move(user_id, guild_id, None)

    def move(self, user_id: int, guild_id: int | None, channel_id: int | None) -> None:
        """Move a user to another voice channel, as a moderator does."""
        state = self._world.state_of(guild_id, user_id)
        if state is None:
            return
        request = VoiceRequest(
            guild_id,
            channel_id,
            state.self_mute,
            state.self_deaf,
            state.self_video,
            state.flags,
        )
        hub = self._running.hub
        hub.apply(self._world.update_voice(user_id, state.session_id, request))

    def close_voice(
        self,
        user_id: int,
        guild_id: int | None,
        code: int = VoiceCloseCode.SERVER_CRASHED,
        reason: str = "closed by the test",
    ) -> bool:
        """Close a user's voice websocket, and nothing else. False when there is none."""
        ticket = self._world.ticket_of(guild_id, user_id)
        return ticket is not None and self._running.voice.end(ticket, code, reason)

    def drop_voice(self, user_id: int, guild_id: int | None) -> bool:
        """Cut a user's voice websocket without a close frame. False when there is none."""
        ticket = self._world.ticket_of(guild_id, user_id)
        return ticket is not None and self._running.voice.drop(ticket)

    @property
    def _running(self) -> _Parts:
        if self._parts is None:
            raise InvalidState("the server was not started")
        return self._parts

    async def _bind_tls(self) -> None:
        if self._tls_port is not None:
            # A wildcard's certificate names the machine, and asking for its names may take time.
            making = asyncio.create_task(asyncio.to_thread(LocalTls.make, self._host))
            try:
                self._tls = await asyncio.shield(making)
            except asyncio.CancelledError:
                self._tls = await making  # threads cannot be cancelled; its directory has to go
                raise
            await self._front.bind_tls(self._tls_port, self._tls.context)

    async def _abandon(self) -> None:
        await self._front.aclose()
        self._forget_tls()

    def _forget_tls(self) -> None:
        if self._tls is not None:
            self._tls.close()

    async def _open_media(self, host: str, port: int) -> MediaSocket:
        open_media = partial(
            MediaSocket.open,
            host,
            clock=self._clock,
            faults=self._faults,
            on_leg_failed=self._leg_failed,
        )
        try:
            return await open_media(port)
        except OSError:  # the TCP port is ours, the UDP port of this number need not be
            return await open_media(0)

    def _leg_failed(self, leg: SocketLeg, error: RtcError) -> None:
        # Keys are used up or were never agreed on, so there is nothing that a resume could
        # bring back: the client has to identify anew, perhaps for another transport.
        code = VoiceCloseCode.SESSION_NO_LONGER_VALID
        self._running.voice.end_leg(leg, code, str(error))
