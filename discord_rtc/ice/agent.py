"""The controlling side of ICE toward one candidate of a lite peer. Sans-I/O.

There is one pair, so there is nothing to pair, prioritise or choose: it is checked, and nominated
with every check. The peer may also be a full agent in the controlled role.

Spec: RFC 8445 sections 7.2 (checks) and 8.1.1 (nomination), RFC 7675 (consent).
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import TYPE_CHECKING, TypeAlias

from discord_rtc.errors import InvalidState, MalformedPacket
from discord_rtc.ice.gate import RequestGate
from discord_rtc.ice.stun import (
    BINDING,
    TRANSACTION_ID_LENGTH,
    MessageClass,
    build_request,
    build_success,
    parse_stun,
)
from discord_rtc.queues import RollingQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.ice.credentials import IceCredentials
    from discord_rtc.ice.stun import Address, StunMessage

MAX_TRANSACTIONS = 32
"""Checks whose answer is still waited for: 8 at the start, 8 within one consent period."""

MAX_OUTBOX = 32
"""Datagrams that wait to be fetched. Owners fetch after each input, so there are one or two."""

_PRIORITY = (110 << 24) | (65535 << 8) | 255
"""Of a peer-reflexive candidate of component 1, which a check must name (RFC 8445 7.1.1, 5.1.2)."""

_CAUSES = {
    400: "it missed something in them",
    401: "the ICE user name or password is not the one it expects",
    420: "it did not understand them",
    487: "it claims the controlling role for itself",
}


@dataclass(frozen=True, slots=True)
class IceTimings:
    """When an agent does what.

    Attributes:
        schedule: Seconds after the start at which checks are sent, ascending. Each check is a
            transaction of its own, so an answer tells the round trip whichever check it is to,
            and the first gap is Ta (RFC 8445 14.2). The gaps double, up to a second.
        deadline: Seconds after the start at which the path has failed.
        consent_interval: Seconds between consent checks (RFC 7675 5.1).
        consent_jitter: By which part of it each interval is longer or shorter (as above).
        consent_timeout: Seconds for which one answer is consent (as above).
    """

    schedule: tuple[float, ...] = (0.0, 0.05, 0.15, 0.35, 0.75, 1.55, 2.55, 3.55)
    deadline: float = 4.5
    consent_interval: float = 5.0
    consent_jitter: float = 0.2
    consent_timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class PathValid:
    """The peer answered and the pair is nominated: data may be sent.

    Attributes:
        rtt: Seconds that the answered check took.
        mapped: Our address as the peer sees it, if it says so.
    """

    rtt: float
    mapped: Address | None


@dataclass(frozen=True, slots=True)
class PathFailed:
    """No check was answered as it should be. The agent has stopped.

    Attributes:
        reason: What was seen instead.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class ConsentExpired:
    """The peer does not answer any more, so nothing may be sent to it. The agent has stopped."""


IceEvent: TypeAlias = PathValid | PathFailed | ConsentExpired


_ANSWERS = (MessageClass.SUCCESS, MessageClass.ERROR)


class _State(Enum):
    IDLE = "idle"
    CHECKING = "checking"
    VALID = "valid"
    OVER = "over"


class LiteAgent:
    """Checks one path, and after that asks again and again whether it may still be used.

    Args:
        local: Credentials of this side.
        timings: When to do what.
        random: For the jitter of consent checks.
        random_bytes: For transaction ids and the tie-breaker.

    Attributes:
        counters: ``stun-checks-sent``; answers by what came of them (``stun-answers``,
            ``stun-errors``, ``stun-forged`` for those that do not authenticate, ``stun-unexpected``
            for those to nothing that was asked); ``stun-checks``, the peer's own ones that were
            authentic; what was refused, as with `LiteResponder`; ``stun-malformed``; and
            ``stun-unsent``, datagrams that were not fetched in time.
    """

    def __init__(
        self,
        local: IceCredentials,
        *,
        timings: IceTimings = IceTimings(),
        random: Random | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._local = local
        self._remote: IceCredentials | None = None
        self._address: Address | None = None
        self._timings = timings
        self._random = random or Random()  # noqa: S311 - jitter, not a secret
        self._random_bytes = random_bytes
        self._tie_breaker = int.from_bytes(random_bytes(8), "big")
        self._gate = RequestGate(local, self.counters, controlling=True)
        self._state = _State.IDLE
        self._due: list[float] = []  # when checks are sent; one of them at a time once valid
        self._limit = 0.0  # when the path has failed, or consent expires
        self._asked: dict[bytes, float] = {}  # transaction id to when it was sent, oldest first
        self._error_codes: Counter[int] = Counter()
        self._outbox: list[bytes] = []
        self._events: RollingQueue[IceEvent] = RollingQueue(2)  # there are never more
        self._rtt: float | None = None

    @property
    def rtt(self) -> float | None:
        """Seconds that the latest answered check took, None until the first answer."""
        return self._rtt

    def start(self, remote: IceCredentials, now: float, *, address: Address | None = None) -> None:
        """Begin to check.

        Args:
            remote: Credentials of the peer.
            now: Monotonic seconds.
            address: Of the peer, an IP address as text and a port. Answers to the checks of a full
                peer must tell it, so without it they are not answered; a lite peer sends none.

        Raises:
            InvalidState: It was started before.
        """
        if self._state is not _State.IDLE:
            raise InvalidState("an ICE agent is started once")
        self._remote = remote
        self._address = address
        self._gate.set_remote(remote.ufrag)
        self._state = _State.CHECKING
        self._due = [now + offset for offset in self._timings.schedule]
        self._limit = now + self._timings.deadline
        self.handle_timeout(now)

    def datagrams_to_send(self) -> list[bytes]:
        """What is to be sent to the peer, each datagram handed out once."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_event(self) -> IceEvent | None:
        """The oldest event that was not fetched yet."""
        return self._events.pop()

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is wanted next; None before the start and after the end."""
        if self._state in (_State.IDLE, _State.OVER):
            return None
        return min(self._due[0], self._limit) if self._due else self._limit

    def handle_timeout(self, now: float) -> None:
        """Send what is due, or give up."""
        if self._state in (_State.IDLE, _State.OVER):
            return
        if now >= self._limit:
            failed = PathFailed(self._reason())
            self._end(failed if self._state is _State.CHECKING else ConsentExpired())
        elif self._due and self._due[0] <= now:
            # a late wake-up sends one check, not all that were missed
            self._due = [due for due in self._due if due > now]
            self._check(now)
            if self._state is _State.VALID:
                self._due = [now + self._consent_gap()]

    def receive_datagram(self, datagram: bytes, now: float) -> None:
        """Take a datagram from the peer that looks like STUN. Never raises for what it holds."""
        try:
            message = parse_stun(datagram)
        except MalformedPacket:
            self.counters["stun-malformed"] += 1
            return
        if self._remote is None or self._state is _State.OVER or message.method != BINDING:
            self.counters["stun-unexpected"] += 1
        elif message.message_class is MessageClass.REQUEST and self._address is not None:
            self._answer(message, self._address, now)
        elif message.transaction_id in self._asked and message.message_class in _ANSWERS:
            self._receive_answer(message, self._remote.password, now)
        else:
            self.counters["stun-unexpected"] += 1

    def _answer(self, request: StunMessage, source: Address, now: float) -> None:
        refusal = self._gate.refusal(request)
        if refusal is None:
            self.counters["stun-checks"] += 1
            self._send(build_success(request.transaction_id, source, self._local.password))
            return
        answer = self._gate.refuse(request, refusal, now)
        if answer is not None:
            self._send(answer)

    def _receive_answer(self, answer: StunMessage, password: str, now: float) -> None:
        # Whatever is no proof leaves the transaction open. Most errors are not even signed, so a
        # stranger on the path could send them first; the peer's own answer must still count.
        if answer.error_code is not None:
            self.counters["stun-errors"] += 1
            self._error_codes[answer.error_code] += 1
            return
        if not answer.authentic(password):
            self.counters["stun-forged"] += 1
            return
        self.counters["stun-answers"] += 1
        self._rtt = now - self._asked.pop(answer.transaction_id)
        self._limit = now + self._timings.consent_timeout
        if self._state is _State.CHECKING:
            self._state = _State.VALID
            self._due = [now + self._consent_gap()]
            self._events.append(PathValid(self._rtt, answer.xor_mapped_address))

    def _check(self, now: float) -> None:
        assert self._remote is not None
        transaction_id = self._random_bytes(TRANSACTION_ID_LENGTH)
        self._asked[transaction_id] = now
        if len(self._asked) > MAX_TRANSACTIONS:
            del self._asked[next(iter(self._asked))]
        self.counters["stun-checks-sent"] += 1
        # When to nominate is for the controlling side to decide (RFC 8445 8.1.1), and with a single
        # pair there is nothing to wait for. Consent checks nominate as well, so that a lite peer
        # can follow when a NAT gives us another address.
        self._send(
            build_request(
                transaction_id,
                username=f"{self._remote.ufrag}:{self._local.ufrag}",
                password=self._remote.password,
                priority=_PRIORITY,
                tie_breaker=self._tie_breaker,
                use_candidate=True,
            )
        )

    def _send(self, datagram: bytes) -> None:
        if len(self._outbox) >= MAX_OUTBOX:
            self.counters["stun-unsent"] += 1
        else:
            self._outbox.append(datagram)

    def _consent_gap(self) -> float:
        jitter = self._timings.consent_jitter
        return self._timings.consent_interval * self._random.uniform(1 - jitter, 1 + jitter)

    def _end(self, event: IceEvent) -> None:
        self._state = _State.OVER
        self._due = []
        self._events.append(event)

    def _reason(self) -> str:
        sent = self.counters["stun-checks-sent"]
        codes, forged = self._error_codes, self.counters["stun-forged"]
        if len(codes) == 1 and not forged:
            code, count = next(iter(codes.items()))
            if count >= sent:
                cause = _CAUSES.get(code, "no cause is known")
                return f"the server answered {code} to every check: {cause}"
        seen = [f"error {code} ({count} times)" for code, count in sorted(codes.items())]
        if forged:
            seen.append(f"answers that do not authenticate ({forged} times)")
        what = ", ".join(seen) or "no answer at all"
        return f"{sent} checks in {self._timings.deadline:g} s brought {what}"
