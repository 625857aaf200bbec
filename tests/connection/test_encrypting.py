"""Frames of ours on their way to the link."""

from __future__ import annotations

import ast
import asyncio
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import pytest
import pytest_asyncio

from discord_rtc.clock import SystemClock
from discord_rtc.connection import encrypting as encrypting_module
from discord_rtc.connection.encrypting import HOLD_SECONDS, WAIT_SECONDS, EncryptingLink
from discord_rtc.connection.publication import Publication, Quality
from discord_rtc.connection.sending import send_track
from discord_rtc.errors import MalformedFrame
from discord_rtc.frames import OPUS_SILENCE, Codec, EncodedFrame, MediaKind
from discord_rtc.media.encode import VideoEncoder, VideoSettings
from discord_rtc.media.patterns import TestPattern, TestTone
from discord_rtc.protocol.dave.events import Sending
from discord_rtc.rtp.packet import is_rtcp, parse_rtp
from discord_rtc.rtp.session import SenderConfig

from .conftest import AUDIO_SSRC, VIDEO_SSRC

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from discord_rtc.media.track import MediaTrack
    from discord_rtc.transport.base import NegotiatedMedia
    from discord_rtc.transport.memory import MemoryTransport

    from .conftest import Announced, Ends, Eventually, Track

pytestmark = pytest.mark.asyncio

MARK = b"\xfa\xfa"


class Cipher:
    """Puts a mark behind frames; a test sets what is to be done."""

    def __init__(self) -> None:
        self.sending = Sending.WAIT
        self.refused: set[bytes] = set()

    def encrypt(self, frame: EncodedFrame) -> bytes | None:
        assert self.sending is Sending.ENCRYPT
        return None if frame.data in self.refused else frame.data + MARK


class Link:
    """A link that remembers what it was given, in order."""

    def __init__(self, media: NegotiatedMedia) -> None:
        self.media = media
        self.sent: list[object] = []
        self.times: list[float | None] = []
        self.rate = 0

    def add_sender(self, config: SenderConfig) -> None:
        self.sent.append(("begin", config.ssrc))

    def send_frame(
        self, ssrc: int, frame: EncodedFrame, *, speaking: int | None = None, at: float | None
    ) -> None:
        del ssrc, speaking
        if b"senseless" in frame.data:
            raise MalformedFrame("no frame")
        self.sent.append(frame.data)
        self.times.append(at)

    def restart_source(self, ssrc: int) -> None:
        self.sent.append(("restart", ssrc))

    def forget_packets(self) -> None:
        self.sent.append("forget")

    def set_pacing_rate(self, bitrate_bps: int) -> None:
        self.rate = bitrate_bps

    def backlog(self) -> float:
        return 0.125


class Source:
    """A publication that counts."""

    def __init__(self) -> None:
        self.withheld = False
        self.counted: list[str] = []
        self.requested = 0
        self.demanded = 0

    def count(self, what: str) -> None:
        self.counted.append(what)

    def keyframe_requested(self) -> None:
        self.requested += 1

    def demand_keyframe(self) -> None:
        self.demanded += 1


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def ntp(self) -> float:
        return self.time


class Rig:
    """An encrypting link between a source and a link."""

    def __init__(self, media: NegotiatedMedia) -> None:
        self.link, self.cipher, self.clock = Link(media), Cipher(), Clock()
        self.encrypting = EncryptingLink(self.link, self.cipher, self.clock)
        self.source = Source()
        self.outlet = self.encrypting.outlet(self.source)
        self.outlet.add_sender(SenderConfig(AUDIO_SSRC, Codec.OPUS, 120))
        self.outlet.add_sender(SenderConfig(VIDEO_SSRC, Codec.VP8, 105))
        self.link.sent.clear()

    def speak(self, *numbers: int) -> None:
        for number in numbers:
            data, pts = b"s%d" % number, 960 * number
            frame = EncodedFrame(data, Codec.OPUS, pts, Fraction(1, 48_000), keyframe=True)
            self.outlet.send_frame(AUDIO_SSRC, frame, speaking=1)
            self.clock.time += 0.02

    def show(self, *numbers: int, keys: tuple[int, ...] = ()) -> None:
        for number in numbers:
            key = number in keys
            frame = EncodedFrame(b"v%d" % number, Codec.VP8, number, Fraction(1, 30), keyframe=key)
            self.outlet.send_frame(VIDEO_SSRC, frame)
            self.clock.time += 1 / 30

    def become(self, sending: Sending, *, fresh: bool = False) -> None:
        self.cipher.sending = sending
        self.encrypting.sending_changed(fresh=fresh)


@pytest_asyncio.fixture
async def rig(media: NegotiatedMedia) -> Rig:
    return Rig(media)


async def test_without_encryption_frames_pass_as_they_are(rig: Rig) -> None:
    rig.become(Sending.CLEAR)
    rig.speak(0, 1)
    assert rig.link.sent == [b"s0", b"s1"]


async def test_an_upgrade_forgets_what_was_sent_in_the_clear(rig: Rig) -> None:
    rig.become(Sending.CLEAR)
    rig.speak(0)
    rig.become(Sending.WAIT)
    rig.become(Sending.ENCRYPT, fresh=True)
    rig.speak(1)
    rig.become(Sending.HOLD)
    rig.become(Sending.WAIT)
    assert rig.link.sent == [b"s0", "forget", b"s1" + MARK]


async def test_a_frame_that_waited_and_cannot_be_sent_costs_only_itself(rig: Rig) -> None:
    frame = EncodedFrame(b"senseless", Codec.OPUS, 0, Fraction(1, 48_000), keyframe=True)
    rig.outlet.send_frame(AUDIO_SSRC, frame)
    rig.speak(1)
    rig.become(Sending.ENCRYPT)
    assert rig.link.sent == [b"s1" + MARK]
    assert rig.source.counted == ["unsendable"]
    with pytest.raises(MalformedFrame):  # now its publication is there to take it
        rig.outlet.send_frame(AUDIO_SSRC, frame)


async def test_another_source_is_told_even_if_its_first_frame_cannot_be_encrypted(
    rig: Rig,
) -> None:
    rig.become(Sending.ENCRYPT)
    rig.speak(0)
    rig.outlet.restart_source(AUDIO_SSRC)
    rig.cipher.refused.add(b"s1")
    rig.speak(1, 2)
    assert rig.link.sent == [b"s0" + MARK, ("restart", AUDIO_SSRC), b"s2" + MARK]


async def test_with_a_key_every_frame_is_encrypted(rig: Rig) -> None:
    rig.become(Sending.ENCRYPT)
    rig.speak(0)
    rig.show(0, 1, keys=(0,))
    assert rig.link.sent == [b"s0" + MARK, b"v0" + MARK, b"v1" + MARK]


@pytest.mark.parametrize("sending", [Sending.WAIT, Sending.HOLD])
async def test_frames_wait_and_go_out_in_order_with_the_time_at_which_they_came(
    rig: Rig, sending: Sending
) -> None:
    rig.become(sending)
    rig.speak(0, 1, 2)
    assert rig.link.sent == []
    rig.become(Sending.ENCRYPT)
    rig.speak(3)
    assert rig.link.sent == [b"s%d" % number + MARK for number in range(4)]
    assert rig.link.times == pytest.approx([100.0, 100.02, 100.04, 100.06])


async def test_a_frame_does_not_overtake_those_that_wait(rig: Rig) -> None:
    rig.become(Sending.WAIT)
    rig.speak(0)
    rig.cipher.sending = Sending.ENCRYPT  # the event is still on its way
    rig.speak(1)
    assert rig.link.sent == [b"s0" + MARK, b"s1" + MARK]


@pytest.mark.parametrize(
    ("sending", "seconds"), [(Sending.WAIT, WAIT_SECONDS), (Sending.HOLD, HOLD_SECONDS)]
)
async def test_the_newest_stretch_is_kept_and_the_rest_counted(
    rig: Rig, sending: Sending, seconds: float
) -> None:
    rig.become(sending)
    rig.speak(*range(200))
    kept = round(seconds * 50) + 1
    assert rig.source.counted == ["held-dropped"] * (200 - kept)
    rig.become(Sending.ENCRYPT)
    assert rig.link.sent == [b"s%d" % number + MARK for number in range(200 - kept, 200)]
    assert [(queue.name, queue.dropped) for queue in rig.encrypting.queues()] == [
        ("held-audio", 200 - kept),
        ("held-video", 0),
    ]


async def test_what_was_said_to_nobody_is_not_for_whoever_comes_later(rig: Rig) -> None:
    rig.speak(0, 1, 2)
    rig.clock.time += 3600
    rig.become(Sending.ENCRYPT, fresh=True)
    assert rig.link.sent == []
    assert rig.source.counted == ["held-dropped"] * 3


async def test_video_that_lost_its_beginning_is_withheld_until_it_may_go(rig: Rig) -> None:
    rig.show(*range(15), keys=(0,))
    assert not rig.source.withheld
    rig.show(15, 16, 17)
    assert rig.source.withheld
    assert rig.source.demanded == 0
    rig.become(Sending.ENCRYPT, fresh=True)
    assert not rig.source.withheld
    assert rig.source.demanded == 1
    rig.show(18)  # was in the encoder
    rig.show(19, 20, keys=(19,))
    assert rig.link.sent == [b"v19" + MARK, b"v20" + MARK]
    assert rig.source.demanded == 1


async def test_a_new_group_begins_with_a_keyframe_that_waits(rig: Rig) -> None:
    rig.become(Sending.ENCRYPT)
    rig.show(0, keys=(0,))
    rig.become(Sending.WAIT)
    rig.show(1, 2, 3, keys=(2,))
    rig.become(Sending.ENCRYPT, fresh=True)
    assert rig.link.sent == [b"v0" + MARK, b"v2" + MARK, b"v3" + MARK]
    assert (rig.source.counted, rig.source.demanded) == (["held-dropped"], 0)


async def test_a_new_group_without_one_asks_for_it_at_once(rig: Rig) -> None:
    rig.become(Sending.ENCRYPT)
    rig.show(0, keys=(0,))
    rig.become(Sending.WAIT)
    rig.become(Sending.ENCRYPT, fresh=True)
    assert rig.source.demanded == 1
    rig.show(1, 2, keys=(2,))
    assert rig.link.sent == [b"v0" + MARK, b"v2" + MARK]


async def test_a_transition_does_not_cost_a_keyframe(rig: Rig) -> None:
    rig.become(Sending.ENCRYPT)
    rig.show(0, keys=(0,))
    rig.become(Sending.HOLD)
    rig.show(1, 2)
    rig.become(Sending.ENCRYPT)
    assert rig.link.sent == [b"v%d" % number + MARK for number in range(3)]
    assert rig.source.demanded == 0


async def test_a_group_that_is_lost_while_frames_leave_keeps_the_rest(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.speak(0, 1, 2)
    send = rig.link.send_frame

    def send_one(
        ssrc: int, frame: EncodedFrame, *, speaking: int | None = None, at: float | None
    ) -> None:
        send(ssrc, frame, speaking=speaking, at=at)
        rig.cipher.sending = Sending.WAIT

    monkeypatch.setattr(rig.link, "send_frame", send_one)
    rig.become(Sending.ENCRYPT)
    assert (rig.link.sent, rig.source.counted) == ([b"s0" + MARK], [])
    monkeypatch.undo()
    rig.become(Sending.ENCRYPT)
    assert rig.link.sent == [b"s%d" % number + MARK for number in range(3)]


async def test_a_frame_that_cannot_be_encrypted_does_not_leave(rig: Rig) -> None:
    rig.become(Sending.ENCRYPT)
    rig.cipher.refused = {b"v1", b"v4", b"s0"}
    rig.speak(0, 1)
    rig.show(0, 1, 2, 3, 4, 5, keys=(0, 3, 4))
    assert rig.link.sent == [b"s1" + MARK, b"v0" + MARK, b"v3" + MARK]
    assert sorted(rig.source.counted) == ["held-dropped"] * 2 + ["unencryptable"] * 3
    # Not on the spot: a stream that can never be encrypted would be all keyframes.
    assert (rig.source.requested, rig.source.demanded) == (3, 0)


async def test_another_source_goes_on_behind_the_frames_that_wait(rig: Rig) -> None:
    rig.speak(0)
    other = Source()
    outlet = rig.encrypting.outlet(other)
    outlet.add_sender(SenderConfig(AUDIO_SSRC, Codec.OPUS, 120))
    frame = EncodedFrame(b"other", Codec.OPUS, 0, Fraction(1, 48_000), keyframe=True)
    outlet.send_frame(AUDIO_SSRC, frame)
    outlet.restart_source(AUDIO_SSRC)
    outlet.send_frame(AUDIO_SSRC, frame)
    rig.become(Sending.ENCRYPT)
    again = ("restart", AUDIO_SSRC)
    assert rig.link.sent == [b"s0" + MARK, again, b"other" + MARK, again, b"other" + MARK]


async def test_what_is_not_published_any_more_is_thrown_away(rig: Rig) -> None:
    rig.speak(0, 1)
    rig.encrypting.discard(Source())  # somebody else
    rig.encrypting.discard(rig.source)
    rig.become(Sending.ENCRYPT)
    assert rig.link.sent == []
    assert rig.source.counted == ["held-dropped"] * 2


async def test_the_outlet_tells_about_the_link(rig: Rig, media: NegotiatedMedia) -> None:
    rig.outlet.set_pacing_rate(5)
    assert (rig.outlet.media, rig.outlet.backlog(), rig.link.rate) == (media, 0.125, 5)


# With publications, up to the transport


class Seam:
    """Watches every packet that a transport is given.

    Attributes:
        media: Payloads of RTP packets that carry media, by SSRC.
    """

    def __init__(self, transport: MemoryTransport, monkeypatch: pytest.MonkeyPatch) -> None:
        self.media: dict[int, list[bytes]] = {AUDIO_SSRC: [], VIDEO_SSRC: []}
        self.markers = 0
        send = transport.send_rtp

        def watched(packet: bytes) -> None:
            if is_rtcp(packet):
                return send(packet)
            parsed = parse_rtp(packet)
            self.media[parsed.ssrc].append(parsed.payload)
            self.markers += parsed.marker
            return send(packet)

        monkeypatch.setattr(transport, "send_rtp", watched)

    @property
    def packets(self) -> int:
        return sum(map(len, self.media.values()))

    def clear_sound(self) -> list[bytes]:
        """Sound that left without a mark."""
        return [payload for payload in self.media[AUDIO_SSRC] if not payload.endswith(MARK)]


class Wired:
    """Publications on an encrypting link over the memory transport."""

    def __init__(self, ends: Ends, announced: Announced, seam: Seam) -> None:
        self.ends, self.announced, self.seam = ends, announced, seam
        self.cipher = Cipher()
        self.encrypting = EncryptingLink(ends.link, self.cipher, SystemClock())

    def become(self, sending: Sending, *, fresh: bool = False) -> None:
        self.cipher.sending = sending
        self.encrypting.sending_changed(fresh=fresh)

    @asynccontextmanager
    async def publishing(self, *tracks: MediaTrack) -> AsyncIterator[list[Publication]]:
        made = [
            Publication(track, MediaKind(track.kind), quality=Quality(64, 64, 30, 300_000))
            for track in tracks
        ]
        tasks = [
            asyncio.ensure_future(send_track(it, self.encrypting.outlet(it), self.announced))
            for it in made
        ]
        try:
            async with asyncio.timeout(8):
                yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@pytest.fixture
def wired(ends: Ends, announced: Announced, monkeypatch: pytest.MonkeyPatch) -> Wired:
    return Wired(ends, announced, Seam(ends.transport, monkeypatch))


async def test_nothing_reaches_the_transport_before_there_is_a_key(
    wired: Wired, microphone: Track, sound: Callable[..., av.AudioFrame], eventually: Eventually
) -> None:
    """Sound, its end and the silence behind it, and pictures: all of it waits."""
    async with wired.publishing(microphone, TestPattern(64, 64)) as (audio, video):
        microphone.push(*(sound(960 * number) for number in range(3)))
        await eventually(lambda: audio.counters.get("silence") == 5)
        await eventually(lambda: video.counters.get("sent", 0) > 3)
        assert wired.seam.packets == 0
        assert wired.announced.flags  # to announce is allowed
        wired.become(Sending.ENCRYPT, fresh=True)
        await eventually(lambda: len(wired.seam.media[AUDIO_SSRC]) == 8)
        await eventually(lambda: wired.seam.markers > 3)
    assert wired.seam.clear_sound() == []
    assert OPUS_SILENCE not in wired.seam.media[AUDIO_SSRC]
    assert wired.seam.media[AUDIO_SSRC][-1] == OPUS_SILENCE + MARK


def rising(value: Callable[[], int], by: int) -> Callable[[], bool]:
    """Holds once a value has risen by that much from now."""
    goal = value() + by
    return lambda: value() >= goal


@pytest.mark.parametrize("pause", [Sending.WAIT, Sending.HOLD])
async def test_a_call_that_is_rebuilt_over_and_over_never_leaks(
    wired: Wired, pause: Sending, eventually: Eventually
) -> None:
    async with wired.publishing(TestTone(), TestPattern(64, 64)) as (audio, _):
        for round_ in range(4):
            wired.become(Sending.ENCRYPT, fresh=pause is Sending.WAIT)
            await eventually(rising(lambda: wired.seam.packets, 10))
            wired.become(pause)
            await asyncio.sleep(0.05)  # what the pacer still has was encrypted before
            before = wired.seam.packets
            await eventually(rising(lambda: audio.counters["sent"], 4))
            assert wired.seam.packets == before, round_
    assert wired.seam.clear_sound() == []
    assert wired.ends.far.frames
    assert all(frame.data.endswith(MARK) for frame in wired.ends.far.frames)


async def test_who_is_alone_does_not_encode_and_begins_with_a_keyframe_within_a_frame(
    wired: Wired, eventually: Eventually
) -> None:
    async with wired.publishing(TestPattern(64, 64)) as (video,):
        await eventually(lambda: video.counters.get("skipped-e2ee", 0) > 5)
        encoded = video.counters["sent"]
        await eventually(lambda: video.counters["skipped-e2ee"] > 12)
        assert video.counters["sent"] <= encoded + 1
        skipped = video.counters["skipped-e2ee"]
        wired.become(Sending.ENCRYPT, fresh=True)
        await eventually(lambda: wired.ends.far.frames)
        assert video.counters["skipped-e2ee"] <= skipped + 2
    assert wired.ends.far.frames[0].keyframe


async def test_a_keyframe_asked_for_during_a_hold_is_made_and_waits_with_the_others(
    wired: Wired, eventually: Eventually
) -> None:
    wired.become(Sending.ENCRYPT)
    async with wired.publishing(TestPattern(64, 64)) as (video,):
        await eventually(lambda: video.counters.get("sent", 0) > 3)
        wired.become(Sending.HOLD)
        await asyncio.sleep(0.05)
        count, before = len(wired.ends.far.frames), video.counters["sent"]
        video.demand_keyframe()
        await eventually(lambda: video.counters["sent"] > before + 3)
        assert len(wired.ends.far.frames) == count
        wired.become(Sending.ENCRYPT)
        await eventually(lambda: len(wired.ends.far.frames) > count + 4)
    keys = [frame.keyframe for frame in wired.ends.far.frames[count : count + 5]]
    assert keys.count(True) == 1


def h264_packets(
    count: int, picture: Callable[..., av.VideoFrame]
) -> list[av.Packet[av.stream.Stream]]:
    encoder = VideoEncoder(VideoSettings(codec=Codec.H264))
    packets = []
    for number in range(count):
        [encoded] = encoder.encode(picture(number), keyframe=number % 20 == 0)
        packet: av.Packet[av.stream.Stream] = av.Packet(encoded.data)
        packet.pts, packet.time_base = encoded.pts, encoded.time_base
        packet.is_keyframe = encoded.keyframe
        packets.append(packet)
    return packets


async def test_encoded_packets_go_on_from_the_next_keyframe(
    wired: Wired, camera: Track, picture: Callable[..., av.VideoFrame], eventually: Eventually
) -> None:
    packets = h264_packets(45, picture)
    async with wired.publishing(camera) as (video,):
        camera.push(*packets[:30])  # a second: the first group does not fit, the second one does
        await eventually(lambda: video.counters.get("sent") == 30)
        wired.become(Sending.ENCRYPT, fresh=True)
        camera.push(*packets[30:])
        await eventually(lambda: len(wired.ends.far.frames) == 25)
    assert wired.ends.far.frames[0].keyframe
    assert video.counters["held-dropped"] == 20


async def test_nobody_else_hands_frames_to_a_link() -> None:
    """Publications call the outlet, the outlet's owner calls the link, the link its session."""
    package = Path(encrypting_module.__file__).parent
    callers = {
        path.stem
        for path in package.glob("*.py")
        if any(
            isinstance(node, ast.Attribute) and node.attr == "send_frame"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    }
    assert callers == {"audio_sender", "video_sender", "encrypting", "link"}
