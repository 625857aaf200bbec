"""From frames of the network to frames in tracks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest
import pytest_asyncio

from discord_rtc.clock import ManualClock
from discord_rtc.connection.events import (
    Event,
    TrackEnded,
    TrackStarted,
    UserJoined,
    UserLeft,
    UserSpeaking,
)
from discord_rtc.connection.parking import PARKING_BOUND, PARKING_SECONDS
from discord_rtc.connection.people import CallPeople
from discord_rtc.connection.receiving import (
    CONCEALED_FRAMES,
    SPEECH_TIMEOUT,
    Decrypt,
    Receiver,
)
from discord_rtc.connection.retrying import RETRY_BOUND, RETRY_SECONDS
from discord_rtc.connection.worker import Worker
from discord_rtc.frames import OPUS_SILENCE, Codec, MediaKind
from discord_rtc.media.encode import OpusEncoder, VideoEncoder, VideoSettings
from discord_rtc.protocol.dave.events import Undecrypted
from discord_rtc.protocol.messages import (
    ClientDisconnect,
    ClientFlags,
    ClientPlatform,
    ClientsConnect,
    ServerMessage,
    Speaking,
    StreamInfo,
    Video,
)
from discord_rtc.protocol.opcodes import SpeakingFlags
from discord_rtc.protocol.roster import Roster
from discord_rtc.rtp.session import FrameReceived, SenderReportReceived

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import av

    from discord_rtc.connection.events import Subscription

    from .conftest import Eventually

ANN = 5
AUDIO, VIDEO = 100, 101
START = 1000.0

NAMED = Speaking(0, AUDIO, user_id=ANN)
SHOWN = Video(AUDIO, VIDEO, VIDEO + 1, (StreamInfo(ssrc=VIDEO, rtx_ssrc=VIDEO + 1),), user_id=ANN)
SILENT = UserSpeaking(ANN, speaking=False, flags=SpeakingFlags.NONE)
HIDDEN = Video(AUDIO, 0, 0, (), user_id=ANN)


class Session:
    """A receiver with everything around it but the network."""

    def __init__(self, decrypt: Decrypt | None = None) -> None:
        self.clock = ManualClock(START)
        self.decrypt = decrypt
        self.receiver: Receiver | None = None
        self.people = CallPeople(self._demand)
        self.roster = Roster(7)
        self.worker = Worker("discord-rtc-decode")
        self.keyframes_asked: list[int] = []
        self.receiver = self.make()
        self.events: Subscription[Event] = self.people.events.subscribe((Event,))

    def make(self) -> Receiver:
        return Receiver(
            people=self.people,
            roster=self.roster,
            worker=self.worker,
            clock=self.clock,
            epoch=START,
            ask_keyframe=self.keyframes_asked.append,
            decrypt=self.decrypt,
        )

    def _demand(self, user_id: int, kind: MediaKind, wanted: bool) -> None:
        assert self.receiver is not None
        self.receiver.demand_changed(user_id, kind, wanted)

    @property
    def it(self) -> Receiver:
        assert self.receiver is not None
        return self.receiver

    def tell(self, *messages: ServerMessage) -> None:
        for message in messages:
            self.it.apply(self.roster.apply(message))

    async def told(self) -> list[Event]:
        """Events since the last time."""
        events, self.events = self.events, self.people.events.subscribe((Event,))
        events.close()
        return [event async for event in events]

    async def decoded(self) -> None:
        """Until every frame so far went through the worker."""
        await self.worker.run(lambda: None)


@pytest_asyncio.fixture
async def session() -> AsyncIterator[Session]:
    session = Session()
    yield session
    session.it.close()
    await session.worker.aclose()


@pytest.fixture
def speech(sound: Callable[..., av.AudioFrame]) -> Callable[..., FrameReceived]:
    """``speech(n)`` gives the n-th 20 ms."""
    encoder = OpusEncoder()
    [encoded] = encoder.encode(sound(0))

    def make(number: int, *, now: float = START, flags: int | None = None) -> FrameReceived:
        ticks = 7_000 + 960 * number
        return FrameReceived(AUDIO, Codec.OPUS, encoded.data, ticks, True, now, flags=flags)

    return make


@pytest.fixture
def film(picture: Callable[..., av.VideoFrame]) -> Callable[..., FrameReceived]:
    """``film(n)`` gives the n-th frame, every tenth of which is a keyframe."""
    encoder = VideoEncoder(VideoSettings(codec=Codec.VP8))
    made: list[FrameReceived] = []

    def make(number: int) -> FrameReceived:
        while len(made) <= number:
            n = len(made)
            [encoded] = encoder.encode(picture(n), keyframe=n % 10 == 0)
            ticks = 90_000 + 3000 * n
            made.append(
                FrameReceived(VIDEO, Codec.VP8, encoded.data, ticks, encoded.keyframe, START)
            )
        return made[number]

    return make


pytestmark = pytest.mark.asyncio


# Whose is it?


async def test_users_follow_the_voice_gateway(session: Session) -> None:
    session.tell(ClientsConnect((ANN, 6)), ClientFlags(ANN, 2), ClientPlatform(ANN, 1))
    session.tell(ClientDisconnect(6))
    [user] = session.people.users.values()
    assert (user.id, user.client_flags, user.platform) == (ANN, 2, 1)
    assert await session.told() == [UserJoined(ANN), UserJoined(6), UserLeft(6)]


async def test_frames_that_overtake_their_name_are_delivered_in_order_once_named(
    session: Session, speech: Callable[..., FrameReceived]
) -> None:
    session.tell(ClientsConnect((ANN,)))
    reader = session.people.ensure(ANN).microphone.reader()
    for number in range(3):
        session.it.frame_received(speech(number))
    await session.decoded()
    assert session.people.users[ANN].microphone.stats().delivered == 0
    session.tell(NAMED)
    session.it.frame_received(speech(3))
    await session.decoded()
    pts = [cast("av.AudioFrame", await reader.recv()).pts for _ in range(4)]
    assert pts == [0, 960, 1920, 2880]
    assert [queue.high_water for queue in session.it.queues()] == [3, 0]
    assert session.it.drops["unknown-ssrc"] == 0


async def test_frames_that_are_never_named_are_dropped_and_counted(
    session: Session, speech: Callable[..., FrameReceived], eventually: Eventually
) -> None:
    for number in range(3):
        session.it.frame_received(speech(number))
    session.clock.advance(PARKING_SECONDS + 0.01)
    await eventually(lambda: session.it.drops["unknown-ssrc"] == 3)
    session.tell(ClientsConnect((ANN,)), NAMED)
    assert not any(isinstance(event, TrackStarted) for event in await session.told())


async def test_a_name_alone_makes_a_user(
    session: Session, speech: Callable[..., FrameReceived]
) -> None:
    session.tell(NAMED)
    session.it.frame_received(speech(0))
    user = session.people.users[ANN]
    assert (await session.told())[:2] == [
        UserJoined(ANN),
        TrackStarted(ANN, MediaKind.AUDIO, user.microphone),
    ]


# Decoding on demand


async def test_nothing_is_decoded_for_a_track_that_nobody_reads(
    session: Session, speech: Callable[..., FrameReceived], film: Callable[..., FrameReceived]
) -> None:
    session.tell(SHOWN)
    session.it.frame_received(speech(0))
    session.it.frame_received(film(0))
    assert session.worker.high_water == 0
    assert session.it.drops["unread"] == 2
    assert session.keyframes_asked == []


async def test_sound_is_decoded_as_soon_as_somebody_reads(
    session: Session, speech: Callable[..., FrameReceived]
) -> None:
    session.tell(NAMED)
    session.it.frame_received(speech(0))
    track = session.people.users[ANN].microphone
    reader = track.reader()
    session.it.frame_received(speech(1))
    await session.decoded()
    frame = cast("av.AudioFrame", await reader.recv())
    assert (frame.pts, frame.sample_rate, frame.samples) == (0, 48_000, 960)
    assert track.rtp_origin == speech(1).ticks


async def test_the_first_reader_of_a_picture_asks_for_a_keyframe_and_begins_there(
    session: Session, film: Callable[..., FrameReceived]
) -> None:
    session.tell(SHOWN)
    session.it.frame_received(film(0))
    track = session.people.users[ANN].camera
    with track.reader() as reader, track.reader():
        assert session.keyframes_asked == [VIDEO]  # asked once, not per reader
        for number in range(8, 13):
            session.it.frame_received(film(number))
        await session.decoded()
        assert session.it.drops["no-keyframe"] == 2
        first, second = await reader.recv(), await reader.recv()
        assert (second.pts or 0) - (first.pts or 0) == 3000
        assert track.stats().delivered == 3


async def test_a_picture_without_a_keyframe_keeps_asking(
    session: Session, film: Callable[..., FrameReceived]
) -> None:
    session.tell(SHOWN)
    with session.people.ensure(ANN).camera.reader():
        session.it.frame_received(film(1))
        assert session.keyframes_asked == []  # never from within a delivery
        await asyncio.sleep(0)
        session.it.frame_received(film(2))
        await asyncio.sleep(0)
        assert session.keyframes_asked == [VIDEO, VIDEO]
        session.it.frame_received(film(10))
        await session.decoded()
        await asyncio.sleep(0)
        assert session.keyframes_asked == [VIDEO, VIDEO]


async def test_a_damaged_picture_asks_for_a_keyframe(
    session: Session, film: Callable[..., FrameReceived]
) -> None:
    session.tell(SHOWN)
    track = session.people.ensure(ANN).camera
    with track.reader():
        session.it.frame_received(film(0))
        session.it.frame_received(film(1)._replace(data=b"\x00"))
        await session.decoded()
        await asyncio.sleep(0)
        assert set(session.keyframes_asked) == {VIDEO}
        session.it.frame_received(film(2))
        assert session.it.drops["no-keyframe"] == 1
        session.it.frame_received(film(10))
        await session.decoded()
        assert track.stats().delivered == 2


async def test_when_the_last_reader_goes_decoding_stops(
    session: Session, film: Callable[..., FrameReceived]
) -> None:
    session.tell(SHOWN)
    track = session.people.ensure(ANN).camera
    with track.reader():
        session.it.frame_received(film(0))
        await session.decoded()
    session.it.frame_received(film(1))
    assert session.it.drops["unread"] == 1
    with track.reader():
        session.it.frame_received(film(2))
        assert session.it.drops["no-keyframe"] == 1


async def test_a_worker_that_is_behind_costs_frames_not_memory(
    session: Session, film: Callable[..., FrameReceived]
) -> None:
    session.tell(SHOWN)
    with session.people.ensure(ANN).camera.reader():
        session.it.frame_received(film(0))
        while session.worker.submit(lambda: None, lambda _: None):
            pass
        refused = session.worker.refused
        session.it.frame_received(film(1))
        assert session.it.drops["decoder-overloaded"] == refused + 1
        session.it.frame_received(film(2))  # cannot be decoded without the one before
        assert session.it.drops["no-keyframe"] == 1
        await asyncio.sleep(0.01)


# Streams


async def test_a_stream_that_is_taken_away_ends_and_can_come_back(
    session: Session, film: Callable[..., FrameReceived]
) -> None:
    session.tell(SHOWN)
    session.it.frame_received(film(0))
    session.tell(HIDDEN)
    session.tell(SHOWN)
    session.it.frame_received(film(10))
    camera = session.people.users[ANN].camera
    assert camera.readyState == "live"
    assert (await session.told())[1:] == [
        TrackStarted(ANN, MediaKind.VIDEO, camera),
        TrackEnded(ANN, MediaKind.VIDEO),
        TrackStarted(ANN, MediaKind.VIDEO, camera),
    ]


async def test_goodbye_ends_a_stream(
    session: Session, speech: Callable[..., FrameReceived]
) -> None:
    session.tell(NAMED)
    session.it.frame_received(speech(0))
    session.it.stream_ended(AUDIO)
    session.it.stream_ended(AUDIO)
    assert (await session.told())[-2:] == [
        TrackEnded(ANN, MediaKind.AUDIO),
        SILENT,
    ]


async def test_another_codec_on_a_stream_gets_another_decoder(
    session: Session, film: Callable[..., FrameReceived], picture: Callable[..., av.VideoFrame]
) -> None:
    session.tell(SHOWN)
    [other] = VideoEncoder(VideoSettings()).encode(picture(20))
    with session.people.ensure(ANN).camera.reader() as reader:
        session.it.frame_received(film(0))
        session.it.frame_received(
            FrameReceived(VIDEO, Codec.H264, other.data, 150_000, True, START)
        )
        await session.decoded()
        assert len([await reader.recv(), await reader.recv()]) == 2
    kinds = [type(event) for event in (await session.told())[1:]]
    assert kinds == [TrackStarted, TrackEnded, TrackStarted]


async def test_a_user_who_leaves_takes_the_streams_along(
    session: Session, speech: Callable[..., FrameReceived], film: Callable[..., FrameReceived]
) -> None:
    session.tell(SHOWN)
    session.it.frame_received(speech(0))
    session.it.frame_received(film(0))
    await session.told()
    session.tell(ClientDisconnect(ANN))
    told = await session.told()
    assert set(told[:-1]) == {
        TrackEnded(ANN, MediaKind.AUDIO),
        TrackEnded(ANN, MediaKind.VIDEO),
        SILENT,
    }
    assert told[-1] == UserLeft(ANN)


async def test_a_closed_receiver_takes_nothing_and_ends_its_streams(
    session: Session, speech: Callable[..., FrameReceived]
) -> None:
    session.tell(NAMED)
    session.it.frame_received(speech(0))
    await session.told()
    session.it.close()
    session.it.close()
    session.it.frame_received(speech(1))
    assert await session.told() == [
        TrackEnded(ANN, MediaKind.AUDIO),
        SILENT,
    ]
    assert session.people.users[ANN].microphone.readyState == "live"


# Time


async def test_a_report_from_before_the_first_frame_counts(
    session: Session, speech: Callable[..., FrameReceived]
) -> None:
    session.tell(NAMED)
    reader = session.people.ensure(ANN).microphone.reader()
    session.it.sender_report(
        SenderReportReceived(AUDIO, 3.9e9, speech(0).ticks - 48_000, START + 0.5)
    )
    session.it.frame_received(speech(0, now=START + 9))
    await session.decoded()
    assert (await reader.recv()).pts == 24_000 + 48_000


async def test_sound_and_picture_of_a_user_share_one_axis(
    session: Session, speech: Callable[..., FrameReceived], film: Callable[..., FrameReceived]
) -> None:
    session.tell(SHOWN)
    user = session.people.ensure(ANN)
    sounds, pictures = user.microphone.reader(), user.camera.reader()
    session.it.frame_received(speech(0))
    session.it.frame_received(film(0)._replace(now=START + 0.2))  # late by 200 ms
    session.it.sender_report(SenderReportReceived(AUDIO, 3.9e9, speech(0).ticks, START))
    session.it.sender_report(SenderReportReceived(VIDEO, 3.9e9, film(0).ticks, START + 0.2))
    session.it.frame_received(speech(5))
    session.it.frame_received(film(3))  # 100 ms both
    await session.decoded()
    await sounds.recv()
    await pictures.recv()
    assert (await sounds.recv()).pts == 4800
    assert (await pictures.recv()).pts == 9000


async def test_reports_of_streams_that_never_come_are_bounded(session: Session) -> None:
    for ssrc in range(PARKING_BOUND + 10):
        session.it.sender_report(SenderReportReceived(ssrc, 3.9e9, 0, START))


# Speech


async def test_speech_follows_the_packets(
    session: Session, speech: Callable[..., FrameReceived], eventually: Eventually
) -> None:
    session.tell(NAMED)
    await session.told()
    session.it.frame_received(speech(0))
    session.it.frame_received(speech(1))
    user = session.people.users[ANN]
    assert user.speaking
    assert (await session.told())[1:] == [
        UserSpeaking(ANN, speaking=True, flags=SpeakingFlags.VOICE)
    ]
    session.clock.advance(SPEECH_TIMEOUT + 0.01)
    await eventually(lambda: not user.speaking)
    assert await session.told() == [SILENT]


async def test_a_silence_frame_ends_speech_at_once(
    session: Session, speech: Callable[..., FrameReceived]
) -> None:
    session.tell(NAMED)
    session.it.frame_received(speech(0))
    for number in range(1, 6):
        session.it.frame_received(speech(number)._replace(data=OPUS_SILENCE))
    assert (await session.told())[-1] == SILENT
    session.it.frame_received(speech(6))
    assert await session.told() == [UserSpeaking(ANN, speaking=True, flags=SpeakingFlags.VOICE)]


async def test_flags_come_from_op_5_and_from_the_packets(
    session: Session, speech: Callable[..., FrameReceived]
) -> None:
    priority = SpeakingFlags.VOICE | SpeakingFlags.PRIORITY
    session.tell(Speaking(int(priority), AUDIO, user_id=ANN))
    session.it.frame_received(speech(0))
    assert (await session.told())[-1] == UserSpeaking(ANN, speaking=True, flags=priority)
    session.it.frame_received(speech(1, flags=2))
    assert await session.told() == [
        UserSpeaking(ANN, speaking=True, flags=SpeakingFlags.SOUNDSHARE)
    ]
    assert session.people.users[ANN].flags is SpeakingFlags.SOUNDSHARE


async def test_op_5_without_flags_ends_speech_and_keeps_the_flags(
    session: Session, speech: Callable[..., FrameReceived]
) -> None:
    session.tell(Speaking(5, AUDIO, user_id=ANN))
    session.it.frame_received(speech(0))
    session.tell(Speaking(0, AUDIO, user_id=ANN))
    assert (await session.told())[-1] == SILENT
    assert session.people.users[ANN].flags == SpeakingFlags.VOICE | SpeakingFlags.PRIORITY


async def test_a_user_who_leaves_while_speaking_is_forgotten(
    session: Session, speech: Callable[..., FrameReceived]
) -> None:
    session.tell(NAMED)
    session.it.frame_received(speech(0))
    session.people.leave(ANN)  # as at the end of the connection
    session.clock.advance(1)
    await asyncio.sleep(0.06)
    assert (await session.told())[-1] == UserLeft(ANN)


# Decryption


class Vault:
    """Decrypts what begins with a key that it has; remembers what it was asked.

    Attributes:
        retry: Whether a key that it lacks may come.
    """

    def __init__(self) -> None:
        self.keys = {b"1"}
        self.retry = True
        self.asked: list[tuple[int, MediaKind, bytes]] = []

    def __call__(self, user_id: int, kind: MediaKind, frame: bytes) -> bytes | Undecrypted:
        self.asked.append((user_id, kind, frame))
        if frame[:1] in self.keys:
            return frame[1:]
        return Undecrypted("no-key", retry=self.retry)


@pytest.fixture
def vault() -> Vault:
    return Vault()


@pytest_asyncio.fixture
async def secret(vault: Vault) -> AsyncIterator[Session]:
    """A session whose frames are encrypted; Ann is named and shown."""
    session = Session(vault)
    session.tell(ClientsConnect((ANN,)), NAMED, SHOWN)
    yield session
    session.it.close()
    await session.worker.aclose()


def locked(frame: FrameReceived, key: bytes = b"1") -> FrameReceived:
    return frame._replace(data=key + frame.data)


async def test_frames_are_decrypted_before_they_are_decoded(
    secret: Session, vault: Vault, speech: Callable[..., FrameReceived]
) -> None:
    with secret.people.ensure(ANN).microphone.reader() as reader:
        secret.it.frame_received(locked(speech(0)))
        assert await reader.recv() is not None
    assert vault.asked == [(ANN, MediaKind.AUDIO, locked(speech(0)).data)]
    assert secret.people.users[ANN].speaking


async def test_silence_is_known_after_decryption(
    secret: Session, speech: Callable[..., FrameReceived]
) -> None:
    with secret.people.ensure(ANN).microphone.reader():
        secret.it.frame_received(locked(speech(0)))
        secret.it.frame_received(speech(1)._replace(data=b"1" + OPUS_SILENCE))
    assert not secret.people.users[ANN].speaking


async def test_what_nobody_reads_is_not_decrypted_and_speech_is_told_all_the_same(
    secret: Session,
    vault: Vault,
    speech: Callable[..., FrameReceived],
    film: Callable[..., FrameReceived],
) -> None:
    secret.it.frame_received(locked(speech(0), b"2"))
    secret.it.frame_received(locked(film(0), b"2"))
    assert vault.asked == []
    assert secret.people.users[ANN].speaking
    assert secret.it.drops["unread"] == 2


async def test_frames_of_a_coming_key_wait_in_order_with_all_that_follow(
    secret: Session, vault: Vault, speech: Callable[..., FrameReceived]
) -> None:
    with secret.people.ensure(ANN).microphone.reader() as reader:
        secret.it.frame_received(locked(speech(0)))
        for number in (1, 2):
            secret.it.frame_received(locked(speech(number), b"2"))
        secret.it.frame_received(locked(speech(3)))  # could be decrypted, but not out of turn
        await secret.decoded()
        assert secret.people.users[ANN].microphone.stats().delivered == 1
        vault.keys.add(b"2")
        secret.it.retry()
        await secret.decoded()
        pts = [cast("av.AudioFrame", await reader.recv()).pts for _ in range(4)]
    assert pts == [0, 960, 1920, 2880]
    assert "no-key" not in secret.it.drops
    assert [queue.high_water for queue in secret.it.queues()] == [0, 3]


async def test_a_tick_tries_again_too(
    secret: Session, vault: Vault, speech: Callable[..., FrameReceived]
) -> None:
    with secret.people.ensure(ANN).microphone.reader() as reader:
        secret.it.frame_received(locked(speech(0), b"2"))
        vault.keys.add(b"2")
        async with asyncio.timeout(1):
            await reader.recv()


async def test_a_key_that_does_not_come_is_waited_for_half_a_second(
    secret: Session, vault: Vault, speech: Callable[..., FrameReceived]
) -> None:
    with secret.people.ensure(ANN).microphone.reader():
        secret.it.frame_received(locked(speech(0)))
        secret.it.frame_received(locked(speech(1), b"2"))
        secret.clock.advance(RETRY_SECONDS / 2)
        secret.it.frame_received(locked(speech(2), b"3"))
        secret.clock.advance(RETRY_SECONDS / 2 - 0.01)
        secret.it.retry()
        assert "no-key" not in secret.it.drops
        secret.clock.advance(0.02)
        vault.keys.add(b"3")
        secret.it.retry()
        await secret.decoded()
    assert secret.it.drops["no-key"] == 1
    stats = secret.people.users[ANN].microphone.stats()
    assert stats.delivered == 3  # one of them made up


async def test_a_frame_for_which_no_key_will_come_is_counted_at_once_and_concealed(
    secret: Session, vault: Vault, speech: Callable[..., FrameReceived]
) -> None:
    vault.retry = False
    with secret.people.ensure(ANN).microphone.reader() as reader:
        secret.it.frame_received(locked(speech(0)))
        secret.it.frame_received(locked(speech(1), b"2"))
        secret.it.frame_received(locked(speech(2)))
        await secret.decoded()
        sounds = [cast("av.AudioFrame", await reader.recv()) for _ in range(3)]
    assert [sound.pts for sound in sounds] == [0, 960, 1920]
    assert [sound.samples for sound in sounds] == [960] * 3
    assert secret.it.drops["no-key"] == 1


async def test_sound_is_made_up_for_a_tenth_of_a_second_and_anew_after_a_good_frame(
    secret: Session, vault: Vault, speech: Callable[..., FrameReceived]
) -> None:
    vault.retry = False
    with secret.people.ensure(ANN).microphone.reader():
        secret.it.frame_received(locked(speech(0)))
        for number in range(1, CONCEALED_FRAMES + 4):
            secret.it.frame_received(locked(speech(number), b"2"))
        await secret.decoded()
        microphone = secret.people.users[ANN].microphone
        assert microphone.stats().delivered == 1 + CONCEALED_FRAMES
        secret.it.frame_received(locked(speech(10)))
        secret.it.frame_received(locked(speech(11), b"2"))
        await secret.decoded()
        assert microphone.stats().delivered == 1 + CONCEALED_FRAMES + 2
    assert secret.it.drops["no-key"] == CONCEALED_FRAMES + 4


async def test_a_hold_that_is_full_gives_up_the_oldest(
    secret: Session, speech: Callable[..., FrameReceived]
) -> None:
    with secret.people.ensure(ANN).microphone.reader():
        for number in range(RETRY_BOUND + 2):
            secret.it.frame_received(locked(speech(number), b"2"))
    assert secret.it.drops["retry-overflow"] == 2
    assert [queue.dropped for queue in secret.it.queues()] == [0, 2]


async def test_video_that_cannot_be_decrypted_asks_for_a_keyframe_and_waits_for_it(
    secret: Session,
    vault: Vault,
    film: Callable[..., FrameReceived],
    eventually: Eventually,
) -> None:
    vault.retry = False
    with secret.people.ensure(ANN).camera.reader() as reader:
        secret.it.frame_received(locked(film(0)))
        await reader.recv()
        secret.keyframes_asked.clear()  # for the reader that came
        secret.it.frame_received(locked(film(1), b"2"))
        asked = len(vault.asked)
        secret.it.frame_received(locked(film(2)))  # of no use without the one before
        assert len(vault.asked) == asked
        await eventually(lambda: VIDEO in secret.keyframes_asked)
        secret.it.frame_received(locked(film(10)))
        await reader.recv()
    assert secret.it.drops["no-key"] == 1
    assert secret.it.drops["no-keyframe"] == 1


async def test_video_that_waited_for_its_key_goes_on_without_another_keyframe(
    secret: Session, vault: Vault, film: Callable[..., FrameReceived]
) -> None:
    with secret.people.ensure(ANN).camera.reader() as reader:
        for number in range(3):
            secret.it.frame_received(locked(film(number), b"2"))
        vault.keys.add(b"2")
        secret.it.retry()
        for _ in range(3):
            await reader.recv()
    assert secret.it.drops.get("no-keyframe", 0) == 0


async def test_frames_that_wait_end_with_their_stream(
    secret: Session, speech: Callable[..., FrameReceived]
) -> None:
    with secret.people.ensure(ANN).microphone.reader():
        secret.it.frame_received(locked(speech(0), b"2"))
        secret.it.stream_ended(AUDIO)
        secret.it.retry()
    assert secret.it.drops["stream-ended"] == 1


async def test_a_track_that_lost_its_reader_meanwhile_lets_the_waiting_frames_go(
    secret: Session, vault: Vault, speech: Callable[..., FrameReceived]
) -> None:
    with secret.people.ensure(ANN).microphone.reader():
        secret.it.frame_received(locked(speech(0), b"2"))
    asked = len(vault.asked)
    secret.it.retry()
    assert len(vault.asked) == asked
    assert secret.it.drops["unread"] == 1
