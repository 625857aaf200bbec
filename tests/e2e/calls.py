"""What the tests of whole calls have in common: joining, stamped media both ways, leftovers."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import psutil

from discord_rtc import (
    ConnectionOptions,
    Event,
    StateChanged,
    TestPattern,
    TestTone,
    TransportChanged,
    TransportFailed,
    read_stamp,
)
from discord_rtc.errors import RtcError, UnsupportedMedia
from discord_rtc.lab import CHANNEL_ID, GUILD_ID

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc import RemoteTrack, RemoteUser, VoiceConnection
    from discord_rtc.lab import Lab

PICTURES, SOUNDS = 15, 25
"""Frames in a row that show that media flows: half a second."""

E = TypeVar("E", bound=Event)


@dataclass(frozen=True)
class Join:
    """How joining a call went, and everything that the connection told on the way and later.

    Attributes:
        connection: Live, unless there is an error.
        error: Why it is not.
        seconds: From asking to be let in to media or the error, all signalling included.
        events: So far.
        times: When they came, in seconds from the same moment.
    """

    connection: VoiceConnection
    error: RtcError | None
    seconds: float
    events: list[Event] = field(repr=False)
    times: list[float] = field(repr=False)

    @property
    def failures(self) -> list[tuple[str, type[Exception]]]:
        """The media paths that did not work, or not any more, with the kind of error."""
        return [(event.transport, type(event.error)) for event in self.told(TransportFailed)]

    @property
    def failed_after(self) -> list[float]:
        """When the media paths failed, in seconds."""
        told = zip(self.times, self.events, strict=True)
        return [time for time, event in told if isinstance(event, TransportFailed)]

    @property
    def transports(self) -> list[str]:
        """The media paths that worked, in order."""
        return [event.transport for event in self.told(TransportChanged)]

    def told(self, kind: type[E]) -> list[E]:
        """The events of a type."""
        return [event for event in self.events if isinstance(event, kind)]


async def join(
    lab: Lab, name: str, options: ConnectionOptions | None = None, *, channel_id: int = CHANNEL_ID
) -> Join:
    """Join, and keep all events and the error.

    Args:
        lab: Where.
        name: Who.
        options: How.
        channel_id: Where to.
    """
    client = await lab.client(name)
    connection = client.connection(GUILD_ID, options=options or ConnectionOptions())
    events: list[Event] = []
    times: list[float] = []
    subscription = connection.events()
    started = time.monotonic()

    async def keep() -> None:
        async for event in subscription:
            events.append(event)
            times.append(time.monotonic() - started)

    keeping = asyncio.create_task(keep(), name="keep-events")
    error: RtcError | None = None
    try:
        await connection.connect(channel_id)
    except RtcError as failure:
        error = failure
    seconds = time.monotonic() - started
    if error is not None:
        await keeping  # the end of the connection ends it
    else:
        await eventually(lambda: StateChanged("connected") in events)
    return Join(connection, error, seconds, events, times)


class Witness:
    """Another account of the guild, who sees on the main gateway which channel everybody is in."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._gateway = lab.server.gateway(lab.user_id("witness"))
        self._channels: dict[int, int | None] = {}

    def has_seen(self, user_id: int) -> bool:
        """Whether the user was in a channel, or still is."""
        return user_id in self._channels

    def channel_of(self, user_id: int) -> int | None:
        """Where the user is now."""
        return self._channels.get(user_id)

    async def __aenter__(self) -> Witness:
        self._lab.server.add_guild(GUILD_ID, {CHANNEL_ID: "the call"})
        await self._gateway.connect()
        self._gateway.subscribe(self._see)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._gateway.aclose()

    def _see(self, name: str, data: object) -> None:
        if name == "VOICE_STATE_UPDATE":
            assert isinstance(data, dict)
            channel_id = data["channel_id"]
            self._channels[int(data["user_id"])] = None if channel_id is None else int(channel_id)


async def numbers_of(track: RemoteTrack, count: int) -> list[int]:
    """Stamps of the next frames; the codec's first audio frames may be unreadable."""
    found: list[int] = []
    # A deep queue, so that a busy machine delays frames and does not drop them.
    with track.reader(limit=100) as reader:
        while len(found) < count:
            try:
                found.append(read_stamp(await reader.recv()).number)  # type: ignore[arg-type]
            except UnsupportedMedia:
                assert len(found) < 2, "a frame in mid-call is unreadable"
                found.clear()
    return found


def assert_in_order(numbers: list[int]) -> None:
    """None is missing, none comes twice."""
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def publish(*connections: VoiceConnection) -> None:
    """Everybody sends a picture and a tone."""
    for connection in connections:
        await connection.publish(camera=TestPattern(320, 240, fps=30), microphone=TestTone())


async def assert_hears_and_sees(
    receiver: VoiceConnection, sender: VoiceConnection, *, within: float = 10
) -> None:
    """The next frames of a sender arrive in order, each of them whole."""
    async with asyncio.timeout(within):
        user = await receiver.user(sender.id)
        pictures, sounds = await asyncio.gather(
            numbers_of(user.camera, PICTURES), numbers_of(user.microphone, SOUNDS)
        )
    assert_in_order(pictures)
    assert_in_order(sounds)


async def assert_two_way_media(one: VoiceConnection, other: VoiceConnection) -> None:
    """What both send already reaches the other one."""
    await asyncio.gather(assert_hears_and_sees(one, other), assert_hears_and_sees(other, one))


async def assert_media_flows(one: VoiceConnection, other: VoiceConnection) -> None:
    """Both send, and each receives what the other one sends."""
    await publish(one, other)
    await assert_two_way_media(one, other)


async def assert_media_goes_on(
    receiver: VoiceConnection, before: RemoteUser, sender: VoiceConnection
) -> None:
    """Both receive each other again after the sender's session was replaced by another one.

    Args:
        receiver: Whose session went on all the time.
        before: The sender, as the receiver knew them.
        sender: Who comes back.
    """
    await eventually(lambda: receiver.users.get(sender.id) not in {None, before}, within=10)
    await assert_two_way_media(sender, receiver)


def note(text: str) -> None:
    """What to know when a mark is missed; shown by ``pytest -rA``."""
    sys.stdout.write(f"{text}\n")


async def eventually(condition: Callable[[], object], *, within: float = 5) -> None:
    """Wait for something that comes without an event."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - there is nothing else to wait for
            await asyncio.sleep(0.01)


def resources() -> tuple[int, int, int]:
    """How many tasks, threads and file descriptors there are.

    The threads in which asyncio looks up names are left out: their number is bounded, and they
    stay until the loop is closed.
    """
    gc.collect()
    threads = [one for one in threading.enumerate() if not one.name.startswith("asyncio_")]
    return len(asyncio.all_tasks()), len(threads), psutil.Process().num_fds()
