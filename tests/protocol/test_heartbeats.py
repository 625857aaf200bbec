"""When a voice client's heartbeats go out, and what answers prove."""

from __future__ import annotations

import pytest

from discord_rtc.protocol.heartbeats import Heartbeats


def started(asked_ms: float = 5000) -> Heartbeats:
    beats = Heartbeats(now=100.0, clock_ms=7000)
    beats.start(asked_ms, 100.0)
    return beats


def test_none_is_due_before_hello() -> None:
    assert Heartbeats(now=100.0, clock_ms=7000).due is None


@pytest.mark.parametrize(("asked", "interval"), [(41_250, 5), (1000, 1), (0.001, 0.02)])
def test_the_interval_is_the_servers_within_bounds(asked: float, interval: float) -> None:
    beats = Heartbeats(now=100.0, clock_ms=7000)
    assert beats.start(asked, 101.0) == interval
    assert beats.due == 101.0 + interval


def test_the_integers_follow_the_clock_and_are_never_the_same() -> None:
    beats = started()
    assert [beats.beat(100.0), beats.beat(100.0), beats.beat(101.5)] == [7000, 7001, 8500]
    assert beats.last == 8500


def test_an_answer_tells_the_round_trip_time_once() -> None:
    beats = started()
    t = beats.beat(105.0)
    assert beats.answered(t, 105.25) == 0.25
    assert beats.answered(t, 105.5) is None


def test_only_the_latest_are_remembered() -> None:
    beats = started()
    first, *_, last = [beats.beat(105.0) for _ in range(6)]
    assert beats.answered(first, 106.0) is None
    assert beats.answered(last, 106.0) == 1.0


def test_three_in_a_row_without_an_answer_are_unheeded() -> None:
    beats = started()
    for number in range(3):
        assert not beats.unheeded
        beats.expect(105.0 + number)
        assert beats.due == 110.0 + number
    assert beats.unheeded
    beats.answered(-1, 108.0)
    assert not beats.unheeded


def test_another_websocket_starts_anew_and_the_integers_go_on() -> None:
    beats = started()
    t = beats.beat(105.0)
    for _ in range(3):
        beats.expect(105.0)
    beats.stop()
    assert beats.due is None
    beats.start(1000, 120.0)
    assert (beats.due, beats.unheeded) == (121.0, False)
    assert beats.answered(t, 121.0) is None
    assert beats.beat(121.0) > t
