"""What all commands share: running a coroutine, errors as one sentence, exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import FrameType

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""SIGTERM is treated as Ctrl-C, so that a recording is finished either way."""

PATIENCE = 1.0
"""Seconds in which further signals count as the first one: programs that start others often pass
on what the terminal has sent to both, and closing takes less."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM ended the work; everything was closed."""


def refuse(message: str, code: int = EXIT_USAGE) -> NoReturn:
    """End the command with one sentence and an exit code."""
    print(f"discord-rtc: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(code)


def not_built(option: str) -> NoReturn:
    """End the command because of an option whose part does not exist yet."""
    refuse(f"{option} is not built yet in this version")


def leave_on_signals() -> None:
    """End the process quietly on Ctrl-C and SIGTERM as long as nothing needs closing."""
    for number in SIGNALS:
        signal.signal(number, _leave)


def ignore_signals() -> None:
    """Everything is told: a Ctrl-C that comes now must not change the exit code."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(EXIT_INTERRUPTED)


def run(work: Coroutine[object, object, T], interruption: Interruption | None = None) -> T:
    """Run a command's coroutine to its end.

    Ctrl-C or SIGTERM cancels it, so that it closes what it has opened; another one, a second
    later, ends the process at once.

    Args:
        work: What to run.
        interruption: Entered already by a command that has something to tell afterwards.

    Raises:
        Interrupted: It was cancelled so.
    """
    interruption = interruption or Interruption()
    # Not asyncio's own way with Ctrl-C: its second one raises KeyboardInterrupt somewhere in
    # the midst of closing, with a traceback and tasks destroyed while they are pending.
    with interruption, asyncio.Runner() as runner:
        try:
            return runner.run(interruption.guard(work))
        except asyncio.CancelledError:
            raise Interrupted from None


class Interruption:
    """Turns signals into the cancellation of one task, while entered; once or twice.

    Afterwards they end the process quietly, except for repetitions of the first one.
    """

    def __init__(self) -> None:
        self._entered = 0
        self._happened_at: float | None = None
        self._task: asyncio.Task[object] | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        self._entered += 1
        if self._entered > 1:
            return self
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, *_: object) -> None:
        self._entered -= 1
        if self._entered:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal() returned

    async def guard(self, work: Coroutine[object, object, T]) -> T:
        """Await the work as the task that signals cancel."""
        self._task = asyncio.current_task()
        if self._happened_at is not None:
            work.close()
            raise asyncio.CancelledError
        return await work

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._happened_at is not None and now - self._happened_at <= PATIENCE:
            return
        if self._task is not None and self._task.done():
            _leave(number, frame)
        if self._happened_at is not None:
            _abort()
        self._happened_at = now
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)


def _abort() -> NoReturn:
    """End the process here and now. In a signal handler: only what is safe there."""
    if os.isatty(2):
        os.write(2, b"\x1b[?25h")  # DECTCEM: a progress display hides the cursor
    os.write(2, b"\ndiscord-rtc: aborted before everything was closed\n")
    os._exit(EXIT_INTERRUPTED)
