"""Who is known to be in the call, and so may be a member of its group. Sans-I/O.

Spec: DAVE protocol whitepaper 1.1.4, "Proposals" and "Welcome": a client takes no member that
the voice gateway did not announce.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

_USERS_LIMIT = 1000  # as many as the roster of a session keeps
_LEFT_RECENTLY = 10.0
"""Seconds. A welcome may have been on its way when one of its members left."""


class RecognisedUsers:
    """Users announced by op 11 and not yet gone by op 13, and always ourselves.

    At most 1000; those above are not recognised and counted as ``user-overflow``.

    Args:
        own_user_id: Ourselves. An op 13 about this user is about another session of ours.
        counters: Where to count.
    """

    def __init__(self, own_user_id: int, counters: Counter[str]) -> None:
        self._own_user_id = own_user_id
        self._counters = counters
        self._left: dict[int, float] = {}
        self.present = frozenset((own_user_id,))

    def join(self, user_ids: Iterable[int]) -> None:
        """Take in op 11."""
        present = set(self.present)
        for user_id in user_ids:
            if user_id not in present and len(present) >= _USERS_LIMIT:
                self._counters["user-overflow"] += 1
            else:
                present.add(user_id)
        self.present = frozenset(present)

    def leave(self, user_id: int, now: float) -> None:
        """Take in op 13."""
        if user_id == self._own_user_id or user_id not in self.present:
            return
        self.present -= {user_id}
        self._forget(now)
        self._left[user_id] = now

    def present_or_just_left(self, now: float) -> frozenset[int]:
        """Whom a welcome may list: who is here, and who was up to ten seconds ago."""
        self._forget(now)
        return self.present.union(self._left)

    def _forget(self, now: float) -> None:
        self._left = {user: at for user, at in self._left.items() if now - at < _LEFT_RECENTLY}
