"""Which messages of a voice server have a place in which state of the client. Sans-I/O.

Spec: userdoccers, "Voice Connections"; protocol order as drawn there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.protocol.messages import (
    BackendVersion,
    ClientDisconnect,
    ClientFlags,
    ClientPlatform,
    ClientsConnect,
    ExecuteTransition,
    Heartbeat,
    HeartbeatAck,
    Hello,
    MediaSinkWants,
    MlsAnnounceCommit,
    MlsExternalSender,
    MlsProposals,
    MlsWelcome,
    PrepareEpoch,
    PrepareTransition,
    Ready,
    Resumed,
    SessionDescription,
    SessionUpdate,
    Speaking,
    Video,
)
from discord_rtc.protocol.voice_events import (
    Closed,
    Greeting,
    Identifying,
    Live,
    Resuming,
    Selecting,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from discord_rtc.protocol.messages import ServerMessage
    from discord_rtc.protocol.voice_events import SessionState

_BEATS = (Heartbeat, HeartbeatAck)
_ROOM = (
    Speaking,
    ClientsConnect,
    Video,
    ClientDisconnect,
    SessionUpdate,
    MediaSinkWants,
    BackendVersion,
    ClientFlags,
    ClientPlatform,
)
_DAVE = (
    PrepareTransition,
    ExecuteTransition,
    PrepareEpoch,
    MlsExternalSender,
    MlsProposals,
    MlsAnnounceCommit,
    MlsWelcome,
)
EXPECTED: Mapping[type[SessionState], tuple[type[ServerMessage], ...]] = {
    Greeting: (Hello, *_DAVE),
    Identifying: (Ready, *_BEATS, *_DAVE),
    Selecting: (SessionDescription, *_BEATS, *_ROOM, *_DAVE),
    Live: (SessionDescription, *_BEATS, *_ROOM, *_DAVE),
    Resuming: (Hello, Resumed, SessionDescription, *_BEATS, *_ROOM, *_DAVE),
    Closed: (),
}
"""What is not in the row of its state is told as `Unexpected` and ignored."""
