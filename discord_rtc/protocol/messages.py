"""Every voice gateway message, both ways, as text and binary frames. Sans-I/O.

Spec: userdoccers, "Voice Connections" and "Opcodes and Close Codes"; gateway versions 1 to 9.

Text frames hold ``{"op": int, "d": any, "seq"?: int}``; binary frames ``u8 opcode || payload``
from the client and ``u16 seq || u8 opcode || payload`` from the server (big endian). A frame's
own type decides how it is read: str is JSON, bytes are binary. What changed with the version:

=======  ==========================================================================
version  shape
=======  ==========================================================================
2        HeartbeatAck has opcode 6 (version 1: an echo of op 3)
3        Hello is ``{"op": 8, "d": {...}}`` (before: flat, without ``op`` and ``d``)
4        ``speaking`` is a bit mask (before: boolean)
8        heartbeats are objects; ``seq`` and ``seq_ack`` exist
9        ``channel_id`` in Identify and Resume
=======  ==========================================================================

The messages themselves live by subject in `handshake`, `room` and `transitions`, and are all
offered here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from discord_rtc.protocol.fields import (
    BadField,
    Fields,
    UndecodableMessage,
    parse_json,
    u63,
)
from discord_rtc.protocol.handshake import (
    HEARTBEAT_OBJECT_VERSION,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Identify,
    Ready,
    Resume,
    Resumed,
    SelectProtocol,
    SessionDescription,
)
from discord_rtc.protocol.opcodes import VoiceOpcode
from discord_rtc.protocol.room import (
    BackendVersion,
    BackendVersionRequest,
    ClientDisconnect,
    ClientFlags,
    ClientPlatform,
    ClientsConnect,
    MediaSinkWants,
    NoRoute,
    SessionUpdate,
    Speaking,
    Video,
)
from discord_rtc.protocol.structures import CodecInfo, Resolution, StreamInfo
from discord_rtc.protocol.transitions import (
    ExecuteTransition,
    InvalidCommitWelcome,
    MlsAnnounceCommit,
    MlsCommitWelcome,
    MlsExternalSender,
    MlsKeyPackage,
    MlsProposals,
    MlsWelcome,
    PrepareEpoch,
    PrepareTransition,
    TransitionReady,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

__all__ = [
    "Identify", "SelectProtocol", "Ready", "Heartbeat", "HeartbeatAck", "SessionDescription",
    "Speaking", "Resume", "Hello", "Resumed", "ClientsConnect", "Video", "ClientDisconnect",
    "SessionUpdate", "MediaSinkWants", "BackendVersion", "BackendVersionRequest", "ClientFlags",
    "ClientPlatform", "NoRoute", "PrepareTransition", "ExecuteTransition", "TransitionReady",
    "PrepareEpoch", "InvalidCommitWelcome", "MlsExternalSender", "MlsKeyPackage", "MlsProposals",
    "MlsCommitWelcome", "MlsAnnounceCommit", "MlsWelcome", "UnknownMessage",
    "CodecInfo", "StreamInfo", "Resolution",
    "TextMessage", "BinaryMessage", "Message", "ServerMessage", "ClientMessage",
    "BadField", "UndecodableMessage",
    "build", "build_text", "build_binary", "parse_from_server", "parse_from_client", "opcode_of",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class UnknownMessage:
    """An opcode that is not known, not for this direction or not for this kind of frame.

    Attributes:
        opcode: As received; any integer.
        data: JSON ``d``, or the payload (bytes) of a binary frame.
    """

    opcode: int
    data: object = field(default=None, repr=False)


ServerText = (
    Ready
    | Heartbeat
    | SessionDescription
    | Speaking
    | HeartbeatAck
    | Hello
    | Resumed
    | ClientsConnect
    | Video
    | ClientDisconnect
    | SessionUpdate
    | MediaSinkWants
    | BackendVersion
    | ClientFlags
    | ClientPlatform
    | PrepareTransition
    | ExecuteTransition
    | PrepareEpoch
)
ServerBinary = MlsExternalSender | MlsProposals | MlsAnnounceCommit | MlsWelcome
ClientText = (
    Identify
    | SelectProtocol
    | Heartbeat
    | Speaking
    | Resume
    | Video
    | SessionUpdate
    | MediaSinkWants
    | BackendVersionRequest
    | TransitionReady
    | InvalidCommitWelcome
    | NoRoute
)
ClientBinary = MlsKeyPackage | MlsCommitWelcome

TextMessage = ServerText | ClientText
BinaryMessage = ServerBinary | ClientBinary
ServerMessage = ServerText | ServerBinary
ClientMessage = ClientText | ClientBinary
Message = ServerMessage | ClientMessage


def _server_heartbeat(data: object, version: int) -> Heartbeat:
    # What the server puts into its request is not documented, and the answer needs none of it.
    return Heartbeat(0) if data is None else Heartbeat.from_data(data, version)


_SERVER_TEXT: Mapping[int, Callable[[object, int], ServerText]] = {
    VoiceOpcode.READY: Ready.from_data,
    VoiceOpcode.HEARTBEAT: _server_heartbeat,
    VoiceOpcode.SESSION_DESCRIPTION: SessionDescription.from_data,
    VoiceOpcode.SPEAKING: Speaking.from_data,
    VoiceOpcode.HEARTBEAT_ACK: HeartbeatAck.from_data,
    VoiceOpcode.HELLO: Hello.from_data,
    VoiceOpcode.RESUMED: Resumed.from_data,
    VoiceOpcode.CLIENTS_CONNECT: ClientsConnect.from_data,
    VoiceOpcode.VIDEO: Video.from_data,
    VoiceOpcode.CLIENT_DISCONNECT: ClientDisconnect.from_data,
    VoiceOpcode.SESSION_UPDATE: SessionUpdate.from_data,
    VoiceOpcode.MEDIA_SINK_WANTS: MediaSinkWants.from_data,
    VoiceOpcode.BACKEND_VERSION: BackendVersion.from_data,
    VoiceOpcode.CLIENT_FLAGS: ClientFlags.from_data,
    VoiceOpcode.CLIENT_PLATFORM: ClientPlatform.from_data,
    VoiceOpcode.PREPARE_TRANSITION: PrepareTransition.from_data,
    VoiceOpcode.EXECUTE_TRANSITION: ExecuteTransition.from_data,
    VoiceOpcode.PREPARE_EPOCH: PrepareEpoch.from_data,
}

_SERVER_BINARY: Mapping[int, Callable[[bytes], ServerBinary]] = {
    VoiceOpcode.MLS_EXTERNAL_SENDER: MlsExternalSender.from_payload,
    VoiceOpcode.MLS_PROPOSALS: MlsProposals.from_payload,
    VoiceOpcode.MLS_ANNOUNCE_COMMIT: MlsAnnounceCommit.from_payload,
    VoiceOpcode.MLS_WELCOME: MlsWelcome.from_payload,
}

_CLIENT_TEXT: Mapping[int, Callable[[object, int], ClientText]] = {
    VoiceOpcode.IDENTIFY: Identify.from_data,
    VoiceOpcode.SELECT_PROTOCOL: SelectProtocol.from_data,
    VoiceOpcode.HEARTBEAT: Heartbeat.from_data,
    VoiceOpcode.SPEAKING: Speaking.from_data,
    VoiceOpcode.RESUME: Resume.from_data,
    VoiceOpcode.VIDEO: Video.from_data,
    VoiceOpcode.SESSION_UPDATE: SessionUpdate.from_data,
    VoiceOpcode.MEDIA_SINK_WANTS: MediaSinkWants.from_data,
    VoiceOpcode.BACKEND_VERSION: BackendVersionRequest.from_data,
    VoiceOpcode.TRANSITION_READY: TransitionReady.from_data,
    VoiceOpcode.INVALID_COMMIT_WELCOME: InvalidCommitWelcome.from_data,
    VoiceOpcode.NO_ROUTE: NoRoute.from_data,
}

_CLIENT_BINARY: Mapping[int, Callable[[bytes], ClientBinary]] = {
    VoiceOpcode.MLS_KEY_PACKAGE: MlsKeyPackage.from_payload,
    VoiceOpcode.MLS_COMMIT_WELCOME: MlsCommitWelcome.from_payload,
}

_FLAT_HELLO_BELOW = 3
_ECHOED_HEARTBEAT_VERSION = 1


def opcode_of(message: Message | UnknownMessage) -> int:
    """The message's opcode."""
    return int(message.opcode)


def build_text(
    message: TextMessage | UnknownMessage, *, version: int, seq: int | None = None
) -> str:
    """Make the JSON text of a message.

    Args:
        message: Any message that is not binary.
        version: Gateway version, 1 to 9, whose shape is wanted.
        seq: Sequence number of a server message; left out below version 8.

    Returns:
        A text frame.

    Raises:
        UsageError: `SelectProtocol` with neither an SDP nor an address.

    Spec:
        userdoccers, "Voice Gateway Versions".
    """
    data = message.data if isinstance(message, UnknownMessage) else message.to_data(version)
    if isinstance(message, Hello) and version < _FLAT_HELLO_BELOW:
        return json.dumps(data)
    opcode = opcode_of(message)
    if isinstance(message, HeartbeatAck) and version == _ECHOED_HEARTBEAT_VERSION:
        opcode = VoiceOpcode.HEARTBEAT.value
    frame: dict[str, object] = {"op": opcode, "d": data}
    if seq is not None and version >= HEARTBEAT_OBJECT_VERSION:
        frame["seq"] = seq
    return json.dumps(frame)


def build_binary(message: BinaryMessage, *, seq: int | None = None) -> bytes:
    """Make the binary frame of a message.

    Args:
        message: One of ops 25 to 30.
        seq: 0 to 65535 for a frame from the server; None for one from the client.

    Returns:
        A binary frame.

    Spec:
        DAVE protocol whitepaper, "Voice Gateway Opcodes".
    """
    prefix = b"" if seq is None else seq.to_bytes(2, "big")
    return prefix + bytes((message.opcode,)) + message.to_payload()


def build(
    message: Message | UnknownMessage, *, version: int, seq: int | None = None
) -> str | bytes:
    """Make the frame of any message: str to be sent as text, bytes as binary.

    Args:
        message: Any message.
        version: As for `build_text`.
        seq: As for `build_text` and `build_binary`.
    """
    if isinstance(message, BinaryMessage):
        return build_binary(message, seq=seq)
    return build_text(message, version=version, seq=seq)


def parse_from_server(
    data: str | bytes, *, version: int
) -> tuple[ServerMessage | UnknownMessage, int | None]:
    """Read one frame that a voice server sent.

    Args:
        data: A text frame as str, a binary frame as bytes.
        version: Gateway version of the connection, 1 to 9.

    Returns:
        The message and its sequence number (None: it carries none; 0 is a number).

    Raises:
        UndecodableMessage: Not a message.
        BadField: A field is missing or wrong.
    """
    if isinstance(data, bytes):
        if len(data) < 3:
            raise UndecodableMessage("binary frame without sequence number and opcode")
        seq = int.from_bytes(data[:2], "big")
        return _parse_binary(data[2], data[3:], _SERVER_BINARY), seq
    frame = _json_object(data)
    if version < _FLAT_HELLO_BELOW and "op" not in frame:
        return _at_opcode(VoiceOpcode.HELLO, lambda: Hello.from_data(frame, version)), None
    opcode = _opcode(frame)
    if version == _ECHOED_HEARTBEAT_VERSION and opcode == VoiceOpcode.HEARTBEAT:
        opcode = VoiceOpcode.HEARTBEAT_ACK.value
    message = _parse_text(opcode, frame.get("d"), version, _SERVER_TEXT)
    if version < HEARTBEAT_OBJECT_VERSION:
        return message, None
    return message, _at_opcode(opcode, lambda: Fields(frame).get("seq", u63, None))


def parse_from_client(data: str | bytes, *, version: int) -> ClientMessage | UnknownMessage:
    """Read one frame that a client sent.

    Args:
        data: A text frame as str, a binary frame as bytes.
        version: Gateway version of the connection, 1 to 9.

    Returns:
        The message; `UnknownMessage` is what a server closes with 4001 (but real servers
        silently ignore unknown binary frames, JSON in them included).

    Raises:
        UndecodableMessage: Not a message; close with 4002.
        BadField: A field is missing or wrong; close with 4020.
    """
    if isinstance(data, bytes):
        if not data:
            raise UndecodableMessage("empty binary frame")
        return _parse_binary(data[0], data[1:], _CLIENT_BINARY)
    frame = _json_object(data)
    return _parse_text(_opcode(frame), frame.get("d"), version, _CLIENT_TEXT)


def _json_object(data: str) -> dict[str, object]:
    frame = parse_json(data)
    if not isinstance(frame, dict):
        raise UndecodableMessage("not a JSON object")
    return frame


def _opcode(frame: dict[str, object]) -> int:
    opcode = frame.get("op")
    if not isinstance(opcode, int) or isinstance(opcode, bool):
        raise UndecodableMessage("no opcode")
    return opcode


def _parse_text(
    opcode: int, data: object, version: int, table: Mapping[int, Callable[[object, int], T]]
) -> T | UnknownMessage:
    read = table.get(opcode)
    if read is None:
        return UnknownMessage(opcode, data)
    return _at_opcode(opcode, lambda: read(data, version))


def _parse_binary(
    opcode: int, payload: bytes, table: Mapping[int, Callable[[bytes], T]]
) -> T | UnknownMessage:
    read = table.get(opcode)
    if read is None:
        return UnknownMessage(opcode, payload)
    return _at_opcode(opcode, lambda: read(payload))


def _at_opcode(opcode: int, read: Callable[[], T]) -> T:
    """Name the opcode in the errors of a reader."""
    try:
        return read()
    except BadField as error:
        raise BadField(error.field, error.problem, f"opcode {int(opcode)}") from None
