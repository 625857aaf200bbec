"""The lite side: what it answers, and where it believes its peer to be."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from discord_rtc.ice.responder import LiteResponder
from discord_rtc.ice.stun import MessageClass, build_success, parse_stun

if TYPE_CHECKING:
    from discord_rtc.ice.credentials import IceCredentials

    from .conftest import CheckMaker

HOME = ("192.0.2.1", 5000)
AWAY = ("198.51.100.7", 6000)
INDICATION = 0x0011


@pytest.fixture
def responder(server: IceCredentials) -> LiteResponder:
    responder = LiteResponder(server)
    responder.set_remote("client")
    return responder


def test_before_any_check_nothing_is_known(
    responder: LiteResponder, server: IceCredentials
) -> None:
    assert responder.address is None
    assert responder.last_check is None
    assert responder.credentials is server
    assert responder.counters == {}


@pytest.mark.parametrize("source", [HOME, ("2001:db8::7", 6000)])
def test_a_check_is_answered_with_its_source_and_signed(
    responder: LiteResponder, check: CheckMaker, source: tuple[str, int]
) -> None:
    datagram = check(transaction=b"abcdefghijkl")
    answer = responder.receive_datagram(datagram, source, 12.0)
    assert answer is not None
    success = parse_stun(answer)
    assert success.message_class is MessageClass.SUCCESS
    assert success.transaction_id == b"abcdefghijkl"
    assert success.xor_mapped_address == source
    assert success.authentic("the+password/of+server")
    assert answer[-8:-4] == b"\x80\x28\0\4"  # FINGERPRINT comes last
    assert responder.address == source
    assert responder.last_check == 12.0
    assert responder.counters == {"stun-checks": 1}


def test_a_refused_check_moves_and_proves_nothing(
    responder: LiteResponder, check: CheckMaker
) -> None:
    for wrong in (
        check(password="password+of+the/client", nominate=True),
        check(username="serv:other", nominate=True),
        check(role=0x8029, nominate=True),
    ):
        answer = responder.receive_datagram(wrong, HOME, 1.0)
        assert answer is not None
        assert parse_stun(answer).message_class is MessageClass.ERROR
    assert responder.address is None
    assert responder.last_check is None
    assert responder.counters["stun-checks"] == 0


def test_regular_nomination_moves_once(responder: LiteResponder, check: CheckMaker) -> None:
    """As aioice and RFC 8445: plain checks first, then one pair is nominated."""
    responder.receive_datagram(check(), HOME, 1.0)
    responder.receive_datagram(check(), AWAY, 1.1)
    assert responder.address == HOME
    responder.receive_datagram(check(nominate=True), AWAY, 1.2)
    assert responder.address == AWAY
    responder.receive_datagram(check(), HOME, 1.3)
    assert responder.address == AWAY
    assert responder.last_check == 1.3
    assert responder.counters == {"stun-checks": 4, "stun-moved": 1}


def test_repeated_nomination_follows_the_latest(
    responder: LiteResponder, check: CheckMaker
) -> None:
    """As Chromium: it nominates with each check of the pair it uses, and may change its mind."""
    for source in (HOME, HOME, AWAY, AWAY, HOME):
        responder.receive_datagram(check(nominate=True), source, 1.0)
        assert responder.address == source
    assert responder.counters == {"stun-checks": 5, "stun-moved": 2}


def test_any_peer_before_its_description_is_known(
    server: IceCredentials, check: CheckMaker
) -> None:
    responder = LiteResponder(server)
    assert responder.receive_datagram(check(username="serv:early"), HOME, 1.0) is not None
    assert responder.address == HOME


def test_junk_and_what_is_no_request_get_no_answer(
    responder: LiteResponder, check: CheckMaker
) -> None:
    success = build_success(b"transaction!", HOME, "the+password/of+server")
    for datagram in (check(kind=INDICATION), check(kind=0x0003), success):
        assert responder.receive_datagram(datagram, HOME, 1.0) is None
    for datagram in (b"", check()[:-1], bytes(74)):
        assert responder.receive_datagram(datagram, HOME, 1.0) is None
    assert responder.counters == {"stun-unexpected": 3, "stun-malformed": 3}
    assert responder.address is None


def test_a_flood_of_forgeries_leaves_the_peer_alone(
    responder: LiteResponder, check: CheckMaker
) -> None:
    responder.receive_datagram(check(nominate=True), HOME, 0.0)
    forged = check(password="password+of+the/client", nominate=True)
    answers = [responder.receive_datagram(forged, AWAY, 1.0) for _ in range(500)]
    assert len([answer for answer in answers if answer]) == 10
    assert responder.address == HOME
    assert responder.receive_datagram(check(), HOME, 1.0) is not None
    assert responder.counters == {
        "stun-checks": 2,
        "stun-bad-integrity": 500,
        "stun-limited": 490,
    }


def test_counters_may_be_shared(server: IceCredentials, check: CheckMaker) -> None:
    counters: Counter[str] = Counter({"other": 1})
    LiteResponder(server, counters=counters).receive_datagram(check(), HOME, 1.0)
    assert counters == {"other": 1, "stun-checks": 1}
