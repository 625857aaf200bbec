"""Voice states and voice servers as the main gateway tells them. Sans-I/O.

Spec: Discord API docs, "Voice State Structure", "Voice Server Update".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from discord_rtc.protocol.fields import BadField, Fields, flag, snowflake, text


@dataclass(frozen=True, slots=True)
class VoiceState:
    """One user's voice state (VOICE_STATE_UPDATE).

    Attributes:
        user_id: Whose it is.
        session_id: Voice session; goes into Identify.
        channel_id: None when not connected.
        guild_id: None in private calls.
        deaf: Deafened by the guild.
        mute: Muted by the guild.
        self_deaf: Deafened by the user.
        self_mute: Muted by the user.
        self_stream: Whether a Go Live stream runs.
        self_video: Whether the gateway lets the user send video, and shows so.
        suppress: Whether the user may not speak here.
    """

    user_id: int
    session_id: str = field(repr=False)
    channel_id: int | None = None
    guild_id: int | None = None
    deaf: bool = False
    mute: bool = False
    self_deaf: bool = False
    self_mute: bool = False
    self_stream: bool = False
    self_video: bool = False
    suppress: bool = False


@dataclass(frozen=True, slots=True)
class VoiceServer:
    """A voice server (VOICE_SERVER_UPDATE).

    Attributes:
        token: Goes into Identify.
        guild_id: None in private calls.
        channel_id: Private calls only.
        endpoint: Host with optional port, verbatim; None when the server went away.
    """

    token: str = field(repr=False)
    guild_id: int | None = None
    channel_id: int | None = None
    endpoint: str | None = None


def parse_voice_state(data: object) -> VoiceState:
    """Read the data of a VOICE_STATE_UPDATE.

    Raises:
        BadField: A field is missing or has another type.
    """
    fields = Fields(data)
    return VoiceState(
        user_id=fields.need("user_id", snowflake),
        session_id=fields.need("session_id", text),
        channel_id=fields.get("channel_id", snowflake, None),
        guild_id=fields.get("guild_id", snowflake, None),
        deaf=fields.get("deaf", flag, False),
        mute=fields.get("mute", flag, False),
        self_deaf=fields.get("self_deaf", flag, False),
        self_mute=fields.get("self_mute", flag, False),
        self_stream=fields.get("self_stream", flag, False),
        self_video=fields.get("self_video", flag, False),
        suppress=fields.get("suppress", flag, False),
    )


def parse_voice_server(data: object) -> VoiceServer:
    """Read the data of a VOICE_SERVER_UPDATE.

    Raises:
        BadField: A field is missing or has another type.
    """
    fields = Fields(data)
    endpoint = fields.get("endpoint", _endpoint, None)
    return VoiceServer(
        # A server that went away needs no token.
        token=fields.get("token", text, "") if endpoint is None else fields.need("token", text),
        guild_id=fields.get("guild_id", snowflake, None),
        channel_id=fields.get("channel_id", snowflake, None),
        endpoint=endpoint,
    )


def _endpoint(value: object) -> str:
    if endpoint := text(value):
        return endpoint
    raise BadField("", "is empty")
