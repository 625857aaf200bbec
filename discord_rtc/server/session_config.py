"""What all voice sessions of a server have in common. Sans-I/O."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from discord_rtc.server.congestion import MAX_VIDEO_BPS

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What all sessions of a server have in common.

    Attributes:
        modes: Transport encryption modes offered, best first.
        heartbeat_interval_ms: What Hello asks for. Discord's servers say 13750.
        identify_timeout: Seconds until a client has to have identified.
        random_bytes: Source of keys and ids.
        max_video_bps: Bitrate of video that its rooms tell senders to stay below.
        resume_window: Seconds that a session waits for a resume; 0 ends it with its websocket.
    """

    modes: tuple[str, ...]
    heartbeat_interval_ms: float = 13_750
    identify_timeout: float = 30.0
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    max_video_bps: int = MAX_VIDEO_BPS
    resume_window: float = 30.0
