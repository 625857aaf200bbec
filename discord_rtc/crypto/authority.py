"""TLS certificates for servers of this machine, with an authority that signs nothing else.
Sans-I/O.

A client that hard-codes TLS is made to trust the authority, never the server's certificate, so
that its own checks (names, dates, usage) all stay on. The authority's key is forgotten as soon
as it has signed: nobody can make another certificate that such a client would believe.

Spec: RFC 5280 section 4.2 (the extensions, all of which strict checkers insist on), RFC 9525
(names of servers: only those in subjectAltName count).
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from discord_rtc.crypto.certificate import LIFETIME

if TYPE_CHECKING:
    from collections.abc import Sequence

_AUTHORITY = "discord-rtc local test authority"

_CLOCK_SKEW = datetime.timedelta(days=1)

_NO_USAGE = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


@dataclass(frozen=True, slots=True)
class TlsCertificate:
    """A server's certificate and key, and whom a client has to trust.

    Attributes:
        authority: Certificate of the authority, in PEM: what clients get.
        certificate: Certificate of the server, in PEM.
        private_key: Of the server, P-256, PKCS#8 in PEM, not encrypted.
    """

    authority: bytes
    certificate: bytes
    private_key: bytes = field(repr=False)


def make_tls_certificate(names: Sequence[str]) -> TlsCertificate:
    """Make an authority and a server certificate that it signed, both valid for 30 days.

    Args:
        names: Host names and IP addresses of the server, at least one.
    """
    alternatives = [_alternative(one) for one in names]
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name, name = _name(_AUTHORITY), _name(names[0])
    root_id = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
    root = (
        _certificate(root_name, root_name, root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**_NO_USAGE | {"key_cert_sign": True}), critical=True)
        .add_extension(root_id, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        _certificate(name, root_name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**_NO_USAGE | {"digital_signature": True}), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_id), critical=False
        )
        .sign(root_key, hashes.SHA256())
    )
    return TlsCertificate(
        root.public_bytes(Encoding.PEM),
        leaf.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(tz=datetime.UTC)
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=public_key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - _CLOCK_SKEW,
        not_valid_after=now + LIFETIME,
    )


def _name(text: str) -> x509.Name:
    limited = text[:64]  # RFC 5280 appendix A.1, ub-common-name
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, limited)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
