"""What a client brings to a voice server. Sans-I/O. Spec: userdoccers, "Voice Connections"."""

from __future__ import annotations

from dataclasses import dataclass, field

from discord_rtc.protocol.messages import Identify, Resume, StreamInfo


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

    def identify(self, options: VoiceOptions) -> Identify:
        """What opens a session (op 0)."""
        return Identify(
            server_id=self.server_id,
            user_id=self.user_id,
            session_id=self.session_id,
            token=self.token,
            channel_id=self.channel_id,
            video=options.video,
            streams=options.streams,
            max_dave_protocol_version=options.max_dave_protocol_version,
        )

    def resume(self, seq_ack: int) -> Resume:
        """What goes on with a session (op 7); -1 when no sequence number was seen."""
        return Resume(
            server_id=self.server_id,
            session_id=self.session_id,
            token=self.token,
            seq_ack=seq_ack,
            channel_id=self.channel_id,
        )


@dataclass(frozen=True, slots=True)
class VoiceOptions:
    """What the client asks for.

    Attributes:
        version: Gateway version, 4 to 9.
        streams: Video layers for which SSRCs are wanted.
        video: Whether video will be used.
        max_dave_protocol_version: 0 when end-to-end encryption is not supported.
        timeout: Seconds that Hello, Ready and Session Description may each take.
        resume_timeout: Seconds that a live session may be without a websocket. Discord keeps it
            for longer than the default, by all that is known.
    """

    version: int = 8
    streams: tuple[StreamInfo, ...] = (StreamInfo(rid="100"),)
    video: bool = True
    max_dave_protocol_version: int = 0
    timeout: float = 10.0
    resume_timeout: float = 15.0
