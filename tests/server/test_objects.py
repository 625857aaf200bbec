from __future__ import annotations

from typing import cast

from discord_rtc.server.objects import (
    channel_object,
    guild_object,
    member_object,
    user_object,
    voice_state_object,
)
from discord_rtc.server.world import Guild, VoiceState


def test_ids_are_strings() -> None:
    assert user_object(1, "ann")["id"] == "1"
    assert cast("dict[str, object]", member_object(1, "ann")["user"])["id"] == "1"
    channel = channel_object(10, 20, "lounge")
    assert (channel["id"], channel["guild_id"]) == ("20", "10")


def test_a_voice_state_in_a_guild_names_guild_and_member() -> None:
    data = voice_state_object(VoiceState(10, 20, 1, "s", self_mute=True), "ann")
    assert (data["guild_id"], data["channel_id"], data["user_id"]) == ("10", "20", "1")
    assert (data["self_mute"], data["session_id"]) == (True, "s")
    assert "member" in data


def test_a_voice_state_of_a_call_names_neither() -> None:
    data = voice_state_object(VoiceState(None, None, 1, "s"), "ann")
    assert data["channel_id"] is None
    assert data.keys().isdisjoint({"guild_id", "member"})


def test_a_guild_lists_channels_members_and_voice_states() -> None:
    guild = Guild(10, "guild", channels={20: "lounge"}, members={2, 1})
    names = {1: "ann", 2: "bob"}
    data = guild_object(guild, names, [VoiceState(10, 20, 2, "s")])
    assert (data["member_count"], data["unavailable"]) == (2, False)
    members = cast("list[dict[str, dict[str, object]]]", data["members"])
    assert [member["user"]["username"] for member in members] == ["ann", "bob"]
    (state,) = cast("list[dict[str, object]]", data["voice_states"])
    assert "member" not in state
