"""RFC 3550 appendix A, with numbers worked out by hand."""

from __future__ import annotations

import pytest

from discord_rtc.rtp.reports import (
    MAX_DROPOUT,
    MAX_MISORDER,
    Jitter,
    ReportHistory,
    SenderClock,
    SequenceTracker,
    round_trip,
)
from discord_rtc.rtp.rtcp import ReportBlock, SenderReport


def _tracker(*sequences: int) -> SequenceTracker:
    tracker = SequenceTracker()
    for sequence in sequences:
        tracker.update(sequence)
    return tracker


def test_sequence_numbers_are_extended_across_the_wrap() -> None:
    tracker = SequenceTracker()
    assert [tracker.update(number) for number in (65534, 65535, 0, 1)] == [
        65534,
        65535,
        65536,
        65537,
    ]
    assert (tracker.base, tracker.highest, tracker.received) == (65534, 65537, 4)
    assert tracker.cumulative_lost == 0


def test_a_late_packet_keeps_its_own_number() -> None:
    tracker = _tracker(65535, 1)
    assert tracker.update(0) == 65536
    assert tracker.highest == 65537


def test_a_packet_before_the_first_is_late_too() -> None:
    assert _tracker(3).update(65535) == -1


def test_a_duplicate_is_counted_not_returned() -> None:
    tracker = _tracker(10, 11, 12)
    assert tracker.update(11) is None
    assert tracker.update(12) is None
    assert tracker.duplicates == 2
    # RFC 3550 6.4.1: duplicates count as received, so the loss may be negative.
    assert tracker.cumulative_lost == -2


def test_loss_is_expected_minus_received() -> None:
    tracker = _tracker(100, 101, 104, 105, 109)
    assert tracker.cumulative_lost == 5  # 10 expected, 5 received
    assert tracker.fraction_lost() == 128  # 5/10 of 256
    tracker.update(110)
    tracker.update(112)
    # Since then 3 expected, 2 received: 256/3 = 85.3.
    assert tracker.fraction_lost() == 85
    assert tracker.cumulative_lost == 6


def test_fraction_lost_is_zero_when_nothing_or_more_came() -> None:
    tracker = _tracker(1, 2, 2)
    assert tracker.fraction_lost() == 0
    assert tracker.fraction_lost() == 0


def test_fraction_lost_fits_a_byte() -> None:
    tracker = _tracker(0)
    tracker.fraction_lost()
    tracker.update(2999)
    assert tracker.fraction_lost() == 255


def test_cumulative_lost_is_held_in_24_bits() -> None:
    tracker = _tracker(0)
    for step in range(1, 4000):
        tracker.update(step * (MAX_DROPOUT - 1) % 65536)
    assert tracker.cumulative_lost == 0x7FFFFF


def test_one_jump_is_not_believed() -> None:
    tracker = _tracker(100)
    assert tracker.update(100 + MAX_DROPOUT) is None
    assert tracker.update(101) == 101
    assert tracker.update(100 + MAX_DROPOUT + 1) is None  # a packet between: counted anew
    assert (tracker.disbelieved, tracker.restarts) == (2, 0)


def test_two_packets_in_a_row_after_a_jump_restart_the_stream() -> None:
    tracker = _tracker(100, 101, 103)
    assert tracker.update(40000) is None
    assert tracker.update(40001) == 65536 + 40001
    assert tracker.base == tracker.highest == 65536 + 40001
    assert (tracker.restarts, tracker.received) == (1, 1)
    assert tracker.cumulative_lost == 1  # what was missing before stays missing
    assert tracker.fraction_lost() == 0
    assert tracker.update(40002) == 65536 + 40002


def test_the_largest_jump_that_is_believed() -> None:
    assert _tracker(100).update(100 + MAX_DROPOUT - 1) == 100 + MAX_DROPOUT - 1


def test_the_oldest_packet_that_is_believed() -> None:
    tracker = _tracker(5000)
    assert tracker.update(5001 - MAX_MISORDER) == 5001 - MAX_MISORDER
    assert tracker.update(5000 - MAX_MISORDER) is None


def test_a_restart_among_old_numbers_is_noticed() -> None:
    tracker = _tracker(5000)
    late = [tracker.update(4500 + step) for step in range(63)]
    assert late == list(range(4500, 4563))
    restarted = tracker.update(4563)
    assert restarted == 65536 + 4563 == tracker.base
    assert tracker.restarts == 1


def test_a_new_packet_between_old_ones_proves_that_the_sender_goes_on() -> None:
    tracker = _tracker(5000)
    for step in range(200):
        tracker.update(4500 + step)
        tracker.update(5001 + step)
    assert tracker.restarts == 0


def test_jitter_follows_the_formula() -> None:
    jitter = Jitter(8000)
    assert jitter.ticks == 0
    jitter.update(0, 10.0)
    jitter.update(160, 10.020)  # as expected: 20 ms for 160 ticks
    assert jitter.seconds == pytest.approx(0.0)
    jitter.update(320, 10.060)  # 160 ticks too late: J = 160/16
    assert jitter.ticks == 10
    jitter.update(480, 10.060)  # 160 too early: J = 10 + (160 - 10)/16 = 19.375
    assert jitter.ticks == 19
    assert jitter.seconds == pytest.approx(19.375 / 8000)


def test_jitter_is_held_in_32_bits() -> None:
    jitter = Jitter(90_000)
    jitter.update(0, 0.0)
    jitter.update(1 << 60, 0.0)
    assert jitter.ticks == 0xFFFFFFFF


def test_the_wallclock_is_tied_to_the_first_frame() -> None:
    clock = SenderClock(90_000)
    clock.frame(5000, 100.0)
    for frame in range(1, 100):
        jitter = 0.015 if frame % 2 else -0.015
        clock.frame(5000 + frame * 3000, 100.0 + frame / 30 + jitter)
    assert clock.ticks_at(104.0) == 5000 + 4 * 90_000


def test_one_late_frame_does_not_move_the_tie() -> None:
    clock = SenderClock(90_000)
    clock.frame(0, 0.0)
    clock.frame(3000, 0.500)
    assert clock.ticks_at(1.0) == 90_000


def test_a_pause_moves_the_tie() -> None:
    clock = SenderClock(90_000)
    clock.frame(0, 0.0)
    clock.frame(3000, 10.0)
    assert clock.ticks_at(10.0) == 3000


def test_slow_drift_moves_the_tie_sooner_or_later() -> None:
    clock = SenderClock(48_000)
    for frame in range(3000):  # a source that is 0.2 % slow: 120 ms in a minute
        clock.frame(frame * 960, frame * 0.02004)
    assert abs(clock.ticks_at(2999 * 0.02004) - 2999 * 960) <= 0.042 * 48_000


def test_another_source_makes_the_tie_anew() -> None:
    clock = SenderClock(48_000)
    clock.frame(0, 0.0)
    clock.restart()
    clock.frame(960, 0.030)
    assert clock.ticks_at(0.030) == 960


def test_a_report_block_names_the_last_sender_report() -> None:
    history = ReportHistory()
    assert history.since(5.0) == (0, 0)
    history.received(SenderReport(1, 0x1234_5678_9ABC_DEF0, 0, 0, 0), 5.0)
    assert history.since(5.5) == (0x5678_9ABC, 0x8000)
    assert history.since(5.5 + 65536.0) == (0x5678_9ABC, 0xFFFFFFFF)


def _block(last_sr: int, delay: int) -> ReportBlock:
    return ReportBlock(1, 0, 0, 0, 0, last_sr, delay)


def test_round_trip_of_the_example_of_the_rfc() -> None:
    # RFC 3550 figure 2: A = b710:8000, LSR = b705:2000, DLSR = 5.25 s, trip 6.125 s.
    ntp = 0xB710 + 0x8000 / 65536
    assert round_trip(_block(0xB705_2000, 0x0005_4000), ntp) == 6.125


def test_round_trip_wraps_with_the_clock() -> None:
    assert round_trip(_block(0xFFFF_8000, 0), 0x1_0000 + 0.25) == 0.75


def test_no_round_trip_without_a_sender_report() -> None:
    assert round_trip(_block(0, 5), 100.0) is None


def test_a_report_from_the_future_gives_no_round_trip() -> None:
    assert round_trip(_block(101 << 16, 0), 100.0) is None
