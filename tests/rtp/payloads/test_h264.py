"""H.264 payload format."""

from __future__ import annotations

import pytest

from discord_rtc.errors import MalformedFrame
from discord_rtc.rtp.payloads.h264 import (
    START_CODE,
    H264Depacketizer,
    H264Packetizer,
    split_nal_units,
)

_SPS = bytes.fromhex("6742e01f9a")
_PPS = bytes.fromhex("68ce3c80")
_IDR = b"\x65" + bytes(range(1, 251)) * 4
_SLICE = b"\x41\x9a\x10\x20"


def _annex_b(*units: bytes) -> bytes:
    return b"".join(START_CODE + unit for unit in units)


def _join(*payloads: bytes) -> bytes:
    return H264Depacketizer().depacketize(payloads)


class TestSplitting:
    def test_start_codes_of_both_lengths(self) -> None:
        frame = START_CODE + _SPS + START_CODE[1:] + _PPS + START_CODE + _SLICE
        assert split_nal_units(frame) == [_SPS, _PPS, _SLICE]
        assert split_nal_units(frame[1:]) == [_SPS, _PPS, _SLICE]

    def test_only_the_zero_of_the_start_code_is_taken(self) -> None:
        encrypted = b"\x41abc\0\0"  # what is encrypted may end in zeros
        assert split_nal_units(_annex_b(encrypted, _SLICE)) == [encrypted, _SLICE]

    def test_zeros_at_the_end_of_the_frame_are_kept(self) -> None:
        assert split_nal_units(_annex_b(_SLICE + b"\0\0")) == [_SLICE + b"\0\0"]

    def test_leading_zeros_are_passed_over(self) -> None:
        assert split_nal_units(bytes(5) + _annex_b(_SLICE)) == [_SLICE]

    @pytest.mark.parametrize(
        "frame",
        [
            b"",
            b"\0\0\0",
            _SLICE,
            b"\xff" + _annex_b(_SLICE),
            START_CODE,
            START_CODE + START_CODE + _SLICE,
            _annex_b(_SLICE) + START_CODE,
            START_CODE[1:] * 2 + _SLICE,
            len(_SLICE).to_bytes(4, "big") + _SLICE,
        ],
        ids=[
            "nothing",
            "zeros",
            "no start code",
            "something in front",
            "start code only",
            "empty first unit",
            "empty last unit",
            "empty unit, short codes",
            "length prefix instead",
        ],
    )
    def test_what_is_not_annex_b_is_malformed(self, frame: bytes) -> None:
        with pytest.raises(MalformedFrame):
            split_nal_units(frame)


class TestPacketizing:
    def test_unit_that_fits_is_a_payload_of_its_own(self) -> None:
        assert H264Packetizer().packetize(_annex_b(_SLICE), 64) == [_SLICE]
        exact = b"\x41" + bytes(range(1, 64))
        assert H264Packetizer().packetize(_annex_b(exact), 64) == [exact]

    def test_small_neighbours_share_a_payload(self) -> None:
        assert H264Packetizer().packetize(_annex_b(_SPS, _PPS), 64) == [
            b"\x78\x00\x05" + _SPS + b"\x00\x04" + _PPS
        ]

    def test_aggregate_has_the_highest_nri_and_any_f_bit(self) -> None:
        units = (b"\x06sei", b"\x21ref", b"\x81bad")
        (payload,) = H264Packetizer().packetize(_annex_b(*units), 64)
        assert payload[0] == 0x80 | 0x20 | 24

    def test_parameter_sets_share_a_payload_in_front_of_a_large_slice(self) -> None:
        payloads = H264Packetizer().packetize(_annex_b(_SPS, _PPS, _IDR), 500)
        assert [payload[0] & 0x1F for payload in payloads] == [24, 28, 28, 28]
        assert _join(*payloads) == _annex_b(_SPS, _PPS, _IDR)

    def test_aggregate_is_filled_up_to_the_limit_and_no_further(self) -> None:
        first, second = b"\x41" + b"a" * 29, b"\x41" + b"b" * 28
        payloads = H264Packetizer().packetize(_annex_b(first, second), 64)
        assert [len(payload) for payload in payloads] == [1 + 2 + 30 + 2 + 29]
        payloads = H264Packetizer().packetize(_annex_b(first, second + b"b"), 64)
        assert payloads == [first, second + b"b"]

    def test_fragments_have_the_header_of_their_unit(self) -> None:
        unit = b"\x65" + bytes(range(1, 131))
        assert H264Packetizer().packetize(_annex_b(unit), 64) == [
            b"\x7c\x85" + unit[1:63],
            b"\x7c\x05" + unit[63:125],
            b"\x7c\x45" + unit[125:],
        ]

    @pytest.mark.parametrize("size", [65, 66, 125, 126, 187, 188, 70_000])
    def test_fragments_never_start_and_end_at_once_or_are_empty(self, size: int) -> None:
        unit = b"\x41" + b"x" * (size - 1)
        payloads = H264Packetizer().packetize(_annex_b(unit), 64)
        heads = [payload[1] & 0xC0 for payload in payloads]
        assert heads == [0x80] + [0] * (len(payloads) - 2) + [0x40]
        assert all(2 < len(payload) <= 64 for payload in payloads)
        assert _join(*payloads) == _annex_b(unit)

    @pytest.mark.parametrize("kind", [0, 24, 28, 31])
    def test_unit_of_a_type_that_rtp_uses_otherwise_is_refused(self, kind: int) -> None:
        with pytest.raises(MalformedFrame, match=f"type {kind} "):
            H264Packetizer().packetize(_annex_b(bytes((0x60 | kind, 1))), 64)

    @pytest.mark.parametrize("limit", [63, 65_536])
    def test_limit_out_of_range(self, limit: int) -> None:
        with pytest.raises(ValueError, match="limit"):
            H264Packetizer().packetize(_annex_b(_SLICE), limit)


class TestDepacketizing:
    def test_all_structures_in_one_frame(self) -> None:
        shared = b"\x78\x00\x05" + _SPS + b"\x00\x04" + _PPS
        fragments = (b"\x7c\x85AB", b"\x7c\x05", b"\x7c\x45C")
        assert _join(shared, *fragments, _SLICE) == _annex_b(_SPS, _PPS, b"\x65ABC", _SLICE)

    def test_fragment_that_starts_and_ends_at_once_is_tolerated(self) -> None:
        assert _join(b"\x7c\xc5AB") == _annex_b(b"\x65AB")

    def test_forbidden_bit_survives(self) -> None:
        assert _join(b"\xfc\x85A", b"\xfc\x45B") == _annex_b(b"\xe5AB")

    def test_all_padding_packets_are_passed_over(self) -> None:
        assert _join(b"", b"\x7c\x85A", b"", b"\x7c\x45B", b"") == _annex_b(b"\x65AB")

    @pytest.mark.parametrize(
        "payloads",
        [
            [],
            [b""],
            [b"\x7c\x05B", b"\x7c\x45C"],
            [b"\x7c\x85A", b"\x7c\x05B"],
            [b"\x7c\x85A", b"\x7c\x85B", b"\x7c\x45C"],
            [b"\x7c\x85A", _SLICE],
            [b"\x7c\x85A", b"\x78\x00\x01\x41"],
            [b"\x7c"],
            [b"\x7c\x9c\x01"],
            [b"\x78"],
            [b"\x78\x00"],
            [b"\x78\x00\x00"],
            [b"\x78\x00\x05\x41\x01"],
            [b"\x78\x00\x02\x7c\x85"],
            [b"\x00\x01"],
            [b"\x79\x01"],
            [b"\x7d\x85\x00\x00A"],
            [b"\x7f"],
        ],
        ids=[
            "nothing",
            "padding",
            "fragment without start",
            "fragment without end",
            "second start",
            "unit inside fragments",
            "aggregate inside fragments",
            "fragment without header",
            "fragmented fragment",
            "empty aggregate",
            "half a size",
            "empty unit in an aggregate",
            "aggregate cut off",
            "fragment in an aggregate",
            "type 0",
            "STAP-B",
            "FU-B",
            "type 31",
        ],
    )
    def test_payloads_that_make_no_frame(self, payloads: list[bytes]) -> None:
        with pytest.raises(MalformedFrame):
            _join(*payloads)

    @pytest.mark.parametrize(
        ("payload", "expected"),
        [
            (_SLICE, True),
            (b"\x78\x00\x01\x41", True),
            (b"\x7c\x85A", True),
            (b"\x7c\x05A", False),
            (b"\x7c\x45A", False),
            (b"\x7c", False),
            (b"\x79", False),
            (b"\x60", False),
            (b"", False),
        ],
    )
    def test_payload_with_the_start_of_a_unit_may_start_a_frame(
        self, payload: bytes, expected: bool
    ) -> None:
        assert H264Depacketizer().starts_frame(payload) is expected

    @pytest.mark.parametrize(
        ("frame", "expected"),
        [
            (_annex_b(_SPS, _PPS, _IDR), True),
            (START_CODE[1:] + _IDR, True),
            (_annex_b(_SLICE), False),
            (_annex_b(_SLICE, _IDR), False),
            (_annex_b(_SPS, _PPS), False),
            (START_CODE, False),
            (b"\x65", False),
            (b"", False),
        ],
    )
    def test_keyframe_is_told_by_the_first_slice(self, frame: bytes, expected: bool) -> None:
        assert H264Depacketizer().is_keyframe(frame) is expected
