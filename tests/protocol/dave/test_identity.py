"""Identity keys and fingerprints."""

from __future__ import annotations

import pytest

from discord_rtc.errors import UsageError
from discord_rtc.protocol.dave.identity import IdentityKey, pairwise_fingerprint

PUBLIC = b"\4" + bytes(range(64))


def test_a_fingerprint_is_that_of_the_specification() -> None:
    # Protocol reference, A.3.
    members = {104694319306248192: PUBLIC, 852892297661906993: b"\4" + bytes(range(64, 128))}
    expected = bytes.fromhex(
        "f7ca78d73a302ca1f614b57f2baad2c4db1d5c0a157e5700bebf51990cbbe47c"
        "69155fb14a168af37377a4b7bb0153b13e2623b5f52c91a678ec7f39a4d77529"
    )
    assert pairwise_fingerprint(members) == expected
    assert pairwise_fingerprint(dict(reversed(members.items()))) == expected


@pytest.mark.parametrize(
    ("private", "public"),
    [(bytes(31), PUBLIC), (bytes(33), PUBLIC), (bytes(32), PUBLIC[1:]), (bytes(32), b"\2" * 65)],
)
def test_a_key_of_another_form_is_refused(private: bytes, public: bytes) -> None:
    with pytest.raises(UsageError):
        IdentityKey(private, public)


def test_the_private_key_is_not_shown() -> None:
    key = IdentityKey(b"secret" * 5 + b"!!", PUBLIC)
    assert "secret" not in repr(key)
    assert key == IdentityKey(key.private, key.public)
