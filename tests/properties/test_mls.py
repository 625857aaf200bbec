"""Properties 1 and 2 for MLS and DAVE's formats: what is written is read; junk does no harm."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.crypto.p256 import SigningKey, is_public_key, verify
from discord_rtc.errors import MalformedMessage
from discord_rtc.protocol.dave.codes import displayable_code
from discord_rtc.protocol.dave.frame import MARKER, is_encrypted, parse_trailer
from discord_rtc.server.mls import (
    ExternalSender,
    parse_commit_welcome,
    parse_key_package,
    welcome_for,
)
from discord_rtc.server.mls_wire import Reader, vector

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "dave.json").read_text())
USERS = {name: int(user_id) for name, user_id in VECTORS["users"].items()}
PACKAGE = bytes.fromhex(VECTORS["op26_payload_B"])
COMMIT = bytes.fromhex(VECTORS["epoch1"]["commit"])
WELCOME = bytes.fromhex(VECTORS["epoch1"]["welcome"])
REF = bytes.fromhex(VECTORS["keypackage_ref_B"])
REAL = {
    "package": PACKAGE,
    "creation": COMMIT + WELCOME,
    "removal": bytes.fromhex(VECTORS["epoch2"]["commit"]),
    "welcome": WELCOME,
}
HOSTILE = 1 << 20  # bytes of the largest message that the gateway lets in


def parse(data: bytes) -> int:
    """Give bytes to every parser; how many of them found something."""
    found = 0
    for parser in (
        lambda: parse_key_package(data, USERS["B"]),
        lambda: parse_commit_welcome(data),
        lambda: welcome_for(data, REF),
    ):
        try:
            parser()
        except MalformedMessage as error:
            assert len(str(error)) < 120  # noqa: PT017  # it is logged
        else:
            found += 1
    return found


@given(st.binary(max_size=400))
def test_any_bytes_give_a_value_or_a_reason(data: bytes) -> None:
    parse(data)
    parse(b"\0\1\0\1" + data)
    parse(b"\0\1\0\2" + data)
    parse(b"\0\2" + data)


@pytest.mark.parametrize("name", REAL)
def test_every_prefix_gives_a_value_or_a_reason(name: str) -> None:
    data = REAL[name]
    assert parse(data) == 1
    found = [length for length in range(len(data)) if parse(data[:length])]
    assert found == ([len(COMMIT)] if name == "creation" else [])


@pytest.mark.parametrize("name", ["package", "creation", "removal", "welcome"])
@given(st.data())
def test_changed_bits_give_a_value_or_a_reason(name: str, data: st.DataObject) -> None:
    changed = bytearray(REAL[name])
    for bit in data.draw(st.lists(st.integers(0, len(changed) * 8 - 1), min_size=1, max_size=3)):
        changed[bit // 8] ^= 1 << bit % 8
    parse(bytes(changed))


@given(st.sampled_from(list(REAL)), st.data())
def test_spliced_messages_give_a_value_or_a_reason(name: str, data: st.DataObject) -> None:
    whole = REAL[name]
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    parse(whole[:start] + data.draw(st.binary(max_size=80)) + whole[end:])


@pytest.mark.parametrize(
    "data",
    [
        bytes(HOSTILE),
        COMMIT[:27] + vector((b"\2" + vector(bytes(32))) * (HOSTILE // 34)),
        COMMIT[:27] + vector(b"".join(b"\2\x20" + n.to_bytes(32, "big") for n in range(30_000))),
        b"\0\2" + vector((REF + bytes(1)) * (HOSTILE // 33)),
        b"\0\2" + b"\xbf\xff\xff\xff" + bytes(HOSTILE),
        PACKAGE[:-290] + vector(bytes(HOSTILE)),
    ],
    ids=["zeros", "one-ref-often", "many-refs", "many-secrets", "long-claim", "long-capabilities"],
)
def test_work_is_bounded_by_the_bytes_there_are(data: bytes) -> None:
    start = time.process_time()
    assert parse(data) == 0
    assert time.process_time() - start < 2


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_vectors_are_read_as_written(one: bytes, other: bytes) -> None:
    reader = Reader(vector(one) + vector(other), "thing")
    assert (reader.vector(), reader.vector()) == (one, other)
    reader.end()


u64 = st.integers(0, 2**64 - 1)


@given(u64, u64, st.integers(0, 2**32 - 1))
def test_proposals_differ_in_what_they_propose(group_id: int, epoch: int, leaf: int) -> None:
    sender = ExternalSender(SigningKey.from_private(b"\x11" * 32))
    message = sender.remove(group_id, epoch, leaf).message
    reader = Reader(message, "proposal")
    reader.take(4)
    assert int.from_bytes(reader.vector(), "big") == group_id
    assert reader.uint(8) == epoch
    reader.take(9)
    assert reader.uint(4) == leaf
    reader.vector()
    reader.end()


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=20))
def test_no_bytes_make_a_verification_raise(public: bytes, signature: bytes, data: bytes) -> None:
    assert not verify(public, signature, data)
    assert not is_public_key(public[:64])


@given(st.binary(max_size=400))
def test_any_frame_is_told_encrypted_or_plain(data: bytes) -> None:
    for frame in (data, data + MARKER):
        trailer = parse_trailer(frame)
        assert is_encrypted(frame) == (trailer is not None)
        if trailer is not None:
            assert 12 <= trailer.size <= len(frame)
            assert len(trailer.tag) == 8
            ends = [offset + size for offset, size in trailer.ranges]
            assert ends == sorted(ends)
            assert all(end <= len(frame) - trailer.size for end in ends)


def uleb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@given(st.binary(min_size=8, max_size=8), st.integers(0, 2**32 - 1), st.data())
def test_trailers_are_read_as_written(tag: bytes, nonce: int, data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=20))
    ranges, position = [], 0
    for gap, size in steps:
        ranges.append((position + gap, size))
        position += gap + size
    numbers = uleb(nonce) + b"".join(uleb(a) + uleb(b) for a, b in ranges)
    media = bytes(position + data.draw(st.integers(0, 50)))
    size = 8 + len(numbers) + 3
    trailer = parse_trailer(media + tag + numbers + bytes([size]) + MARKER)
    assert trailer is not None
    assert (trailer.tag, trailer.nonce, trailer.ranges, trailer.size) == (
        tag,
        nonce,
        tuple(ranges),
        size,
    )


@given(st.binary(min_size=45, max_size=64), st.sampled_from([15, 30, 45]))
def test_codes_are_digits_of_the_length_asked_for(data: bytes, length: int) -> None:
    code = displayable_code(data, length)
    assert len(code) == length
    assert code.isdecimal()
