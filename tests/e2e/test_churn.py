"""Eight people who come, go, move and lose their sockets, and what encryption makes of it.

Mixed DAVE libraries and mixed transports in required rooms. Sound flows all the time. At each
quiet point everybody of a room must be in the same epoch and hear every frame of all others; and
at no time may a frame leave anybody in the clear.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from discord_rtc import (
    ConnectionOptions,
    MediaKind,
    StateChanged,
    TestTone,
    TrackStarted,
    read_stamp,
)
from discord_rtc.errors import UnsupportedMedia
from discord_rtc.lab import GUILD_ID, Lab
from discord_rtc.media.track import MediaStreamError
from discord_rtc.server import LocalServer

from .calls import assert_in_order, eventually, note, resources
from .seam import Frames, watched

if TYPE_CHECKING:
    from discord_rtc import VoiceConnection
    from discord_rtc.media.track import RemoteTrack
    from discord_rtc.protocol.dave.backend import DaveLibrary

pytestmark = pytest.mark.asyncio

ROOMS = (20, 21)
EPISODE = 8
"""Steps between two quiet points."""

LISTEN = 15
"""Frames of each to each that are looked at in a quiet point: 0.3 s."""


@dataclass
class Member:
    """One of the eight.

    Attributes:
        name: In the lab.
        library: Which DAVE library it uses.
        transport: How its media travels.
        frames: What it has sent, as seen where it hands packets to its transport.
        heard: Stamps in the order of hearing, by sender; one list for each track.
        missed: Frames that were missing between others of the same track, by who sent them.
        count: All frames heard.
        joins: How often it had to join anew.
    """

    name: str
    library: DaveLibrary
    transport: str
    frames: Frames = field(default_factory=Frames)
    voice: VoiceConnection | None = None
    heard: dict[int, list[list[int]]] = field(default_factory=dict)
    missed: Counter[int] = field(default_factory=Counter)
    count: int = 0
    joins: int = 0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def join(self, lab: Lab, room: int) -> None:
        """Come in and talk from then on."""
        client = await lab.client(self.name)
        options = ConnectionOptions(
            transport=watched(self.transport, self.frames.packet),
            dave="required",
            dave_library=self.library,
        )
        connection = client.connection(GUILD_ID, options=options)
        self._tasks.append(asyncio.create_task(self._listen(connection)))
        await asyncio.sleep(0)
        await connection.publish(microphone=TestTone())
        await connection.connect(room)
        self.voice = connection

    async def leave(self) -> None:
        """Go."""
        assert self.voice is not None
        voice, self.voice = self.voice, None
        await voice.aclose()
        await asyncio.gather(*self._tasks)
        self._tasks.clear()
        self.heard.clear()

    async def _listen(self, connection: VoiceConnection) -> None:
        async with asyncio.TaskGroup() as group:
            async for event in connection.events():
                match event:
                    case TrackStarted(kind=MediaKind.AUDIO, user_id=user_id, track=track):
                        group.create_task(self._follow(user_id, track))
                    case StateChanged(state="reconnecting"):
                        self.joins += 1

    async def _follow(self, user_id: int, track: RemoteTrack) -> None:
        stamps: list[int] = []
        self.heard.setdefault(user_id, []).append(stamps)
        last: int | None = None
        joins = self.joins
        with track.reader(limit=500) as reader:
            while True:
                try:
                    number = read_stamp(await reader.recv()).number  # type: ignore[arg-type]
                except UnsupportedMedia:
                    continue  # a decoder that begins, or a frame in the place of a missing one
                except MediaStreamError:
                    return
                if joins != self.joins:  # who moves or crashes misses what is said meanwhile
                    joins, last = self.joins, None
                if last is not None:
                    self.missed[user_id] += number - last - 1
                last = number
                self.count += 1
                stamps.append(number)


class Churn:
    """The rooms, and what has happened in them.

    Args:
        lab: Where.
        seed: Of everything.
    """

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab = lab
        self.rng = random.Random(seed)
        self.done: Counter[str] = Counter()
        libraries: tuple[DaveLibrary, ...] = ("dave.py", "davey")
        self.members = [
            Member(f"m{n}", libraries[n % 2], ("udp", "webrtc")[n // 2 % 2]) for n in range(8)
        ]

    @property
    def present(self) -> list[Member]:
        """Who is in a room."""
        return [member for member in self.members if member.voice is not None]

    def room_of(self, member: Member) -> int:
        """Where somebody is."""
        assert member.voice is not None
        for key, info in self.lab.server.rooms.items():
            if member.voice.id in info.user_ids:
                return key.channel_id
        raise AssertionError(f"{member.name} is nowhere")

    async def step(self) -> None:
        """One thing happens."""
        absent = [member for member in self.members if member.voice is None]
        here = self.present
        choices: list[tuple[str, int]] = [("join", 3 * len(absent))]
        if len(here) > 3:
            choices += [("leave", 3), ("move", 2), ("drop", 3), ("crash", 1)]
        names, weights = zip(*choices, strict=True)
        what = self.rng.choices(names, weights)[0]
        self.done[what] += 1
        if what == "join":
            await self.rng.choice(absent).join(self.lab, self.rng.choice((*ROOMS, ROOMS[0])))
            return
        member = self.rng.choice(here)
        assert member.voice is not None
        server, user = self.lab.server, member.voice.id
        if what == "leave":
            await member.leave()
        elif what == "move":
            server.move(user, GUILD_ID, self.rng.choice(ROOMS))
        elif what == "drop":
            server.drop_voice(user, GUILD_ID)
        else:
            server.close_voice(user, GUILD_ID, 4006, "crashed")

    async def quiet(self) -> None:
        """Nothing happens any more: everybody must agree, and hear everybody."""
        await eventually(self._agree, within=15)
        rooms = self._rooms()
        for member in self.present:
            for tracks in member.heard.values():
                for stamps in tracks:
                    stamps.clear()
        await eventually(lambda: self._all_heard(rooms), within=10)
        for room in rooms:
            for member in room:
                for other in room:
                    if other is not member:
                        assert other.voice is not None
                        assert_in_order(member.heard[other.voice.id][-1])
        for member in self.members:
            assert member.frames.clear == [], f"{member.name} sent in the clear"

    def _rooms(self) -> list[list[Member]]:
        rooms: dict[int, list[Member]] = {}
        for member in self.present:
            rooms.setdefault(self.room_of(member), []).append(member)
        return list(rooms.values())

    def _agree(self) -> bool:
        try:
            rooms = self._rooms()
        except AssertionError:  # under way from one room to the other
            return False
        return all(self._one_epoch(room) for room in rooms)

    @staticmethod
    def _one_epoch(room: list[Member]) -> bool:
        voices = [member.voice for member in room if member.voice is not None]
        ids = {voice.id for voice in voices}
        if any(voice.state != "connected" for voice in voices):
            return False
        if len(voices) == 1:
            return voices[0].e2ee == "pending"
        groups = [voice.stats().dave for voice in voices]
        codes = {voice.privacy_code for voice in voices}
        return (
            all(voice.e2ee == "active" for voice in voices)
            and all(group is not None and group.members == ids for group in groups)
            and len({group.epoch_authenticator for group in groups if group is not None}) == 1
            and len(codes) == 1
            and None not in codes
        )

    def _all_heard(self, rooms: list[list[Member]]) -> bool:
        return all(
            len(tracks[-1]) >= LISTEN
            for room in rooms
            for member in room
            for other in room
            if other is not member and other.voice is not None
            for tracks in [member.heard.get(other.voice.id, [[]])]
        )


async def _run(steps: int, seed: int) -> Churn:
    async with Lab(LocalServer(dave="required")) as lab:
        churn = Churn(lab, seed)
        for member in churn.members[:4]:
            await member.join(lab, ROOMS[0])
        for number in range(1, steps + 1):
            await churn.step()
            await asyncio.sleep(churn.rng.choice((0.0, 0.02, 0.1, 0.3)))
            if number % EPISODE == 0:
                await churn.quiet()
        for member in churn.present:
            await member.leave()
    return churn


@pytest.mark.parametrize("steps", [200])
async def test_whatever_people_do_the_rooms_agree_and_nothing_leaves_in_the_clear(
    steps: int,
) -> None:
    churn = await _run(steps, seed=4)
    sent = sum(member.frames.encrypted for member in churn.members)
    heard = sum(member.count for member in churn.members)
    missed = sum(sum(member.missed.values()) for member in churn.members)
    note(f"{dict(churn.done)}, {sent} frames sent, {heard} heard, {missed} missed on the way")
    # Nobody who stays loses a frame to others who come and go. What is left: dave.py 1.1.0
    # refuses a valid commit now and then, and joins anew.
    assert missed <= 0.005 * heard
    assert all(churn.done[what] > 5 for what in ("join", "leave", "move", "drop", "crash"))
    assert all(member.frames.encrypted > 100 for member in churn.members)
    assert all(member.frames.broken == 0 for member in churn.members)


async def test_churn_leaves_nothing_behind() -> None:
    await _run(8, seed=1)
    before = resources()
    await _run(16, seed=2)
    assert resources() == before
