"""Messages about who is in the room and what they send."""

from __future__ import annotations

import pytest

from discord_rtc.protocol.fields import BadField
from discord_rtc.protocol.room import (
    BackendVersion,
    BackendVersionRequest,
    ClientDisconnect,
    ClientFlags,
    ClientPlatform,
    ClientsConnect,
    MediaSinkWants,
    NoRoute,
    SessionUpdate,
    Speaking,
    Video,
)
from discord_rtc.protocol.structures import CodecInfo, StreamInfo


@pytest.mark.parametrize("version", [1, 2, 3])
def test_speaking_is_a_boolean_below_version_4(version: int) -> None:
    assert Speaking(5, 1).to_data(version) == {"speaking": True, "ssrc": 1}
    assert Speaking(0, 1).to_data(version) == {"speaking": False, "ssrc": 1}
    assert Speaking.from_data({"speaking": True, "ssrc": 1}, version) == Speaking(1, 1)
    with pytest.raises(BadField, match="speaking"):
        Speaking.from_data({"speaking": 1, "ssrc": 1}, version)


def test_speaking_is_a_mask_from_version_4_on() -> None:
    assert Speaking(5, 1, delay=0).to_data(4) == {"speaking": 5, "ssrc": 1, "delay": 0}
    with pytest.raises(BadField, match="speaking"):
        Speaking.from_data({"speaking": True, "ssrc": 1}, 4)


def test_speaking_need_not_name_an_ssrc() -> None:
    assert Speaking.from_data({"speaking": 1, "delay": 0}, 8) == Speaking(1, 0, delay=0)
    with pytest.raises(BadField, match="ssrc"):
        Speaking.from_data({"speaking": 1, "ssrc": "1", "delay": 0}, 8)


def test_speaking_of_the_server_names_the_user() -> None:
    message = Speaking(1, 2, user_id=852892297661906993)
    assert Speaking.from_data(message.to_data(8), 8) == message


def test_users_are_written_as_strings() -> None:
    assert ClientsConnect((1, 2)).to_data(8) == {"user_ids": ["1", "2"]}
    assert ClientsConnect.from_data({"user_ids": ["1", "1"]}, 8) == ClientsConnect((1, 1))
    assert ClientDisconnect.from_data({"user_id": "3"}, 8) == ClientDisconnect(3)
    assert ClientDisconnect(3).to_data(8) == {"user_id": "3"}


def test_cleared_video_is_zero_and_no_streams() -> None:
    assert Video(1, 0, 0).to_data(8) == {
        "audio_ssrc": 1,
        "video_ssrc": 0,
        "rtx_ssrc": 0,
        "streams": [],
    }


def test_the_old_client_connect_is_a_video_message_without_streams() -> None:
    assert Video.from_data({"audio_ssrc": 1, "user_id": "2"}, 4) == Video(1, user_id=2)


def test_video_layers_are_kept() -> None:
    message = Video(1, 2, 3, (StreamInfo(ssrc=2, rtx_ssrc=3, active=True),), 4)
    assert Video.from_data(message.to_data(8), 8) == message


def test_session_update_is_one_message_in_two_shapes() -> None:
    sent = SessionUpdate(codecs=(CodecInfo("opus", "audio", 1000, 120),))
    received = SessionUpdate(video_codec="VP8", keyframe_interval=0)
    for message in (sent, received):
        assert SessionUpdate.from_data(message.to_data(8), 8) == message
    assert received.to_data(8) == {"video_codec": "VP8", "keyframe_interval": 0}


def test_sink_wants_are_keyed_by_ssrc() -> None:
    data = {"any": 0, "13960": 100, "pixelCounts": {"13960": 921600.5}, "new-thing": "x"}
    message = MediaSinkWants.from_data(data, 8)
    assert message == MediaSinkWants(0, {13960: 100}, {13960: 921600.5})
    assert message.to_data(8) == {"any": 0, "13960": 100, "pixelCounts": {"13960": 921600.5}}
    assert hash(message) == hash(MediaSinkWants(0, {13960: 100}, {13960: 921600.5}))


def test_sink_wants_do_not_follow_the_callers_dictionary() -> None:
    wanted = {1: 100}
    message = MediaSinkWants(ssrcs=wanted)
    wanted[1] = 0
    assert message.ssrcs[1] == 100


@pytest.mark.parametrize(
    "data",
    [
        {"any": 101},
        {"any": True},
        {"1": "100"},
        {"4294967296": 1},
        {"pixelCounts": []},
        {"pixelCounts": {"1": None, "2": -1}},
    ],
)
def test_sink_wants_refuse_wrong_types(data: dict[str, object]) -> None:
    with pytest.raises(BadField):
        MediaSinkWants.from_data(data, 8)


def test_sink_wants_ignore_names_that_are_no_ssrc() -> None:
    data = {"²": 5, "99999999999": 5, "-1": 5, "1": None}
    assert MediaSinkWants.from_data(data, 8) == MediaSinkWants()


def test_backend_version_is_asked_for_with_nothing() -> None:
    assert BackendVersionRequest().to_data(8) == {}
    assert BackendVersionRequest.from_data(None, 8) == BackendVersionRequest()
    answer = BackendVersion("0.9.1", "0.3.35")
    assert BackendVersion.from_data(answer.to_data(8), 8) == answer


def test_flags_and_platform_may_be_unknown() -> None:
    assert ClientFlags(1, None).to_data(8) == {"user_id": "1", "flags": None}
    assert ClientFlags.from_data({"user_id": "1"}, 8) == ClientFlags(1, None)
    assert ClientPlatform(1, None).to_data(8) == {"user_id": "1", "platform": None}
    assert ClientPlatform.from_data({"user_id": "1", "platform": 3}, 8) == ClientPlatform(1, 3)


def test_no_route_says_nothing() -> None:
    assert NoRoute().to_data(8) == {}
    assert NoRoute.from_data({"x": 1}, 8) == NoRoute()
