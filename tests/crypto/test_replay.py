"""What was accepted once is not accepted again; memory stays bounded."""

from __future__ import annotations

import random

import pytest

from discord_rtc.crypto.replay import MAX_SSRCS, WINDOW, ReplayGuard, SequenceWindow
from discord_rtc.errors import RejectedPacket


def outcome(window: SequenceWindow, sequence: int, ticks: int | None = None) -> str:
    """Accept and say what came of it; ticks run with the unwrapped sequence by default."""
    try:
        window.accept(sequence & 0xFFFF, (960 * sequence if ticks is None else ticks) & 0xFFFF_FFFF)
    except RejectedPacket as rejected:
        return rejected.reason
    return "accepted"


def test_first_packet_counts_as_seen() -> None:
    assert outcome(SequenceWindow(100, 96_000), 100) == "replay"


def test_reordered_packets_pass_once() -> None:
    window = SequenceWindow(10, 9600)
    assert [outcome(window, n) for n in (13, 11, 12, 11, 13)] == [
        "accepted",
        "accepted",
        "accepted",
        "replay",
        "replay",
    ]


@pytest.mark.parametrize(("behind", "expected"), [(WINDOW - 1, "accepted"), (WINDOW, "late")])
def test_window_ends_where_it_says(behind: int, expected: str) -> None:
    window = SequenceWindow(0, 0)
    assert outcome(window, 5000) == "accepted"
    assert outcome(window, 5000 - behind) == expected


@pytest.mark.parametrize("ahead", [WINDOW - 1, WINDOW, WINDOW + 1, 0x7FFF])
def test_memory_of_a_jump_forward_is_right(ahead: int) -> None:
    window = SequenceWindow(0, 0)
    assert outcome(window, ahead) == "accepted"
    assert outcome(window, ahead) == "replay"
    assert outcome(window, ahead - 1) == "accepted"
    assert outcome(window, 0) == ("replay" if ahead < WINDOW else "late")


def test_wrap_is_nothing_special() -> None:
    window = SequenceWindow(65_530, 65_530 * 960)
    order = [65_536 + n for n in (-4, 3, -2, 0, -2, 3)]
    assert [outcome(window, n) for n in order] == [*["accepted"] * 4, "replay", "replay"]


def test_sender_that_goes_on_far_ahead_is_followed() -> None:
    window = SequenceWindow(0, 0)
    assert outcome(window, 20_000, ticks=10) == "accepted"
    assert outcome(window, 20_001, ticks=20) == "accepted"


def test_recording_older_than_half_the_numbers_does_not_pass_as_news() -> None:
    window = SequenceWindow(0, 0)
    for n in range(1, 45_000):
        assert outcome(window, n) == "accepted"
    # number 3000 is 42000 behind, which modulo 2^16 looks like 23536 ahead
    assert {outcome(window, n) for n in range(45_000)} == {"late", "replay"}
    assert outcome(window, 45_000) == "accepted"


def test_sender_that_jumps_back_is_heard_again_past_its_old_number() -> None:
    window = SequenceWindow(10_000, 0)
    assert outcome(window, 5_000, ticks=5) == "late"
    assert outcome(window, 10_001, ticks=9) == "accepted"


def test_half_the_number_space_away_counts_as_behind() -> None:
    assert outcome(SequenceWindow(0, 0), 0x8000) == "late"


def test_window_agrees_with_a_plain_set() -> None:
    numbers = random.Random(5)
    window, highest, seen = SequenceWindow(0, 0), 0, {0}
    for _ in range(20_000):
        n = max(0, highest + numbers.randint(-1500, 20))
        expected = "late" if n <= highest - WINDOW else "replay" if n in seen else "accepted"
        assert outcome(window, n) == expected
        if expected == "accepted":
            seen.add(n)
            highest = max(highest, n)


def test_each_ssrc_has_a_window_of_its_own() -> None:
    guard = ReplayGuard()
    guard.accept_rtp(1, 10, 0)
    guard.accept_rtp(2, 10, 0)
    for ssrc in (1, 2):
        with pytest.raises(RejectedPacket, match="replay"):
            guard.accept_rtp(ssrc, 10, 0)


def test_ssrcs_are_bounded_and_the_longest_silent_one_is_forgotten() -> None:
    guard = ReplayGuard()
    for ssrc in range(MAX_SSRCS):
        guard.accept_rtp(ssrc, 0, 0)
    guard.accept_rtp(0, 1, 960)  # now SSRC 1 is the longest silent one
    guard.accept_rtp(MAX_SSRCS, 0, 0)
    with pytest.raises(RejectedPacket):
        guard.accept_rtp(0, 1, 960)
    guard.accept_rtp(1, 0, 0)


def test_nonces_are_remembered_up_to_a_bound() -> None:
    guard = ReplayGuard()
    for n in range(WINDOW):
        guard.accept_nonce(n.to_bytes(4, "little"))
    with pytest.raises(RejectedPacket, match="replay"):
        guard.accept_nonce(bytes(4))
    guard.accept_nonce(b"one more")
    guard.accept_nonce(bytes(4))
