"""All main gateway sessions of a server: logs them in, and tells them who is where. Sans-I/O.

Spec: Discord docs, "Gateway Events": READY, GUILD_CREATE, CHANNEL_CREATE, VOICE_STATE_UPDATE
and VOICE_SERVER_UPDATE.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from discord_rtc.protocol.opcodes import VoiceCloseCode
from discord_rtc.server.gateway import GatewayServerSession, LoggedIn, VoiceRequested
from discord_rtc.server.objects import (
    channel_object,
    guild_object,
    user_object,
    voice_state_object,
)

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Mapping

    from discord_rtc.server.gateway import GatewayConfig, GatewayServerEvent
    from discord_rtc.server.world import Guild, Ticket, VoiceChange, VoiceState, World

_LOG = logging.getLogger("discord_rtc.server")

_API_VERSION = 10

_TOKEN = re.compile(r"(?:Bot )?user-([0-9]{1,19})")  # 19 digits: below the 64 bits of snowflakes


class VoiceSide(Protocol):
    """What the main gateway needs of the voice gateway."""

    def end(self, ticket: Ticket, code: int, reason: str) -> bool:
        """Close the voice session of a ticket."""
        ...

    def update(self, state: VoiceState) -> None:
        """A user's voice state changed without a move."""
        ...


@dataclass(eq=False, slots=True)
class GatewayPeer:
    """One websocket of the main gateway.

    Attributes:
        session: Its machine.
        url: Where this gateway is.
        endpoint: Host and port of the voice gateway.
        wake: Called when the machine has got something to send.
    """

    session: GatewayServerSession
    url: str
    endpoint: str
    wake: Callable[[], None]

    def dispatch(self, name: str, data: Mapping[str, object]) -> None:
        """Send an event to this client."""
        self.session.dispatch(name, data)
        self.wake()


def token_for(user_id: int) -> str:
    """The token that logs a user in. There are no secrets between users of a local server."""
    return f"user-{user_id}"


def user_of_token(token: str) -> int | None:
    """The user of a token, None when it is not one of ours."""
    found = _TOKEN.fullmatch(token)
    return None if found is None else int(found[1])


class GatewayHub:
    """All main gateway sessions of a server.

    Args:
        world: What they see and change.
        voice: Told about moves and changes.
        config: See `GatewayConfig`.
        counters: Gets ``gateway.opened``, ``gateway.closed.<code>``, ``gateway.ignored.<opcode>``.
        server_update_first: Whether VOICE_SERVER_UPDATE goes before VOICE_STATE_UPDATE; Discord
            promises no order.
    """

    def __init__(
        self,
        world: World,
        voice: VoiceSide,
        config: GatewayConfig,
        counters: Counter[str],
        *,
        server_update_first: bool = False,
    ) -> None:
        self._world = world
        self._voice = voice
        self._config = config
        self._counters = counters
        self._server_update_first = server_update_first
        self._peers: dict[GatewayPeer, int] = {}  # user by session, in the order of logins
        self._names: dict[int, str] = {}

    @property
    def users(self) -> Mapping[int, str]:
        """Name of every user who is logged in, by id."""
        return {user_id: self.name_of(user_id) for user_id in self._peers.values()}

    def set_name(self, user_id: int, name: str) -> None:
        """Call a user something better than ``user-<id>``, from the next message on."""
        self._names[user_id] = name

    def name_of(self, user_id: int) -> str:
        """What a user is called; ``user-<id>`` unless somebody said better."""
        return self._names.get(user_id, f"user-{user_id}")

    def connect(
        self, url: str, endpoint: str, wake: Callable[[], None], *, compress: bool
    ) -> GatewayPeer:
        """A websocket is being opened.

        Args:
            url: Where this gateway is, as the client reaches it.
            endpoint: Host and port of the voice gateway, likewise.
            wake: To be called whenever the session has something to send.
            compress: Whether the client asked for zlib-stream.

        Returns:
            The peer; call `drain` after each input to its session.
        """
        self._counters["gateway.opened"] += 1
        session = GatewayServerSession(
            self._config, user_of_token, compress=compress, counters=self._counters
        )
        return GatewayPeer(session, url, endpoint, wake)

    def drain(self, peer: GatewayPeer) -> None:
        """Handle what a session reports."""
        while (event := peer.session.next_event()) is not None:
            self._handle(peer, event)

    def add_guild(self, guild_id: int, name: str, channels: Mapping[int, str]) -> None:
        """Make a guild that everyone sees, or extend one; everyone is told."""
        guild = self._world.add_guild(guild_id, name, channels)
        guild.members.update(self._peers.values())
        for peer in self._peers:
            peer.dispatch("GUILD_CREATE", self._guild_object(guild))

    def apply(self, change: VoiceChange) -> None:
        """Tell everybody concerned what a change of a voice state means for them."""
        state = change.state
        self._introduce(change)
        if change.revoked is not None:
            self._voice.end(change.revoked, VoiceCloseCode.DISCONNECTED, "disconnected")
        if self._server_update_first:
            self._assign(change.issued)
        data = voice_state_object(state, self.name_of(state.user_id))
        for peer in self._peers_of(self._world.audience(change)):
            peer.dispatch("VOICE_STATE_UPDATE", data)
        if not self._server_update_first:
            self._assign(change.issued)
        if change.issued is None:
            self._voice.update(state)

    def _handle(self, peer: GatewayPeer, event: GatewayServerEvent) -> None:
        _LOG.debug("= gateway of %s: %r", peer.session.user_id, event)
        if isinstance(event, LoggedIn):
            if event.name is not None:
                self.set_name(event.user_id, event.name)
            self._log_in(peer, event.user_id)
        elif isinstance(event, VoiceRequested):
            session_id = peer.session.session_id
            self.apply(self._world.update_voice(event.user_id, session_id, event.request))
        else:
            self._counters[f"gateway.closed.{event.code or 1006}"] += 1  # RFC 6455: no close frame
            self._peers.pop(peer, None)
            for change in self._world.remove_session(peer.session.session_id):
                self.apply(change)

    def _log_in(self, peer: GatewayPeer, user_id: int) -> None:
        self._peers[peer] = user_id
        user = user_object(user_id, self.name_of(user_id))
        guilds = self._world.guilds_of(user_id)
        peer.dispatch(
            "READY",
            {
                "v": _API_VERSION,
                "user": user,
                "guilds": [{"id": str(guild.guild_id), "unavailable": True} for guild in guilds],
                "private_channels": [],
                "session_id": peer.session.session_id,
                "resume_gateway_url": peer.url,
                "shard": [0, 1],
                "application": {"id": user["id"], "flags": 0},
            },
        )
        for guild in guilds:
            peer.dispatch("GUILD_CREATE", self._guild_object(guild))

    def _introduce(self, change: VoiceChange) -> None:
        """Show a guild to its new member, and a new channel to those who knew the guild."""
        guild_id, channel_id = change.state.guild_id, change.state.channel_id
        if guild_id is None or channel_id is None:
            return
        guild = self._world.guilds[guild_id]
        newcomer = change.state.user_id if change.new_member else None
        if newcomer is not None:
            for peer in self._peers_of({newcomer}):
                peer.dispatch("GUILD_CREATE", self._guild_object(guild))
        if change.new_channel:
            data = channel_object(guild_id, channel_id, guild.channels[channel_id])
            for peer in self._peers_of(guild.members - {newcomer}):
                peer.dispatch("CHANNEL_CREATE", data)

    def _assign(self, ticket: Ticket | None) -> None:
        if ticket is None:
            return
        guild_id, channel_id = ticket.room
        data: dict[str, object] = {"token": ticket.token, "guild_id": None}
        if guild_id is None:
            data["channel_id"] = str(channel_id)
        else:
            data["guild_id"] = str(guild_id)
        for peer in self._peers:
            if peer.session.session_id == ticket.session_id:
                peer.dispatch("VOICE_SERVER_UPDATE", data | {"endpoint": peer.endpoint})

    def _peers_of(self, user_ids: Iterable[int | None]) -> list[GatewayPeer]:
        wanted = set(user_ids)
        return [peer for peer, user_id in self._peers.items() if user_id in wanted]

    def _guild_object(self, guild: Guild) -> dict[str, object]:
        names = {user_id: self.name_of(user_id) for user_id in guild.members}
        return guild_object(guild, names, self._world.states_in(guild.guild_id))
