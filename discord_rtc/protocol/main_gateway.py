"""The client side of Discord's main gateway, as little as voice needs. Sans-I/O.

Spec: Discord API docs, "Gateway": Hello, Identify, Heartbeat, Dispatch.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from discord_rtc.errors import MalformedMessage
from discord_rtc.protocol.fields import Fields, parse_json, positive, snowflake
from discord_rtc.protocol.opcodes import GatewayOpcode

if TYPE_CHECKING:
    from collections.abc import Mapping

SHORTEST_INTERVAL = 1.0
"""Seconds; a senseless Hello must not make the timer spin. Discord asks for about 41."""

COMMAND_BOUND = 120
"""Commands kept until READY; Discord allows 120 in 60 s ("Rate Limiting")."""


@dataclass(frozen=True, slots=True)
class Established:
    """READY came; the session belongs to ``user_id``."""

    user_id: int


@dataclass(frozen=True, slots=True)
class Dispatched:
    """One dispatch."""

    name: str
    data: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class GatewayFailed:
    """The session cannot go on: no READY in time, a heartbeat unanswered, or refused.

    Attributes:
        reason: One sentence.
        timed_out: Whether the gateway said nothing, rather than something wrong.
    """

    reason: str
    timed_out: bool = False


GatewayEvent: TypeAlias = Established | Dispatched | GatewayFailed


class GatewaySession:
    """One main-gateway session, from an opened socket on.

    Args:
        token: Bot or user token; never shown.
        intents: Gateway intents.
        now: When the socket was opened.
        timeout: Seconds from then to READY.
    """

    def __init__(self, token: str, intents: int, now: float, *, timeout: float = 10.0) -> None:
        self._token = token
        self._intents = intents
        self._user_id: int | None = None
        self._sequence: int | None = None
        self._interval: float | None = None
        self._awaiting_ack = False
        self._due: float | None = now + timeout
        self._next_beat: float | None = None
        self._failed = False
        self._outbox: list[str] = []
        self._kept: deque[tuple[int, Mapping[str, object]]] = deque(maxlen=COMMAND_BOUND)
        self._events: deque[GatewayEvent] = deque()

    @property
    def user_id(self) -> int | None:
        """The account, once READY came."""
        return self._user_id

    def send(self, opcode: int, data: Mapping[str, object]) -> None:
        """Send a command; before READY the last `COMMAND_BOUND` ones are kept."""
        if self._user_id is None:
            self._kept.append((opcode, data))
        else:
            self._put(opcode, data)

    def receive_text(self, text: str, now: float) -> None:
        """Take one text frame. A malformed one is ignored: nothing here is vital twice."""
        try:
            message = parse_json(text)
        except MalformedMessage:
            return
        if not isinstance(message, dict):
            return
        sequence = message.get("s")
        if isinstance(sequence, int) and not isinstance(sequence, bool):
            self._sequence = sequence
        data = message.get("d")
        match message.get("op"):
            case GatewayOpcode.HELLO if self._interval is None:  # Identify goes out once
                self._greeted(data, now)
            case GatewayOpcode.DISPATCH:
                self._dispatched(message.get("t"), data)
            case GatewayOpcode.HEARTBEAT:
                self._beat(now)
            case GatewayOpcode.HEARTBEAT_ACK:
                self._awaiting_ack = False
            case GatewayOpcode.INVALID_SESSION:
                self._fail("the gateway refused the session")
            case _:
                pass

    def messages_to_send(self) -> list[str]:
        """Text frames to send, in order."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_event(self) -> GatewayEvent | None:
        """The oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called."""
        if self._failed:
            return None
        times = [time for time in (self._due, self._next_beat) if time is not None]
        return min(times, default=None)

    def handle_timeout(self, now: float) -> None:
        """Send a heartbeat, or give up."""
        if self._failed:
            return
        if self._due is not None and now >= self._due:
            self._fail("the gateway did not send READY in time", timed_out=True)
        elif self._next_beat is not None and now >= self._next_beat:
            if self._awaiting_ack:
                self._fail("the gateway stopped answering heartbeats", timed_out=True)
            else:
                self._awaiting_ack = True
                self._beat(now)

    def _greeted(self, data: object, now: float) -> None:
        try:
            interval_ms = Fields(data).need("heartbeat_interval", positive)
        except MalformedMessage:
            self._fail("the gateway greeted without a heartbeat interval")
            return
        self._interval = max(SHORTEST_INTERVAL, interval_ms / 1000)
        self._next_beat = now + self._interval
        self._put(
            GatewayOpcode.IDENTIFY,
            {
                "token": self._token,
                "intents": self._intents,
                # What this is, honestly: no other client's fingerprint is imitated.
                "properties": {
                    "os": "python",
                    "browser": "discord_rtc",
                    "device": "discord_rtc",
                },
            },
        )

    def _dispatched(self, name: object, data: object) -> None:
        if not isinstance(name, str) or not isinstance(data, dict):
            return
        if name == "READY" and self._user_id is None:
            try:
                user_id = Fields(data.get("user")).need("id", snowflake)
            except MalformedMessage:
                self._fail("the gateway's READY names no user")
                return
            self._user_id = user_id
            self._due = None
            self._events.append(Established(user_id))
            while self._kept:
                self._put(*self._kept.popleft())
        self._events.append(Dispatched(name, data))

    def _beat(self, now: float) -> None:
        self._put(GatewayOpcode.HEARTBEAT, self._sequence)
        if self._interval is not None:
            self._next_beat = now + self._interval

    def _put(self, opcode: int, data: object) -> None:
        self._outbox.append(json.dumps({"op": int(opcode), "d": data}))

    def _fail(self, reason: str, *, timed_out: bool = False) -> None:
        self._failed = True
        self._events.append(GatewayFailed(reason, timed_out))
