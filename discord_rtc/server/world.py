"""Who is where: guilds, voice states and the tickets that open voice sessions. Sans-I/O.

One `World` per server is the only owner of this state. The main gateway changes it, the
voice gateway authenticates against it. Spec: Discord docs, "Voice Connections"
(retrieving voice server information, establishing a voice websocket connection).

The life of a `Ticket` (what VOICE_SERVER_UPDATE carries)::

    issued --claim--> live --release--> ended        a ticket opens one voice session, once
       |               | ^
       |        detach | | resume                   as often as the websocket is lost
       |               v |
       |            detached --op 4--> offered --claim--> live     a new session with the same
       |                                  `------resume-> live     ticket, or the old one
       `----- another one is issued, or the user leaves -----> gone: 4006 when shown again

A client whose websocket was lost may do one of two things. It may resume at once, as
@discordjs/voice does, or ask the main gateway first with another op 4, as discord.py does, which
then resumes with the token that it is told; a new token would make it fail for ever. But
others identify anew after such an op 4. Both want an answer, and nothing in op 4 tells them
apart, so the same ticket is announced again, and from then on it serves for either. Without that
op 4 it serves for a resume only: who identifies again gets 4006, as on Discord.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from discord_rtc.protocol.messages import Identify, Resume

_REMEMBERED_TICKETS = 256
"""Ended tickets kept to tell "no longer valid" from "never was"; the oldest go first."""


class RoomKey(NamedTuple):
    """A voice channel of a guild, or a private call when there is no guild."""

    guild_id: int | None
    channel_id: int


@dataclass(frozen=True, slots=True)
class VoiceRequest:
    """What a user asks for with op 4 of the main gateway.

    Attributes:
        guild_id: The guild, or None for a private call.
        channel_id: Where to be, or None to leave.
        flags: Client flags shown to others (op 18 of the voice gateway).
    """

    guild_id: int | None
    channel_id: int | None
    self_mute: bool = False
    self_deaf: bool = False
    self_video: bool = False
    flags: int | None = None


@dataclass(frozen=True, slots=True)
class VoiceState:
    """Where a user is in one guild (or private call) and how.

    Attributes:
        channel_id: None once the user has left.
        session_id: Voice session id, which is the id of the user's main gateway session.
    """

    guild_id: int | None
    channel_id: int | None
    user_id: int
    session_id: str = field(repr=False)
    self_mute: bool = False
    self_deaf: bool = False
    self_video: bool = False
    flags: int | None = None


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to open one voice session.

    Attributes:
        token: Secret for Identify.
        session_id: Must be shown together with the token.
        room: The channel that the session belongs to.
    """

    token: str = field(repr=False)
    session_id: str = field(repr=False)
    user_id: int
    room: RoomKey

    @property
    def server_id(self) -> int:
        """What Identify names as ``server_id``: the guild, or the private channel."""
        return self.room.channel_id if self.room.guild_id is None else self.room.guild_id


@dataclass(frozen=True, slots=True)
class VoiceChange:
    """What one request or removal did to one user's voice state.

    Attributes:
        state: The state from now on.
        previous: The state before, None for a user who was nowhere.
        issued: A new ticket, to be announced to the user.
        repeated: The ticket of a session that lost its websocket, to be announced again: before
            the state, because discord.py needs it in that order.
        revoked: The ticket whose voice session, if there is one, has to end.
        new_member: Whether the user sees the guild from now on.
        new_channel: Whether the channel was named for the first time.
    """

    state: VoiceState
    previous: VoiceState | None = None
    issued: Ticket | None = None
    repeated: Ticket | None = None
    revoked: Ticket | None = None
    new_member: bool = False
    new_channel: bool = False


class Denial(Enum):
    """Why an Identify is refused."""

    NOT_YOURS = "the token, server or user is wrong"
    OVER = "the session is no longer valid"


@dataclass(slots=True)
class Guild:
    """A guild, its voice channels and who sees it.

    Attributes:
        channels: Channel id to name.
        stages: Ids of stage channels, of this guild and others.
        members: Users who get its events.
        everyone: Whether every user who logs in is a member. Guilds that exist only because
            somebody named them have those as members who did.
    """

    guild_id: int
    name: str
    everyone: bool = False
    channels: dict[int, str] = field(default_factory=dict)
    stages: Collection[int] = ()
    members: set[int] = field(default_factory=set)


class _Stage(Enum):
    ISSUED = auto()
    LIVE = auto()
    DETACHED = auto()
    OFFERED = auto()
    ENDED = auto()


_Place: TypeAlias = tuple[int | None, int]
"""Guild (None for private calls) and user: the one place that a voice state belongs to."""


class World:
    """All users' voice states, in all guilds.

    Args:
        grant_video: Whether a user may switch the camera on; others are answered
            ``self_video: false``, as Discord does with bots.
        new_token: Makes the secret of a ticket.
        stage_channels: Ids of the channels that are stages; may grow later.
    """

    def __init__(
        self,
        *,
        grant_video: Callable[[int], bool] = lambda _user_id: True,
        new_token: Callable[[], str] = lambda: secrets.token_hex(16),
        stage_channels: Collection[int] = (),
    ) -> None:
        self._grant_video = grant_video
        self._new_token = new_token
        self._stage_channels = stage_channels
        self._guilds: dict[int, Guild] = {}
        self._states: dict[_Place, VoiceState] = {}
        self._tickets: dict[_Place, Ticket] = {}
        self._stages: OrderedDict[str, tuple[Ticket, _Stage]] = OrderedDict()

    @property
    def guilds(self) -> Mapping[int, Guild]:
        """Every guild known so far, by id."""
        return self._guilds

    def add_guild(self, guild_id: int, name: str, channels: Mapping[int, str]) -> Guild:
        """Make a guild that everyone is a member of, or rename and extend an existing one."""
        guild = self._guild(guild_id)
        guild.name = name
        guild.everyone = True
        guild.channels.update(channels)
        return guild

    def guilds_of(self, user_id: int) -> tuple[Guild, ...]:
        """The guilds that a user sees; logging in enters those that are open to everyone."""
        for guild in self._guilds.values():
            if guild.everyone:
                guild.members.add(user_id)
        return tuple(guild for guild in self._guilds.values() if user_id in guild.members)

    def states_in(self, guild_id: int | None) -> Iterator[VoiceState]:
        """Everybody who is in a voice channel of this guild (None: in a private call)."""
        return (state for (guild, _), state in self._states.items() if guild == guild_id)

    def state_of(self, guild_id: int | None, user_id: int) -> VoiceState | None:
        """Where this user is in this guild, None when in no voice channel."""
        return self._states.get((guild_id, user_id))

    def ticket_of(self, guild_id: int | None, user_id: int) -> Ticket | None:
        """The newest ticket of this user in this guild, None when in no voice channel."""
        return self._tickets.get((guild_id, user_id))

    def audience(self, change: VoiceChange) -> frozenset[int]:
        """Users who are told of a change: the guild's members, or the call's participants."""
        state, previous = change.state, change.previous
        told = {state.user_id}
        if previous is None and state.channel_id is None:
            return frozenset(told)  # leaving from nowhere concerns nobody else
        if state.guild_id is not None:
            return frozenset(told | self._guilds[state.guild_id].members)
        calls = {state.channel_id, previous and previous.channel_id}
        return frozenset(
            told | {other.user_id for other in self.states_in(None) if other.channel_id in calls}
        )

    def update_voice(self, user_id: int, session_id: str, request: VoiceRequest) -> VoiceChange:
        """Do what an op 4 asks for. Guilds and channels named for the first time exist.

        A ticket is issued for every move, for a request from another main gateway session,
        after the voice session has ended, and when the same request comes again before the
        ticket was used (a client that lost the first answer). A mere change of flags keeps
        the ticket. So does any request for the same channel while the voice session is
        without its websocket: the ticket is repeated.
        """
        place = (request.guild_id, user_id)
        previous = self._states.get(place)
        state = VoiceState(
            request.guild_id,
            request.channel_id,
            user_id,
            session_id,
            self_mute=request.self_mute,
            self_deaf=request.self_deaf,
            self_video=request.self_video and self._grant_video(user_id),
            flags=request.flags,
        )
        if request.channel_id is None:
            self._states.pop(place, None)
            return VoiceChange(state, previous, revoked=self._revoke(place))
        room = RoomKey(request.guild_id, request.channel_id)
        new_member, new_channel = self._enter(room, user_id)
        self._states[place] = state
        change = VoiceChange(state, previous, new_member=new_member, new_channel=new_channel)
        if previous is not None and self._keeps_ticket(place, previous, state):
            return replace(change, repeated=self._offer(place))
        revoked = self._revoke(place)
        issued = Ticket(self._new_token(), session_id, user_id, room)
        self._tickets[place] = issued
        self._stages[issued.token] = (issued, _Stage.ISSUED)
        return replace(change, issued=issued, revoked=revoked)

    def remove_session(self, session_id: str) -> tuple[VoiceChange, ...]:
        """Take a main gateway session, which has ended, out of every voice channel."""
        return tuple(
            self.update_voice(
                state.user_id, session_id, VoiceRequest(state.guild_id, channel_id=None)
            )
            for state in tuple(self._states.values())
            if state.session_id == session_id
        )

    def claim(self, identify: Identify) -> Ticket | Denial:
        """Use a ticket to open a voice session, perhaps in place of one that lost its websocket."""
        ticket = self._shown(identify)
        if ticket is None or identify.user_id != ticket.user_id:
            return Denial.NOT_YOURS
        usable = {_Stage.ISSUED, _Stage.OFFERED}
        if self._stage(ticket) not in usable or identify.session_id != ticket.session_id:
            return Denial.OVER
        self._stages[ticket.token] = (ticket, _Stage.LIVE)
        return ticket

    def resume(self, resume: Resume) -> tuple[Ticket, bool] | Denial:
        """Use a ticket to go on with the voice session that it opened.

        Returns:
            The ticket, and whether the client asked the main gateway before.
        """
        ticket = self._shown(resume)
        if ticket is None:
            return Denial.NOT_YOURS
        stage = self._stage(ticket)
        usable = {_Stage.LIVE, _Stage.DETACHED, _Stage.OFFERED}
        if stage not in usable or resume.session_id != ticket.session_id:
            return Denial.OVER
        self._stages[ticket.token] = (ticket, _Stage.LIVE)
        return ticket, stage is _Stage.OFFERED

    def detach(self, ticket: Ticket) -> None:
        """The voice session that this ticket opened is without its websocket."""
        self._stages[ticket.token] = (ticket, _Stage.DETACHED)

    def release(self, ticket: Ticket) -> None:
        """The voice session that this ticket opened has ended."""
        self._end(ticket)

    def _guild(self, guild_id: int) -> Guild:
        made = Guild(guild_id, f"guild-{guild_id}", stages=self._stage_channels)
        return self._guilds.setdefault(guild_id, made)

    def _enter(self, room: RoomKey, user_id: int) -> tuple[bool, bool]:
        if room.guild_id is None:
            return False, False
        guild = self._guild(room.guild_id)
        new_member = user_id not in guild.members
        new_channel = room.channel_id not in guild.channels
        guild.members.add(user_id)
        guild.channels.setdefault(room.channel_id, f"voice-{room.channel_id}")
        return new_member, new_channel

    def _keeps_ticket(self, place: _Place, previous: VoiceState, state: VoiceState) -> bool:
        moved = previous.channel_id != state.channel_id
        if moved or previous.session_id != state.session_id:
            return False
        stage = self._stage(self._tickets[place])
        in_use = stage not in {_Stage.ISSUED, _Stage.ENDED}
        return in_use or (stage is _Stage.ISSUED and previous != state)

    def _offer(self, place: _Place) -> Ticket | None:
        ticket = self._tickets[place]
        if self._stage(ticket) not in {_Stage.DETACHED, _Stage.OFFERED}:
            return None
        self._stages[ticket.token] = (ticket, _Stage.OFFERED)
        return ticket

    def _shown(self, message: Identify | Resume) -> Ticket | None:
        """The ticket that a client shows, if it is one for what it names."""
        ticket, _ = self._stages.get(message.token, (None, None))
        if ticket is None or message.server_id != ticket.server_id:
            return None
        named = message.channel_id
        return ticket if named is None or named == ticket.room.channel_id else None

    def _stage(self, ticket: Ticket) -> _Stage:
        _, stage = self._stages.get(ticket.token, (ticket, _Stage.ENDED))  # or ended long ago
        return stage

    def _revoke(self, place: _Place) -> Ticket | None:
        ticket = self._tickets.pop(place, None)
        if ticket is not None:
            self._end(ticket)
        return ticket

    def _end(self, ticket: Ticket) -> None:
        self._stages[ticket.token] = (ticket, _Stage.ENDED)
        self._stages.move_to_end(ticket.token)
        self._forget(token for token, (_, stage) in self._stages.items() if stage is _Stage.ENDED)

    def _forget(self, ended: Iterable[str]) -> None:
        tokens = tuple(ended)
        for token in tokens[: max(0, len(tokens) - _REMEMBERED_TICKETS)]:
            del self._stages[token]
