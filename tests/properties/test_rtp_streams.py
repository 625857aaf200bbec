"""RTP streams over any network: order, pacing, time, and input that nobody expects."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.rtp.events import Event, FrameReceived
from discord_rtc.rtp.extensions import NATIVE_EXTENSION_IDS
from discord_rtc.rtp.history import wrap_rtx
from discord_rtc.rtp.inbound import InboundContext
from discord_rtc.rtp.outbound import OutboundStream, SenderConfig
from discord_rtc.rtp.pacer import Outgoing, Pacer
from discord_rtc.rtp.packet import RtpPacket, parse_rtp
from discord_rtc.rtp.payloads.base import payload_format
from discord_rtc.rtp.receivers import Receivers
from discord_rtc.rtp.rtcp import Nack
from discord_rtc.rtp.session import RtpSession

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_AUDIO_DELAY = 0.055  # below the reorder windows of 60 and 120 ms
_VIDEO_DELAY = 0.115


class Fate(NamedTuple):
    """What the network does to one packet."""

    lost: bool
    delay: float  # 0 to 1, of the largest delay
    copies: int


_fates = st.builds(
    Fate,
    st.sampled_from((False, False, False, True)),
    st.floats(0, 1, allow_nan=False),
    st.sampled_from((1, 1, 1, 2)),
)
_KEPT = Fate(lost=False, delay=0.0, copies=1)


def _receive(
    codec: Codec, arrivals: Iterable[tuple[float, RtpPacket]], *, nack: bool = False
) -> list[FrameReceived]:
    """Hand packets in at their times, and the timer at its; returns the frames.

    Packets of another SSRC than 1 are retransmissions.
    """
    events: list[Event] = []
    requests: list[int] = []

    def ask(ssrc: int, missing: Sequence[int]) -> None:
        assert ssrc == 1
        assert missing
        assert all(0 <= number <= 0xFFFF for number in missing)

    context = InboundContext({}, Counter(), events.append, requests.append, ask, nack)
    streams = Receivers(context)
    known = payload_format(codec)
    now = 0.0
    for at, packet in sorted(arrivals, key=lambda arrival: arrival[0]):
        while (deadline := streams.next_timeout()) is not None and deadline <= at:
            now = max(now, deadline)
            streams.handle_timeout(now)
        now = at
        if packet.ssrc == 1:
            streams.receive(packet, known, now)
        else:
            streams.receive_retransmission(packet, 105, known, now)
    for _ in range(100):
        if (deadline := streams.next_timeout()) is not None:
            streams.handle_timeout(max(now, deadline))
    return [event for event in events if isinstance(event, FrameReceived)]


def _arrivals(
    packets: list[RtpPacket], times: list[float], fates: list[Fate], longest: float
) -> list[tuple[float, RtpPacket]]:
    return [
        (sent + fate.delay * longest + copy * 1e-3, packet)
        for packet, sent, fate in zip(packets, times, fates, strict=True)
        for copy in range(0 if fate.lost else fate.copies)
    ]


# ---- property 5: order -------------------------------------------------------------------


@given(st.integers(0, 0xFFFF), st.lists(_fates, min_size=1, max_size=80))
def test_audio_arrives_once_and_in_order_whatever_happens(start: int, fates: list[Fate]) -> None:
    fates = [_KEPT, *fates]
    packets = [
        RtpPacket(120, (start + n) & 0xFFFF, 960 * n, 1, n.to_bytes(2, "big"))
        for n in range(len(fates))
    ]
    times = [0.02 * n for n in range(len(fates))]
    frames = _receive(Codec.OPUS, _arrivals(packets, times, fates, _AUDIO_DELAY))
    survivors = [n for n, fate in enumerate(fates) if not fate.lost]
    assert [int.from_bytes(frame.data, "big") for frame in frames] == survivors
    missing = [b - a - 1 for a, b in pairwise(survivors)]
    assert [frame.lost for frame in frames] == [0, *missing]


class Picture(NamedTuple):
    """One video frame: whether it is a keyframe, and the fate of each packet."""

    keyframe: bool
    fates: list[Fate]


_pictures = st.lists(
    st.builds(
        Picture,
        st.sampled_from((False, False, True)),
        st.lists(_fates, min_size=1, max_size=6),
    ),
    max_size=25,
)


def _film(start: int, pictures: list[Picture]) -> tuple[list[RtpPacket], list[float]]:
    """VP8 packets that each carry one byte of their frame's number, and when they are sent."""
    packets: list[RtpPacket] = []
    for number, picture in enumerate(pictures):
        data = bytes((not picture.keyframe, number)) + bytes(len(picture.fates) - 1)
        # Descriptor 4 bytes; the first payload carries two bytes, the others one.
        payloads = [data[:2], *(data[at : at + 1] for at in range(2, len(data)))]
        for index, payload in enumerate(payloads):
            descriptor = b"\x80\x80\x80\x00" if index else b"\x90\x80\x80\x00"
            last = index == len(payloads) - 1
            sequence = (start + len(packets)) & 0xFFFF
            body = descriptor + payload
            packets.append(RtpPacket(105, sequence, 3000 * number, 1, body, last))
    return packets, [packet.ticks / 90_000 for packet in packets]


def _shown(
    start: int, pictures: list[Picture], longest: float
) -> tuple[list[Picture], list[FrameReceived]]:
    pictures = [Picture(True, [_KEPT] * 3), *pictures]
    packets, times = _film(start, pictures)
    fates = [fate for picture in pictures for fate in picture.fates]
    return pictures, _receive(Codec.VP8, _arrivals(packets, times, fates, longest))


@given(st.integers(0, 0xFFFF), _pictures)
def test_video_without_loss_is_complete_and_in_order(start: int, pictures: list[Picture]) -> None:
    pictures = [
        Picture(picture.keyframe, [fate._replace(lost=False) for fate in picture.fates])
        for picture in pictures
    ]
    pictures, frames = _shown(start, pictures, _VIDEO_DELAY)
    assert [frame.ticks // 3000 for frame in frames] == list(range(len(pictures)))
    assert [frame.data[1] for frame in frames] == list(range(len(pictures)))
    assert not any(frame.lost for frame in frames)


@given(st.integers(0, 0xFFFF), _pictures)
def test_video_with_loss_shows_only_what_can_be_decoded(
    start: int, pictures: list[Picture]
) -> None:
    pictures, frames = _shown(start, pictures, _VIDEO_DELAY)
    numbers = [frame.ticks // 3000 for frame in frames]
    assert numbers == sorted(set(numbers))
    for before, frame in zip([-1, *numbers], frames, strict=False):
        number = frame.ticks // 3000
        assert not any(fate.lost for fate in pictures[number].fates)
        assert frame.data[1] == number
        assert frame.keyframe is pictures[number].keyframe
        assert frame.keyframe or before == number - 1
        # A packet that is slower than the loss in front of it may count as lost, too.
        skipped = [fate for picture in pictures[before + 1 : number] for fate in picture.fates]
        assert frame.lost <= len(skipped)


@given(st.integers(0, 0xFFFF), _pictures)
def test_a_whole_keyframe_behind_a_whole_frame_end_is_always_shown(
    start: int, pictures: list[Picture]
) -> None:
    pictures, frames = _shown(start, pictures, longest=0.0)
    shown = {frame.ticks // 3000 for frame in frames}
    for number in range(1, len(pictures)):
        whole = not any(fate.lost for fate in pictures[number].fates)
        sure = not pictures[number - 1].fates[-1].lost
        if whole and sure and (pictures[number].keyframe or number - 1 in shown):
            assert number in shown


_again = st.lists(st.tuples(st.integers(0, 200), st.floats(0, 0.6, allow_nan=False)), max_size=40)


@given(st.integers(0, 0xFFFF), _pictures, _again, st.sampled_from((2, 7777)))
def test_retransmissions_of_anything_at_any_time_show_only_what_was_sent(
    start: int, pictures: list[Picture], again: list[tuple[int, float]], rtx_ssrc: int
) -> None:
    pictures = [Picture(True, [_KEPT] * 3), *pictures]
    packets, times = _film(start, pictures)
    fates = [fate for picture in pictures for fate in picture.fates]
    arrivals = _arrivals(packets, times, fates, _VIDEO_DELAY)
    for number, (choice, delay) in enumerate(again):
        index = choice % len(packets)
        packet = wrap_rtx(packets[index], rtx_ssrc, 106, number)
        arrivals.append((times[index] + delay, packet))
    frames = _receive(Codec.VP8, arrivals, nack=True)
    numbers = [frame.ticks // 3000 for frame in frames]
    assert numbers == sorted(set(numbers))
    for before, frame in zip([-1, *numbers], frames, strict=False):
        number = frame.ticks // 3000
        assert frame.data == bytes((not pictures[number].keyframe, number)) + bytes(
            len(pictures[number].fates) - 1
        )
        assert frame.keyframe or before == number - 1


@given(st.integers(0, 0xFFFF), _pictures)
def test_whatever_is_lost_and_sent_again_in_time_is_shown(
    start: int, pictures: list[Picture]
) -> None:
    pictures = [Picture(True, [_KEPT] * 3), *pictures, Picture(True, [_KEPT] * 6)]
    packets, times = _film(start, pictures)
    fates = [fate for picture in pictures for fate in picture.fates]
    arrivals = _arrivals(packets, times, fates, 0.0)
    for number, (packet, time) in enumerate(zip(packets, times, strict=True)):
        # A frame later the gap is known; the window lasts for three frames at least.
        arrivals.append((time + 0.100, wrap_rtx(packet, 2, 106, number & 0xFFFF)))
    frames = _receive(Codec.VP8, arrivals, nack=True)
    assert [frame.ticks // 3000 for frame in frames] == list(range(len(pictures)))
    assert not any(frame.lost for frame in frames)


# ---- property 7: pacing ------------------------------------------------------------------


@given(
    st.integers(10_000, 100_000_000),
    st.lists(
        st.tuples(
            st.floats(0, 0.2, allow_nan=False),
            st.lists(st.integers(20, 1200), max_size=30),
            st.booleans(),
        ),
        max_size=30,
    ),
)
def test_the_pacer_keeps_packets_order_and_rate(
    rate: int, steps: list[tuple[float, list[int], bool]]
) -> None:
    pacer = Pacer(1200, rate)
    now = 0.0
    pushed: list[Outgoing] = []
    sent: list[tuple[float, Outgoing]] = []
    for pause, sizes, exactly in steps:
        until = now + pause
        while exactly and (deadline := pacer.next_timeout()) is not None and deadline <= until:
            now = max(now, deadline)
            sent += [(now, outgoing) for outgoing in pacer.pop(now)]
        now = until
        frame = [Outgoing(len(pushed).to_bytes(4, "big") * (size // 4), False) for size in sizes]
        if pacer.push(frame):
            pushed += frame
        sent += [(now, outgoing) for outgoing in pacer.pop(now)]
    while (deadline := pacer.next_timeout()) is not None:
        now = max(now, deadline)
        sent += [(now, outgoing) for outgoing in pacer.pop(now)]
    assert [outgoing for _, outgoing in sent] == pushed
    # Any stretch carries at most one burst more than the rate: compare with an ideal bucket.
    level, before = 0.0, 0.0
    for at, outgoing in sent:
        level = max(level - (at - before) * rate / 8, 0.0) + len(outgoing.packet)
        before = at
        assert level <= pacer.burst + 1e-3


# ---- property 10: time -------------------------------------------------------------------


@given(st.integers(), st.lists(st.integers(0, (1 << 31) - 1), min_size=1, max_size=30))
def test_ticks_survive_the_wire_over_any_jump_below_half_the_range(
    seed: int, jumps: list[int]
) -> None:
    config = SenderConfig(1, Codec.OPUS, 120)
    stream = OutboundStream(config, NATIVE_EXTENSION_IDS, 1200, Random(seed))
    pts = [sum(jumps[:n]) for n in range(len(jumps) + 1)]
    arrivals = []
    for number, time in enumerate(pts):
        frame = EncodedFrame(b"opus", Codec.OPUS, time, Fraction(1, 48_000), keyframe=True)
        (packet,) = stream.build(stream.packetize(frame), frame, 0.0)
        arrivals.append((0.02 * number, parse_rtp(packet)))
    ticks = [frame.ticks for frame in _receive(Codec.OPUS, arrivals)]
    assert [tick - ticks[0] for tick in ticks] == pts
    assert ticks[0] == stream.stats().origin_ticks


# ---- property 2: anything may come -------------------------------------------------------

_headers = st.builds(
    lambda kind, sequence, ticks, ssrc, body, marker: RtpPacket(
        kind, sequence, ticks, ssrc, body, marker
    ).to_bytes(),
    st.sampled_from((120, 101, 105, 106, 96, 1)),
    st.integers(0, 0xFFFF) | st.integers(0, 30),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 3),
    # For a retransmission the first two bytes are a number, too.
    st.binary(max_size=20) | st.builds(lambda low: bytes((0, low)) + b"data", st.integers(0, 30)),
    st.booleans(),
)
_nacks = st.builds(
    lambda ssrc, lost: Nack(9, ssrc, tuple(lost)).to_bytes(),
    st.integers(0, 3),
    st.lists(st.integers(0, 0xFFFF), max_size=200),
)
_inputs = st.lists(
    st.tuples(
        st.booleans(),
        st.binary(max_size=60) | _headers | _nacks,
        st.floats(0, 1, allow_nan=False),
    ),
    max_size=40,
)


_LARGE = EncodedFrame(bytes(100_000), Codec.VP8, 0, Fraction(1, 30), keyframe=True)


@given(_inputs)
def test_no_packet_makes_a_session_fail(inputs: list[tuple[bool, bytes, float]]) -> None:
    session = RtpSession(
        payload_types={120: Codec.OPUS, 101: Codec.H264, 105: Codec.VP8},
        rtx_payload_types={106: 105},
        extension_ids=NATIVE_EXTENSION_IDS,
        max_packet_size=1200,
        ntp_offset=3.9e9,
        cname="me",
        feedback=frozenset({"nack", "pli"}),
        seed=1,
    )
    session.add_sender(SenderConfig(1, Codec.VP8, 105, rtx_ssrc=2, rtx_payload_type=106))
    session.send_frame(1, _LARGE, 0.0)
    now = 0.0
    for rtcp, packet, pause in inputs:
        now += pause
        (session.receive_rtcp if rtcp else session.receive_rtp)(packet, now)
        session.packets_to_send(now)
        while session.next_event() is not None:
            pass
        deadline = session.next_timeout()
        if deadline is not None and deadline <= now:
            session.handle_timeout(now)
    assert all(queue.high_water < queue.bound for queue in session.stats().queues)
