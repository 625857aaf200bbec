"""NaCl's secretbox, tag first."""

from __future__ import annotations

import pytest
from nacl.secret import SecretBox

from discord_rtc.crypto.xsalsa20 import Secretbox
from discord_rtc.errors import RejectedPacket

NONCE = bytes(range(24))


@pytest.mark.parametrize("body", [b"", b"\xf8\xff\xfe", bytes(1200)])
def test_tag_comes_first(key: bytes, body: bytes) -> None:
    sealed = Secretbox(key).seal(b"header", body, NONCE)
    assert sealed == SecretBox(key).encrypt(body, NONCE).ciphertext
    assert len(sealed) == 16 + len(body)
    assert Secretbox(key).open(b"header", sealed, NONCE) == body


def test_header_is_not_authenticated(key: bytes) -> None:
    sealed = Secretbox(key).seal(b"header", b"body", NONCE)
    assert not Secretbox.authenticates_header
    assert Secretbox(key).open(b"another", sealed, NONCE) == b"body"


@pytest.mark.parametrize("position", [0, 15, 16, -1])
def test_changed_box_is_rejected(key: bytes, position: int) -> None:
    sealed = bytearray(Secretbox(key).seal(b"", b"body", NONCE))
    sealed[position] ^= 1
    with pytest.raises(RejectedPacket, match="bad-auth"):
        Secretbox(key).open(b"", bytes(sealed), NONCE)


def test_key_does_not_show_in_the_representation(key: bytes) -> None:
    assert repr(key) not in repr(Secretbox(key))
