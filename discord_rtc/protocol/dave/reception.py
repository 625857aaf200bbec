"""What becomes of a frame of somebody else. Sans-I/O.

Spec: DAVE protocol whitepaper 1.1.4, "Decryption", "Passthrough".

A frame that looks encrypted by its trailer is decrypted, any other passes only while senders
may have reason to send in the clear: at version 0, while a downgrade is prepared and for ten
seconds after an upgrade. The Opus silence frame is exempt and always passes.

At version 0 a frame with a trailer is one of two things: one that its sender encrypted before a
downgrade, or a plain one that ends like a trailer by chance. The keys of the group before
decide for ten seconds; later, or when there never was a group, it is taken as plain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.frames import OPUS_SILENCE, MediaKind
from discord_rtc.protocol.dave.backend import Undecryptable
from discord_rtc.protocol.dave.events import Undecrypted
from discord_rtc.protocol.dave.frame import is_encrypted
from discord_rtc.protocol.dave.recovery import FailureWatch

if TYPE_CHECKING:
    from discord_rtc.protocol.dave.groups import Groups
    from discord_rtc.protocol.dave.transitions import OpenTransitions

_PLAIN_AFTER_UPGRADE = 10.0  # whitepaper, "Passthrough"; the same in discord.py
_COMMIT_EXPECTED = 2.0
"""Seconds after proposals in which a sender may be in the next epoch before us (davey)."""
_MEMBER_SPAN = 1.0
_JOINING_SPAN = 2.5
"""Seconds. While we are not in the group at all its members' frames fail for good reason; only
when nothing happens for long was our welcome lost."""


class Reception:
    """Decides about frames of others, and watches whether too many fail.

    Args:
        groups: The keys.
        transitions: The open transitions.

    Attributes:
        version: Protocol version in force; None before the first Session Description.
    """

    def __init__(self, groups: Groups, transitions: OpenTransitions) -> None:
        self._groups = groups
        self._transitions = transitions
        self._plain_until = float("-inf")
        self._upgrading = False
        self._commit_expected_until = float("-inf")
        self._member_watch = FailureWatch(_MEMBER_SPAN)
        self._joining_watch = FailureWatch(_JOINING_SPAN)
        self._distress: str | None = None
        self.version: int | None = None

    def decrypt(
        self, user_id: int, kind: MediaKind, frame: bytes, now: float
    ) -> bytes | Undecrypted:
        """See `DaveSession.decrypt`."""
        if not is_encrypted(frame):
            if self._may_be_plain(now) or (kind is MediaKind.AUDIO and frame == OPUS_SILENCE):
                return frame
            return Undecrypted("unencrypted", retry=False)
        result = self._groups.decrypt(user_id, kind, frame)
        if isinstance(result, bytes):
            self._member_watch.reset()
            return result
        if self.version == 0:
            return frame if result is None else Undecrypted(result.value, retry=False)
        self._watch(user_id, now)
        reason = Undecryptable.NO_KEY if result is None else result
        return Undecrypted(reason.value, retry=self._may_come(now))

    def take_distress(self) -> str | None:
        """Why the group has to be joined anew, once; None when all is well."""
        reason, self._distress = self._distress, None
        return reason

    def expect_commit(self, now: float) -> None:
        """Proposals came: some senders may be in the next epoch soon."""
        self._commit_expected_until = now + _COMMIT_EXPECTED
        self._joining_watch.reset()

    def keys_changed(self) -> None:
        """There is another group, epoch or transition: failures up to now mean nothing."""
        self._distress = None
        self._member_watch.reset()
        self._joining_watch.reset()

    def upgrade_begun(self, now: float) -> None:
        """From version 0 up: the others may send in the clear until they have the group."""
        self._upgrading = True
        self._plain_until = now + _PLAIN_AFTER_UPGRADE

    def upgrade_executed(self, now: float) -> None:
        """We send encrypted; those who were told the same later may still be plain."""
        if self._upgrading and now < self._plain_until:
            self._plain_until = now + _PLAIN_AFTER_UPGRADE
        self._upgrading = False

    def _may_be_plain(self, now: float) -> bool:
        return self.version == 0 or self._transitions.downgrading or now < self._plain_until

    def _may_come(self, now: float) -> bool:
        joining = not self._groups.members
        return joining or len(self._transitions) > 0 or now < self._commit_expected_until

    def _watch(self, user_id: int, now: float) -> None:
        members = self._groups.members
        if self.version is None or len(self._transitions) > 0:
            return
        if not members:
            if self._joining_watch.failure(now):
                self._distress = "others are encrypting, but no welcome came"
        elif user_id in members and self._member_watch.failure(now):
            self._distress = "frames of members could not be decrypted for long"
