"""The group of a call from epoch to epoch: what is proposed, and which commit wins. Sans-I/O.

Nothing is remembered as "to do". `CallGroup.advance` compares who is in the call with who sits in
the tree and proposes the difference:

* no group, two key packages: to each user the additions of the others. Who comes in the first
  half second is added to what is in flight; who comes later waits for the group.
* a group: removals of leaves that nobody uses and additions of whoever has a key package, to all
  members. A leaf is used by nobody when its user has left, has come back, or has lost the group
  (op 31, another key package). So a reconnect is a removal and an addition in one batch.

What comes while a batch is in flight waits for the next epoch, with two exceptions, for which
the batch is revoked from everybody and issued anew: somebody whom it adds is gone; or somebody
has left whom it does not remove while it adds somebody else. A newcomer would refuse a group with
a member in it whom he does not know from op 11.

Nothing is proposed or revoked for a moment after a client was given the Session Description once
more, until it says with a key package that it has begun anew, or with silence that it has not:
discord.py never reads again after an op 27 of an epoch that it is not in.

Spec: DAVE protocol whitepaper 1.1.4, "Group Management", "Commit Handling".
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedMessage
from discord_rtc.server.dave_group import Batch, CommitRefused, Leaves, check_commit
from discord_rtc.server.mls import LeafIdentity, parse_commit_welcome, welcome_for

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from discord_rtc.server.dave_outbox import Outbox
    from discord_rtc.server.dave_participants import Participant
    from discord_rtc.server.mls import CommitWelcome, ExternalSender, Proposal

COMMIT_TIMEOUT = 1.0
"""Seconds until a batch that nobody commits to is issued anew; a slow client needs a quarter of
that for a commit in a group of 50."""

LONGEST_COMMIT_TIMEOUT = 30.0

TRIES = 3
"""Batches in a row without a commit after which everybody should begin anew. From then on the
time to commit doubles with each such round."""

EXTENSION_SPAN = 0.5
"""Seconds in which newcomers are added to the proposals for a first group. Each one makes all
others commit again, and joins could come faster than commits for ever."""

PACKAGE_GRACE = 0.5
"""Seconds that a user who lost the group has for another key package, so that one commit can
remove and add him."""

_LOG = logging.getLogger("discord_rtc.server")


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """What a commit brought about.

    Attributes:
        committer: Whose commit it was.
        is_first: Whether it made the group.
        commit: For op 29, verbatim.
        receivers: Members who had its proposals, the committer too; of a first one only he.
        welcomes: Who was added, with the payload of his op 30.
        removed: Leaves that were removed.
    """

    committer: Participant
    is_first: bool
    commit: bytes
    receivers: tuple[Participant, ...]
    welcomes: tuple[tuple[Participant, bytes], ...]
    removed: frozenset[int]

    @property
    def affected(self) -> list[Participant]:
        """Everybody who changes keys."""
        return [*self.receivers, *(user for user, _ in self.welcomes)]


class CallGroup:
    """The group of a call, and the proposals that are in flight.

    Args:
        group_id: Of the call.
        sender: Signs the proposals.
        users: Everybody in the call, by user id; kept up to date by its owner.
        outbox: Takes op 27.
        counters: Where to count.

    Attributes:
        epoch: 0 while there is no group.
    """

    def __init__(
        self,
        group_id: int,
        sender: ExternalSender,
        users: Mapping[int, Participant],
        outbox: Outbox,
        counters: Counter[str],
    ) -> None:
        self.epoch = 0
        self._group_id = group_id
        self._sender = sender
        self._users = users
        self._outbox = outbox
        self._counters = counters
        self._leaves = Leaves()
        self._batch: Batch | None = None
        self._failures = 0  # batches in a row without a commit
        self._wake: float | None = None

    @property
    def established(self) -> bool:
        """Whether there is a group."""
        return bool(self._leaves)

    @property
    def members(self) -> list[Participant]:
        """Users whose group is intact."""
        return [user for user in self._users.values() if user.leaf is not None]

    def next_timeout(self) -> float | None:
        """When `handle_timeout` or `advance` has something to do."""
        if self._batch is None or self._wake is None:
            return self._wake if self._batch is None else self._batch.deadline
        return min(self._wake, self._batch.deadline)

    def handle_timeout(self, now: float) -> bool:
        """Take a batch back that nobody commits to.

        Returns:
            Whether that has happened so often that everybody should begin anew.
        """
        batch = self._batch
        if batch is None or now < batch.deadline:
            return False
        if self._unsettled_until() > now:
            batch.deadline = self._unsettled_until()
            return False
        if all(self._users[user_id].away for user_id in batch.delivered):
            batch.deadline = now + COMMIT_TIMEOUT
            return False
        self._counters["commit-timeouts"] += 1
        self._failures += 1
        _LOG.warning("%% call %d: no commit in epoch %d", self._group_id, self.epoch)
        self._withdraw(batch)
        return self._failures % TRIES == 0

    def advance(self, now: float) -> bool:
        """Propose what is to be proposed.

        Returns:
            False when a group cannot be made, as it is not known what the clients have: everybody
            should begin anew.
        """
        self._wake = None
        if self._unsettled_until() > now:
            self._wake_at(self._unsettled_until())
            return True
        if self._batch is not None and not self._fits(self._batch):
            self._withdraw(self._batch)
        if self._batch is not None:
            if not self.established:
                self._extend(self._batch, now)
            return True
        if self.established:
            self._propose_changes(now)
            return True
        return self._propose_group(now)

    def retire(self, user_id: int) -> None:
        """A user is gone, or has begun anew: he does not have what is in flight any more."""
        self._outbox.forget(user_id)
        if self._batch is not None:
            self._batch.delivered.pop(user_id, None)

    def forget(self) -> None:
        """There is no group any more."""
        self._leaves.clear()
        self.epoch = 0
        self._batch = None
        self._wake = None
        self._outbox.forget()
        for user in self._users.values():
            user.leaf = None

    def take_commit(self, user: Participant, payload: bytes, now: float) -> NewEpoch | None:
        """Take an op 28. What does not count is dropped without a word, but counted."""
        batch = self._batch
        if batch is None or user.user_id not in batch.delivered or not self._fits(batch):
            self._counters["commit-late"] += 1  # perhaps to what will be revoked in a moment
        elif not batch.spend_commit(user.user_id):
            self._counters["commit-flood"] += 1
        else:
            try:
                commit = parse_commit_welcome(payload)
                key = self._signature_key(user)
                check_commit(commit, self._group_id, batch, user.user_id, (user.leaf or 0, key))
            except MalformedMessage as error:
                self._counters["commit-malformed"] += 1
                _LOG.warning("! commit of user %d: %s", user.user_id, error)
            except CommitRefused as error:
                self._counters[str(error)] += 1
                _LOG.debug("! commit of user %d: %s", user.user_id, error)
            else:
                return self._accept(user, commit, batch, now)
        return None

    def _fits(self, batch: Batch) -> bool:
        """Whether what is in flight still leads where it should."""
        if not batch.delivered:
            return False
        for user_id, package in batch.added.items():
            user = self._users.get(user_id)
            if user is None or (not self.established and user.package is not package):
                return False
        return not batch.added or not any(
            leaf.user_id not in self._users and index not in batch.removed
            for index, leaf in self._leaves
        )

    def _propose_changes(self, now: float) -> None:
        additions = self._addable(now)
        removals = [index for index, leaf in self._leaves if self._is_void(index, leaf, now)]
        if additions or removals:
            self._issue(self.members, removals, additions, now)

    def _propose_group(self, now: float) -> bool:
        additions = self._addable(now)
        receivers = [user for user in additions if not user.unsure]
        if len(additions) < 2:
            return True
        if receivers:
            self._issue(receivers, [], additions, now)
        return bool(receivers)

    def _issue(
        self,
        receivers: list[Participant],
        removals: list[int],
        additions: list[Participant],
        now: float,
    ) -> None:
        time = min(COMMIT_TIMEOUT * 2 ** (self._failures // TRIES), LONGEST_COMMIT_TIMEOUT)
        batch = self._batch = Batch(self.epoch, now, now + time)
        batch.put(self._sender.remove(self._group_id, self.epoch, leaf) for leaf in removals)
        batch.put(self._additions(additions))
        self._deliver(batch, [user.user_id for user in receivers])

    def _extend(self, batch: Batch, now: float) -> None:
        if now > batch.issued + EXTENSION_SPAN:
            return
        new = [user for user in self._addable(now) if user.user_id not in batch.added]
        if new:
            batch.put(self._additions(new))
            receivers = [user.user_id for user in new if not user.unsure]
            self._deliver(batch, [*batch.delivered, *receivers])

    def _deliver(self, batch: Batch, receivers: list[int]) -> None:
        for user_id in receivers:
            self._users[user_id].has_proposals = not self.established
        deliveries = {user_id: batch.deliver(user_id) for user_id in receivers}
        self._outbox.propose({user_id: new for user_id, new in deliveries.items() if new})

    def _withdraw(self, batch: Batch) -> None:
        self._counters["batches-withdrawn"] += 1
        self._batch = None
        for user_id, proposals in batch.delivered.items():
            self._users[user_id].has_proposals = False
            if proposals:
                self._outbox.revoke(user_id, proposals.values())

    def _additions(self, users: list[Participant]) -> list[Proposal]:
        packages = [user.package for user in users if user.package is not None]
        return [self._sender.add(self._group_id, self.epoch, package) for package in packages]

    def _addable(self, now: float) -> list[Participant]:
        """Who has a key package and may use it now."""
        addable = []
        for user in self._users.values():
            if user.package is None:
                continue
            if user.may_be_added_at() <= now:
                addable.append(user)
            else:
                self._wake_at(user.may_be_added_at())
        return addable

    def _is_void(self, index: int, leaf: LeafIdentity, now: float) -> bool:
        """Whether a leaf is to be removed now: nobody uses it any more."""
        user = self._users.get(leaf.user_id)
        if user is None:
            return True
        if user.leaf == index:
            return False
        grace_ends = user.reset_at + PACKAGE_GRACE
        if user.package is None and now < grace_ends:
            self._wake_at(grace_ends)
            return False
        return True

    def _unsettled_until(self) -> float:
        """Until when some client could refuse any op 27, as it may be beginning anew."""
        return max((user.unsettled_until for user in self._users.values()), default=float("-inf"))

    def _wake_at(self, at: float) -> None:
        self._wake = at if self._wake is None else min(self._wake, at)

    def _accept(
        self, committer: Participant, commit: CommitWelcome, batch: Batch, now: float
    ) -> NewEpoch:
        self._failures = 0
        self._batch = None
        self.epoch += 1
        is_first = not self.established
        receivers = [self._users[user_id] for user_id in batch.delivered]
        if is_first:
            receivers = [committer]
            key = self._signature_key(committer)
            committer.entered(self._leaves.add(LeafIdentity(committer.user_id, key)))
        for index in batch.removed:
            self._leaves.remove(index)
        welcomes = self._seat(commit, batch, now)
        return NewEpoch(
            committer, is_first, commit.commit, tuple(receivers), tuple(welcomes), batch.removed
        )

    def _seat(
        self, commit: CommitWelcome, batch: Batch, now: float
    ) -> list[tuple[Participant, bytes]]:
        """Give the added their leaves in the order of the commit; who can be welcomed, and how."""
        welcomes = []
        for ref in commit.refs:
            package = batch.proposals[ref].package
            if package is None:
                continue
            leaf = self._leaves.add(LeafIdentity(package.user_id, package.signature_key))
            user = self._users[package.user_id]
            user.addition_spent(now)
            if user.package is package:
                assert commit.welcome is not None
                user.entered(leaf)
                welcomes.append((user, welcome_for(commit.welcome, package.ref)))
            else:  # there is a newer one: the client cannot open this welcome any more
                self._counters["additions-void"] += 1
        return welcomes

    def _signature_key(self, user: Participant) -> bytes:
        if user.leaf is not None:
            return self._leaves[user.leaf].signature_key
        assert user.package is not None
        return user.package.signature_key
