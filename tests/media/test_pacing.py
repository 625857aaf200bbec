from __future__ import annotations

import asyncio
import time

from discord_rtc.clock import ManualClock
from discord_rtc.media.pacing import Pacing


def test_the_first_frame_starts_the_clock_wherever_its_time_begins() -> None:
    pacing = Pacing(ManualClock(50.0))
    assert pacing.lateness(7.0) == 0
    assert pacing.lateness(7.5) == -0.5


def test_lateness_does_not_add_up() -> None:
    clock = ManualClock()
    pacing = Pacing(clock)
    pacing.lateness(0.0)
    clock.advance(0.3)
    assert pacing.lateness(0.02) > 0.27
    assert pacing.lateness(0.5) == -0.2  # as if nothing had been late


def test_a_restart_makes_its_frame_due_now() -> None:
    clock = ManualClock()
    pacing = Pacing(clock)
    pacing.lateness(0.0)
    clock.advance(10)
    pacing.restart(1.0)
    assert pacing.lateness(1.0) == 0
    assert pacing.lateness(2.0) == -1


def test_without_realtime_everything_is_due() -> None:
    pacing = Pacing(ManualClock(), realtime=False)
    assert pacing.lateness(0.0) == pacing.lateness(1e6) == 0


def test_waiting_is_never_early_and_tells_lateness() -> None:
    async def scenario() -> None:
        pacing = Pacing()
        start = time.monotonic()
        assert await pacing.wait(3.0) < 0.02
        late = await pacing.wait(3.03)
        assert time.monotonic() - start >= 0.03
        assert late >= 0

    asyncio.run(scenario())
