"""The presentation language of MLS, against published lengths and hashes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from discord_rtc.errors import MalformedMessage, UsageError
from discord_rtc.server.mls_wire import Reader, reference, signed_content, vector

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "dave.json").read_text())


@pytest.mark.parametrize(
    ("length", "prefix"),
    [
        (0, "00"),
        (37, "25"),  # RFC 9420 section 2.1.2, from RFC 9000 appendix A.1
        (63, "3f"),
        (64, "4040"),
        (15293, "7bbd"),  # as above
        (16383, "7fff"),
        (16384, "80004000"),
    ],
)
def test_lengths_take_the_fewest_bytes(length: int, prefix: str) -> None:
    data = bytes(length)
    written = vector(data)
    assert written == bytes.fromhex(prefix) + data
    assert Reader(written, "thing").vector() == data


@pytest.mark.parametrize("written", ["4025", "403f", "80000025", "80003fff"])
def test_longer_forms_of_a_length_are_refused(written: str) -> None:
    with pytest.raises(MalformedMessage, match="thing has a vector whose length is not in its sh"):
        Reader(bytes.fromhex(written) + bytes(16383), "thing").vector()


def test_the_eight_byte_form_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="invalid length"):
        Reader(b"\xc0" + bytes(80), "thing").vector()


@pytest.mark.parametrize("written", ["", "40", "800040", "01", "4040ff", "bfffffff"])
def test_a_vector_that_is_cut_short_is_refused(written: str) -> None:
    with pytest.raises(MalformedMessage, match="thing is cut short"):
        Reader(bytes.fromhex(written), "thing").vector()


def test_a_vector_can_be_too_long_to_write() -> None:
    class Endless(bytes):
        def __len__(self) -> int:
            return 1 << 30

    with pytest.raises(UsageError):
        vector(Endless())


def test_integers_are_big_endian() -> None:
    reader = Reader(bytes.fromhex("01 0203 04050607 08090a0b0c0d0e0f"), "thing")
    assert [reader.uint(size) for size in (1, 2, 4, 8)] == [
        0x01,
        0x0203,
        0x04050607,
        0x08090A0B0C0D0E0F,
    ]
    assert reader.left == 0
    with pytest.raises(MalformedMessage, match="cut short"):
        reader.uint(1)


def test_what_was_read_can_be_had_again() -> None:
    reader = Reader(b"abcdef", "thing")
    reader.take(1)
    start = reader.position
    reader.take(3)
    assert reader.since(start) == b"bcd"
    assert reader.rest() == b"ef"
    reader.end()


def test_nothing_may_follow() -> None:
    with pytest.raises(MalformedMessage, match="thing is followed by 2 bytes"):
        Reader(b"ab", "thing").end()


def test_fixed_values_and_lengths_are_named_when_they_differ() -> None:
    with pytest.raises(MalformedMessage, match="MLS thing has version 2, not 1"):
        Reader(b"\0\2", "thing").expect(2, 1, "version")
    with pytest.raises(MalformedMessage, match="has a tag of 1 bytes, not 2"):
        Reader(b"\1\0", "thing").sized(2, "a tag")
    reader = Reader(b"\0\2\2ab", "thing")
    reader.expect(2, 2, "version")
    assert reader.sized(2, "a tag") == b"ab"


def test_items_of_a_vector_are_read_until_it_is_empty() -> None:
    reader = Reader(vector(vector(b"one") + vector(b"")) + b"after", "thing")
    assert [item.vector() for item in reader.items()] == [b"one", b""]
    assert reader.rest() == b"after"
    with pytest.raises(MalformedMessage, match="cut short"):
        [item.uint(2) for item in Reader(vector(b"abc"), "thing").items()]


def test_references_are_those_of_the_vectors() -> None:
    hashed = VECTORS["primitives"]["ref_hash"]
    assert hashed["label"] == "MLS 1.0 Proposal Reference"
    assert reference("Proposal", bytes.fromhex(hashed["value"])).hex() == hashed["out"]
    package = bytes.fromhex(VECTORS["op26_payload_B"])
    assert reference("KeyPackage", package).hex() == VECTORS["keypackage_ref_B"]


def test_signed_content_is_labelled() -> None:
    tbs = "0001000108" + "11bd15c6dd400033" + "0000000000000001" + "0200000000" + "000200030000"
    tbs += "0001"  # protocol description of an external Remove: leaf 1 at epoch 1
    assert signed_content("FramedContentTBS", bytes.fromhex(tbs)).hex() == (
        "184d4c5320312e30204672616d6564436f6e74656e7454425322" + tbs
    )
