"""The loop around sans-I/O objects."""

from __future__ import annotations

import asyncio

import pytest

from discord_rtc.clock import Clock, ManualClock, SystemClock
from discord_rtc.errors import ConcurrentInput
from discord_rtc.pump import Pump

pytestmark = pytest.mark.asyncio


class Machine:
    """Wants to be woken at `due` and remembers every call."""

    def __init__(self, due: float | None = None) -> None:
        self.due = due
        self.calls: list[str] = []
        self.woken: list[float] = []
        self.awake = asyncio.Event()

    def next_timeout(self) -> float | None:
        return self.due

    def handle_timeout(self, now: float) -> None:
        self.calls.append("timeout")
        self.woken.append(now)
        self.due = None
        self.awake.set()

    def add(self, one: int, *, other: int) -> int:
        self.calls.append("input")
        return one + other

    def fail(self) -> None:
        raise ValueError("no")


def pump_of(machine: Machine, clock: Clock | None = None) -> Pump:
    return Pump(machine, lambda _now: machine.calls.append("flush"), clock or SystemClock())


async def woken(machine: Machine) -> None:
    async with asyncio.timeout(1):
        await machine.awake.wait()


async def test_an_input_is_flushed_and_answered() -> None:
    machine = Machine()
    assert pump_of(machine).run(machine.add, 1, other=2) == 3
    assert machine.calls == ["input", "flush"]


async def test_the_flush_gets_the_time() -> None:
    clock = ManualClock(7.5)
    times: list[float] = []
    machine = Machine()
    Pump(machine, times.append, clock).run(machine.add, 1, other=2)
    assert times == [7.5]


async def test_an_input_from_within_a_flush_is_refused_and_the_next_one_is_not() -> None:
    machine = Machine()

    def flush(_now: float) -> None:
        pump.run(machine.add, 1, other=2)

    pump = Pump(machine, flush, SystemClock())
    for _ in range(2):
        with pytest.raises(ConcurrentInput, match="being flushed"):
            pump.run(machine.add, 1, other=2)


async def test_an_input_that_fails_is_not_flushed_but_the_timer_is_armed() -> None:
    machine = Machine(due=0.0)
    pump = pump_of(machine)
    with pytest.raises(ValueError, match="no"):
        pump.run(machine.fail)
    assert machine.calls == []
    await woken(machine)
    assert machine.calls == ["timeout", "flush"]


async def test_a_deadline_wakes_the_machine_not_too_early() -> None:
    clock = SystemClock()
    machine = Machine(due=clock.now() + 0.03)
    due = machine.due
    assert due is not None
    pump_of(machine).run(machine.add, 1, other=2)
    await woken(machine)
    assert machine.woken[0] >= due


async def test_an_earlier_deadline_replaces_the_timer() -> None:
    clock = SystemClock()
    machine = Machine(due=clock.now() + 60)
    pump = pump_of(machine)
    pump.run(machine.add, 1, other=2)
    machine.due = clock.now() + 0.01
    pump.run(machine.add, 1, other=2)
    await woken(machine)


async def test_a_deadline_that_moved_away_is_waited_for_anew() -> None:
    clock = SystemClock()
    machine = Machine(due=clock.now() + 0.01)
    pump = pump_of(machine)
    pump.run(machine.add, 1, other=2)
    machine.due = later = clock.now() + 0.05
    pump.run(machine.add, 1, other=2)
    await woken(machine)
    assert len(machine.woken) == 1
    assert machine.woken[0] >= later


async def test_a_deadline_that_disappeared_wakes_nobody() -> None:
    machine = Machine(due=SystemClock().now() + 0.01)
    pump_of(machine).run(machine.add, 1, other=2)
    machine.due = None
    await asyncio.sleep(0.03)
    assert machine.woken == []


async def test_a_closed_pump_flushes_inputs_but_never_wakes() -> None:
    machine = Machine(due=SystemClock().now() + 0.01)
    pump = pump_of(machine)
    pump.run(machine.add, 1, other=2)
    pump.close()
    pump.close()
    pump.run(machine.add, 1, other=2)
    await asyncio.sleep(0.03)
    assert machine.calls == ["input", "flush"] * 2


async def test_a_manual_clock_decides_when_a_deadline_has_come() -> None:
    clock = ManualClock()
    machine = Machine(due=0.01)
    pump_of(machine, clock).run(machine.add, 1, other=2)
    await asyncio.sleep(0.03)
    assert machine.woken == []
    clock.advance(1)
    await woken(machine)
    assert machine.woken == [1]
