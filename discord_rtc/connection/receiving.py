"""From encoded frames of the network to decoded frames in a user's tracks.

    RtpSession event -> whose is it? (roster) -> decode in the worker -> RemoteTrack

Frames of an SSRC that nobody has named yet wait: op 5 and op 12 travel over another
socket than media and may come after it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

from discord_rtc.connection.events import TrackEnded, TrackStarted, UserSpeaking
from discord_rtc.connection.timeline import StreamTimeline, UserTimeline
from discord_rtc.frames import OPUS_SILENCE, Codec, EncodedFrame, MediaKind
from discord_rtc.media.decode import OpusDecoder, VideoDecoder
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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import av

    from discord_rtc.clock import Clock
    from discord_rtc.connection.events import Event
    from discord_rtc.connection.users import RemoteUser
    from discord_rtc.connection.worker import Worker
    from discord_rtc.protocol.roster import Roster
    from discord_rtc.rtp.session import FrameReceived, SenderReportReceived

PARKING_SECONDS = 0.5
"""How long frames of an unnamed SSRC wait (userdoccers, "Media Receive Loop")."""

PARKING_BOUND = 256
"""Frames that wait in all; the oldest is dropped and counted when a further one comes."""

SPEECH_TIMEOUT = 0.2
"""Seconds without an audio packet after which a user counts as silent: real servers send
op 5 seldom (protocol reference: 100 to 250 ms)."""

_TICK = 0.05
_TIME_BASES = {
    MediaKind.AUDIO: Fraction(1, Codec.OPUS.clock_rate),
    MediaKind.VIDEO: Fraction(1, Codec.H264.clock_rate),  # 90 kHz for every video codec
}


class Parking:
    """Frames whose sender is not known yet. Sans-I/O."""

    def __init__(self) -> None:
        self._frames: deque[FrameReceived] = deque()
        self.high_water = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._frames)

    def park(self, frame: FrameReceived) -> None:
        """Keep a frame; the oldest one makes room."""
        if len(self._frames) >= PARKING_BOUND:
            self._frames.popleft()
            self.dropped += 1
        self._frames.append(frame)
        self.high_water = max(self.high_water, len(self._frames))

    def take(self, ssrc: int) -> list[FrameReceived]:
        """Everything that waits for this SSRC to be named, in order."""
        taken = [frame for frame in self._frames if frame.ssrc == ssrc]
        if taken:
            self._frames = deque(frame for frame in self._frames if frame.ssrc != ssrc)
        return taken

    def expire(self, now: float) -> None:
        """Drop and count what has waited too long."""
        while self._frames and now - self._frames[0].now > PARKING_SECONDS:
            self._frames.popleft()
            self.dropped += 1


class People(Protocol):
    """The users of a connection; they outlive its sessions."""

    def ensure(self, user_id: int) -> RemoteUser:
        """The user, who joins now if not yet known."""
        ...

    def get(self, user_id: int) -> RemoteUser | None:
        """The user, or None."""
        ...

    def leave(self, user_id: int) -> None:
        """The user is gone."""
        ...

    def emit(self, event: Event) -> None:
        """Tell the connection's subscribers."""
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
    """

    def __init__(
        self,
        *,
        people: People,
        roster: Roster,
        worker: Worker,
        clock: Clock,
        epoch: float,
        ask_keyframe: Callable[[int], None],
    ) -> None:
        self._people = people
        self._roster = roster
        self._worker = worker
        self._clock = clock
        self._epoch = epoch
        self._ask_keyframe = ask_keyframe
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, RemoteStream] = {}
        self._timelines: dict[int, UserTimeline] = {}
        self._reports: dict[int, SenderReportReceived] = {}
        self._heard: dict[int, float] = {}
        self._parking = Parking()
        self._timer: asyncio.TimerHandle | None = None
        self._drops: Counter[str] = Counter()
        self._closed = False

    @property
    def drops(self) -> Mapping[str, int]:
        """Frames not delivered, by reason."""
        return {
            **self._drops,
            "unknown-ssrc": self._parking.dropped,
            "decoder-overloaded": self._worker.refused,
        }

    @property
    def parking_high_water(self) -> int:
        """Most frames that ever waited for their SSRC to be named."""
        return self._parking.high_water

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
                    self._silent(self._people.ensure(user_id))
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
        if stream.kind is MediaKind.AUDIO:
            self._follow_speech(stream.user, frame)
        track = stream.user.track(stream.kind)
        if not track.wanted:
            self._drops["unread"] += 1
            stream.needs_keyframe = stream.kind is MediaKind.VIDEO
            return
        if stream.needs_keyframe:
            if not frame.keyframe:
                self._drops["no-keyframe"] += 1
                self._ask_soon(stream)
                return
            stream.needs_keyframe = False
        self._decode(stream, frame)

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
        self._worker.submit(stream.decoder.close, lambda _: None)
        self._people.emit(TrackEnded(stream.user.id, stream.kind))
        if stream.kind is MediaKind.AUDIO:
            self._silent(stream.user)

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

    def _decode(self, stream: RemoteStream, frame: FrameReceived) -> None:
        pts = stream.timeline.pts(frame.ticks, frame.now)
        stream.user.track(stream.kind).rtp_origin = stream.timeline.origin
        encoded = EncodedFrame(
            frame.data, frame.codec, pts, _TIME_BASES[frame.codec.kind], frame.keyframe
        )
        decoder = stream.decoder

        def job() -> list[av.AudioFrame] | list[av.VideoFrame]:
            return decoder.decode(encoded)

        def done(frames: list[av.AudioFrame] | list[av.VideoFrame]) -> None:
            track = stream.user.track(stream.kind)
            for decoded in frames:
                track.deliver(decoded)
            if isinstance(decoder, VideoDecoder) and decoder.needs_keyframe:
                stream.needs_keyframe = True
                self._ask_soon(stream)

        if not self._worker.submit(job, done):
            stream.needs_keyframe = stream.kind is MediaKind.VIDEO

    def _ask_soon(self, stream: RemoteStream) -> None:
        # Not at once: we may be inside the flush of the very session that must send it.
        self._loop.call_soon(self._ask, stream)

    def _ask(self, stream: RemoteStream) -> None:
        if not self._closed and stream.needs_keyframe:
            self._ask_keyframe(stream.ssrc)

    # Speech

    def _follow_speech(self, user: RemoteUser, frame: FrameReceived) -> None:
        if frame.data == OPUS_SILENCE:
            self._silent(user)
            return
        self._heard[user.id] = frame.now
        flags = SpeakingFlags(frame.flags) if frame.flags is not None else user.flags
        flags = flags or SpeakingFlags.VOICE
        if not user.speaking or flags != user.flags:
            user.speaking, user.flags = True, flags
            self._people.emit(UserSpeaking(user.id, speaking=True, flags=flags))
        self._schedule()

    def _silent(self, user: RemoteUser) -> None:
        self._heard.pop(user.id, None)
        if user.speaking:
            user.speaking = False
            none = SpeakingFlags.NONE
            self._people.emit(UserSpeaking(user.id, speaking=False, flags=none))

    def _schedule(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(_TICK, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._clock.now()
        self._parking.expire(now)
        for user_id in [u for u, heard in self._heard.items() if now - heard > SPEECH_TIMEOUT]:
            user = self._people.get(user_id)
            self._heard.pop(user_id)
            if user is not None:
                self._silent(user)
        if self._heard or len(self._parking):
            self._schedule()
