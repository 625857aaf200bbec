"""What a client brings to a voice server. Sans-I/O. Spec: userdoccers, "Voice Connections"."""

from __future__ import annotations

from dataclasses import dataclass, field

from discord_rtc.protocol.messages import StreamInfo


@dataclass(frozen=True, slots=True)
class VoiceCredentials:
    """What the main gateway gave us to enter one voice server.

    Attributes:
        endpoint: Host with optional port, verbatim, without scheme.
        token: From VOICE_SERVER_UPDATE.
        session_id: From VOICE_STATE_UPDATE.
        user_id: Own user.
        server_id: Guild id; for private calls the channel id.
        channel_id: Voice channel; sent in gateway version 9.
    """

    endpoint: str
    token: str = field(repr=False)
    session_id: str = field(repr=False)
    user_id: int
    server_id: int
    channel_id: int | None = None


@dataclass(frozen=True, slots=True)
class VoiceOptions:
    """What the client asks for.

    Attributes:
        version: Gateway version, 4 to 9.
        streams: Video layers for which SSRCs are wanted.
        video: Whether video will be used.
        max_dave_protocol_version: 0 when end-to-end encryption is not supported.
        timeout: Seconds that Hello, Ready and Session Description may each take.
    """

    version: int = 8
    streams: tuple[StreamInfo, ...] = (StreamInfo(rid="100"),)
    video: bool = True
    max_dave_protocol_version: int = 0
    timeout: float = 10.0
