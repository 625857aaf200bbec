"""What is missing, when it is asked for, and how long it is waited for."""

from __future__ import annotations

from math import inf

import pytest

from discord_rtc.rtp.loss import (
    ASSUMED_RTT,
    LARGEST_INTERVAL,
    LEAST_INTERVAL,
    LONGEST_WINDOW,
    MOST_MISSING,
    MOST_REQUESTS,
    REORDER_SECONDS,
    SHORTEST_WINDOW,
    LossCounters,
    LossTracker,
)

_FIRST_INTERVAL = 1.25 * ASSUMED_RTT + 0.005


class Stream:
    """A loss tracker, and the one who waits for the packets."""

    def __init__(self, first: int = 0) -> None:
        self.window = 0.0
        self.needed_from: float = first
        self.counters = LossCounters()
        self.tracker = LossTracker(self, self.counters)
        self.tracker.begin(first)
        self.tracker.received(first, 0.0)

    def receive(self, *sequences: int, now: float = 0.0) -> list[int]:
        """Takes packets; returns what is asked for."""
        asked: list[int] = []
        for sequence in sequences:
            assert self.tracker.received(sequence, now)
            asked += self.tracker.due(now)
        return asked

    def requests(self, until: float) -> list[tuple[float, list[int]]]:
        """Follows the tracker's deadlines; returns when what is asked for."""
        asked = []
        while (deadline := self.tracker.next_timeout()) is not None and deadline <= until:
            if numbers := self.tracker.due(deadline):
                asked.append((deadline, list(numbers)))
        return asked

    def answer(self, sequence: int, rtt: float, now: float) -> None:
        """Loses a packet in front of ``sequence + 1`` and has it sent again after that time."""
        self.receive(sequence + 1, now=now)
        assert self.tracker.due(now + REORDER_SECONDS) == [sequence]
        assert self.tracker.retransmitted(sequence, now + REORDER_SECONDS + rtt)


@pytest.fixture
def stream() -> Stream:
    return Stream()


# ---- when to ask --------------------------------------------------------------------------


def test_nothing_is_missing_in_order(stream: Stream) -> None:
    assert stream.receive(*range(1000)) == []
    assert stream.tracker.next_timeout() is None


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 3, 1, 2), (0, 2, 3, 1), (0, 4, 3, 2, 1)])
def test_overtaken_packets_are_not_asked_for(stream: Stream, order: tuple[int, ...]) -> None:
    asked = stream.receive(*order, *range(len(order), 20), now=1.0)
    # With three in front of it that come later, it was overtaken by four numbers.
    assert asked == ([1] if order == (0, 4, 3, 2, 1) else [])
    assert stream.tracker.next_timeout() is None


def test_a_packet_is_asked_for_when_three_later_ones_were_seen(stream: Stream) -> None:
    assert stream.receive(0, 2, 3) == []
    assert stream.receive(4) == [1]
    assert stream.receive(5, 6) == []
    assert stream.counters == LossCounters(nacked=1)


def test_a_packet_is_asked_for_after_a_moment(stream: Stream) -> None:
    stream.receive(0, 2, now=5.0)
    assert stream.tracker.next_timeout() == 5.0 + REORDER_SECONDS
    assert not stream.tracker.due(5.009)
    assert stream.tracker.due(5.0 + REORDER_SECONDS) == [1]


def test_of_a_burst_all_but_the_last_are_asked_for_at_once(stream: Stream) -> None:
    assert stream.receive(0, 31) == list(range(1, 29))
    assert stream.requests(REORDER_SECONDS) == [(REORDER_SECONDS, [29, 30])]


def test_packets_that_came_meanwhile_are_not_asked_for(stream: Stream) -> None:
    stream.receive(0, 4, now=1.0)
    stream.receive(2, now=1.001)
    assert stream.requests(1.02) == [(1.0 + REORDER_SECONDS, [3])]  # 1 was asked for at once
    assert stream.receive(1, 3, now=1.02) == []
    assert stream.tracker.next_timeout() is None


def test_each_gap_has_its_own_time(stream: Stream) -> None:
    assert stream.receive(2, now=1.0) == []
    assert stream.receive(4, now=1.005) == [1]
    assert stream.requests(1.02) == [(1.005 + REORDER_SECONDS, [3])]


# ---- again, and until when ----------------------------------------------------------------


def test_a_packet_is_asked_for_again_until_nobody_seems_to_answer(stream: Stream) -> None:
    stream.receive(0, 2)
    asked = stream.requests(100.0)
    assert len(asked) == MOST_REQUESTS
    assert all(numbers == [1] for _, numbers in asked)
    times = [time for time, _ in asked]
    expected = [REORDER_SECONDS + _FIRST_INTERVAL * n for n in range(MOST_REQUESTS)]
    assert times == pytest.approx(expected)
    assert not stream.tracker.due(200.0)
    assert stream.counters.nacked == MOST_REQUESTS


def test_packets_whose_place_was_given_up_are_not_asked_for_again(stream: Stream) -> None:
    stream.receive(0, 2, 4, now=0.0)
    stream.requests(REORDER_SECONDS)
    stream.needed_from = 3
    assert stream.requests(REORDER_SECONDS + 1.3 * _FIRST_INTERVAL)[0][1] == [3]
    stream.needed_from = inf
    assert stream.requests(10.0) == []
    assert stream.tracker.next_timeout() is None


def test_too_much_is_not_asked_for(stream: Stream) -> None:
    stream.receive(0, 2)
    assert not stream.tracker.received(3 + MOST_MISSING, 0.0)
    assert not stream.tracker.due(1.0)
    assert stream.tracker.next_timeout() is None
    assert stream.receive(4 + MOST_MISSING, 6 + MOST_MISSING, now=2.0) == []
    assert stream.tracker.misses(5 + MOST_MISSING)


def test_as_much_as_allowed_is_asked_for(stream: Stream) -> None:
    asked = stream.receive(0, 1 + MOST_MISSING)
    asked += [number for _, numbers in stream.requests(REORDER_SECONDS) for number in numbers]
    assert asked == list(range(1, 1 + MOST_MISSING))


def test_numbers_that_begin_anew_leave_nothing_to_ask_for(stream: Stream) -> None:
    stream.receive(0, 2)
    stream.tracker.begin(70_000)
    assert stream.tracker.next_timeout() is None
    assert stream.receive(70_000, 70_001, now=1.0) == []


# ---- answers ------------------------------------------------------------------------------


def test_a_retransmission_is_wanted_once(stream: Stream) -> None:
    stream.receive(0, 2)
    assert stream.tracker.misses(1)
    assert stream.tracker.retransmitted(1, 0.001)  # somebody else asked for it
    assert not stream.tracker.misses(1)
    assert not stream.tracker.retransmitted(1, 0.002)
    assert not stream.tracker.retransmitted(2, 0.002)
    assert not stream.tracker.retransmitted(99, 0.002)
    assert stream.counters == LossCounters(recovered=1, unneeded=3)


def test_an_original_packet_is_an_answer_where_there_is_no_rtx(stream: Stream) -> None:
    stream.receive(0, 2)
    stream.tracker.due(REORDER_SECONDS)
    stream.receive(1, now=0.05)
    assert stream.counters == LossCounters(nacked=1, recovered=1)
    before = stream.window
    for number in range(3, 30, 2):
        stream.receive(number + 1, now=float(number))
        stream.tracker.due(number + REORDER_SECONDS)
        stream.receive(number, now=number + REORDER_SECONDS + 0.1)
    assert stream.window > before


def test_an_overtaken_packet_is_no_answer_where_there_is_rtx(stream: Stream) -> None:
    for number in range(1, 200, 2):
        stream.answer(number, 0.06, now=float(number))
    window = stream.window
    for number in range(201, 300, 2):
        stream.receive(number + 1, now=float(number))
        stream.tracker.due(number + REORDER_SECONDS)
        stream.receive(number, now=number + REORDER_SECONDS + 0.001)
    assert stream.window == window
    assert stream.counters.recovered == 100
    # Their retransmissions, which nobody needs any more, still tell how long it takes.
    assert not stream.tracker.retransmitted(299, 299 + REORDER_SECONDS + 0.02)
    assert stream.window < window


# ---- patience -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rtt", "interval", "window"),
    [
        (0.001, LEAST_INTERVAL, SHORTEST_WINDOW),
        (0.040, 0.055, 0.230),
        (0.080, 0.105, 0.430),
        (0.200, LARGEST_INTERVAL, LONGEST_WINDOW),
        (60.0, LARGEST_INTERVAL, LONGEST_WINDOW),
    ],
)
def test_patience_follows_the_round_trip_time(
    stream: Stream, rtt: float, interval: float, window: float
) -> None:
    stream.answer(1, rtt, now=0.0)
    assert stream.window == pytest.approx(window)
    stream.receive(4, now=1000.0)
    (first, _), (second, _) = stream.requests(1002.0)[:2]
    assert second - first == pytest.approx(interval)


def test_before_the_first_answer_a_middling_way_is_assumed(stream: Stream) -> None:
    assert stream.window == pytest.approx(REORDER_SECONDS + 4 * _FIRST_INTERVAL)


def test_one_strange_answer_changes_little(stream: Stream) -> None:
    stream.answer(1, 0.040, now=0.0)
    stream.answer(3, 0.120, now=1.0)
    assert stream.window == pytest.approx(0.230 + 4 * 1.25 * 0.080 / 8)


def test_an_answer_to_one_of_several_requests_counts_half(stream: Stream) -> None:
    stream.answer(1, 0.040, now=0.0)
    stream.receive(4, now=1.0)
    stream.requests(1.1)
    assert stream.counters.nacked == 3
    stream.tracker.retransmitted(3, 1.0 + REORDER_SECONDS + 0.120)
    assert stream.window == pytest.approx(0.230 + 4 * 1.25 * 0.080 / 16)


def test_patience_grows_when_answers_come_too_late(stream: Stream) -> None:
    stream.answer(1, 0.020, now=0.0)
    assert stream.window == pytest.approx(SHORTEST_WINDOW + 0.010)
    for number in range(3, 103, 2):
        now = float(number)
        stream.receive(number + 1, now=now)
        stream.requests(now + stream.window)
        stream.needed_from = number + 1  # given up
        stream.tracker.due(now + stream.window)
        assert not stream.tracker.retransmitted(number, now + REORDER_SECONDS + 0.300)
        stream.tracker.begin(number + 2)
    assert stream.window == LONGEST_WINDOW


def test_what_was_given_up_is_not_remembered_for_ever(stream: Stream) -> None:
    window = stream.window
    for number in range(1, 2 * 300, 2):
        stream.receive(number + 1, now=0.0)
    stream.tracker.due(REORDER_SECONDS)
    stream.needed_from = inf
    stream.tracker.due(REORDER_SECONDS)
    assert not stream.tracker.retransmitted(1, 0.4)  # pushed out
    assert stream.window == window
    assert not stream.tracker.retransmitted(599, 0.4)
    assert stream.window > window


def test_what_was_not_asked_for_is_not_remembered(stream: Stream) -> None:
    window = stream.window
    stream.receive(0, 2)
    stream.needed_from = 3
    stream.tracker.due(0.0)
    assert not stream.tracker.retransmitted(1, 0.3)
    assert stream.window == window
