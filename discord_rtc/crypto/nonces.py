"""Where the nonces of sent packets come from. Sans-I/O. Spec: userdoccers, "Voice Connections".

Client and server protect with one and the same key, so their counters must never meet: a client
counts from 0 to 0x7fffffff, a server from 0x80000000 to 0xffffffff. At 1000 packets/s either half
lasts 24 days. A real server's numbers are its own affair; received ones are opaque bytes.
"""

from __future__ import annotations

from typing import Literal

from discord_rtc.errors import NonceExhausted, UsageError

Side = Literal["client", "server"]

COUNTER_RANGES: dict[Side, range] = {
    "client": range(0x8000_0000),
    "server": range(0x8000_0000, 0x1_0000_0000),
}
"""Every nonce suffix that a side may use under one key."""


class CounterNonces:
    """A 32-bit counter that never hands out a number twice and never wraps.

    Args:
        side: Which half of the numbers to use.
        first: First number, the lowest of the half by default.

    Raises:
        UsageError: ``first`` belongs to the other side.
    """

    def __init__(self, side: Side, first: int | None = None) -> None:
        numbers = COUNTER_RANGES[side]
        if first is not None and first not in numbers:
            raise UsageError(f"a {side} must not use nonce {first:#x}")
        self._next = numbers.start if first is None else first
        self._stop = numbers.stop

    def __call__(self) -> bytes:
        """Return the next suffix, 4 bytes big endian.

        Raises:
            NonceExhausted: The last number is used up; so for every later call.
        """
        number = self._next
        if number >= self._stop:
            raise NonceExhausted
        self._next = number + 1
        return number.to_bytes(4, "big")
