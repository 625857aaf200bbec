"""P-256 keys and signatures, against vectors and against OpenSSL's command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from discord_rtc.crypto.p256 import SigningKey, is_public_key, verify
from discord_rtc.errors import UsageError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "dave.json").read_text())
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # FIPS 186-4 D.1.2.3


def test_public_key_of_a_known_private_key() -> None:
    pair = VECTORS["primitives"]["hpke_derive_keypair"]
    key = SigningKey.from_private(bytes.fromhex(pair["priv"]))
    assert key.public == bytes.fromhex(pair["pub"])
    assert key.private == bytes.fromhex(pair["priv"])


def test_what_was_signed_verifies_and_nothing_else_does() -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    signature = key.sign(b"message")
    assert verify(key.public, signature, b"message")
    assert not verify(key.public, signature, b"massage")
    assert not verify(other.public, signature, b"message")
    assert not verify(key.public, signature[:-1] + bytes([signature[-1] ^ 1]), b"message")


def test_signatures_are_randomised() -> None:
    key = SigningKey.generate()
    assert key.sign(b"message") != key.sign(b"message")


def test_keys_are_made_anew() -> None:
    assert SigningKey.generate().public != SigningKey.generate().public


@pytest.mark.parametrize("signature", [b"", b"\x30", bytes(72)])
def test_bytes_that_are_no_signature_do_not_verify(signature: bytes) -> None:
    assert not verify(SigningKey.generate().public, signature, b"message")


def test_only_uncompressed_points_of_the_curve_are_keys() -> None:
    key = SigningKey.generate()
    signature = key.sign(b"message")
    compressed = bytes([2 + (key.public[-1] & 1)]) + key.public[1:33]
    off_curve = key.public[:-1] + bytes([key.public[-1] ^ 1])
    hybrid = bytes([6 + (key.public[-1] & 1)]) + key.public[1:]
    assert is_public_key(key.public)
    for junk in (b"", compressed, off_curve, hybrid, bytes(65), b"\x04" * 64, key.public + b"\0"):
        assert not is_public_key(junk)
        assert not verify(junk, signature, b"message")


@pytest.mark.parametrize(
    "value", [b"", bytes(31), bytes(33), bytes(32), ORDER.to_bytes(32, "big"), b"\xff" * 32]
)
def test_numbers_that_are_no_private_key_are_refused(value: bytes) -> None:
    with pytest.raises(UsageError, match="P-256 private key"):
        SigningKey.from_private(value)


def test_the_smallest_private_key_is_written_in_32_bytes() -> None:
    assert SigningKey.from_private(b"\1".rjust(32, b"\0")).private == b"\1".rjust(32, b"\0")
    assert SigningKey.from_private((ORDER - 1).to_bytes(32, "big")).private[0] == 0xFF


def test_a_key_survives_being_written_to_a_file() -> None:
    key = SigningKey.generate()
    again = SigningKey.from_pem(key.to_pem())
    assert (again.private, again.public) == (key.private, key.public)


@pytest.mark.parametrize("data", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_an_unreadable_file_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="PEM"):
        SigningKey.from_pem(data)


def test_a_file_with_a_password_is_refused() -> None:
    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    with pytest.raises(UsageError, match="unencrypted"):
        SigningKey.from_pem(locked)


@pytest.mark.parametrize(
    "other", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()]
)
def test_a_key_of_another_kind_is_refused(
    other: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
) -> None:
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(UsageError, match="not one of P-256"):
        SigningKey.from_pem(pem)


def test_nothing_secret_is_shown() -> None:
    key = SigningKey.from_private(b"\x11" * 32)
    shown = repr(key) + str(key)
    assert "11" * 8 not in shown
    assert repr(key.private) not in shown


@pytest.mark.interop
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_openssl_reads_the_file_and_verifies_the_signature(tmp_path: Path) -> None:
    key = SigningKey.generate()
    (tmp_path / "key.pem").write_bytes(key.to_pem())
    (tmp_path / "message").write_bytes(b"message")
    (tmp_path / "signature").write_bytes(key.sign(b"message"))

    def openssl(*arguments: str) -> bytes:
        return subprocess.run(
            ["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True
        ).stdout

    der = openssl("pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "-")
    assert der.endswith(key.public)
    verified = openssl(
        *("dgst", "-sha256", "-prverify", "key.pem", "-signature", "signature", "message")
    )
    assert b"Verified OK" in verified
    openssl("dgst", "-sha256", "-sign", "key.pem", "-out", "theirs", "message")
    assert verify(key.public, (tmp_path / "theirs").read_bytes(), b"message")
