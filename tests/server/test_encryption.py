"""Which calls are encrypted, why not, and who is spared what it could not read."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import pytest

from discord_rtc.errors import UsageError
from discord_rtc.protocol.messages import (
    ExecuteTransition,
    MlsAnnounceCommit,
    MlsCommitWelcome,
    MlsExternalSender,
    MlsKeyPackage,
    MlsProposals,
    MlsWelcome,
    PrepareEpoch,
    PrepareTransition,
    TransitionReady,
)
from discord_rtc.server.dave_faults import DaveFaults
from discord_rtc.server.dave_transitions import READY_TIMEOUT
from discord_rtc.server.encryption import (
    BROWSER,
    CATCHING_UP_TIME,
    REQUIRED,
    SETTLING_TIME,
    STAGE,
    DaveClient,
    E2eeInfo,
    EncryptionPolicy,
)

from .dave_clients import GROUP, Davey, Libdave

if TYPE_CHECKING:
    from discord_rtc.protocol.messages import ServerMessage
    from discord_rtc.server.encryption import CallEncryption

    from .dave_clients import Library

ANN, BOB, EVE, FAY = 1, 2, 3, 4
ABLE, UNABLE, PAGE = DaveClient(1), DaveClient(0), DaveClient(0, browser=True)


def encryption(mode: str = "optional") -> CallEncryption:
    return EncryptionPolicy(mode).begin(GROUP)


def opcodes(call: CallEncryption, user_id: int) -> list[int]:
    """Of what a user is sent now."""
    return [int(message.opcode) for to, message in call.messages_to_send() if to == user_id]


class Pair:
    """Ann with davey and Bob with dave.py, in one group."""

    def __init__(self, policy: EncryptionPolicy | None = None) -> None:
        self.call = (policy or EncryptionPolicy("optional")).begin(GROUP)
        self.now = 100.0
        self.libraries: dict[int, Library] = {ANN: Davey(ANN), BOB: Libdave(BOB)}
        self.executed: deque[int] = deque()
        for user_id, library in self.libraries.items():
            package = library.begin()
            library.external_sender(self.greeting)
            self.call.join(user_id, ABLE, self.now)
            self.call.receive(user_id, MlsKeyPackage(package), self.now)
        self.settle()

    @property
    def greeting(self) -> bytes:
        greeting = self.call.greeting_for(ABLE)
        assert greeting is not None
        return greeting.payload

    def settle(self, *, answer: bool = True) -> None:
        """Let both clients answer until nothing more comes."""
        while messages := self.call.messages_to_send():
            for user_id, message in messages:
                if user_id in self.libraries:
                    self._take(user_id, message, answer=answer)

    def _take(self, user_id: int, message: ServerMessage, *, answer: bool) -> None:
        library = self.libraries[user_id]
        ready: int | None = None
        match message:
            case MlsProposals(payload):
                made = library.proposals(payload, set(self.libraries))
                if made is not None:
                    self.call.receive(user_id, MlsCommitWelcome(made), self.now)
            case MlsAnnounceCommit(ready, commit):
                library.commit(commit)
            case MlsWelcome(ready, welcome):
                library.welcome(welcome, set(self.libraries))
            case PrepareTransition(_, ready):
                pass
            case PrepareEpoch():
                self.call.receive(user_id, MlsKeyPackage(library.begin()), self.now)
            case ExecuteTransition(transition_id):
                self.executed.append(transition_id)
        if ready and answer:
            self.call.receive(user_id, TransitionReady(ready), self.now)


@pytest.mark.parametrize("mode", ["", "on", "Required", "preferred"])
def test_there_are_three_modes(mode: str) -> None:
    with pytest.raises(UsageError, match=f"one of required, optional, off, not '{mode}'"):
        EncryptionPolicy(mode)


def test_where_it_is_required_clients_without_it_are_refused() -> None:
    policy = EncryptionPolicy("required", {30})
    assert policy.refuse(20, 0) is REQUIRED
    assert (REQUIRED.code, REQUIRED.reason) == (4017, "E2EE/DAVE protocol required")
    assert policy.refuse(20, 1) is None
    assert policy.refuse(30, 0) is None


@pytest.mark.parametrize("mode", ["optional", "off"])
def test_else_nobody_is(mode: str) -> None:
    assert EncryptionPolicy(mode).refuse(20, 0) is None


@pytest.mark.parametrize(
    ("mode", "channel_id", "supported", "version"),
    [
        ("required", 20, 1, 1),
        ("required", 20, 7, 1),
        ("optional", 20, 1, 1),
        ("optional", 20, 0, 0),
        ("optional", 30, 1, 0),
        ("required", 30, 1, 0),
        ("off", 20, 1, 0),
    ],
)
def test_what_the_first_client_is_told(
    mode: str, channel_id: int, supported: int, version: int
) -> None:
    policy = EncryptionPolicy(mode, {30})
    assert policy.version_for(channel_id, supported) == version
    call = policy.begin(channel_id)
    assert call.version_for(supported) == version
    assert (call.greeting_for(DaveClient(supported)) is None) is (version == 0)


def test_all_calls_of_a_server_have_one_external_sender() -> None:
    policy = EncryptionPolicy("required")
    greetings = {policy.begin(channel_id).greeting_for(ABLE) for channel_id in (20, 21)}
    assert len(greetings) == 1
    assert greetings != {encryption("required").greeting_for(ABLE)}


def test_a_server_without_encryption_says_nothing_about_it() -> None:
    call = encryption("off")
    call.join(ANN, ABLE, 0.0)
    call.set_away(ANN, 0.0, away=True)
    assert call.info == E2eeInfo("off", None)
    call.leave(ANN, 0.0)
    assert call.messages_to_send() == []
    assert call.next_timeout() is None
    call.handle_timeout(0.0)


def test_a_stage_says_why_and_counts_what_is_sent_in_vain() -> None:
    policy = EncryptionPolicy("required", {30})
    call = policy.begin(30)
    call.join(ANN, ABLE, 0.0)
    call.receive(ANN, MlsKeyPackage(b""), 0.0)
    assert call.info == E2eeInfo("off", STAGE)
    assert policy.counters == {"not-encrypted": 1}


def test_channels_may_become_stages_for_the_next_call() -> None:
    stages: set[int] = set()
    policy = EncryptionPolicy("required", stages)
    running = policy.begin(GROUP)
    stages.add(GROUP)
    assert policy.begin(GROUP).info.reason == STAGE
    assert running.version_for(1) == 1


def test_somebody_alone_waits_for_a_group() -> None:
    call = encryption()
    call.join(ANN, ABLE, 0.0)
    assert call.info == E2eeInfo("pending")


def test_two_are_a_group() -> None:
    pair = Pair()
    assert pair.call.info == E2eeInfo("active", None, 1, frozenset({ANN, BOB}))
    pair.call.leave(BOB, pair.now)
    assert pair.call.info == E2eeInfo("pending")


@pytest.mark.parametrize(
    ("clients", "reason"),
    [
        ({EVE: UNABLE}, "user 3 does not support it"),
        ({EVE: PAGE}, BROWSER),
        ({EVE: UNABLE, FAY: PAGE}, BROWSER),
        ({EVE: UNABLE, FAY: UNABLE}, "users 3 and 4 do not support it"),
        ({EVE: UNABLE, FAY: UNABLE, 5: UNABLE}, "users 3, 4 and 5 do not support it"),
        ({EVE: UNABLE, FAY: DaveClient(1, browser=True)}, "user 3 does not support it"),
    ],
)
def test_it_says_who_cannot_do_it(clients: dict[int, DaveClient], reason: str) -> None:
    call = encryption()
    for user_id, client in clients.items():
        call.join(user_id, client, 0.0)
    assert call.info == E2eeInfo("off", reason)


def test_a_reason_goes_with_its_user() -> None:
    call = encryption()
    for user_id, client in {ANN: ABLE, EVE: UNABLE, FAY: PAGE}.items():
        call.join(user_id, client, 0.0)
    assert opcodes(call, ANN) == [21]
    call.receive(ANN, TransitionReady(1), 0.0)
    assert call.info.reason == BROWSER
    call.leave(FAY, 0.0)
    assert call.info.reason == "user 3 does not support it"
    call.leave(EVE, 0.0)
    assert call.info == E2eeInfo("pending")


def test_nothing_is_forwarded_to_a_newcomer_before_the_others_stopped_to_encrypt() -> None:
    pair = Pair()
    pair.call.join(EVE, PAGE, pair.now)
    assert pair.call.withheld == {EVE}
    assert pair.call.info.state == "pending"
    pair.settle()
    assert len(pair.executed) == 2
    assert pair.call.info == E2eeInfo("off", BROWSER)
    # What is under way arrives within the settling time.
    assert pair.call.withheld == {EVE}
    due = pair.call.next_timeout()
    assert due == pair.now + SETTLING_TIME
    pair.call.handle_timeout(due - 0.01)
    assert pair.call.withheld == {EVE}
    pair.call.handle_timeout(due)
    assert pair.call.withheld == frozenset()


def run_until_given(pair: Pair, user_id: int) -> float:
    """Let time pass until a user is sent media; when that was."""
    while user_id in pair.call.withheld:
        due = pair.call.next_timeout()
        assert due is not None
        pair.now = due
        pair.call.handle_timeout(due)
        pair.settle(answer=False)
    return pair.now


def test_media_is_withheld_until_a_transition_that_is_late_is_over() -> None:
    pair = Pair(EncryptionPolicy("optional", faults=(faults := DaveFaults())))
    faults.delay_execute(5.0)
    pair.call.join(EVE, PAGE, pair.now)
    pair.settle()
    assert run_until_given(pair, EVE) == 105.0 + SETTLING_TIME
    assert len(pair.executed) == 2


def test_media_is_withheld_while_the_downgrade_waits_for_another_transition() -> None:
    pair = Pair()
    pair.libraries[EVE] = Davey(EVE)
    package = pair.libraries[EVE].begin()
    pair.libraries[EVE].external_sender(pair.greeting)
    pair.call.join(EVE, ABLE, pair.now)
    pair.call.receive(EVE, MlsKeyPackage(package), pair.now)
    pair.settle(answer=False)
    pair.call.receive(ANN, TransitionReady(1), pair.now)  # who answers is waited for again
    pair.call.join(FAY, PAGE, pair.now)
    assert run_until_given(pair, FAY) == 100.0 + 2 * READY_TIMEOUT + SETTLING_TIME
    assert pair.call.info == E2eeInfo("off", BROWSER)


def test_who_comes_into_a_downgrade_is_spared_as_well_whatever_he_supports() -> None:
    pair = Pair()
    pair.call.join(EVE, PAGE, pair.now)
    assert pair.call.version_for(1) == 0
    pair.call.join(FAY, ABLE, pair.now)
    assert pair.call.withheld == {EVE, FAY}
    pair.settle()
    pair.call.join(5, UNABLE, pair.now)
    assert pair.call.withheld == {EVE, FAY, 5}  # the last encrypted packets are under way
    assert run_until_given(pair, FAY) == 100.0 + SETTLING_TIME
    assert pair.call.withheld == frozenset()


def test_who_came_into_a_downgrade_that_was_for_nothing_is_not_forgotten() -> None:
    pair = Pair()
    pair.call.join(EVE, PAGE, pair.now)
    pair.call.join(FAY, ABLE, pair.now)
    pair.call.leave(EVE, pair.now)
    assert pair.call.withheld == {FAY}
    pair.settle()  # off, and at once on again
    assert run_until_given(pair, FAY) == 100.0 + SETTLING_TIME


def test_a_transition_that_nobody_confirms_takes_two_seconds() -> None:
    pair = Pair()
    pair.call.join(EVE, PAGE, pair.now)
    pair.settle(answer=False)
    assert run_until_given(pair, EVE) == 100.0 + READY_TIMEOUT + SETTLING_TIME
    assert pair.call.info.state == "off"


@pytest.mark.parametrize(("answer", "after"), [(True, SETTLING_TIME), (False, CATCHING_UP_TIME)])
def test_who_goes_on_encrypting_while_away_is_not_heard_before_he_is_back(
    answer: bool, after: float
) -> None:
    pair = Pair()
    pair.call.set_away(ANN, pair.now, away=True)
    pair.call.join(EVE, PAGE, pair.now)
    assert pair.call.silenced == frozenset()
    pair.call.receive(BOB, TransitionReady(1), pair.now)
    assert pair.call.info.state == "off"
    assert pair.call.silenced == {ANN}
    pair.call.handle_timeout(pair.now + 20.0)
    assert pair.call.next_timeout() is None
    for _ in range(2):
        pair.call.set_away(ANN, 120.0, away=False)
        assert pair.call.silenced == {ANN}
        assert pair.call.next_timeout() == 120.0 + CATCHING_UP_TIME
        pair.call.set_away(ANN, 120.0, away=True)
        assert pair.call.next_timeout() is None
    pair.call.set_away(ANN, 120.0, away=False)
    if answer:
        pair.call.receive(ANN, TransitionReady(1), 120.0)
    assert pair.call.next_timeout() == 120.0 + after
    pair.call.handle_timeout(120.0 + after)
    assert pair.call.silenced == frozenset()


def test_who_is_away_without_ever_encrypting_is_heard() -> None:
    pair = Pair()
    pair.call.join(EVE, PAGE, pair.now)
    pair.call.set_away(EVE, pair.now, away=True)
    pair.settle()
    assert pair.call.silenced == frozenset()


@pytest.mark.parametrize("end", ["leaves", "upgrade"])
def test_silence_does_not_outlive_its_reason(end: str) -> None:
    pair = Pair()
    pair.call.join(EVE, PAGE, pair.now)
    pair.call.set_away(ANN, pair.now, away=True)
    pair.settle()
    assert pair.call.silenced == {ANN}
    pair.call.leave(ANN if end == "leaves" else EVE, pair.now)
    assert pair.call.silenced == frozenset()


def test_where_nobody_encrypts_nothing_is_withheld() -> None:
    call = encryption()
    call.join(EVE, PAGE, 0.0)
    call.join(FAY, UNABLE, 0.0)
    call.join(ANN, ABLE, 0.0)
    assert call.withheld == frozenset()
    assert call.next_timeout() is None


def test_a_newcomer_who_leaves_at_once_is_forgotten() -> None:
    pair = Pair()
    pair.call.join(EVE, PAGE, pair.now)
    pair.call.leave(EVE, pair.now)
    assert pair.call.withheld == frozenset()
    pair.settle()
    pair.call.handle_timeout(pair.now + 10)
    pair.settle()
    assert pair.call.info.state == "active"


def test_who_could_encrypt_but_was_told_not_to_gets_op_25_with_the_upgrade() -> None:
    call = encryption()
    call.join(EVE, PAGE, 0.0)
    assert call.greeting_for(ABLE) is None
    call.join(ANN, ABLE, 0.0)
    assert opcodes(call, ANN) == []
    call.leave(EVE, 1.0)
    assert set(opcodes(call, ANN)) == {24, 25}


def test_who_is_away_is_not_waited_for() -> None:
    pair = Pair()
    pair.call.set_away(ANN, pair.now, away=True)
    pair.call.join(EVE, PAGE, pair.now)
    pair.call.messages_to_send()
    pair.call.receive(BOB, TransitionReady(1), pair.now)
    assert pair.call.info.state == "off"
    assert opcodes(pair.call, ANN) == [22]


def test_the_greeting_is_the_senders_payload() -> None:
    greeting = encryption().greeting_for(ABLE)
    assert isinstance(greeting, MlsExternalSender)
    assert len(greeting.payload) == 74  # field notes, section 7: with an identity of 4 bytes
