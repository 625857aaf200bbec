"""Codes that people read to each other: the same digits everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import davey
import pytest

from discord_rtc.errors import UsageError
from discord_rtc.protocol.dave.codes import displayable_code, fingerprint_code, privacy_code

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "dave.json").read_text())
FINGERPRINT = bytes.fromhex(  # tests/vectors/README.md, frames and codes
    "f7ca78d73a302ca1f614b57f2baad2c4db1d5c0a157e5700bebf51990cbbe47c"
    "69155fb14a168af37377a4b7bb0153b13e2623b5f52c91a678ec7f39a4d77529"
)


def test_privacy_code_of_known_bytes() -> None:
    assert privacy_code(bytes(range(32))) == "090606058512110636351516066685"


def test_fingerprint_code_of_known_bytes() -> None:
    assert fingerprint_code(FINGERPRINT) == "391624200448786244264425438299050230273922683"


@pytest.mark.parametrize(("length", "group"), [(30, 5), (45, 5), (24, 3), (64, 8), (7, 1), (0, 5)])
def test_codes_are_those_of_another_implementation(length: int, group: int) -> None:
    expected = davey.generate_displayable_code(FINGERPRINT, length, group)
    assert displayable_code(FINGERPRINT, length, group) == expected


def test_every_epoch_has_its_own_code() -> None:
    codes = {
        privacy_code(bytes.fromhex(VECTORS[epoch]["epoch_authenticator"]))
        for epoch in ("epoch1", "epoch2")
    }
    assert len(codes) == 2
    assert {len(code) for code in codes} == {30}


@pytest.mark.parametrize(("length", "group"), [(65, 5), (31, 5), (36, 9), (5, 0), (-5, 5), (5, -5)])
def test_what_gives_no_code_is_a_usage_error(length: int, group: int) -> None:
    with pytest.raises(UsageError, match="do not give"):
        displayable_code(FINGERPRINT, length, group)


def test_too_few_bytes_give_no_code() -> None:
    with pytest.raises(UsageError):
        privacy_code(bytes(29))
    with pytest.raises(UsageError):
        fingerprint_code(bytes(44))
