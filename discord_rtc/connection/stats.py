"""What `VoiceConnection.stats` gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from discord_rtc.frames import MediaKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from discord_rtc.connection.users import RemoteUser
    from discord_rtc.media.track import TrackStats
    from discord_rtc.protocol.dave.events import E2eeState
    from discord_rtc.queues import QueueStats
    from discord_rtc.rtp.stats import SessionStats
    from discord_rtc.transport.base import TransportStats


@dataclass(frozen=True, slots=True)
class DaveStats:
    """End-to-end encryption of one session.

    Attributes:
        state: ``off``, ``pending`` or ``active``.
        version: Protocol version in force; 0 for none.
        sending: What becomes of frames of ours now: ``clear``, ``wait`` (no group), ``hold`` (a
            transition is open) or ``encrypt``.
        members: Users in the present epoch, ourselves among them.
        epoch_authenticator: 32 bytes that all members of an epoch share; None without a group.
        counters: ``commits``, ``welcomes``, ``recovered``, ``refused-proposals``, ...
    """

    state: E2eeState
    version: int
    sending: str
    members: frozenset[int]
    epoch_authenticator: bytes | None = field(repr=False)
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class VoiceStats:
    """A snapshot of one connection.

    Attributes:
        rtp: Streams in and out; None until the first session is live.
        transport: Datagrams, drops, round-trip time; None until then.
        published: Per published kind, frames ``sent``, ``skipped-backlog``, ``held-dropped``, ...
        received: Per user and kind, frames delivered and dropped by the track.
        drops: Received frames that no track got, by reason: ``unread``, ``no-keyframe``; where
            decryption failed ``no-key``, ``undecryptable``, ``unencrypted``, ``retry-overflow``.
        dave: End-to-end encryption of the present session; None without one.
        queues: Every bounded queue with its high-water mark.
        join: Steps of the present session's join in order: ``socket`` (TCP, TLS, upgrade),
            ``hello``, ``ready``, ``selection`` (op 1 goes out; after IP discovery where that is
            needed), ``description``, ``path`` (media can flow); each with the seconds since the
            voice server's address was known.
        websockets: Of the present session: ``resumes``, websockets that were replaced, and
            ``resume-failures``, attempts at that which failed.
    """

    rtp: SessionStats | None = None
    transport: TransportStats | None = None
    published: Mapping[MediaKind, Mapping[str, int]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    received: Mapping[tuple[int, MediaKind], TrackStats] = field(
        default_factory=lambda: MappingProxyType({})
    )
    drops: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    queues: tuple[QueueStats, ...] = ()
    join: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    websockets: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    dave: DaveStats | None = None


def track_stats(
    users: Mapping[int, RemoteUser],
) -> dict[tuple[int, MediaKind], TrackStats]:
    """The statistics of all received tracks."""
    return {
        (user.id, kind): user.track(kind).stats() for user in users.values() for kind in MediaKind
    }
