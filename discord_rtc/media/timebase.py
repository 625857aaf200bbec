"""Time bases: the one place that knows PyAV's type for them."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol


class Rational(Protocol):
    """What PyAV uses as time base: Fraction before version 19, a class of its own since."""

    @property
    def numerator(self) -> int:
        """As of ``Fraction``."""
        ...

    @property
    def denominator(self) -> int:
        """As of ``Fraction``."""
        ...


def to_ticks(pts: int, time_base: Rational, clock_rate: int) -> int:
    """Convert a pts to units of ``1 / clock_rate``, rounded to nearest."""
    denominator = time_base.denominator
    return (2 * pts * time_base.numerator * clock_rate + denominator) // (2 * denominator)


def exact(time_base: Rational) -> Fraction:
    """Give a time base as the Fraction that the rest of this library calculates with."""
    return Fraction(time_base.numerator, time_base.denominator)
