"""AES-GCM and XChaCha20-Poly1305 against published and independent computations."""

from __future__ import annotations

import struct

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES256

from discord_rtc.crypto.aead import AesGcm, XChaCha20Poly1305
from discord_rtc.errors import RejectedPacket

HEADER = bytes.fromhex("90780001000003c011223344bede0001")
BODY = bytes.fromhex("10ff9002f8fffe")


def rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """draft-irtf-cfrg-xchacha-03 section 2.2, written from the text."""
    s = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce))
    columns = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
    diagonals = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    for a, b, c, d in (columns + diagonals) * 10:
        for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            s[z] = rotate(s[z] ^ s[x], bits)
    return struct.pack("<8I", *s[:4], *s[12:])


def test_hchacha20_of_this_file_matches_the_draft() -> None:
    # draft-irtf-cfrg-xchacha-03 section 2.2.1
    subkey = hchacha20(bytes(range(32)), bytes.fromhex("000000090000004a0000000031415927"))
    assert subkey.hex() == "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"


@pytest.mark.parametrize("body", [b"", BODY, bytes(1200)])
def test_xchacha_is_chacha_under_a_derived_key(key: bytes, body: bytes) -> None:
    nonce = bytes(range(100, 124))
    witness = ChaCha20Poly1305(hchacha20(key, nonce[:16]))
    expected = witness.encrypt(bytes(4) + nonce[16:], body, HEADER)
    assert XChaCha20Poly1305(key).seal(HEADER, body, nonce) == expected
    assert XChaCha20Poly1305(key).open(HEADER, expected, nonce) == body


def test_aes_gcm_is_counter_mode_with_a_tag_at_the_end(key: bytes) -> None:
    nonce = bytes(range(12))
    encryptor = Cipher(AES256(key), modes.GCM(nonce)).encryptor()
    encryptor.authenticate_additional_data(HEADER)
    expected = encryptor.update(BODY) + encryptor.finalize() + encryptor.tag
    assert AesGcm(key).seal(HEADER, BODY, nonce) == expected
    assert AesGcm(key).open(HEADER, expected, nonce) == BODY


@pytest.mark.parametrize("box_type", [AesGcm, XChaCha20Poly1305])
@pytest.mark.parametrize("spoiled", ["header", "body", "tag", "nonce", "key"])
def test_any_difference_is_rejected(
    box_type: type[AesGcm | XChaCha20Poly1305], spoiled: str, key: bytes
) -> None:
    nonce = bytes(box_type.nonce_length)
    sealed = box_type(key).seal(HEADER, BODY, nonce)
    header = HEADER
    match spoiled:
        case "header":
            header = HEADER[:-1]
        case "body":
            sealed = bytes([sealed[0] ^ 1]) + sealed[1:]
        case "tag":
            sealed = sealed[:-1] + bytes([sealed[-1] ^ 0x80])
        case "nonce":
            nonce = bytes([1]) + nonce[1:]
        case _:
            key = key[::-1]
    with pytest.raises(RejectedPacket, match="bad-auth"):
        box_type(key).open(header, sealed, nonce)


def test_keys_do_not_show_in_representations(key: bytes) -> None:
    assert repr(key) not in repr(AesGcm(key)) + repr(XChaCha20Poly1305(key))
