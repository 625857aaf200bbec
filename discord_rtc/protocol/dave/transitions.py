"""Transitions that were prepared and not yet executed. Sans-I/O.

Spec: DAVE protocol whitepaper 1.1.4, "Transitions".

The server prepares a transition (ops 21, 29, 30), collects a "ready" (op 23) from everybody and
says when to execute it (op 22), after some two seconds at the latest. Transition 0 is executed
at once and never gets here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter

EXECUTE_TIMEOUT = 2.5
"""Seconds after which a transition is executed without having been told to.

The server waits about 2 s for the others (protocol reference, "Server duties"). Who waits for a
lost op 22 without end keeps sending with a key that the others forget after ten seconds."""

_LIMIT = 16  # each is over after 2.5 s, so only a hostile server gets here
_REMEMBERED = 64  # ids that are over, in one way or another


@dataclass(frozen=True, slots=True)
class Transition:
    """One prepared change.

    Attributes:
        transition_id: 0 to 65535.
        version: Protocol version from then on.
        deadline: When to execute it unasked.
        new_epoch: Whether it comes of a commit or welcome, and so is void without the group.
    """

    transition_id: int
    version: int
    deadline: float
    new_epoch: bool


class OpenTransitions:
    """The prepared transitions in their order.

    At most 16; one more pushes out the oldest, counted as ``transitions-dropped``.

    Args:
        counters: Where to count.
    """

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._open: dict[int, Transition] = {}
        self._overdue: deque[int] = deque(maxlen=_REMEMBERED)
        self._prepared: deque[int] = deque(maxlen=_REMEMBERED)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def downgrading(self) -> bool:
        """Whether one of them turns encryption off."""
        return any(transition.version == 0 for transition in self._open.values())

    def open(self, transition: Transition) -> None:
        """Add one. Prepared a second time it keeps its deadline, so that it cannot be put off."""
        before = self._open.pop(transition.transition_id, None)
        if before is not None:
            transition = replace(
                transition,
                deadline=before.deadline,
                new_epoch=before.new_epoch or transition.new_epoch,
            )
        elif len(self._open) >= _LIMIT:
            del self._open[next(iter(self._open))]
            self._counters["transitions-dropped"] += 1
        self._open[transition.transition_id] = transition
        self._prepared.append(transition.transition_id)

    def is_unheard_of(self, transition_id: int) -> bool:
        """Whether the server speaks of a transition that comes after all we were told of.

        Ids count up and wrap; the first group of a call comes with 0, which is never here.
        """
        if transition_id == 0 or transition_id in self._prepared:
            return False
        last = self._prepared[-1] if self._prepared else 0
        return (transition_id - last) & 0xFFFF < 0x8000

    def execute(self, transition_id: int) -> Transition | None:
        """Take one that the server executes, and drop those before it: it supersedes them.

        Returns:
            None when it is not open; counted as ``late-executes`` when it was executed unasked
            before, otherwise as ``unknown-transitions``.
        """
        if transition_id not in self._open:
            late = transition_id in self._overdue
            self._counters["late-executes" if late else "unknown-transitions"] += 1
            return None
        return self._take(transition_id)

    def overdue(self, now: float) -> Transition | None:
        """Take one whose op 22 must be lost."""
        for transition in self._open.values():
            if now >= transition.deadline:
                self._overdue.append(transition.transition_id)
                return self._take(transition.transition_id)
        return None

    def next_timeout(self) -> float | None:
        """When the first is overdue; None when none is open."""
        return min((each.deadline for each in self._open.values()), default=None)

    def forget_epochs(self) -> None:
        """Drop those of a group that is lost; changes of version stay."""
        self._open = {key: each for key, each in self._open.items() if not each.new_epoch}

    def clear(self) -> None:
        """Drop all."""
        self._open.clear()

    def _take(self, transition_id: int) -> Transition:
        while True:
            first = next(iter(self._open))
            transition = self._open.pop(first)
            if first == transition_id:
                return transition
            self._counters["superseded"] += 1
