"""A thread for codec work, so that nothing slow runs on the event loop.

One worker is one thread with a bounded inbox. Results go back to the loop in batches: a
burst of small jobs (Opus frames) costs one wake-up of the loop, not one each.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

INBOX_BOUND = 256
"""Jobs a worker holds; `submit` refuses more, so that a slow codec cannot eat the memory."""


class Worker:
    """Runs jobs one after the other in its own thread, which the first job starts.

    Args:
        name: Name of the thread.
        bound: Jobs that may wait; further ones are refused and counted.
    """

    def __init__(self, name: str, *, bound: int = INBOX_BOUND) -> None:
        self._loop = asyncio.get_running_loop()
        self._bound = bound
        self._inbox: SimpleQueue[Callable[[], Callable[[], None]] | None] = SimpleQueue()
        self._outbox: deque[Callable[[], None]] = deque()
        self._scheduled = False
        self._closing = False
        self._stopped = asyncio.Event()
        self._pending = 0
        self._awaited: set[Callable[[], bool]] = set()
        self.refused = 0
        self.high_water = 0
        self._name = name
        self._thread: threading.Thread | None = None

    @property
    def bound(self) -> int:
        """Jobs that may wait."""
        return self._bound

    def submit(self, job: Callable[[], T], done: Callable[[T], None]) -> bool:
        """Run ``job`` in the thread, then ``done(result)`` on the loop.

        A job must not raise (codec wrappers count their trouble); one that does is
        reported to the loop's exception handler and its ``done`` is not called.

        Returns:
            False when the inbox is full or the worker is closed; the job is not run.
        """
        if self._closing or self._pending >= self._bound:
            self.refused += 1
            return False
        self._pending += 1
        self.high_water = max(self.high_water, self._pending)

        def call() -> Callable[[], None]:
            result = job()
            return lambda: done(result)

        self._inbox.put(call)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        return True

    async def run(self, job: Callable[[], T]) -> T:
        """Run ``job`` in the thread and return its result or raise its exception.

        Cancelled when the worker is closed meanwhile.

        Raises:
            RuntimeError: The worker is closed or its inbox is full.
        """
        future: asyncio.Future[T] = self._loop.create_future()

        def guarded() -> tuple[T | None, BaseException | None]:
            try:
                return job(), None
            except Exception as error:  # noqa: BLE001 - it is handed to whoever awaits
                return None, error

        def settle(outcome: tuple[T | None, BaseException | None]) -> None:
            if future.done():
                return
            result, error = outcome
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # None only when T allows it

        if not self.submit(guarded, settle):
            raise RuntimeError("the worker is closed or overloaded")
        self._awaited.add(future.cancel)
        try:
            return await future
        finally:
            self._awaited.discard(future.cancel)

    async def aclose(self) -> None:
        """Let the current job finish, drop the others, end the thread. Idempotent."""
        if not self._closing:
            self._closing = True
            self._inbox.put(None)
            for cancel in self._awaited:
                cancel()
        if self._thread is not None:
            await self._stopped.wait()
            self._thread.join()

    def _work(self) -> None:
        try:
            while (call := self._inbox.get()) is not None:
                if self._closing:
                    continue
                try:
                    finish = call()
                except Exception as error:  # noqa: BLE001 - a job that raises is a bug: report it
                    finish = self._report(error)
                self._outbox.append(finish)
                if not self._scheduled:
                    self._scheduled = True
                    self._call_on_loop(self._drain)
        finally:
            self._call_on_loop(self._stopped.set)

    def _report(self, error: Exception) -> Callable[[], None]:
        context = {"message": "a media job failed", "exception": error}
        return lambda: self._loop.call_exception_handler(context)

    def _call_on_loop(self, callback: Callable[[], object]) -> None:
        # The loop may be closed already when a program ends without closing its connection.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def _drain(self) -> None:
        # Cleared first: a result appended from here on schedules another drain.
        self._scheduled = False
        try:
            while self._outbox:
                self._pending -= 1
                finish = self._outbox.popleft()
                finish()
        finally:
            if self._outbox:  # a callback failed; the loop reports it, the others go on
                self._loop.call_soon(self._drain)
