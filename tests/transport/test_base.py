"""The values of the seam: defaults that other layers rely on."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from discord_rtc.frames import Codec, MediaKind
from discord_rtc.transport.base import (
    DEFAULT_CODECS,
    CodecOffer,
    MediaOffer,
    NegotiatedMedia,
    SendingSsrcs,
    Transport,
    TransportStats,
)
from discord_rtc.transport.memory import memory_pair
from discord_rtc.transport.udp import UdpTransport


def test_default_payload_types_are_dynamic_distinct_and_no_rtcp() -> None:
    numbers = [entry.payload_type for entry in DEFAULT_CODECS]
    numbers += [entry.rtx_payload_type for entry in DEFAULT_CODECS if entry.rtx_payload_type]
    assert len(set(numbers)) == len(numbers)
    assert all(96 < number < 128 for number in numbers)  # 96 is Discord's probe packets


def test_default_offer_has_both_kinds_and_asks_for_reception() -> None:
    offer = MediaOffer()
    assert {entry.codec.kind for entry in offer.codecs} == {MediaKind.AUDIO, MediaKind.VIDEO}
    assert offer.receive
    assert offer.modes == ()


def test_only_video_has_retransmissions() -> None:
    for entry in DEFAULT_CODECS:
        assert (entry.rtx_payload_type is not None) == (entry.codec.kind is MediaKind.VIDEO)


def test_values_do_not_change() -> None:
    media = NegotiatedMedia(Codec.OPUS, None, {}, {}, {}, 1, (SendingSsrcs("100", 2, 3),))
    for value, name in ((media, "audio_ssrc"), (media.video[0], "ssrc"), (TransportStats(), "rtt")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, 5)
    with pytest.raises(FrozenInstanceError):
        setattr(CodecOffer(Codec.VP8, 105), "payload_type", 5)  # noqa: B010 - mypy forbids the other


def test_empty_statistics_know_nothing() -> None:
    stats = TransportStats()
    assert (stats.rtt, stats.local_address, stats.remote_address) == (None, None, None)
    assert dict(stats.drops) == {}


def test_shipped_transports_have_the_shape_of_the_seam() -> None:
    transports: list[Transport] = [UdpTransport(), *memory_pair()]
    assert [transport.stats().datagrams_sent for transport in transports] == [0, 0, 0]
