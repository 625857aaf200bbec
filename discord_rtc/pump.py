"""The one asyncio loop around every sans-I/O object. First floor with asyncio.

Contract, for every object with the five verbs (input, output, events, deadline, time):

    one input, then flush the output, then drain the events, then re-arm the timer;
    never two inputs without a flush.

`Pump.run` is the only door, so the contract cannot be broken by accident: an input made
from within a flush raises `ConcurrentInput`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from discord_rtc.errors import ConcurrentInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.clock import Clock

P = ParamSpec("P")
T = TypeVar("T")


class Timed(Protocol):
    """The two verbs about time."""

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called, or None."""
        ...

    def handle_timeout(self, now: float) -> None:
        """Time has come. Calling early or late is harmless."""
        ...


class Pump:
    """Feeds one sans-I/O object and wakes it in time.

    Args:
        machine: The object.
        flush: Sends what the object has to send and handles its events; called with
            ``now`` after every input. It must not call `run`.
        clock: Source of ``now``; must tick like the running loop's time.
    """

    def __init__(
        self,
        machine: Timed,
        flush: Callable[[float], None],
        clock: Clock,
    ) -> None:
        self._machine = machine
        self._flush = flush
        self._clock = clock
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._busy = False
        self._closed = False

    def run(self, action: Callable[Concatenate[P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make one input and everything that must follow it.

        Args:
            action: A method of the machine.
            args: Its positional arguments, ``now`` among them where it takes one.
            kwargs: Its keyword arguments.

        Returns:
            What the action returned.

        Raises:
            ConcurrentInput: Called from within the flush of another input.
        """
        if self._busy:
            raise ConcurrentInput("an input was made while another one was being flushed")
        self._busy = True
        try:
            result = action(*args, **kwargs)
            self._flush(self._clock.now())
        finally:
            self._busy = False
            self._arm()
        return result

    def close(self) -> None:
        """Stop the timer. Inputs are still possible and flushed, but nothing wakes up."""
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        due = None if self._closed else self._machine.next_timeout()
        if due is None:
            return
        if self._handle is not None:
            # A timer that fires too early finds nothing due and re-arms itself, which is
            # cheaper than moving it on every packet.
            if self._due <= due:
                return
            self._handle.cancel()
        self._due = due
        delay = max(0.0, due - self._clock.now())
        self._handle = asyncio.get_running_loop().call_later(delay, self._wake)

    def _wake(self) -> None:
        self._handle = None
        now = self._clock.now()
        due = self._machine.next_timeout()
        if due is None:
            return
        # The loop's timers may fire a little early (clock resolution); those microseconds
        # must not cost another turn.
        if due - now > 0.0005:
            self._arm()
            return
        self.run(self._machine.handle_timeout, max(now, due))
