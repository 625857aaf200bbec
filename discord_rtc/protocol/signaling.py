"""Main gateway machine of one guild or private call: join, move, leave. Sans-I/O.

Spec: Discord API docs, "Connecting to Voice"; userdoccers, "Voice Connections".

Joining is op 4, answered by two events in either order: VOICE_STATE_UPDATE holds the session id
(and whether video is granted), VOICE_SERVER_UPDATE token and endpoint. Rules:

* An attempt is complete when both came after its op 4, the voice state for the channel asked
  for; then `ServerAssigned` is given. The last of each counts. When a channel is full, or may not
  be entered, no event comes at all: hence `TimedOut`.
* Voice states of others, and events of other guilds, do not concern us.
* A new VOICE_SERVER_UPDATE while connected is a new `ServerAssigned`, with the same endpoint
  too: token and session are fresh, so the voice server wants a full Identify. A mute, deafen or
  forced move alone is only a `VoiceStateChanged`. As the two events of a forced move come in
  either order, a server for the channel where we are is taken a moment later: the channel is
  part of the credentials, being the id of the encrypted group.
* ``endpoint: null`` says that the server went away and that another one will be named.
  `ServerUnavailable` is given and nothing is retried: there is nothing to do but to wait.
* A voice state without channel means `Disconnected`, by us or by others. Before an attempt got
  its own voice state it belongs to the past, as the echo of our own leaving does that comes after
  a new join, and is ignored.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from discord_rtc.errors import InvalidState, MalformedMessage
from discord_rtc.protocol.credentials import VoiceCredentials
from discord_rtc.protocol.opcodes import GatewayOpcode
from discord_rtc.protocol.voice_state import (
    VoiceServer,
    VoiceState,
    parse_voice_server,
    parse_voice_state,
)
from discord_rtc.queues import RollingQueue

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "JoinSignaling", "VoiceState", "VoiceCredentials",
    "SignalingEvent", "ServerAssigned", "ServerUnavailable", "VoiceStateChanged", "Disconnected",
    "TimedOut",
]  # fmt: skip

MOVE_WINDOW = 0.25
"""Seconds in which the voice state that belongs to a new voice server follows it, if one does:
the gateway sends both at once."""

_QUEUE_LIMIT = 256  # drained after each input, so only a caller that never drains gets here


@dataclass(frozen=True, slots=True)
class ServerAssigned:
    """Connect to this voice server, and identify anew."""

    credentials: VoiceCredentials


@dataclass(frozen=True, slots=True)
class ServerUnavailable:
    """The voice server went away; close its socket and wait for `ServerAssigned`."""


@dataclass(frozen=True, slots=True)
class VoiceStateChanged:
    """Our own voice state in this guild or call, as the gateway has it now."""

    state: VoiceState


@dataclass(frozen=True, slots=True)
class Disconnected:
    """We are not in a channel any more."""


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Nothing, or half of it, came in time. Full channel, or no permission to connect?"""


SignalingEvent = ServerAssigned | ServerUnavailable | VoiceStateChanged | Disconnected | TimedOut


@dataclass(frozen=True, slots=True)
class _Flags:
    """What an op 4 says besides the channel."""

    self_mute: bool = False
    self_deaf: bool = False
    self_video: bool = False
    flags: int = 0


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An op 4 with a channel whose two events are awaited."""

    deadline: float | None  # None once the gateway said that a server will follow
    has_state: bool = False
    has_server: bool = False


class JoinSignaling:
    """Our voice connection to one guild or private call, as the main gateway sees it.

    Contract: one input, then flush `commands_to_send`, drain `next_event`, and re-arm the timer
    with `next_timeout`.

    Args:
        user_id: Ourselves.
        guild_id: The guild; None for a private call.
        timeout: Seconds that an attempt may take.
    """

    def __init__(self, user_id: int, guild_id: int | None, *, timeout: float = 10.0) -> None:
        self._user_id = user_id
        self._guild_id = guild_id
        self._timeout = timeout
        self._flags = _Flags()
        self._channel_id: int | None = None
        self._attempt: _Attempt | None = None
        self._leaving = False
        self._state: VoiceState | None = None
        self._server: VoiceServer | None = None
        self._assigned: VoiceCredentials | None = None
        self._settled_at: float | None = None
        self._commands: RollingQueue[tuple[int, dict[str, object]]] = RollingQueue(_QUEUE_LIMIT)
        self._events: RollingQueue[SignalingEvent] = RollingQueue(_QUEUE_LIMIT)
        self._drops: Counter[str] = Counter()

    @property
    def credentials(self) -> VoiceCredentials | None:
        """The newest of everything; the session id can change after it was assigned."""
        if self._assigned is None or self._state is None or self._server is None:
            return None
        return self._make_credentials(self._state, self._server)

    @property
    def drops(self) -> dict[str, int]:
        """Reason to count of events that could not be read or taken."""
        overflows = {
            "event-overflow": self._events.dropped,
            "command-overflow": self._commands.dropped,
        }
        return dict(self._drops) | {reason: count for reason, count in overflows.items() if count}

    def join(
        self,
        channel_id: int,
        *,
        self_mute: bool = False,
        self_deaf: bool = False,
        self_video: bool = False,
        flags: int = 0,
        now: float,
    ) -> None:
        """Enter a channel, or move to another one of the same guild.

        Args:
            channel_id: Where to.
            self_mute: Shown as muted.
            self_deaf: Shown as deafened.
            self_video: Ask to send video; `VoiceStateChanged` says whether it is granted.
            flags: Voice flags (userdoccers, "Voice Flags").
            now: Monotonic seconds.
        """
        self._flags = _Flags(self_mute, self_deaf, self_video, flags)
        self._channel_id = channel_id
        self._attempt = _Attempt(now + self._timeout)
        self._command(channel_id)

    def update(
        self,
        *,
        self_mute: bool | None = None,
        self_deaf: bool | None = None,
        self_video: bool | None = None,
        flags: int | None = None,
        now: float,  # noqa: ARG002 - every input has a time
    ) -> None:
        """Change what is not None, in the channel where we are.

        Raises:
            InvalidState: In no channel.
        """
        if self._channel_id is None:
            raise InvalidState("there is no voice state to update outside a channel")
        wanted = _Flags(
            self._flags.self_mute if self_mute is None else self_mute,
            self._flags.self_deaf if self_deaf is None else self_deaf,
            self._flags.self_video if self_video is None else self_video,
            self._flags.flags if flags is None else flags,
        )
        self._flags = wanted
        self._command(self._channel_id)

    def leave(self, now: float) -> None:  # noqa: ARG002 - every input has a time
        """Leave the channel; then close the voice socket with 1000."""
        self._leaving = self._channel_id is not None
        self._forget()
        self._command(None)

    def receive_event(self, name: str, data: Mapping[str, object], now: float) -> None:
        """Take any dispatch of the main gateway; those that do not concern us are ignored.

        Args:
            name: ``t`` of the dispatch.
            data: ``d`` of the dispatch.
            now: Monotonic seconds.
        """
        try:
            if name == "VOICE_STATE_UPDATE":
                self._voice_state(parse_voice_state(data))
            elif name == "VOICE_SERVER_UPDATE":
                self._voice_server(parse_voice_server(data), now)
        except MalformedMessage:
            self._drops[f"malformed {name}"] += 1

    def commands_to_send(self) -> list[tuple[int, dict[str, object]]]:
        """Take the commands for the main gateway: opcode and ``d``."""
        return self._commands.drain()

    def next_event(self) -> SignalingEvent | None:
        """Take the oldest event."""
        return self._events.pop()

    def next_timeout(self) -> float | None:
        """When the running attempt fails, or a server that came unasked is taken as it is.

        None when there is neither, or when the gateway said that a server will follow.
        """
        return self._settled_at if self._attempt is None else self._attempt.deadline

    def handle_timeout(self, now: float) -> None:
        """Give up the attempt when its time is over. Early calls do nothing."""
        deadline = self.next_timeout()
        if deadline is None or now < deadline:
            return
        if self._attempt is None:
            self._settle()
            return
        self._attempt = None
        if self._assigned is None or self._state is None:
            self._forget()
        else:  # still where we were before the move
            self._channel_id = self._state.channel_id
        self._events.append(TimedOut())

    def _voice_state(self, state: VoiceState) -> None:
        if state.user_id != self._user_id or state.guild_id != self._guild_id:
            return
        if state.channel_id is None:
            self._left()
        elif self._channel_id is not None:
            self._state = state
            self._events.append(VoiceStateChanged(state))
            if self._attempt is None:
                moved = state.channel_id != self._channel_id
                self._channel_id = state.channel_id  # moved by somebody
                if moved and self._settled_at is not None:
                    self._settle()  # to where the server that came first is
            elif state.channel_id == self._channel_id:
                self._leaving = False
                self._attempt = replace(self._attempt, has_state=True)
                self._complete(self._attempt)

    def _left(self) -> None:
        if self._attempt is not None and not self._attempt.has_state:
            return  # of the past: who is not in yet cannot be taken out
        echo, self._leaving = self._leaving, False
        if echo or self._channel_id is not None:
            self._forget()
            self._events.append(Disconnected())

    def _voice_server(self, server: VoiceServer, now: float) -> None:
        if server.guild_id != self._guild_id or self._channel_id is None:
            return
        if self._guild_id is None and server.channel_id not in {None, self._channel_id}:
            return
        if server.endpoint is None:
            self._server = self._settled_at = None
            if self._attempt is not None:
                self._attempt = replace(self._attempt, deadline=None, has_server=False)
            self._events.append(ServerUnavailable())
            return
        before, self._server = self._server, server
        if self._attempt is not None:
            self._attempt = replace(self._attempt, has_server=True)
            self._complete(self._attempt)
        elif server != before and self._state is not None:
            if before is not None and self._may_be_moved(self._state):
                self._settled_at = now + MOVE_WINDOW
            else:
                self._settle()

    def _may_be_moved(self, state: VoiceState) -> bool:
        """Whether a server that came unasked may be the first half of a move.

        It is the second half where the new channel was told already; private calls have but one.
        """
        if self._guild_id is None or self._assigned is None:
            return False
        return self._assigned.channel_id == state.channel_id

    def _settle(self) -> None:
        """Take the newest server together with the newest state."""
        assert self._state is not None
        assert self._server is not None
        self._assign(self._state, self._server)

    def _complete(self, attempt: _Attempt) -> None:
        if attempt.has_state and attempt.has_server:
            assert self._state is not None
            assert self._server is not None
            self._attempt = None
            self._assign(self._state, self._server)

    def _assign(self, state: VoiceState, server: VoiceServer) -> None:
        self._settled_at = None
        self._assigned = self._make_credentials(state, server)
        self._events.append(ServerAssigned(self._assigned))

    def _make_credentials(self, state: VoiceState, server: VoiceServer) -> VoiceCredentials:
        assert server.endpoint is not None
        assert state.channel_id is not None
        return VoiceCredentials(
            endpoint=server.endpoint,
            token=server.token,
            session_id=state.session_id,
            user_id=self._user_id,
            server_id=state.channel_id if self._guild_id is None else self._guild_id,
            channel_id=state.channel_id,
        )

    def _forget(self) -> None:
        self._channel_id = None
        self._attempt = None
        self._state = None
        self._server = None
        self._assigned = None
        self._settled_at = None

    def _command(self, channel_id: int | None) -> None:
        data: dict[str, object] = {
            "guild_id": None if self._guild_id is None else str(self._guild_id),
            "channel_id": None if channel_id is None else str(channel_id),
            "self_mute": self._flags.self_mute,
            "self_deaf": self._flags.self_deaf,
            "self_video": self._flags.self_video,
        }
        if self._flags.flags:  # bots send none
            data["flags"] = self._flags.flags
        self._commands.append((GatewayOpcode.VOICE_STATE_UPDATE.value, data))
