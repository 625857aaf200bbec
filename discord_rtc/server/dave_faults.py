"""Faults of the delivery service by script: what happens to ops 22, 27, 29 and 30. Sans-I/O.

Each fault happens so many times and is then used up. Asking for one again adds to what is left
of it. They may be set at any time and are shared by all calls of a server::

    faults.dave.lose_execute()                    # the next op 22 reaches nobody
    faults.dave.delay_execute(1.5)                # the next op 22 is 1.5 s late
    faults.dave.corrupt_welcome(user_id=5)        # the next welcome to user 5 cannot be opened
    faults.dave.proposals_out_of_order()          # the next batch comes in pieces, last one first
    faults.dave.clear()

All of them are legal for a network of servers to do, and a client has to recover from each:
lost and late op 22 by executing unasked, what cannot be processed by op 31. What never came
shows when the user does not answer with op 23; the service then sends him op 24 for a fresh
start.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from discord_rtc.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOG = logging.getLogger("discord_rtc.server")

DaveFault: TypeAlias = Literal[
    "lost-execute",
    "late-execute",
    "corrupt-commit",
    "corrupt-welcome",
    "lost-commit",
    "lost-welcome",
    "proposals-out-of-order",
    "proposals-after-commit",
]

MAX_DELAY = 10.0
"""Longest delay of an op 22 in seconds; keys of the epoch before are usable for as long."""


@dataclass(slots=True)
class _Rule:
    times: int
    user_id: int | None
    seconds: float = 0.0


class DaveFaults:
    """What goes wrong in the delivery of MLS messages. See the module's text for how to use it."""

    def __init__(self) -> None:
        self._rules: dict[DaveFault, list[_Rule]] = {}
        self._counters: Counter[str] = Counter()

    @property
    def counters(self) -> Mapping[str, int]:
        """How often each fault happened so far, by the names of `DaveFault`."""
        return self._counters

    def lose_execute(self, times: int = 1, *, user_id: int | None = None) -> None:
        """Op 22 is not sent.

        Args:
            times: How many transitions, or, with a user, how many messages.
            user_id: Who does not get it; nobody does by default.
        """
        self._add("lost-execute", times, user_id)

    def delay_execute(self, seconds: float, times: int = 1) -> None:
        """Op 22 is sent that much later, to everybody; what comes after it waits.

        Args:
            seconds: More than 0, 10 at most.
            times: How many transitions.

        Raises:
            UsageError: No such delay.
        """
        if not 0.0 < seconds <= MAX_DELAY:
            raise UsageError(f"op 22 can be late by up to {MAX_DELAY:.0f} s, not {seconds}")
        self._add("late-execute", times, None, seconds)

    def corrupt_commit(self, times: int = 1, *, user_id: int | None = None) -> None:
        """The last byte of op 29 is another: a tag that only members can check is wrong.

        The first commit of a group is spared: only its committer gets it, and takes one that is
        not his own for that of somebody else.

        Args:
            times: How many commits.
            user_id: Who gets it so; everybody by default, the committer too.
        """
        self._add("corrupt-commit", times, user_id)

    def corrupt_welcome(self, times: int = 1, *, user_id: int | None = None) -> None:
        """The last byte of op 30 is another: it does not decrypt.

        Args:
            times: How many welcomes.
            user_id: Whose; that of whoever comes next by default.
        """
        self._add("corrupt-welcome", times, user_id)

    def lose_commit(self, times: int = 1, *, user_id: int | None = None) -> None:
        """Op 29 is not sent; not that of the first commit of a group.

        Args:
            times: How many messages.
            user_id: To whom; to whoever comes next by default.
        """
        self._add("lost-commit", times, user_id)

    def lose_welcome(self, times: int = 1, *, user_id: int | None = None) -> None:
        """Op 30 is not sent.

        Not one of transition 0, by which a group begins: nobody answers that with op 23, so
        nobody but the user, who waits, can know.

        Args:
            times: How many messages.
            user_id: To whom; to whoever comes next by default.
        """
        self._add("lost-welcome", times, user_id)

    def proposals_out_of_order(self, times: int = 1, *, after_commit: bool = False) -> None:
        """Op 27 comes in another order.

        Args:
            times: How many batches.
            after_commit: One of the receivers of a batch gets it after the commit to it, which he
                cannot process then. discord.py 2.7.1 does not survive that: proposals of an
                epoch that is over end its reader. By default a batch of several proposals comes
                in one op 27 for each, the last proposal first.
        """
        self._add("proposals-after-commit" if after_commit else "proposals-out-of-order", times)

    def clear(self) -> None:
        """Nothing goes wrong any more. What was counted stays."""
        self._rules.clear()

    def take(self, fault: DaveFault, user_id: int | None = None) -> bool:
        """Whether a fault happens now, which is then counted. For the server's use.

        Args:
            fault: Which.
            user_id: Only what was asked for this user counts; None for what was asked for
                everybody, or for whoever comes next.
        """
        return self._take(fault, user_id) is not None

    def take_delay(self) -> float:
        """By how many seconds the op 22 at hand is late; counted. For the server's use."""
        rule = self._take("late-execute", None)
        return 0.0 if rule is None else rule.seconds

    def _add(
        self, fault: DaveFault, times: int, user_id: int | None = None, seconds: float = 0.0
    ) -> None:
        if times < 1:
            raise UsageError(f"a fault happens once at least, not {times} times")
        self._rules.setdefault(fault, []).append(_Rule(times, user_id, seconds))

    def _take(self, fault: DaveFault, user_id: int | None) -> _Rule | None:
        rules = self._rules.get(fault, [])
        for rule in rules:
            if rule.user_id == user_id:
                rule.times -= 1
                if not rule.times:
                    rules.remove(rule)
                self._counters[fault] += 1
                _LOG.info("! a fault that was asked for: %s", fault)
                return rule
        return None
