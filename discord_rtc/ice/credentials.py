"""User name fragment and password of one ICE side. Sans-I/O. Spec: RFC 8445 5.3, RFC 8839 5.4."""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from discord_rtc.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_ICE_CHARS = string.ascii_letters + string.digits + "+/"  # 64 of them: 6 bits each
_UFRAG_LENGTH = 4  # 24 random bits, as RFC 8445 5.3 asks for
_PASSWORD_LENGTH = 22  # 132 random bits; it asks for 128

_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")


@dataclass(frozen=True, slots=True)
class IceCredentials:
    """What one side is called in checks, and what its checks are authenticated with.

    Attributes:
        ufrag: 4 to 256 ice-chars (letters, digits, ``+`` and ``/``).
        password: 22 to 256 ice-chars.

    Raises:
        UsageError: One of them is not that.
    """

    ufrag: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if not _UFRAG.fullmatch(self.ufrag):
            raise UsageError("an ICE user name fragment is 4 to 256 letters, digits, + and /")
        if not _PASSWORD.fullmatch(self.password):
            raise UsageError("an ICE password is 22 to 256 letters, digits, + and /")

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> IceCredentials:
        """New ones, 4 and 22 characters long.

        Args:
            random_bytes: Where randomness comes from.
        """
        return cls(
            _ice_chars(random_bytes(_UFRAG_LENGTH)), _ice_chars(random_bytes(_PASSWORD_LENGTH))
        )


def _ice_chars(data: bytes) -> str:
    return "".join(_ICE_CHARS[byte & 63] for byte in data)
