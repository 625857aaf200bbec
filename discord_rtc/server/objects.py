"""Discord's JSON objects as the local server sends them. Sans-I/O. Spec: Discord docs,
"User", "Guild", "Channel" and "Voice" resources; the fields that client libraries insist on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from discord_rtc.server.world import Guild, VoiceState

_EPOCH = "2015-01-01T00:00:00+00:00"
"""When everything here was made: the first second of Discord's snowflakes."""

_VOICE_CHANNEL, _STAGE_CHANNEL = 2, 13
"""Channel types GUILD_VOICE and GUILD_STAGE_VOICE."""

_EVERY_PERMISSION = str((1 << 50) - 1)


def user_object(user_id: int, name: str) -> dict[str, object]:
    """A user. Everybody is a bot: it is the kind of account that a library logs in with."""
    return {
        "id": str(user_id),
        "username": name,
        "global_name": None,
        "discriminator": "0",
        "avatar": None,
        "bot": True,
    }


def current_user_object(user_id: int, name: str) -> dict[str, object]:
    """A user, as told to that user alone."""
    return user_object(user_id, name) | {
        "mfa_enabled": False,
        "verified": True,
        "locale": "en-US",
        "email": None,
        "flags": 0,
    }


def application_object(user_id: int, name: str) -> dict[str, object]:
    """The application of a bot, which has the bot's id and nobody else for an owner."""
    return {
        "id": str(user_id),
        "name": name,
        "icon": None,
        "description": "",
        "rpc_origins": [],
        "bot_public": False,
        "bot_require_code_grant": False,
        "owner": user_object(user_id, name),
        "team": None,
        "verify_key": "00" * 32,
        "flags": 0,
    }


def member_object(user_id: int, name: str) -> dict[str, object]:
    """A user as a member of any guild."""
    return {
        "user": user_object(user_id, name),
        "nick": None,
        "roles": [],
        "joined_at": _EPOCH,
        "deaf": False,
        "mute": False,
        "flags": 0,
    }


def channel_object(
    guild_id: int, channel_id: int, name: str, *, stage: bool = False
) -> dict[str, object]:
    """A voice or stage channel of a guild."""
    return {
        "id": str(channel_id),
        "type": _STAGE_CHANNEL if stage else _VOICE_CHANNEL,
        "guild_id": str(guild_id),
        "name": name,
        "position": 0,
        "permission_overwrites": [],
        "parent_id": None,
        "nsfw": False,
        "bitrate": 64_000,
        "user_limit": 0,
        "rtc_region": None,
    }


def voice_state_object(state: VoiceState, name: str) -> dict[str, object]:
    """A voice state, as in VOICE_STATE_UPDATE."""
    data: dict[str, object] = {
        "channel_id": None if state.channel_id is None else str(state.channel_id),
        "user_id": str(state.user_id),
        "session_id": state.session_id,
        "deaf": False,
        "mute": False,
        "self_deaf": state.self_deaf,
        "self_mute": state.self_mute,
        "self_video": state.self_video,
        "self_stream": False,
        "suppress": False,
        "request_to_speak_timestamp": None,
    }
    if state.guild_id is not None:
        data["guild_id"] = str(state.guild_id)
        data["member"] = member_object(state.user_id, name)
    return data


def guild_object(
    guild: Guild, names: Mapping[int, str], states: Iterable[VoiceState]
) -> dict[str, object]:
    """A guild, as in GUILD_CREATE.

    Args:
        guild: The guild.
        names: Name of each member.
        states: Voice states of those who are in one of its channels.
    """
    guild_id = str(guild.guild_id)
    everyone_role = {
        "id": guild_id,  # the role of all members has the id of its guild
        "name": "@everyone",
        "color": 0,
        "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
        "hoist": False,
        "position": 0,
        "permissions": _EVERY_PERMISSION,
        "managed": False,
        "mentionable": False,
        "flags": 0,
    }
    return {
        "id": guild_id,
        "name": guild.name,
        "owner_id": "0",
        "icon": None,
        "afk_channel_id": None,
        "afk_timeout": 300,
        "verification_level": 0,
        "default_message_notifications": 0,
        "explicit_content_filter": 0,
        "mfa_level": 0,
        "nsfw_level": 0,
        "premium_tier": 0,
        "system_channel_id": None,
        "system_channel_flags": 0,
        "rules_channel_id": None,
        "preferred_locale": "en-US",
        "features": [],
        "roles": [everyone_role],
        "emojis": [],
        "stickers": [],
        "joined_at": _EPOCH,
        "large": False,
        "unavailable": False,
        "member_count": len(guild.members),
        "members": [member_object(user, names[user]) for user in sorted(guild.members)],
        "channels": [
            channel_object(guild.guild_id, channel_id, name, stage=channel_id in guild.stages)
            for channel_id, name in guild.channels.items()
        ],
        "voice_states": [
            {key: value for key, value in voice_state_object(state, "").items() if key != "member"}
            for state in states
        ],
        "threads": [],
        "presences": [],
        "stage_instances": [],
        "guild_scheduled_events": [],
        "soundboard_sounds": [],
    }
