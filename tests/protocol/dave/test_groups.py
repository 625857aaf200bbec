"""Keys of the group, and for ten seconds of the one before."""

from __future__ import annotations

from collections import Counter

import pytest

from discord_rtc.errors import DaveError
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.protocol.dave.backend import Undecryptable
from discord_rtc.protocol.dave.groups import Groups

from .fake_group import EXTERNAL_SENDER, FakeBackend, form, meet

OWN, ANN, BOB = 1, 2, 3
AUDIO = MediaKind.AUDIO


class Bench:
    """Groups whose back ends can be seen."""

    def __init__(self) -> None:
        self.made: list[FakeBackend] = []
        self.counters: Counter[str] = Counter()
        self.groups = Groups(self.make, self.counters)

    def make(self) -> FakeBackend:
        self.made.append(FakeBackend(OWN))
        return self.made[-1]

    def meet(self, other: FakeBackend, now: float = 0.0) -> frozenset[int]:
        """Become members of one group, `other` being welcomed into ours."""
        if not self.made:
            self.groups.set_external_sender(EXTERNAL_SENDER)
        self.groups.begin(1, now)
        other.set_external_sender(EXTERNAL_SENDER)
        meet(self.made[-1], {OWN, other.user_id}, (other, other.begin(1)))
        return self.groups.refresh()


def test_no_back_end_is_made_before_there_is_a_group() -> None:
    bench = Bench()
    bench.groups.set_external_sender(EXTERNAL_SENDER)
    bench.groups.end(0.0)
    assert bench.made == []
    assert bench.groups.epoch_authenticator is None
    assert bench.groups.decrypt(ANN, AUDIO, b"") is None
    assert bench.groups.refresh() == frozenset()


def test_an_external_sender_that_came_early_reaches_every_later_group() -> None:
    bench = Bench()
    assert bench.groups.set_external_sender(EXTERNAL_SENDER)
    bench.groups.begin(1, 0.0)
    bench.groups.end(1.0)
    bench.groups.begin(1, 2.0)
    assert [backend.external_sender for backend in bench.made] == [EXTERNAL_SENDER] * 2


def test_the_same_external_sender_is_no_news_and_another_one_counts_only_without_a_group() -> None:
    bench = Bench()
    assert bench.groups.set_external_sender(EXTERNAL_SENDER)
    assert not bench.groups.set_external_sender(EXTERNAL_SENDER)
    bench.meet(FakeBackend(ANN))
    assert not bench.groups.set_external_sender(b"the other")
    assert bench.counters == {"external-sender-ignored": 1}
    assert bench.made[0].external_sender == EXTERNAL_SENDER


def test_an_external_sender_that_cannot_be_read_is_counted_and_not_kept() -> None:
    bench = Bench()
    bench.groups.begin(1, 0.0)
    assert not bench.groups.set_external_sender(b"garbage")
    assert bench.groups.set_external_sender(EXTERNAL_SENDER)
    assert bench.counters == {"bad-external-senders": 1}


def test_a_group_never_entered_is_begun_anew_with_the_same_back_end() -> None:
    bench = Bench()
    assert bench.groups.begin(1, 0.0) != bench.groups.begin(1, 1.0)
    assert len(bench.made) == 1
    assert bench.groups.next_timeout() is None


def test_members_are_told_when_they_are_new() -> None:
    bench = Bench()
    assert bench.meet(FakeBackend(ANN)) == {OWN, ANN}
    assert bench.groups.members == {OWN, ANN}
    assert bench.groups.refresh() == frozenset()
    assert bench.groups.epoch_authenticator == bench.made[0].epoch_authenticator


def test_frames_of_the_group_before_still_decrypt_for_ten_seconds() -> None:
    bench, ann = Bench(), FakeBackend(ANN)
    bench.meet(ann)
    frame = ann.encrypt(b"late", Codec.OPUS)
    bench.groups.begin(1, 5.0)
    assert bench.groups.members == frozenset()
    assert bench.groups.decrypt(ANN, AUDIO, frame) == b"late"
    assert bench.counters == {"decrypted-by-former-group": 1}
    assert bench.groups.next_timeout() == 15.0
    bench.groups.handle_timeout(14.9)
    assert bench.groups.decrypt(ANN, AUDIO, frame) == b"late"
    bench.groups.handle_timeout(15.0)
    assert bench.groups.decrypt(ANN, AUDIO, frame) is None
    assert bench.made[0].was_reset
    assert bench.groups.next_timeout() is None


def test_the_new_group_is_tried_first_and_the_better_reason_is_told() -> None:
    bench, ann, bob = Bench(), FakeBackend(ANN), FakeBackend(BOB)
    bench.meet(ann)
    old = ann.encrypt(b"old", Codec.OPUS)
    bench.meet(bob, 1.0)
    assert bench.groups.decrypt(BOB, AUDIO, bob.encrypt(b"new", Codec.OPUS)) == b"new"
    assert bench.groups.decrypt(ANN, AUDIO, old) == b"old"
    form(FakeBackend(BOB), foreign := FakeBackend(ANN))
    stray = foreign.encrypt(b"of another group", Codec.OPUS)
    assert bench.groups.decrypt(BOB, AUDIO, stray) is Undecryptable.FAILED
    assert bench.groups.decrypt(ANN, AUDIO, stray) is Undecryptable.FAILED
    assert bench.groups.decrypt(99, AUDIO, stray) is Undecryptable.NO_KEY


def test_only_one_group_before_is_kept() -> None:
    bench = Bench()
    for now in (0.0, 1.0, 2.0):
        bench.meet(FakeBackend(ANN), now)
    assert [backend.was_reset for backend in bench.made] == [True, False, False]


def test_ending_keeps_the_keys_too() -> None:
    bench, ann = Bench(), FakeBackend(ANN)
    bench.meet(ann)
    bench.groups.end(1.0)
    assert bench.groups.current is None
    assert bench.groups.decrypt(ANN, AUDIO, ann.encrypt(b"late", Codec.OPUS)) == b"late"


def test_a_failing_library_is_no_secret() -> None:
    bench = Bench()
    bench.groups.begin(1, 0.0)
    bench.made[0].failing.append(DaveError("no entropy"))
    with pytest.raises(DaveError, match="no entropy"):
        bench.groups.begin(1, 1.0)
