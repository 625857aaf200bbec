"""Which Binding requests are let in, and what the others are told. Sans-I/O.

Spec: RFC 8489 section 9.1.3 (short-term credentials), RFC 8445 sections 7.3 and 7.3.1.1 (roles).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from discord_rtc.ice.stun import build_error

if TYPE_CHECKING:
    from collections import Counter

    from discord_rtc.ice.credentials import IceCredentials
    from discord_rtc.ice.stun import StunMessage

ERRORS_PER_SECOND = 10
"""Refusals that are answered. A peer that does something wrong learns it from the first; the rest
of a flood is only counted, so that forged source addresses do not make a reflector of us."""


class Refusal(Enum):
    """Why a request is not let in; the value is the name of its counter."""

    INCOMPLETE = "stun-incomplete"
    WRONG_USERNAME = "stun-wrong-username"
    BAD_INTEGRITY = "stun-bad-integrity"
    UNKNOWN_ATTRIBUTE = "stun-unknown-attribute"
    ROLE_CONFLICT = "stun-role-conflict"


_CODES = {
    Refusal.INCOMPLETE: 400,
    Refusal.WRONG_USERNAME: 401,
    Refusal.BAD_INTEGRITY: 401,
    Refusal.UNKNOWN_ATTRIBUTE: 420,
    Refusal.ROLE_CONFLICT: 487,
}
_SIGNED = frozenset((420, 487))  # said to peers that were found authentic


class RequestGate:
    """Judges the requests that come to one side.

    Args:
        credentials: That side's.
        counters: Where refusals are counted.
        controlling: Its role, which it never changes: a lite side is always controlled, and
            whoever talks to a lite side always controls (RFC 8445 6.1.1).
    """

    def __init__(
        self, credentials: IceCredentials, counters: Counter[str], *, controlling: bool
    ) -> None:
        self._credentials = credentials
        self._counters = counters
        self._controlling = controlling
        self._remote_ufrag: str | None = None
        self._window_end = float("-inf")
        self._errors = 0

    def set_remote(self, ufrag: str) -> None:
        """Let only this peer in; before that, whoever knows our user name fragment and password."""
        self._remote_ufrag = ufrag

    def refusal(self, request: StunMessage) -> Refusal | None:
        """Why a request is refused; None when it is let in."""
        if request.signed is None or request.username is None:
            return Refusal.INCOMPLETE
        if not self._is_for_us(request.username):
            return Refusal.WRONG_USERNAME
        if not request.authentic(self._credentials.password):
            return Refusal.BAD_INTEGRITY
        if request.unknown:
            return Refusal.UNKNOWN_ATTRIBUTE
        # every check names its sender's role (RFC 8445 7.1.2), and it must not be ours
        if (request.controlled if self._controlling else request.controlling) is None:
            return Refusal.ROLE_CONFLICT
        return None

    def _is_for_us(self, username: str) -> bool:
        ours, colon, theirs = username.partition(":")
        if ours != self._credentials.ufrag or not colon:
            return False
        return self._remote_ufrag is None or theirs == self._remote_ufrag

    def refuse(self, request: StunMessage, refusal: Refusal, now: float) -> bytes | None:
        """Count a refusal and build its answer; None when there were too many in this second.

        Args:
            request: What is refused.
            refusal: Why.
            now: Monotonic seconds.
        """
        self._counters[refusal.value] += 1
        if now >= self._window_end:
            self._window_end = now + 1.0
            self._errors = 0
        self._errors += 1
        if self._errors > ERRORS_PER_SECOND:
            self._counters["stun-limited"] += 1
            return None
        code = _CODES[refusal]
        return build_error(
            request.transaction_id,
            code,
            password=self._credentials.password if code in _SIGNED else None,
            unknown=request.unknown if refusal is Refusal.UNKNOWN_ATTRIBUTE else (),
        )
