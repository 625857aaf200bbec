"""Frames of others: which pass, which decrypt, which may still come."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from discord_rtc.frames import OPUS_SILENCE, Codec, MediaKind
from discord_rtc.protocol.dave.events import Undecrypted
from discord_rtc.protocol.dave.groups import Groups
from discord_rtc.protocol.dave.reception import Reception
from discord_rtc.protocol.dave.transitions import OpenTransitions, Transition

from .fake_group import EXTERNAL_SENDER, FakeBackend, form, meet

OWN, ANN, BOB = 1, 2, 3
AUDIO, VIDEO = MediaKind.AUDIO, MediaKind.VIDEO
PLAIN = b"plain audio"
UNENCRYPTED = Undecrypted("unencrypted", retry=False)


class Bench:
    """A reception; `join` puts it into a group with Ann."""

    def __init__(self, version: int | None = 1) -> None:
        self.counters: Counter[str] = Counter()
        self.own, self.ann = FakeBackend(OWN), FakeBackend(ANN)
        self.groups = Groups(lambda: self.own, self.counters)
        self.transitions = OpenTransitions(self.counters)
        self.reception = Reception(self.groups, self.transitions)
        self.reception.version = version

    def join(self) -> Bench:
        self.groups.set_external_sender(EXTERNAL_SENDER)
        self.groups.begin(1, 0.0)
        self.ann.set_external_sender(EXTERNAL_SENDER)
        meet(self.own, {OWN, ANN}, (self.ann, self.ann.begin(1)))
        self.groups.refresh()
        return self

    def hear(self, frame: bytes, now: float = 0.0, user: int = ANN) -> bytes | Undecrypted:
        return self.reception.decrypt(user, AUDIO, frame, now)

    def fail(self, start: float, end: float, user: int = ANN) -> list[float]:
        """Frames that nobody can decrypt, fifty a second; returns when they were too many."""
        distress = []
        for number in range(int((end - start) * 50)):
            now = start + number / 50
            assert isinstance(self.hear(stray(), now, user), Undecrypted)
            if self.reception.take_distress():
                distress.append(round(now, 2))
        return distress


@cache
def stray() -> bytes:
    """A frame of a group that nobody here is in."""
    form(other := FakeBackend(BOB), FakeBackend(99))
    return other.encrypt(b"stray", Codec.OPUS)


def test_frames_of_members_are_decrypted() -> None:
    bench = Bench().join()
    assert bench.hear(bench.ann.encrypt(PLAIN, Codec.OPUS)) == PLAIN


@pytest.mark.parametrize("version", [None, 1])
def test_plain_frames_do_not_pass_where_encryption_is_due(version: int | None) -> None:
    assert Bench(version).hear(PLAIN) == UNENCRYPTED


def test_opus_silence_always_passes_but_only_as_audio() -> None:
    bench = Bench()
    assert bench.hear(OPUS_SILENCE) == OPUS_SILENCE
    assert bench.reception.decrypt(ANN, VIDEO, OPUS_SILENCE, 0.0) == UNENCRYPTED


def test_at_version_0_everything_passes_also_what_looks_encrypted_by_chance() -> None:
    bench = Bench(0)
    frame = stray()
    assert bench.hear(PLAIN) == PLAIN
    assert bench.hear(frame) == frame


def test_after_a_downgrade_the_old_keys_decide_about_what_looks_encrypted() -> None:
    bench = Bench().join()
    late = bench.ann.encrypt(PLAIN, Codec.OPUS)
    bench.groups.end(0.0)
    bench.reception.version = 0
    assert bench.hear(late) == PLAIN
    assert bench.hear(stray()) == Undecrypted("undecryptable", retry=False)
    assert bench.hear(stray(), user=BOB) == Undecrypted("no-key", retry=False)


def test_plain_frames_pass_while_a_downgrade_is_prepared() -> None:
    bench = Bench().join()
    bench.transitions.open(Transition(1, 0, 2.5, new_epoch=False))
    assert bench.hear(PLAIN) == PLAIN
    assert bench.hear(bench.ann.encrypt(PLAIN, Codec.OPUS)) == PLAIN


def test_plain_frames_pass_for_ten_seconds_after_an_upgrade() -> None:
    bench = Bench()
    bench.reception.upgrade_begun(0.0)
    assert bench.hear(PLAIN, 9.9) == PLAIN
    bench.reception.upgrade_executed(9.9)
    assert bench.hear(PLAIN, 19.8) == PLAIN
    bench.reception.upgrade_executed(19.8)  # a later transition is no upgrade
    assert bench.hear(PLAIN, 19.9) == UNENCRYPTED


def test_an_upgrade_that_takes_long_does_not_open_the_door_again() -> None:
    bench = Bench()
    bench.reception.upgrade_begun(0.0)
    bench.reception.upgrade_executed(10.0)
    assert bench.hear(PLAIN, 10.0) == UNENCRYPTED


def test_a_key_may_come_while_joining_in_a_transition_and_after_proposals() -> None:
    bench = Bench()
    assert bench.hear(stray()) == Undecrypted("no-key", retry=True)
    bench.join()
    assert bench.hear(stray()) == Undecrypted("undecryptable", retry=False)
    bench.transitions.open(Transition(1, 1, 2.5, new_epoch=True))
    assert bench.hear(stray()) == Undecrypted("undecryptable", retry=True)
    bench.transitions.clear()
    bench.reception.expect_commit(5.0)
    assert bench.hear(stray(), 6.9) == Undecrypted("undecryptable", retry=True)
    assert bench.hear(stray(), 7.0) == Undecrypted("undecryptable", retry=False)


def test_a_member_that_fails_for_a_second_is_distress_told_once() -> None:
    assert Bench().join().fail(1.0, 5.0) == [2.0]


def test_one_success_of_anybody_ends_it() -> None:
    bench = Bench().join()
    assert bench.fail(0.0, 0.9) == []
    bench.hear(bench.ann.encrypt(PLAIN, Codec.OPUS), 0.9)
    assert bench.fail(1.0, 1.9) == []


def test_failures_in_a_transition_or_of_strangers_mean_nothing() -> None:
    bench = Bench().join()
    assert bench.fail(0.0, 8.0, user=BOB) == []
    bench.transitions.open(Transition(1, 1, 2.5, new_epoch=True))
    assert bench.fail(8.0, 10.0) == []


def test_distress_is_forgotten_when_keys_change() -> None:
    bench = Bench().join()
    for number in range(60):
        bench.hear(stray(), number / 50)
    bench.reception.keys_changed()
    assert bench.reception.take_distress() is None


def test_plain_frames_are_no_distress() -> None:
    bench = Bench().join()
    for number in range(200):
        bench.hear(PLAIN, number / 50)
    assert bench.reception.take_distress() is None


def test_while_joining_it_takes_longer_and_no_sign_of_progress() -> None:
    bench = Bench()
    assert bench.fail(0.0, 2.4) == []
    bench.reception.expect_commit(2.4)
    assert bench.fail(3.0, 9.0) == [5.5]


def test_before_anything_is_described_nothing_is_distress() -> None:
    bench = Bench(None)
    assert bench.hear(stray()) == Undecrypted("no-key", retry=True)
    assert bench.fail(0.0, 9.0) == []
