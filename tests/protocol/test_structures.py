"""Codec, stream and resolution objects."""

from __future__ import annotations

import pytest

from discord_rtc.protocol.fields import BadField
from discord_rtc.protocol.structures import (
    CodecInfo,
    Resolution,
    StreamInfo,
    parse_codec,
    parse_resolution,
    parse_stream,
)


def test_audio_codec_is_written_without_switches() -> None:
    opus = CodecInfo("opus", "audio", 1000, 120)
    assert opus.to_data() == {
        "name": "opus",
        "type": "audio",
        "priority": 1000,
        "payload_type": 120,
    }
    assert parse_codec(opus.to_data()) == opus


def test_audio_codec_that_can_only_be_received_says_so() -> None:
    opus = CodecInfo("opus", "audio", 1000, 120, encode=False)
    assert opus.to_data()["encode"] is False
    assert parse_codec(opus.to_data()) == opus


def test_codec_switches_default_to_true() -> None:
    data = {"name": "H264", "type": "video", "priority": 1000, "payload_type": 101}
    codec = parse_codec(data)
    assert codec.encode
    assert codec.decode
    assert codec.rtx_payload_type is None


@pytest.mark.parametrize("missing", ["name", "type", "priority", "payload_type"])
def test_codec_needs_its_fields(missing: str) -> None:
    data = CodecInfo("H264", "video", 1000, 101, 102).to_data()
    del data[missing]
    with pytest.raises(BadField, match=missing):
        parse_codec(data)


def test_stream_of_identify_has_three_fields() -> None:
    assert StreamInfo().to_data() == {"type": "video", "rid": "100", "quality": 100}


def test_stream_without_quality_has_none() -> None:
    assert parse_stream({"rid": "50"}) == StreamInfo("video", "50", 0)


def test_layer_that_is_switched_off_keeps_its_zeros() -> None:
    layer = StreamInfo(
        ssrc=7,
        rtx_ssrc=0,
        active=False,
        max_bitrate=0,
        max_framerate=29.97,
        max_resolution=Resolution("fixed", 1280, 720.5),
    )
    assert parse_stream(layer.to_data()) == layer


def test_resolution_of_the_source_is_zero() -> None:
    assert parse_resolution({"type": "source"}) == Resolution("source", 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        {"max_resolution": {"width": -1}},
        {"ssrc": 1 << 32},
        {"active": 1},
        {"quality": 101},
        {"max_framerate": "30"},
    ],
)
def test_stream_refuses_wrong_types(data: dict[str, object]) -> None:
    with pytest.raises(BadField, match=next(iter(data))):
        parse_stream(data)
