"""Messages that set up and keep a voice session. Sans-I/O. Spec: userdoccers, "Voice Connections".

Each message is a frozen value that knows its opcode and its JSON ``d`` in both directions.
The shapes by gateway version: Hello is flat below 3 (see `messages.parse_from_server`),
heartbeats are bare integers below 8, ``seq_ack`` exists from 8 on, ``channel_id`` in 9.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from discord_rtc.errors import UsageError
from discord_rtc.protocol.fields import (
    BadField,
    Fields,
    drop_none,
    flag,
    i64,
    list_of,
    positive,
    seq_ack,
    snowflake,
    text,
    u8,
    u16,
    u32,
    u63,
)
from discord_rtc.protocol.opcodes import VoiceOpcode
from discord_rtc.protocol.structures import CodecInfo, StreamInfo, parse_codec, parse_stream

HEARTBEAT_OBJECT_VERSION = 8
"""From this gateway version on heartbeats are objects and sequence numbers exist."""

CHANNEL_ID_VERSION = 9
"""From this gateway version on Identify and Resume name the channel."""

SECRET_KEY_LENGTH = 32
"""Bytes of the transport key, the same for every mode (userdoccers, "Session Description")."""


@dataclass(frozen=True, slots=True)
class Identify:
    """Client: who we are and what we can do.

    Attributes:
        server_id: Guild id, private channel id, or ``rtc_server_id`` of a stream.
        user_id: Own user.
        session_id: From VOICE_STATE_UPDATE.
        token: From VOICE_SERVER_UPDATE.
        channel_id: On the wire in version 9 only.
        video: Whether video will be used.
        streams: Layers for which SSRCs are wanted.
        max_dave_protocol_version: 0 when end-to-end encryption is not supported.
    """

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.IDENTIFY
    server_id: int
    user_id: int
    session_id: str = field(repr=False)
    token: str = field(repr=False)
    channel_id: int | None = None
    video: bool = False
    streams: tuple[StreamInfo, ...] = ()
    max_dave_protocol_version: int = 0

    def to_data(self, version: int) -> object:
        """Make ``d`` for this gateway version."""
        return drop_none(
            server_id=str(self.server_id),
            channel_id=_channel_to_data(self.channel_id, version),
            user_id=str(self.user_id),
            session_id=self.session_id,
            token=self.token,
            video=self.video,
            streams=[stream.to_data() for stream in self.streams] or None,
            max_dave_protocol_version=self.max_dave_protocol_version,
        )

    @classmethod
    def from_data(cls, data: object, version: int) -> Identify:
        """Read ``d``; raises `BadField`."""
        fields = Fields(data)
        return cls(
            server_id=fields.need("server_id", snowflake),
            user_id=fields.need("user_id", snowflake),
            session_id=fields.need("session_id", text),
            token=fields.need("token", text),
            channel_id=_channel_from_data(fields, version),
            video=fields.get("video", flag, False),
            streams=fields.get("streams", list_of(parse_stream), ()),
            max_dave_protocol_version=fields.get("max_dave_protocol_version", u16, 0),
        )


def _channel_to_data(channel_id: int | None, version: int) -> str | None:
    if channel_id is None or version < CHANNEL_ID_VERSION:
        return None
    return str(channel_id)


def _channel_from_data(fields: Fields, version: int) -> int | None:
    return fields.get("channel_id", snowflake, None) if version >= CHANNEL_ID_VERSION else None


@dataclass(frozen=True, slots=True)
class SelectProtocol:
    """Client: how media is to travel.

    Either ``address``, ``port`` and ``mode`` are set (plain datagrams) or ``sdp`` is (WebRTC);
    none of them when the client sent no ``data``, which is the server's matter to refuse.

    Attributes:
        protocol: Name of the transport, passed on unchecked; an unknown one closes with 4012.
        address: External IP of the client.
        port: External port of the client.
        mode: Transport encryption mode.
        sdp: Lines of the client's offer.
        codecs: What the client can send and receive.
        rtc_connection_id: UUID text for the server's logs.
        experiments: Names from Ready that the client follows.
    """

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.SELECT_PROTOCOL
    protocol: str
    address: str | None = None
    port: int | None = None
    mode: str | None = None
    sdp: str | None = field(default=None, repr=False)
    codecs: tuple[CodecInfo, ...] = ()
    rtc_connection_id: str | None = None
    experiments: tuple[str, ...] = ()

    def to_data(self, _version: int) -> object:
        """Make ``d``.

        Raises:
            UsageError: Neither an SDP nor address, port and mode.
        """
        inner: object = self.sdp
        if self.sdp is None:
            if self.address is None or self.port is None or self.mode is None:
                raise UsageError("select either with an SDP or with address, port and mode")
            inner = {"address": self.address, "port": self.port, "mode": self.mode}
        return drop_none(
            protocol=self.protocol,
            data=inner,
            sdp=self.sdp,  # repeated as by the web client
            rtc_connection_id=self.rtc_connection_id,
            codecs=[codec.to_data() for codec in self.codecs] or None,
            experiments=list(self.experiments) or None,
        )

    @classmethod
    def from_data(cls, data: object, _version: int) -> SelectProtocol:
        """Read ``d``; raises `BadField`."""
        fields = Fields(data)
        address, port, mode, sdp = fields.get("data", _transport_data, (None, None, None, None))
        return cls(
            protocol=fields.need("protocol", text),
            address=address,
            port=port,
            mode=mode,
            sdp=sdp,
            codecs=fields.get("codecs", list_of(parse_codec), ()),
            rtc_connection_id=fields.get("rtc_connection_id", text, None),
            experiments=fields.get("experiments", list_of(text), ()),
        )


def _transport_data(value: object) -> tuple[str | None, int | None, str | None, str | None]:
    """Read ``data`` by its type, so that an unknown protocol name stays the server's matter."""
    if isinstance(value, str):
        return None, None, None, text(value)
    inner = Fields(value)
    return inner.need("address", text), inner.need("port", u16), inner.need("mode", text), None


@dataclass(frozen=True, slots=True)
class Ready:
    """Server: identified; here is where media goes.

    Attributes:
        ssrc: Our audio SSRC.
        ip: Media server.
        port: Media server, UDP.
        modes: Transport encryption modes in the server's preference order.
        experiments: Switched on for this session.
        streams: Our video layers with their SSRCs.
    """

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.READY
    ssrc: int
    ip: str
    port: int
    modes: tuple[str, ...]
    experiments: tuple[str, ...] = ()
    streams: tuple[StreamInfo, ...] = ()

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return {
            "ssrc": self.ssrc,
            "ip": self.ip,
            "port": self.port,
            "modes": list(self.modes),
            "experiments": list(self.experiments),
            "streams": [stream.to_data() for stream in self.streams],
        }

    @classmethod
    def from_data(cls, data: object, _version: int) -> Ready:
        """Read ``d``; raises `BadField`. A ``heartbeat_interval`` in it is wrong and ignored."""
        fields = Fields(data)
        return cls(
            ssrc=fields.need("ssrc", u32),
            ip=fields.need("ip", text),
            port=fields.need("port", u16),
            modes=fields.need("modes", list_of(text)),
            experiments=fields.get("experiments", list_of(text), ()),
            streams=fields.get("streams", list_of(parse_stream), ()),
        )


@dataclass(frozen=True, slots=True)
class SessionDescription:
    """Server: answer to Select Protocol; media may flow.

    Attributes:
        audio_codec: What we should send as audio.
        video_codec: What we should send as video.
        media_session_id: Names the media session.
        mode: Transport encryption mode (datagram transport).
        secret_key: Transport key, 32 bytes (datagram transport).
        sdp: The server's fragment (WebRTC).
        keyframe_interval: Milliseconds between key frames that the server asks for.
        dave_protocol_version: 0 for no end-to-end encryption.
    """

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.SESSION_DESCRIPTION
    audio_codec: str | None
    video_codec: str | None
    media_session_id: str | None = field(repr=False)
    mode: str | None = None
    secret_key: bytes | None = field(default=None, repr=False)
    sdp: str | None = field(default=None, repr=False)
    keyframe_interval: int | None = None
    dave_protocol_version: int = 0

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return drop_none(
            audio_codec=self.audio_codec,
            video_codec=self.video_codec,
            media_session_id=self.media_session_id,
            mode=self.mode,
            secret_key=None if self.secret_key is None else list(self.secret_key),
            sdp=self.sdp,
            keyframe_interval=self.keyframe_interval,
            dave_protocol_version=self.dave_protocol_version,
        )

    @classmethod
    def from_data(cls, data: object, _version: int) -> SessionDescription:
        """Read ``d``; raises `BadField`."""
        fields = Fields(data)
        return cls(
            audio_codec=fields.get("audio_codec", text, None),
            video_codec=fields.get("video_codec", text, None),
            media_session_id=fields.get("media_session_id", text, None),
            mode=fields.get("mode", text, None),
            secret_key=fields.get("secret_key", _secret_key, None),
            sdp=fields.get("sdp", text, None),
            keyframe_interval=fields.get("keyframe_interval", u63, None),
            dave_protocol_version=fields.get("dave_protocol_version", u16, 0),
        )


def _secret_key(value: object) -> bytes:
    key = bytes(list_of(u8)(value))
    if len(key) != SECRET_KEY_LENGTH:
        raise BadField("", f"is not {SECRET_KEY_LENGTH} bytes long")
    return key


@dataclass(frozen=True, slots=True)
class Hello:
    """Server: first message of a connection.

    Attributes:
        heartbeat_interval: Milliseconds, above 0.
        version: Gateway version that the server speaks, when it says so.
    """

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.HELLO
    heartbeat_interval: float
    version: int | None = None

    def to_data(self, _version: int) -> object:
        """Make ``d``; below version 3 it is the whole message."""
        return drop_none(v=self.version, heartbeat_interval=self.heartbeat_interval)

    @classmethod
    def from_data(cls, data: object, _version: int) -> Hello:
        """Read ``d``; raises `BadField`."""
        fields = Fields(data)
        return cls(
            heartbeat_interval=fields.need("heartbeat_interval", positive),
            version=fields.get("v", u16, None),
        )


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Both: still there. From the server it asks for a heartbeat at once.

    Attributes:
        t: Any unique integer; usually a clock in milliseconds.
        seq_ack: Last sequence number seen, -1 for none; on the wire from version 8 on.
    """

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.HEARTBEAT
    t: int
    seq_ack: int | None = None

    def to_data(self, version: int) -> object:
        """Make ``d`` for this gateway version."""
        if version < HEARTBEAT_OBJECT_VERSION:
            return self.t
        return drop_none(t=self.t, seq_ack=self.seq_ack)

    @classmethod
    def from_data(cls, data: object, version: int) -> Heartbeat:
        """Read ``d``; raises `BadField`."""
        if version < HEARTBEAT_OBJECT_VERSION:
            return cls(i64(data))
        fields = Fields(data)
        return cls(t=fields.need("t", i64), seq_ack=fields.get("seq_ack", seq_ack, None))


@dataclass(frozen=True, slots=True)
class HeartbeatAck:
    """Server: heartbeat ``t`` arrived. Version 1 sends it as an echo of op 3."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.HEARTBEAT_ACK
    t: int

    def to_data(self, version: int) -> object:
        """Make ``d`` for this gateway version."""
        return self.t if version < HEARTBEAT_OBJECT_VERSION else {"t": self.t}

    @classmethod
    def from_data(cls, data: object, version: int) -> HeartbeatAck:
        """Read ``d``; raises `BadField`."""
        bare = version < HEARTBEAT_OBJECT_VERSION
        return cls(i64(data) if bare else Fields(data).need("t", i64))


@dataclass(frozen=True, slots=True)
class Resume:
    """Client: go on with the session of a lost connection.

    Attributes:
        server_id: As in Identify.
        session_id: As in Identify.
        token: As in Identify.
        seq_ack: Last sequence number seen, -1 for none; on the wire from version 8 on.
        channel_id: On the wire in version 9 only.
    """

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.RESUME
    server_id: int
    session_id: str = field(repr=False)
    token: str = field(repr=False)
    seq_ack: int = -1
    channel_id: int | None = None

    def to_data(self, version: int) -> object:
        """Make ``d`` for this gateway version."""
        return drop_none(
            server_id=str(self.server_id),
            channel_id=_channel_to_data(self.channel_id, version),
            session_id=self.session_id,
            token=self.token,
            seq_ack=self.seq_ack if version >= HEARTBEAT_OBJECT_VERSION else None,
        )

    @classmethod
    def from_data(cls, data: object, version: int) -> Resume:
        """Read ``d``; raises `BadField`."""
        fields = Fields(data)
        return cls(
            server_id=fields.need("server_id", snowflake),
            session_id=fields.need("session_id", text),
            token=fields.need("token", text),
            seq_ack=(
                fields.get("seq_ack", seq_ack, -1) if version >= HEARTBEAT_OBJECT_VERSION else -1
            ),
            channel_id=_channel_from_data(fields, version),
        )


@dataclass(frozen=True, slots=True)
class Resumed:
    """Server: the session goes on."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.RESUMED

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return None

    @classmethod
    def from_data(cls, _data: object, _version: int) -> Resumed:
        """Accept any ``d``: it means nothing."""
        return cls()
