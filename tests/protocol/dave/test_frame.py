"""The trailer of encrypted frames: whole and consistent, or the frame is plain."""

from __future__ import annotations

import pytest

from discord_rtc.frames import OPUS_SILENCE
from discord_rtc.protocol.dave.frame import MARKER, Trailer, is_encrypted, parse_trailer

TAG = bytes(range(0xA0, 0xA8))
OPUS = bytes.fromhex("a3df01e0a02fefdeaa1535e9ba010cfafa")  # tests/vectors/README.md, frames
VP8 = bytes.fromhex("1002009d012a80020e01d9f4c2eb820847850a1e47fcfcac02000a0ffafa")


def encrypted(media: bytes, numbers: bytes, *, size: int | None = None) -> bytes:
    """A frame whose numbers (nonce and ranges) are any bytes."""
    true_size = len(TAG) + len(numbers) + 3
    return media + TAG + numbers + bytes([true_size if size is None else size]) + MARKER


def test_known_frames_are_read() -> None:
    assert parse_trailer(OPUS) == Trailer(bytes.fromhex("2fefdeaa1535e9ba"), 1, (), 12)
    assert parse_trailer(VP8) == Trailer(bytes.fromhex("0847850a1e47fcfc"), 300, ((0, 10),), 15)
    assert is_encrypted(OPUS)
    assert is_encrypted(VP8)


def test_the_smallest_frame_has_no_media() -> None:
    frame = encrypted(b"", b"\x01")
    assert len(frame) == 12
    assert parse_trailer(frame) == Trailer(TAG, 1, (), 12)


def test_several_ranges_may_touch_but_not_overlap() -> None:
    touching = encrypted(bytes(20), b"\x05" + bytes([0, 4, 4, 6, 15, 5]))
    assert parse_trailer(touching) == Trailer(TAG, 5, ((0, 4), (4, 6), (15, 5)), 18)
    assert parse_trailer(encrypted(bytes(20), b"\x05" + bytes([0, 5, 4, 6]))) is None
    assert parse_trailer(encrypted(bytes(20), b"\x05" + bytes([8, 2, 0, 4]))) is None


def test_a_range_may_not_leave_the_media() -> None:
    assert is_encrypted(encrypted(bytes(20), b"\x05" + bytes([10, 10])))
    assert not is_encrypted(encrypted(bytes(20), b"\x05" + bytes([10, 11])))
    assert not is_encrypted(encrypted(bytes(20), b"\x05" + bytes([21, 0])))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        MARKER,
        OPUS_SILENCE,
        OPUS[:-1],
        OPUS[:-1] + b"\xfb",
        OPUS[:-2] + b"\xfb\xfa",
        b"\x0b" + MARKER,
        TAG + b"\x0b" + MARKER,
    ],
    ids=bytes.hex,
)
def test_short_and_plain_frames_are_not_encrypted(frame: bytes) -> None:
    assert not is_encrypted(frame)
    assert parse_trailer(frame) is None


@pytest.mark.parametrize("size", [0, 1, 10, 11, 22, 255])
def test_a_size_that_does_not_fit_is_no_trailer(size: int) -> None:
    assert is_encrypted(encrypted(bytes(9), b"\x01"))
    assert not is_encrypted(encrypted(bytes(9), b"\x01", size=size))


def test_numbers_must_fill_the_trailer_exactly() -> None:
    assert not is_encrypted(encrypted(bytes(20), b"\x81"))  # does not end
    assert not is_encrypted(encrypted(bytes(20), b"\x01\x00"))  # an offset without a size
    assert not is_encrypted(encrypted(bytes(20), b"\x01\x00\x84"))


def test_nonces_have_32_bits() -> None:
    largest = parse_trailer(encrypted(b"", b"\xff\xff\xff\xff\x0f"))
    assert largest is not None
    assert largest.nonce == 0xFFFFFFFF
    assert not is_encrypted(encrypted(b"", b"\xff\xff\xff\xff\x1f"))


def test_a_number_longer_than_64_bits_is_none() -> None:
    padded = parse_trailer(encrypted(b"", b"\x81" + b"\x80" * 8 + b"\x00"))
    assert padded is not None
    assert padded.nonce == 1
    assert not is_encrypted(encrypted(b"", b"\x81" + b"\x80" * 9 + b"\x00"))
