"""The demo's call: one user sends, another one receives, decodes, compares and records."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from discord_rtc.cli.measure import Comparison, SentTrack, percentiles, sent_ticks
from discord_rtc.cli.report import Percentiles, Report
from discord_rtc.connection.events import Event, Invalidated, PublishingEnded, StateChanged
from discord_rtc.connection.options import ConnectionOptions
from discord_rtc.connection.worker import Worker
from discord_rtc.errors import RtcError, SignalingTimeout
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.lab import Lab
from discord_rtc.media.sinks import Recorder
from discord_rtc.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from discord_rtc.cli.plan import CallPlan
    from discord_rtc.connection.events import Subscription
    from discord_rtc.connection.users import RemoteUser
    from discord_rtc.connection.voice import VoiceConnection
    from discord_rtc.media.track import RemoteTrack

READER_LIMITS = {MediaKind.VIDEO: 30, MediaKind.AUDIO: 50}
"""Frames that may wait until the event loop comes to look at them: one second."""

COMPARE_BOUND = 24
"""Pictures that may wait to be compared, about a second; further ones are not compared."""

ENCRYPTION_SECONDS = 10.0
"""How long making the encrypted group may take: milliseconds, but the machine may be busy."""

SETTLE_SECONDS = 1.0
"""How long the receiver waits for what is on its way when the sender has finished."""

TICK = 0.1
"""Seconds between two looks at how it goes."""


@dataclass(slots=True)
class _Stock:
    """What can only be asked while the connections live."""

    transport: str | None = None
    receiver_transport: str | None = None
    dave: str = "off"
    video_codec: Codec | None = None
    packets: int = 0
    packets_received: int = 0
    payload_octets: int = 0


def _plain_server(dave: Literal["required", "off"]) -> LocalServer:
    return LocalServer(dave=dave)


class DemoCall:
    """One run of the demo.

    Args:
        plan: What to do.
        make_server: Makes the local server of the call from what `CallPlan.dave` says.

    Attributes:
        comparisons: One for each kind of media that is sent, video first.
        over: Whether sending has ended.
    """

    def __init__(
        self,
        plan: CallPlan,
        *,
        make_server: Callable[[Literal["required", "off"]], LocalServer] = _plain_server,
    ) -> None:
        self.over = False
        self._make_server = make_server
        self._plan = plan
        self._clock = time.monotonic
        tracks = [track for track in (plan.sources.video, plan.sources.audio) if track is not None]
        self._running = len(tracks)
        self.comparisons = [
            Comparison(SentTrack(track, self._clock, self._source_ended), self._clock)
            for track in tracks
        ]
        self._sent: Counter[MediaKind] = Counter()
        self._sent_by_session: dict[MediaKind, int] = {}
        self._origins: dict[MediaKind, int | None] = {}
        self._sender: VoiceConnection | None = None
        self._recorder: Recorder | None = None
        self._stop = asyncio.Event()
        self._failure: Exception | None = None
        self._finished = False
        self._reconnects = 0
        self._begun = self._cpu = self._duration = 0.0
        self._stock = _Stock()

    def sent(self, kind: MediaKind) -> int:
        """Frames sent, as of the last look."""
        return self._sent[kind]

    @property
    def length(self) -> float | None:
        """Seconds that it will take, None when unknown."""
        limits = (self._plan.seconds, self._plan.sources.duration)
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def elapsed(self) -> float:
        """Seconds since the sender began, until sending ended."""
        if self.over or not self._begun:
            return self._duration
        return self._clock() - self._begun

    async def run(self, tick: Callable[[], None]) -> None:
        """Do it all; ``tick`` is called about ten times a second for progress.

        Raises:
            RtcError: The call could not be made or broke, or the recording failed.
        """
        async with AsyncExitStack() as stack:
            lab = await stack.enter_async_context(Lab(self._make_server(self._plan.dave)))
            self._sender, receiver, user = await self._join(lab)
            tracks = {item.kind: user.track(item.kind) for item in self.comparisons}
            recorded = [track for kind, track in tracks.items() if kind in self._plan.recorded]
            self._recorder = Recorder(self._plan.out, *recorded)
            await stack.enter_async_context(self._recorder)
            worker = Worker("discord-rtc-compare", bound=COMPARE_BOUND)
            stack.push_async_callback(worker.aclose)
            try:
                await self._observe(self._sender, receiver, tracks, worker, tick)
            finally:
                self._take_stock(self._sender, receiver)
                tick()
        if self._failure is not None:
            raise self._failure

    async def _join(self, lab: Lab) -> tuple[VoiceConnection, VoiceConnection, RemoteUser]:
        plan = self._plan
        options = partial(ConnectionOptions, codecs=(Codec.OPUS, plan.codec), dave=plan.dave)
        sender = await lab.user("sender", options=options(transport=plan.transport))
        receiver = await lab.user("receiver", options=options(transport=plan.receiver_transport))
        try:
            user = await receiver.user(sender.id, timeout=5)
        except TimeoutError:
            raise SignalingTimeout("the receiver was not told of the sender") from None
        for connection in (sender, receiver):
            await connection.secured(timeout=ENCRYPTION_SECONDS)
        if plan.loss:
            lab.faults.loss(plan.loss, seed=plan.seed)
        return sender, receiver, user

    async def _observe(
        self,
        sender: VoiceConnection,
        receiver: VoiceConnection,
        tracks: dict[MediaKind, RemoteTrack],
        worker: Worker,
        tick: Callable[[], None],
    ) -> None:
        """Send and compare. Errors of the call are kept in ``_failure``."""
        subscriptions = sender.events(), receiver.events()
        readers = {kind: track.reader(limit=READER_LIMITS[kind]) for kind, track in tracks.items()}
        async with asyncio.TaskGroup() as group:
            for events in subscriptions:
                group.create_task(self._watch(events), name="watch a connection")
            for item in self.comparisons:
                ticks = partial(self._sent_ticks, tracks[item.kind])
                following = item.follow(readers[item.kind], ticks, worker)
                group.create_task(following, name=f"compare {item.kind}")
            try:
                await self._send(sender, tick)
            except RtcError as error:
                self._failure = error
            finally:
                await self._settle(sender)
                for reader in readers.values():
                    reader.end()
                for events in subscriptions:
                    events.close()

    async def _watch(self, events: Subscription[Event]) -> None:
        async for event in events:
            match event:
                case PublishingEnded(error=error) | Invalidated(error=error) if error is not None:
                    self._failure = error
                    self._stop.set()
                case StateChanged(state="reconnecting"):
                    self._reconnects += 1
                case _:
                    pass

    def _source_ended(self) -> None:
        self._running -= 1
        if not self._running:
            self._stop.set()

    async def _send(self, sender: VoiceConnection, tick: Callable[[], None]) -> None:
        """Send until the sources have ended or time is up."""
        self._begun, self._cpu = self._clock(), time.process_time()
        sources = {item.kind: item.sent for item in self.comparisons}
        try:
            await sender.publish(
                camera=sources.get(MediaKind.VIDEO), microphone=sources.get(MediaKind.AUDIO)
            )
            while not self._stop.is_set() and (left := self._seconds_left()) > 0:
                self._look(sender)
                tick()
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(TICK, left)):
                        await self._stop.wait()
        finally:
            self._duration = self._clock() - self._begun
            self.over = True
        self._finished = self._failure is None

    def _seconds_left(self) -> float:
        if self._plan.seconds is None:
            return float("inf")
        return self._begun + self._plan.seconds - self._clock()

    async def _settle(self, sender: VoiceConnection) -> None:
        """Wait until all that was sent has come and was compared, or for a second."""
        for item in self.comparisons:
            item.sent.hold()
        deadline = self._clock() + SETTLE_SECONDS
        while True:
            await asyncio.sleep(0.02)  # one audio frame; what is being encoded leaves meanwhile
            self._look(sender)
            if self._clock() > deadline or not any(map(self._outstanding, self.comparisons)):
                return

    def _outstanding(self, item: Comparison) -> bool:
        return item.busy or item.received < self.sent(item.kind)

    def _look(self, sender: VoiceConnection) -> None:
        """Keep how many frames were sent, and which ticks their pts became."""
        rtp = sender.stats().rtp
        for stream in () if rtp is None else rtp.outbound:
            kind = stream.codec.kind
            before = self._sent_by_session.get(kind, 0)
            # A session that took the place of another one counts from zero.
            self._sent[kind] += stream.frames - (before if stream.frames >= before else 0)
            self._sent_by_session[kind] = stream.frames
            self._origins[kind] = stream.origin_ticks

    def _sent_ticks(self, track: RemoteTrack, pts: int) -> int | None:
        kind = MediaKind(track.kind)
        if self._origins.get(kind) is None and self._sender is not None:
            self._look(self._sender)
        origin = self._origins.get(kind)
        if origin is None or track.rtp_origin is None:
            return None
        return sent_ticks(pts, track.rtp_origin, origin)

    def _take_stock(self, sender: VoiceConnection, receiver: VoiceConnection) -> None:
        codec = sender.codec if self._plan.sources.video is not None else None
        self._stock = _Stock(sender.transport, receiver.transport, sender.e2ee, codec)
        self._cpu = time.process_time() - self._cpu
        if (sent := sender.stats().rtp) is not None:
            self._stock.packets = sum(stream.packets for stream in sent.outbound)
            self._stock.payload_octets = sum(stream.payload_octets for stream in sent.outbound)
        if (received := receiver.stats().rtp) is not None:
            self._stock.packets_received = sum(
                stream.packets - stream.duplicates for stream in received.inbound
            )

    def report(self) -> Report:
        """The result, as far as it goes."""
        stock, plan = self._stock, self._plan
        items = {item.kind: item for item in self.comparisons}
        video, audio = items.get(MediaKind.VIDEO), items.get(MediaKind.AUDIO)
        skew = video.delays.less(audio.delays) if video and audio else np.zeros(0)
        psnr = video.worst_psnr if video else None
        video_sent = self.sent(MediaKind.VIDEO)
        nothing = Percentiles(None, None)
        recorded = self._recorder.stats() if self._recorder is not None else None
        return Report(
            transport=stock.transport,
            receiver_transport=stock.receiver_transport,
            dave=stock.dave,
            video_codec=stock.video_codec.value if stock.video_codec else None,
            video_frames_skipped=max(0, video.sent.frames - video_sent) if video else 0,
            video_frames_sent=video_sent,
            video_frames_received=video.received if video else 0,
            video_frames_damaged=video.damaged if video else 0,
            video_frames_unchecked=video.unchecked if video else 0,
            worst_psnr_db=None if psnr is None else round(psnr, 1),
            audio_frames_sent=self.sent(MediaKind.AUDIO),
            audio_frames_received=audio.received if audio else 0,
            packets_sent=stock.packets,
            packets_lost=max(0, stock.packets - stock.packets_received),
            latency_ms=video.delays.percentiles() if video else nothing,
            audio_latency_ms=audio.delays.percentiles() if audio else nothing,
            av_skew_ms=percentiles(np.abs(skew)),
            bitrate_bps=round(8 * stock.payload_octets / self._duration) if self._duration else 0,
            reconnects=self._reconnects,
            duration_s=round(self._duration, 3),
            cpu_s=round(self._cpu, 3),
            recording=str(plan.out) if recorded and recorded.frames else None,
            recording_frames_dropped=recorded.dropped if recorded else 0,
            finished=self._finished,
        )
