"""The controlling side: its checks, how they end, consent, and what a stranger can do to it."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest

from discord_rtc.errors import InvalidState
from discord_rtc.ice.agent import (
    MAX_OUTBOX,
    MAX_TRANSACTIONS,
    ConsentExpired,
    IceEvent,
    IceTimings,
    LiteAgent,
    PathFailed,
    PathValid,
)
from discord_rtc.ice.responder import LiteResponder
from discord_rtc.ice.stun import (
    MessageClass,
    StunMessage,
    build_error,
    build_success,
    parse_stun,
)

if TYPE_CHECKING:
    from discord_rtc.ice.credentials import IceCredentials

    from .conftest import CheckMaker

START = 100.0
OUR_ADDRESS = ("192.0.2.1", 5000)
THEIR_ADDRESS = ("203.0.113.9", 443)


class Counting:
    """Bytes that are never the same, and always the same in each run."""

    def __init__(self) -> None:
        self.taken = 0

    def __call__(self, length: int) -> bytes:
        self.taken += 1
        return self.taken.to_bytes(length, "big")


class Bench:
    """An agent under a manual clock, with what it sent and reported."""

    def __init__(
        self, client: IceCredentials, server: IceCredentials, timings: IceTimings | None = None
    ) -> None:
        self.server = server
        self.agent = LiteAgent(
            client, timings=timings or IceTimings(), random=Random(1), random_bytes=Counting()
        )
        self.now = START
        self.sent: list[tuple[float, StunMessage]] = []
        self.events: list[IceEvent] = []

    def start(self) -> None:
        self.agent.start(self.server, self.now, address=THEIR_ADDRESS)
        self.flush()

    def flush(self) -> None:
        self.sent += [
            (self.now - START, parse_stun(data)) for data in self.agent.datagrams_to_send()
        ]
        while (event := self.agent.next_event()) is not None:
            self.events.append(event)

    def receive(self, datagram: bytes, after: float = 0.0) -> None:
        self.now += after
        self.agent.receive_datagram(datagram, self.now)
        self.flush()

    def succeed(self, after: float = 0.0) -> None:
        """The server answers the latest check."""
        transaction = self.sent[-1][1].transaction_id
        self.receive(build_success(transaction, OUR_ADDRESS, self.server.password), after)

    def step(self) -> bool:
        """Go on to the next timeout; False when there is none."""
        due = self.agent.next_timeout()
        if due is None:
            return False
        assert due >= self.now
        self.now = due
        self.agent.handle_timeout(due)
        self.flush()
        return True

    def run(self) -> None:
        for _ in range(100):
            if not self.step():
                return
        raise AssertionError("no end")


@pytest.fixture
def bench(client: IceCredentials, server: IceCredentials) -> Bench:
    return Bench(client, server)


def test_nothing_happens_before_the_start(bench: Bench, check: CheckMaker) -> None:
    assert bench.agent.next_timeout() is None
    bench.agent.handle_timeout(START)
    bench.receive(check())
    assert (bench.sent, bench.events, bench.agent.rtt) == ([], [], None)
    assert bench.agent.counters == {"stun-unexpected": 1}


def test_it_is_started_once(bench: Bench) -> None:
    bench.start()
    with pytest.raises(InvalidState):
        bench.agent.start(bench.server, START)


def test_the_first_check_goes_out_at_once_and_nominates(bench: Bench) -> None:
    bench.start()
    [(when, request)] = bench.sent
    assert when == 0.0
    assert request.message_class is MessageClass.REQUEST
    assert request.username == "serv:client"
    assert request.use_candidate
    assert request.controlling == 1  # the first that was taken from the random source
    assert request.controlled is None
    assert request.priority == 0x6EFFFFFF  # RFC 8445 5.1.2.1, preference 110 as in 5.1.2.2
    assert request.authentic(bench.server.password)


def test_unanswered_checks_follow_the_schedule_until_the_deadline(bench: Bench) -> None:
    bench.start()
    bench.run()
    times = [round(when, 6) for when, _ in bench.sent]
    assert times == [0.0, 0.05, 0.15, 0.35, 0.75, 1.55, 2.55, 3.55]
    assert len({request.transaction_id for _, request in bench.sent}) == 8
    assert {request.controlling for _, request in bench.sent} == {1}
    assert bench.now == START + 4.5
    assert bench.events == [PathFailed("8 checks in 4.5 s brought no answer at all")]
    assert bench.agent.counters == {"stun-checks-sent": 8}


def test_a_late_wake_up_sends_one_check(bench: Bench) -> None:
    bench.start()
    bench.now = START + 1.0
    bench.agent.handle_timeout(bench.now)
    bench.flush()
    assert len(bench.sent) == 2
    assert bench.agent.next_timeout() == START + 1.55


def test_an_early_wake_up_does_nothing(bench: Bench) -> None:
    bench.start()
    bench.agent.handle_timeout(START + 0.01)
    bench.flush()
    assert len(bench.sent) == 1


def test_an_answer_makes_the_path_valid(bench: Bench) -> None:
    bench.start()
    bench.succeed(after=0.03125)
    assert bench.events == [PathValid(0.03125, OUR_ADDRESS)]
    assert bench.agent.rtt == 0.03125
    assert bench.agent.counters == {"stun-checks-sent": 1, "stun-answers": 1}
    due = bench.agent.next_timeout()
    assert due is not None  # no more checks but for consent
    assert 4.0 <= due - bench.now <= 6.0


def test_an_answer_to_an_older_check_tells_the_round_trip_of_that_check(bench: Bench) -> None:
    bench.start()
    first = bench.sent[0][1].transaction_id
    for _ in range(3):
        bench.step()
    bench.now = START + 0.375
    bench.receive(build_success(first, OUR_ADDRESS, bench.server.password))
    assert bench.events == [PathValid(0.375, OUR_ADDRESS)]
    bench.succeed()  # the last one was sent at 0.35
    assert bench.agent.rtt == pytest.approx(0.025)
    assert len(bench.events) == 1


def test_an_answer_counts_once(bench: Bench) -> None:
    bench.start()
    bench.succeed(after=0.03)
    rtt = bench.agent.rtt
    bench.succeed(after=10.0)
    assert bench.agent.rtt == rtt
    assert bench.agent.counters["stun-unexpected"] == 1


def test_an_answer_may_say_nothing_about_our_address(bench: Bench, check: CheckMaker) -> None:
    bench.start()
    bench.receive(
        check(
            kind=0x0101,
            username=None,
            role=None,
            transaction=bench.sent[0][1].transaction_id,
        )
    )
    assert bench.events == [PathValid(0.0, None)]


def test_an_error_does_not_end_the_attempt(bench: Bench) -> None:
    bench.start()
    transaction = bench.sent[0][1].transaction_id
    bench.receive(build_error(transaction, 401))
    bench.receive(build_error(transaction, 487, password=bench.server.password))
    assert bench.events == []
    bench.succeed()  # to the very check that the errors were about
    assert bench.events == [PathValid(0.0, OUR_ADDRESS)]
    assert bench.agent.counters["stun-errors"] == 2


def test_a_forged_answer_does_not_take_the_place_of_the_real_one(
    bench: Bench, client: IceCredentials
) -> None:
    bench.start()
    transaction = bench.sent[0][1].transaction_id
    bench.receive(build_success(transaction, THEIR_ADDRESS, client.password))
    assert bench.events == []
    bench.succeed()
    assert bench.events == [PathValid(0.0, OUR_ADDRESS)]
    assert bench.agent.counters["stun-forged"] == 1


def test_an_answer_to_nothing_that_was_asked_is_counted(bench: Bench, check: CheckMaker) -> None:
    bench.start()
    bench.receive(build_success(b"another one!", OUR_ADDRESS, bench.server.password))
    bench.receive(check(kind=0x0011, transaction=bench.sent[0][1].transaction_id))  # an indication
    bench.receive(check(kind=0x0103, transaction=bench.sent[0][1].transaction_id))  # of TURN
    assert bench.events == []
    assert bench.agent.counters["stun-unexpected"] == 3
    assert bench.agent.next_timeout() == START + 0.05


def answer_every_check(bench: Bench, *answers: str) -> str:
    """Run to the failure; each check gets each of these answers. Returns the reason."""
    bench.start()
    answered = 0
    while not bench.events:
        for _, request in bench.sent[answered:]:
            for answer in answers:
                if answer == "forged":
                    forged = build_success(request.transaction_id, OUR_ADDRESS, "x" * 22)
                    bench.agent.receive_datagram(forged, bench.now)
                else:
                    error = build_error(request.transaction_id, int(answer))
                    bench.agent.receive_datagram(error, bench.now)
        answered = len(bench.sent)
        bench.step()
    [failed] = bench.events
    assert isinstance(failed, PathFailed)
    return failed.reason


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (
            ["401"],
            "the server answered 401 to every check: "
            "the ICE user name or password is not the one it expects",
        ),
        (["500"], "the server answered 500 to every check: no cause is known"),
        (
            ["487"],
            "the server answered 487 to every check: it claims the controlling role for itself",
        ),
        (["401", "500"], "8 checks in 4.5 s brought error 401 (8 times), error 500 (8 times)"),
        (["forged"], "8 checks in 4.5 s brought answers that do not authenticate (8 times)"),
        (
            ["401", "forged"],
            "8 checks in 4.5 s brought error 401 (8 times), "
            "answers that do not authenticate (8 times)",
        ),
    ],
)
def test_the_reason_tells_what_was_seen(bench: Bench, answers: list[str], reason: str) -> None:
    assert answer_every_check(bench, *answers) == reason
    assert bench.now == START + 4.5  # none of it ended the attempt early


def test_the_reason_tells_when_only_some_checks_got_an_error(bench: Bench) -> None:
    bench.start()
    bench.receive(build_error(bench.sent[0][1].transaction_id, 400))
    bench.run()
    assert bench.events == [PathFailed("8 checks in 4.5 s brought error 400 (1 times)")]


def test_after_a_failure_it_does_nothing_any_more(bench: Bench, check: CheckMaker) -> None:
    bench.start()
    bench.run()
    bench.succeed()
    bench.receive(check(username="client:serv", password="password+of+the/client", role=0x8029))
    assert len(bench.events) == 1
    assert len(bench.sent) == 8
    assert bench.agent.next_timeout() is None
    assert bench.agent.counters == {"stun-checks-sent": 8, "stun-unexpected": 2}


def test_consent_is_asked_for_at_jittered_intervals(bench: Bench) -> None:
    bench.start()
    bench.succeed()
    gaps = []
    for _ in range(200):
        before = bench.now
        assert bench.step()
        gaps.append(bench.now - before)
        bench.succeed(after=0.02)
        assert bench.agent.rtt == pytest.approx(0.02)
    assert min(gaps[1:]) >= 4.0 - 0.02  # the answer came 0.02 after the check
    assert max(gaps) <= 6.0
    assert max(gaps) - min(gaps) > 1.5
    assert bench.events == [PathValid(0.0, OUR_ADDRESS)]
    assert all(request.use_candidate for _, request in bench.sent)
    assert len({request.transaction_id for _, request in bench.sent}) == 201


def test_consent_expires_once_30_s_after_the_last_answer(bench: Bench) -> None:
    bench.start()
    bench.succeed()
    bench.step()
    bench.succeed(after=0.5)
    last = bench.now
    asked = len(bench.sent)
    bench.run()
    assert bench.now == last + 30.0
    assert bench.events == [PathValid(0.0, OUR_ADDRESS), ConsentExpired()]
    # asked every 4 to 6 seconds, once each: consent checks are not retransmitted
    assert 4 <= len(bench.sent) - asked <= 7
    bench.succeed()
    bench.agent.handle_timeout(bench.now + 100.0)
    bench.flush()
    assert len(bench.events) == 2
    assert bench.agent.next_timeout() is None


def test_an_error_or_a_forgery_is_no_consent(bench: Bench) -> None:
    bench.start()
    bench.succeed()
    while len(bench.events) == 1:
        bench.step()
        transaction = bench.sent[-1][1].transaction_id
        bench.receive(build_error(transaction, 401))
        bench.receive(build_success(transaction, OUR_ADDRESS, "x" * 22))
    assert bench.events[-1] == ConsentExpired()
    assert bench.now == START + 30.0


def test_a_lossy_path_keeps_its_consent(bench: Bench) -> None:
    bench.start()
    bench.succeed()
    random = Random(2)
    for _ in range(300):  # 25 minutes
        assert bench.step()
        if random.random() > 0.1:  # 5 % loss each way
            bench.succeed(after=0.05)
    assert bench.events == [PathValid(0.0, OUR_ADDRESS)]


def test_timings_can_be_shortened(client: IceCredentials, server: IceCredentials) -> None:
    timings = IceTimings(
        schedule=(0.0, 0.01),
        deadline=0.1,
        consent_interval=0.05,
        consent_jitter=0.0,
        consent_timeout=0.12,
    )
    bench = Bench(client, server, timings)
    bench.start()
    bench.run()
    assert bench.events == [PathFailed("2 checks in 0.1 s brought no answer at all")]
    bench = Bench(client, server, timings)
    bench.start()
    bench.succeed()
    bench.run()
    assert [round(when, 6) for when, _ in bench.sent] == [0.0, 0.05, 0.1]
    assert bench.events[-1] == ConsentExpired()


def test_the_checks_of_a_full_peer_are_answered(bench: Bench, check: CheckMaker) -> None:
    bench.start()
    bench.sent.clear()
    password = "password+of+the/client"
    bench.receive(check(username="client:serv", password=password, role=0x8029))
    [(_, answer)] = bench.sent
    assert answer.message_class is MessageClass.SUCCESS
    assert answer.transaction_id == b"transaction!"
    assert answer.xor_mapped_address == THEIR_ADDRESS
    assert answer.authentic(password)
    bench.sent.clear()
    bench.receive(check(username="client:serv", password=password, role=0x802A))
    bench.receive(check(username="client:serv", password=bench.server.password, role=0x8029))
    bench.receive(check(username="client:other", password=password, role=0x8029))
    assert [answer.error_code for _, answer in bench.sent] == [487, 401, 401]
    assert bench.events == []  # a check of the peer says nothing about our own
    assert bench.agent.counters == {
        "stun-checks-sent": 1,
        "stun-checks": 1,
        "stun-role-conflict": 1,
        "stun-bad-integrity": 1,
        "stun-wrong-username": 1,
    }


def test_without_the_address_of_the_peer_its_checks_are_not_answered(
    client: IceCredentials, server: IceCredentials, check: CheckMaker
) -> None:
    agent = LiteAgent(client)
    agent.start(server, START)
    agent.datagrams_to_send()
    datagram = check(username="client:serv", password="password+of+the/client", role=0x8029)
    agent.receive_datagram(datagram, START)
    assert agent.datagrams_to_send() == []
    assert agent.counters["stun-unexpected"] == 1


def test_junk_is_counted(bench: Bench) -> None:
    bench.start()
    for junk in (b"", b"\0" * 74, bytes.fromhex("000100002112a442") + bytes(11)):
        bench.receive(junk)
    assert bench.agent.counters == {"stun-checks-sent": 1, "stun-malformed": 3}
    assert bench.events == []


def test_a_flood_of_wrong_checks_is_answered_in_part(bench: Bench, check: CheckMaker) -> None:
    bench.start()
    bench.sent.clear()
    for _ in range(100):
        bench.receive(check(username="client:serv", role=0x8029))
    assert len(bench.sent) == 10
    assert bench.agent.counters["stun-limited"] == 90


def test_datagrams_that_nobody_fetches_do_not_pile_up(bench: Bench, check: CheckMaker) -> None:
    bench.start()
    datagram = check(username="client:serv", password="password+of+the/client", role=0x8029)
    for _ in range(MAX_OUTBOX + 5):
        bench.agent.receive_datagram(datagram, bench.now)
    assert len(bench.agent.datagrams_to_send()) == MAX_OUTBOX
    assert bench.agent.counters["stun-unsent"] == 5


def test_unanswered_transactions_do_not_pile_up(
    client: IceCredentials, server: IceCredentials
) -> None:
    checks = MAX_TRANSACTIONS + 1
    bench = Bench(client, server, IceTimings(schedule=tuple(n / 1000 for n in range(checks))))
    bench.start()
    while len(bench.sent) < checks:
        bench.step()
    for (_, request), expected in ((bench.sent[0], 0), (bench.sent[1], 1)):
        answer = build_success(request.transaction_id, OUR_ADDRESS, server.password)
        bench.receive(answer)
        assert bench.agent.counters["stun-answers"] == expected
    assert bench.agent.counters["stun-unexpected"] == 1


def test_without_a_source_of_chance_it_brings_its_own(
    client: IceCredentials, server: IceCredentials
) -> None:
    requests = []
    for _ in range(2):
        agent = LiteAgent(client)
        agent.start(server, START)
        requests += [parse_stun(datagram) for datagram in agent.datagrams_to_send()]
    first, second = requests
    assert first.transaction_id != second.transaction_id
    assert first.controlling != second.controlling


def test_agent_and_responder_find_each_other(
    bench: Bench, client: IceCredentials, server: IceCredentials
) -> None:
    responder = LiteResponder(server, counters=Counter())
    responder.set_remote(client.ufrag)
    agent = bench.agent
    agent.start(server, START)
    [datagram] = agent.datagrams_to_send()
    answer = responder.receive_datagram(datagram, OUR_ADDRESS, START)
    assert answer is not None
    agent.receive_datagram(answer, START + 0.125)
    assert agent.next_event() == PathValid(0.125, OUR_ADDRESS)
    assert responder.address == OUR_ADDRESS
