"""Opus payload format."""

from __future__ import annotations

import pytest

from discord_rtc.errors import MalformedFrame
from discord_rtc.frames import OPUS_SILENCE
from discord_rtc.rtp.payloads.opus import OpusDepacketizer, OpusPacketizer


def test_packet_is_its_own_payload() -> None:
    assert OpusPacketizer().packetize(OPUS_SILENCE, 1200) == [OPUS_SILENCE]
    assert OpusDepacketizer().depacketize([OPUS_SILENCE]) == OPUS_SILENCE


@pytest.mark.parametrize("size", [0, 65])
def test_packet_that_fits_no_payload_is_malformed(size: int) -> None:
    with pytest.raises(MalformedFrame):
        OpusPacketizer().packetize(bytes(size), 64)


def test_payload_may_be_as_large_as_the_limit() -> None:
    assert OpusPacketizer().packetize(bytes(64), 64) == [bytes(64)]


def test_all_padding_packets_are_passed_over() -> None:
    assert OpusDepacketizer().depacketize([b"", OPUS_SILENCE, b""]) == OPUS_SILENCE
    assert not OpusDepacketizer().starts_frame(b"")


@pytest.mark.parametrize("payloads", [[], [b""], [b"a", b"b"]])
def test_none_or_two_payloads_are_no_frame(payloads: list[bytes]) -> None:
    with pytest.raises(MalformedFrame):
        OpusDepacketizer().depacketize(payloads)


def test_every_packet_starts_a_frame_that_is_a_keyframe() -> None:
    assert OpusDepacketizer().starts_frame(OPUS_SILENCE)
    assert OpusDepacketizer().is_keyframe(OPUS_SILENCE)
