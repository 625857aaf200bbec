"""Strict reading of JSON fields."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from discord_rtc.errors import MalformedMessage, ProtocolError
from discord_rtc.protocol.fields import (
    BadField,
    Fields,
    UndecodableMessage,
    drop_none,
    flag,
    i64,
    list_of,
    number,
    parse_json,
    percent,
    positive,
    seq_ack,
    snowflake,
    text,
    u8,
    u16,
    u32,
    u63,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (text, ""),
        (text, "é"),
        (flag, False),
        (u8, 255),
        (u16, 65535),
        (u32, 0xFFFF_FFFF),
        (u63, (1 << 63) - 1),
        (i64, -1),
        (seq_ack, -1),
        (seq_ack, 0),
        (percent, 100),
        (number, 0),
        (number, 29.97),
        (positive, 0.1),
    ],
)
def test_reader_gives_the_value_back(read: Callable[[object], object], value: object) -> None:
    assert read(value) == value


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (text, 1),
        (text, None),
        (text, "\ud800"),
        (flag, 1),
        (flag, "true"),
        (u8, 256),
        (u8, -1),
        (u8, True),
        (u16, 65536),
        (u16, 1.0),
        (u32, 1 << 32),
        (u32, "1"),
        (u63, 1 << 63),
        (i64, -(1 << 63) - 1),
        (seq_ack, -2),
        (percent, 101),
        (number, True),
        (number, "1"),
        (number, -0.1),
        (number, math.nan),
        (number, math.inf),
        (number, 10**400),
        (positive, 0),
        (snowflake, "abc"),
        (snowflake, 1 << 64),
        (snowflake, True),
        (list_of(u8), {}),
        (list_of(u8), [256]),
    ],
)
def test_reader_refuses_other_types_and_ranges(
    read: Callable[[object], object], value: object
) -> None:
    with pytest.raises(BadField):
        read(value)


def test_null_counts_as_absent() -> None:
    fields = Fields({"a": None, "b": 1})
    assert fields.get("a", u8, 7) == 7
    assert fields.get("c", u8, None) is None
    assert fields.need("b", u8) == 1
    assert fields.names() == ("b",)


@pytest.mark.parametrize("data", [{}, {"a": None}])
def test_missing_field_is_named(data: dict[str, object]) -> None:
    with pytest.raises(BadField, match="field 'a' is missing"):
        Fields(data).need("a", u8)


@pytest.mark.parametrize("data", [None, [], "x", 1])
def test_fields_are_those_of_an_object(data: object) -> None:
    with pytest.raises(BadField, match="field 'd' is not an object"):
        Fields(data)


def test_error_names_the_path_but_never_the_value() -> None:
    def layer(value: object) -> str:
        return Fields(value).need("rid", text)

    with pytest.raises(BadField) as caught:
        Fields({"streams": [{"rid": "100"}, {"rid": 31337}]}).need("streams", list_of(layer))
    assert caught.value.field == "streams[1].rid"
    assert caught.value.problem == "is not a string"
    assert "31337" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_snowflake_error_does_not_show_the_value() -> None:
    with pytest.raises(BadField) as caught:
        snowflake("hunter2")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "frame",
    ["", "{", "nul", "[1,]", "NaN", '{"a":Infinity}', "-Infinity", "9" * 5000, "[" * 200_000],
)
def test_what_is_not_json_is_undecodable(frame: str) -> None:
    with pytest.raises(UndecodableMessage):
        parse_json(frame)


def test_json_values_come_decoded() -> None:
    assert parse_json('{"a":[1,null]}') == {"a": [1, None]}


def test_both_errors_are_protocol_errors() -> None:
    assert issubclass(UndecodableMessage, MalformedMessage)
    assert issubclass(BadField, MalformedMessage)
    assert issubclass(MalformedMessage, ProtocolError)


def test_absent_values_make_no_fields() -> None:
    assert drop_none(a=0, b=None, c=False) == {"a": 0, "c": False}
