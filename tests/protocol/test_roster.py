"""Users and their SSRCs."""

from __future__ import annotations

import pytest

from discord_rtc.frames import MediaKind
from discord_rtc.protocol.messages import (
    ClientDisconnect,
    ClientFlags,
    ClientPlatform,
    ClientsConnect,
    Ready,
    ServerMessage,
    Speaking,
    StreamInfo,
    UnknownMessage,
    Video,
)
from discord_rtc.protocol.roster import (
    ClientFlagsChanged,
    PlatformChanged,
    Roster,
    RosterChange,
    SpeakingChanged,
    SsrcNamed,
    SsrcRemoved,
    UserJoined,
    UserLeft,
    VideoChanged,
)

OWN, ANN, BOB = 1, 2, 3
AUDIO, VIDEO = MediaKind.AUDIO, MediaKind.VIDEO
FULL = StreamInfo(rid="100", ssrc=20, rtx_ssrc=21, active=True)
HALF = StreamInfo(rid="50", quality=50, ssrc=30, active=True)


def roster_of(*messages: ServerMessage) -> Roster:
    roster = Roster(OWN)
    for message in messages:
        roster.apply(message)
    return roster


def test_users_are_named_by_op_11_once_each_and_without_ourselves() -> None:
    roster = Roster(OWN)
    changes = roster.apply(ClientsConnect((ANN, OWN, BOB, ANN)))
    assert changes == (UserJoined(ANN), UserJoined(BOB))
    assert roster.apply(ClientsConnect((BOB,))) == ()
    assert roster.users == (ANN, BOB)


def test_speaking_names_the_audio_ssrc() -> None:
    roster = roster_of(ClientsConnect((ANN,)))
    assert roster.apply(Speaking(1, 10, user_id=ANN)) == (
        SsrcNamed(10, ANN, AUDIO, rtx=False, rid=None),
        SpeakingChanged(ANN, 1),
    )
    assert roster.user_of(10) == ANN
    assert roster.kind_of(10) is AUDIO
    assert roster.apply(Speaking(1, 10, user_id=ANN)) == ()
    assert roster.apply(Speaking(0, 10, user_id=ANN)) == (SpeakingChanged(ANN, 0),)


def test_speaking_of_a_stranger_implies_that_he_joined() -> None:
    roster = Roster(OWN)
    assert roster.apply(Speaking(0, 10, user_id=BOB)) == (
        UserJoined(BOB),
        SsrcNamed(10, BOB, AUDIO, rtx=False, rid=None),
    )


def test_new_audio_ssrc_replaces_the_old_one() -> None:
    roster = roster_of(Speaking(1, 10, user_id=ANN))
    assert roster.apply(Speaking(1, 11, user_id=ANN)) == (
        SsrcRemoved(10, ANN),
        SsrcNamed(11, ANN, AUDIO, rtx=False, rid=None),
    )
    assert roster.user_of(10) is None


def test_ssrc_zero_names_nothing() -> None:
    roster = roster_of(Speaking(1, 10, user_id=ANN))
    assert roster.apply(Video(0, 0, user_id=ANN)) == ()
    assert roster.user_of(0) is None
    assert roster.user_of(10) == ANN


def test_video_names_every_layer_and_its_retransmissions() -> None:
    roster = Roster(OWN)
    assert roster.apply(Video(10, 20, None, (FULL, HALF), ANN)) == (
        UserJoined(ANN),
        SsrcNamed(10, ANN, AUDIO, rtx=False, rid=None),
        SsrcNamed(20, ANN, VIDEO, rtx=False, rid="100"),
        SsrcNamed(30, ANN, VIDEO, rtx=False, rid="50"),
        SsrcNamed(21, ANN, VIDEO, rtx=True, rid="100"),
        SsrcNamed(31, ANN, VIDEO, rtx=True, rid="50"),
        VideoChanged(ANN, (FULL, HALF)),
    )
    assert roster.rtx_of(20) == 21
    assert roster.rtx_of(30) == 31
    assert roster.rtx_of(10) is None
    assert roster.kind_of(31) is VIDEO


def test_video_without_streams_names_the_selected_ssrc() -> None:
    roster = Roster(OWN)
    changes = roster.apply(Video(10, 20, 25, (), ANN))
    assert SsrcNamed(20, ANN, VIDEO, rtx=False, rid=None) in changes
    assert SsrcNamed(25, ANN, VIDEO, rtx=True, rid=None) in changes


def test_repeated_video_changes_nothing() -> None:
    roster = roster_of(Video(10, 20, None, (FULL,), ANN))
    assert roster.apply(Video(10, 20, None, (FULL,), ANN)) == ()


def test_paused_video_keeps_its_ssrcs() -> None:
    roster = roster_of(Video(10, 20, None, (FULL,), ANN))
    paused = StreamInfo(rid="100", ssrc=20, rtx_ssrc=21, active=False)
    assert roster.apply(Video(10, 20, None, (paused,), ANN)) == (VideoChanged(ANN, (paused,)),)
    assert roster.user_of(21) == ANN


def test_cleared_video_removes_the_video_but_not_the_audio() -> None:
    roster = roster_of(Video(10, 20, None, (FULL,), ANN))
    assert roster.apply(Video(10, 0, user_id=ANN)) == (
        SsrcRemoved(20, ANN),
        SsrcRemoved(21, ANN),
        VideoChanged(ANN, ()),
    )
    assert roster.user_of(20) is None
    assert roster.user_of(10) == ANN
    assert roster.rtx_of(20) is None


def test_layer_that_gets_another_name_is_named_again() -> None:
    roster = roster_of(Video(10, 20, None, (FULL,), ANN))
    renamed = StreamInfo(rid="50", ssrc=20, rtx_ssrc=21)
    assert roster.apply(Video(10, 20, None, (renamed,), ANN)) == (
        SsrcNamed(20, ANN, VIDEO, rtx=False, rid="50"),
        SsrcNamed(21, ANN, VIDEO, rtx=True, rid="50"),
        VideoChanged(ANN, (renamed,)),
    )


def test_guessed_retransmission_does_not_take_what_others_own() -> None:
    roster = roster_of(Speaking(1, 31, user_id=BOB))
    changes = roster.apply(Video(29, 30, None, (HALF,), ANN))
    assert roster.user_of(31) == BOB
    assert SsrcNamed(31, ANN, VIDEO, rtx=True, rid="50") not in changes


def test_guessed_retransmission_is_not_our_users_audio_or_other_layer() -> None:
    roster = Roster(OWN)
    layers = (StreamInfo(rid="100", ssrc=30), StreamInfo(rid="50", ssrc=31))
    roster.apply(Video(32, 30, None, layers, ANN))
    assert roster.kind_of(32) is AUDIO
    assert roster.rtx_of(30) is None
    assert roster.rtx_of(31) is None


def test_guess_wraps_to_none() -> None:
    roster = Roster(OWN)
    roster.apply(Video(10, 0xFFFF_FFFF, None, (), ANN))
    assert roster.user_of(0xFFFF_FFFF) == ANN
    assert roster.user_of(0) is None


def test_retransmission_ssrc_zero_means_none() -> None:
    roster = roster_of(Video(10, 20, 0, (), ANN))
    assert roster.rtx_of(20) is None
    assert roster.user_of(21) is None


def test_named_ssrc_changes_hands_when_the_server_says_so() -> None:
    roster = roster_of(Video(10, 20, None, (FULL,), ANN))
    assert roster.apply(Speaking(1, 20, user_id=BOB)) == (
        UserJoined(BOB),
        SsrcRemoved(20, ANN),
        SsrcRemoved(21, ANN),
        SsrcNamed(20, BOB, AUDIO, rtx=False, rid=None),
        SpeakingChanged(BOB, 1),
    )
    assert roster.user_of(20) == BOB
    assert roster.user_of(21) is None


def test_ssrc_that_becomes_audio_is_removed_as_video() -> None:
    roster = roster_of(Video(10, 20, 0, (), ANN))
    assert roster.apply(Speaking(0, 20, user_id=ANN)) == (
        SsrcRemoved(10, ANN),
        SsrcRemoved(20, ANN),
        SsrcNamed(20, ANN, AUDIO, rtx=False, rid=None),
    )


def test_leaving_removes_everything_of_the_user() -> None:
    roster = roster_of(Video(10, 20, None, (FULL,), ANN), Speaking(1, 40, user_id=BOB))
    assert roster.apply(ClientDisconnect(ANN)) == (
        SsrcRemoved(10, ANN),
        SsrcRemoved(20, ANN),
        SsrcRemoved(21, ANN),
        UserLeft(ANN, (10, 20, 21)),
    )
    assert roster.users == (BOB,)
    assert roster.user_of(40) == BOB
    assert roster.apply(ClientDisconnect(ANN)) == ()


@pytest.mark.parametrize(
    "message",
    [
        ClientDisconnect(OWN),
        ClientsConnect((OWN,)),
        Speaking(1, 10, user_id=OWN),
        Speaking(1, 10),
        Video(10, 20, None, (FULL,), OWN),
        Video(10, 20, None, (FULL,)),
        ClientFlags(OWN, 3),
        ClientFlags(BOB, 3),
        ClientPlatform(BOB, 0),
        Ready(1, "192.0.2.1", 2, ()),
        UnknownMessage(99),
    ],
)
def test_message_about_ourselves_or_nobody_changes_nothing(
    message: ServerMessage | UnknownMessage,
) -> None:
    roster = Roster(OWN)
    assert roster.apply(message) == ()
    assert roster.users == ()
    assert roster.user_of(10) is None
    assert roster.kind_of(10) is None


def test_flags_and_platform_are_told_when_they_change() -> None:
    roster = roster_of(ClientsConnect((ANN,)))
    stories: tuple[tuple[ServerMessage, tuple[RosterChange, ...]], ...] = (
        (ClientFlags(ANN, None), ()),
        (ClientFlags(ANN, 3), (ClientFlagsChanged(ANN, 3),)),
        (ClientFlags(ANN, 3), ()),
        (ClientPlatform(ANN, 0), (PlatformChanged(ANN, 0),)),
        (ClientPlatform(ANN, 0), ()),
        (ClientFlags(ANN, None), (ClientFlagsChanged(ANN, None),)),
    )
    for message, changes in stories:
        assert roster.apply(message) == changes


def test_users_are_bounded_and_the_rest_is_counted() -> None:
    roster = Roster(OWN)
    changes = roster.apply(ClientsConnect(tuple(range(2, 1004))))
    assert len(changes) == 1000
    assert roster.apply(Speaking(1, 10, user_id=5000)) == ()
    assert roster.apply(Video(10, 20, user_id=5000)) == ()
    assert roster.user_of(10) is None
    assert roster.drops == {"user-overflow": 4}


def test_ssrcs_per_user_are_bounded_and_the_rest_is_counted() -> None:
    layers = tuple(StreamInfo(rid=str(n), ssrc=100 + 2 * n) for n in range(10))
    roster = roster_of(Video(10, 100, None, layers, ANN))
    owned = [ssrc for ssrc in range(200) if roster.user_of(ssrc) == ANN]
    assert len(owned) == 16
    assert roster.drops == {"ssrc-overflow": 5}
    assert roster.apply(Video(10, 0, user_id=ANN))[-1] == VideoChanged(ANN, ())
    roster.apply(Video(10, 20, None, (FULL,), ANN))
    assert roster.user_of(21) == ANN
