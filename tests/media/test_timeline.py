from __future__ import annotations

from fractions import Fraction

from discord_rtc.media.timeline import Timeline


def test_positions_count_from_the_zero_of_the_file() -> None:
    timeline = Timeline(Fraction(100), now=5.0)
    assert timeline.place(Fraction(100), 5.0) == 0
    assert timeline.place(Fraction("100.02"), 5.0) == Fraction("0.02")


def test_an_hour_of_silence_that_took_an_hour_is_believed() -> None:
    timeline = Timeline(Fraction(0), now=0.0)
    assert timeline.place(Fraction(3600), 3600.0) == 3600
    assert timeline.jumps == 0


def test_an_hour_that_took_a_second_is_a_new_timeline() -> None:
    timeline = Timeline(Fraction(0), now=0.0)
    timeline.place(Fraction(1), 1.0)
    assert timeline.place(Fraction(3601), 2.0) == 2
    assert timeline.place(Fraction("3601.02"), 2.0) == Fraction("2.02")
    assert timeline.jumps == 1


def test_timestamps_that_begin_again_go_on_by_the_clock() -> None:
    timeline = Timeline(Fraction(0), now=0.0)
    timeline.place(Fraction(30), 30.0)
    assert timeline.place(Fraction(0), 31.0) == 31
    assert timeline.jumps == 1


def test_slight_disorder_is_left_alone() -> None:
    timeline = Timeline(Fraction(0), now=0.0)
    timeline.place(Fraction(5), 5.0)
    assert timeline.place(Fraction("4.9"), 5.0) == Fraction("4.9")
    assert timeline.jumps == 0


def test_a_fast_source_may_run_ahead_of_the_clock() -> None:
    timeline = Timeline(Fraction(0), now=0.0)
    for second in range(0, 3600, 30):
        assert timeline.place(Fraction(second), 0.0) == second
    assert timeline.jumps == 0


def test_a_clock_that_stands_still_or_steps_back_does_no_harm() -> None:
    timeline = Timeline(Fraction(0), now=10.0)
    assert timeline.place(Fraction(1), 9.0) == 1
