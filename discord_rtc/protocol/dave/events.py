"""States, events and answers of the DAVE machine. Sans-I/O. Spec: see `session`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

E2eeState: TypeAlias = Literal["off", "pending", "active"]
"""What a user is told: not encrypted, not yet, or encrypted end to end."""


class Sending(StrEnum):
    """What is to be done with a frame of ours now."""

    CLEAR = "clear"
    """Protocol version 0: it goes out as it is."""
    WAIT = "wait"
    """There is no group yet, or nothing was described yet: keep it, the newest first."""
    HOLD = "hold"
    """For a moment: the sending key is new already, but the others may not have theirs."""
    ENCRYPT = "encrypt"
    """Through `DaveSession.encrypt`."""


@dataclass(frozen=True, slots=True)
class Undecrypted:
    """A frame that could not be decrypted.

    Attributes:
        reason: Name of the counter: ``"no-key"``, ``"undecryptable"`` or ``"unencrypted"``.
        retry: Whether a key for it may come within a moment (a transition is open or on its
            way, or the group is still being joined).
    """

    reason: str
    retry: bool


@dataclass(frozen=True, slots=True)
class StateChanged:
    """Encryption went on, off or to wait; or the epoch changed, and with it the code.

    Attributes:
        state: The new state.
        privacy_code: 30 digits while active. Everybody in the call sees the same.
        reason: Why, for the eyes of a user; None for the plain course of things.
    """

    state: E2eeState
    privacy_code: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class SendingChanged:
    """What is to be done with frames of ours changed.

    Attributes:
        sending: What from now on.
        fresh: Whether frames had to wait before, so that video must begin with a keyframe.
    """

    sending: Sending
    fresh: bool


@dataclass(frozen=True, slots=True)
class ReceiveKeysChanged:
    """There are other receive keys: frames that wait may be tried again.

    Attributes:
        added: Users whose frames can be decrypted now and could not before.
    """

    added: frozenset[int]


@dataclass(frozen=True, slots=True)
class ProposalsRefused:
    """Proposals of the server were not taken; the reason names what was wrong with them."""

    reason: str


@dataclass(frozen=True, slots=True)
class Recovering:
    """The group is being joined anew, for the given reason (op 31 with this transition)."""

    transition_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unsupported:
    """The call demands a protocol version that we cannot or must not speak.

    Nothing is sent any more; the connection is to end with `DaveUnavailable`.

    Attributes:
        version: Which one. 0: no encryption, although it was required.
        reason: A sentence for the user.
    """

    version: int
    reason: str


DaveEvent: TypeAlias = (
    StateChanged | SendingChanged | ReceiveKeysChanged | ProposalsRefused | Recovering | Unsupported
)
