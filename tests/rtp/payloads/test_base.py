"""The registry of payload formats."""

from __future__ import annotations

import pytest

from discord_rtc.errors import NoCommonCodec
from discord_rtc.frames import Codec
from discord_rtc.rtp.payloads.base import payload_format

_FRAMES = {
    Codec.OPUS: b"\xfc\x01\x02",
    Codec.H264: b"\0\0\0\1\x65" + bytes(range(1, 200)),
    Codec.VP8: b"\x10\x02\x00\x9d\x01\x2a" + bytes(200),
}


@pytest.mark.parametrize("codec", _FRAMES)
def test_format_carries_a_keyframe_there_and_back(codec: Codec) -> None:
    found = payload_format(codec)
    assert found.codec is codec
    payloads = found.packetizer().packetize(_FRAMES[codec], 64)
    depacketizer = found.depacketizer()
    assert depacketizer.starts_frame(payloads[0])
    assert depacketizer.depacketize(payloads) == _FRAMES[codec]
    assert depacketizer.is_keyframe(_FRAMES[codec])


def test_each_stream_gets_a_packetizer_of_its_own() -> None:
    found = payload_format(Codec.VP8)
    first, second = found.packetizer(), found.packetizer()
    first.packetize(b"x", 64)
    assert second.packetize(b"x", 64) == payload_format(Codec.VP8).packetizer().packetize(b"x", 64)


@pytest.mark.parametrize("codec", [Codec.H265, Codec.VP9, Codec.AV1])
def test_codec_without_a_format_is_named(codec: Codec) -> None:
    with pytest.raises(NoCommonCodec, match=codec.value):
        payload_format(codec)
