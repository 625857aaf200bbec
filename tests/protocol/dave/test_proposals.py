"""Proposals are taken, refused, and tried again when what they need has come."""

from __future__ import annotations

from collections import Counter

import pytest

from discord_rtc.errors import DaveError
from discord_rtc.protocol.dave.proposals import ProposalIntake

from .fake_group import EXTERNAL_SENDER, FakeBackend, append, form, proposal, split

OWN, ANN, BOB, CAT = 1, 2, 3, 4
ALL = {OWN, ANN, BOB, CAT}


def intake() -> tuple[ProposalIntake, Counter[str]]:
    counters: Counter[str] = Counter()
    return ProposalIntake(counters), counters


def test_proposals_become_a_commit() -> None:
    proposals, counters = intake()
    backend = FakeBackend(OWN)
    backend.set_external_sender(EXTERNAL_SENDER)
    backend.begin(1)
    assert proposals.take(backend, append(proposal(0, add=b"2:0")), ALL)
    assert proposals.take(FakeBackendWithoutCommit(OWN), b"\x00", ALL) is None
    assert counters == {"proposed-commits": 1}


class FakeBackendWithoutCommit(FakeBackend):
    def process_proposals(self, payload: bytes, recognised: object) -> bytes | None:  # noqa: ARG002 - the port names them
        return None


def test_an_unexpected_member_is_refused() -> None:
    proposals, counters = intake()
    backend = FakeBackend(OWN)
    backend.set_external_sender(EXTERNAL_SENDER)
    backend.begin(1)
    with pytest.raises(DaveError, match="user 9 was not announced"):
        proposals.take(backend, append(proposal(0, add=b"9:0")), ALL)
    assert counters == {"refused-proposals": 1}


def test_proposals_of_the_next_epoch_wait_for_it() -> None:
    proposals, counters = intake()
    own, ann = FakeBackend(OWN), FakeBackend(ANN)
    form(own, ann)
    early = append(proposal(2, add=b"4:0"))
    with pytest.raises(DaveError, match="wrong epoch"):
        proposals.take(own, early, ALL)
    made = proposals.take(own, append(proposal(1, add=b"3:0")), ALL)
    assert made is not None
    own.process_commit(split(made)[0])
    (commit,) = proposals.retry(own, ALL)
    assert own.process_commit(split(commit)[0])
    assert own.members == ALL
    assert counters["reordered-proposals"] == 1


def test_what_is_refused_twice_is_dropped() -> None:
    proposals, counters = intake()
    backend = FakeBackend(OWN)
    backend.begin(1)
    for number in range(6):
        with pytest.raises(DaveError, match="no group"):
            proposals.take(backend, append(proposal(0, add=f"2:{number}".encode())), ALL)
    assert proposals.retry(backend, ALL) == []
    backend.set_external_sender(EXTERNAL_SENDER)
    assert proposals.retry(backend, ALL) == []
    assert counters == {"refused-proposals": 6}


def test_a_retry_without_commit_and_a_group_that_is_gone() -> None:
    proposals, counters = intake()
    backend = FakeBackend(OWN)
    for _ in range(2):
        with pytest.raises(DaveError):
            proposals.take(backend, b"\x00", ALL)
        assert proposals.retry(FakeBackendWithoutCommit(OWN), ALL) == []
        proposals.forget()
    assert counters["reordered-proposals"] == 2
    with pytest.raises(DaveError):
        proposals.take(backend, b"\x00", ALL)
    proposals.forget()
    assert proposals.retry(FakeBackendWithoutCommit(OWN), ALL) == []
    assert counters["reordered-proposals"] == 2
