"""Packet statuses of transport-wide feedback."""

from __future__ import annotations

import struct

import pytest

from discord_rtc.errors import MalformedPacket
from discord_rtc.rtp.twcc import build_statuses, parse_statuses


def test_run_length_example_of_the_draft(vectors: dict[str, bytes]) -> None:
    chunk = vectors["status_run_not_received"]
    assert parse_statuses(221, chunk) == (None,) * 221
    assert build_statuses((None,) * 221) == chunk


def test_one_bit_vector_example_of_the_draft(vectors: dict[str, bytes]) -> None:
    deltas = (None, 1, 2, 3, 4, 5, None, None, None, 6, 7, 8, None, None)
    data = vectors["status_vector_one_bit"] + bytes(range(1, 9))
    assert parse_statuses(14, data) == deltas
    assert build_statuses(deltas) == data


def test_two_bit_vector_tells_large_deltas() -> None:
    deltas = (255, 256, -1, None, 32767, -32768, 0)
    data = build_statuses(deltas)
    assert data[:2] == bytes((0b11011010, 0b00101001))
    assert data[2:] == b"\xff\x01\x00\xff\xff\x7f\xff\x80\x00\x00"
    assert parse_statuses(7, data) == deltas


def test_long_runs_are_split() -> None:
    deltas = (None,) * 10_000 + (300,) * 8 + (1, None) * 7
    data = build_statuses(deltas)
    assert parse_statuses(len(deltas), data) == deltas
    runs = struct.unpack_from("!4H", data)
    assert runs[0] == 0x1FFF
    assert runs[1] == 10_000 - 0x1FFF
    assert runs[2] == 2 << 13 | 8
    assert runs[3] == 0b10_10101010101010


def test_large_delta_at_the_end_of_a_window_does_not_spoil_the_small_ones() -> None:
    deltas = (1, None, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 999, 13)
    assert parse_statuses(len(deltas), build_statuses(deltas)) == deltas


def test_no_packets() -> None:
    assert build_statuses(()) == b""
    assert parse_statuses(0, b"\0\0") == ()


def test_what_is_told_beyond_the_count_is_passed_over() -> None:
    assert parse_statuses(2, bytes.fromhex("2fff 01 02 ffff")) == (1, 2)


def test_empty_run_is_passed_over() -> None:
    assert parse_statuses(1, bytes.fromhex("0000 2001 07")) == (7,)


@pytest.mark.parametrize(
    ("count", "data"),
    [
        (1, ""),
        (1, "20"),
        (2, "2001"),
        (2, "2002 01"),
        (1, "4001 01"),
        (1, "6001 0000"),
        (1, "f000"),
    ],
    ids=["chunk", "half chunk", "second chunk", "delta", "half delta", "reserved", "reserved 2"],
)
def test_incomplete_or_reserved_statuses_are_malformed(count: int, data: str) -> None:
    with pytest.raises(MalformedPacket):
        parse_statuses(count, bytes.fromhex(data))


@pytest.mark.parametrize("delta", [32768, -32769])
def test_delta_that_fits_no_field_is_refused(delta: int) -> None:
    with pytest.raises(struct.error):
        build_statuses((delta,))
