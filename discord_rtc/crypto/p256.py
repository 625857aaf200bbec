"""ECDSA signatures over P-256, as MLS ciphersuite 2 uses them. Sans-I/O.

Signatures are randomised: signing the same bytes twice gives different ones.

Spec: RFC 9420 section 5.1 (keys and signatures of ciphersuite 2), SEC 1 section 2.3.3 (points),
RFC 5958 (PEM files).
"""

from __future__ import annotations

from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from discord_rtc.errors import UsageError

PUBLIC_LENGTH = 65
"""Bytes of an uncompressed point: 04, X, Y."""

_PRIVATE_LENGTH = 32
_UNCOMPRESSED = b"\x04"  # SEC 1 section 2.3.3
_ALGORITHM = ec.ECDSA(hashes.SHA256())


class SigningKey:
    """A private key with its public one. Its repr shows neither.

    Made by `generate`, `from_private` or `from_pem`.

    Attributes:
        public: 65 bytes: 04, X, Y.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    @classmethod
    def generate(cls) -> Self:
        """Make a new key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_private(cls, value: bytes) -> Self:
        """Take a key from its number.

        Args:
            value: 32 bytes, big endian.

        Raises:
            UsageError: Not 32 bytes, zero, or not below the order of the curve.
        """
        if len(value) != _PRIVATE_LENGTH:
            raise UsageError(f"a P-256 private key has 32 bytes, not {len(value)}")
        try:
            return cls(ec.derive_private_key(int.from_bytes(value, "big"), ec.SECP256R1()))
        except ValueError:
            raise UsageError("not a P-256 private key: the number is out of range") from None

    @classmethod
    def from_pem(cls, data: bytes) -> Self:
        """Read a key from the text of a PEM file, PKCS#8 without a password.

        Raises:
            UsageError: Unreadable, protected by a password, or another kind of key.
        """
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: a password is needed
            raise UsageError("not an unencrypted private key in PEM form") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise UsageError("the private key is not one of P-256")
        return cls(key)

    def to_pem(self) -> bytes:
        """Make the text of a PEM file: PKCS#8, without a password."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def private(self) -> bytes:
        """The key's number, 32 bytes, big endian."""
        return self._key.private_numbers().private_value.to_bytes(_PRIVATE_LENGTH, "big")

    def sign(self, message: bytes) -> bytes:
        """Sign with ECDSA and SHA-256; gives DER, 70 to 72 bytes as a rule."""
        return self._key.sign(message, _ALGORITHM)


def is_public_key(public: bytes) -> bool:
    """Whether these are 65 bytes that name a point of the curve."""
    return _point(public) is not None


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether a signature over a message is one of this public key's.

    Args:
        public: 65 bytes: 04, X, Y.
        signature: DER.
        message: What was signed.

    Returns:
        False also for bytes that are no key or no signature.
    """
    key = _point(public)
    if key is None:
        return False
    try:
        key.verify(signature, message, _ALGORITHM)
    except InvalidSignature:
        return False
    return True


def _point(public: bytes) -> ec.EllipticCurvePublicKey | None:
    # Compressed points are legal elsewhere, but MLS has uncompressed ones only.
    if len(public) != PUBLIC_LENGTH or not public.startswith(_UNCOMPRESSED):
        return None
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
    except ValueError:
        return None
