"""Strict reading of JSON fields. Sans-I/O. Spec: RFC 8259 and the field types of userdoccers.

A *reader* takes one JSON value and returns it typed, or raises `BadField`. Types are strict
(a boolean is no integer, a float is no integer), null counts as absent, fields that nobody
asks for are ignored. Error texts name fields, never values: values may be secrets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn, TypeVar

from discord_rtc.errors import MalformedMessage
from discord_rtc.ids import parse_snowflake

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
D = TypeVar("D")

_U8 = 0xFF
_U16 = 0xFFFF
_U32 = 0xFFFF_FFFF
_U63 = (1 << 63) - 1


class UndecodableMessage(MalformedMessage):
    """Not a message at all: no JSON object with an opcode, no binary frame. Close code 4002."""


class BadField(MalformedMessage):
    """A field of a message is missing, has another type or is out of range. Close code 4020.

    Attributes:
        field: Path of the field, e.g. ``streams[0].rid``.
        problem: What is wrong with it; never its value.
        where: Message or event it belongs to, e.g. ``opcode 5``.
    """

    def __init__(self, field: str, problem: str, where: str = "") -> None:
        super().__init__(f"{where or 'message'}: field {field or 'd'!r} {problem}")
        self.field = field
        self.problem = problem
        self.where = where


class Fields:
    """Typed access to one JSON object.

    Args:
        data: The decoded JSON value.

    Raises:
        BadField: It is not an object.
    """

    __slots__ = ("_data",)

    def __init__(self, data: object) -> None:
        if not isinstance(data, Mapping):
            raise BadField("", "is not an object")
        self._data: Mapping[object, object] = data

    def need(self, name: str, read: Callable[[object], T]) -> T:
        """Read a field that has to be there.

        Raises:
            BadField: Absent, null, or refused by the reader.
        """
        value = self._data.get(name)
        if value is None:
            raise BadField(name, "is missing")
        return _read(name, value, read)

    def get(self, name: str, read: Callable[[object], T], default: D) -> T | D:
        """Read a field that may be absent or null.

        Raises:
            BadField: Present and refused by the reader.
        """
        value = self._data.get(name)
        return default if value is None else _read(name, value, read)

    def names(self) -> tuple[str, ...]:
        """Names of all fields that are not null."""
        return tuple(str(name) for name, value in self._data.items() if value is not None)


def _read(name: str, value: object, read: Callable[[object], T]) -> T:
    try:
        return read(value)
    except BadField as error:
        dot = "." if error.field and not error.field.startswith("[") else ""
        raise BadField(f"{name}{dot}{error.field}", error.problem) from None


def text(value: object) -> str:
    """Read a string that can be encoded as UTF-8 (JSON escapes can make lone surrogates)."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadField("", "is not valid Unicode") from None
        return value
    raise BadField("", "is not a string")


def flag(value: object) -> bool:
    """Read a boolean."""
    if isinstance(value, bool):
        return value
    raise BadField("", "is not a boolean")


def integer(value: object, low: int, high: int) -> int:
    """Read an integer of the closed range ``low`` to ``high``."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadField("", "is not an integer")
    if not low <= value <= high:
        raise BadField("", f"is not within {low} and {high}")
    return value


def u8(value: object) -> int:
    """Read an integer of 8 bits."""
    return integer(value, 0, _U8)


def u16(value: object) -> int:
    """Read an integer of 16 bits: ports, transition ids."""
    return integer(value, 0, _U16)


def u32(value: object) -> int:
    """Read an integer of 32 bits: SSRCs, flags."""
    return integer(value, 0, _U32)


def u63(value: object) -> int:
    """Read an integer that is not negative: clocks, epochs, sequence numbers."""
    return integer(value, 0, _U63)


def i64(value: object) -> int:
    """Read any integer of 64 bits with sign: heartbeat nonces."""
    return integer(value, -_U63 - 1, _U63)


def seq_ack(value: object) -> int:
    """Read a sequence number, or -1 for "none seen"."""
    return integer(value, -1, _U63)


def percent(value: object) -> int:
    """Read a quality, 0 to 100."""
    return integer(value, 0, 100)


def number(value: object) -> float:
    """Read a finite number that is not negative."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadField("", "is not a number")
    if not 0 <= value <= _U63:  # also false for NaN and infinity
        raise BadField("", "is not a number of a sensible size")
    return value


def positive(value: object) -> float:
    """Read a finite number above zero."""
    if found := number(value):
        return found
    raise BadField("", "is not above zero")


def snowflake(value: object) -> int:
    """Read a snowflake."""
    try:
        return parse_snowflake(value)
    except MalformedMessage:
        raise BadField("", "is not a snowflake") from None


def list_of(read: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """Make a reader of lists whose items ``read`` accepts."""

    def read_list(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise BadField("", "is not a list")
        return tuple(_read(f"[{index}]", item, read) for index, item in enumerate(value))

    return read_list


def parse_json(frame: str) -> object:
    """Decode one text frame.

    Raises:
        UndecodableMessage: No JSON (RFC 8259: NaN and infinities are none), nested too deeply,
            or with a number too long for Python.
    """
    try:
        decoded: object = json.loads(frame, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise UndecodableMessage("not a JSON message") from None
    return decoded


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def drop_none(**fields: object) -> dict[str, object]:
    """Make a JSON object of the fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
