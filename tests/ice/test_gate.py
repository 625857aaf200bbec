"""Who is let in, what the others are told, and how often."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from discord_rtc.ice.gate import ERRORS_PER_SECOND, Refusal, RequestGate
from discord_rtc.ice.stun import MessageClass, StunMessage, parse_stun

if TYPE_CHECKING:
    from discord_rtc.ice.credentials import IceCredentials

    from .conftest import CheckMaker

UNKNOWN = bytes.fromhex("7fff0000")  # an attribute that must be understood, and is not
CONTROLLED, CONTROLLING = 0x8029, 0x802A


class Doorway:
    """A gate that knows its peer, and what it counted."""

    def __init__(self, credentials: IceCredentials, *, controlling: bool = False) -> None:
        self.counters: Counter[str] = Counter()
        self.gate = RequestGate(credentials, self.counters, controlling=controlling)
        self.gate.set_remote("client")
        self.password = credentials.password

    def judge(self, datagram: bytes) -> Refusal | None:
        return self.gate.refusal(parse_stun(datagram))

    def answer(self, datagram: bytes, now: float = 0.0) -> StunMessage | None:
        request = parse_stun(datagram)
        refusal = self.gate.refusal(request)
        assert refusal is not None
        answer = self.gate.refuse(request, refusal, now)
        return None if answer is None else parse_stun(answer)


@pytest.fixture
def door(server: IceCredentials) -> Doorway:
    return Doorway(server)


def test_a_good_check_is_let_in(door: Doorway, check: CheckMaker) -> None:
    assert door.judge(check()) is None
    assert door.counters == {}


def test_missing_credentials_are_an_incomplete_request(door: Doorway, check: CheckMaker) -> None:
    for datagram in (check(password=None), check(username=None), check(username=None, role=None)):
        answer = door.answer(datagram)
        assert answer is not None
        assert answer.error_code == 400
        assert answer.signed is None
    assert door.counters == {"stun-incomplete": 3}


@pytest.mark.parametrize(
    "username",
    ["serv", "client:serv", "serv:other", "other:client", "", ":", "serv:", "serv:client:"],
)
def test_a_name_of_somebody_else_is_unauthenticated(
    door: Doorway, check: CheckMaker, username: str
) -> None:
    answer = door.answer(check(username=username))
    assert answer is not None
    assert answer.error_code == 401
    assert answer.signed is None
    assert door.counters == {"stun-wrong-username": 1}


def test_a_wrong_password_is_unauthenticated(door: Doorway, check: CheckMaker) -> None:
    answer = door.answer(check(password="password+of+the/client"))
    assert answer is not None
    assert answer.message_class is MessageClass.ERROR
    assert answer.transaction_id == parse_stun(check()).transaction_id
    assert answer.error_code == 401
    assert answer.signed is None
    assert door.counters == {"stun-bad-integrity": 1}


def test_before_the_peer_is_known_its_half_of_the_name_may_be_anything(
    server: IceCredentials, check: CheckMaker
) -> None:
    gate = RequestGate(server, Counter(), controlling=False)
    assert gate.refusal(parse_stun(check(username="serv:whoever"))) is None
    assert gate.refusal(parse_stun(check(username="serv"))) is Refusal.WRONG_USERNAME
    gate.set_remote("client")
    assert gate.refusal(parse_stun(check(username="serv:whoever"))) is Refusal.WRONG_USERNAME


def test_an_attribute_that_must_be_understood_is_named_in_a_signed_error(
    door: Doorway, check: CheckMaker
) -> None:
    answer = door.answer(check(extra=UNKNOWN))
    assert answer is not None
    assert answer.error_code == 420
    assert answer.authentic(door.password)
    assert answer.attributes[0x000A] == b"\x7f\xff"
    assert door.counters == {"stun-unknown-attribute": 1}


def test_strangers_learn_nothing_about_attributes(door: Doorway, check: CheckMaker) -> None:
    answer = door.answer(check(extra=UNKNOWN, password="password+of+the/client"))
    assert answer is not None
    assert answer.error_code == 401
    assert 0x000A not in answer.attributes


@pytest.mark.parametrize("role", [CONTROLLED, None])
def test_a_controlled_side_wants_its_peer_to_control(
    door: Doorway, check: CheckMaker, role: int | None
) -> None:
    answer = door.answer(check(role=role))
    assert answer is not None
    assert answer.error_code == 487
    assert answer.authentic(door.password)
    assert door.counters == {"stun-role-conflict": 1}


def test_a_controlling_side_wants_its_peer_to_be_controlled(
    server: IceCredentials, check: CheckMaker
) -> None:
    door = Doorway(server, controlling=True)
    assert door.judge(check(role=CONTROLLED)) is None
    assert door.judge(check(role=CONTROLLING)) is Refusal.ROLE_CONFLICT
    assert door.judge(check(role=None)) is Refusal.ROLE_CONFLICT


def test_a_flood_is_answered_in_part_and_counted_in_full(door: Doorway, check: CheckMaker) -> None:
    wrong = check(password="password+of+the/client")
    answers = [door.answer(wrong, now=step / 1000) for step in range(1000)]
    assert len([answer for answer in answers if answer]) == ERRORS_PER_SECOND
    assert door.counters["stun-bad-integrity"] == 1000
    assert door.counters["stun-limited"] == 1000 - ERRORS_PER_SECOND
    assert door.judge(check()) is None  # the good ones are let in all the time
    assert door.answer(wrong, now=1.0) is not None  # and the next second is a new one
