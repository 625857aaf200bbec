"""Certificates identify themselves by fingerprints that any other tool computes alike."""

from __future__ import annotations

import hashlib
import ssl

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from discord_rtc.crypto.certificate import (
    HASHES,
    LIFETIME,
    Certificate,
    Fingerprint,
    parse_fingerprint,
    usable_fingerprints,
)
from discord_rtc.errors import MalformedSdp

DIGEST = ":".join(f"{n:02X}" for n in range(0xA0, 0xC0))
SHA_1 = "sha-1 " + ":".join(["AB"] * 20)


def test_key_is_p_256_and_signs_its_own_certificate() -> None:
    made = Certificate.generate()
    assert isinstance(made.private_key.curve, ec.SECP256R1)
    assert made.certificate.public_key() == made.private_key.public_key()
    made.certificate.verify_directly_issued_by(made.certificate)


def test_certificate_is_valid_from_before_now_and_says_nothing_about_its_owner() -> None:
    one, other = Certificate.generate().certificate, Certificate.generate().certificate
    valid = one.not_valid_after_utc - one.not_valid_before_utc
    assert valid.days == LIFETIME.days + 1
    assert len(one.subject) == 1
    assert one.subject != other.subject
    assert one.serial_number != other.serial_number


def test_fingerprint_is_the_hash_of_the_der_form() -> None:
    made = Certificate.generate()
    # ssl reads the PEM form its own way, so that the DER bytes are not only ours
    der = ssl.PEM_cert_to_DER_cert(made.certificate.public_bytes(Encoding.PEM).decode())
    algorithm, digest = made.fingerprint.split()
    assert algorithm == "sha-256"
    assert digest.replace(":", "").lower() == hashlib.sha256(der).hexdigest()
    assert len(digest) == 32 * 3 - 1


@pytest.mark.parametrize(
    ("algorithm", "theirs"),
    [("sha-256", hashes.SHA256()), ("sha-384", hashes.SHA384()), ("sha-512", hashes.SHA512())],
)
def test_every_hash_agrees_with_x509(algorithm: str, theirs: hashes.HashAlgorithm) -> None:
    certificate = Certificate.generate().certificate
    der = certificate.public_bytes(Encoding.DER)
    found = Fingerprint.of(der, algorithm)
    assert found.digest == certificate.fingerprint(theirs)
    assert found.matches(der)
    assert not found.matches(der + b"\0")
    assert parse_fingerprint(str(found)) == found


def test_private_key_does_not_show() -> None:
    assert repr(Certificate.generate()) == "Certificate()"


@pytest.mark.parametrize(
    "text",
    [
        f"sha-256 {DIGEST}",
        f"SHA-256 {DIGEST.lower()}",
        f"  sha-256 \t {DIGEST}\r\n",
    ],
)
def test_fingerprint_is_read_in_either_case(text: str) -> None:
    assert parse_fingerprint(text) == Fingerprint("sha-256", bytes(range(0xA0, 0xC0)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not a certificate fingerprint: ''"),
        ("sha-256", "not a certificate fingerprint"),
        (f"sha-256{DIGEST}", "not a certificate fingerprint"),
        (f"sha-256 {DIGEST}:", "not a certificate fingerprint"),
        (f"sha-256 {DIGEST.replace(':', '')}", "not a certificate fingerprint"),
        (f"sha-256 {DIGEST} x", "not a certificate fingerprint"),
        (f"sha-256 {DIGEST[:-2]}0G", "not a certificate fingerprint"),
        (f"sha-256 {DIGEST[:-3]}", "a sha-256 fingerprint has 32 bytes, not 31"),
        (f"sha-512 {DIGEST}", "a sha-512 fingerprint has 64 bytes, not 32"),
        (SHA_1, "unsupported hash function: 'sha-1'"),
        ("md5 00", "unsupported hash function: 'md5'"),
    ],
)
def test_other_text_is_refused_with_the_reason(text: str, problem: str) -> None:
    with pytest.raises(MalformedSdp, match=problem):
        parse_fingerprint(text)


def test_long_nonsense_is_not_repeated_in_full() -> None:
    with pytest.raises(MalformedSdp) as caught:
        parse_fingerprint("x" * 10_000)
    assert len(str(caught.value)) < 150


def test_what_cannot_be_checked_is_left_out() -> None:
    good = f"sha-256 {DIGEST}"
    assert usable_fingerprints([SHA_1, good, "nonsense"]) == (parse_fingerprint(good),)


def test_several_certificates_may_be_announced() -> None:
    texts = [Certificate.generate().fingerprint for _ in range(3)]
    assert [str(found) for found in usable_fingerprints(iter(texts))] == texts


def test_nothing_usable_says_why() -> None:
    with pytest.raises(MalformedSdp, match="unsupported hash function: 'sha-1'"):
        usable_fingerprints(["nonsense", SHA_1])
    with pytest.raises(MalformedSdp, match="no certificate fingerprint"):
        usable_fingerprints([])


def test_weak_hashes_are_not_among_the_usable() -> None:
    assert list(HASHES) == ["sha-256", "sha-384", "sha-512"]
