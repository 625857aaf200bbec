"""A call in memory: machines, a server that delivers for them, latency, faults and audio.

The server is honest and simple: one batch of proposals at a time, the first commit wins. What
it sends passes through `Call.fault`, which may change, delay or lose it. Every person sends a
frame each 20 ms and does with frames what a connection does: waits, holds, tries again.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from discord_rtc.frames import Codec, MediaKind
from discord_rtc.protocol.dave.events import ReceiveKeysChanged, Sending, Undecrypted
from discord_rtc.protocol.dave.session import DaveSession
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
    TransitionReady,
)

from .bench import described

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.protocol.dave.backend import DaveBackend
    from discord_rtc.protocol.dave.lifecycle import DaveMessage
    from discord_rtc.protocol.messages import ServerMessage

    from .fake_group import Wire

FRAME_TIME = 0.02
RETRY = 0.5
KEPT = 250  # frames that wait; five seconds of audio, so that none falls out
EXECUTE = 2.0


@dataclass
class Person:
    """A machine with the queues of a connection around it.

    Attributes:
        heard: What was decrypted, by sender.
        lost: (when it was sent, who sent it, why) of each frame that never could be.
        active_since: When the machine became active for the first time.
        wire: Every frame that went out: when, under which version, plain and as sent.
    """

    user_id: int
    session: DaveSession
    latency: float
    heard: dict[int, list[bytes]] = field(default_factory=dict)
    lost: list[tuple[float, int, str]] = field(default_factory=list)
    active_since: float | None = None
    wire: list[tuple[float, int, bytes, bytes]] = field(default_factory=list)
    waiting: deque[bytes] = field(default_factory=lambda: deque(maxlen=KEPT))
    retries: list[tuple[float, int, bytes]] = field(default_factory=list)
    said: int = 0
    here: bool = True


class Call:
    """One call of one group, at one moment after the other.

    Args:
        wire: How the server writes.
        first_transition: Id of the transition that the first group comes with.
    """

    def __init__(self, wire: Wire, *, first_transition: int = 0) -> None:
        self.now = 0.0
        self.people: dict[int, Person] = {}
        self.fault: Callable[[int, ServerMessage], ServerMessage | float | None] = _no_fault
        self._wire = wire
        self._first_transition = first_transition
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._ids = count(max(1, first_transition + 1))
        self._version = 1
        self._epoch = 0
        self._leaves: dict[int, int] = {}
        self._packages: dict[int, bytes] = {}
        self._removing: set[int] = set()
        self._batch: tuple[list[int], list[int], dict[int, bytes]] | None = None
        self._waiting: dict[int, tuple[set[int], list[int]]] = {}

    # What tests do

    def join(
        self, user_id: int, make_backend: Callable[[], DaveBackend], latency: float = 0.01
    ) -> Person:
        """Somebody connects."""
        person = Person(user_id, DaveSession(make_backend, user_id=user_id), latency)
        self.people[user_id] = person
        self._to(user_id, described(self._version))
        self._to(user_id, MlsExternalSender(self._wire.payload))
        self._to(user_id, ClientsConnect(tuple(self._present())))
        for other in self._present():
            if other != user_id:
                self._to(other, ClientsConnect((user_id,)))
        self._later(FRAME_TIME, partial(self._talk, person))
        return person

    def leave(self, user_id: int) -> None:
        """Somebody goes."""
        self.people[user_id].here = False
        self._packages.pop(user_id, None)
        for other in self._present():
            self._to(other, ClientDisconnect(user_id))
        if user_id in self._leaves.values():
            self._removing.add(user_id)
        self._propose()

    def downgrade(self) -> None:
        """Encryption ends."""
        self._version = 0
        self._forget_group()
        transition = next(self._ids)
        self._collect(transition, self._present())
        for user_id in self._present():
            self._to(user_id, PrepareTransition(0, transition))

    def upgrade(self) -> None:
        """Encryption begins."""
        self._version = 1
        self._packages.clear()
        for user_id in self._present():
            self._to(user_id, PrepareEpoch(1, 1))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            timeouts = [
                (deadline, person)
                for person in self.people.values()
                if (deadline := person.session.next_timeout()) is not None
            ]
            deadline, person = min(timeouts, key=lambda each: each[0], default=(end + 1, None))
            agenda = self._agenda[0][0] if self._agenda else end + 1
            if min(deadline, agenda) > end:
                break
            if person is not None and deadline <= agenda:
                self.now = max(self.now, deadline)
                person.session.handle_timeout(self.now)
                self._flush(person)
            else:
                self.now, _, action = heapq.heappop(self._agenda)
                action()
        self.now = end

    # The server

    def _present(self) -> list[int]:
        return [user_id for user_id, person in self.people.items() if person.here]

    def _propose(self) -> None:
        if self._batch is not None or self._version == 0:
            return
        present = self._present()
        adds = [
            user
            for user in present
            if user in self._packages and (user not in self._tree() or user in self._removing)
        ]
        if not self._leaves:
            self._propose_first(adds)
            return
        removes = [leaf for leaf, user in self._leaves.items() if user in self._removing]
        staying = [user for user in self._leaves.values() if user not in self._removing]
        if not removes and not adds:
            return
        if not staying or (len(staying) == 1 and not adds):
            self._begin_anew(staying)
            return
        self._batch = (adds, removes, {user: self._packages[user] for user in adds})
        proposals = [self._wire.remove(self._epoch, leaf) for leaf in removes]
        proposals += [self._wire.add(self._epoch, self._packages[user]) for user in adds]
        for user in staying:
            self._to(user, MlsProposals(self._wire.append(proposals)))

    def _propose_first(self, adds: list[int]) -> None:
        if len(adds) < 2 or len(adds) < len(self._present()):
            return  # all at once, so that nobody talks in a group that the others are not in yet
        self._batch = (adds, [], {user: self._packages[user] for user in adds})
        proposals = {user: self._wire.add(0, self._packages[user]) for user in adds}
        for user in adds:
            others = [proposals[other] for other in adds if other != user]
            self._to(user, MlsProposals(self._wire.append(others)))

    def _begin_anew(self, staying: list[int]) -> None:
        self._forget_group()
        for user in staying:
            self._packages.pop(user, None)
            self._to(user, PrepareEpoch(1, 1))
            self._to(user, PrepareTransition(1, 0))

    def _forget_group(self) -> None:
        self._epoch = 0
        self._batch = None
        self._leaves.clear()
        self._removing.clear()

    def _tree(self) -> set[int]:
        return set(self._leaves.values())

    def _take(self, user: int, message: DaveMessage) -> None:
        if not self.people[user].here:
            return
        match message:
            case MlsKeyPackage(payload):
                self._packages[user] = payload
                if user in self._tree():
                    self._removing.add(user)
                self._propose()
            case InvalidCommitWelcome():
                self._packages.pop(user, None)
                if user in self._tree():
                    self._removing.add(user)
            case MlsCommitWelcome(payload):
                self._commit(user, payload)
            case TransitionReady(transition_id):
                waiting = self._waiting.get(transition_id, (set[int](), []))[0]
                waiting.discard(user)
                if transition_id in self._waiting and not waiting:
                    self._execute(transition_id)

    def _commit(self, user: int, payload: bytes) -> None:
        commit, welcome = self._wire.split(payload)
        if self._batch is None or self._wire.epoch_of(commit) != self._epoch:
            return
        first = not self._leaves
        if not first and (user not in self._tree() or user in self._removing):
            return
        adds, removes, packages = self._batch
        adds = [each for each in adds if not first or each != user]
        members = self._apply(user, adds, removes)
        transition = self._first_transition if first else next(self._ids)
        if transition:
            self._collect(transition, [*members, *adds])
        for each in members:
            self._to(each, MlsAnnounceCommit(transition, commit))
        for each in adds:
            assert welcome is not None
            if self._packages.get(each) == packages[each]:
                del self._packages[each]
            targeted = self._wire.targeted(welcome, packages[each])
            self._to(each, MlsWelcome(transition, targeted))
            if not self.people[each].here or each in self._packages:
                self._removing.add(each)
        self._propose()

    def _apply(self, user: int, adds: list[int], removes: list[int]) -> list[int]:
        if not self._leaves:
            self._leaves[0] = user
        for leaf in removes:
            self._removing.discard(self._leaves.pop(leaf))
        members = list(self._leaves.values())
        for each in adds:
            self._leaves[next(leaf for leaf in count() if leaf not in self._leaves)] = each
        self._epoch += 1
        self._batch = None
        return members

    def _collect(self, transition: int, users: list[int]) -> None:
        self._waiting[transition] = (set(users), users)
        self._later(EXECUTE, partial(self._execute, transition))

    def _execute(self, transition: int) -> None:
        _, users = self._waiting.pop(transition, (None, []))
        for user in users:
            self._to(user, ExecuteTransition(transition))

    # The net

    def _later(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + delay, next(self._order), action))

    def _to(self, user: int, message: ServerMessage) -> None:
        outcome = self.fault(user, message)
        if outcome is None:
            return
        delay = outcome if isinstance(outcome, float) else 0.0
        changed = message if isinstance(outcome, float) else outcome
        person = self.people[user]

        def deliver() -> None:
            if person.here:
                person.session.receive(changed, self.now)
                self._flush(person)

        self._later(person.latency + delay, deliver)

    def _flush(self, person: Person) -> None:
        for message in person.session.messages_to_send():
            self._later(person.latency, partial(self._take, person.user_id, message))
        for event in iter(person.session.next_event, None):
            if isinstance(event, ReceiveKeysChanged):
                self._retry(person)
        if person.session.state == "active" and person.active_since is None:
            person.active_since = self.now

    # The media

    def _talk(self, person: Person) -> None:
        if not person.here:
            return
        person.said += 1
        person.waiting.append(b"\x78%d/%d" % (person.user_id, person.said))
        if person.session.sending in {Sending.CLEAR, Sending.ENCRYPT}:
            while person.waiting:
                self._say(person, person.waiting.popleft())
        self._later(FRAME_TIME, partial(self._talk, person))

    def _say(self, person: Person, plain: bytes) -> None:
        session = person.session
        frame: bytes | None = plain
        if session.sending is Sending.ENCRYPT:
            frame = session.encrypt(plain, Codec.OPUS, self.now)
        assert frame is not None
        sent = self.now
        person.wire.append((sent, session.version, plain, frame))
        for user in self._present():
            if user != person.user_id:
                listener = self.people[user]
                self._later(
                    listener.latency, partial(self._hear, listener, person.user_id, frame, sent)
                )

    def _hear(self, person: Person, sender: int, frame: bytes, sent: float) -> None:
        self._retry(person)
        self._try(person, sender, frame, sent)

    def _try(self, person: Person, sender: int, frame: bytes, sent: float) -> None:
        result = person.session.decrypt(sender, MediaKind.AUDIO, frame, self.now)
        if isinstance(result, bytes):
            person.heard.setdefault(sender, []).append(result)
        elif result.retry and self.now - sent < RETRY:
            person.retries.append((sent, sender, frame))
        else:
            person.lost.append((sent, sender, result.reason))
        if isinstance(result, Undecrypted):
            self._flush(person)

    def _retry(self, person: Person) -> None:
        retries, person.retries = person.retries, []
        for sent, sender, frame in retries:
            self._try(person, sender, frame, sent)


def _no_fault(_user: int, message: ServerMessage) -> ServerMessage:
    return message
