"""Packets find their sink, early or late, and nothing comes after the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from discord_rtc.transport.delivery import EARLY_PACKETS, Delivery

if TYPE_CHECKING:
    from collections import Counter

    from .conftest import RecordingSink


@pytest.fixture
def delivery(drops: Counter[str]) -> Delivery:
    return Delivery(drops)


def test_packets_go_to_the_sink_by_kind(delivery: Delivery, sink: RecordingSink) -> None:
    delivery.attach(sink)
    delivery.packet(b"a", 1.0, rtcp=False)
    delivery.packet(b"b", 2.0, rtcp=True)
    assert (sink.rtp_packets, sink.rtcp_packets, sink.times) == ([b"a"], [b"b"], [1.0, 2.0])


def test_early_packets_keep_order_and_time(delivery: Delivery, sink: RecordingSink) -> None:
    delivery.packet(b"a", 1.0, rtcp=False)
    delivery.packet(b"b", 2.0, rtcp=True)
    delivery.packet(b"c", 3.0, rtcp=False)
    delivery.attach(sink)
    assert (sink.rtp_packets, sink.rtcp_packets) == ([b"a", b"c"], [b"b"])
    assert sink.times == [1.0, 2.0, 3.0]


def test_early_packets_are_bounded_and_the_newest_dropped(
    delivery: Delivery, sink: RecordingSink, drops: Counter[str]
) -> None:
    for number in range(EARLY_PACKETS + 5):
        delivery.packet(number.to_bytes(2, "big"), 0.0, rtcp=False)
    assert drops == {"early": 5}
    delivery.attach(sink)
    assert sink.rtp_packets == [n.to_bytes(2, "big") for n in range(EARLY_PACKETS)]


def test_nothing_is_delivered_after_closing(
    delivery: Delivery, sink: RecordingSink, drops: Counter[str]
) -> None:
    delivery.packet(b"early", 0.0, rtcp=False)
    delivery.close()
    delivery.attach(sink)
    delivery.packet(b"late", 0.0, rtcp=False)
    delivery.lose(OSError())
    assert sink.times == []
    assert sink.errors == []
    assert drops == {"closed": 1}


def test_sink_may_close_while_it_is_handed_early_packets(
    delivery: Delivery, sink: RecordingSink
) -> None:
    class ClosingSink:
        def __init__(self) -> None:
            self.packets: list[tuple[bytes, float]] = []

        def rtp(self, packet: bytes, now: float) -> None:
            self.packets.append((packet, now))
            delivery.close()

        rtcp = rtp

        def lost(self, error: Exception) -> None:
            raise AssertionError(error)

    closing = ClosingSink()
    delivery.packet(b"a", 0.0, rtcp=False)
    delivery.packet(b"b", 0.0, rtcp=False)
    delivery.lose(OSError())
    delivery.attach(closing)
    assert closing.packets == [(b"a", 0.0)]


def test_loss_is_told_once(delivery: Delivery, sink: RecordingSink, drops: Counter[str]) -> None:
    error = OSError("gone")
    delivery.attach(sink)
    delivery.lose(error)
    delivery.lose(OSError("again"))
    delivery.packet(b"late", 0.0, rtcp=False)
    assert sink.errors == [error]
    assert sink.times == []
    assert drops == {"closed": 1}


def test_loss_before_the_sink_is_told_after_the_packets(
    delivery: Delivery, sink: RecordingSink
) -> None:
    error = OSError("gone")
    delivery.packet(b"a", 0.0, rtcp=False)
    delivery.lose(error)
    delivery.attach(sink)
    assert sink.rtp_packets == [b"a"]
    assert sink.errors == [error]
