"""Statistics of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from discord_rtc.connection.stats import VoiceStats, track_stats
from discord_rtc.connection.users import RemoteUser
from discord_rtc.frames import MediaKind

if TYPE_CHECKING:
    from collections.abc import Callable

    import av

pytestmark = pytest.mark.asyncio


async def test_a_connection_that_was_never_live_has_nothing_to_tell() -> None:
    stats = VoiceStats()
    assert (stats.rtp, stats.transport, stats.queues) == (None, None, ())
    assert dict(stats.published) == dict(stats.received) == dict(stats.drops) == {}


async def test_every_track_of_every_user_is_counted(sound: Callable[..., av.AudioFrame]) -> None:
    users = {number: RemoteUser(number, lambda *_: None) for number in (5, 6)}
    with users[5].microphone.reader(limit=1):
        users[5].microphone.deliver(sound(0))
        users[5].microphone.deliver(sound(960))
        stats = track_stats(users)
    assert set(stats) == {(number, kind) for number in (5, 6) for kind in MediaKind}
    assert (stats[5, MediaKind.AUDIO].delivered, stats[5, MediaKind.AUDIO].dropped) == (2, 1)
    assert stats[6, MediaKind.VIDEO].delivered == 0
