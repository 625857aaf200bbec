"""Messages about who is in the room and what they send. Sans-I/O.

Spec: userdoccers, "Voice Connections"; discord-api-docs, "Voice Connections". Each message is a
frozen value that knows its opcode and its JSON ``d`` in both directions. ``speaking`` is a
boolean below gateway version 4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, TypeVar

from discord_rtc.protocol.fields import (
    Fields,
    drop_none,
    flag,
    list_of,
    number,
    percent,
    snowflake,
    text,
    u32,
    u63,
)
from discord_rtc.protocol.opcodes import VoiceOpcode
from discord_rtc.protocol.structures import CodecInfo, StreamInfo, parse_codec, parse_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

SPEAKING_MASK_VERSION = 4
"""From this gateway version on ``speaking`` is a bit mask."""


@dataclass(frozen=True, slots=True)
class Speaking:
    """Both: an SSRC and how its user speaks.

    Attributes:
        speaking: `SpeakingFlags` bits.
        ssrc: Audio SSRC; 0 for the one that is known already, which is also what messages
            without it are read as, e.g. py-cord's.
        user_id: Server only.
        delay: Client only; 0 from bots, 5 from the web client.
    """

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.SPEAKING
    speaking: int
    ssrc: int
    user_id: int | None = None
    delay: int | None = None

    def to_data(self, version: int) -> object:
        """Make ``d`` for this gateway version."""
        return drop_none(
            speaking=int(self.speaking) if version >= SPEAKING_MASK_VERSION else self.speaking > 0,
            ssrc=self.ssrc,
            user_id=_id_to_data(self.user_id),
            delay=self.delay,
        )

    @classmethod
    def from_data(cls, data: object, version: int) -> Speaking:
        """Read ``d``; raises `BadField`."""
        fields = Fields(data)
        mask = version >= SPEAKING_MASK_VERSION
        return cls(
            speaking=fields.need("speaking", u32) if mask else int(fields.need("speaking", flag)),
            ssrc=fields.get("ssrc", u32, 0),
            user_id=fields.get("user_id", snowflake, None),
            delay=fields.get("delay", u63, None),
        )


def _id_to_data(snowflake_id: int | None) -> str | None:
    return None if snowflake_id is None else str(snowflake_id)


@dataclass(frozen=True, slots=True)
class ClientsConnect:
    """Server: these users are here. Ids may repeat and may include our own."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.CLIENTS_CONNECT
    user_ids: tuple[int, ...]

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return {"user_ids": [str(user_id) for user_id in self.user_ids]}

    @classmethod
    def from_data(cls, data: object, _version: int) -> ClientsConnect:
        """Read ``d``; raises `BadField`."""
        return cls(Fields(data).need("user_ids", list_of(snowflake)))


@dataclass(frozen=True, slots=True)
class Video:
    """Both: which video SSRCs a user sends; cleared form (0, 0, no streams) for none.

    Attributes:
        audio_ssrc: Audio SSRC of the same user.
        video_ssrc: SSRC of the selected layer, 0 for none.
        rtx_ssrc: Its retransmission SSRC; client only.
        streams: All layers.
        user_id: Server only.
    """

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.VIDEO
    audio_ssrc: int
    video_ssrc: int = 0
    rtx_ssrc: int | None = None
    streams: tuple[StreamInfo, ...] = ()
    user_id: int | None = None

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return drop_none(
            audio_ssrc=self.audio_ssrc,
            video_ssrc=self.video_ssrc,
            rtx_ssrc=self.rtx_ssrc,
            streams=[stream.to_data() for stream in self.streams],
            user_id=_id_to_data(self.user_id),
        )

    @classmethod
    def from_data(cls, data: object, _version: int) -> Video:
        """Read ``d``; raises `BadField`. Its ancestor, client connect, has no ``streams``."""
        fields = Fields(data)
        return cls(
            audio_ssrc=fields.need("audio_ssrc", u32),
            video_ssrc=fields.get("video_ssrc", u32, 0),
            rtx_ssrc=fields.get("rtx_ssrc", u32, None),
            streams=fields.get("streams", list_of(parse_stream), ()),
            user_id=fields.get("user_id", snowflake, None),
        )


@dataclass(frozen=True, slots=True)
class ClientDisconnect:
    """Server: this user left."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.CLIENT_DISCONNECT
    user_id: int

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return {"user_id": str(self.user_id)}

    @classmethod
    def from_data(cls, data: object, _version: int) -> ClientDisconnect:
        """Read ``d``; raises `BadField`."""
        return cls(Fields(data).need("user_id", snowflake))


@dataclass(frozen=True, slots=True)
class SessionUpdate:
    """Both: codecs change. The client sends its codecs, the server what we should send.

    Attributes:
        codecs: Client only: all codecs, as in Select Protocol.
        audio_codec: Server only.
        video_codec: Server only.
        media_session_id: Server only.
        keyframe_interval: Server only; milliseconds.
    """

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.SESSION_UPDATE
    codecs: tuple[CodecInfo, ...] = ()
    audio_codec: str | None = None
    video_codec: str | None = None
    media_session_id: str | None = field(default=None, repr=False)
    keyframe_interval: int | None = None

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return drop_none(
            codecs=[codec.to_data() for codec in self.codecs] or None,
            audio_codec=self.audio_codec,
            video_codec=self.video_codec,
            media_session_id=self.media_session_id,
            keyframe_interval=self.keyframe_interval,
        )

    @classmethod
    def from_data(cls, data: object, _version: int) -> SessionUpdate:
        """Read ``d``; raises `BadField`."""
        fields = Fields(data)
        return cls(
            codecs=fields.get("codecs", list_of(parse_codec), ()),
            audio_codec=fields.get("audio_codec", text, None),
            video_codec=fields.get("video_codec", text, None),
            media_session_id=fields.get("media_session_id", text, None),
            keyframe_interval=fields.get("keyframe_interval", u63, None),
        )


@dataclass(frozen=True, slots=True)
class MediaSinkWants:
    """Both: which layers the receiver wants, 0 (do not send) to 100 (full).

    Attributes:
        any: For every SSRC that is not named.
        ssrcs: Primary SSRC to quality.
        pixel_counts: Primary SSRC to the pixels (width x height) that are rendered.
    """

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.MEDIA_SINK_WANTS
    any: int | None = None
    ssrcs: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    pixel_counts: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        object.__setattr__(self, "ssrcs", MappingProxyType(dict(self.ssrcs)))
        object.__setattr__(self, "pixel_counts", MappingProxyType(dict(self.pixel_counts)))

    def __hash__(self) -> int:
        return hash((self.any, frozenset(self.ssrcs.items()), frozenset(self.pixel_counts.items())))

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        data: dict[str, object] = {str(ssrc): wanted for ssrc, wanted in self.ssrcs.items()}
        pixel_counts = {str(ssrc): count for ssrc, count in self.pixel_counts.items()}
        return data | drop_none(any=self.any, pixelCounts=pixel_counts or None)

    @classmethod
    def from_data(cls, data: object, _version: int) -> MediaSinkWants:
        """Read ``d``; raises `BadField`."""
        fields = Fields(data)
        return cls(
            any=fields.get("any", percent, None),
            ssrcs=_by_ssrc(fields, percent),
            pixel_counts=fields.get("pixelCounts", lambda it: _by_ssrc(Fields(it), number), {}),
        )


def _by_ssrc(fields: Fields, read: Callable[[object], T]) -> dict[int, T]:
    """Collect the fields whose names are SSRCs; ``any`` and unknown names are not."""
    return {
        u32(int(name)): fields.need(name, read)
        for name in fields.names()
        if name.isascii() and name.isdecimal() and len(name) <= 10  # digits of 2**32
    }


@dataclass(frozen=True, slots=True)
class BackendVersionRequest:
    """Client: asks for `BackendVersion`."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.BACKEND_VERSION

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return {}

    @classmethod
    def from_data(cls, _data: object, _version: int) -> BackendVersionRequest:
        """Accept any ``d``: it means nothing."""
        return cls()


@dataclass(frozen=True, slots=True)
class BackendVersion:
    """Server: versions of its parts, for logs.

    Attributes:
        voice: Voice backend.
        rtc_worker: Media server.
    """

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.BACKEND_VERSION
    voice: str
    rtc_worker: str

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return {"voice": self.voice, "rtc_worker": self.rtc_worker}

    @classmethod
    def from_data(cls, data: object, _version: int) -> BackendVersion:
        """Read ``d``; raises `BadField`."""
        fields = Fields(data)
        return cls(voice=fields.need("voice", text), rtc_worker=fields.need("rtc_worker", text))


@dataclass(frozen=True, slots=True)
class ClientFlags:
    """Server: a user's voice flags (bits as in the main gateway's op 4 ``flags``)."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.CLIENT_FLAGS
    user_id: int
    flags: int | None

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return {"user_id": str(self.user_id), "flags": self.flags}

    @classmethod
    def from_data(cls, data: object, _version: int) -> ClientFlags:
        """Read ``d``; raises `BadField`."""
        fields = Fields(data)
        return cls(user_id=fields.need("user_id", snowflake), flags=fields.get("flags", u63, None))


@dataclass(frozen=True, slots=True)
class ClientPlatform:
    """Server: what a user runs on: 0 desktop, 1 mobile, 2 Xbox, 3 PlayStation."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.CLIENT_PLATFORM
    user_id: int
    platform: int | None

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return {"user_id": str(self.user_id), "platform": self.platform}

    @classmethod
    def from_data(cls, data: object, _version: int) -> ClientPlatform:
        """Read ``d``; raises `BadField`."""
        fields = Fields(data)
        return cls(
            user_id=fields.need("user_id", snowflake), platform=fields.get("platform", u63, None)
        )


@dataclass(frozen=True, slots=True)
class NoRoute:
    """Client: no media path to the server could be found."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.NO_ROUTE

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return {}

    @classmethod
    def from_data(cls, _data: object, _version: int) -> NoRoute:
        """Accept any ``d``: it means nothing."""
        return cls()
