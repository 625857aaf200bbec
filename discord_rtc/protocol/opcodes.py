"""Opcodes, close codes, speaking flags. Sans-I/O. Spec: userdoccers, "Opcodes and Close Codes"."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class VoiceOpcode(IntEnum):
    """Voice gateway opcodes.

    10 (Signal), 17 (Channel Options Update) and 19 (Speed Test) are dead or not for calls and
    therefore count as unknown. 25 to 30 are binary, all others JSON.
    """

    IDENTIFY = 0
    SELECT_PROTOCOL = 1
    READY = 2
    HEARTBEAT = 3
    SESSION_DESCRIPTION = 4
    SPEAKING = 5
    HEARTBEAT_ACK = 6
    RESUME = 7
    HELLO = 8
    RESUMED = 9
    CLIENTS_CONNECT = 11
    VIDEO = 12
    CLIENT_DISCONNECT = 13
    SESSION_UPDATE = 14
    MEDIA_SINK_WANTS = 15
    BACKEND_VERSION = 16
    CLIENT_FLAGS = 18
    CLIENT_PLATFORM = 20
    PREPARE_TRANSITION = 21
    EXECUTE_TRANSITION = 22
    TRANSITION_READY = 23
    PREPARE_EPOCH = 24
    MLS_EXTERNAL_SENDER = 25
    MLS_KEY_PACKAGE = 26
    MLS_PROPOSALS = 27
    MLS_COMMIT_WELCOME = 28
    MLS_ANNOUNCE_COMMIT = 29
    MLS_WELCOME = 30
    INVALID_COMMIT_WELCOME = 31
    NO_ROUTE = 32


class GatewayOpcode(IntEnum):
    """Main gateway opcodes that a voice client meets."""

    DISPATCH = 0
    HEARTBEAT = 1
    IDENTIFY = 2
    PRESENCE_UPDATE = 3
    VOICE_STATE_UPDATE = 4
    VOICE_SERVER_PING = 5
    RESUME = 6
    RECONNECT = 7
    REQUEST_GUILD_MEMBERS = 8
    INVALID_SESSION = 9
    HELLO = 10
    HEARTBEAT_ACK = 11


class SpeakingFlags(IntFlag):
    """The bits of op 5 ``speaking`` (gateway versions from 4 on)."""

    NONE = 0
    VOICE = 1
    SOUNDSHARE = 2
    PRIORITY = 4


class VoiceCloseCode(IntEnum):
    """Websocket close codes of the voice gateway; gaps are unassigned."""

    UNKNOWN_OPCODE = 4001
    DECODE_ERROR = 4002
    NOT_AUTHENTICATED = 4003
    AUTHENTICATION_FAILED = 4004
    ALREADY_AUTHENTICATED = 4005
    SESSION_NO_LONGER_VALID = 4006
    SESSION_TIMEOUT = 4009
    SERVER_NOT_FOUND = 4011
    UNKNOWN_PROTOCOL = 4012
    WEBRTC_SERVER_ERROR = 4013
    DISCONNECTED = 4014
    SERVER_CRASHED = 4015
    UNKNOWN_ENCRYPTION_MODE = 4016
    DAVE_REQUIRED = 4017
    BAD_REQUEST = 4020
    RATE_LIMITED = 4021
    CALL_TERMINATED = 4022


class CloseMeaning(NamedTuple):
    """What a close code says.

    Attributes:
        name: Short name for logs and counters.
        meaning: One sentence for people.
        resumable: Whether the protocol allows op 7 (Resume) afterwards.
    """

    name: str
    meaning: str
    resumable: bool


_MEANINGS: dict[int, tuple[str, bool]] = {
    VoiceCloseCode.UNKNOWN_OPCODE: ("The client sent an opcode that does not exist.", False),
    VoiceCloseCode.DECODE_ERROR: ("The server could not decode a message.", False),
    VoiceCloseCode.NOT_AUTHENTICATED: ("A message was sent before Identify.", False),
    VoiceCloseCode.AUTHENTICATION_FAILED: ("Token, server and session do not match.", False),
    VoiceCloseCode.ALREADY_AUTHENTICATED: ("Identify was sent twice.", False),
    VoiceCloseCode.SESSION_NO_LONGER_VALID: ("The voice session does not exist any more.", False),
    VoiceCloseCode.SESSION_TIMEOUT: ("Identify or heartbeats did not come in time.", False),
    VoiceCloseCode.SERVER_NOT_FOUND: ("The server knows no such guild or call.", False),
    VoiceCloseCode.UNKNOWN_PROTOCOL: ("The selected protocol is not known.", False),
    # Only userdoccers lists it; treated as a crash (protocol conflicts between the sources).
    VoiceCloseCode.WEBRTC_SERVER_ERROR: ("The media server failed.", True),
    VoiceCloseCode.DISCONNECTED: ("This client was kicked or moved, or its login ended.", False),
    VoiceCloseCode.SERVER_CRASHED: ("The voice server crashed.", True),
    VoiceCloseCode.UNKNOWN_ENCRYPTION_MODE: ("The selected mode is not known.", False),
    VoiceCloseCode.DAVE_REQUIRED: ("This call requires end-to-end encryption (DAVE).", False),
    VoiceCloseCode.BAD_REQUEST: ("A field of a message was malformed.", False),
    VoiceCloseCode.RATE_LIMITED: ("Too many messages were sent.", False),
    VoiceCloseCode.CALL_TERMINATED: ("Everybody was disconnected: the call ended or moved.", False),
}

CLOSE_CODES: Mapping[int, CloseMeaning] = MappingProxyType(
    {
        1000: CloseMeaning("normal", "The connection was closed on purpose.", False),
        1001: CloseMeaning("going-away", "The server is going away.", True),
        1006: CloseMeaning("abnormal", "The connection broke without a close frame.", True),
        **{
            code: CloseMeaning(VoiceCloseCode(code).name.lower().replace("_", "-"), *meaning)
            for code, meaning in _MEANINGS.items()
        },
    }
)
"""Every close code with a meaning of its own (RFC 6455 section 7.4.1 and userdoccers)."""


def close_meaning(code: int | None) -> CloseMeaning:
    """Say what a close code means, also one that is not in `CLOSE_CODES`.

    Args:
        code: Websocket close code; None when the socket broke without any.
    """
    if code is None:
        return CLOSE_CODES[1006]
    # Codes below 4000 are the websocket's own: the session behind it is still there.
    unknown = CloseMeaning("unknown", f"Close code {code} is not documented.", code < 4000)
    return CLOSE_CODES.get(code, unknown)
