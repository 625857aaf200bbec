"""Identity keys: what a member signs with, and what two members compare. Sans-I/O.

Spec: DAVE protocol whitepaper 1.1.4, "Identity", "Verification Fingerprint".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from discord_rtc.errors import UsageError

_SALT = bytes.fromhex("24cab17a7af8ec2b82b412b92dab192e")
_FORMAT = b"\0\0"
"""Version 0, the only one of the whitepaper's fingerprint format."""


@dataclass(frozen=True, slots=True)
class IdentityKey:
    """A P-256 signature key pair that outlives one call.

    Attributes:
        private: 32 bytes, big endian.
        public: 65 bytes: 04, X, Y.

    Raises:
        UsageError: They have another size.
    """

    private: bytes = field(repr=False)
    public: bytes

    def __post_init__(self) -> None:
        if len(self.private) != 32 or len(self.public) != 65 or self.public[0] != 4:
            raise UsageError("an identity key has 32 bytes, and an uncompressed point of 65")


def pairwise_fingerprint(members: dict[int, bytes]) -> bytes:
    """What two members can compare over another channel to be sure of each other.

    Takes some 0.1 s and 16 MiB; other threads run meanwhile.

    Args:
        members: Both user ids, each with its public signature key (65 bytes).

    Returns:
        64 bytes, the same on both sides.
    """
    parts = sorted(_FORMAT + key + user.to_bytes(8, "big") for user, key in members.items())
    return hashlib.scrypt(
        b"".join(parts), salt=_SALT, n=1 << 14, r=8, p=2, maxmem=1 << 26, dklen=64
    )
