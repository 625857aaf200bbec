"""Digits that people compare to see that nobody listens in. Sans-I/O.

Spec: DAVE protocol whitepaper 1.1.4, "Displayable Codes".
"""

from __future__ import annotations

from discord_rtc.errors import UsageError

_LARGEST_GROUP = 8  # whitepaper: so that a group's number fits into 64 bits


def displayable_code(data: bytes, length: int, group: int = 5) -> str:
    """Turn bytes into decimal digits.

    Each group of bytes, big endian, gives as many digits: its number modulo ten to that power.

    Args:
        data: At least ``length`` bytes; those behind are left out.
        length: Digits to make, a multiple of ``group``.
        group: Bytes and digits of a group, 1 to 8.

    Raises:
        UsageError: Too few bytes, or numbers that do not go together.
    """
    if not 1 <= group <= _LARGEST_GROUP or length < 0 or length % group or len(data) < length:
        raise UsageError(f"{len(data)} bytes do not give {length} digits in groups of {group}")
    return "".join(
        f"{int.from_bytes(data[start : start + group], 'big') % 10**group:0{group}}"
        for start in range(0, length, group)
    )


def privacy_code(epoch_authenticator: bytes) -> str:
    """The 30 digits that are the same for all members of a call.

    Args:
        epoch_authenticator: 32 bytes.

    Raises:
        UsageError: Fewer than 30 bytes.

    Spec:
        Whitepaper, "Voice Privacy Code".
    """
    return displayable_code(epoch_authenticator, 30)


def fingerprint_code(fingerprint: bytes) -> str:
    """The 45 digits by which two members verify each other.

    Args:
        fingerprint: 64 bytes.

    Raises:
        UsageError: Fewer than 45 bytes.

    Spec:
        Whitepaper, "Verification Fingerprint".
    """
    return displayable_code(fingerprint, 45)
