"""Unwrapping and comparing of numbers that wrap."""

from __future__ import annotations

import pytest

from discord_rtc.rtp.serial import Unwrapper, newer, unwrap


@pytest.mark.parametrize(
    ("value", "reference", "expected"),
    [
        (5, 3, 5),
        (0, 65535, 65536),
        (65535, 65536, 65535),
        (2, 3 * 65536 - 1, 3 * 65536 + 2),
        (65535, 0, -1),
        (0x8000, 0, -0x8000),  # equally near: the smaller one
        (0x7FFF, 0, 0x7FFF),
    ],
)
def test_unwrap_finds_the_number_nearest_to_the_reference(
    value: int, reference: int, expected: int
) -> None:
    assert unwrap(value, reference, 16) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (1, 0, True),
        (0, 1, False),
        (7, 7, False),
        (0, 0xFFFFFFFF, True),
        (0xFFFFFFFF, 0, False),
        (0x80000000, 0, True),  # half a range apart: by value
        (0, 0x80000000, False),
        (0x80000001, 0, False),
    ],
)
def test_newer_follows_the_wrap(a: int, b: int, expected: bool) -> None:
    assert newer(a, b, 32) is expected


def test_unwrapper_starts_with_the_first_value_and_follows_it_over_the_wrap() -> None:
    unwrapper = Unwrapper(16)
    wire = [65530, 65535, 3, 65534, 1, 40000, 10]
    assert [unwrapper.unwrap(value) for value in wire] == [
        65530,
        65535,
        65539,
        65534,
        65537,
        40000 + 65536 * (40000 < 65537 - 32768),
        65546,
    ]


def test_peek_leaves_the_reference_alone() -> None:
    unwrapper = Unwrapper(16)
    assert unwrapper.peek(50000) == 50000
    assert unwrapper.peek(1) == 1
    unwrapper.unwrap(65535)
    assert unwrapper.peek(20000) == 85536
    assert unwrapper.unwrap(50000) == 50000
