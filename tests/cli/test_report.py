from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from discord_rtc.cli.report import Percentiles, Report

GOOD = Report(
    transport="udp",
    receiver_transport="udp",
    dave="off",
    video_codec="H264",
    video_frames_skipped=0,
    video_frames_sent=600,
    video_frames_received=600,
    video_frames_damaged=0,
    video_frames_unchecked=0,
    worst_psnr_db=36.7,
    audio_frames_sent=1250,
    audio_frames_received=1250,
    packets_sent=7000,
    packets_lost=0,
    latency_ms=Percentiles(9.8, 33.1),
    audio_latency_ms=Percentiles(12.3, 23.2),
    av_skew_ms=Percentiles(6.4, 22.6),
    bitrate_bps=2_080_000,
    reconnects=0,
    duration_s=25.0,
    cpu_s=10.0,
    recording="out.mp4",
    recording_frames_dropped=0,
    finished=True,
)
NOTHING = Report(
    transport=None,
    receiver_transport=None,
    dave="off",
    video_codec=None,
    video_frames_skipped=0,
    video_frames_sent=0,
    video_frames_received=0,
    video_frames_damaged=0,
    video_frames_unchecked=0,
    worst_psnr_db=None,
    audio_frames_sent=0,
    audio_frames_received=0,
    packets_sent=0,
    packets_lost=0,
    latency_ms=Percentiles(None, None),
    audio_latency_ms=Percentiles(None, None),
    av_skew_ms=Percentiles(None, None),
    bitrate_bps=0,
    reconnects=0,
    duration_s=0.0,
    cpu_s=0.0,
    recording=None,
    recording_frames_dropped=0,
    finished=False,
)


def test_the_table_of_a_good_call() -> None:
    assert GOOD.rows() == [
        ("transport", "udp to udp"),
        ("E2EE", "off"),
        ("video", "H264, 600 frames sent, 600 received (100 %), 0 damaged"),
        ("video latency", "9.8 ms (p95 33.1 ms)"),
        ("audio", "Opus, 1250 frames sent, 1250 received (100 %)"),
        ("audio latency", "12.3 ms (p95 23.2 ms)"),
        ("A/V skew", "6.4 ms (p95 22.6 ms)"),
        ("packets", "7000 sent, 0 lost"),
        ("bitrate", "2.08 Mbit/s"),
        ("duration", "25.0 s"),
        ("CPU", "10.0 s, 40 % of one core"),
        ("recording", str(Path("out.mp4").resolve())),
    ]


def test_the_table_when_there_was_no_call() -> None:
    rows = dict(NOTHING.rows())
    assert rows["transport"] == "- to -"
    assert rows["recording"] == "none"
    assert "video" not in rows
    assert "audio" not in rows


def test_only_all_is_100_percent() -> None:
    rows = dict(replace(GOOD, audio_frames_received=1249).rows())
    assert rows["audio"] == "Opus, 1250 frames sent, 1249 received (99.9 %)"


def test_what_was_left_out_is_told() -> None:
    odd = replace(
        GOOD, video_frames_unchecked=3, video_frames_skipped=300, recording_frames_dropped=4
    )
    rows = dict(odd.rows())
    assert rows["video"].endswith("0 damaged, 3 not compared, 300 of the source left out")
    assert rows["recording"].endswith("out.mp4, 4 frames short")


def test_a_connection_that_broke_is_told() -> None:
    assert dict(replace(GOOD, reconnects=2).rows())["reconnects"] == "2"


def test_json_holds_every_figure() -> None:
    found = json.loads(GOOD.to_json())
    assert found["latency_ms"] == {"p50": 9.8, "p95": 33.1}
    assert found["av_skew_ms"] == {"p50": 6.4, "p95": 22.6}
    assert found["recording"] == "out.mp4"
    assert json.loads(NOTHING.to_json())["latency_ms"] == {"p50": None, "p95": None}


@pytest.mark.parametrize(
    ("report", "came_through"),
    [
        (GOOD, True),
        (NOTHING, False),
        (replace(GOOD, video_frames_received=20), True),
        (replace(GOOD, video_frames_received=19), False),
        (replace(GOOD, video_frames_damaged=590), False),
        (replace(GOOD, audio_frames_received=0), False),
        (replace(NOTHING, audio_frames_sent=100, audio_frames_received=90), True),
        (replace(NOTHING, video_frames_sent=100, video_frames_received=90), True),
    ],
)
def test_whether_media_came_through(report: Report, came_through: bool) -> None:
    assert report.came_through is came_through
