"""Sent packets that can be sent again, and their form as retransmissions."""

from __future__ import annotations

from collections import Counter

import pytest

from discord_rtc.rtp.history import (
    HISTORY_BYTES,
    HISTORY_PACKETS,
    HISTORY_SECONDS,
    LARGEST_SPACING,
    LEAST_SPACING,
    OSN_SIZE,
    History,
    Retransmitter,
    original_sequence,
    unwrap_rtx,
    wrap_rtx,
)
from discord_rtc.rtp.packet import RtpPacket, parse_rtp

_ORIGINAL = RtpPacket(
    101, 0xABCD, 0x01020304, 7, b"payload", True, (5, 6), 0xBEDE, b"\x62\0\0\0", b"\0\0\3"
)


# ---- the form of a retransmission ---------------------------------------------------------


def test_a_retransmission_on_the_wire_is_that_of_rfc_4588() -> None:
    again = wrap_rtx(_ORIGINAL, 8, 102, 0x1234).to_bytes()
    assert again == bytes.fromhex(
        "92e61234 01020304 00000008 00000005 00000006 bede0001 62000000 abcd7061 796c6f61 64"
    )


def test_unwrapping_gives_the_original_back_without_its_padding() -> None:
    again = wrap_rtx(_ORIGINAL, 8, 102, 1)
    assert original_sequence(again) == 0xABCD
    assert unwrap_rtx(again, 7, 101) == _ORIGINAL._replace(padding=b"")


def test_padding_of_a_retransmission_is_not_part_of_the_original() -> None:
    again = wrap_rtx(_ORIGINAL, 8, 102, 1)._replace(padding=b"\0\0\0\4")
    assert unwrap_rtx(parse_rtp(again.to_bytes()), 7, 101) == _ORIGINAL._replace(padding=b"")


@pytest.mark.parametrize("payload", [b"", b"\x01"])
def test_what_names_no_packet_is_a_probe(payload: bytes) -> None:
    assert original_sequence(RtpPacket(102, 1, 2, 8, payload, padding=b"\0\2")) is None


def test_a_packet_without_payload_can_be_sent_again() -> None:
    again = wrap_rtx(_ORIGINAL._replace(payload=b""), 8, 102, 1)
    assert original_sequence(again) == 0xABCD
    assert unwrap_rtx(again, 7, 101).payload == b""


def test_retransmissions_count_for_themselves_and_wrap() -> None:
    rtx = Retransmitter(8, 102, 0xFFFF, b"")
    packets = [parse_rtp(rtx.packet(_ORIGINAL)) for _ in range(2)]
    assert [packet.sequence for packet in packets] == [0xFFFF, 0]
    assert {(packet.ssrc, packet.payload_type) for packet in packets} == {(8, 102)}


@pytest.mark.parametrize(
    ("extension", "profile", "elements"),
    [
        (b"", None, b""),
        (bytes.fromhex("bede0001c2313030"), 0xBEDE, b"\xc2100"),
        (bytes.fromhex("100000020c03313030000000"), 0x1000, b"\x0c\x03100\0\0\0"),
    ],
)
def test_retransmissions_have_a_header_extension_of_their_own(
    extension: bytes, profile: int | None, elements: bytes
) -> None:
    packet = parse_rtp(Retransmitter(8, 102, 1, extension).packet(_ORIGINAL))
    assert (packet.extension_profile, packet.extension_data) == (profile, elements)
    assert packet.payload[OSN_SIZE:] == _ORIGINAL.payload


# ---- what is kept -------------------------------------------------------------------------


class Kept:
    """A history and its counts."""

    def __init__(self, max_packet_size: int = 1200) -> None:
        self.drops: Counter[str] = Counter()
        self.history = History(max_packet_size, self.drops)

    def find(self, sequence: int, now: float = 0.0, rtt: float | None = None) -> bytes | None:
        return self.history.find(sequence, now, rtt)


@pytest.fixture
def kept() -> Kept:
    return Kept()


def test_kept_packets_are_found_by_number(kept: Kept) -> None:
    kept.history.keep(0xFFFE, [b"a", b"b", b"c", b"d"], 0.0)
    assert [kept.find(number) for number in (0xFFFE, 0xFFFF, 0, 1)] == [b"a", b"b", b"c", b"d"]
    assert kept.drops == {}


def test_what_was_never_kept_is_counted(kept: Kept) -> None:
    assert kept.find(5) is None
    assert kept.drops == {"rtx-not-kept": 1}


def test_only_the_latest_packets_are_kept(kept: Kept) -> None:
    packets = [number.to_bytes(2, "big") for number in range(HISTORY_PACKETS + 2)]
    kept.history.keep(65_000, packets, 0.0)
    assert kept.history.bound == HISTORY_PACKETS
    assert kept.find(65_001) is None
    assert kept.find(65_002) == packets[2]
    assert kept.find((65_000 + HISTORY_PACKETS + 1) & 0xFFFF) == packets[-1]


@pytest.mark.parametrize(("size", "bound"), [(1200, 1024), (9000, 128), (65_535, 32)])
def test_fewer_packets_are_kept_where_they_are_large(size: int, bound: int) -> None:
    history = Kept(size).history
    assert history.bound == bound
    assert bound * size <= HISTORY_BYTES


def test_old_packets_are_not_sent_again(kept: Kept) -> None:
    kept.history.keep(5, [b"a"], 10.0)
    assert kept.find(5, 10.0 + HISTORY_SECONDS) == b"a"
    assert kept.find(5, 10.001 + HISTORY_SECONDS) is None
    assert kept.drops == {"rtx-not-kept": 1}


@pytest.mark.parametrize(
    ("rtt", "spacing"),
    [(None, LEAST_SPACING), (0.001, LEAST_SPACING), (0.1, 0.075), (30_000.0, LARGEST_SPACING)],
)
def test_a_packet_is_not_sent_again_twice_within_a_round_trip(
    kept: Kept, rtt: float | None, spacing: float
) -> None:
    kept.history.keep(5, [b"a", b"b"], 0.0)
    kept.history.sent_again(5, 0.5)
    assert kept.find(5, 0.499 + spacing, rtt) is None
    assert kept.drops == {"rtx-too-soon": 1}
    assert kept.find(6, 0.5, rtt) == b"b"
    assert kept.find(5, 0.501 + spacing, rtt) == b"a"


def test_a_new_packet_in_the_same_place_may_be_sent_again_at_once(kept: Kept) -> None:
    kept.history.keep(5, [b"a"], 0.0)
    kept.history.sent_again(5, 0.0)
    kept.history.keep(5 + HISTORY_PACKETS, [b"b"], 0.0)
    assert kept.find(5 + HISTORY_PACKETS, 0.0) == b"b"


def test_what_was_cleared_is_not_found(kept: Kept) -> None:
    kept.history.keep(1, [b"a"], 0.0)
    kept.history.clear()
    assert kept.find(1) is None
    assert kept.drops == {"rtx-not-kept": 1}
