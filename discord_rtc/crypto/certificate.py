"""Self-signed certificates and their fingerprints, the identity of a DTLS peer. Sans-I/O.

Nobody signs these certificates: what proves a peer is that its certificate has the fingerprint
which came over the signalling connection. Always P-256: with it every flight of a handshake stays
under 900 bytes, and every WebRTC stack has it.

Spec: RFC 8122 section 5 (fingerprints in SDP), RFC 8827 section 6.5 (WebRTC certificates).
"""

from __future__ import annotations

import datetime
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from discord_rtc.errors import MalformedSdp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LIFETIME = datetime.timedelta(days=30)
"""As browsers do. A certificate is made anew for each client or server object."""

HASHES: Mapping[str, str] = MappingProxyType(
    {"sha-256": "sha256", "sha-384": "sha384", "sha-512": "sha512"}
)
"""Hash functions, SDP name to `hashlib` name. SHA-1 and MD5 are legal in SDP and prove nothing."""

_FINGERPRINT = re.compile(r"([!-~]+)[ \t]+([0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})*)")  # RFC 8122 5


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The hash of one certificate.

    Attributes:
        algorithm: A key of `HASHES`.
        digest: The hash itself.
    """

    algorithm: str
    digest: bytes

    @classmethod
    def of(cls, certificate: bytes, algorithm: str = "sha-256") -> Fingerprint:
        """Hash a certificate in DER with the function of that SDP name."""
        return cls(algorithm, hashlib.new(HASHES[algorithm], certificate).digest())

    def matches(self, certificate: bytes) -> bool:
        """Whether this is the hash of that certificate in DER."""
        return self == Fingerprint.of(certificate, self.algorithm)

    def __str__(self) -> str:
        """As in SDP, after ``a=fingerprint:``."""
        return f"{self.algorithm} {self.digest.hex(':').upper()}"


def parse_fingerprint(text: str) -> Fingerprint:
    """Read the value of an ``a=fingerprint`` line, in upper or lower case.

    Raises:
        MalformedSdp: Unreadable, a hash function outside `HASHES`, or not as long as that one's.

    Spec:
        RFC 8122 section 5.
    """
    found = _FINGERPRINT.fullmatch(text.strip())
    if found is None:
        raise MalformedSdp(f"not a certificate fingerprint: {text!r:.80}")
    algorithm = found[1].lower()
    if algorithm not in HASHES:
        raise MalformedSdp(f"fingerprint with an unsupported hash function: {algorithm!r:.30}")
    digest = bytes.fromhex(found[2].replace(":", ""))
    expected = hashlib.new(HASHES[algorithm]).digest_size
    if len(digest) != expected:
        raise MalformedSdp(f"a {algorithm} fingerprint has {expected} bytes, not {len(digest)}")
    return Fingerprint(algorithm, digest)


def usable_fingerprints(texts: Iterable[str]) -> tuple[Fingerprint, ...]:
    """Read several fingerprints and leave out the ones that this library cannot check.

    Raises:
        MalformedSdp: None is left; says what was wrong with the last one.

    Spec:
        RFC 8122 section 5: a certificate must match one of those that can be checked.
    """
    usable = []
    problem = MalformedSdp("no certificate fingerprint")
    for text in texts:
        try:
            usable.append(parse_fingerprint(text))
        except MalformedSdp as error:
            problem = error
    if not usable:
        raise problem
    return tuple(usable)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its private key, for one side of DTLS handshakes.

    Attributes:
        private_key: P-256.
        certificate: Signed with that key.
    """

    private_key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate = field(repr=False)

    @classmethod
    def generate(cls) -> Certificate:
        """Make a key and a certificate that says nothing about its owner."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, secrets.token_hex(16))])
        now = datetime.datetime.now(tz=datetime.UTC)
        builder = x509.CertificateBuilder(
            subject_name=name,
            issuer_name=name,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(days=1),  # clocks differ
            not_valid_after=now + LIFETIME,
        )
        return cls(key, builder.sign(key, hashes.SHA256()))

    @property
    def fingerprint(self) -> str:
        """``sha-256 AA:BB:...``, as in SDP after ``a=fingerprint:``."""
        return str(Fingerprint.of(self.certificate.public_bytes(Encoding.DER)))
