"""One voice session over many websockets: the client's machine against the server's, in memory.

Each websocket breaks at a boundary between two messages that a seed decides, and takes with it
what is under way in both directions.
"""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING

import pytest

from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.protocol.messages import (
    ClientsConnect,
    CodecInfo,
    Identify,
    MlsExternalSender,
    MlsKeyPackage,
    Resume,
    SelectProtocol,
    Speaking,
    TransitionReady,
)
from discord_rtc.protocol.opcodes import VoiceCloseCode
from discord_rtc.protocol.voice import (
    Closed,
    Described,
    Live,
    Received,
    Resuming,
    Stalled,
    Unexpected,
    VoiceCredentials,
    VoiceOptions,
    VoiceSession,
)
from discord_rtc.server.events import DaveReceived, SessionResumed, SpeakingSet
from discord_rtc.server.negotiation import Admission, Refusal
from discord_rtc.server.session import SessionConfig, VoiceServerSession

if TYPE_CHECKING:
    from discord_rtc.protocol.voice import VoiceEvent
    from discord_rtc.server.events import VoiceServerEvent
    from discord_rtc.server.replay import Continuation

MODE = "aead_aes256_gcm_rtpsize"
CREDENTIALS = VoiceCredentials("example.invalid", "token", "session", 7, 10, 20)
GONE = Refusal(VoiceCloseCode.SESSION_NO_LONGER_VALID, "gone")


def admit(_identify: Identify) -> Admission:
    return Admission(500, "192.0.2.7", 50_000, "sha-256 AB", IceCredentials.generate, lambda: 1)


PACKAGES = 30
"""One in so many messages of the client is a key package, after which those before do not count."""


class Line:
    """A client, and the server's machine of whichever websocket there is.

    Attributes:
        owner: The server's machine that has the session.
        server: That of the present websocket, which may not have resumed the session yet.
    """

    def __init__(self, seed: int = 0, version: int = 8) -> None:
        self.rng = random.Random(seed)
        self.version = version
        self.now = 100.0
        self.told: list[VoiceEvent] = []
        self.heard: list[VoiceServerEvent] = []
        self.down: deque[str | bytes] = deque()
        self.up: deque[str | bytes] = deque()
        self.said = self.answered = 0
        options = VoiceOptions(version=version, max_dave_protocol_version=1)
        self.client = VoiceSession(CREDENTIALS, options, now=self.now)
        self.owner = self.open()
        self.settle()
        opus = CodecInfo("opus", "audio", 1000, 120)
        select = SelectProtocol("udp", "198.51.100.9", 61_234, MODE, codecs=(opus,))
        self.client.select_protocol(select, self.now)
        self.settle()
        assert isinstance(self.client.state, Live)

    def open(self) -> VoiceServerSession:
        self.server = VoiceServerSession(
            self.version, SessionConfig((MODE,), 1000), admit, self.find
        )
        self.server.open(self.now)
        self.client.socket_opened(self.now)
        return self.server

    def find(self, resume: Resume) -> Continuation | Refusal:
        return self.owner.hand_over(resume, self.version) or GONE

    def collect(self) -> None:
        self.down.extend(self.server.messages_to_send())
        self.up.extend(self.client.messages_to_send())
        while (told := self.client.next_event()) is not None:
            self.told.append(told)
        while (heard := self.server.next_event()) is not None:
            self.heard.append(heard)
            if isinstance(heard, SessionResumed):
                self.owner = self.server

    def carry(self) -> bool:
        """Carry one frame in either direction. False when there is none."""
        self.collect()
        ways = [way for way in (self.down, self.up) if way]
        if not ways:
            return False
        way = self.rng.choice(ways)
        frame = way.popleft()
        machine = self.client if way is self.down else self.server
        if isinstance(frame, str):
            machine.receive_text(frame, self.now)
        else:
            machine.receive_binary(frame, self.now)
        self.collect()
        return True

    def settle(self) -> None:
        while self.carry():
            pass

    def speak(self) -> None:
        """The server says the next thing, as JSON or binary, whether the client is there or not."""
        number = self.said = self.said + 1
        if number % 3:
            self.owner.send(ClientsConnect((number,)))
        else:
            self.owner.send(MlsExternalSender(number.to_bytes(4, "big")))

    def answer(self) -> None:
        """The client says the next thing; now and then, that it begins a new group."""
        number = self.answered = self.answered + 1
        if number % PACKAGES:
            self.client.send(TransitionReady(number), self.now)
        else:
            self.client.send(MlsKeyPackage(number.to_bytes(4, "big")), self.now)

    def break_websocket(self, *, noticed: bool | None = None) -> None:
        """All frames under way are lost; the server may not notice before it is asked to resume."""
        assert self.client.socket_lost(None, self.now)
        if self.rng.random() < 0.5 if noticed is None else noticed:
            self.server.connection_lost(None, self.now)
        self.collect()
        self.down.clear()
        self.up.clear()

    def heartbeat(self) -> None:
        self.now += 1.0
        self.client.handle_timeout(self.now)
        self.collect()
        if self.told and self.told[-1] == Stalled():
            self.break_websocket()
            self.open()

    def numbers_told(self) -> list[int]:
        """What the client has got of `speak`, in order."""
        found = []
        for event in self.told:
            match event:
                case Received(message=ClientsConnect(user_ids=(number,))):
                    found.append(number)
                case Received(message=MlsExternalSender(payload=payload)):
                    found.append(int.from_bytes(payload, "big"))
        return found

    def numbers_heard(self) -> list[int]:
        """What the server has got of `answer`, in order."""
        found = []
        for event in self.heard:
            match event:
                case DaveReceived(message=TransitionReady(transition_id=number)):
                    found.append(number)
                case DaveReceived(message=MlsKeyPackage(payload=payload)):
                    found.append(int.from_bytes(payload, "big"))
        return found


@pytest.mark.parametrize("version", [8, 9])
@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_lost_with_a_websocket_arrives_over_the_next(seed: int, version: int) -> None:
    line = Line(seed, version)
    breaks = 0
    for _ in range(400):
        match line.rng.choices(range(5), (4, 3, 12, 1, 1))[0]:
            case 0:
                line.speak()
            case 1:
                line.answer()
            case 2:
                line.carry()
            case 3:
                line.break_websocket()
                line.open()
                breaks += 1
            case 4:
                line.heartbeat()
    line.settle()
    assert breaks > 5
    assert isinstance(line.client.state, Live)
    # From the server: nothing lost, nothing twice, in order.
    assert line.numbers_told() == list(range(1, line.said + 1))
    # From the client, who cannot know what arrived: nothing lost but what a newer key package,
    # said in time, made void.
    heard = line.numbers_heard()
    assert set(heard) <= set(range(1, line.answered + 1))
    newest_package = line.answered // PACKAGES * PACKAGES
    assert set(heard) >= set(range(max(1, newest_package), line.answered + 1))
    assert len(heard) < 4 * line.answered
    assert not [event for event in line.told if isinstance(event, Unexpected)]
    assert len([event for event in line.told if isinstance(event, Described)]) == 1


def frames_of(line: Line) -> int:
    """A short conversation; returns how many frames it takes."""
    for _ in range(6):
        line.speak()
        line.answer()
    line.client.send(Speaking(1, 500, delay=0), line.now)
    carried = 0
    while line.carry():
        carried += 1
    return carried


@pytest.mark.parametrize("noticed", [True, False])
def test_a_break_at_any_boundary_loses_nothing(noticed: bool) -> None:
    total = frames_of(Line())
    assert total >= 13
    for boundary in range(total + 1):
        line = Line()
        for _ in range(6):
            line.speak()
            line.answer()
        line.client.send(Speaking(1, 500, delay=0), line.now)
        for _ in range(boundary):
            line.carry()
        line.break_websocket(noticed=noticed)
        line.speak()
        line.answer()
        line.open()
        line.settle()
        assert line.numbers_told() == list(range(1, 8))
        assert set(line.numbers_heard()) == set(range(1, 8))
        assert [event for event in line.heard if isinstance(event, SpeakingSet)][-1] == (
            SpeakingSet(1, 500)
        )


@pytest.mark.parametrize("before", [65_531, 65_532, 65_533, 65_534, 65_535])
def test_a_break_around_the_wrap_of_the_numbers_loses_nothing(before: int) -> None:
    line = Line()
    while line.client.seq_ack != before:
        line.speak()
        line.settle()
    for lost in range(1, 5):
        for _ in range(lost):
            line.speak()
        for _ in range(line.rng.randrange(lost)):
            line.carry()
        line.break_websocket()
        line.speak()
        line.open()
        line.settle()
    assert 5 < line.client.seq_ack < 50
    assert line.numbers_told() == list(range(1, line.said + 1))


def test_a_break_that_outlasts_the_servers_memory_is_refused() -> None:
    line = Line()
    line.break_websocket()
    for _ in range(513):
        line.speak()
    line.open()
    line.settle()
    assert isinstance(line.client.state, Resuming)
    assert line.server.closing == (VoiceCloseCode.SESSION_NO_LONGER_VALID, "gone")
    assert not line.client.socket_lost(line.server.closing[0], line.now)
    assert isinstance(line.client.state, Closed)
