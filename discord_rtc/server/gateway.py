"""Main gateway **server** machine: the subset that voice needs. Sans-I/O.

Spec: Discord docs, "Gateway" (connection lifecycle, opcodes and close codes, zlib-stream).

Served: Hello, Identify, READY, heartbeats, op 4, and member requests, for which libraries wait.
Known and ignored: presence, streams and pings. Resume is answered with Invalid Session, since
sessions are not kept.
"""

from __future__ import annotations

import json
import secrets
import zlib
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from discord_rtc.errors import MalformedMessage
from discord_rtc.protocol.fields import Fields, flag, list_of, parse_json, snowflake, text, u63
from discord_rtc.protocol.opcodes import GatewayOpcode
from discord_rtc.server.ratelimit import MessageRate
from discord_rtc.server.world import VoiceRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Close codes of the main gateway (Discord docs, "Gateway Close Event Codes").
_UNKNOWN_OPCODE = 4001
_DECODE_ERROR = 4002
_NOT_AUTHENTICATED = 4003
_AUTHENTICATION_FAILED = 4004
_ALREADY_AUTHENTICATED = 4005
_RATE_LIMITED = 4008
_SESSION_TIMED_OUT = 4009

_HIGHEST_OPCODE = 43
"""Request Channel Info, the last client opcode that userdoccers lists."""

_SERVER_OPCODES = frozenset({0, 7, 9, 10, 11})
"""Opcodes that only the server may send."""

_NAME_LIMIT = 32
"""Characters of a user's name (Discord docs, "Usernames and Nicknames")."""

MAX_UNREAD = 2048
"""Messages waiting for a client that does not read."""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """What all main gateway sessions of a server have in common.

    Attributes:
        heartbeat_interval_ms: What Hello asks for (Discord: 41250).
        identify_timeout: Seconds until a client has to have identified.
        new_session_id: Makes the id of a session.
    """

    heartbeat_interval_ms: int = 41_250
    identify_timeout: float = 30.0
    new_session_id: Callable[[], str] = lambda: secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The client identified; READY has to be dispatched.

    Attributes:
        name: What the user wants to be called. Discord knows the name of an account; here it
            may come as ``name`` among the connection properties, which is an addition of ours.
    """

    user_id: int
    name: str | None = None


@dataclass(frozen=True, slots=True)
class VoiceRequested:
    """The client sent op 4."""

    user_id: int
    request: VoiceRequest


@dataclass(frozen=True, slots=True)
class MembersRequested:
    """The client sent op 8: it wants to know members of a guild, and waits for them.

    Attributes:
        guild_id: The guild.
        query: What the names begin with; "" is everybody.
        limit: How many at most, 0 for all.
        user_ids: Only these, when there are some.
        nonce: To be sent back.
    """

    guild_id: int
    query: str
    limit: int
    user_ids: tuple[int, ...]
    nonce: str | None


@dataclass(frozen=True, slots=True)
class LoggedOut:
    """The session is over, for either side's reasons. Nothing follows."""

    code: int | None
    reason: str


GatewayServerEvent: TypeAlias = LoggedIn | VoiceRequested | MembersRequested | LoggedOut


@dataclass(slots=True)
class _Output:
    """Messages for the client; with zlib-stream one compression context for all of them."""

    deflate: zlib._Compress | None
    queue: deque[str | bytes] = field(default_factory=deque)
    sequence: int = 0

    def put(self, opcode: int, data: object, name: str | None = None) -> None:
        if name is not None:
            self.sequence += 1
        message = {"op": opcode, "d": data, "s": self.sequence if name else None, "t": name}
        encoded = json.dumps(message, separators=(",", ":"))
        if self.deflate is None:
            self.queue.append(encoded)
            return
        # Each message ends in 00 00 FF FF, which is how clients find its end.
        compressed = self.deflate.compress(encoded.encode())
        self.queue.append(compressed + self.deflate.flush(zlib.Z_SYNC_FLUSH))


class GatewayServerSession:
    """The server's end of one main gateway websocket.

    Args:
        config: See `GatewayConfig`.
        authenticate: Token to user id, or None when it is not accepted.
        compress: Whether the client asked for ``compress=zlib-stream``.
        counters: Where ignored messages are counted, as ``gateway.ignored.<opcode>``.
    """

    def __init__(
        self,
        config: GatewayConfig,
        authenticate: Callable[[str], int | None],
        *,
        compress: bool = False,
        counters: Counter[str] | None = None,
    ) -> None:
        self.session_id = config.new_session_id()
        self._config = config
        self._authenticate = authenticate
        self._counters = Counter[str]() if counters is None else counters
        self._output = _Output(zlib.compressobj() if compress else None)
        self._rate = MessageRate()
        self._user_id: int | None = None
        self._closed = False
        self._closing: tuple[int, str] | None = None
        self._deadline: float | None = None
        self._events: deque[GatewayServerEvent] = deque()

    @property
    def user_id(self) -> int | None:
        """Who is logged in; kept after the end of the session."""
        return self._user_id

    @property
    def closing(self) -> tuple[int, str] | None:
        """Code and reason with which the websocket has to be closed, once there is one."""
        return self._closing

    def open(self, now: float) -> None:
        """First input: the websocket is there."""
        self._deadline = now + self._config.identify_timeout
        interval = {"heartbeat_interval": self._config.heartbeat_interval_ms}
        self._send(GatewayOpcode.HELLO, interval)

    def receive_text(self, data: str, now: float) -> None:
        """A text frame came."""
        if self._closed:
            return
        if self._rate.exceeded(now):
            self.close(_RATE_LIMITED, "too many messages")
            return
        try:
            message = Fields(parse_json(data))
            self._receive(message.need("op", u63), message, now)
        except MalformedMessage as error:
            self.close(_DECODE_ERROR, str(error))

    def receive_binary(self, data: bytes, now: float) -> None:
        """A binary frame came; Discord takes JSON in these as well."""
        self.receive_text(data.decode(errors="replace"), now)

    def connection_lost(self, code: int | None, now: float) -> None:  # noqa: ARG002  the verb's shape
        """The client closed the websocket, or it broke (None)."""
        self._finish(code, "closed by the client")

    def dispatch(self, name: str, data: Mapping[str, object]) -> None:
        """Send an event to the client. Nothing happens once the session is closed."""
        self._send(GatewayOpcode.DISPATCH, data, name)

    def close(self, code: int, reason: str) -> None:
        """End the session. What was sent before is still delivered."""
        if not self._closed:
            self._closing = (code, reason)
            self._finish(code, reason)

    def messages_to_send(self) -> list[str | bytes]:
        """What has to be written to the websocket, oldest first."""
        messages = list(self._output.queue)
        self._output.queue.clear()
        return messages

    def next_event(self) -> GatewayServerEvent | None:
        """The oldest event that was not taken yet."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> float | None:
        """When the client will have been silent for too long."""
        return self._deadline

    def handle_timeout(self, now: float) -> None:
        """Time has come."""
        if self._deadline is not None and now >= self._deadline:
            self.close(_SESSION_TIMED_OUT, "session timed out")

    def _send(self, opcode: int, data: object, name: str | None = None) -> None:
        if self._closed:
            return
        if len(self._output.queue) >= MAX_UNREAD:
            self._output.queue.clear()
            self.close(_RATE_LIMITED, "too slow: messages were not read")
            return
        self._output.put(opcode, data, name)

    def _finish(self, code: int | None, reason: str) -> None:
        if not self._closed:
            self._closed = True
            self._deadline = None
            self._events.append(LoggedOut(code, reason))

    def _receive(self, opcode: int, message: Fields, now: float) -> None:
        match opcode:
            case GatewayOpcode.HEARTBEAT:
                message.get("d", u63, None)
                if self._user_id is not None:
                    self._beat(now)
                self._send(GatewayOpcode.HEARTBEAT_ACK, None)
            case GatewayOpcode.IDENTIFY:
                self._identify(message.need("d", Fields), now)
            case GatewayOpcode.RESUME:
                self._send(GatewayOpcode.INVALID_SESSION, data=False)
            case _ if opcode in _SERVER_OPCODES or opcode > _HIGHEST_OPCODE:
                self.close(_UNKNOWN_OPCODE, f"unknown opcode {opcode}")
            case _ if self._user_id is None:
                self.close(_NOT_AUTHENTICATED, "identify first")
            case GatewayOpcode.VOICE_STATE_UPDATE:
                request = _parse_voice_request(message.need("d", Fields))
                self._events.append(VoiceRequested(self._user_id, request))
            case GatewayOpcode.REQUEST_GUILD_MEMBERS:
                self._events.append(_parse_members_request(message.need("d", Fields)))
            case _:
                self._counters[f"gateway.ignored.{opcode}"] += 1

    def _beat(self, now: float) -> None:
        # Discord tolerates one missed heartbeat.
        self._deadline = now + 2 * self._config.heartbeat_interval_ms / 1000

    def _identify(self, fields: Fields, now: float) -> None:
        if self._user_id is not None:
            self.close(_ALREADY_AUTHENTICATED, "already identified")
            return
        self._user_id = self._authenticate(fields.get("token", text, ""))
        if self._user_id is None:
            self.close(_AUTHENTICATION_FAILED, "authentication failed")
            return
        self._beat(now)
        properties = fields.get("properties", Fields, None)
        name = "" if properties is None else properties.get("name", text, "")
        self._events.append(LoggedIn(self._user_id, _tidy(name)))


def _tidy(name: str) -> str | None:
    """A name on one line, not longer than Discord's; None when nothing of it is left."""
    printable = "".join(letter if letter.isprintable() else " " for letter in name)
    return " ".join(printable.split())[:_NAME_LIMIT] or None


def _parse_voice_request(fields: Fields) -> VoiceRequest:
    return VoiceRequest(
        guild_id=fields.get("guild_id", snowflake, None),
        channel_id=fields.get("channel_id", snowflake, None),
        self_mute=fields.get("self_mute", flag, default=False),
        self_deaf=fields.get("self_deaf", flag, default=False),
        self_video=fields.get("self_video", flag, default=False),
        flags=fields.get("flags", u63, None),
    )


def _parse_members_request(fields: Fields) -> MembersRequested:
    return MembersRequested(
        guild_id=fields.need("guild_id", snowflake),
        query=fields.get("query", text, ""),
        limit=fields.get("limit", u63, 0),
        user_ids=fields.get("user_ids", _one_or_more, ()),
        nonce=fields.get("nonce", text, None),
    )


def _one_or_more(value: object) -> tuple[int, ...]:
    return list_of(snowflake)(value if isinstance(value, list) else [value])
