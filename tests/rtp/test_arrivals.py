"""What a peer is told about the arrival of its packets, read by another decoder than ours."""

from __future__ import annotations

import struct
from collections import Counter
from typing import NamedTuple

import pytest

from discord_rtc.rtp.arrivals import FEEDBACK_INTERVAL, MOST_ARRIVALS, Arrivals
from discord_rtc.rtp.feedback import TransportFeedback

ROOM, MEDIA = 1, 101
TICK = 0.00025


class Told(NamedTuple):
    """One packet of feedback as the draft describes it, read without the code under test."""

    head: tuple[int, ...]  # first byte, type, words, sender, media, base, count
    reference_ms: int
    counter: int
    arrived_ms: dict[int, float]
    lost: list[int]


def read(packet: bytes) -> Told:
    head = struct.unpack_from("!BBHIIHH", packet)
    base, count = head[5:7]
    reference = int.from_bytes(packet[16:19], "big") * 64
    position = 20
    symbols: list[int] = []
    while len(symbols) < count:
        (chunk,) = struct.unpack_from("!H", packet, position)
        position += 2
        bits = format(chunk, "016b")
        if bits[0] == "0":
            symbols += [int(bits[1:3], 2)] * int(bits[3:], 2)
        elif bits[1] == "0":
            symbols += [int(bit) for bit in bits[2:]]
        else:
            symbols += [int(bits[at : at + 2], 2) for at in range(2, 16, 2)]
    time = reference * 4
    arrived, lost = {}, []
    for index, symbol in enumerate(symbols[:count]):
        number = (base + index) % 65536
        if symbol == 0:
            lost.append(number)
            continue
        layout = {1: "!B", 2: "!h"}[symbol]
        time += struct.unpack_from(layout, packet, position)[0]
        position += struct.calcsize(layout)
        arrived[number] = time / 4
    assert len(packet) == 4 * (head[2] + 1)
    assert 0 <= len(packet) - position < 4
    assert not any(packet[position:])
    return Told(head, reference, packet[19], arrived, lost)


def told(arrivals: Arrivals) -> list[Told]:
    return [read(packet.to_bytes()) for packet in arrivals.feedback()]


@pytest.fixture
def counters() -> Counter[str]:
    return Counter()


@pytest.fixture
def arrivals(counters: Counter[str]) -> Arrivals:
    return Arrivals(ROOM, counters)


def receive(arrivals: Arrivals, *numbers: int, begin: float = 1.0, step: float = 0.001) -> None:
    for index, number in enumerate(numbers):
        arrivals.received(number % 65536, MEDIA, begin + index * step)


def test_a_packet_seen_on_the_wire() -> None:
    """From pion/rtcp, transport_layer_cc_test.go, "example4": sent by libwebrtc."""
    seen = bytes.fromhex(
        "afcd0007 fa17fa17 193dd8bb 00040007 10636e01 2007 4c24 2410 0c0c 1000 0003"
    )
    arrivals = Arrivals(0xFA17FA17, Counter())
    arrivals.received(3, 0, 1.0)
    arrivals.feedback()  # so that the counter is 1
    ticks = 0x10636E * 256
    for number, delta in enumerate((76, 36, 36, 16, 12, 12, 16), 4):
        ticks += delta
        arrivals.received(number, 0x193DD8BB, ticks * TICK)

    [feedback] = arrivals.feedback()

    # It says how much it is padded, we need not: the count of packets tells where the end is.
    assert feedback.to_bytes() == b"\x8f" + seen[1:-1] + b"\x00"


def test_everything_that_came_is_told_with_its_time(arrivals: Arrivals) -> None:
    receive(arrivals, 7, 8, 9, begin=100.0, step=0.01)

    [feedback] = told(arrivals)

    assert feedback.head == (0x8F, 205, 6, ROOM, MEDIA, 7, 3)
    assert feedback.reference_ms == 99968  # 1562 * 64 ms
    assert feedback.arrived_ms == {7: 100_000, 8: 100_010, 9: 100_020}
    assert feedback.lost == []


def test_nothing_came_nothing_is_told(arrivals: Arrivals) -> None:
    assert arrivals.next_timeout() is None
    assert arrivals.feedback() == []

    receive(arrivals, 1)
    arrivals.feedback()

    assert arrivals.next_timeout() is None
    assert arrivals.feedback() == []


def test_feedback_is_due_some_time_after_the_first_packet_that_is_not_told(
    arrivals: Arrivals,
) -> None:
    receive(arrivals, 1, 2, begin=3.0)
    assert arrivals.next_timeout() == 3.0 + FEEDBACK_INTERVAL
    arrivals.feedback()
    receive(arrivals, 3, begin=5.0)

    assert arrivals.next_timeout() == 5.0 + FEEDBACK_INTERVAL


def test_losses_are_told_also_between_two_packets_of_feedback(arrivals: Arrivals) -> None:
    receive(arrivals, 1, 2, 4)
    first = told(arrivals)
    receive(arrivals, 7, 9, begin=2.0)
    second = told(arrivals)

    assert [(each.head[5], each.lost) for each in first + second] == [(1, [3]), (5, [5, 6, 8])]
    assert [each.counter for each in first + second] == [0, 1]


def test_rounding_does_not_add_up(arrivals: Arrivals) -> None:
    receive(arrivals, *range(400), begin=10.0, step=0.0003)

    [feedback] = told(arrivals)

    for number, arrived in feedback.arrived_ms.items():
        assert arrived == pytest.approx(10_000 + 0.3 * number, abs=0.126)


def test_numbers_and_counters_wrap(arrivals: Arrivals) -> None:
    for burst in range(300):
        receive(arrivals, 65_400 + burst, begin=burst / 10)
        [feedback] = told(arrivals)
        assert feedback.head[5] == (65_400 + burst) % 65_536
        assert feedback.counter == burst % 256
    receive(arrivals, 65_702, begin=30.0)

    [feedback] = told(arrivals)
    assert (feedback.lost, list(feedback.arrived_ms)) == ([164, 165], [166])


def test_the_time_of_reference_wraps(arrivals: Arrivals) -> None:
    wrap = (1 << 24) * 0.064
    receive(arrivals, 1, begin=wrap + 0.064)
    receive(arrivals, 2, begin=wrap * 1.5)

    first, second = arrivals.feedback()
    assert first.reference_time == 1
    assert second.reference_time == -0x800000
    assert TransportFeedback.parse(15, second.to_bytes()[4:]) == second


def test_reordered_packets_have_deltas_below_zero(arrivals: Arrivals) -> None:
    receive(arrivals, 1, 3, 2, 4, step=0.002)

    [feedback] = told(arrivals)

    assert feedback.arrived_ms == {1: 1000, 3: 1002, 2: 1004, 4: 1006}


def test_a_packet_before_the_first_one_is_told(arrivals: Arrivals) -> None:
    receive(arrivals, 5, 4)

    [feedback] = told(arrivals)
    assert list(feedback.arrived_ms) == [4, 5]


def test_what_was_told_as_lost_is_told_again_when_it_comes(arrivals: Arrivals) -> None:
    receive(arrivals, 1, 2, 4, 5)
    assert told(arrivals)[0].lost == [3]
    receive(arrivals, 3, begin=1.1)

    [feedback] = told(arrivals)

    assert feedback.arrived_ms == {3: 1100, 4: 1002, 5: 1003}
    assert feedback.lost == []


def test_what_comes_when_its_neighbours_are_forgotten_is_counted(
    arrivals: Arrivals, counters: Counter[str]
) -> None:
    receive(arrivals, 1, 2, 4)
    arrivals.feedback()
    receive(arrivals, 5, begin=2.0)  # 1 to 4 are forgotten with this feedback
    arrivals.feedback()
    receive(arrivals, 3, begin=2.1)

    assert arrivals.feedback() == []
    assert counters == {"twcc-late": 1}


def test_duplicates_count_as_their_first(arrivals: Arrivals) -> None:
    receive(arrivals, 1, 1, 2, 1)

    [feedback] = told(arrivals)
    assert feedback.arrived_ms == {1: 1000, 2: 1002}


def test_a_pause_longer_than_a_delta_begins_another_packet(arrivals: Arrivals) -> None:
    receive(arrivals, 1, 2, begin=1.0, step=8.0)
    receive(arrivals, 3, begin=20.0)

    first, second = told(arrivals)

    assert first.arrived_ms == {1: 1000, 2: 9000}
    assert second.arrived_ms == {3: 20_000}
    assert [first.counter, second.counter] == [0, 1]


@pytest.mark.parametrize("step", [0.0001, 0.1], ids=["small deltas", "large deltas"])
def test_feedback_fits_a_datagram(arrivals: Arrivals, step: float) -> None:
    receive(arrivals, *(n for n in range(2500) if n % 3), step=step)

    packets = arrivals.feedback()

    assert max(len(packet.to_bytes()) for packet in packets) <= 1164
    read_back = [read(packet.to_bytes()) for packet in packets]
    assert sorted(n for each in read_back for n in each.arrived_ms) == [
        n for n in range(1, 2500) if n % 3
    ]
    assert sorted(n for each in read_back for n in each.lost) == list(range(3, 2499, 3))


def test_a_long_gap_takes_few_bytes(arrivals: Arrivals) -> None:
    receive(arrivals, 1, 2500)

    packets = arrivals.feedback()

    assert sum(len(packet.to_bytes()) for packet in packets) < 80
    read_back = [read(packet.to_bytes()) for packet in packets]
    assert [n for each in read_back for n in each.lost] == list(range(2, 2500))
    assert all(each.arrived_ms for each in read_back)


def test_a_sender_that_jumps_is_told_about_the_last_numbers_only(
    arrivals: Arrivals, counters: Counter[str]
) -> None:
    numbers = [jump * 2999 for jump in range(1000)]
    receive(arrivals, *numbers, step=0.00005)

    packets = arrivals.feedback()

    assert len(packets) <= 1 + MOST_ARRIVALS // 500
    read_back = [read(packet.to_bytes()) for packet in packets]
    assert [n for each in read_back for n in each.arrived_ms] == [
        number % 65536 for number in numbers[-2:]
    ]
    assert counters == {"twcc-skipped": 1}
    assert arrivals.feedback() == []


def test_a_sender_that_numbers_anew_is_followed(arrivals: Arrivals) -> None:
    receive(arrivals, 1, 2, 40_000, 40_001, 40_002)

    [feedback] = told(arrivals)

    assert list(feedback.arrived_ms) == [40_001, 40_002]
    assert feedback.lost == []


def test_memory_is_bounded_when_nobody_asks(arrivals: Arrivals, counters: Counter[str]) -> None:
    receive(arrivals, *range(MOST_ARRIVALS + 100), step=0.0001)

    numbers = [number for each in told(arrivals) for number in each.arrived_ms]
    assert numbers == list(range(100, MOST_ARRIVALS + 100))
    assert counters == {"twcc-overflow": 100}
