"""The group of a call as the server sees it: its leaves, and the proposals in flight. Sans-I/O.

The server is no member, but it can tell from the commits who sits where: removals blank a leaf,
additions take the leftmost blank one. It has to, because removals name leaves.

One *batch* of proposals is in flight at a time. What has to be known about clients here, found
by driving davey 0.1.7 and dave.py 1.1.0:

* davey's commit has a welcome only if the op 27 that led to it had an addition in it. So an op 27
  after the first one of a batch must add somebody too, and what is left after a revocation is no
  batch any more: it is revoked whole, and proposed anew in one op 27. Both libraries take that.
* Both refuse a revocation of what they do not have, and both take the same proposal twice and
  then need it revoked twice. So it is kept for each user what he was given, and a user of whom
  that is not certain is given nothing more.
* dave.py commits to nothing, with a path, when all was revoked. That commit is not accepted.

Spec: RFC 9420 sections 7.7 and 12.4.2; DAVE protocol whitepaper 1.1.4, "Group Management".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from discord_rtc.server.mls import CommitWelcome, KeyPackage, LeafIdentity, Proposal

SPARE_COMMITS = 8
"""Commits that are read of one user for one batch, besides one for each op 27 that he was given:
those to a batch that was revoked, and one for the revocation, come when the next is in flight."""


class CommitRefused(Exception):
    """A commit that does not count; the argument is the name of a counter."""


class Leaves:
    """Who sits on which leaf of the group's tree. Without members there is no group."""

    def __init__(self) -> None:
        self._leaves: list[LeafIdentity | None] = []

    def __bool__(self) -> bool:
        return bool(self._leaves)

    def __iter__(self) -> Iterator[tuple[int, LeafIdentity]]:
        """The leaves that are not blank, with their indices, ascending."""
        for index, identity in enumerate(self._leaves):
            if identity is not None:
                yield index, identity

    def __getitem__(self, index: int) -> LeafIdentity:
        """Who sits on a leaf; LookupError when it is blank or there is none."""
        identity = self._leaves[index]
        if identity is None:
            raise LookupError(f"leaf {index} is blank")
        return identity

    def clear(self) -> None:
        """Forget the group."""
        self._leaves.clear()

    def remove(self, index: int) -> None:
        """Blank a leaf; trailing blanks go."""
        self._leaves[index] = None
        while self._leaves and self._leaves[-1] is None:
            self._leaves.pop()

    def add(self, identity: LeafIdentity) -> int:
        """Put somebody on the leftmost blank leaf, or on a new one; its index."""
        for index, occupied in enumerate(self._leaves):
            if occupied is None:
                self._leaves[index] = identity
                return index
        self._leaves.append(identity)
        return len(self._leaves) - 1


@dataclass(eq=False, slots=True)
class Batch:
    """The proposals of one epoch that are in flight.

    Attributes:
        epoch: The epoch to which they apply.
        issued: When the first of them was sent.
        deadline: When a commit must have come.
        proposals: All of them by reference, removals first.
        delivered: What each receiver was given and still has, by reference. Users who are not
            in it may not commit.
        spare: How many more commits of each receiver are read.
    """

    epoch: int
    issued: float
    deadline: float
    proposals: dict[bytes, Proposal] = field(default_factory=dict)
    delivered: dict[int, dict[bytes, Proposal]] = field(default_factory=dict)
    spare: dict[int, int] = field(default_factory=dict)

    @property
    def added(self) -> dict[int, KeyPackage]:
        """Key packages of those whom it adds, by user."""
        packages = (each.package for each in self.proposals.values() if each.package is not None)
        return {package.user_id: package for package in packages}

    @property
    def removed(self) -> frozenset[int]:
        """Leaves that it removes."""
        leaves = (each.leaf for each in self.proposals.values())
        return frozenset(leaf for leaf in leaves if leaf is not None)

    def put(self, proposals: Iterable[Proposal]) -> None:
        """Take proposals in, before they are delivered."""
        self.proposals.update({each.ref: each for each in proposals})

    def deliver(self, user_id: int) -> list[Proposal]:
        """Note that a user is given what he does not have yet; his own addition he never gets.

        Returns:
            The proposals to send to him, possibly none.
        """
        had = self.delivered.setdefault(user_id, {})
        new = [
            proposal
            for ref, proposal in self.proposals.items()
            if ref not in had
            and not (proposal.package is not None and proposal.package.user_id == user_id)
        ]
        had.update({proposal.ref: proposal for proposal in new})
        self.spare[user_id] = self.spare.get(user_id, SPARE_COMMITS) + 1
        return new

    def spend_commit(self, user_id: int) -> bool:
        """Whether one more commit of a receiver is read."""
        self.spare[user_id] -= 1
        return self.spare[user_id] >= 0


def check_commit(
    commit: CommitWelcome, group_id: int, batch: Batch, user_id: int, place: tuple[int, bytes]
) -> None:
    """Tell whether a commit is to a batch, and nothing else.

    Args:
        commit: As read.
        group_id: Of the call.
        batch: What is in flight; the user must be one of its receivers.
        user_id: Who sent it.
        place: The sender's leaf index and signature key.

    Raises:
        CommitRefused: With the name of the counter of such commits.

    Spec:
        DAVE protocol whitepaper 1.1.4, "DAVE MLS Commit Welcome (28)".
    """
    given = batch.delivered[user_id]
    if commit.group_id != group_id:
        raise CommitRefused("commit-of-another-group")
    if commit.epoch != batch.epoch:
        raise CommitRefused("commit-of-another-epoch")
    if commit.sender_leaf != place[0]:
        raise CommitRefused("commit-of-another-leaf")
    if not given or set(commit.refs) != given.keys():
        raise CommitRefused("commit-to-other-proposals")
    _check_path(commit, given.values(), (user_id, place[1]))
    _check_welcome(commit, given.values())


def _check_path(
    commit: CommitWelcome, given: Iterable[Proposal], identity: tuple[int, bytes]
) -> None:
    leaf = commit.path_leaf
    if leaf is None:
        if any(proposal.kind == "remove" for proposal in given):
            raise CommitRefused("commit-without-path")
    elif (leaf.user_id, leaf.signature_key) != identity:
        raise CommitRefused("commit-of-another-identity")


def _check_welcome(commit: CommitWelcome, given: Iterable[Proposal]) -> None:
    packages = {proposal.package.ref for proposal in given if proposal.package is not None}
    # Without a welcome, or with one for fewer, those added could never find their way in.
    if set(commit.welcome_refs) != packages:
        raise CommitRefused("commit-without-welcome")
