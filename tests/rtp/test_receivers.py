"""The table of received streams: who is in it, from when and until when."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from discord_rtc.frames import Codec
from discord_rtc.rtp.events import FrameReceived, SenderReportReceived, StreamEnded
from discord_rtc.rtp.extensions import NATIVE_EXTENSION_IDS
from discord_rtc.rtp.inbound import (
    ENDING_TIME,
    STALE_TIME,
    InboundContext,
)
from discord_rtc.rtp.packet import RtpPacket
from discord_rtc.rtp.payloads.base import payload_format
from discord_rtc.rtp.receivers import MOST_STREAMS, Receivers
from discord_rtc.rtp.rtcp import SenderReport

if TYPE_CHECKING:
    from discord_rtc.rtp.events import Event
    from discord_rtc.rtp.stats import InboundStats

_OPUS = payload_format(Codec.OPUS)
_VP8 = payload_format(Codec.VP8)
_KEY = b"\x90\x80\x80\x00\x00key"  # one payload: VP8 descriptor and frame
_DELTA = b"\x90\x80\x80\x00\x01delta"


class Fixture:
    """Received streams, what they emitted and which SSRCs they sent a PLI for."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.requests: list[int] = []
        self.drops: Counter[str] = Counter()
        self.streams = Receivers(
            InboundContext(
                NATIVE_EXTENSION_IDS, self.drops, self.events.append, self.requests.append
            )
        )

    def audio(
        self, sequence: int, now: float = 0.0, *, ssrc: int = 1, extension: bytes | None = None
    ) -> None:
        packet = RtpPacket(120, sequence % 65536, sequence * 960 % (1 << 32), ssrc, b"opus")
        if extension is not None:
            packet = packet._replace(extension_profile=0xBEDE, extension_data=extension)
        self.streams.receive(packet, _OPUS, now)

    def video(self, sequence: int, payload: bytes, now: float = 0.0, *, ssrc: int = 2) -> None:
        packet = RtpPacket(105, sequence % 65536, sequence * 3000, ssrc, payload, marker=True)
        self.streams.receive(packet, _VP8, now)

    def frames(self) -> list[FrameReceived]:
        return [event for event in self.events if isinstance(event, FrameReceived)]

    def stats(self, ssrc: int) -> InboundStats:
        return next(stats for stats in self.streams.stats() if stats.ssrc == ssrc)


@pytest.fixture
def fixture() -> Fixture:
    return Fixture()


def _report(ssrc: int, ticks: int, ntp: int = 5 << 32) -> SenderReport:
    return SenderReport(ssrc, ntp, ticks, 0, 0)


def test_a_report_before_the_first_packet_is_kept_for_it(fixture: Fixture) -> None:
    fixture.streams.receive_report(_report(2, 0xFFFF_FFFF), 0.5)
    fixture.streams.receive_report(_report(2, 0xFFFF_FFFF, ntp=6 << 32), 1.0)
    assert fixture.events == []
    fixture.video(0, _KEY, 1.5)  # ticks 0: one after the wrap
    assert fixture.events == [
        SenderReportReceived(2, 6.0, 0xFFFF_FFFF, 1.0),
        FrameReceived(2, Codec.VP8, b"\x00key", 1 << 32, keyframe=True, now=1.5),
    ]
    assert fixture.streams.reports(1.5)[0].last_sr == 6 << 16


def test_reports_of_streams_that_never_come_are_bounded(fixture: Fixture) -> None:
    for ssrc in range(MOST_STREAMS + 3):
        fixture.streams.receive_report(_report(ssrc + 1, 0), 0.0)
    assert fixture.drops == {"early-report": 3}
    fixture.audio(1, ssrc=3)
    assert len(fixture.events) == 1  # pushed out
    fixture.audio(1, ssrc=4)
    assert isinstance(fixture.events[1], SenderReportReceived)


def test_an_ended_stream_takes_no_more_input(fixture: Fixture) -> None:
    fixture.video(1, _KEY, 0.0)
    fixture.streams.end(2, 0.0)
    fixture.streams.handle_timeout(1.0)
    fixture.events.clear()
    fixture.video(1, _KEY, 1.1)
    fixture.streams.ask_keyframe(2, 1.1)
    fixture.streams.end(2, 1.1)
    fixture.streams.receive_report(_report(2, 5), 1.1)
    assert fixture.events == []
    assert fixture.requests == []
    assert fixture.drops == {"after-bye": 1}


@pytest.mark.parametrize(
    ("sequence", "now"), [(101, 0.5), (30_000, 0.5), (90, ENDING_TIME + STALE_TIME)]
)
def test_an_ssrc_may_come_back(fixture: Fixture, sequence: int, now: float) -> None:
    fixture.audio(100, 0.0)
    fixture.streams.end(1, 0.0)
    fixture.streams.handle_timeout(0.2)
    fixture.audio(sequence, now)
    assert [type(event) for event in fixture.events] == [FrameReceived, StreamEnded, FrameReceived]
    assert fixture.stats(1).packets == 1


def test_an_ssrc_may_come_back_before_its_goodbye_takes_effect(fixture: Fixture) -> None:
    fixture.video(100, _KEY, 0.0)
    fixture.streams.end(2, 0.0)
    fixture.streams.receive_report(_report(2, 60_000 * 3000), 0.01)  # of the new stream
    fixture.video(60_000, _KEY, 0.02)
    fixture.streams.handle_timeout(1.0)
    fixture.video(60_001, _DELTA, 1.0)
    kinds = [FrameReceived, StreamEnded, SenderReportReceived, FrameReceived, FrameReceived]
    assert [type(event) for event in fixture.events] == kinds
    assert fixture.requests == []
    assert fixture.stats(2).packets == 2


def test_a_goodbye_of_an_unknown_stream_means_nothing(fixture: Fixture) -> None:
    fixture.streams.receive_report(_report(1, 0), 0.0)
    fixture.streams.end(1, 0.0)
    fixture.audio(1)
    assert [type(event) for event in fixture.events] == [FrameReceived]


def test_a_forgotten_stream_begins_anew(fixture: Fixture) -> None:
    fixture.video(1, _DELTA, 0.0)
    fixture.streams.forget(2)
    fixture.streams.forget(2)
    assert fixture.streams.stats() == ()
    assert fixture.streams.next_timeout() is None
    fixture.video(2, _KEY, 0.0)
    assert len(fixture.frames()) == 1


def test_the_longest_silent_stream_makes_room(fixture: Fixture) -> None:
    for ssrc in range(MOST_STREAMS):
        fixture.audio(1, float(ssrc), ssrc=ssrc)
    fixture.audio(2, 1000.0, ssrc=0)
    fixture.audio(1, 1001.0, ssrc=5000)
    assert StreamEnded(1) in fixture.events
    assert len(fixture.streams.stats()) == MOST_STREAMS
    table = fixture.streams.queue_stats()[0]
    assert (table.high_water, table.bound, table.dropped) == (MOST_STREAMS, MOST_STREAMS, 1)


def test_an_ended_stream_makes_room_without_ending_twice(fixture: Fixture) -> None:
    for ssrc in range(MOST_STREAMS):
        fixture.audio(1, float(ssrc), ssrc=ssrc)
    fixture.streams.end(0, 500.0)
    fixture.streams.handle_timeout(501.0)
    fixture.audio(1, 502.0, ssrc=5000)
    assert [event for event in fixture.events if isinstance(event, StreamEnded)] == [StreamEnded(0)]


def test_streams_are_reported_and_asked_one_by_one(fixture: Fixture) -> None:
    fixture.audio(1)
    fixture.video(1, _KEY)
    fixture.streams.receive_report(_report(1, 960, ntp=9 << 32), 0.0)
    assert [(block.ssrc, block.last_sr) for block in fixture.streams.reports(0.0)] == [
        (1, 9 << 16),
        (2, 0),
    ]
    assert fixture.streams.reports(5.0) == []
    fixture.streams.ask_keyframe(2, 1.0)
    fixture.streams.ask_keyframe(2, 1.1)
    assert fixture.requests == [2]
    assert fixture.streams.next_timeout() == 1.5
    assert [stats.ssrc for stats in fixture.streams.stats()] == [1, 2]
