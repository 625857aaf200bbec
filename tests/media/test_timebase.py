"""Conversion of time bases."""

from __future__ import annotations

from fractions import Fraction

import pytest

from discord_rtc.media.timebase import exact, to_ticks


@pytest.mark.parametrize(
    ("pts", "time_base", "ticks"),
    [
        (1, Fraction(1, 30), 3000),
        (1, Fraction(1, 1000), 90),
        (512, Fraction(1, 12_288), 3750),
        (2, Fraction(1001, 30_000), 6006),
        (-1, Fraction(1, 7), -12_857),
        (1, Fraction(1, 180_000), 1),
    ],
)
def test_pts_become_ticks_rounded_to_nearest(pts: int, time_base: Fraction, ticks: int) -> None:
    assert to_ticks(pts, time_base, 90_000) == ticks


def test_a_time_base_of_any_type_becomes_a_fraction() -> None:
    class Rational:  # the shape of PyAV 19's
        numerator, denominator = 2, 60

    assert exact(Rational()) == Fraction(1, 30)
    assert to_ticks(3, Rational(), 90_000) == 9000
