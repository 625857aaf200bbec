"""The client's voice machine against the server's, in memory, by a manual clock."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import pytest

from discord_rtc.clock import ManualClock
from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.protocol.messages import (
    BackendVersion,
    BackendVersionRequest,
    ClientsConnect,
    CodecInfo,
    Identify,
    MediaSinkWants,
    SelectProtocol,
    Speaking,
    UnknownMessage,
)
from discord_rtc.protocol.opcodes import VoiceCloseCode
from discord_rtc.protocol.voice import (
    Closed,
    Described,
    HeartbeatAnswered,
    HeartbeatMissed,
    Live,
    ReadyReceived,
    Received,
    Resuming,
    Stalled,
    VoiceCredentials,
    VoiceOptions,
    VoiceSession,
)
from discord_rtc.server.negotiation import Admission, Refusal
from discord_rtc.server.session import SessionConfig, VoiceServerSession

if TYPE_CHECKING:
    from discord_rtc.protocol.voice import VoiceEvent
    from discord_rtc.server.events import VoiceServerEvent

MODE = "aead_aes256_gcm_rtpsize"
CREDENTIALS = VoiceCredentials("example.invalid:2087", "token", "session", 7, 10, 20)


def admit(identify: Identify) -> Admission | Refusal:
    if identify.token != CREDENTIALS.token:
        return Refusal(VoiceCloseCode.AUTHENTICATION_FAILED, "no")
    assert (identify.server_id, identify.user_id) == (CREDENTIALS.server_id, CREDENTIALS.user_id)
    return Admission(500, "192.0.2.7", 50_000, "sha-256 AB", IceCredentials.generate)


class Pair:
    """Both machines and the wire between them, which may be cut in either direction."""

    def __init__(self, version: int = 8, *, token: str = CREDENTIALS.token) -> None:
        self.clock = ManualClock(100.0)
        credentials = VoiceCredentials("example.invalid", token, "session", 7, 10, 20)
        self.client = VoiceSession(
            credentials, VoiceOptions(version=version), now=self.clock.now(), clock_ms=5
        )
        self.server = VoiceServerSession(version, SessionConfig((MODE,), 13_750), admit)
        self.told: list[VoiceEvent] = []
        self.heard: list[VoiceServerEvent] = []
        self.up: deque[str | bytes] = deque()
        self.cut = False
        self.server.open(self.clock.now())
        self.exchange()

    def exchange(self) -> None:
        """Carry everything over, until both are silent."""
        while True:
            down = self.server.messages_to_send()
            up = self.client.messages_to_send()
            if not down and not up:
                break
            if self.cut:
                continue
            now = self.clock.now()
            for frame in down:
                assert isinstance(frame, str)
                self.client.receive_text(frame, now)
            for frame in up:
                assert isinstance(frame, str)
                self.server.receive_text(frame, now)
        while (told := self.client.next_event()) is not None:
            self.told.append(told)
        while (heard := self.server.next_event()) is not None:
            self.heard.append(heard)

    def go_live(self) -> None:
        opus = CodecInfo("opus", "audio", 1000, 120)
        h264 = CodecInfo("H264", "video", 1000, 101, 102)
        self.client.select_protocol(
            SelectProtocol("udp", "198.51.100.9", 61_234, MODE, codecs=(opus, h264)),
            self.clock.now(),
        )
        self.exchange()

    def pass_time(self, seconds: float) -> None:
        """Fire every timer of both sides in its order."""
        end = self.clock.now() + seconds
        while True:
            timeouts = (self.client.next_timeout(), self.server.next_timeout())
            due = min((time for time in timeouts if time is not None), default=end)
            if due >= end:
                break
            now = self.clock.advance_to(due)
            self.client.handle_timeout(now)
            self.server.handle_timeout(now)
            self.exchange()
        self.clock.advance_to(end)

    def events(self, kind: type[VoiceEvent]) -> list[VoiceEvent]:
        return [event for event in self.told if isinstance(event, kind)]


@pytest.mark.parametrize("version", range(4, 10))
def test_the_handshake_leads_to_a_live_session(version: int) -> None:
    pair = Pair(version)
    [ready] = pair.events(ReadyReceived)
    assert isinstance(ready, ReadyReceived)
    assert (ready.message.ssrc, ready.message.ip, ready.message.port) == (500, "192.0.2.7", 50_000)
    assert [stream.ssrc for stream in ready.message.streams] == [501]
    pair.go_live()
    [described] = pair.events(Described)
    assert isinstance(described, Described)
    assert described.message.mode == MODE
    assert described.message.video_codec == "H264"
    assert described.message.secret_key is not None
    assert isinstance(pair.client.state, Live)
    assert pair.server.closing is None


@pytest.mark.parametrize("version", range(4, 10))
def test_an_hour_of_silence_is_survived_by_heartbeats(version: int) -> None:
    pair = Pair(version)
    pair.go_live()
    pair.pass_time(3600)
    assert isinstance(pair.client.state, Live)
    assert pair.server.closing is None
    answered = pair.events(HeartbeatAnswered)
    assert 700 <= len(answered) <= 721  # one every 5 s
    assert all(isinstance(beat, HeartbeatAnswered) and beat.rtt == 0 for beat in answered)


def test_sequence_numbers_are_acknowledged_from_version_8_on() -> None:
    # Numbered are Ready, Session Description, the sink wants that answer op 12, and op 11.
    for version, acknowledged in ((7, -1), (8, 4), (9, 4)):
        pair = Pair(version)
        pair.go_live()
        pair.server.send(ClientsConnect((8,)))
        pair.exchange()
        assert pair.client.seq_ack == acknowledged


def test_messages_travel_both_ways() -> None:
    pair = Pair()
    pair.go_live()
    pair.client.send(BackendVersionRequest(), pair.clock.now())
    pair.client.send(Speaking(1, 500, delay=0), pair.clock.now())
    pair.client.send(MediaSinkWants(any=100), pair.clock.now())
    pair.exchange()
    received = [event.message for event in pair.told if isinstance(event, Received)]
    assert any(isinstance(message, BackendVersion) for message in received)
    assert [type(event).__name__ for event in pair.heard][-2:] == ["SpeakingSet", "WantsSet"]


def test_an_unknown_opcode_is_surfaced_and_harms_nobody() -> None:
    pair = Pair()
    pair.go_live()
    pair.client.receive_text('{"op": 77, "d": {"new": true}, "seq": 9}', pair.clock.now())
    pair.exchange()
    assert UnknownMessage(77, {"new": True}) in [
        event.message for event in pair.told if isinstance(event, Received)
    ]
    pair.pass_time(60)
    assert isinstance(pair.client.state, Live)


def test_a_wrong_token_is_refused() -> None:
    pair = Pair(token="guessed")
    assert pair.server.closing is not None
    assert pair.server.closing[0] == VoiceCloseCode.AUTHENTICATION_FAILED
    assert pair.events(ReadyReceived) == []


def test_a_cut_wire_is_noticed_by_both_ends() -> None:
    pair = Pair(7)  # without sequence numbers there is nothing to come back to
    pair.go_live()
    pair.pass_time(20)
    pair.cut = True
    pair.pass_time(40)
    assert pair.events(HeartbeatMissed) == [HeartbeatMissed()]
    assert isinstance(pair.client.state, Closed)
    assert pair.server.closing is not None
    assert pair.server.closing[0] == VoiceCloseCode.SESSION_TIMEOUT


def test_the_client_notices_a_cut_wire_in_time_to_resume() -> None:
    pair = Pair()
    pair.go_live()
    pair.pass_time(20)
    pair.cut = True
    pair.pass_time(21)
    assert pair.events(Stalled) == [Stalled()]
    assert isinstance(pair.client.state, Resuming)
    assert pair.server.closing is None
    assert not pair.server.detached
