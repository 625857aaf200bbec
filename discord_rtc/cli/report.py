"""What the demo found out: as JSON for programs, as a table for people. Values only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import floor
from pathlib import Path

CAME_THROUGH = 1 / 30
"""Part of the sent frames that must arrive. Below one picture a second nobody would call it
video; how good it was above that is what the report says."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of a duration in milliseconds; None when nothing was measured."""

    p50: float | None
    p95: float | None

    def __str__(self) -> str:
        return "-" if self.p50 is None else f"{self.p50:.1f} ms (p95 {self.p95:.1f} ms)"


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a demo. The names are the keys of its JSON.

    Attributes:
        transport: Of the sender; None when there was no call.
        receiver_transport: Of the receiver; likewise.
        dave: State of end-to-end encryption.
        video_codec: As negotiated; None without video.
        video_frames_skipped: Read from the source but not sent: above the frame rate, or
            because encoder or network were behind.
        video_frames_sent: Encoded pictures sent.
        video_frames_received: Decoded pictures that came out.
        video_frames_damaged: Those of them that the decoder flagged, or that differ from the
            sent picture of the same RTP time by less than 25 dB PSNR.
        video_frames_unchecked: Those of them that were not compared.
        worst_psnr_db: The least likeness of a picture.
        audio_frames_sent: Frames of 20 ms.
        audio_frames_received: Likewise.
        packets_sent: RTP packets.
        packets_lost: Those of them that never arrived.
        latency_ms: From reading a picture at the source to its decoded one.
        audio_latency_ms: From the capture of a sample to its decoded one.
        av_skew_ms: Size of video delay minus audio delay at the same media time.
        bitrate_bps: Of the sent payload.
        reconnects: How often a connection broke and was made anew.
        duration_s: How long was sent.
        cpu_s: Used meanwhile, by sender, receiver, server, comparison and recording.
        recording: The file, None when there is none.
        recording_frames_dropped: Received frames that are not in it, because encoding them for
            the file was too slow.
        finished: False when the demo was interrupted or failed.
    """

    transport: str | None
    receiver_transport: str | None
    dave: str
    video_codec: str | None
    video_frames_skipped: int
    video_frames_sent: int
    video_frames_received: int
    video_frames_damaged: int
    video_frames_unchecked: int
    worst_psnr_db: float | None
    audio_frames_sent: int
    audio_frames_received: int
    packets_sent: int
    packets_lost: int
    latency_ms: Percentiles
    audio_latency_ms: Percentiles
    av_skew_ms: Percentiles
    bitrate_bps: int
    reconnects: int
    duration_s: float
    cpu_s: float
    recording: str | None
    recording_frames_dropped: int
    finished: bool

    @property
    def came_through(self) -> bool:
        """Whether a worthwhile part of everything that was sent arrived whole."""
        undamaged = self.video_frames_received - self.video_frames_damaged
        return (
            self.video_frames_sent + self.audio_frames_sent > 0
            and undamaged >= CAME_THROUGH * self.video_frames_sent
            and self.audio_frames_received >= CAME_THROUGH * self.audio_frames_sent
        )

    def to_json(self) -> str:
        """One object, for ``--json``."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def rows(self) -> list[tuple[str, str]]:
        """Label and value of each line of the table."""
        rows = [("transport", f"{self.transport or '-'} to {self.receiver_transport or '-'}")]
        rows.append(("E2EE", self.dave))
        if self.video_codec is not None:
            rows += [
                ("video", f"{self.video_codec}, {self._video()}"),
                ("video latency", str(self.latency_ms)),
            ]
        if self.audio_frames_sent:
            received = _received(self.audio_frames_received, self.audio_frames_sent)
            rows += [
                ("audio", f"Opus, {received}"),
                ("audio latency", str(self.audio_latency_ms)),
            ]
        if self.av_skew_ms.p50 is not None:
            rows.append(("A/V skew", str(self.av_skew_ms)))
        if self.reconnects:
            rows.append(("reconnects", str(self.reconnects)))
        rows += [
            ("packets", f"{self.packets_sent} sent, {self.packets_lost} lost"),
            ("bitrate", f"{self.bitrate_bps / 1e6:.2f} Mbit/s"),
            ("duration", f"{self.duration_s:.1f} s"),
            ("CPU", self._cpu()),
            ("recording", self._recording()),
        ]
        return rows

    def _video(self) -> str:
        parts = [
            _received(self.video_frames_received, self.video_frames_sent),
            f"{self.video_frames_damaged} damaged",
        ]
        if self.video_frames_unchecked:
            parts.append(f"{self.video_frames_unchecked} not compared")
        if self.video_frames_skipped:
            parts.append(f"{self.video_frames_skipped} of the source left out")
        return ", ".join(parts)

    def _recording(self) -> str:
        if self.recording is None:
            return "none"
        lacking = f", {dropped} frames short" if (dropped := self.recording_frames_dropped) else ""
        return f"{Path(self.recording).resolve()}{lacking}"

    def _cpu(self) -> str:
        share = 100 * self.cpu_s / self.duration_s if self.duration_s else 0
        return f"{self.cpu_s:.1f} s, {share:.0f} % of one core"


def _received(received: int, sent: int) -> str:
    # Rounded down: 100 % is for those who got all.
    part = f" ({floor(1000 * received / sent) / 10:g} %)" if sent else ""
    return f"{sent} frames sent, {received} received{part}"
