"""Transitions as the server conducts them: their ids, and who is waited for. Sans-I/O.

A transition is open from the message that prepares it (op 21, 29 or 30) until op 22. One is open
at a time: whatever comes next, the next proposals too, waits until it is over. That costs a round
trip, and two seconds if somebody is silent, and in return nobody is ever asked to commit in an
epoch that he has not entered.

Spec: DAVE protocol whitepaper 1.1.4, "Transitions".
"""

from __future__ import annotations

from dataclasses import dataclass

READY_TIMEOUT = 2.0
"""Seconds that op 23 is waited for; about what is seen of Discord (protocol reference)."""

_LAST_ID = 0xFFFF


class TransitionIds:
    """Ids of a call's transitions: 1 to 65535, over and over. 0 is for the first group."""

    def __init__(self) -> None:
        self._latest = 0

    def take(self) -> int:
        """The next one."""
        self._latest = self._latest % _LAST_ID + 1
        return self._latest


@dataclass(eq=False, slots=True)
class OpenTransition:
    """One that was prepared and is not executed yet.

    Attributes:
        transition_id: Not 0.
        version: Protocol version from then on.
        affected: Who was told to prepare for it, and is still there, in order.
        awaited: Whose op 23 is waited for.
        deadline: When it is executed in any case.
        late: Whether it is over but for an op 22 that is late on purpose.
    """

    transition_id: int
    version: int
    affected: list[int]
    awaited: set[int]
    deadline: float
    late: bool = False

    def answered(self, user_id: int) -> bool:
        """Take an op 23; False when it is not waited for."""
        if user_id not in self.awaited:
            return False
        self.awaited.remove(user_id)
        return True

    def forget(self, user_id: int) -> None:
        """A user is gone, or has no use for it any more."""
        self.awaited.discard(user_id)
        if user_id in self.affected:
            self.affected.remove(user_id)
