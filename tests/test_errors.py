"""The error tree."""

from __future__ import annotations

import inspect
import re

import pytest

from discord_rtc import errors
from discord_rtc.errors import (
    ConnectionLost,
    NonceExhausted,
    RejectedPacket,
    RtcError,
)

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if value.__module__ == errors.__name__
]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_drawn_and_explained(error: type[RtcError]) -> None:
    assert issubclass(error, RtcError)
    assert error.__doc__
    drawing = (errors.__doc__ or "").partition("::")[2]
    assert re.search(rf"\b{error.__name__}\b", drawing)


def test_the_drawing_shows_the_parents() -> None:
    depths: list[tuple[int, str]] = []
    checked = []
    for line in (errors.__doc__ or "").partition("::")[2].splitlines():
        found = re.match(r"^(\s*(?:\| {2,})*(?:[|`]-- )?)((?:[A-Z]\w+(?:, )?)+)", line)
        if not found:
            continue
        depth = len(found[1])
        depths = [entry for entry in depths if entry[0] < depth]
        for name in found[2].rstrip(", ").split(", "):
            if depths:
                parent = getattr(errors, depths[-1][1])
                assert getattr(errors, name).__bases__ == (parent,), name
                checked.append(name)
        depths.append((depth, found[2].split(", ")[0]))
    assert len(checked) == len(CLASSES) - 1  # all but the root


def test_a_lost_connection_says_code_and_reason() -> None:
    error = ConnectionLost(4006, "the session is over", resumable=True)
    assert str(error) == "the session is over (close code 4006)"
    assert (error.close_code, error.reason, error.resumable) == (4006, "the session is over", True)


def test_a_lost_connection_without_code_does_not_make_one_up() -> None:
    error = ConnectionLost(None, "the socket broke")
    assert str(error) == "the socket broke"
    assert not error.resumable


def test_used_up_nonces_are_a_lost_connection() -> None:
    error = NonceExhausted()
    assert isinstance(error, ConnectionLost)
    assert error.close_code is None
    assert "used up" in str(error)


def test_a_rejected_packet_names_its_counter() -> None:
    assert RejectedPacket("replay").reason == "replay"
