"""Voice states and voice servers as the main gateway tells them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from discord_rtc.protocol.fields import BadField
from discord_rtc.protocol.voice_state import (
    VoiceServer,
    VoiceState,
    parse_voice_server,
    parse_voice_state,
)

EVENTS: dict[str, dict[str, object]] = {
    event["name"]: event["frame"]["d"]
    for event in json.loads(
        (Path(__file__).parents[1] / "vectors" / "gateway_events.json").read_text()
    )
}


def test_public_voice_state_is_understood() -> None:
    assert parse_voice_state(EVENTS["voice_state_update"]) == VoiceState(
        80351110224678912,
        "90326bd25d71d39b9ef95b299e3872ff",
        channel_id=157733188964188161,
        self_mute=True,
    )


def test_public_voice_server_is_understood_with_its_port() -> None:
    assert parse_voice_server(EVENTS["voice_server_update"]) == VoiceServer(
        "my_token", 41771983423143937, None, "sweetwater-12345.discord.media:2048"
    )


def test_granted_video_is_visible() -> None:
    data = {"user_id": "1", "session_id": "s", "self_video": True, "self_stream": True}
    state = parse_voice_state(data)
    assert state.self_video
    assert state.self_stream


def test_server_that_went_away_needs_no_token() -> None:
    assert parse_voice_server({"token": None, "guild_id": "1", "endpoint": None}).endpoint is None
    assert parse_voice_server({}) == VoiceServer("")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"user_id": "1"}, "session_id"),
        ({"session_id": "s"}, "user_id"),
        ({"user_id": "x", "session_id": "s"}, "user_id"),
        ({"user_id": "1", "session_id": "s", "channel_id": "x"}, "channel_id"),
        ({"user_id": "1", "session_id": "s", "mute": 0}, "mute"),
        ([], "d"),
    ],
)
def test_wrong_voice_state_names_the_field(data: object, field: str) -> None:
    with pytest.raises(BadField, match=field):
        parse_voice_state(data)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"endpoint": "voice.example"}, "token"),
        ({"endpoint": "", "token": "t"}, "endpoint"),
        ({"endpoint": 1, "token": "t"}, "endpoint"),
        ({"token": 1}, "token"),
    ],
)
def test_wrong_voice_server_names_the_field(data: object, field: str) -> None:
    with pytest.raises(BadField, match=field):
        parse_voice_server(data)


def test_secrets_do_not_show() -> None:
    assert "hunter2" not in repr(VoiceState(1, "hunter2"))
    assert "hunter2" not in repr(VoiceServer("hunter2"))
