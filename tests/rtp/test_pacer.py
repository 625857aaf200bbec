"""The token bucket that spreads video packets."""

from __future__ import annotations

from itertools import pairwise

import pytest

from discord_rtc.errors import UsageError
from discord_rtc.rtp.pacer import Outgoing, Pacer

_RATE_BPS = 8_000_000  # 1 byte per microsecond: 1000-byte packets every millisecond
_SIZE = 1000


def _packets(count: int) -> list[Outgoing]:
    return [
        Outgoing(number.to_bytes(2, "big") + bytes(_SIZE - 2), False) for number in range(count)
    ]


def _drain(pacer: Pacer, now: float) -> list[tuple[float, int]]:
    """Follow the pacer's own deadlines; returns (time, packets) of every wake-up."""
    wake_ups = [(now, len(pacer.pop(now)))]
    while (deadline := pacer.next_timeout()) is not None:
        assert deadline > now
        now = deadline
        wake_ups.append((now, len(pacer.pop(now))))
    return wake_ups


def test_one_burst_may_go_at_once_after_a_pause() -> None:
    pacer = Pacer(_SIZE, _RATE_BPS)
    assert pacer.burst == 10_000  # 10 ms of the rate
    assert pacer.push(_packets(25))
    assert len(pacer.pop(5.0)) == 10
    assert pacer.pop(5.0) == []


def test_a_burst_is_two_packets_at_least() -> None:
    pacer = Pacer(_SIZE, 8_000)
    pacer.push(_packets(3))
    assert len(pacer.pop(0.0)) == 2


def test_packets_keep_their_order() -> None:
    pacer = Pacer(_SIZE, _RATE_BPS)
    packets = _packets(40)
    pacer.push(packets[:15])
    pacer.push(packets[15:])
    sent = pacer.pop(0.0)
    while (deadline := pacer.next_timeout()) is not None:
        sent += pacer.pop(deadline)
    assert sent == packets


def test_the_rate_is_kept_and_used() -> None:
    pacer = Pacer(_SIZE, _RATE_BPS)
    pacer.push(_packets(100))
    wake_ups = _drain(pacer, 0.0)
    assert sum(count for _, count in wake_ups) == 100
    # 90 packets beyond the first burst, one per millisecond.
    assert wake_ups[-1][0] == pytest.approx(0.090, abs=1e-6)


def test_wake_ups_send_small_bursts_instead_of_single_packets() -> None:
    pacer = Pacer(_SIZE, _RATE_BPS)
    pacer.push(_packets(100))
    wake_ups = _drain(pacer, 0.0)
    assert [count for _, count in wake_ups] == [10] + [5] * 18
    fast = Pacer(_SIZE, 800_000_000)  # 100 packets per millisecond
    fast.push(_packets(1500))
    times = [time for time, _ in _drain(fast, 0.0)]
    assert all(later - sooner >= 0.001 for sooner, later in pairwise(times))


def test_nothing_is_due_without_packets() -> None:
    pacer = Pacer(_SIZE)
    assert pacer.next_timeout() is None
    assert pacer.pop(1.0) == []
    assert pacer.backlog(1.0) == 0.0


def test_the_backlog_is_the_time_until_the_last_packet() -> None:
    pacer = Pacer(_SIZE, _RATE_BPS)
    pacer.push(_packets(110))
    assert pacer.backlog(0.0) == pytest.approx(0.100)
    pacer.pop(0.0)
    assert pacer.backlog(0.0) == pytest.approx(0.100)
    assert pacer.backlog(0.060) == pytest.approx(0.090)  # no more than a burst is saved up
    pacer.pop(0.010)
    assert pacer.backlog(0.020) == pytest.approx(0.080)


def test_time_running_backwards_gains_nothing() -> None:
    pacer = Pacer(_SIZE, _RATE_BPS)
    pacer.push(_packets(20))
    pacer.pop(1.0)
    assert pacer.pop(0.5) == []
    assert pacer.backlog(0.5) == pytest.approx(0.010)


def test_a_full_pacer_refuses_whole_frames() -> None:
    pacer = Pacer(_SIZE, _RATE_BPS)
    assert pacer.push(_packets(1990))
    assert not pacer.has_room(11)
    assert not pacer.push(_packets(11))
    assert pacer.push(_packets(10))
    pacer.refuse(3)
    stats = pacer.stats()[0]
    assert (stats.high_water, stats.bound, stats.dropped) == (2000, 2000, 14)


def test_another_rate_applies_at_once() -> None:
    pacer = Pacer(_SIZE, _RATE_BPS)
    pacer.push(_packets(30))
    pacer.set_rate(1_600_000)  # 5 ms per packet, bursts of two
    assert len(pacer.pop(0.0)) == 2
    assert pacer.backlog(0.0) == pytest.approx(28 * 0.005)


# ---- retransmissions ----------------------------------------------------------------------


def _again(number: int, size: int = _SIZE) -> Outgoing:
    return Outgoing(b"again" + number.to_bytes(2, "big") + bytes(size - 7), False)


def test_retransmissions_go_first() -> None:
    pacer = Pacer(_SIZE, _RATE_BPS)
    packets = _packets(20)
    pacer.push(packets)
    assert pacer.pop(0.0) == packets[:10]
    pacer.resend(_again(1))
    pacer.resend(_again(2))
    sent = []
    while (deadline := pacer.next_timeout()) is not None:
        sent += pacer.pop(deadline)
    assert sent == [_again(1), _again(2), *packets[10:]]


def test_retransmissions_are_paced_too() -> None:
    pacer = Pacer(_SIZE, _RATE_BPS)
    for number in range(30):
        pacer.resend(_again(number))
    pacer.push(_packets(1))
    assert pacer.backlog(0.0) == pytest.approx(0.021)
    wake_ups = _drain(pacer, 0.0)
    assert [count for _, count in wake_ups] == [10, 5, 5, 5, 5, 1]
    assert wake_ups[-1][0] == pytest.approx(0.021)


def test_a_large_retransmission_that_waits_is_not_passed() -> None:
    pacer = Pacer(_SIZE, 8_000)
    pacer.push(_packets(2))
    pacer.pop(0.0)
    pacer.resend(_again(1))
    pacer.push([Outgoing(b"small", False)])
    assert pacer.pop(0.5) == []
    assert pacer.pop(1.0) == [_again(1)]


def test_retransmissions_get_half_the_rate() -> None:
    pacer = Pacer(_SIZE, _RATE_BPS)
    sent = 0
    now = 0.0
    while now < 10.0:
        while pacer.may_resend(_SIZE, now):
            pacer.resend(_again(sent % 65536))
            sent += 1
        pacer.pop(now)
        now += 0.01
    # 500 kB/s, and half a second of that at once.
    assert sent == pytest.approx(10 * 500 + 250, abs=10)


def test_at_any_rate_a_few_packets_may_be_sent_again() -> None:
    pacer = Pacer(_SIZE, 80_000)
    sent = 0
    while pacer.may_resend(_SIZE, 1.0):
        pacer.resend(_again(sent))
        sent += 1
    assert sent == 16


def test_time_running_backwards_gains_no_retransmissions() -> None:
    pacer = Pacer(_SIZE, 80_000)
    while pacer.may_resend(_SIZE, 5.0):
        pacer.resend(_again(1))
    assert not pacer.may_resend(_SIZE, 4.0)


def test_few_retransmissions_wait_at_any_rate() -> None:
    pacer = Pacer(_SIZE, 8_000_000_000)
    waiting = 0
    while pacer.may_resend(_SIZE, 0.0):
        pacer.resend(_again(waiting))
        waiting += 1
    stats = pacer.stats()[1]
    assert (stats.name, stats.high_water, stats.bound, stats.dropped) == (
        "retransmissions",
        waiting,
        512,
        0,
    )
    assert waiting == 512


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_must_be_positive(rate: int) -> None:
    with pytest.raises(UsageError, match="positive"):
        Pacer(_SIZE).set_rate(rate)


def test_discarding_media_leaves_control_packets_in_order() -> None:
    pacer = Pacer(_SIZE, _RATE_BPS)
    reports = [Outgoing(bytes([number]) * 8, True) for number in range(2)]
    media = _packets(3)
    assert pacer.may_resend(_SIZE, 0.0)
    pacer.resend(media[0])
    pacer.push([reports[0], media[1], media[2], reports[1]])
    pacer.discard_media()
    assert pacer.pop(0.0) == reports
    assert pacer.next_timeout() is None
    assert [queue.dropped for queue in pacer.stats()] == [2, 1]
