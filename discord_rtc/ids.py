"""Names for numbers that must not be mixed up. Ground floor."""

from __future__ import annotations

from typing import NewType

from discord_rtc.errors import MalformedMessage

UserId = NewType("UserId", int)

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
