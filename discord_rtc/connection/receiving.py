"""From encoded frames of the network to decoded frames in a user's tracks.

    RtpSession event -> whose is it? (roster) -> decrypt -> decode in the worker -> RemoteTrack

Frames of an SSRC that nobody has named yet wait (`parking`), and so do those that cannot be
decrypted yet, with all that follow them in their stream (`retrying`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol, TypeAlias

from discord_rtc.connection.events import TrackEnded, TrackStarted
from discord_rtc.connection.parking import PARKING_BOUND, PARKING_SECONDS, Parking
from discord_rtc.connection.retrying import RETRY_BOUND, RetryHold
from discord_rtc.connection.speech import SPEECH_TIMEOUT, SpeechWatch
from discord_rtc.connection.timeline import StreamTimeline, UserTimeline
from discord_rtc.frames import OPUS_SILENCE, Codec, EncodedFrame, MediaKind
from discord_rtc.media.decode import OpusDecoder, VideoDecoder
from discord_rtc.protocol.dave.events import Undecrypted
from discord_rtc.protocol.opcodes import SpeakingFlags
from discord_rtc.protocol.roster import (
    ClientFlagsChanged,
    PlatformChanged,
    RosterChange,
    SpeakingChanged,
    SsrcNamed,
    SsrcRemoved,
    UserJoined,
    UserLeft,
)
from discord_rtc.queues import QueueStats

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import av

    Decoded: TypeAlias = list[av.AudioFrame] | list[av.VideoFrame]

    from discord_rtc.clock import Clock
    from discord_rtc.connection.roles import People
    from discord_rtc.connection.users import RemoteUser
    from discord_rtc.connection.worker import Worker
    from discord_rtc.protocol.roster import Roster
    from discord_rtc.rtp.session import FrameReceived, SenderReportReceived

__all__ = [
    "Decrypt", "Parking", "Receiver", "RemoteStream",
    "CONCEALED_FRAMES", "PARKING_BOUND", "PARKING_SECONDS", "SPEECH_TIMEOUT",
]  # fmt: skip

CONCEALED_FRAMES = 5
"""Frames in a row for which sound is made up; after 100 ms it is only a drone."""

_TICK = 0.05
_TIME_BASES = {
    MediaKind.AUDIO: Fraction(1, Codec.OPUS.clock_rate),
    MediaKind.VIDEO: Fraction(1, Codec.H264.clock_rate),  # 90 kHz for every video codec
}


class Decrypt(Protocol):
    """End-to-end decryption, as the receiving side sees it."""

    def __call__(self, user_id: int, kind: MediaKind, frame: bytes) -> bytes | Undecrypted:
        """Decrypt a frame of a user, or let it pass where plain ones are allowed."""
        ...


@dataclass(slots=True)
class RemoteStream:
    """One SSRC of a known user, with its decoder."""

    user: RemoteUser
    ssrc: int
    codec: Codec
    timeline: StreamTimeline
    decoder: OpusDecoder | VideoDecoder
    needs_keyframe: bool
    waiting: RetryHold = field(default_factory=RetryHold)
    concealed: int = 0

    @property
    def kind(self) -> MediaKind:
        """Audio or video."""
        return self.codec.kind


class Receiver:
    """The receiving half of one voice session.

    Args:
        people: Users of the connection.
        roster: Who owns which SSRC in this session.
        worker: Where frames are decoded.
        clock: Source of ``now``.
        epoch: Our time that pts 0 of every received track stands for.
        ask_keyframe: Sends a keyframe request for an SSRC; called from the loop, never
            from within a frame's delivery.
        decrypt: End-to-end decryption; None lets every frame pass.
    """

    def __init__(  # noqa: PLR0913 - everything around a receiver, named once
        self,
        *,
        people: People,
        roster: Roster,
        worker: Worker,
        clock: Clock,
        epoch: float,
        ask_keyframe: Callable[[int], None],
        decrypt: Decrypt | None = None,
    ) -> None:
        self._people = people
        self._roster = roster
        self._worker = worker
        self._clock = clock
        self._epoch = epoch
        self._ask_keyframe = ask_keyframe
        self._decrypt = decrypt
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, RemoteStream] = {}
        self._timelines: dict[int, UserTimeline] = {}
        self._reports: dict[int, SenderReportReceived] = {}
        self._speech = SpeechWatch(people)
        self._parking = Parking()
        self._timer: asyncio.TimerHandle | None = None
        self._drops: Counter[str] = Counter()
        self._retry_high_water = 0
        self._retry_dropped = 0
        self._closed = False

    @property
    def drops(self) -> Mapping[str, int]:
        """Frames not delivered, by reason."""
        return {
            **self._drops,
            "unknown-ssrc": self._parking.dropped,
            "decoder-overloaded": self._worker.refused,
        }

    def queues(self) -> tuple[QueueStats, ...]:
        """Frames that wait for their SSRC to be named, and those that wait for a key."""
        parking = self._parking
        return (
            QueueStats("parking", parking.high_water, PARKING_BOUND, parking.dropped),
            QueueStats("undecrypted", self._retry_high_water, RETRY_BOUND, self._retry_dropped),
        )

    # Signalling

    def apply(self, changes: tuple[RosterChange, ...]) -> None:
        """Follow what the voice gateway said about users and their SSRCs."""
        for change in changes:
            match change:
                case UserJoined(user_id=user_id):
                    self._people.ensure(user_id)
                case UserLeft(user_id=user_id):  # SsrcRemoved came before for every stream
                    self._timelines.pop(user_id, None)
                    self._people.leave(user_id)
                case SsrcNamed(ssrc=ssrc):
                    self._named(ssrc)
                case SsrcRemoved(ssrc=ssrc):
                    self.stream_ended(ssrc)
                case SpeakingChanged(user_id=user_id, flags=0):
                    self._speech.silent(self._people.ensure(user_id))
                case SpeakingChanged(user_id=user_id, flags=flags):
                    self._people.ensure(user_id).flags = SpeakingFlags(flags)
                case ClientFlagsChanged(user_id=user_id, flags=client_flags):
                    self._people.ensure(user_id).client_flags = client_flags
                case PlatformChanged(user_id=user_id, platform=platform):
                    self._people.ensure(user_id).platform = platform
                case _:
                    # VideoChanged: the SSRC changes that come with it say all that is needed.
                    pass

    def demand_changed(self, user_id: int, kind: MediaKind, wanted: bool) -> None:
        """A track got its first reader or lost its last one."""
        if not wanted or kind is MediaKind.AUDIO:
            return
        for stream in self._streams.values():
            if stream.user.id == user_id and stream.kind is kind:
                stream.needs_keyframe = True
                self._ask_keyframe(stream.ssrc)

    # Media

    def frame_received(self, frame: FrameReceived) -> None:
        """A whole frame came in."""
        if self._closed:
            return
        stream = self._streams.get(frame.ssrc)
        if stream is None or stream.codec is not frame.codec:
            user_id = self._roster.user_of(frame.ssrc)
            if user_id is None:
                self._parking.park(frame)
                self._schedule()
                return
            stream = self._begin(user_id, frame)
        if stream.waiting or not self._take(stream, frame, may_wait=True):
            self._keep_waiting(stream, frame)

    def retry(self) -> None:
        """There may be other keys: try again what could not be decrypted."""
        for stream in tuple(self._streams.values()):
            self._retry(stream)

    def sender_report(self, report: SenderReportReceived) -> None:
        """Learn the wallclock of a stream; it may come before the stream is known."""
        stream = self._streams.get(report.ssrc)
        if stream is not None:
            stream.timeline.report(report.ntp, report.ticks, report.now)
        elif len(self._reports) < PARKING_BOUND:
            self._reports[report.ssrc] = report

    def stream_ended(self, ssrc: int) -> None:
        """The stream was taken out of the call by op 12, op 13 or BYE."""
        self._reports.pop(ssrc, None)
        stream = self._streams.pop(ssrc, None)
        if stream is None:
            return
        self._drops["stream-ended"] += len(stream.waiting)
        self._worker.submit(stream.decoder.close, lambda _: None)
        self._people.emit(TrackEnded(stream.user.id, stream.kind))
        if stream.kind is MediaKind.AUDIO:
            self._speech.silent(stream.user)

    def close(self) -> None:
        """The session is over; decoders are freed, tracks stay for the next session."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for ssrc in tuple(self._streams):
            self.stream_ended(ssrc)

    def _named(self, ssrc: int) -> None:
        for frame in self._parking.take(ssrc):
            self.frame_received(frame)

    def _begin(self, user_id: int, frame: FrameReceived) -> RemoteStream:
        report = self._reports.pop(frame.ssrc, None)
        self.stream_ended(frame.ssrc)
        user = self._people.ensure(user_id)
        kind = frame.codec.kind
        timeline = StreamTimeline(
            self._timelines.setdefault(user_id, UserTimeline()),
            frame.codec.clock_rate,
            self._epoch,
        )
        if report is not None:
            timeline.report(report.ntp, report.ticks, report.now)
        stream = RemoteStream(
            user=user,
            ssrc=frame.ssrc,
            codec=frame.codec,
            timeline=timeline,
            decoder=OpusDecoder() if kind is MediaKind.AUDIO else VideoDecoder(frame.codec),
            needs_keyframe=kind is MediaKind.VIDEO,
        )
        self._streams[frame.ssrc] = stream
        self._people.emit(TrackStarted(user.id, kind, user.track(kind)))
        return stream

    # Decryption

    def _take(self, stream: RemoteStream, frame: FrameReceived, *, may_wait: bool) -> bool:
        """Decrypt a frame and pass it on, or count why not; False when it shall wait for a key."""
        if not stream.user.track(stream.kind).wanted:
            self._pass_over(stream, frame)
            return True
        # Before decryption, which costs more on a picture than all else here. NAL and VP8 frame
        # headers stay in the clear (protocol reference 6.8), so the depacketizer's word is good.
        if stream.needs_keyframe and not frame.keyframe:
            self._drops["no-keyframe"] += 1
            self._ask_soon(stream)
            return True
        if self._decrypt is not None:
            opened = self._decrypt(stream.user.id, stream.kind, frame.data)
            if isinstance(opened, Undecrypted):
                if opened.retry and may_wait:
                    return False
                self._give_up(stream, frame, opened.reason)
                return True
            frame = frame._replace(data=opened)
        stream.needs_keyframe = False
        stream.concealed = 0
        if stream.kind is MediaKind.AUDIO:
            self._follow_speech(stream.user, frame)
        self._decode(stream, frame)
        return True

    def _pass_over(self, stream: RemoteStream, frame: FrameReceived) -> None:
        # Not decrypted, either: libraries take a jump of the nonce for lost packets when somebody
        # reads again. Speech is told all the same: an encrypted frame counts as speech. A library
        # that encrypts silence too (libdave) lets it last a fifth of a second longer, until the
        # timeout.
        if stream.kind is MediaKind.AUDIO:
            self._follow_speech(stream.user, frame)
        self._drops["unread"] += 1
        stream.needs_keyframe = stream.kind is MediaKind.VIDEO

    def _keep_waiting(self, stream: RemoteStream, frame: FrameReceived) -> None:
        given_up = stream.waiting.put(frame, self._clock.now())
        self._retry_high_water = max(self._retry_high_water, len(stream.waiting))
        if given_up is not None:
            self._retry_dropped += 1
            self._give_up(stream, given_up, "retry-overflow")
        self._schedule()

    def _retry(self, stream: RemoteStream) -> None:
        while stream.waiting:
            frame, until = stream.waiting.peek()
            if not self._take(stream, frame, may_wait=self._clock.now() < until):
                return
            stream.waiting.take()

    def _give_up(self, stream: RemoteStream, frame: FrameReceived, reason: str) -> None:
        self._drops[reason] += 1
        if stream.kind is MediaKind.VIDEO:
            stream.needs_keyframe = True
            self._ask_soon(stream)
        elif stream.concealed < CONCEALED_FRAMES:
            stream.concealed += 1
            self._conceal(stream, frame)

    # Decoding

    def _decode(self, stream: RemoteStream, frame: FrameReceived) -> None:
        pts = stream.timeline.pts(frame.ticks, frame.now)
        stream.user.track(stream.kind).rtp_origin = stream.timeline.origin
        encoded = EncodedFrame(
            frame.data, frame.codec, pts, _TIME_BASES[frame.codec.kind], frame.keyframe
        )
        decoder = stream.decoder

        def job() -> Decoded:
            return decoder.decode(encoded)

        if not self._submit(stream, job):
            stream.needs_keyframe = stream.kind is MediaKind.VIDEO

    def _conceal(self, stream: RemoteStream, frame: FrameReceived) -> None:
        pts = stream.timeline.pts(frame.ticks, frame.now)
        decoder = stream.decoder
        assert isinstance(decoder, OpusDecoder)

        def job() -> Decoded:
            sounds = decoder.conceal()
            for sound in sounds:
                sound.pts, sound.time_base = pts, _TIME_BASES[MediaKind.AUDIO]
            return sounds

        self._submit(stream, job)

    def _submit(self, stream: RemoteStream, job: Callable[[], Decoded]) -> bool:
        def done(frames: Decoded) -> None:
            track = stream.user.track(stream.kind)
            for decoded in frames:
                track.deliver(decoded)
            decoder = stream.decoder
            if isinstance(decoder, VideoDecoder) and decoder.needs_keyframe:
                stream.needs_keyframe = True
                self._ask_soon(stream)

        return self._worker.submit(job, done)

    def _ask_soon(self, stream: RemoteStream) -> None:
        # Not at once: we may be inside the flush of the very session that must send it.
        self._loop.call_soon(self._ask, stream)

    def _ask(self, stream: RemoteStream) -> None:
        if not self._closed and stream.needs_keyframe:
            self._ask_keyframe(stream.ssrc)

    # Time

    def _follow_speech(self, user: RemoteUser, frame: FrameReceived) -> None:
        if frame.data == OPUS_SILENCE:
            self._speech.silent(user)
            return
        self._speech.heard(user, frame.flags, max(frame.now, self._clock.now()))
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(_TICK, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._clock.now()
        self._parking.expire(now)
        self._speech.expire(now)
        self.retry()
        if self._speech or self._parking or any(it.waiting for it in self._streams.values()):
            self._schedule()
