"""Header extension elements and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from discord_rtc.errors import MalformedPacket
from discord_rtc.rtp import extensions
from discord_rtc.rtp.extensions import (
    ONE_BYTE_PROFILE,
    TWO_BYTE_PROFILE,
    build_elements,
    parse_elements,
    remap_elements,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def test_known_block_is_read_and_built(vectors: dict[str, bytes]) -> None:
    elements = parse_elements(ONE_BYTE_PROFILE, vectors["one_byte_elements"])
    assert elements == ((1, b"\xff"), (9, b"\x02"))
    assert extensions.parse_audio_level(elements[0][1]) == (True, -127)
    assert extensions.parse_speaker_bits(elements[1][1]) == 1
    assert build_elements(elements) == (ONE_BYTE_PROFILE, vectors["one_byte_elements"])


def test_playout_delay_of_native_clients(vectors: dict[str, bytes]) -> None:
    ident = extensions.NATIVE_EXTENSION_IDS[extensions.PLAYOUT_DELAY]
    built = build_elements([(ident, extensions.playout_delay(0, 0))])
    assert built == (ONE_BYTE_PROFILE, vectors["playout_delay_element"])


def test_native_ids_are_one_to_twelve_and_read_only() -> None:
    assert sorted(extensions.NATIVE_EXTENSION_IDS.values()) == list(range(1, 13))
    with pytest.raises(TypeError):
        extensions.NATIVE_EXTENSION_IDS["x"] = 13  # type: ignore[index]  # the point of the test


def test_padding_between_one_byte_elements_is_passed_over() -> None:
    data = bytes.fromhex("00 10aa 0000 21bbcc 00")
    assert parse_elements(ONE_BYTE_PROFILE, data) == ((1, b"\xaa"), (2, b"\xbb\xcc"))


@pytest.mark.parametrize(
    "tail",
    ["f0aa20bb", "05aabbcc", "2fbb0000"],
    ids=["id 15", "id 0 with a length", "longer than the rest"],
)
def test_one_byte_elements_before_a_bad_one_are_kept(tail: str) -> None:
    data = bytes.fromhex("10aa" + tail)
    assert parse_elements(ONE_BYTE_PROFILE, data) == ((1, b"\xaa"),)


def test_two_byte_elements_with_any_appbits() -> None:
    data = bytes.fromhex("01 00 00 10 02 aabb 00 ff 01 cc")
    for appbits in (0, 15):
        assert parse_elements(TWO_BYTE_PROFILE | appbits, data) == (
            (1, b""),
            (16, b"\xaa\xbb"),
            (255, b"\xcc"),
        )


@pytest.mark.parametrize("tail", ["02", "0203aabb"], ids=["no length", "longer than the rest"])
def test_two_byte_elements_before_a_bad_one_are_kept(tail: str) -> None:
    assert parse_elements(TWO_BYTE_PROFILE, bytes.fromhex("0101aa" + tail)) == ((1, b"\xaa"),)


def test_unknown_profile_has_no_elements() -> None:
    assert parse_elements(0x1234, b"\x10\xff\x00\x00") == ()


def test_no_elements_make_an_empty_one_byte_extension() -> None:
    assert build_elements([]) == (ONE_BYTE_PROFILE, b"")


@pytest.mark.parametrize("element", [(15, b"x"), (200, b"x"), (1, b""), (14, bytes(17))])
def test_two_byte_form_where_the_one_byte_form_cannot_say_it(element: tuple[int, bytes]) -> None:
    elements = ((1, b"\x05"), element)
    profile, data = build_elements(elements)
    assert profile == TWO_BYTE_PROFILE
    assert len(data) % 4 == 0
    assert parse_elements(profile, data) == elements


def test_largest_one_byte_element() -> None:
    profile, data = build_elements([(14, bytes(range(16)))])
    assert profile == ONE_BYTE_PROFILE
    assert parse_elements(profile, data) == ((14, bytes(range(16))),)


@pytest.mark.parametrize("element", [(0, b"x"), (256, b"x"), (1, bytes(256))])
def test_elements_that_no_form_can_say_are_refused(element: tuple[int, bytes]) -> None:
    with pytest.raises(ValueError, match=r"extension id 0|range\(0, 256\)"):
        build_elements([element])


def test_remapping_renumbers_and_drops_what_the_other_side_does_not_know() -> None:
    elements = ((1, b"a"), (9, b"b"), (3, b"c"))
    assert remap_elements(elements, {1: 5, 3: 1}) == ((5, b"a"), (1, b"c"))


@pytest.mark.parametrize(
    ("voice", "level", "byte"), [(True, 0, 0x80), (False, -127, 0x7F), (True, -30, 0x9E)]
)
def test_audio_level(voice: bool, level: int, byte: int) -> None:
    assert extensions.audio_level(voice, level) == bytes((byte,))
    assert extensions.parse_audio_level(bytes((byte,))) == (voice, level)


def test_audio_level_below_the_scale_is_silence_and_above_it_an_error() -> None:
    assert extensions.audio_level(False, -1000) == b"\x7f"
    with pytest.raises(ValueError, match="loudest"):
        extensions.audio_level(True, 1)


def test_playout_delay() -> None:
    assert extensions.playout_delay(100, 40950) == bytes.fromhex("00afff")
    assert extensions.parse_playout_delay(bytes.fromhex("00afff")) == (100, 40950)


@pytest.mark.parametrize(("low", "high"), [(-10, 0), (20, 10), (0, 40960)])
def test_playout_delay_out_of_range(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="playout delay"):
        extensions.playout_delay(low, high)


def test_abs_send_time_keeps_64_seconds() -> None:
    assert extensions.abs_send_time(64 * 1000 + 1.5) == (3 << 17).to_bytes(3, "big")
    assert extensions.parse_abs_send_time(extensions.abs_send_time(3_900_000_033.25)) == 33.25


def test_transport_sequence_wraps() -> None:
    assert extensions.transport_sequence(65537) == b"\x00\x01"
    assert extensions.parse_transport_sequence(b"\x12\x34") == 0x1234


def test_content_type() -> None:
    assert extensions.content_type(1) == b"\x01"
    assert extensions.parse_content_type(b"\x01") == 1


@pytest.mark.parametrize(
    ("rotation", "flipped", "back", "byte"),
    [(0, False, False, 0), (90, True, False, 5), (270, False, True, 11)],
)
def test_orientation(rotation: int, flipped: bool, back: bool, byte: int) -> None:
    value = extensions.orientation(rotation, flipped=flipped, back_camera=back)
    assert value == bytes((byte,))
    assert extensions.parse_orientation(value) == (rotation, flipped, back)


@pytest.mark.parametrize("rotation", [-90, 45, 360])
def test_other_angles_are_refused(rotation: int) -> None:
    with pytest.raises(ValueError, match="degrees"):
        extensions.orientation(rotation)


@pytest.mark.parametrize(
    ("flags", "byte"), [(0, 0x00), (1, 0x02), (2, 0x04), (3, 0x06), (5, 0x03), (7, 0x07)]
)
def test_speaker_bits_from_speaking_flags(flags: int, byte: int) -> None:
    assert extensions.speaker_bits(flags) == bytes((byte,))
    assert extensions.parse_speaker_bits(bytes((byte,))) == (flags or 1)


def test_priority_implies_voice() -> None:
    assert extensions.parse_speaker_bits(b"\x01") == 5


@pytest.mark.parametrize(
    ("parse", "length"),
    [
        (extensions.parse_audio_level, 1),
        (extensions.parse_playout_delay, 3),
        (extensions.parse_abs_send_time, 3),
        (extensions.parse_transport_sequence, 2),
        (extensions.parse_content_type, 1),
        (extensions.parse_orientation, 1),
        (extensions.parse_speaker_bits, 1),
    ],
)
def test_values_of_another_length_are_malformed(
    parse: Callable[[bytes], object], length: int
) -> None:
    parse(bytes(length))
    for wrong in (length - 1, length + 1):
        with pytest.raises(MalformedPacket):
            parse(bytes(wrong))
