"""Whatever the server says and in whatever order, no frame slips out in the clear above version 0.

Property (9) of the conventions: for any interleaving of ops 4, 11, 13, 21 to 31 and time, frames
are sent in the clear at version 0 or encrypted, a deadline exists whenever something is open,
what is sent is bounded, and nothing raises. First over a fake group, whose messages can be
forged, then in whole calls over the real libraries.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from discord_rtc.frames import OPUS_SILENCE, Codec, MediaKind
from discord_rtc.protocol.dave.choose import make_backend
from discord_rtc.protocol.dave.events import Sending, SendingChanged, StateChanged
from discord_rtc.protocol.dave.frame import is_encrypted
from discord_rtc.protocol.messages import (
    ClientDisconnect,
    ClientsConnect,
    ExecuteTransition,
    InvalidCommitWelcome,
    MlsAnnounceCommit,
    MlsCommitWelcome,
    MlsExternalSender,
    MlsKeyPackage,
    MlsProposals,
    MlsWelcome,
    PrepareEpoch,
    PrepareTransition,
    ServerMessage,
    TransitionReady,
)

from ..protocol.dave.bench import ANN, BOB, OWN, Bench, described
from ..protocol.dave.fake_call import Call
from ..protocol.dave.fake_group import (
    FakeBackend,
    FakeWire,
    MlsWire,
    append,
    form,
    proposal,
    split,
    welcome_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.protocol.dave.backend import DaveBackend, DaveLibrary

versions = st.sampled_from([0, 1, 1, 2])
transitions = st.sampled_from([0, 1, 2, 3, 0xFFFF])
times = st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0, 1.9, 2.6, 11.0])


def a_stray_frame() -> bytes:
    form(other := FakeBackend(ANN), FakeBackend(BOB))
    return other.encrypt(b"stray", Codec.OPUS)


STRAY = a_stray_frame()


class DaveMachine(RuleBasedStateMachine):
    """A server that says anything, true or false, in any order."""

    @initialize(follows=st.booleans(), required=st.booleans())
    def begin(self, follows: bool, required: bool) -> None:
        self.required = required
        self.bench = Bench(follows=follows, required=required)
        self.session = self.bench.session
        self.now = 100.0
        self.package = ""
        self.made = b""
        self.serial = 0
        self.recoveries: list[float] = []
        self.told_sending = self.session.sending
        self.told_state = self.session.state
        self.ready_at: float | None = None

    def say(self, message: ServerMessage) -> None:
        self.session.receive(message, self.now)
        self.read()

    def read(self) -> None:
        sent = self.session.messages_to_send()
        assert len(sent) <= 6 + 64 * 3  # one answer or three, and for each early message
        for message in sent:
            if isinstance(message, MlsKeyPackage):
                self.package = message.payload.decode()
            elif isinstance(message, MlsCommitWelcome):
                self.made = split(message.payload)[0]
            elif isinstance(message, InvalidCommitWelcome):
                self.recoveries.append(self.now)
            elif isinstance(message, TransitionReady):
                assert message.transition_id != 0
        for event in iter(self.session.next_event, None):
            if isinstance(event, SendingChanged):
                self.told_sending = event.sending
            elif isinstance(event, StateChanged):
                self.told_state = event.state

    @property
    def backend(self) -> FakeBackend:
        return self.bench.made[-1] if self.bench.made else FakeBackend(OWN)

    @rule(version=versions)
    def describe(self, version: int) -> None:
        self.say(described(version))

    @rule(payload=st.sampled_from([b"the server", b"the server", b"the other", b"garbage"]))
    def name_the_external_sender(self, payload: bytes) -> None:
        self.say(MlsExternalSender(payload))

    @rule(user=st.sampled_from([OWN, ANN, BOB]))
    def somebody_comes(self, user: int) -> None:
        self.say(ClientsConnect((user,)))

    @rule(user=st.sampled_from([OWN, ANN, BOB]))
    def somebody_goes(self, user: int) -> None:
        self.say(ClientDisconnect(user))

    @rule(version=versions, transition_id=transitions)
    def prepare_a_transition(self, version: int, transition_id: int) -> None:
        self.say(PrepareTransition(version, transition_id))

    @rule(transition_id=transitions)
    def execute_a_transition(self, transition_id: int) -> None:
        self.say(ExecuteTransition(transition_id))

    @rule(version=versions, epoch=st.integers(1, 3))
    def prepare_an_epoch(self, version: int, epoch: int) -> None:
        self.say(PrepareEpoch(version, epoch))

    @rule(user=st.sampled_from([ANN, BOB]), ahead=st.sampled_from([0, 0, 0, 1]))
    def propose(self, user: int, ahead: int) -> None:
        self.serial += 1
        package = f"{user}:{self.serial}".encode()
        self.say(MlsProposals(append(proposal(self.backend.epoch + ahead, add=package))))

    @rule(transition_id=transitions)
    def announce_our_commit(self, transition_id: int) -> None:
        self.say(MlsAnnounceCommit(transition_id, self.made))

    @rule(transition_id=transitions, members=st.sampled_from([(OWN, ANN), (OWN, ANN, BOB)]))
    def welcome_us(self, transition_id: int, members: tuple[int, ...]) -> None:
        self.serial += 1
        leaves = dict(enumerate(members))
        payload = welcome_of(leaves, f"secret {self.serial}", 1, [self.package])
        self.say(MlsWelcome(transition_id, payload))

    @rule(transition_id=transitions, payload=st.sampled_from([b"", b"garbage", b"{}", b"[]"]))
    def say_nonsense(self, transition_id: int, payload: bytes) -> None:
        self.say(MlsProposals(b"\x00" + payload))
        self.say(MlsAnnounceCommit(transition_id, payload))
        self.say(MlsWelcome(transition_id, payload))

    @rule(seconds=times)
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(100):
            deadline = self.session.next_timeout()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.session.handle_timeout(self.now)
            self.read()
        else:
            pytest.fail("the timer spins")
        self.now = end

    @rule(frame=st.sampled_from([STRAY, b"plain", OPUS_SILENCE]), times=st.sampled_from([1, 40]))
    def hear(self, frame: bytes, times: int) -> None:
        for _ in range(times):
            self.session.decrypt(ANN, MediaKind.AUDIO, frame, self.now)
            self.now += 0.03
            self.session.handle_timeout(self.now)
            self.read()

    @rule(frame=st.sampled_from([b"ours", b"", OPUS_SILENCE]))
    def send(self, frame: bytes) -> None:
        encrypted = self.session.encrypt(frame, Codec.OPUS, self.now)
        if self.session.sending is not Sending.ENCRYPT:
            assert encrypted is None
        elif frame:
            assert encrypted is not None
            assert is_encrypted(encrypted)

    @invariant()
    def clear_is_for_version_0_only(self) -> None:
        session = self.session
        if session.sending is Sending.CLEAR:
            assert session.version == 0
            assert session.state == "off"
            assert not self.required
        if session.version > 0:
            assert session.state != "off"

    @invariant()
    def what_is_told_is_what_is(self) -> None:
        session = self.session
        assert self.told_sending is session.sending
        assert self.told_state == session.state
        assert (session.privacy_code is not None) == (session.state == "active")
        assert session.state != "active" or session.sending in {Sending.ENCRYPT, Sending.HOLD}

    @invariant()
    def what_is_held_ends(self) -> None:
        deadline = self.session.next_timeout()
        if self.session.sending is Sending.HOLD:
            assert deadline is not None
            assert deadline <= self.now + 2.0

    @invariant()
    def recoveries_are_rare(self) -> None:
        pauses = [b - a for a, b in zip(self.recoveries, self.recoveries[1:], strict=False)]
        assert all(pause >= 0.499 for pause in pauses)


TestDave = DaveMachine.TestCase
TestDave.settings = settings(max_examples=200, stateful_step_count=40)


GROUP = 5
KINDS: list[tuple[str, ...]] = [("fake", "fake-davey"), ("dave.py", "davey")]
LIBRARIES: dict[str, DaveLibrary] = {"dave.py": "dave.py", "davey": "davey"}
DONE = (
    "join", "join", "join", "leave", "downgrade", "upgrade", "lose", "delay", "corrupt", "wait"
)  # fmt: skip


stories = st.lists(st.sampled_from(DONE), min_size=8, max_size=20)
seeds = st.integers(0, 1 << 32)


def maker(kind: str, user: int) -> Callable[[], DaveBackend]:
    if kind in LIBRARIES:
        return lambda: make_backend(user, GROUP, library=LIBRARIES[kind])
    return lambda: FakeBackend(user, follows=kind == "fake-davey")


class Chaos:
    """A call in which messages are lost, reordered and damaged."""

    def __init__(self, kinds: tuple[str, ...], seed: int) -> None:
        self.kinds = kinds
        self.random = Random(seed)
        self.wire = FakeWire() if kinds[0].startswith("fake") else MlsWire(GROUP)
        self.call = Call(self.wire, first_transition=self.random.choice([0, 1]))
        self.call.fault = self.fault
        self.losing = self.delaying = self.corrupting = 0
        self.next_user = 10

    def fault(self, _user: int, message: ServerMessage) -> ServerMessage | float | None:
        if self.corrupting and isinstance(message, MlsAnnounceCommit | MlsWelcome):
            self.corrupting -= 1
            if isinstance(message, MlsWelcome):
                damaged = self.wire.corrupt(message.welcome)
                return MlsWelcome(message.transition_id, damaged)
            return MlsAnnounceCommit(message.transition_id, self.wire.corrupt(message.commit))
        if self.losing:
            self.losing -= 1
            return None
        if self.delaying:
            self.delaying -= 1
            return self.random.uniform(0.0, 0.4)
        return message

    def do(self, action: str) -> None:
        here = [user for user, person in self.call.people.items() if person.here]
        if action == "join" and len(here) < 5:
            kind = self.random.choice(self.kinds)
            self.next_user += 1
            self.call.join(self.next_user, maker(kind, self.next_user), self.random.random() / 30)
        elif action == "leave" and here:
            self.call.leave(self.random.choice(here))
        elif action == "downgrade":
            self.call.downgrade()
        elif action == "upgrade":
            self.call.upgrade()
        elif action == "lose":
            self.losing += 1
        elif action == "delay":
            self.delaying += 6
        elif action == "corrupt":
            self.corrupting += 1
        self.call.run(self.random.choice([0.0, 0.05, 0.3, 1.0]))

    def assert_nothing_slipped(self) -> None:
        for person in self.call.people.values():
            for _, version, plain, frame in person.wire:
                assert is_encrypted(frame) if version else frame == plain


def story(kinds: tuple[str, ...], actions: list[str], seed: int) -> None:
    chaos = Chaos(kinds, seed)
    for action in actions:
        chaos.do(action)
    chaos.call.run(3.0)
    chaos.assert_nothing_slipped()


@settings(max_examples=100)
@given(actions=stories, seed=seeds)
def test_nothing_slips_out_of_a_call_in_chaos(actions: list[str], seed: int) -> None:
    story(KINDS[0], actions, seed)


@settings(max_examples=25)
@given(actions=stories, seed=seeds)
def test_nothing_slips_out_of_a_call_in_chaos_with_the_real_libraries(
    actions: list[str], seed: int
) -> None:
    story(KINDS[1], actions, seed)
