"""Clients of both DAVE libraries in one call with a delivery service, in memory.

They do what the whitepaper asks of a client and no more, without any of our client code, so that
a misunderstanding that both of our sides share would show. Time is a `ManualClock`; messages take
random times on their way, in order for each client and direction.

Use it as ``from .dave_clients import ...``.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Protocol, TypeVar

import dave
import davey

from discord_rtc.clock import ManualClock
from discord_rtc.crypto.p256 import SigningKey
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
from discord_rtc.server.dave_faults import DaveFaults
from discord_rtc.server.delivery import DeliveryService
from discord_rtc.server.mls import ExternalSender

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.protocol.messages import ServerMessage

    ClientMessage = MlsKeyPackage | MlsCommitWelcome | TransitionReady | InvalidCommitWelcome

M = TypeVar("M")

GROUP = 1278201813102755891


class Library(Protocol):
    """One user's MLS group. Methods raise ValueError for what the library refuses."""

    def begin(self) -> bytes: ...
    def external_sender(self, payload: bytes) -> None: ...
    def proposals(self, payload: bytes, recognised: set[int]) -> bytes | None: ...
    def commit(self, commit: bytes) -> None: ...
    def welcome(self, welcome: bytes, recognised: set[int]) -> None: ...
    def authenticator(self) -> bytes | None: ...


class Davey:
    def __init__(self, user_id: int) -> None:
        self._user_id = user_id
        self._session = davey.DaveSession(1, user_id, GROUP)

    def begin(self) -> bytes:
        self._session.reinit(1, self._user_id, GROUP)
        return self._session.get_serialized_key_package()

    def external_sender(self, payload: bytes) -> None:
        self._session.set_external_sender(payload)

    def proposals(self, payload: bytes, recognised: set[int]) -> bytes | None:
        kind = davey.ProposalsOperationType
        operation = kind.revoke if payload[0] else kind.append
        result = self._session.process_proposals(operation, payload[1:], sorted(recognised))
        return None if result is None else result.commit + (result.welcome or b"")

    def commit(self, commit: bytes) -> None:
        self._session.process_commit(commit)

    def welcome(self, welcome: bytes, recognised: set[int]) -> None:
        self._session.process_welcome(welcome)
        if strangers := {int(each) for each in self._session.get_user_ids()} - recognised:
            raise ValueError(f"strangers: {strangers}")

    def authenticator(self) -> bytes | None:
        return self._session.get_epoch_authenticator() if self._session.ready else None


class Libdave:
    def __init__(self, user_id: int) -> None:
        self._user_id = user_id
        self._why: list[str] = []
        self._session = dave.Session(lambda *why: self._why.append(": ".join(why)))
        self._sender = b""
        self._member = False

    def begin(self) -> bytes:
        self._member = False
        self._session.reset()
        self._session.init(1, GROUP, str(self._user_id))
        if self._sender:
            self._session.set_external_sender(self._sender)
        package = self._session.get_marshalled_key_package()
        assert package is not None
        return package

    def external_sender(self, payload: bytes) -> None:
        self._sender = payload
        self._session.set_external_sender(payload)

    def proposals(self, payload: bytes, recognised: set[int]) -> bytes | None:
        self._why.clear()
        commit = self._session.process_proposals(payload, {str(each) for each in recognised})
        if self._why:
            raise ValueError(self._why)
        return commit

    def commit(self, commit: bytes) -> None:
        result = self._session.process_commit(commit)
        if isinstance(result, dave.RejectType):
            raise ValueError(result)  # the service must not announce what is to be ignored
        self._member = True

    def welcome(self, welcome: bytes, recognised: set[int]) -> None:
        if self._session.process_welcome(welcome, {str(each) for each in recognised}) is None:
            raise ValueError(self._why)
        self._member = True

    def authenticator(self) -> bytes | None:
        return self._session.get_last_epoch_authenticator() if self._member else None


class Client:
    """A well-behaved client, or one that keeps something to itself.

    Attributes:
        version: In which it sends; None before it knows.
        refused: Proposals and commits that the library refused, by why.
        seen: Opcodes of DAVE in the order in which they came.
        keeps: Kinds of messages that it does not send.
    """

    def __init__(self, user_id: int, library: Library | None, described: int) -> None:
        self.user_id = user_id
        self.library = library
        self.version: int | None = None if described else 0
        self.refused: list[str] = []
        self.seen: list[int] = []
        self.keeps: tuple[type, ...] = ()
        self.recognised = {user_id}
        self.outgoing: list[ClientMessage] = []
        self.sends_with: bytes | None = None  # authenticator of the epoch of its sending key
        self._pending: dict[int, int] = {}
        if library is not None and described:
            self.begin()

    def begin(self) -> None:
        assert self.library is not None
        self.sends_with = None
        self.send(MlsKeyPackage(self.library.begin()))

    def send(self, message: ClientMessage) -> None:
        if not isinstance(message, self.keeps):
            self.outgoing.append(message)

    def receive(self, message: ServerMessage) -> None:
        self.seen.append(int(message.opcode))
        library = self.library
        match message:
            case ClientsConnect(user_ids):
                self.recognised.update(user_ids)
                return
            case ClientDisconnect(user_id):
                self.recognised.discard(user_id)
                return
        assert library is not None, f"{message} to a client without DAVE"
        match message:
            case MlsExternalSender(payload):
                library.external_sender(payload)
            case MlsProposals(payload):
                self._propose(library, payload)
            case MlsAnnounceCommit(transition_id, payload):
                self._enter(transition_id, lambda: library.commit(payload))
            case MlsWelcome(transition_id, payload):
                self._enter(transition_id, lambda: library.welcome(payload, self.recognised))
            case PrepareEpoch(version, 1):
                assert version == 1
                self._pending.clear()
                self.version = None
                self.begin()
            case PrepareTransition(version, transition_id):
                self._prepare(transition_id, version)
            case ExecuteTransition(transition_id):
                self._execute(transition_id)
            case _:
                raise AssertionError(message)

    def _propose(self, library: Library, payload: bytes) -> None:
        try:
            commit = library.proposals(payload, self.recognised)
        except ValueError as error:
            self.refused.append(str(error))
            return
        if commit is not None:
            self.send(MlsCommitWelcome(commit))

    def _enter(self, transition_id: int, step: Callable[[], None]) -> None:
        try:
            step()
        except ValueError as error:
            self.refused.append(str(error))
            self.send(InvalidCommitWelcome(transition_id))
            self._pending.clear()
            self.begin()
        else:
            self._prepare(transition_id, 1)

    def _prepare(self, transition_id: int, version: int) -> None:
        self._pending[transition_id] = version
        if transition_id == 0:
            self._execute(0)
        else:
            self.send(TransitionReady(transition_id))

    def _execute(self, transition_id: int) -> None:
        if transition_id in self._pending:
            self.version = self._pending.pop(transition_id)
            assert self.library is not None
            self.sends_with = self.library.authenticator() if self.version else None


class Call:
    """A delivery service and its clients.

    Args:
        seed: Of the times that messages take.
        delay: Longest time on the way in one direction, in seconds.
    """

    def __init__(self, seed: int = 0, delay: float = 0.02) -> None:
        self.clock = ManualClock(100.0)
        self.random = random.Random(seed)
        self.delay = delay
        self.faults = DaveFaults()
        self.counters: Counter[str] = Counter()
        self.sender = ExternalSender(SigningKey.generate())
        self.service = DeliveryService(
            GROUP, self.sender, faults=self.faults, counters=self.counters
        )
        self.clients: dict[int, Client] = {}
        self.gone: list[Client] = []
        self._down: dict[int, list[tuple[float, ServerMessage]]] = {}
        self._up: dict[int, list[tuple[float, ClientMessage]]] = {}

    def join(self, user_id: int, library: type[Davey | Libdave] | None = Davey) -> Client:
        """Somebody joins; without a library he has no encryption."""
        max_version = 0 if library is None else 1
        described = self.service.version_for(max_version)
        one = None if library is None else library(user_id)
        client = Client(user_id, one, described)
        self.clients[user_id] = client
        self._down[user_id], self._up[user_id] = [], []
        if library is not None and described:
            self._tell(user_id, MlsExternalSender(self.sender.payload))
        self._tell(user_id, ClientsConnect(tuple(self.clients)))
        for other in self.clients:
            if other != user_id:
                self._tell(other, ClientsConnect((user_id,)))
        self.service.join(user_id, max_version, self.clock.now())
        self.flush()
        return client

    def leave(self, user_id: int) -> None:
        """Somebody's session ends; what is under way from and to him is lost."""
        self.gone.append(self.clients.pop(user_id))
        del self._down[user_id], self._up[user_id]
        for other in self.clients:
            self._tell(other, ClientDisconnect(user_id))
        self.service.leave(user_id, self.clock.now())
        self.flush()

    def resume(self, user_id: int, *, anew: bool) -> None:
        """Somebody is back, with another Session Description, and may begin anew for it."""
        self.service.set_away(user_id, self.clock.now(), away=False, described=True)
        if anew and self.service.version_for(1):
            self._tell(user_id, PrepareEpoch(1, 1))  # to the client as good as that op 4
        self.flush()

    def flush(self) -> None:
        """Everybody sends what they have to say."""
        for user_id, message in self.service.messages_to_send():
            self._tell(user_id, message)
        for client in self.clients.values():
            for sent in client.outgoing:
                self._put(self._up[client.user_id], sent)
            client.outgoing.clear()

    def run(self, seconds: float = 30.0) -> None:
        """Let time pass until nothing is going on any more, or for so long."""
        end = self.clock.now() + seconds
        self.flush()
        while (at := self._next()) is not None and at <= end:
            self.clock.advance_to(at)
            self._step()

    def run_for(self, seconds: float) -> None:
        """Let exactly that much time pass."""
        end = self.clock.now() + seconds
        self.run(seconds)
        self.clock.advance_to(end)

    def members(self) -> set[int]:
        """Users of the one group that all clients are in."""
        return set(self.service.info.members.values())

    def check_quiet(self) -> None:
        """Everybody present who can is in one group, and sends with its key."""
        able = [client for client in self.clients.values() if client.library is not None]
        if len(able) < len(self.clients):
            assert self.service.version == 0
            assert [client.version for client in able] == [0] * len(able)
            return
        if len(able) < 2:
            assert not self.service.info.established
            return
        assert self.members() == set(self.clients)
        assert self.service.info.pending == ()
        authenticators = {client.library and client.library.authenticator() for client in able}
        assert len(authenticators) == 1
        assert None not in authenticators
        assert {client.sends_with for client in able} == authenticators

    def refused(self) -> list[str]:
        """What any client refused at any time."""
        return [why for each in [*self.clients.values(), *self.gone] for why in each.refused]

    def _next(self) -> float | None:
        due = [queue[0][0] for queue in self._down.values() if queue]
        due += [queue[0][0] for queue in self._up.values() if queue]
        timeout = self.service.next_timeout()
        return min(due if timeout is None else [*due, timeout], default=None)

    def _step(self) -> None:
        now = self.clock.now()
        for user_id, client in tuple(self.clients.items()):
            down, up = self._down[user_id], self._up[user_id]
            while down and down[0][0] <= now:
                client.receive(down.pop(0)[1])
            while up and up[0][0] <= now:
                self.service.receive(user_id, up.pop(0)[1], now)
                self.flush()
        timeout = self.service.next_timeout()
        if timeout is not None and timeout <= now:
            self.service.handle_timeout(now)
            again = self.service.next_timeout()
            assert again is None or again > now, "a timer that does not move"
        self.flush()

    def _tell(self, user_id: int, message: ServerMessage) -> None:
        if user_id in self._down:
            self._put(self._down[user_id], message)

    def _put(self, queue: list[tuple[float, M]], message: M) -> None:
        earliest = queue[-1][0] if queue else 0.0
        arrival = self.clock.now() + self.random.uniform(0.0, self.delay)
        queue.append((max(earliest, arrival), message))
