"""The earliest of several deadlines. Sans-I/O."""

from __future__ import annotations


def earliest(*times: float | None) -> float | None:
    """The smallest of the times that are set; None when none is."""
    first = None
    for time in times:
        if time is not None and (first is None or time < first):
            first = time
    return first
