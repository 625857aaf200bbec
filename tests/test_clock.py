"""The clocks."""

from __future__ import annotations

import time

import pytest

from discord_rtc.clock import NTP_UNIX_OFFSET, ManualClock, SystemClock


def test_the_system_clock_is_the_machine_s() -> None:
    clock = SystemClock()
    assert time.monotonic() - 1 < clock.now() <= time.monotonic()
    assert clock.ntp() - NTP_UNIX_OFFSET == pytest.approx(time.time(), abs=1)


def test_ntp_counts_from_1900() -> None:
    # 70 years, 17 of them leap years.
    assert NTP_UNIX_OFFSET == (70 * 365 + 17) * 86_400


def test_a_manual_clock_moves_only_when_told_to() -> None:
    clock = ManualClock(5.0)
    assert clock.now() == 5.0
    assert clock.advance(1.5) == 6.5
    assert clock.now() == 6.5
    assert clock.advance_to(8.0) == 8.0
    assert clock.advance_to(7.0) == 8.0


def test_both_hands_of_a_manual_clock_move_together() -> None:
    clock = ManualClock(5.0, ntp=1000.0)
    clock.advance(2)
    assert clock.ntp() == 1002.0


def test_time_does_not_run_backwards() -> None:
    with pytest.raises(ValueError, match="backwards"):
        ManualClock().advance(-0.1)
