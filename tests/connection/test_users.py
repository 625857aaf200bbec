"""Remote users and their tracks."""

from __future__ import annotations

import pytest

from discord_rtc.connection.users import RemoteUser
from discord_rtc.errors import NotReady
from discord_rtc.frames import MediaKind
from discord_rtc.media.track import MediaStreamTrack
from discord_rtc.protocol.opcodes import SpeakingFlags

pytestmark = pytest.mark.asyncio


async def test_a_user_begins_silent_and_unknown_with_two_live_tracks() -> None:
    user = RemoteUser(5, lambda *_: None)
    assert (user.id, user.speaking, user.flags) == (5, False, SpeakingFlags.NONE)
    assert (user.platform, user.client_flags) == (None, None)
    assert user.track(MediaKind.AUDIO) is user.microphone
    assert user.track(MediaKind.VIDEO) is user.camera
    for kind in MediaKind:
        track = user.track(kind)
        assert isinstance(track, MediaStreamTrack)
        assert (track.kind, track.readyState, track.wanted) == (kind, "live", False)


async def test_demand_is_told_per_kind() -> None:
    told: list[tuple[MediaKind, bool]] = []
    user = RemoteUser(5, lambda kind, wanted: told.append((kind, wanted)))
    with user.camera.reader():
        user.microphone.reader().close()
    assert told == [
        (MediaKind.VIDEO, True),
        (MediaKind.AUDIO, True),
        (MediaKind.AUDIO, False),
        (MediaKind.VIDEO, False),
    ]


async def test_a_user_is_verified_by_whoever_knows_the_group() -> None:
    async def fingerprint(user_id: int) -> str:
        return f"{user_id:045}"

    assert await RemoteUser(5, lambda *_: None, fingerprint).fingerprint() == f"{5:045}"
    with pytest.raises(NotReady):
        await RemoteUser(5, lambda *_: None).fingerprint()


async def test_the_representation_says_who_speaks() -> None:
    user = RemoteUser(5, lambda *_: None)
    assert repr(user) == "<RemoteUser 5>"
    user.speaking = True
    assert repr(user) == "<RemoteUser 5 speaking>"
