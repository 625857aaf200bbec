"""What is kept of one stream, what is asked for, and how often it is sent again."""

from __future__ import annotations

import pytest

from discord_rtc.rtp.loss import REORDER_SECONDS
from discord_rtc.rtp.reports import SequenceTracker
from discord_rtc.server.repair import (
    KEPT_PACKETS,
    KEPT_SECONDS,
    MOST_RESENDS,
    RESEND_SPACING,
    Resends,
    StreamRepair,
)


class Stream:
    """As the room does it: the tracker first."""

    def __init__(self) -> None:
        self.tracker = SequenceTracker()
        self.repair = StreamRepair(self.tracker)

    def receive(self, *sequences: int, now: float = 0.0) -> list[bool]:
        believed = []
        for sequence in sequences:
            number = self.tracker.update(sequence % 65536)
            if number is not None:
                believed.append(self.repair.received(number, now))
        return believed


@pytest.fixture
def stream() -> Stream:
    return Stream()


def test_a_packet_is_found_for_a_second() -> None:
    repair = Stream().repair
    assert repair.keep(7, b"seven", 1.0)

    assert repair.find(7, 1.0 + KEPT_SECONDS) == b"seven"
    assert repair.find(7, 1.001 + KEPT_SECONDS) is None
    assert repair.find(8, 1.0) is None


def test_a_packet_is_kept_once() -> None:
    repair = Stream().repair
    repair.keep(7, b"first", 1.0)

    assert not repair.keep(7, b"again", 1.5)
    assert repair.find(7, 1.5) == b"first"
    assert repair.keep(7, b"much later", 5.0)


def test_only_the_latest_packets_are_kept() -> None:
    repair = Stream().repair
    for sequence in range(65_000, 65_000 + KEPT_PACKETS + 10):
        repair.keep(sequence % 65536, b"%d" % sequence, 1.0)

    found = [n for n in range(65_000, 65_600) if repair.find(n % 65536, 1.0) == b"%d" % n]
    assert found == list(range(65_010, 65_010 + KEPT_PACKETS))


def test_what_is_missing_is_asked_for_once_it_cannot_be_late_only(stream: Stream) -> None:
    stream.receive(1, 2, 4)
    assert stream.repair.due(0.0) == []
    due = stream.repair.next_timeout()
    assert due == REORDER_SECONDS

    assert stream.repair.due(due) == [3]


def test_numbers_to_ask_for_are_those_of_the_wire(stream: Stream) -> None:
    stream.receive(65_533, 65_534, 65_540)

    assert stream.repair.due(1.0) == [65_535, 0, 1, 2, 3]


def test_a_retransmission_is_of_use_once_and_only_if_something_is_missing(stream: Stream) -> None:
    assert not stream.repair.restores(3, 0.0)
    stream.receive(65_534, 2, now=0.0)

    assert stream.repair.restores(65_535, 0.1)
    assert not stream.repair.restores(65_535, 0.1)
    assert stream.repair.restores(1, 0.1)
    assert not stream.repair.restores(2, 0.1)
    assert stream.repair.due(1.0) == [0]


def test_what_is_older_than_what_is_kept_is_not_asked_for(stream: Stream) -> None:
    stream.receive(1, 3)
    stream.receive(*range(4, KEPT_PACKETS + 4))

    assert stream.repair.due(1.0) == []
    assert stream.repair.next_timeout() is None


def test_too_large_a_gap_is_told_and_not_asked_for(stream: Stream) -> None:
    assert stream.receive(1, 2000) == [True, False]

    assert stream.repair.due(1.0) == []


def test_a_stream_that_begins_anew_has_no_gap(stream: Stream) -> None:
    stream.receive(1, 3, 40_000, 40_001, 40_003)

    assert stream.repair.due(1.0) == [40_002]


def test_nothing_is_asked_for_across_a_pause(stream: Stream) -> None:
    stream.receive(1, 3)
    stream.repair.forget_missing()
    assert stream.repair.next_timeout() is None
    stream.receive(20, 22)

    assert stream.repair.due(1.0) == [21]


def test_a_packet_is_sent_again_at_intervals() -> None:
    resends = Resends()

    assert resends.allow(7, 1.0)
    assert not resends.allow(7, 1.0 + RESEND_SPACING / 2)
    assert resends.allow(8, 1.0 + RESEND_SPACING / 2)
    assert resends.allow(7, 1.0 + RESEND_SPACING * 1.01)


def test_a_packet_is_sent_again_so_many_times() -> None:
    resends = Resends()

    allowed = [resends.allow(7, 1.0 + 0.05 * n) for n in range(MOST_RESENDS + 3)]

    assert allowed == [True] * MOST_RESENDS + [False] * 3
    assert resends.allow(7, 10.0)  # 65,536 packets later


def test_what_is_remembered_of_resends_is_bounded() -> None:
    resends = Resends()
    for sequence in range(KEPT_PACKETS + 1):
        resends.allow(sequence, 1.0)

    assert not resends.allow(1, 1.0)
    assert resends.allow(0, 1.0)  # forgotten, but it is not kept any more either


def test_resends_are_remembered_as_long_as_their_packets_are_kept() -> None:
    resends = Resends()
    for n in range(MOST_RESENDS):
        assert resends.allow(7, 1.0 + n * 2 * RESEND_SPACING)

    assert not resends.allow(7, 1.9)
    assert not resends.allow(7, 1.9)
    resends.allow(8, 5.0)
    assert resends.allow(7, 5.0)


def test_retransmissions_are_numbered_for_each_receiver(stream: Stream) -> None:
    bob, carol = stream.repair.resends(200), stream.repair.resends(300)

    assert [bob.number(), bob.number(), carol.number()] == [1, 2, 1]
    assert stream.repair.resends(200) is bob
    stream.repair.forget_receiver(200)
    assert stream.repair.resends(200).number() == 1
    stream.repair.forget_receiver(999)  # who never missed anything


def test_retransmission_numbers_wrap() -> None:
    resends = Resends()

    numbers = [resends.number() for _ in range(65_537)]

    assert numbers[-3:] == [65_535, 0, 1]
