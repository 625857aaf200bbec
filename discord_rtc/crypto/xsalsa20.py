"""NaCl's secretbox under the discontinued ``xsalsa20_*`` modes. Sans-I/O. Spec: nacl.cr.yp.to."""

from __future__ import annotations

from typing import ClassVar

from nacl.bindings import crypto_secretbox, crypto_secretbox_open
from nacl.exceptions import CryptoError

from discord_rtc.errors import RejectedPacket


class Secretbox:
    """XSalsa20-Poly1305 with a 24-byte nonce; the 16-byte tag comes *first*.

    A secretbox takes no additional data, so the header stays outside the tag: somebody on the
    path can change it unnoticed. That, among others, is why these modes were discontinued.

    Args:
        key: 32 bytes.
    """

    nonce_length: ClassVar[int] = 24  # crypto_secretbox_NONCEBYTES
    authenticates_header: ClassVar[bool] = False

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, header: bytes, body: bytes, nonce: bytes) -> bytes:  # noqa: ARG002 - no AAD here
        """Return the protected body; ``header`` is not covered."""
        return crypto_secretbox(body, nonce, self._key)

    def open(self, header: bytes, sealed: bytes, nonce: bytes) -> bytes:  # noqa: ARG002 - no AAD here
        """Return the plain body.

        Raises:
            RejectedPacket: ``bad-auth``.
        """
        try:
            return crypto_secretbox_open(sealed, nonce, self._key)
        except CryptoError:
            raise RejectedPacket("bad-auth") from None
