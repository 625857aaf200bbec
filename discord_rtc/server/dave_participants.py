"""The users of a call as its delivery service knows them. Sans-I/O.

Spec: DAVE protocol whitepaper 1.1.4, "Group Management".
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from discord_rtc.server.ratelimit import MessageRate

if TYPE_CHECKING:
    from discord_rtc.server.mls import KeyPackage

MOST_ADDITIONS = 4
"""Additions of one user to the group within `ADDITIONS_SPAN`. Each one costs the whole call an
epoch, and a user could otherwise ask for one with each op 26 or 31."""

ADDITIONS_SPAN = 4.0  # seconds

_PACKAGES_PER_SECOND = 5  # read; two signatures are verified for each

_INVITATION_PAUSE = 10.0
"""Least seconds between two invitations to begin anew: it may be a client that never sends
op 23 at all."""


RESTART_TIME = 0.5
"""Seconds that a client has for a new key package after it was given the Session Description once
more: discord.py begins anew then, our client does not."""

_RESTART_PAUSE = 5.0
"""Seconds until a client is given that time again: all others wait, too."""


@dataclass(eq=False, slots=True)
class Participant:
    """One user in the call.

    Attributes:
        user_id: Who.
        max_version: What the client supports; 0 is no encryption.
        told: The protocol version that the client was told last, 0 or 1.
        has_sender: Whether the client had use for op 25, and so has it.
        package: What adds the user next time.
        leaf: Where the user sits, while a member whose group is intact.
        reset_at: When a member last lost the group.
        has_proposals: Given proposals for a group of its own, at epoch 0.
        unsure: What of those the client still has is not known, as it sent another key package
            in the meantime; it is given nothing before it is a member.
        unread: A key package that came too soon after others, the newest of those; it is read
            when `read_at` has come, as its client may have no other.
        silent: Did not answer with op 23 and is not waited for until it does.
        away: The websocket is gone and may come back.
        unsettled_until: Until when it is not known whether the client is beginning anew.
    """

    user_id: int
    max_version: int
    told: int
    has_sender: bool
    package: KeyPackage | None = None
    leaf: int | None = None
    reset_at: float = float("-inf")
    has_proposals: bool = False
    unsure: bool = False
    unread: bytes | None = None
    read_at: float = 0.0
    silent: bool = False
    away: bool = False
    unsettled_until: float = float("-inf")
    _packages: MessageRate = field(default_factory=lambda: MessageRate(_PACKAGES_PER_SECOND))
    _additions: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_ADDITIONS))
    _invite_after: float = float("-inf")

    def floods(self, payload: bytes, now: float) -> bool:
        """Count a key package that came; whether it is one too many, and put off therefore."""
        if not self._packages.exceeded(now):
            self.unread = None
            return False
        if self.unread is None:
            self.read_at = now + 1.0
        self.unread = payload
        return True

    def may_be_added_at(self) -> float:
        """From when on the next addition may be proposed."""
        if len(self._additions) < MOST_ADDITIONS:
            return float("-inf")
        return self._additions[0] + ADDITIONS_SPAN

    def addition_spent(self, now: float) -> None:
        """Count an addition: it was committed, or given up for another key package."""
        self._additions.append(now)

    def may_be_invited(self, now: float) -> bool:
        """Whether to send op 24 to a user who seems to have lost track; counts as done."""
        if now < self._invite_after:
            return False
        self._invite_after = now + _INVITATION_PAUSE
        return True

    def described_again(self, now: float) -> None:
        """The client got another Session Description, after which it may begin anew."""
        if self.told and now >= self.unsettled_until + _RESTART_PAUSE:
            self.unsettled_until = now + RESTART_TIME

    def restarted(self, now: float) -> None:
        """The client has begun anew, or will."""
        self.unsettled_until = min(self.unsettled_until, now)

    def entered(self, leaf: int) -> None:
        """A commit made the user a member."""
        self.leaf = leaf
        self.package = None
        self.has_proposals = self.unsure = False

    def lost_group(self, now: float) -> None:
        """The client has left its group on its own and wants to be added anew."""
        self.leaf = None
        self.reset_at = now
        self.has_proposals = self.unsure = False

    def begin_anew(self, now: float) -> None:
        """Op 24 was sent: whatever the client had is gone."""
        self.restarted(now)
        self.lost_group(now)
        self.package = self.unread = None
