"""Numbers that wrap: RTP sequence numbers and timestamps. Sans-I/O. Spec: RFC 1982, RFC 3550 A.1.

Counters on the wire have 16 or 32 bits and start anywhere. Inside, they are unwrapped once,
where they enter, into integers that never wrap; everything behind compares and subtracts them
as usual.
"""

from __future__ import annotations


def unwrap(value: int, reference: int, bits: int) -> int:
    """Find the unwrapped number nearest to a reference that has this value on the wire.

    Args:
        value: The wire value, 0 to 2**bits - 1.
        reference: An unwrapped number known to be near.
        bits: Width of the wire counter.

    Returns:
        The number congruent to ``value`` within half the counter's range of ``reference``; of
        two equally near ones the smaller. It may be negative when ``reference`` is small.

    Spec:
        RFC 1982 section 3.2, where the comparison of numbers half a range apart is undefined.
    """
    half = 1 << (bits - 1)
    return reference + ((value - reference + half) & (2 * half - 1)) - half


def newer(a: int, b: int, bits: int) -> bool:
    """Tell whether wire value ``a`` comes after ``b``.

    Numbers exactly half a range apart, undefined by the RFC, are ordered by value, so that of
    two different numbers exactly one is newer.

    Spec:
        RFC 1982 section 3.2.
    """
    half = 1 << (bits - 1)
    distance = (a - b) & (2 * half - 1)
    return 0 < distance < half or (distance == half and a > b)


class Unwrapper:
    """Unwraps one counter, each value relative to the one before.

    Args:
        bits: Width of the wire counter.
    """

    __slots__ = ("_bits", "_last")

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._last: int | None = None

    def unwrap(self, value: int) -> int:
        """Unwrap the next wire value; the first one stands for itself."""
        self._last = self.peek(value)
        return self._last

    def peek(self, value: int) -> int:
        """Like `unwrap`, without taking the value as the new reference."""
        return value if self._last is None else unwrap(value, self._last, self._bits)
