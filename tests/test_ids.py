"""Snowflakes."""

from __future__ import annotations

import pytest

from discord_rtc.errors import MalformedMessage
from discord_rtc.ids import parse_snowflake


@pytest.mark.parametrize(
    ("value", "number"),
    [("0", 0), ("175928847299117063", 175928847299117063), (str(2**64 - 1), 2**64 - 1), (5, 5)],
)
def test_decimal_strings_and_integers_are_read(value: object, number: int) -> None:
    assert parse_snowflake(value) == number


@pytest.mark.parametrize(
    "value",
    [None, True, 1.0, "", " 1", "-1", "+1", "1_000", "0x10", "１", "²", "1" * 21, b"1", [], {}],  # noqa: RUF001 - digits of other scripts
)
def test_anything_else_is_malformed(value: object) -> None:
    with pytest.raises(MalformedMessage, match="not a snowflake"):
        parse_snowflake(value)


@pytest.mark.parametrize("value", [str(2**64), 2**64, -1, 10**400])
def test_more_than_64_bits_are_out_of_range(value: object) -> None:
    with pytest.raises(MalformedMessage, match="out of range"):
        parse_snowflake(value)


def test_the_error_does_not_quote_at_length() -> None:
    with pytest.raises(MalformedMessage) as caught:
        parse_snowflake("x" * 10_000)
    assert len(str(caught.value)) < 80
