"""Voice websockets that break in mid-call: the session goes on, and so does the media."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from discord_rtc import (
    ConnectionOptions,
    E2eeChanged,
    StateChanged,
    TransportChanged,
    UserJoined,
    UserLeft,
    read_stamp,
)
from discord_rtc.errors import UnsupportedMedia
from discord_rtc.lab import Lab
from discord_rtc.server import LocalServer
from discord_rtc.server.world import RoomKey

from .calls import assert_in_order, eventually, publish

if TYPE_CHECKING:
    from discord_rtc import Event, RemoteTrack, VoiceConnection
    from discord_rtc.connection.options import DaveChoice
    from discord_rtc.server.encryption import DaveMode
    from discord_rtc.transport.plan import TransportName

pytestmark = pytest.mark.asyncio

TRANSPORTS: list[TransportName] = ["udp", "webrtc"]


class Listening:
    """Writes down the stamps of a track, from when it is heard well until `stop`."""

    def __init__(self, track: RemoteTrack) -> None:
        self._track = track
        self.numbers: list[int] = []
        self._task = asyncio.create_task(self._run(), name="listening")

    async def _run(self) -> None:
        with self._track.reader(limit=500) as reader:
            while True:
                try:
                    frame = await reader.recv()
                    self.numbers.append(read_stamp(frame).number)  # type: ignore[arg-type]
                except UnsupportedMedia:  # the codec's first audio frames may be unreadable
                    assert len(self.numbers) < 2
                    self.numbers.clear()

    async def stop(self) -> list[int]:
        self._task.cancel()
        await asyncio.wait([self._task])
        return self.numbers


async def listen(receiver: VoiceConnection, sender: VoiceConnection) -> list[Listening]:
    user = await receiver.user(sender.id, timeout=5)
    heard = [Listening(user.camera), Listening(user.microphone)]
    await eventually(lambda: all(len(one.numbers) > 5 for one in heard))
    return heard


def resumed(connection: VoiceConnection, times: int) -> bool:
    return connection.stats().websockets["resumes"] == times


@pytest.mark.parametrize("dave", ["off", "required"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_no_frame_is_lost_while_websockets_are_cut_and_resumed(
    transport: TransportName, dave: DaveMode
) -> None:
    async with Lab(LocalServer(dave=dave)) as lab:
        choice: DaveChoice = "off" if dave == "off" else "required"
        options = ConnectionOptions(transport=transport, dave=choice)
        ann, bob = await lab.user("ann", options=options), await lab.user("bob", options=options)
        await assert_nothing_is_lost(lab, ann, bob)
        assert ann.privacy_code == bob.privacy_code
        assert (ann.privacy_code is None) == (dave == "off")


async def assert_nothing_is_lost(lab: Lab, ann: VoiceConnection, bob: VoiceConnection) -> None:
    await publish(ann, bob)
    heard = await listen(bob, ann) + await listen(ann, bob)
    told: list[Event] = []
    subscriptions = [
        one.events(StateChanged, TransportChanged, E2eeChanged, UserJoined, UserLeft)
        for one in (ann, bob)
    ]

    async def keep(number: int) -> None:
        async for event in subscriptions[number]:
            told.append(event)  # noqa: PERF401 - it has to be kept when this is cancelled

    keeping = [asyncio.create_task(keep(number), name="keep") for number in range(2)]
    for round_ in range(1, 4):
        assert lab.server.drop_voice(ann.id, 10)
        await eventually(partial(resumed, ann, round_))
        assert lab.server.rooms[RoomKey(10, 20)].user_ids == (ann.id, bob.id)
        await asyncio.sleep(0.1)
    assert lab.server.close_voice(bob.id, 10)  # 4015
    await eventually(partial(resumed, bob, 1))
    await asyncio.sleep(0.3)
    for one in heard:
        numbers = await one.stop()
        assert len(numbers) > 20
        assert_in_order(numbers)
    for task in keeping:
        task.cancel()
    await asyncio.wait(keeping)
    assert told == []
    counters = lab.server.counters
    assert (counters["voice.resumed"], counters["voice.detached.4015"]) == (4, 1)
    assert ann.stats().websockets == {"resumes": 3, "resume-failures": 0}


async def test_who_comes_and_goes_around_a_resume_is_told_once(lab: Lab) -> None:
    ann, bob = await lab.users(ann="udp", bob="udp")
    events = ann.events(UserJoined, UserLeft)
    for name in ("cat", "dan"):
        assert lab.server.drop_voice(ann.id, 10)
        joined = await lab.user(name)
        assert lab.server.drop_voice(ann.id, 10)
        await lab.leave(name)
        async with asyncio.timeout(5):
            assert [await anext(events), await anext(events)] == [
                UserJoined(joined.id),
                UserLeft(joined.id),
            ]
    await eventually(partial(resumed, ann, 4))
    assert set(ann.users) == {bob.id}


async def test_a_session_that_the_server_has_forgotten_is_joined_anew(lab: Lab) -> None:
    ann, bob = await lab.users(ann="udp", bob="udp")
    left = bob.events(UserLeft)
    assert lab.server.close_voice(ann.id, 10, 4006)
    async with asyncio.timeout(10):
        await anext(left)
        await bob.user(ann.id)
    await eventually(lambda: ann.state == "connected")
    assert ann.stats().websockets == {"resumes": 0, "resume-failures": 0}
