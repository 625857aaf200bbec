from __future__ import annotations

from typing import cast

from discord_rtc.server.objects import (
    application_object,
    channel_object,
    current_user_object,
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


def test_stages_have_a_type_of_their_own() -> None:
    assert channel_object(10, 20, "lounge")["type"] == 2
    assert channel_object(10, 20, "stage", stage=True)["type"] == 13
    guild = Guild(10, "guild", channels={20: "lounge", 21: "stage"}, stages={21, 99})
    channels = cast("list[dict[str, object]]", guild_object(guild, {}, [])["channels"])
    assert [channel["type"] for channel in channels] == [2, 13]


def test_a_user_learns_more_of_itself_than_others_do() -> None:
    own, public = current_user_object(1, "ann"), user_object(1, "ann")
    assert own.items() > public.items()
    assert own["verified"] is True


def test_an_application_belongs_to_its_bot() -> None:
    data = application_object(1, "ann")
    assert (data["id"], data["owner"], data["team"]) == ("1", user_object(1, "ann"), None)


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
