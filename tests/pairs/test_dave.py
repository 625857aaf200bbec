"""Our machine with both libraries against our delivery service, with audio all the while."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import pytest

from discord_rtc.clock import ManualClock
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.protocol.dave.choose import make_backend
from discord_rtc.protocol.dave.events import Sending, Undecrypted
from discord_rtc.protocol.dave.frame import is_encrypted
from discord_rtc.protocol.dave.session import DaveSession
from discord_rtc.protocol.messages import (
    ClientDisconnect,
    ClientsConnect,
    MlsExternalSender,
    SessionDescription,
)
from discord_rtc.server.dave_faults import DaveFaults
from discord_rtc.server.delivery import DeliveryService
from discord_rtc.server.mls import ExternalSender

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.protocol.dave.backend import DaveBackend, DaveLibrary
    from discord_rtc.protocol.dave.lifecycle import DaveMessage
    from discord_rtc.protocol.messages import ServerMessage

GROUP = 1278201813102755891
LIBRARIES: tuple[DaveLibrary, ...] = ("davey", "dave.py")
FRAME_TIME = 0.02
RETRY = 0.5
WAITING = 250  # frames; five seconds


@dataclass
class Person:
    """A machine, and the queues that a connection has around it.

    Attributes:
        heard: Frames that were decrypted, by sender.
        lost: Frames that never could be: when sent, by whom, why.
        plain: How many of its frames left in the clear.
    """

    user_id: int
    machine: DaveSession
    down: deque[tuple[float, ServerMessage]] = field(default_factory=deque)
    up_free_at: float = 0.0
    waiting: deque[bytes] = field(default_factory=lambda: deque(maxlen=WAITING))
    undecrypted: list[tuple[float, int, bytes]] = field(default_factory=list)
    heard: dict[int, list[bytes]] = field(default_factory=dict)
    lost: list[tuple[float, int, str]] = field(default_factory=list)
    heard_until: dict[int, float] = field(default_factory=dict)
    plain: int = 0
    numbers: count[int] = field(default_factory=count)


class Call:
    """People in a call, what is under way between them and the server, and a clock.

    Args:
        seed: Of all that is random.
        required: Whether a frame in the clear is refused by the machines.
        delay: Longest time on the way in one direction; less for media.
    """

    def __init__(self, seed: int = 0, *, required: bool = True, delay: float = 0.02) -> None:
        self.clock = ManualClock(1000.0)
        self.random = random.Random(seed)
        self.faults = DaveFaults()
        self.counters: Counter[str] = Counter()
        self.people: dict[int, Person] = {}
        self._required = required
        self._delay = delay
        self._sender = ExternalSender()
        self.service = DeliveryService(
            GROUP, self._sender, faults=self.faults, counters=self.counters
        )
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._next_frames = self.clock.now()

    def join(self, user_id: int, library: DaveLibrary | None = None) -> Person:
        """Somebody joins; without a library without encryption."""

        def backend() -> DaveBackend:
            return make_backend(user_id, GROUP, library=library)

        required = self._required and library is not None
        person = Person(user_id, DaveSession(backend, user_id=user_id, required=required))
        max_version = 0 if library is None else 1
        version = self.service.version_for(max_version)
        self.people[user_id] = person
        self._tell(user_id, SessionDescription("opus", None, None, dave_protocol_version=version))
        if max_version:
            self._tell(user_id, MlsExternalSender(self._sender.payload))
        self._tell(user_id, ClientsConnect(tuple(self.people)))
        for other in self.people:
            if other != user_id:
                self._tell(other, ClientsConnect((user_id,)))
        self.service.join(user_id, max_version, self.clock.now())
        self._flush_service()
        return person

    def leave(self, user_id: int) -> None:
        """Somebody's session ends."""
        del self.people[user_id]
        for other in self.people:
            self._tell(other, ClientDisconnect(user_id))
        self.service.leave(user_id, self.clock.now())
        self._flush_service()

    def run_for(self, seconds: float) -> None:
        """Let time pass; everybody sends a frame each 20 ms."""
        end = self.clock.now() + seconds
        while (at := self._next()) <= end:
            self.clock.advance_to(at)
            self._step()
        self.clock.advance_to(end)

    def until_quiet(self, within: float = 3.0) -> float:
        """Let time pass until all are equal, no more than that long; how long it took."""
        start = self.clock.now()
        while not self.is_quiet():
            assert self.clock.now() - start < within, self.describe()
            self.run_for(0.01)
        return self.clock.now() - start

    def is_quiet(self) -> bool:
        """Whether everybody present is in one group and sends, or all in the clear."""
        machines = [person.machine for person in self.people.values()]
        if any(person.down for person in self.people.values()):
            return False
        if self.service.version == 0:
            return all(machine.sending is Sending.CLEAR for machine in machines)
        if len(machines) < 2:
            return not self.service.info.established
        authenticators = {machine.epoch_authenticator for machine in machines}
        return (
            len(authenticators) == 1
            and None not in authenticators
            and all(machine.state == "active" for machine in machines)
            and all(machine.sending is Sending.ENCRYPT for machine in machines)
            and set(self.service.info.members.values()) == self.people.keys()
            and self.service.next_timeout() is None
        )

    def check(self) -> None:
        """All are equal, and everything that is sent from now on arrives."""
        machines = [person.machine for person in self.people.values()]
        assert len({machine.privacy_code for machine in machines}) == 1, self.describe()
        if len(machines) > 1 and self.service.version:
            assert {machine.members for machine in machines} == {frozenset(self.people)}
        self.run_for(0.1)  # what waited has left
        quiet_since = self.clock.now()
        for person in self.people.values():
            person.heard.clear()
        self.run_for(0.2)
        sent = 9  # of ten, as the last may be under way
        for person in self.people.values():
            assert not [each for each in person.lost if each[0] > quiet_since], self.describe()
            for other in self.people:
                assert other == person.user_id or len(person.heard.get(other, [])) >= sent

    def describe(self) -> str:
        """For failures."""
        states = [
            (user_id, person.machine.state, person.machine.sending, dict(person.machine.counters))
            for user_id, person in self.people.items()
        ]
        return f"{self.service.info} {self.counters} {states}"

    def _next(self) -> float:
        due = [self._next_frames]
        due += [at for at, *_ in self._due[:1]]
        due += [person.down[0][0] for person in self.people.values() if person.down]
        timeouts = [person.machine.next_timeout() for person in self.people.values()]
        due += [at for at in (*timeouts, self.service.next_timeout()) if at is not None]
        return max(min(due), self.clock.now())

    def _step(self) -> None:
        now = self.clock.now()
        for person in tuple(self.people.values()):
            while person.down and person.down[0][0] <= now:
                person.machine.receive(person.down.popleft()[1], now)
                self._flush(person)
            timeout = person.machine.next_timeout()
            if timeout is not None and timeout <= now:
                person.machine.handle_timeout(now)
                self._flush(person)
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
        timeout = self.service.next_timeout()
        if timeout is not None and timeout <= now:
            self.service.handle_timeout(now)
            self._flush_service()
        if self._next_frames <= now:
            self._next_frames = now + FRAME_TIME
            for person in self.people.values():
                self._send_frame(person)
                self._retry(person)

    def _flush(self, person: Person) -> None:
        now = self.clock.now()
        while person.machine.next_event() is not None:
            pass
        for message in person.machine.messages_to_send():
            arrival = now + self.random.uniform(0.0, self._delay)
            person.up_free_at = max(person.up_free_at, arrival)
            self._later(person.up_free_at, partial(self._arrive, person, message))
        self._retry(person)

    def _arrive(self, person: Person, message: DaveMessage) -> None:
        if self.people.get(person.user_id) is person:
            self.service.receive(person.user_id, message, self.clock.now())
            self._flush_service()

    def _flush_service(self) -> None:
        for user_id, message in self.service.messages_to_send():
            self._tell(user_id, message)

    def _tell(self, user_id: int, message: ServerMessage) -> None:
        if (person := self.people.get(user_id)) is not None:
            arrival = self.clock.now() + self.random.uniform(0.0, self._delay)
            person.down.append((max(arrival, person.down[-1][0] if person.down else 0), message))

    def _later(self, at: float, step: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at, next(self._order), step))

    def _send_frame(self, person: Person) -> None:
        frame = person.user_id.to_bytes(8, "big") + next(person.numbers).to_bytes(8, "big")
        person.waiting.append(frame)
        machine = person.machine
        if machine.sending in {Sending.WAIT, Sending.HOLD}:
            return
        while person.waiting:
            frame = person.waiting.popleft()
            if machine.sending is Sending.CLEAR:
                person.plain += 1
                self._spread(person, frame, None)
                continue
            encrypted = machine.encrypt(frame, Codec.OPUS, self.clock.now())
            assert encrypted is not None
            assert is_encrypted(encrypted)
            self._spread(person, encrypted, machine.members)

    def _spread(self, person: Person, frame: bytes, members: frozenset[int] | None) -> None:
        now = self.clock.now()
        for user_id, other in self.people.items():
            if other is not person and (members is None or user_id in members):
                # In order, as after a jitter buffer: both libraries lose what overtakes the first
                # frame under a new key.
                arrival = now + self.random.uniform(0.0, min(self._delay, 0.02))
                at = other.heard_until[person.user_id] = max(
                    arrival, other.heard_until.get(person.user_id, 0.0)
                )
                self._later(at, partial(self._hear, other, (now, person.user_id, frame)))

    def _hear(self, person: Person, sent: tuple[float, int, bytes]) -> None:
        if self.people.get(person.user_id) is person:
            person.undecrypted.append(sent)
            self._retry(person)

    def _retry(self, person: Person) -> None:
        now, kept = self.clock.now(), []
        for at, sender, frame in person.undecrypted:
            result = person.machine.decrypt(sender, MediaKind.AUDIO, frame, now)
            if not isinstance(result, Undecrypted):
                assert result[:8] == sender.to_bytes(8, "big")
                person.heard.setdefault(sender, []).append(result)
            elif result.retry and now - at < RETRY:
                kept.append((at, sender, frame))
            else:
                person.lost.append((at, sender, result.reason))
        person.undecrypted = kept
        for message in person.machine.messages_to_send():  # op 31 after too many failures
            self._later(now, partial(self._arrive, person, message))


def call_of(number: int, *, seed: int = 0, required: bool = True) -> Call:
    """A call of that many, all in the group."""
    call = Call(seed, required=required)
    for user_id in range(1, number + 1):
        call.join(user_id, LIBRARIES[user_id % 2])
    call.until_quiet(1.0)
    call.check()
    return call


@pytest.mark.parametrize("number", [2, 3, 8])
def test_a_call_begins_and_everybody_hears_everybody(number: int) -> None:
    call = call_of(number)

    assert all(person.plain == 0 for person in call.people.values())
    assert not any(person.machine.counters.get("recovered") for person in call.people.values())


def test_members_lose_no_frame_while_others_come_and_go() -> None:
    call = call_of(3)
    steady = list(call.people.values())
    for user_id in range(4, 12):
        call.join(user_id, LIBRARIES[user_id // 2 % 2])
        call.until_quiet(1.0)
        call.run_for(0.1)
        call.leave(user_id)
        call.until_quiet(1.0)
    call.run_for(0.6)

    for person in steady:
        assert person.lost == []
        for other in steady:
            if other is not person:
                numbers = [int.from_bytes(frame[8:]) for frame in person.heard[other.user_id]]
                assert sorted(numbers) == list(range(min(numbers), max(numbers) + 1))


def test_the_last_one_waits_and_hears_the_next() -> None:
    call = call_of(2)
    call.leave(2)
    call.until_quiet()
    assert call.people[1].machine.state == "pending"
    call.join(3, "dave.py")
    call.until_quiet(1.0)
    call.check()


def test_encryption_goes_off_and_on_without_a_gap() -> None:
    call = call_of(3, required=False)
    call.join(9)
    call.until_quiet(1.0)
    call.check()
    assert call.people[1].plain > 0
    call.join(4, "davey")
    call.until_quiet(1.0)
    call.leave(9)
    call.until_quiet(1.0)
    call.run_for(0.6)

    heard = call.people[1].heard[2]
    call.check()
    assert {person.machine.state for person in call.people.values()} == {"active"}
    assert len(heard) > 10


FAULTS: dict[str, Callable[[DaveFaults], None]] = {
    "lost-execute": lambda faults: faults.lose_execute(),
    "late-execute": lambda faults: faults.delay_execute(1.5),
    "corrupt-commit": lambda faults: faults.corrupt_commit(),
    "corrupt-welcome": lambda faults: faults.corrupt_welcome(),
    "lost-commit": lambda faults: faults.lose_commit(),
    "lost-welcome": lambda faults: faults.lose_welcome(),
    "proposals-out-of-order": lambda faults: faults.proposals_out_of_order(),
    "proposals-after-commit": lambda faults: faults.proposals_out_of_order(after_commit=True),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_recovered_from_within_three_seconds(
    fault: str, library: DaveLibrary
) -> None:
    call = call_of(4, seed=2)
    FAULTS[fault](call.faults)
    call.join(5, library)
    call.run_for(0.001)
    call.join(6, library)
    call.join(7, library)
    took = call.until_quiet(3.0)
    call.check()

    assert call.faults.counters[fault] == 1, took
    assert all(person.plain == 0 for person in call.people.values())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("user_id", [1, 2])
def test_one_member_alone_with_a_bad_commit_recovers(user_id: int, library: DaveLibrary) -> None:
    call = call_of(3)
    call.faults.corrupt_commit(user_id=user_id)
    call.join(4, library)
    call.until_quiet(3.0)
    call.check()

    assert call.people[user_id].machine.counters["recovered"] == 1


def test_a_bad_welcome_into_the_first_group_is_recovered_from() -> None:
    call = Call()
    call.faults.corrupt_welcome()
    for user_id in (1, 2, 3):
        call.join(user_id, LIBRARIES[user_id % 2])
    call.until_quiet(3.0)
    call.check()

    assert call.faults.counters["corrupt-welcome"] == 1


def test_churn_of_eight() -> None:
    call = call_of(3, seed=1)
    newest = 100
    for step in range(200):
        present, what = list(call.people), call.random.random()
        if len(present) < 2 or (what < 0.45 and len(present) < 8):
            newest += 1
            call.join(newest, call.random.choice(LIBRARIES))
        elif what < 0.85:
            call.leave(call.random.choice(present))
        else:
            user_id = call.random.choice(present)
            call.leave(user_id)
            call.join(user_id, call.random.choice(LIBRARIES))
        call.run_for(call.random.choice([0.0, 0.0, 0.005, 0.02, 0.1]))
        if step % 10 == 9:
            call.until_quiet(3.0)
            call.check()
            assert all(person.plain == 0 for person in call.people.values())
    assert call.counters["ready-timeouts"] == 0
