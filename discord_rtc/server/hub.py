"""All main gateway sessions of a server: logs them in, and tells them who is where. Sans-I/O.

Spec: Discord docs, "Gateway Events": READY, GUILD_CREATE, GUILD_MEMBER_ADD, CHANNEL_CREATE,
GUILD_MEMBERS_CHUNK, VOICE_STATE_UPDATE and VOICE_SERVER_UPDATE.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from discord_rtc.protocol.opcodes import VoiceCloseCode
from discord_rtc.server.gateway import (
    GatewayServerSession,
    LoggedIn,
    MembersRequested,
    VoiceRequested,
)
from discord_rtc.server.objects import (
    channel_object,
    guild_object,
    member_object,
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

MOVE_NOTICE = 0.2
"""Seconds from a move until the old voice websocket is closed. discord.py closes it itself when it
gets VOICE_SERVER_UPDATE; if our close comes at that very moment, it waits for ever. The session
is over at once."""

_TOKEN = re.compile(r"(?:Bot )?user-([0-9]{1,19})")  # 19 digits: below the 64 bits of snowflakes


class VoiceSide(Protocol):
    """What the main gateway needs of the voice gateway."""

    def end(self, ticket: Ticket, code: int, reason: str, *, notice: float = 0.0) -> bool:
        """End the voice session of a ticket; its websocket is closed ``notice`` s later."""
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

    def user_of(self, token: str) -> int | None:
        """The user of a token, with or without ``Bot`` before it; None when it is not ours."""
        return user_of_token(token)

    def guilds_seen_by(self, user_id: int) -> tuple[Guild, ...]:
        """The guilds that a user sees, or would see after a login."""
        guilds = self._world.guilds.values()
        return tuple(guild for guild in guilds if guild.everyone or user_id in guild.members)

    def describe(self, guild: Guild) -> dict[str, object]:
        """A guild, as in GUILD_CREATE."""
        names = {user_id: self.name_of(user_id) for user_id in guild.members}
        return guild_object(guild, names, self._world.states_in(guild.guild_id))

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
            peer.dispatch("GUILD_CREATE", self.describe(guild))

    def apply(self, change: VoiceChange) -> None:
        """Tell everybody concerned what a change of a voice state means for them."""
        state = change.state
        self._introduce(change)
        if change.revoked is not None:
            code, notice = VoiceCloseCode.DISCONNECTED, MOVE_NOTICE if change.issued else 0.0
            self._voice.end(change.revoked, code, "disconnected", notice=notice)
        if self._server_update_first or change.repeated is not None:
            self._assign(change.issued or change.repeated)
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
        elif isinstance(event, MembersRequested):
            self._send_members(peer, event)
        else:
            self._counters[f"gateway.closed.{event.code or 1006}"] += 1  # RFC 6455: no close frame
            self._peers.pop(peer, None)
            for change in self._world.remove_session(peer.session.session_id):
                self.apply(change)

    def _log_in(self, peer: GatewayPeer, user_id: int) -> None:
        self._peers[peer] = user_id
        user = user_object(user_id, self.name_of(user_id))
        entered = [one for one in self.guilds_seen_by(user_id) if user_id not in one.members]
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
            peer.dispatch("GUILD_CREATE", self.describe(guild))
        for guild in entered:
            self._tell_members(guild, user_id)

    def _tell_members(self, guild: Guild, newcomer: int) -> None:
        data: dict[str, object] = {"guild_id": str(guild.guild_id)}
        data |= member_object(newcomer, self.name_of(newcomer))
        for peer in self._peers_of(guild.members - {newcomer}):
            peer.dispatch("GUILD_MEMBER_ADD", data)

    def _send_members(self, peer: GatewayPeer, asked: MembersRequested) -> None:
        user_id = peer.session.user_id
        guild = self._world.guilds.get(asked.guild_id)
        if guild is None or user_id not in guild.members:
            self._counters["gateway.unknown-guild"] += 1
            return
        names = {member: self.name_of(member) for member in sorted(guild.members)}
        found = [
            member_object(member, name)
            for member, name in names.items()
            if name.lower().startswith(asked.query.lower())
            and (not asked.user_ids or member in asked.user_ids)
        ]
        chunk: dict[str, object] = {
            "guild_id": str(asked.guild_id),
            "members": found[: asked.limit or None],
            "not_found": [str(one) for one in asked.user_ids if one not in names],
            "chunk_index": 0,
            "chunk_count": 1,
        }
        nonce = {} if asked.nonce is None else {"nonce": asked.nonce}
        peer.dispatch("GUILD_MEMBERS_CHUNK", chunk | nonce)

    def _introduce(self, change: VoiceChange) -> None:
        """Show a guild and its new member to each other, and a new channel to the others."""
        guild_id, channel_id = change.state.guild_id, change.state.channel_id
        if guild_id is None or channel_id is None:
            return
        guild = self._world.guilds[guild_id]
        newcomer = change.state.user_id if change.new_member else None
        if newcomer is not None:
            for peer in self._peers_of({newcomer}):
                peer.dispatch("GUILD_CREATE", self.describe(guild))
            self._tell_members(guild, newcomer)
        if change.new_channel:
            name, stage = guild.channels[channel_id], channel_id in guild.stages
            data = channel_object(guild_id, channel_id, name, stage=stage)
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
