"""VP8 payload format."""

from __future__ import annotations

import pytest

from discord_rtc.errors import MalformedFrame
from discord_rtc.rtp.payloads.vp8 import Vp8Depacketizer, Vp8Packetizer, descriptor_length

_KEYFRAME = bytes.fromhex("1002009d012a80020e01")


def test_sender_form_of_native_clients() -> None:
    packetizer = Vp8Packetizer(picture_id=0x1234)
    frame = bytes(range(150))
    assert packetizer.packetize(frame, 64) == [
        b"\x90\x80\x92\x34" + frame[:60],
        b"\x80\x80\x92\x34" + frame[60:120],
        b"\x80\x80\x92\x34" + frame[120:],
    ]


def test_picture_id_counts_frames_and_wraps_at_15_bits() -> None:
    packetizer = Vp8Packetizer(picture_id=0x7FFF)
    ids = [packetizer.packetize(b"frame", 64)[0][2:4].hex() for _ in range(3)]
    assert ids == ["ffff", "8000", "8001"]


def test_frame_that_fills_its_payloads_exactly() -> None:
    payloads = Vp8Packetizer().packetize(bytes(120), 64)
    assert [len(payload) for payload in payloads] == [64, 64]


def test_empty_frame_is_refused() -> None:
    with pytest.raises(MalformedFrame):
        Vp8Packetizer().packetize(b"", 64)


@pytest.mark.parametrize(
    ("descriptor", "name"),
    [
        ("10", "nothing optional"),
        ("30", "non-reference"),
        ("9000", "extended by nothing"),
        ("908011", "7-bit picture id"),
        ("90809234", "15-bit picture id"),
        ("904007", "TL0PICIDX"),
        ("902040", "TID"),
        ("901005", "KEYIDX"),
        ("90300b", "TID and KEYIDX in one byte"),
        ("90c0110a", "picture id and TL0PICIDX"),
        ("90f092340a40", "everything"),
        ("90e0110a40", "all but KEYIDX"),
    ],
)
def test_every_form_of_descriptor_is_read_over(descriptor: str, name: str) -> None:
    head = bytes.fromhex(descriptor)
    assert descriptor_length(head) == len(head), name
    depacketizer = Vp8Depacketizer()
    assert depacketizer.starts_frame(head + _KEYFRAME)
    follower = bytes((head[0] & ~0x10,)) + head[1:]
    assert not depacketizer.starts_frame(follower + b"rest")
    assert depacketizer.depacketize([head + _KEYFRAME, follower + b"rest"]) == _KEYFRAME + b"rest"
    for cut in range(len(head)):
        with pytest.raises(MalformedFrame):
            descriptor_length(head[:cut])


def test_later_partition_may_start_in_a_payload_of_its_own() -> None:
    assert Vp8Depacketizer().depacketize([b"\x10one", b"\x11two", b"\x01three"]) == b"onetwothree"
    assert not Vp8Depacketizer().starts_frame(b"\x11two")


def test_all_padding_packets_are_passed_over() -> None:
    assert Vp8Depacketizer().depacketize([b"", b"\x10one", b"", b"\x00two"]) == b"onetwo"
    assert not Vp8Depacketizer().starts_frame(b"")


@pytest.mark.parametrize(
    "payloads",
    [[], [b""], [b"\x10"], [b"\x00rest"], [b"\x11rest"], [b"\x10one", b"\x10two"], [b"\x90\x80"]],
    ids=["nothing", "padding", "empty", "middle", "partition 1", "two frames", "cut descriptor"],
)
def test_payloads_that_make_no_frame(payloads: list[bytes]) -> None:
    with pytest.raises(MalformedFrame):
        Vp8Depacketizer().depacketize(payloads)


def test_keyframe_is_told_by_the_first_bit() -> None:
    depacketizer = Vp8Depacketizer()
    assert depacketizer.is_keyframe(_KEYFRAME)
    assert not depacketizer.is_keyframe(b"\x11\x02\x00")
    assert not depacketizer.is_keyframe(b"")
