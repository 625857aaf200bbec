"""Audio of one session: encode, announce speech, end it with silence frames.

track -> Opus in a worker -> outlet; and op 5 around each stretch of speech
"""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import TYPE_CHECKING

import av

from discord_rtc.errors import UnsupportedMedia
from discord_rtc.frames import OPUS_FRAME_TICKS, OPUS_SILENCE, Codec, EncodedFrame
from discord_rtc.media.encode import OpusEncoder, packet_to_frame
from discord_rtc.protocol.opcodes import SpeakingFlags
from discord_rtc.rtp.session import SenderConfig

if TYPE_CHECKING:
    from discord_rtc.connection.publication import Announcer, Outlet, Publication
    from discord_rtc.connection.worker import Worker
    from discord_rtc.media.track import MediaFrame

TRAILING_SILENCE = 5
"""Silence frames at the end of speech (Discord docs, "Voice Data Interpolation")."""

SPEECH_GAP = 0.1
"""Seconds of waiting for the track after which speech counts as ended."""

_SECOND_LOOK = 0.02
"""Part of the gap that is waited after its timer fired: when the loop itself was held up, the
track's frame is handed over in that time, and there was no gap."""

_SILENCE_SPACING = 0.02
_OPUS_TIME_BASE = Fraction(1, Codec.OPUS.clock_rate)


class AudioSender:
    """Audio of one session: encode, announce speech, end it with silence frames."""

    def __init__(
        self, publication: Publication, outlet: Outlet, announcer: Announcer, worker: Worker
    ) -> None:
        self._publication = publication
        self._outlet = outlet
        self._announcer = announcer
        self._worker = worker
        self._ssrc = outlet.media.audio_ssrc
        self._loop = asyncio.get_running_loop()
        self._encoder: OpusEncoder | None = None
        self._speaking = False
        self._earliest_pts: int | None = None
        self._next_pts = 0
        self._gap: asyncio.TimerHandle | None = None
        self._trailing = 0

    async def run(self) -> None:
        """Until the track ends, and speech with it."""
        number = self._outlet.media.payload_types[Codec.OPUS]
        self._outlet.add_sender(SenderConfig(self._ssrc, Codec.OPUS, number))
        try:
            while (frame := await self._next_frame()) is not None:
                for encoded in await self._encode(frame):
                    self._send(encoded)
            if self._encoder is not None:
                for encoded in await self._worker.run(self._encoder.flush):
                    self._send(encoded)
            await self._finish_speech()
        except asyncio.CancelledError:
            if self._publication.stopped:
                await self._finish_speech()
            raise
        finally:
            self._cancel_gap()

    async def _next_frame(self) -> MediaFrame | None:
        """The track's next frame that is to be sent; speech ends while there is none."""
        while True:
            if self._speaking and self._gap is None:
                self._gap = self._loop.call_later(SPEECH_GAP - _SECOND_LOOK, self._look_again)
            frame = await self._publication.receive()
            if frame is None or not self._publication.muted:
                self._cancel_gap()
                return frame
            self._publication.count("skipped-muted")
            if self._speaking and not self._trailing:
                self._cancel_gap()
                self._trail_off()

    async def _encode(self, frame: MediaFrame) -> list[EncodedFrame]:
        if isinstance(frame, av.Packet):
            return [packet_to_frame(frame, Codec.OPUS)]
        if not isinstance(frame, av.AudioFrame):
            raise UnsupportedMedia(
                f"a microphone track must give audio, not {type(frame).__name__}"
            )
        encoder = self._encoder = self._encoder or OpusEncoder()
        return await self._worker.run(lambda: encoder.encode(frame))

    def _send(self, encoded: EncodedFrame) -> None:
        pts = int(encoded.pts * encoded.time_base / _OPUS_TIME_BASE)
        self._trailing = 0
        if not self._speaking:
            self._announce(self._publication.flags)
        if self._earliest_pts is not None and pts < self._earliest_pts:
            # The track's clock stood still while silence was sent, or went back: go on from
            # here.
            self._outlet.restart_source(self._ssrc)
        self._earliest_pts = pts + 1
        self._next_pts = pts + OPUS_FRAME_TICKS
        self._publication.count("sent")
        self._outlet.send_frame(self._ssrc, encoded, speaking=int(self._publication.flags))

    def _look_again(self) -> None:
        self._gap = self._loop.call_later(_SECOND_LOOK, self._trail_off)

    def _trail_off(self) -> None:
        # A chain of timers rather than a task: the frame that ends the gap only has to
        # cancel the handle.
        self._gap = None
        if self._trail():
            self._gap = self._loop.call_later(_SILENCE_SPACING, self._trail_off)

    async def _finish_speech(self) -> None:
        """The same, awaited; it goes on where a gap has begun to trail off already."""
        self._cancel_gap()
        for _ in range(TRAILING_SILENCE + 1):
            if self._trail():
                await asyncio.sleep(_SILENCE_SPACING)

    def _trail(self) -> bool:
        """One step of the end of speech; returns whether there is another one."""
        if self._speaking and self._trailing < TRAILING_SILENCE:
            self._trailing += 1
            self._send_silence()
        elif self._speaking:
            self._announce(SpeakingFlags.NONE)
        return self._speaking

    def _send_silence(self) -> None:
        silence = EncodedFrame(
            OPUS_SILENCE, Codec.OPUS, self._next_pts, _OPUS_TIME_BASE, keyframe=True
        )
        self._next_pts = self._earliest_pts = self._next_pts + OPUS_FRAME_TICKS
        self._publication.count("silence")
        self._outlet.send_frame(self._ssrc, silence)

    def _announce(self, flags: SpeakingFlags) -> None:
        self._speaking = bool(flags)
        self._announcer.speaking(flags)

    def _cancel_gap(self) -> None:
        if self._gap is not None:
            self._gap.cancel()
            self._gap = None
