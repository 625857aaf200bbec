"""The impaired link: what it does to datagrams, and that it does it again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.errors import UsageError
from discord_rtc.netem import REORDER_HOLD, Impairment, Netem


def name(number: int) -> bytes:
    return number.to_bytes(4, "big")


def run(netem: Netem, count: int, interval: float = 0.02) -> list[tuple[float, int]]:
    """Send numbered datagrams at a steady pace; return arrival times and numbers."""
    arrivals: list[tuple[float, int]] = []

    def advance(until: float) -> None:
        while (due := netem.next_timeout()) is not None and due <= until:
            arrived = netem.receive(due)
            assert arrived
            arrivals.extend((due, int.from_bytes(datagram, "big")) for datagram in arrived)

    for number in range(count):
        advance(number * interval)
        netem.send(name(number), number * interval)
    advance(float("inf"))
    return arrivals


def numbers(arrivals: list[tuple[float, int]]) -> list[int]:
    return [number for _, number in arrivals]


def test_unimpaired_link_delivers_at_once_and_in_order() -> None:
    netem = Netem(Impairment())
    assert run(netem, 100) == [(n * 0.02, n) for n in range(100)]
    assert netem.counters.passed == 100
    assert netem.next_timeout() is None


def test_nothing_arrives_early() -> None:
    netem = Netem(Impairment(delay=0.05))
    netem.send(b"a", 10.0)
    assert netem.receive(10.049) == []
    assert netem.next_timeout() == 10.05
    assert netem.receive(10.05) == [b"a"]
    assert netem.receive(10.05) == []


def test_loss_is_about_what_was_asked_for() -> None:
    netem = Netem(Impairment(loss=0.1), seed=3)
    arrived = run(netem, 10_000)
    assert netem.counters.lost == 10_000 - len(arrived)
    assert 900 < netem.counters.lost < 1100


@pytest.mark.parametrize(("loss", "expected"), [(0.0, 50), (1.0, 0)])
def test_certain_and_impossible_loss(loss: float, expected: int) -> None:
    assert len(run(Netem(Impairment(loss=loss)), 50)) == expected


def test_same_seed_same_outcome() -> None:
    bad = Impairment(loss=0.1, delay=0.03, jitter=0.02, reorder=0.1, duplicate=0.1, rate_bps=10_000)
    first, second = Netem(bad, seed=7), Netem(bad, seed=7)
    assert run(first, 2000) == run(second, 2000)
    assert first.counters == second.counters
    assert run(Netem(bad, seed=8), 2000) != run(Netem(bad, seed=7), 2000)


def test_other_settings_do_not_change_which_datagrams_are_lost() -> None:
    plain = run(Netem(Impairment(loss=0.2), seed=1), 1000)
    delayed = run(Netem(Impairment(loss=0.2, delay=0.1, jitter=0.05), seed=1), 1000)
    assert numbers(plain) == numbers(delayed)


def test_jitter_stays_in_its_range_and_never_reorders() -> None:
    arrivals = run(Netem(Impairment(delay=0.05, jitter=0.1), seed=2), 1000)
    assert numbers(arrivals) == list(range(1000))
    waits = [time - number * 0.02 for time, number in arrivals]
    assert min(waits) >= 0.05
    assert max(waits) <= 0.15
    assert max(waits) - min(waits) > 0.09


def test_reordered_datagram_comes_right_behind_the_next_one() -> None:
    netem = Netem(Impairment(reorder=0.1, delay=0.01), seed=4)
    arrived = numbers(run(netem, 1000))
    assert sorted(arrived) == list(range(1000))
    swapped = [n for n, number in enumerate(arrived) if number > n]
    assert all(arrived[n : n + 2] == [n + 1, n] for n in swapped)
    assert netem.counters.reordered == len(swapped)
    assert 60 < len(swapped) < 140


def test_reorder_works_without_any_delay() -> None:
    netem = Netem(Impairment(reorder=1.0))
    netem.send(b"a", 0.0)
    netem.send(b"b", 0.0)
    assert netem.receive(0.0) == [b"b", b"a"]


def test_held_datagram_leaves_when_nothing_overtakes_it() -> None:
    netem = Netem(Impairment(reorder=1.0))
    netem.send(b"a", 0.0)
    assert netem.receive(0.0) == []
    assert netem.next_timeout() == REORDER_HOLD
    assert netem.receive(REORDER_HOLD) == [b"a"]
    assert netem.counters.reordered == 0


def test_held_datagram_leaves_before_one_that_comes_too_late() -> None:
    netem = Netem(Impairment(reorder=1.0))
    netem.send(b"a", 0.0)
    netem.send(b"b", 1.0)
    assert netem.receive(1.0) == [b"a"]
    assert netem.receive(1.0 + REORDER_HOLD) == [b"b"]
    assert netem.counters.reordered == 0


def test_duplicates_arrive_twice_and_are_counted() -> None:
    netem = Netem(Impairment(duplicate=0.25), seed=9)
    arrived = numbers(run(netem, 2000))
    assert netem.counters.duplicated == len(arrived) - 2000
    assert 400 < netem.counters.duplicated < 600
    assert sorted(set(arrived)) == list(range(2000))


def test_rate_spaces_datagrams_by_their_size() -> None:
    netem = Netem(Impairment(rate_bps=8000))  # a byte per millisecond
    for size in (100, 50, 10):
        netem.send(bytes(size), 5.0)
    times = []
    while (due := netem.next_timeout()) is not None:
        times.append(round(due, 9))
        netem.receive(due)
    assert times == [5.1, 5.15, 5.16]


def test_link_rests_when_idle() -> None:
    netem = Netem(Impairment(rate_bps=8000))
    netem.send(bytes(10), 0.0)
    netem.send(bytes(10), 9.0)
    assert netem.receive(0.02) == [bytes(10)]
    assert netem.next_timeout() == pytest.approx(9.01)


def test_full_queue_drops_the_newest() -> None:
    netem = Netem(Impairment(rate_bps=8, queue_limit=3))
    for number in range(5):
        netem.send(name(number), 0.0)
    assert netem.receive(1e9) == [name(0), name(1), name(2)]
    assert netem.counters.overflowed == 2
    assert netem.counters.highest_queue == 3
    netem.send(name(9), 1e9)
    assert netem.counters.overflowed == 2


def test_held_datagram_takes_a_place_in_the_queue() -> None:
    netem = Netem(Impairment(reorder=1.0, queue_limit=1))
    netem.send(b"a", 0.0)
    netem.send(b"b", 0.0)
    assert netem.counters.overflowed == 1
    assert netem.receive(REORDER_HOLD) == [b"a"]


@pytest.mark.parametrize(
    "values",
    [
        {"loss": 1.1},
        {"loss": -0.1},
        {"reorder": float("nan")},
        {"duplicate": 2},
        {"delay": -1},
        {"jitter": -0.1},
        {"rate_bps": 0},
        {"queue_limit": 0},
    ],
)
def test_impossible_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Impairment(**values)  # type: ignore[arg-type]  # one keyword at a time


probabilities = st.floats(0, 1)
impairments = st.builds(
    Impairment,
    loss=probabilities,
    delay=st.floats(0, 1),
    jitter=st.floats(0, 1),
    reorder=probabilities,
    duplicate=probabilities,
    rate_bps=st.none() | st.integers(100, 10**7),
    queue_limit=st.integers(1, 30),
)


@given(impairments, st.integers(), st.lists(st.floats(0, 0.2), max_size=60))
def test_every_datagram_is_accounted_for(
    impairment: Impairment, seed: int, gaps: list[float]
) -> None:
    netem = Netem(impairment, seed)
    now, arrived = 100.0, 0
    for gap in gaps:
        now += gap
        netem.send(b"datagram", now)
        arrived += len(netem.receive(now))
        due = netem.next_timeout()
        assert due is None or due > now
    arrived += len(netem.receive(float("inf")))
    counters = netem.counters
    assert netem.next_timeout() is None
    assert counters.passed == arrived
    assert arrived + counters.lost + counters.overflowed == len(gaps) + counters.duplicated
    assert counters.highest_queue <= impairment.queue_limit
