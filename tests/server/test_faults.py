"""Faults: rules per user and for everybody, at any time, and repeatable."""

from __future__ import annotations

import pytest

from discord_rtc.errors import UsageError
from discord_rtc.netem import Impairment
from discord_rtc.server.distortion import Padding
from discord_rtc.server.faults import Blockable, Faults, ImpairedPath, LegFaults

ALICE, BOB = 1, 2
HERE = ("127.0.0.1", 50000)
DELAY = Impairment(delay=0.2)


def survivors(leg: LegFaults, count: int = 200) -> list[int]:
    assert leg.up is not None
    arrived: list[int] = []
    for number in range(count):
        arrived += (datagram[0] for datagram, _ in leg.up.send(bytes((number,)), HERE, 0.0))
    return arrived


@pytest.mark.parametrize(
    "address", [("127.0.0.1", 1), ("255.255.255.255", 65535), ("2001:db8::1", 5000)]
)
def test_a_datagram_keeps_its_bytes_and_its_address(address: tuple[str, int]) -> None:
    path = ImpairedPath(DELAY, 0)

    assert path.send(b"\x80 with spaces \x00 \xff", address, 1.0) == []
    assert path.next_timeout() == pytest.approx(1.2)
    assert path.receive(1.1) == []
    assert path.receive(1.21) == [(b"\x80 with spaces \x00 \xff", address)]
    assert path.next_timeout() is None


def test_a_leg_without_rules_has_a_perfect_way() -> None:
    leg = Faults().attach(ALICE)

    assert (leg.up, leg.down, leg.distortion) == (None, None, None)
    assert leg.next_timeout() is None


def test_rules_hold_for_legs_there_are_and_for_later_ones() -> None:
    faults = Faults()
    early = faults.attach(ALICE)

    faults.loss(0.5, seed=7)

    late = faults.attach(BOB)
    assert early.up is not None
    assert early.down is not None
    assert late.up is not None
    assert faults.impairing


def test_one_user_may_have_rules_of_their_own() -> None:
    faults = Faults()
    alice, bob = faults.attach(ALICE), faults.attach(BOB)
    faults.loss(1.0)
    faults.impair(ALICE, up=Impairment())

    assert survivors(alice, 20) == list(range(20))
    assert alice.down is not None
    assert alice.down.send(b"lost", HERE, 0.0) == []
    assert survivors(bob, 20) == []


def test_directions_are_ruled_apart() -> None:
    faults = Faults()
    leg = faults.attach(ALICE)

    faults.impair(down=DELAY)
    assert leg.up is None
    down = leg.down
    faults.impair(up=DELAY)

    assert leg.up is not None
    assert leg.down is down


def test_the_same_seed_loses_the_same_datagrams() -> None:
    def outcome(seed: int) -> tuple[list[int], list[int]]:
        faults = Faults()
        faults.loss(0.3, seed=seed)
        return survivors(faults.attach(ALICE)), survivors(faults.attach(BOB))

    assert outcome(7) == outcome(7)
    assert outcome(7) != outcome(8)


def test_users_directions_and_sessions_draw_different_numbers() -> None:
    faults = Faults()
    faults.loss(0.3, seed=7)
    first, second, other = faults.attach(ALICE), faults.attach(ALICE), faults.attach(BOB)
    ups = [survivors(leg) for leg in (first, second, other)]
    assert first.down is not None
    down = [n for n in range(200) if first.down.send(bytes((n,)), HERE, 0.0)]

    assert len({tuple(outcome) for outcome in (*ups, down)}) == 4


def test_clear_takes_back_the_rules_of_one_user_or_of_all() -> None:
    faults = Faults()
    alice, bob = faults.attach(ALICE), faults.attach(BOB)
    faults.impair(up=DELAY)
    faults.impair(ALICE, down=DELAY)

    faults.clear(ALICE)
    assert alice.down is None
    assert alice.up is not None
    faults.clear(ALICE)  # nothing left to take back
    faults.clear()

    assert alice.up is None
    assert bob.up is None
    assert not faults.impairing


def test_the_next_datagram_on_any_path_is_waited_for() -> None:
    faults = Faults()
    alice, bob = faults.attach(ALICE), faults.attach(BOB)
    assert faults.next_timeout() is None
    faults.impair(ALICE, up=Impairment(delay=0.2))
    faults.impair(BOB, down=Impairment(delay=0.1))
    assert faults.next_timeout() is None
    assert alice.up is not None
    assert bob.down is not None

    alice.up.send(b"later", HERE, 1.0)
    assert faults.next_timeout() == pytest.approx(1.2)
    bob.down.send(b"sooner", HERE, 1.0)
    assert faults.next_timeout() == pytest.approx(1.1)

    faults.detach(bob)
    assert faults.next_timeout() == pytest.approx(1.2)
    faults.clear()
    assert faults.next_timeout() is None


def test_counters_tell_of_paths_that_are_and_that_were() -> None:
    faults = Faults()
    faults.loss(1.0)
    gone, stays = faults.attach(ALICE), faults.attach(BOB)
    survivors(gone, 3)
    survivors(stays, 4)
    faults.detach(gone)

    assert faults.counters == {"up-lost": 7}


def test_datagrams_under_way_are_lost_when_the_rule_changes() -> None:
    faults = Faults()
    leg = faults.attach(ALICE)
    faults.impair(down=DELAY)
    assert leg.down is not None
    leg.down.send(b"1", HERE, 0.0)
    leg.down.send(b"2", HERE, 0.0)
    assert leg.next_timeout() == pytest.approx(0.2)

    faults.clear()

    assert faults.counters == {"down-abandoned": 2}
    assert leg.next_timeout() is None


def test_the_soonest_of_both_ways_wakes_the_server() -> None:
    faults = Faults()
    leg = faults.attach(ALICE)
    faults.impair(up=Impairment(delay=0.3), down=Impairment(delay=0.1))
    assert leg.up is not None
    assert leg.down is not None
    leg.up.send(b"", HERE, 0.0)
    leg.down.send(b"", HERE, 0.0)

    assert leg.next_timeout() == pytest.approx(0.1)


def test_padding_and_headers_make_one_distortion() -> None:
    faults = Faults()
    leg = faults.attach(ALICE)

    faults.padding(0.2)
    distortion = leg.distortion
    assert distortion is not None
    assert distortion.padding == Padding(0.2, 0.02)
    assert distortion.headers == 0.0
    faults.headers(0.3)
    faults.padding(0.5, padding_only=0.0, user_id=ALICE)

    assert leg.distortion is distortion
    assert distortion.padding == Padding(0.5)
    assert distortion.headers == 0.3


def test_headers_alone_make_a_distortion() -> None:
    faults = Faults()
    faults.headers(1.0, user_id=ALICE)

    distortion = faults.attach(ALICE).distortion

    assert distortion is not None
    assert distortion.padding is None
    assert distortion.headers == 1.0


def test_a_distortion_stays_when_its_rules_go() -> None:
    faults = Faults()
    leg = faults.attach(ALICE)
    faults.padding(1.0)
    distortion = leg.distortion
    faults.clear()

    assert leg.distortion is distortion
    assert distortion is not None
    assert distortion.padding is None
    assert distortion.headers == 0.0


def test_only_probabilities_are_taken() -> None:
    faults = Faults()

    for rule in (faults.loss, faults.padding, faults.headers):
        with pytest.raises(UsageError):
            rule(1.5)


def test_blocked_kinds_vanish_and_are_counted() -> None:
    faults = Faults()
    leg = faults.attach(ALICE)
    assert not leg.blocking
    faults.block("stun", "dtls")

    assert leg.blocking
    assert leg.blocks("stun", HERE)
    assert leg.blocks("dtls", HERE)
    assert not leg.blocks("media", HERE)
    assert faults.counters == {"blocked-stun": 1, "blocked-dtls": 1}


def test_without_kinds_everything_is_blocked() -> None:
    faults = Faults()
    leg = faults.attach(ALICE)
    faults.block()

    kinds: tuple[Blockable, ...] = ("stun", "dtls", "discovery", "media", "ping")
    assert all(leg.blocks(kind, HERE) for kind in kinds)


def test_blocks_of_one_user_and_of_everybody_add_up() -> None:
    faults = Faults()
    alice, bob = faults.attach(ALICE), faults.attach(BOB)
    faults.block("stun", user_id=ALICE)
    faults.block("media", user_id=ALICE)
    faults.block("ping")

    assert [alice.blocks("stun", HERE), alice.blocks("media", HERE)] == [True, True]
    assert alice.blocks("ping", HERE)
    assert not bob.blocks("stun", HERE)
    assert bob.blocks("ping", HERE)


def test_allowed_addresses_are_let_through() -> None:
    faults = Faults()
    leg = faults.attach(ALICE)
    relay = ("10.0.0.9", 3478)
    faults.block("stun", "media", allow=lambda address: address == relay)

    assert not leg.blocks("stun", relay)
    assert leg.blocks("stun", HERE)
    faults.block("media")  # a second one that lets nobody through
    assert leg.blocks("media", relay)
    assert not leg.blocks("stun", relay)


def test_datagrams_of_nobody_follow_the_rules_for_everybody() -> None:
    faults = Faults()
    faults.block("stun", user_id=ALICE)
    assert not faults.blocks("stun", HERE)
    faults.block("stun")

    assert faults.blocks("stun", HERE)
    assert faults.counters == {"blocked-stun": 1}


def test_clear_lifts_blocks_and_what_was_counted_stays() -> None:
    faults = Faults()
    gone, stays = faults.attach(ALICE), faults.attach(BOB)
    faults.block("dtls")
    assert gone.blocks("dtls", HERE)
    assert stays.blocks("dtls", HERE)
    faults.detach(gone)

    faults.clear()

    assert not stays.blocking
    assert not stays.blocks("dtls", HERE)
    assert faults.counters == {"blocked-dtls": 2}


def test_only_kinds_that_exist_can_be_blocked() -> None:
    with pytest.raises(UsageError, match="pigeon cannot be blocked; discovery, dtls, media"):
        Faults().block("stun", "pigeon")  # type: ignore[arg-type]  # what it is about
