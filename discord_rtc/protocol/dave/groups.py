"""The group that we are in or about to join, and for ten seconds the one before. Sans-I/O.

Spec: DAVE protocol whitepaper 1.1.4, "Decryption": receive keys stay usable for ten seconds.

Within a group the libraries keep old receive keys by themselves. They cannot when a group is
given up: after a commit that could not be processed, after a prepare-epoch, or when encryption
is turned off. The others still send with its keys for a while then. So a group that we were a
member of is not begun anew but put aside with its keys, and a new back end takes its place.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from discord_rtc.errors import DaveError
from discord_rtc.protocol.dave.backend import KEY_LIFETIME, DaveBackend, Undecryptable

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from discord_rtc.frames import MediaKind

logger = logging.getLogger("discord_rtc.protocol.dave")


class Groups:
    """Makes back ends, and decrypts with whichever has the key.

    Args:
        make_backend: Called when a group is to be joined and there is no back end without one.
            May raise `DaveUnavailable`.
        counters: Where to count.

    Attributes:
        current: The back end of the group that we are in or about to join; None at version 0.
        members: Users in the current epoch; empty while not in a group.
    """

    def __init__(self, make_backend: Callable[[], DaveBackend], counters: Counter[str]) -> None:
        self._make_backend = make_backend
        self._counters = counters
        self._external_sender: bytes | None = None
        self._former: DaveBackend | None = None
        self._former_until = 0.0
        self.current: DaveBackend | None = None
        self.members: frozenset[int] = frozenset()

    @property
    def epoch_authenticator(self) -> bytes | None:
        """32 bytes that all members of the epoch share; None while not in a group."""
        return self.current.epoch_authenticator if self.current and self.members else None

    def begin(self, version: int, now: float) -> bytes:
        """Leave the group, if there is one, and get ready to be added to a new one.

        Returns:
            A fresh key package, the payload of op 26.

        Raises:
            DaveError: The library failed.
            DaveUnavailable: There is no library.
        """
        self._put_aside(now)
        if self.current is None:
            self.current = self._make_backend()
            if self._external_sender is not None:
                self._give_external_sender(self.current, self._external_sender)
        return self.current.begin(version)

    def end(self, now: float) -> None:
        """Leave the group, if there is one: frames are not encrypted any more."""
        self._put_aside(now)
        self.current = None

    def set_external_sender(self, payload: bytes) -> bool:
        """Remember whom to accept proposals from, for this group and all that follow.

        Returns:
            Whether it is another one than before. That is ignored while we are in a group.
        """
        if payload == self._external_sender:
            return False
        if self.members:
            self._counters["external-sender-ignored"] += 1
            return False
        if self.current is not None and not self._give_external_sender(self.current, payload):
            return False
        self._external_sender = payload
        return True

    def refresh(self) -> frozenset[int]:
        """Read who is in the group after a commit or a welcome; returns who was not before."""
        before = self.members
        self.members = frozenset() if self.current is None else self.current.members
        return self.members - before

    def decrypt(self, user_id: int, kind: MediaKind, frame: bytes) -> bytes | Undecryptable | None:
        """Decrypt with the keys of the group, or else of the one before.

        Args:
            user_id: Who sent it.
            kind: Audio or video.
            frame: One that looks encrypted.

        Returns:
            None when there is neither group, so that nothing can be said.
        """
        result: bytes | Undecryptable | None = None
        if self.current is not None and self.members:
            result = self.current.decrypt(user_id, kind, frame)
            if isinstance(result, bytes):
                return result
        if self._former is not None:
            older = self._former.decrypt(user_id, kind, frame)
            if isinstance(older, bytes):
                self._counters["decrypted-by-former-group"] += 1
                return older
            if result is None or older is Undecryptable.FAILED:
                result = older
        return result

    def next_timeout(self) -> float | None:
        """When the keys of the group before end; None when there is none."""
        return None if self._former is None else self._former_until

    def handle_timeout(self, now: float) -> None:
        """Forget the keys of the group before in time."""
        if self._former is not None and now >= self._former_until:
            self._former.reset()
            self._former = None

    def _put_aside(self, now: float) -> None:
        if self.current is not None and self.members:
            if self._former is not None:
                self._former.reset()
            self._former = self.current
            self._former_until = now + KEY_LIFETIME
            self.current = None
        self.members = frozenset()

    def _give_external_sender(self, backend: DaveBackend, payload: bytes) -> bool:
        try:
            backend.set_external_sender(payload)
        except DaveError as error:
            self._counters["bad-external-senders"] += 1
            logger.warning("! the external sender was refused: %s", error)
            return False
        return True
