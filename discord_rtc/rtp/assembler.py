"""Puts received packets into order and encoded frames together. Sans-I/O. Spec: RFC 3550.

Packets come with extended sequence numbers (`reports.SequenceTracker`), so order is plain
integer order. Both assemblers release without any delay what is in order, hold what came
too early, and give up a gap some time after its first successor arrived:

* Audio goes on behind the gap and tells with the next frame how many are missing.
* Video cannot: every frame depends on the one before. It closes its *keyframe gate*, wants
  a keyframe, and drops whole frames until one comes. The gate is closed at the start, too.
  How long it waits before is decided by whoever has the missing packets sent again.

A video frame ends with its marker, or, for senders that set none, where the ticks change;
it is complete as soon as all packets from the end of the frame before are present. Where
the very first frame starts only the payload can tell. Packets without payload (padding)
take their place in the sequence and add nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, NamedTuple, Protocol

from discord_rtc.errors import MalformedFrame

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from discord_rtc.rtp.packet import RtpPacket
    from discord_rtc.rtp.payloads.base import Depacketizer

AUDIO_WINDOW = 0.060
"""Seconds a gap may last: three Opus frames, which listeners hear as a hiccup, not a delay."""
VIDEO_WINDOW = 0.120
"""Seconds a gap may last where nothing is sent again: bursts and jitter need as much."""
AUDIO_BOUND = 64
"""Packets; 1.3 s of audio, many times what the window lets in."""
VIDEO_BOUND = 2048
"""Packets; as long a frame as the pacer of a sender takes, or a second of 20 Mbit/s."""
VIDEO_BOUND_BYTES = 4 << 20


class Arrival(NamedTuple):
    """One received packet with its unwrapped numbers.

    Attributes:
        sequence: Extended sequence number.
        ticks: Unwrapped RTP timestamp.
        now: When it arrived.
        packet: The packet itself.
    """

    sequence: int
    ticks: int
    now: float
    packet: RtpPacket


class AssembledFrame(NamedTuple):
    """One complete frame.

    Attributes:
        data: The encoded frame.
        ticks: Unwrapped RTP timestamp.
        keyframe: Whether a decoder can start here.
        lost: Packets given up right before it.
        packet: Its first packet that has a payload.
    """

    data: bytes
    ticks: int
    keyframe: bool
    lost: int
    packet: RtpPacket


@dataclass(slots=True)
class AssemblerCounters:
    """What went wrong in one stream, whichever assemblers it had.

    Attributes:
        late: Packets that came after their place had been given up.
        frames_dropped: Frames that nobody can decode.
        malformed: Frames that the payload format could not put together.
        overflows: Times that the bound was reached.
        high_water: Most packets that were held.
    """

    late: int = 0
    frames_dropped: int = 0
    malformed: int = 0
    overflows: int = 0
    high_water: int = 0


class Assembler(Protocol):
    """What a received stream needs to know about the assembler of its kind.

    Attributes:
        bound: Most packets that it holds.
        keyframe_wanted: The gate is closed, and frames went lost because of it.
    """

    bound: int
    keyframe_wanted: bool

    def receive(self, arrival: Arrival) -> Sequence[AssembledFrame]:
        """Take a packet; returns the frames that it completes, in order."""
        ...

    def next_timeout(self) -> float | None:
        """When the present gap will be given up; None without a gap."""
        ...

    def handle_timeout(self, now: float) -> Sequence[AssembledFrame]:
        """Give up gaps whose time is over; returns the frames behind them.

        Infinity gives up all of them: the stream has ended.
        """
        ...

    def restart(self) -> Sequence[AssembledFrame]:
        """The sequence numbers begin anew; returns what can be saved of the old ones."""
        ...


class AudioAssembler:
    """Every packet is a frame; see the top of this module.

    Args:
        depacketizer: Of the stream's codec.
        counters: Where to count.
    """

    def __init__(self, depacketizer: Depacketizer, counters: AssemblerCounters) -> None:
        self.bound = AUDIO_BOUND
        self.keyframe_wanted = False
        self._depacketizer = depacketizer
        self._counters = counters
        self._next: int | None = None
        self._held: dict[int, Arrival] = {}  # in order of arrival
        self._expected: int | None = None  # as `_next`, but of what has left already
        self._lost = 0

    def receive(self, arrival: Arrival) -> Sequence[AssembledFrame]:
        """Take a packet; returns the frames that it completes, in order."""
        sequence = arrival.sequence
        if self._next is None:
            self._next = sequence
        if sequence == self._next and not self._held:
            self._next += 1
            return self._frames((arrival,))
        if sequence < self._next:
            self._counters.late += 1
            return ()
        self._held[sequence] = arrival
        self._counters.high_water = max(self._counters.high_water, len(self._held))
        released = self._release()
        if len(self._held) >= AUDIO_BOUND:
            self._counters.overflows += 1
            released += self._skip()
        return self._frames(released)

    def next_timeout(self) -> float | None:
        """When the present gap will be given up; None without a gap."""
        if not self._held:
            return None
        return next(iter(self._held.values())).now + AUDIO_WINDOW

    def handle_timeout(self, now: float) -> Sequence[AssembledFrame]:
        """Give up gaps whose time is over; returns the frames behind them."""
        released: list[Arrival] = []
        while (deadline := self.next_timeout()) is not None and deadline <= now:
            released += self._skip()
        return self._frames(released)

    def restart(self) -> Sequence[AssembledFrame]:
        """The sequence numbers begin anew; returns what was held."""
        frames = self.handle_timeout(inf)
        self._next = self._expected = None
        self._lost = 0
        return frames

    def _release(self) -> list[Arrival]:
        assert self._next is not None
        released = []
        while (arrival := self._held.pop(self._next, None)) is not None:
            released.append(arrival)
            self._next += 1
        return released

    def _skip(self) -> list[Arrival]:
        self._next = min(self._held)
        return self._release()

    def _frames(self, arrivals: Iterable[Arrival]) -> Sequence[AssembledFrame]:
        frames = []
        for arrival in arrivals:
            if self._expected is not None:
                self._lost += arrival.sequence - self._expected
            self._expected = arrival.sequence + 1
            payload = arrival.packet.payload
            if not payload:
                continue
            try:
                data = self._depacketizer.depacketize((payload,))
            except MalformedFrame:
                self._counters.malformed += 1
                continue
            frames.append(AssembledFrame(data, arrival.ticks, True, self._lost, arrival.packet))
            self._lost = 0
        return frames


class VideoAssembler:
    """A frame is a run of packets up to the marker; see the top of this module.

    Attributes:
        window: Seconds that a gap may last.

    Args:
        depacketizer: Of the stream's codec.
        counters: Where to count.
    """

    def __init__(self, depacketizer: Depacketizer, counters: AssemblerCounters) -> None:
        self.bound = VIDEO_BOUND
        self.keyframe_wanted = False
        self.window = VIDEO_WINDOW
        self._depacketizer = depacketizer
        self._counters = counters
        self._held: dict[int, Arrival] = {}
        self._held_bytes = 0
        self._gate_open = False
        self._fresh = True  # nothing was consumed: where the first frame starts is a guess
        self._astray = False  # behind a loss with no end of a frame in sight
        self._start = 0  # first packet of the frame in the making
        self._frontier = 0  # first missing packet behind it
        self._gap_at: int | None = None  # the frontier that `_gap_since` belongs to
        self._gap_since = 0.0
        self._lost = 0
        self._discarded = 0  # packets from the frontier on that were received but not kept

    def receive(self, arrival: Arrival) -> Sequence[AssembledFrame]:
        """Take a packet; returns the frames that it completes, in order."""
        sequence = arrival.sequence
        if sequence in self._held:
            return ()
        if sequence < self._start and not self._fresh:
            self._counters.late += 1
            return ()
        self._hold(arrival)
        if self._astray:
            boundary = self._boundary_near(arrival)
            if boundary is None:
                return ()
            self._continue_at(boundary)
        elif self._fresh and (len(self._held) == 1 or sequence <= self._start):
            self._guess_start(arrival)
        return self._advance()

    @property
    def needed_from(self) -> float:
        """The first missing packet that is of use; infinity when none of those before is."""
        return inf if self._astray else self._frontier

    def next_timeout(self) -> float | None:
        """When the present gap will be given up; None without a gap."""
        if self._gap_at is None:
            return None
        # What is missing in front of the very first packet is not sent again.
        in_front = self._fresh and self._start not in self._held
        return self._gap_since + (VIDEO_WINDOW if in_front else self.window)

    def handle_timeout(self, now: float) -> Sequence[AssembledFrame]:
        """Give up gaps whose time is over; returns the frames behind them."""
        frames: list[AssembledFrame] = []
        while (deadline := self.next_timeout()) is not None and deadline <= now:
            self._give_up()
            if not self._astray:
                frames += self._advance()
        return frames

    def restart(self) -> Sequence[AssembledFrame]:
        """The sequence numbers begin anew; returns what was complete behind a gap."""
        frames = self.handle_timeout(inf)
        self._drop(list(self._held))
        self._gate_open = False
        self._fresh = True
        self._astray = False
        self._gap_at = None
        self._lost = self._discarded = 0
        return frames

    def _hold(self, arrival: Arrival) -> None:
        size = len(arrival.packet.payload)
        if len(self._held) >= VIDEO_BOUND or self._held_bytes + size > VIDEO_BOUND_BYTES:
            self._counters.overflows += 1
            self._go_astray()
            self._discard(list(self._held))
        self._held[arrival.sequence] = arrival
        self._held_bytes += size
        self._counters.high_water = max(self._counters.high_water, len(self._held))

    def _guess_start(self, lowest: Arrival) -> None:
        starts = self._depacketizer.starts_frame(lowest.packet.payload)
        # Otherwise something is missing in front, at least one packet.
        self._start = self._frontier = lowest.sequence if starts else lowest.sequence - 1

    def _advance(self) -> Sequence[AssembledFrame]:
        frames: list[AssembledFrame] = []
        while (arrival := self._held.get(self._frontier)) is not None:
            if arrival.ticks != self._held[self._start].ticks:
                self._complete(frames)  # the packet before should have had the marker
                continue
            self._frontier += 1
            if arrival.packet.marker:
                self._complete(frames)
        self._watch_gap()
        return frames

    def _watch_gap(self) -> None:
        if len(self._held) == self._frontier - self._start:
            self._gap_at = None
        elif self._gap_at != self._frontier:
            self._gap_at = self._frontier
            self._gap_since = min(
                arrival.now for number, arrival in self._held.items() if number > self._frontier
            )

    def _complete(self, frames: list[AssembledFrame]) -> None:
        """Take the frame from start to frontier, and append it if it may pass the gate."""
        arrivals = self._drop(range(self._start, self._frontier))
        self._start = self._frontier
        self._fresh = False
        contents = [arrival for arrival in arrivals if arrival.packet.payload]
        if not contents:
            return
        depacketizer = self._depacketizer
        try:
            data = depacketizer.depacketize([arrival.packet.payload for arrival in contents])
        except MalformedFrame:
            self._counters.malformed += 1
            self._close_gate()
            return
        keyframe = depacketizer.is_keyframe(data)
        if keyframe:
            self._gate_open = True
            self.keyframe_wanted = False
        elif not self._gate_open:
            self._counters.frames_dropped += 1
            self.keyframe_wanted = True
            return
        first = contents[0]
        frames.append(AssembledFrame(data, first.ticks, keyframe, self._lost, first.packet))
        self._lost = 0

    def _give_up(self) -> None:
        self._go_astray()
        for number in sorted(self._held):
            if number < self._frontier:
                continue
            boundary = self._boundary_near(self._held[number])
            if boundary is not None:
                self._continue_at(boundary)
                return

    def _boundary_near(self, arrival: Arrival) -> int | None:
        """Where a frame starts for certain, judging by a packet and its neighbours."""
        sequence = arrival.sequence
        before = self._held.get(sequence - 1)
        if before is not None and before.ticks != arrival.ticks:
            return sequence
        after = self._held.get(sequence + 1)
        if arrival.packet.marker or (after is not None and after.ticks != arrival.ticks):
            return sequence + 1
        return None

    def _go_astray(self) -> None:
        self._close_gate()
        self._astray = True
        self._gap_at = None

    def _close_gate(self) -> None:
        self._gate_open = False
        self.keyframe_wanted = True

    def _continue_at(self, boundary: int) -> None:
        """Leave everything in front of a boundary behind."""
        self._discard([number for number in self._held if number < boundary])
        if not self._fresh:
            self._lost += max(boundary - self._frontier - self._discarded, 0)
        self._start = self._frontier = boundary
        self._discarded = 0
        self._fresh = self._astray = False

    def _discard(self, numbers: list[int]) -> None:
        dropped = self._drop(numbers)
        self._discarded += sum(arrival.sequence >= self._frontier for arrival in dropped)
        self._counters.frames_dropped += len({arrival.ticks for arrival in dropped})

    def _drop(self, numbers: Iterable[int]) -> list[Arrival]:
        dropped = [self._held.pop(number) for number in numbers]
        self._held_bytes -= sum(len(arrival.packet.payload) for arrival in dropped)
        return dropped
