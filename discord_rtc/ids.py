"""Names for numbers that must not be mixed up. Ground floor."""

from __future__ import annotations

from typing import NewType

from discord_rtc.errors import MalformedMessage

UserId = NewType("UserId", int)
GuildId = NewType("GuildId", int)
ChannelId = NewType("ChannelId", int)
ServerId = NewType("ServerId", int)
"""What a voice server calls the room's owner: a guild, a private channel or a stream."""
Ssrc = NewType("Ssrc", int)
PayloadType = NewType("PayloadType", int)
Rid = NewType("Rid", str)

_SNOWFLAKE_LIMIT = 1 << 64


def parse_snowflake(value: object) -> int:
    """Read a snowflake as Discord sends it: a decimal string (an integer is tolerated).

    Raises:
        MalformedMessage: Not a decimal number of at most 64 bits.

    Spec:
        Discord API docs, "Snowflakes".
    """
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        number = int(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        raise MalformedMessage(f"not a snowflake: {value!r:.40}")
    if not 0 <= number < _SNOWFLAKE_LIMIT:
        raise MalformedMessage("snowflake out of range")
    return number
