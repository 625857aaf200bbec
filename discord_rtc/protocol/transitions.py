"""Messages of end-to-end encryption (DAVE): transitions, epochs, MLS. Sans-I/O.

Spec: DAVE protocol whitepaper 1.1.4, "Voice Gateway Opcodes". Only the envelopes are read
here; the MLS bytes inside are opaque. Ops 21 to 24 and 31 are JSON, 25 to 30 binary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

from discord_rtc.protocol.fields import BadField, Fields, u16, u63
from discord_rtc.protocol.opcodes import VoiceOpcode


@dataclass(frozen=True, slots=True)
class PrepareTransition:
    """Server: get ready to change to this protocol version; 0 means no encryption."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.PREPARE_TRANSITION
    protocol_version: int
    transition_id: int

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return {"protocol_version": self.protocol_version, "transition_id": self.transition_id}

    @classmethod
    def from_data(cls, data: object, _version: int) -> PrepareTransition:
        """Read ``d``; raises `BadField`."""
        fields = Fields(data)
        return cls(
            protocol_version=fields.need("protocol_version", u16),
            transition_id=fields.need("transition_id", u16),
        )


@dataclass(frozen=True, slots=True)
class PrepareEpoch:
    """Server: an epoch begins; 1 means a new group."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.PREPARE_EPOCH
    protocol_version: int
    epoch: int

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return {"protocol_version": self.protocol_version, "epoch": self.epoch}

    @classmethod
    def from_data(cls, data: object, _version: int) -> PrepareEpoch:
        """Read ``d``; raises `BadField`."""
        fields = Fields(data)
        return cls(
            protocol_version=fields.need("protocol_version", u16),
            epoch=fields.need("epoch", u63),
        )


@dataclass(frozen=True, slots=True)
class _TransitionOnly:
    """Holds a transition id and nothing else."""

    transition_id: int

    def to_data(self, _version: int) -> object:
        """Make ``d``."""
        return {"transition_id": self.transition_id}

    @classmethod
    def from_data(cls, data: object, _version: int) -> Self:
        """Read ``d``; raises `BadField`."""
        return cls(Fields(data).need("transition_id", u16))


@dataclass(frozen=True, slots=True)
class ExecuteTransition(_TransitionOnly):
    """Server: change now."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.EXECUTE_TRANSITION


@dataclass(frozen=True, slots=True)
class TransitionReady(_TransitionOnly):
    """Client: prepared. Not sent for transition 0."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.TRANSITION_READY


@dataclass(frozen=True, slots=True)
class InvalidCommitWelcome(_TransitionOnly):
    """Client: that commit or welcome could not be processed; add me again."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.INVALID_COMMIT_WELCOME


@dataclass(frozen=True, slots=True)
class _PayloadOnly:
    """Holds opaque MLS bytes and nothing else."""

    payload: bytes = field(repr=False)

    def to_payload(self) -> bytes:
        """Make what follows the opcode."""
        return self.payload

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Read what follows the opcode."""
        return cls(payload)


@dataclass(frozen=True, slots=True)
class MlsExternalSender(_PayloadOnly):
    """Server: credential and key of the one who proposes."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.MLS_EXTERNAL_SENDER


@dataclass(frozen=True, slots=True)
class MlsKeyPackage(_PayloadOnly):
    """Client: our raw KeyPackage."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.MLS_KEY_PACKAGE


@dataclass(frozen=True, slots=True)
class MlsProposals(_PayloadOnly):
    """Server: proposals to append or revoke."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.MLS_PROPOSALS


@dataclass(frozen=True, slots=True)
class MlsCommitWelcome(_PayloadOnly):
    """Client: our commit, and a welcome when it adds somebody."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.MLS_COMMIT_WELCOME


@dataclass(frozen=True, slots=True)
class MlsAnnounceCommit:
    """Server: the commit that won, with the transition it belongs to."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.MLS_ANNOUNCE_COMMIT
    transition_id: int
    commit: bytes = field(repr=False)

    def to_payload(self) -> bytes:
        """Make what follows the opcode."""
        return self.transition_id.to_bytes(2, "big") + self.commit

    @classmethod
    def from_payload(cls, payload: bytes) -> MlsAnnounceCommit:
        """Read what follows the opcode; raises `BadField`."""
        return cls(_transition_id(payload), payload[2:])


@dataclass(frozen=True, slots=True)
class MlsWelcome:
    """Server: the welcome for us, with the transition it belongs to."""

    opcode: ClassVar[VoiceOpcode] = VoiceOpcode.MLS_WELCOME
    transition_id: int
    welcome: bytes = field(repr=False)

    def to_payload(self) -> bytes:
        """Make what follows the opcode."""
        return self.transition_id.to_bytes(2, "big") + self.welcome

    @classmethod
    def from_payload(cls, payload: bytes) -> MlsWelcome:
        """Read what follows the opcode; raises `BadField`."""
        return cls(_transition_id(payload), payload[2:])


def _transition_id(payload: bytes) -> int:
    if len(payload) < 2:
        raise BadField("transition_id", "is missing")
    return int.from_bytes(payload[:2], "big")
