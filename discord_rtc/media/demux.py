"""Reading a container in one worker thread: packets in, frames out, a `Lane` for each track.

The thread decodes while a wanted lane has room and reads on only while a wanted lane has run
out of packets. Hence memory is bounded, the reader sets the speed, and no lane waits for
another: one that nobody reads, or that is read too slowly beside a faster one, loses its
oldest packets.
"""

from __future__ import annotations

import logging
import threading
from fractions import Fraction
from typing import TYPE_CHECKING

import av
from av.error import FFmpegError

from discord_rtc.errors import UnsupportedMedia
from discord_rtc.media.lane import Item, Lane
from discord_rtc.media.probe import choose_streams, open_container

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream

    from discord_rtc.media.probe import Location

logger = logging.getLogger("discord_rtc.media")

MAX_ERRORS_IN_ROW = 16
"""Unreadable packets in a row after which the rest of a file is given up."""


class Demuxer:
    """The worker of one source.

    Args:
        location: What to read, needed again when it loops.
        container: The same, open; closed by the demuxer.
        lanes: The tracks.
        loop: Begin again at the end.
    """

    def __init__(
        self, location: Location, container: InputContainer, lanes: list[Lane], *, loop: bool
    ) -> None:
        self._location = location
        self._container = container
        self._lanes = {lane.kind: lane for lane in lanes}
        self._loop = loop
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._exhausted = False
        self._position = Fraction(0)
        self._errors = 0
        self._end = Fraction(0)
        self._zero = Fraction(0)
        self._shift = Fraction(0)
        self._packets: Iterator[Packet[Stream]] = iter(())
        self._by_index: dict[int, Lane] = {}
        self._attach()

    # Called by tracks, on the event loop

    def want(self, lane: Lane, waker: Callable[[], None]) -> None:
        """Somebody reads this lane from now on. ``waker`` is called in the worker thread."""
        with self._changed:
            lane.wanted = True
            lane.waker = waker
            lane.skip_until = self._position
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(
                    target=self._run, name=f"discord_rtc demux {self._location.name}", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def peek(self, lane: Lane) -> Item | None:
        """The lane's next item, which stays there; None when it has to be waited for."""
        with self._changed:
            return lane.ready[0] if lane.ready else None

    def take(self, lane: Lane, *, drop: bool = False) -> None:
        """Remove the item that `peek` showed: it was read, or is given up."""
        with self._changed:
            if not lane.ready:
                return  # closed meanwhile
            item = lane.ready.popleft()
            if drop:
                lane.dropped += 1
            else:
                lane.frames += 1
                self._position = max(self._position, item.time)
            self._changed.notify()

    def finished(self, lane: Lane) -> bool:
        """Whether no further item will come."""
        with self._changed:
            if self._closing or lane.closed:
                return True
            at_end = self._exhausted and not self._loop
            return at_end and not (lane.pending or lane.decoding or lane.ready)

    @property
    def position(self) -> Fraction:
        """Media time of the newest item that any track yielded."""
        return self._position

    def leave(self, lane: Lane) -> None:
        """Nobody will read this lane any more."""
        with self._changed:
            lane.closed = True
            lane.discard()
            lane.ready.clear()
            self._changed.notify()

    def close(self, wait: float) -> None:
        """Stop the worker and close the container, waiting for it at most ``wait`` seconds."""
        with self._changed:
            started, self._closing = self._thread is not None, True
            self._changed.notify()
        if not started:
            self._release()
        elif self._thread is not threading.current_thread():
            assert self._thread is not None
            self._thread.join(wait)

    # Worker thread

    def _run(self) -> None:
        try:
            while self._step():
                pass
        finally:
            self._release()

    def _release(self) -> None:
        with self._changed:
            self._closing = True
            for lane in self._lanes.values():
                lane.discard()
                lane.ready.clear()
        self._packets = iter(())
        self._container.close()
        for lane in self._lanes.values():
            _wake(lane)

    def _step(self) -> bool:
        """Decode or read one packet. Returns False when the work is over."""
        with self._changed:
            while not (work := self._next_work()):
                self._changed.wait()
            if work == "end":
                return False
            lane = work if isinstance(work, Lane) else None
            packet = lane.begin_decoding() if lane else None
        if lane is None:
            self._rewind() if work == "rewind" else self._read()
            return True
        items = lane.decode(packet)
        with self._changed:
            lane.decoding = False
            lane.ready.extend(items if not lane.closed else ())
            lane.high_water = max(lane.high_water, len(lane.ready))
        if items or packet is None:
            _wake(lane)
        return True

    def _next_work(self) -> Lane | str:
        """A lane to decode for, "read", "rewind", "end", or "" to wait."""
        active = [lane for lane in self._lanes.values() if lane.active]
        if self._closing or (not active and all(lane.closed for lane in self._lanes.values())):
            return "end"
        for lane in active:
            if lane.pending and lane.has_room:
                return lane
        starving = any(not lane.pending and lane.has_room for lane in active)
        if not self._exhausted:
            return "read" if starving else ""
        if self._loop:
            return "rewind" if starving else ""
        over = not any(lane.pending or lane.ready for lane in active)
        return "end" if over else ""

    def _read(self) -> None:
        try:
            packet = next(self._packets)
        except StopIteration:
            self._finish_reading()
            return
        except FFmpegError as error:
            self._count_unreadable(error)
            return
        self._errors = 0
        lane = self._by_index[packet.stream.index]
        if not packet.size:
            return  # PyAV's mark of the end
        if packet.pts is not None and packet.time_base:
            end = (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base)
            self._end = max(self._end, end)
        with self._changed:
            if not lane.closed:
                lane.append(packet, self._position)

    def _count_unreadable(self, error: FFmpegError) -> None:
        self._errors += 1
        for lane in self._lanes.values():
            lane.damaged += 1
        # A timeout has already cost its 10 s; more of them would not bring the data.
        gone = isinstance(error, av.error.ExitError | av.error.TimeoutError)
        if gone or self._errors > MAX_ERRORS_IN_ROW:
            logger.warning("the rest of %s is unreadable: %s", self._location.name, error)
            self._loop = False
            self._finish_reading()
        else:
            self._packets = self._demux()

    def _finish_reading(self) -> None:
        with self._changed:
            self._exhausted = True
            for lane in self._lanes.values():
                if not lane.closed:
                    lane.pending.append(None)

    def _rewind(self) -> None:
        """Begin again, the timeline going on where it was."""
        with self._changed:
            for lane in self._lanes.values():
                lane.dropped += len(lane.pending) if lane.active else 0
                lane.discard()
        self._packets = iter(())
        self._container.close()
        length = self._end - self._zero
        try:
            if length <= 0:
                raise UnsupportedMedia("it is empty")
            self._container = open_container(self._location)
            self._shift += length
            self._attach()
        except UnsupportedMedia as error:
            logger.warning("%s cannot be repeated: %s", self._location.name, error)
            self._loop = False

    def _attach(self) -> None:
        """Connect the lanes with the container's streams; the earliest one begins at zero."""
        streams = choose_streams(self._container)
        used = {kind: streams[kind] for kind in self._lanes if kind in streams}
        self._by_index = {stream.index: self._lanes[kind] for kind, stream in used.items()}
        starts = [
            stream.start_time * Fraction(stream.time_base)
            for stream in used.values()
            if stream.start_time is not None and stream.time_base
        ]
        self._zero = self._end = min(starts, default=Fraction(0))
        for kind, stream in used.items():
            self._lanes[kind].attach(stream, self._shift - self._zero)
        self._exhausted = False
        self._packets = self._demux()

    def _demux(self) -> Iterator[Packet[Stream]]:
        streams = [self._container.streams[index] for index in self._by_index]
        return self._container.demux(*streams)


def _wake(lane: Lane) -> None:
    if lane.waker is not None:
        lane.waker()
