"""The thread for codec work."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from discord_rtc.connection.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Eventually

pytestmark = pytest.mark.asyncio


class Gate:
    """A job that waits in the worker until the test opens it."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._open = threading.Event()

    def job(self) -> str:
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self._open.wait(5)
        return "done"

    def open(self) -> None:
        self._open.set()


async def test_jobs_run_in_order_in_a_thread_of_their_own() -> None:
    worker = Worker("discord-rtc-test")
    ran: list[tuple[int, str]] = []
    finished: list[int] = []

    def job(number: int) -> int:
        ran.append((number, threading.current_thread().name))
        return number

    for number in range(50):
        assert worker.submit(partial(job, number), finished.append)
    await worker.run(lambda: None)
    assert finished == list(range(50))
    assert ran == [(number, "discord-rtc-test") for number in range(50)]
    await worker.aclose()


async def test_without_a_job_there_is_no_thread() -> None:
    before = threading.active_count()
    worker = Worker("discord-rtc-test")
    assert threading.active_count() == before
    await worker.aclose()
    assert not worker.submit(lambda: 1, lambda _: None)
    assert threading.active_count() == before


async def test_results_come_back_on_the_loop() -> None:
    worker = Worker("discord-rtc-test")
    threads: list[threading.Thread] = []
    worker.submit(lambda: 1, lambda _: threads.append(threading.current_thread()))
    await worker.run(lambda: None)
    assert threads == [threading.current_thread()]
    await worker.aclose()


async def test_a_burst_of_results_costs_one_wake_up_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = Worker("discord-rtc-test")
    gate = Gate()
    await worker.run(lambda: None)
    loop = asyncio.get_running_loop()
    wake_ups: list[object] = []
    last = threading.Event()
    finished: list[int] = []

    worker.submit(gate.job, lambda _: None)
    for number in range(20):
        worker.submit(partial(int, number), finished.append)
    worker.submit(last.set, lambda _: None)
    await gate.entered.wait()
    original = loop.call_soon_threadsafe

    def counting(callback: Callable[[], object]) -> object:
        wake_ups.append(callback)
        return original(callback)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
    gate.open()
    assert last.wait(5)  # the loop is held up meanwhile
    await worker.run(lambda: None)
    assert finished == list(range(20))
    assert len(wake_ups) <= 2  # the burst, and the job that was waited for
    await worker.aclose()


async def test_more_than_the_bound_is_refused_and_counted(eventually: Eventually) -> None:
    worker = Worker("discord-rtc-test", bound=3)
    gate = Gate()
    finished: list[object] = []
    assert worker.submit(gate.job, finished.append)
    assert worker.submit(lambda: 1, finished.append)
    assert worker.submit(lambda: 2, finished.append)
    assert not worker.submit(lambda: 3, finished.append)
    with pytest.raises(RuntimeError, match="overloaded"):
        await worker.run(lambda: 4)
    assert (worker.bound, worker.high_water, worker.refused) == (3, 3, 2)
    gate.open()
    await eventually(lambda: len(finished) == 3)
    assert finished == ["done", 1, 2]
    assert worker.submit(lambda: 5, finished.append)
    await worker.run(lambda: None)
    assert finished[-1] == 5
    await worker.aclose()


async def test_run_gives_the_result_or_raises_the_exception() -> None:
    worker = Worker("discord-rtc-test")
    assert await worker.run(lambda: 42) == 42

    def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await worker.run(fail)
    assert await worker.run(lambda: 43) == 43
    await worker.aclose()


async def test_a_submitted_job_that_raises_is_reported_and_the_others_go_on() -> None:
    worker = Worker("discord-rtc-test")
    reported: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    finished: list[object] = []
    error = ValueError("broken")

    def fail() -> None:
        raise error

    worker.submit(fail, finished.append)
    worker.submit(lambda: 1, finished.append)
    await worker.run(lambda: None)
    assert reported == [error]
    assert finished == [1]
    await worker.aclose()


async def test_a_callback_that_raises_does_not_hold_up_the_next_results(
    eventually: Eventually,
) -> None:
    worker = Worker("discord-rtc-test")
    reported: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    gate = Gate()
    finished: list[object] = []
    error = ValueError("broken")

    def fail(_result: object) -> None:
        raise error

    last = threading.Event()
    worker.submit(gate.job, fail)
    worker.submit(lambda: 1, finished.append)
    worker.submit(last.set, finished.append)
    await gate.entered.wait()
    gate.open()
    assert last.wait(5)  # all three results come in one batch
    await eventually(lambda: len(finished) == 2)
    assert reported == [error]
    await worker.aclose()


async def test_closing_finishes_the_current_job_and_drops_the_others() -> None:
    worker = Worker("discord-rtc-test")
    gate = Gate()
    finished: list[object] = []
    worker.submit(gate.job, finished.append)
    worker.submit(lambda: 1, finished.append)
    await gate.entered.wait()
    closing = [asyncio.ensure_future(worker.aclose()) for _ in range(2)]
    await asyncio.sleep(0)
    assert not worker.submit(lambda: 2, finished.append)
    with pytest.raises(RuntimeError, match="closed"):
        await worker.run(lambda: 3)
    gate.open()
    await asyncio.gather(*closing)
    await worker.aclose()
    assert finished == ["done"]
    assert "discord-rtc-test" not in {thread.name for thread in threading.enumerate()}


async def test_whoever_waits_for_a_job_is_cancelled_by_closing() -> None:
    worker = Worker("discord-rtc-test")
    gate = Gate()
    waiting = asyncio.ensure_future(worker.run(gate.job))
    await gate.entered.wait()
    closing = asyncio.ensure_future(worker.aclose())
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    gate.open()
    await closing


async def test_cancelling_run_leaves_the_worker_usable() -> None:
    worker = Worker("discord-rtc-test")
    gate = Gate()
    waiting = asyncio.ensure_future(worker.run(gate.job))
    await gate.entered.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    gate.open()
    assert await worker.run(lambda: 1) == 1
    await worker.aclose()


async def test_a_loop_that_ends_first_does_not_disturb_the_thread() -> None:
    started: list[tuple[Worker, Gate]] = []

    async def forgetful() -> None:
        worker = Worker("discord-rtc-test")
        gate = Gate()
        worker.submit(gate.job, lambda _: None)
        await gate.entered.wait()
        started.append((worker, gate))

    await asyncio.to_thread(lambda: asyncio.run(forgetful()))
    [(worker, gate)] = started
    [thread] = [it for it in threading.enumerate() if it.name == "discord-rtc-test"]
    gate.open()
    closing = asyncio.ensure_future(worker.aclose())
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()
    closing.cancel()  # nobody can tell it: its loop is gone
