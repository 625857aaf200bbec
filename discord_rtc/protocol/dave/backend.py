"""The port to whatever library carries MLS and frame encryption. Sans-I/O.

Two libraries implement it, each behind one module: `libdave` (PyPI ``dave.py``, Discord's own
implementation) and `davey`. A `DaveBackend` is one user's membership in the group of one call,
with the frame keys that come of it; what is done with it and when is the machine's business
(`discord_rtc.protocol.dave.session`).

Exception to "time is a parameter": both libraries let old receive keys live for ten seconds of
their own clock.

Spec: DAVE protocol whitepaper 1.1.4, "Group Management", "Frame Encryption".
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from discord_rtc.frames import Codec, MediaKind

DaveLibrary: TypeAlias = Literal["dave.py", "davey"]

PROTOCOL_VERSION = 1
"""The newest version of the protocol that both libraries speak."""

KEY_LIFETIME = 10.0
"""Seconds that receive keys of the epoch before stay usable (whitepaper, "Decryption")."""


class Undecryptable(StrEnum):
    """Why a frame could not be decrypted; the values are names of counters."""

    NO_KEY = "no-key"
    """Its sender is no member of the group as we know it."""
    FAILED = "undecryptable"
    """No key of this sender fits: another epoch, a replay or a forgery."""


class DaveBackend(Protocol):
    """One user's membership in the group of one call.

    Made for one user, one group id and, where there is one, a persistent identity key.
    Every method is synchronous; MLS steps take milliseconds, frames microseconds.
    """

    @property
    def library(self) -> DaveLibrary:
        """Which library this is."""
        ...

    @property
    def sender_follows_commit(self) -> bool:
        """Whether the sending key changes inside `process_commit` and `process_welcome`
        (davey) rather than with `switch_sender` (libdave).
        """
        ...

    @property
    def members(self) -> frozenset[int]:
        """Users in the current epoch, ourselves among them; empty without a group."""
        ...

    @property
    def epoch_authenticator(self) -> bytes | None:
        """32 bytes that all members of an epoch share; None without a group."""
        ...

    def begin(self, version: int) -> bytes:
        """Forget group and keys and get ready to be added to a new one.

        The external sender stays. The sending key is gone.

        Args:
            version: Protocol version, 1 or more.

        Returns:
            A fresh key package, the payload of op 26.
        """
        ...

    def reset(self) -> None:
        """Forget group and keys. The external sender stays."""
        ...

    def set_external_sender(self, payload: bytes) -> None:
        """Take whom to accept proposals from, before or after `begin`; kept for good.

        The same one again is no error; a different one in an established group is ignored.

        Args:
            payload: That of op 25.

        Raises:
            DaveError: It cannot be read.
        """
        ...

    def process_proposals(self, payload: bytes, recognised: AbstractSet[int]) -> bytes | None:
        """Take proposals to append or to revoke.

        Args:
            payload: That of op 27, operation byte included.
            recognised: Who may be added: everybody known to be in the call, ourselves too.

        Returns:
            The payload of op 28, when a commit comes of it.

        Raises:
            DaveError: They were refused: an unknown user, a wrong epoch or signature, ...
        """
        ...

    def process_commit(self, commit: bytes) -> bool:
        """Take the commit that the server announced (op 29, without transition id).

        Receive keys of the new epoch are there afterwards, the old ones for `KEY_LIFETIME` too.

        Returns:
            False when it is none of ours: somebody else's initial commit; a welcome follows.

        Raises:
            InvalidCommit: The group cannot take it.
        """
        ...

    def process_welcome(self, welcome: bytes, recognised: AbstractSet[int]) -> None:
        """Enter a group (op 30, without transition id). Receive keys as with a commit.

        Raises:
            InvalidCommit: It is not for us, not of our external sender, or somebody who is not
                recognised is a member.
        """
        ...

    def switch_sender(self) -> None:
        """Send with the key of the current epoch from now on; the nonce begins anew.

        Does nothing where the library has done so already.
        """
        ...

    def can_encrypt(self) -> bool:
        """Whether there is a sending key."""
        ...

    def encrypt(self, frame: bytes, codec: Codec) -> bytes:
        """Encrypt one frame.

        Args:
            frame: One access unit as its codec defines; H.264 and H.265 as Annex B.
            codec: What it is.

        Raises:
            NotReady: There is no sending key.
            DaveError: The library cannot encrypt it: it is no frame of that codec.
        """
        ...

    def decrypt(self, user_id: int, kind: MediaKind, frame: bytes) -> bytes | Undecryptable:
        """Decrypt one frame, which is known to be an encrypted one by its trailer.

        Args:
            user_id: Who sent it.
            kind: Audio or video.
            frame: As it came out of the depacketizer.
        """
        ...

    def fingerprint(self, user_id: int) -> bytes:
        """The 64 bytes by which we and another member can verify each other.

        Takes some 0.3 s (scrypt): run it in a worker. Same value on both sides.

        Raises:
            NotReady: There is no group, or the user is no member of it.
        """
        ...
