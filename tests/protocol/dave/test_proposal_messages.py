"""Proposals one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.errors import DaveError
from discord_rtc.protocol.dave.davey import DaveyBackend
from discord_rtc.protocol.dave.proposal_messages import parse_appended, parse_revoked, vector

from .external import GROUP, ExternalSender, append, revoke

SENDER = ExternalSender()
PACKAGE = DaveyBackend(1, GROUP).begin(1)


def test_a_list_is_read_with_the_references_of_each() -> None:
    proposals = [SENDER.add(3, PACKAGE), SENDER.remove(3, 7), SENDER.add(3, PACKAGE)]
    found = parse_appended(append(*proposals))
    assert [each.message for each in found] == [proposal.message for proposal in proposals]
    assert [each.ref for each in found] == [proposal.ref for proposal in proposals]
    assert [each.adds for each in found] == [True, False, True]
    assert parse_appended(append()) == []


def test_a_revoke_is_read() -> None:
    refs = [bytes(32), b"r" * 32]
    assert parse_revoked(revoke(*refs)) == refs
    assert parse_revoked(revoke()) == []


@pytest.mark.parametrize("size", [0, 63, 64, 16383, 16384, 70000])
def test_a_vector_of_any_size_comes_back(size: int) -> None:
    assert parse_revoked(b"\1" + vector(vector(bytes(size)))) == [bytes(size)]


def test_a_proposal_of_another_kind_is_refused() -> None:
    message = SENDER.remove(3, 7).message.replace(b"\0\3\0\0\0\7", b"\0\2\0\0\0\7")
    with pytest.raises(DaveError, match="neither"):
        parse_appended(b"\0" + vector(message))


@given(st.binary(max_size=60), st.integers(0, 600))
def test_any_bytes_are_read_or_refused(noise: bytes, at: int) -> None:
    good = append(SENDER.add(3, PACKAGE))
    for payload in (noise, good[:at] + noise, good[:at] + noise + good[at + len(noise) :]):
        for parse in (parse_appended, parse_revoked):
            try:
                parse(payload)
            except DaveError:
                continue
