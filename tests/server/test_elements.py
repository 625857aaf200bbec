"""Header extensions of forwarded packets."""

from __future__ import annotations

import pytest

from discord_rtc.errors import MalformedPacket
from discord_rtc.rtp.extensions import TWO_BYTE_PROFILE, build_elements, parse_elements
from discord_rtc.rtp.packet import RtpPacket, parse_rtp
from discord_rtc.server.elements import ElementMap, find_element

PACKET = RtpPacket(120, 77, 960, 4000, b"opus", marker=True, csrcs=(5, 6), padding=b"\x00\x02")


def with_elements(*elements: tuple[int, bytes]) -> RtpPacket:
    profile, data = build_elements(elements)
    return PACKET._replace(extension_profile=profile, extension_data=data)


def with_data(data: bytes, profile: int = 0xBEDE) -> RtpPacket:
    return PACKET._replace(extension_profile=profile, extension_data=data)


def elements_of(packet: bytes) -> tuple[tuple[int, bytes], ...]:
    parsed = parse_rtp(packet)
    return parse_elements(parsed.extension_profile or 0, parsed.extension_data)


def test_an_element_is_found_by_its_id() -> None:
    packet = with_elements((1, b"\x7f"), (3, b"\x01\x02"), (14, bytes(16))).to_bytes()

    assert find_element(packet, 3) == b"\x01\x02"
    assert find_element(packet, 14) == bytes(16)
    assert find_element(packet, 2) is None


def test_an_element_is_found_behind_padding_and_in_the_two_byte_form() -> None:
    padded = with_data(b"\x00\x00\x31\x01\x02\x00\x00\x00")
    assert find_element(padded.to_bytes(), 3) == b"\x01\x02"
    two_byte = with_data(b"\x03\x02\x01\x02", TWO_BYTE_PROFILE)
    assert find_element(two_byte.to_bytes(), 3) == b"\x01\x02"


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        PACKET.to_bytes(),
        b"\x90" + bytes(11),
        b"\x90" + bytes(11) + b"\xbe\xde\x00\x02\x31\x01\x02\x00",
        with_data(b"\x32\x01\x02\x00", 0xABCD).to_bytes(),
        with_data(b"\x00\x00\x00\x31").to_bytes(),
        with_data(b"\xf0\x00\x31\x01\x02\x00\x00\x00").to_bytes(),
        with_data(b"\x01\x00\x31\x01\x02\x00\x00\x00").to_bytes(),
    ],
    ids=["empty", "no X", "no preamble", "short", "unknown", "runs out", "id 15", "id 0"],
)
def test_what_is_not_there_is_not_found(packet: bytes) -> None:
    assert find_element(packet, 3) is None


def test_elements_get_other_ids_and_unknown_ones_are_left_out() -> None:
    packet = with_elements((1, b"\x7f"), (3, b"\x01\x02"), (4, b"mid"), (13, b"\x01"))

    renumbered = ElementMap({1: 14, 13: 2}).apply(packet.to_bytes(), 111)

    assert elements_of(renumbered) == ((14, b"\x7f"), (2, b"\x01"))
    parsed = parse_rtp(renumbered)
    assert parsed._replace(extension_data=b"") == packet._replace(
        payload_type=111, extension_data=b""
    )
    assert len(renumbered) == len(packet.to_bytes()) - 8  # what is left out takes no room


def test_an_extension_of_which_nothing_is_left_disappears() -> None:
    packet = with_elements((4, b"mid"))

    renumbered = ElementMap({}).apply(packet.to_bytes(), 111)

    assert parse_rtp(renumbered) == PACKET._replace(payload_type=111)


@pytest.mark.parametrize(
    "packet",
    [
        with_data(b"\x00\x10\x7f\x00"),
        with_data(b"\x10\x7f\xf0\x10"),
        with_data(b"\x10\x7f\x02\x10"),
        with_data(b"\x10\x7f\x00\x37"),
    ],
    ids=["padding", "id 15", "id 0 with a length", "runs out"],
)
def test_elements_are_read_as_far_as_they_make_sense(packet: RtpPacket) -> None:
    assert elements_of(packet.to_bytes()) == ((1, b"\x7f"),)

    assert elements_of(ElementMap({1: 5, 3: 3}).apply(packet.to_bytes(), 111)) == ((5, b"\x7f"),)


def test_ids_of_the_two_byte_form_are_given_and_taken() -> None:
    one_byte = with_elements((1, b"\x7f"), (2, b"x")).to_bytes()
    to_two_byte, to_one_byte = ElementMap({1: 200}), ElementMap({200: 1})

    two_byte = to_two_byte.apply(one_byte, 111)

    assert parse_rtp(two_byte).extension_profile == TWO_BYTE_PROFILE
    assert elements_of(two_byte) == ((200, b"\x7f"),)
    assert elements_of(to_one_byte.apply(two_byte, 111)) == ((1, b"\x7f"),)
    assert parse_rtp(ElementMap({}).apply(two_byte, 111)) == PACKET._replace(payload_type=111)


def test_an_extension_of_unknown_form_is_passed_on() -> None:
    packet = with_data(b"1234", 0xABCD)

    renumbered = ElementMap({1: 14}).apply(packet.to_bytes(), 111)

    assert parse_rtp(renumbered) == packet._replace(payload_type=111)


@pytest.mark.parametrize("preamble", [b"\xbe\xde\x00\x09", b"\x10\x00\x00\x09", b"\xbe\xde"])
def test_an_extension_that_does_not_fit_is_malformed(preamble: bytes) -> None:
    with pytest.raises(MalformedPacket):
        ElementMap({1: 14}).apply(b"\x90" + bytes(11) + preamble, 111)
