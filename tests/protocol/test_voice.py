"""The voice gateway client machine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from discord_rtc.errors import InvalidState, UsageError
from discord_rtc.protocol.messages import (
    BackendVersion,
    BackendVersionRequest,
    ClientsConnect,
    ExecuteTransition,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Message,
    MlsExternalSender,
    MlsKeyPackage,
    MlsWelcome,
    NoRoute,
    Ready,
    Resume,
    Resumed,
    SelectProtocol,
    ServerMessage,
    SessionDescription,
    Speaking,
    StreamInfo,
    UnknownMessage,
    Video,
    build,
    parse_from_client,
)
from discord_rtc.protocol.voice import (
    Closed,
    Described,
    Dropped,
    Greeted,
    Greeting,
    HeartbeatAnswered,
    HeartbeatMissed,
    Identifying,
    Live,
    ReadyReceived,
    Received,
    ResumeFailed,
    Resuming,
    Selecting,
    SessionResumed,
    Stalled,
    TimedOut,
    Unexpected,
    VoiceCredentials,
    VoiceEvent,
    VoiceOptions,
    VoiceSession,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CREDENTIALS = VoiceCredentials("voice.example:2048", "hunter2", "hunter3", 1, 2, channel_id=3)
READY = Ready(713745, "203.0.113.7", 50026, ("aead_aes256_gcm_rtpsize",))
DESCRIPTION = SessionDescription("opus", "H264", "m", "aead_aes256_gcm_rtpsize", bytes(32))
SELECT = SelectProtocol("udp", "198.51.100.9", 61234, "aead_aes256_gcm_rtpsize")
OPENED = 100.0


class Wire:
    """Plays the server to one machine, by hand."""

    def __init__(self, options: VoiceOptions | None = None, clock_ms: int = 7000) -> None:
        self.version = 8 if options is None else options.version
        self.machine = VoiceSession(CREDENTIALS, options, now=OPENED, clock_ms=clock_ms)
        self.now = OPENED

    def feed(self, *messages: Message | UnknownMessage, seq: int | None = None) -> None:
        for message in messages:
            framed = isinstance(message, MlsExternalSender)
            frame = build(message, version=self.version, seq=0 if framed and seq is None else seq)
            if isinstance(frame, str):
                self.machine.receive_text(frame, self.now)
            else:
                self.machine.receive_binary(frame, self.now)

    def sent(self) -> list[object]:
        frames = self.machine.messages_to_send()
        return [parse_from_client(frame, version=self.version) for frame in frames]

    def raw(self) -> list[object]:
        frames = self.machine.messages_to_send()
        return [json.loads(frame) if isinstance(frame, str) else frame for frame in frames]

    def events(self) -> list[VoiceEvent]:
        events = []
        while (event := self.machine.next_event()) is not None:
            events.append(event)
        return events

    def tick(self) -> float:
        """Let time pass until the machine is due."""
        deadline = self.machine.next_timeout()
        assert deadline is not None
        self.now = deadline
        self.machine.handle_timeout(deadline)
        return deadline

    def forget(self) -> None:
        self.sent()
        self.events()


def identifying(options: VoiceOptions | None = None) -> Wire:
    wire = Wire(options)
    wire.feed(Hello(13750))
    wire.forget()
    return wire


def selecting(options: VoiceOptions | None = None) -> Wire:
    wire = identifying(options)
    wire.feed(READY)
    wire.forget()
    return wire


def live(options: VoiceOptions | None = None) -> Wire:
    wire = selecting(options)
    wire.machine.select_protocol(SELECT, wire.now)
    wire.feed(DESCRIPTION)
    wire.forget()
    return wire


MAKERS: tuple[Callable[[], Wire], ...] = (Wire, identifying, selecting, live)


# The way to live


def test_nothing_is_sent_before_hello() -> None:
    wire = Wire()
    assert wire.machine.state == Greeting(OPENED + 10)
    assert wire.machine.messages_to_send() == []
    assert wire.machine.next_event() is None


def test_hello_makes_identify_go_out() -> None:
    wire = Wire(VoiceOptions(max_dave_protocol_version=1))
    wire.feed(Hello(13750, version=8))
    assert wire.raw() == [
        {
            "op": 0,
            "d": {
                "server_id": "2",
                "user_id": "1",
                "session_id": "hunter3",
                "token": "hunter2",
                "video": True,
                "streams": [{"type": "video", "rid": "100", "quality": 100}],
                "max_dave_protocol_version": 1,
            },
        }
    ]
    assert wire.events() == [Greeted(5.0)]
    assert wire.machine.state == Identifying(OPENED + 10)


def test_version_9_names_the_channel() -> None:
    wire = Wire(VoiceOptions(version=9, streams=(), video=False))
    wire.feed(Hello(13750))
    assert wire.raw() == [
        {
            "op": 0,
            "d": {
                "server_id": "2",
                "channel_id": "3",
                "user_id": "1",
                "session_id": "hunter3",
                "token": "hunter2",
                "video": False,
                "max_dave_protocol_version": 0,
            },
        }
    ]


def test_ready_waits_for_the_transport_to_be_chosen() -> None:
    wire = identifying()
    wire.feed(READY)
    assert wire.events() == [ReadyReceived(READY)]
    assert wire.sent() == []
    assert wire.machine.state == Selecting(READY)
    assert wire.machine.ready == READY
    assert wire.machine.description is None


def test_description_ends_in_live_with_the_prologue() -> None:
    wire = selecting()
    wire.machine.select_protocol(SELECT, wire.now)
    assert wire.sent() == [SELECT]
    wire.feed(DESCRIPTION)
    assert wire.events() == [Described(DESCRIPTION)]
    assert wire.sent() == [Speaking(0, 713745, delay=0), Video(713745, 0, 0)]
    assert wire.machine.state == Live(READY, DESCRIPTION)
    assert wire.machine.description == DESCRIPTION
    assert wire.machine.ready == READY


def test_second_description_while_live_is_told_if_it_says_something_new() -> None:
    wire = live()
    wire.feed(DESCRIPTION)
    assert wire.events() == []
    changed = SessionDescription("opus", "VP8", "m2", "aead_aes256_gcm_rtpsize", bytes(32))
    wire.feed(changed)
    assert wire.events() == [Described(changed)]
    assert wire.sent() == []
    assert wire.machine.description == changed


def test_messages_sent_before_live_follow_the_prologue_in_order() -> None:
    wire = Wire()
    speaking, package = Speaking(1, 713745, delay=0), MlsKeyPackage(b"mls")
    asking = BackendVersionRequest()
    wire.machine.send(speaking, wire.now)
    wire.feed(Hello(13750))
    wire.machine.send(package, wire.now)
    wire.feed(READY)
    wire.machine.send(asking, wire.now)
    wire.machine.select_protocol(SELECT, wire.now)
    wire.forget()
    wire.feed(DESCRIPTION)
    assert wire.sent()[2:] == [speaking, package, asking]


@pytest.mark.parametrize("selected", [False, True])
def test_no_route_is_told_at_once_as_the_session_will_not_be_live(selected: bool) -> None:
    wire = selecting()
    if selected:
        wire.machine.select_protocol(SELECT, wire.now)
    wire.forget()
    wire.machine.send(NoRoute(), wire.now)
    assert wire.sent() == [NoRoute()]


def test_messages_are_sent_at_once_when_live() -> None:
    wire = live()
    wire.machine.send(MlsKeyPackage(b"mls"), wire.now)
    assert wire.machine.messages_to_send() == [b"\x1amls"]


def test_too_many_early_messages_drop_the_oldest_and_are_counted() -> None:
    wire = selecting()
    for ssrc in range(258):
        wire.machine.send(Speaking(1, ssrc), wire.now)
    wire.machine.select_protocol(SELECT, wire.now)
    wire.forget()
    wire.feed(DESCRIPTION)
    kept = wire.sent()[2:]
    assert kept[0] == Speaking(1, 2)
    assert len(kept) == 256
    assert wire.machine.drops == {"send-overflow": 2, "unproven-overflow": 2}  # the prologue's


@pytest.mark.parametrize("version", [0, 1, 3, 10])
def test_versions_that_servers_refuse_are_refused(version: int) -> None:
    with pytest.raises(UsageError, match="4 and 9"):
        VoiceSession(CREDENTIALS, VoiceOptions(version=version), now=OPENED)


@pytest.mark.parametrize("version", range(4, 10))
def test_every_served_version_gets_live(version: int) -> None:
    wire = live(VoiceOptions(version=version))
    assert isinstance(wire.machine.state, Live)


# What is not in the row


@pytest.mark.parametrize(
    ("make", "message", "state"),
    [
        (Wire, READY, "Greeting"),
        (Wire, Heartbeat(1), "Greeting"),
        (Wire, ClientsConnect((5,)), "Greeting"),
        (identifying, Hello(1), "Identifying"),
        (identifying, DESCRIPTION, "Identifying"),
        (selecting, READY, "Selecting"),
        (selecting, DESCRIPTION, "Selecting"),
        (live, READY, "Live"),
        (live, Hello(1), "Live"),
        (live, Resumed(), "Live"),
    ],
)
def test_known_message_out_of_place_is_told_and_ignored(
    make: Callable[[], Wire], message: Message, state: str
) -> None:
    wire = make()
    before = wire.machine.state
    wire.feed(message)
    assert wire.events() == [Unexpected(state, message.opcode)]
    assert wire.sent() == []
    assert wire.machine.state == before
    assert wire.machine.drops == {"unexpected": 1}


@pytest.mark.parametrize("make", MAKERS)
def test_unknown_opcode_is_handed_on_in_every_state(make: Callable[[], Wire]) -> None:
    wire = make()
    wire.feed(UnknownMessage(99, {"a": 1}), seq=4)
    assert wire.events() == [Received(UnknownMessage(99, {"a": 1}))]
    assert wire.machine.seq_ack == 4


@pytest.mark.parametrize("make", MAKERS)
def test_encryption_messages_are_handed_on_in_every_state(make: Callable[[], Wire]) -> None:
    wire = make()
    messages: tuple[ServerMessage, ...] = (MlsExternalSender(b"key"), ExecuteTransition(1))
    wire.feed(*messages)
    assert wire.events() == [Received(message) for message in messages]


def test_room_messages_are_handed_on() -> None:
    wire = live()
    messages: tuple[ServerMessage, ...] = (
        ClientsConnect((4, 5)),
        Speaking(1, 9, user_id=4),
        Video(9, 10, user_id=4, streams=(StreamInfo(ssrc=10),)),
        BackendVersion("0.9.1", "0.3.35"),
    )
    wire.feed(*messages)
    assert wire.events() == [Received(message) for message in messages]


@pytest.mark.parametrize("make", MAKERS)
def test_frame_that_cannot_be_read_is_counted_and_told(make: Callable[[], Wire]) -> None:
    wire = make()
    state = wire.machine.state
    wire.machine.receive_text("no json", wire.now)
    wire.machine.receive_text('{"op":5,"d":{"speaking":true,"ssrc":1}}', wire.now)
    wire.machine.receive_binary(b"\x00", wire.now)
    assert wire.events() == [
        Dropped("not a JSON message"),
        Dropped("opcode 5: field 'speaking' is not an integer"),
        Dropped("binary frame without sequence number and opcode"),
    ]
    assert wire.machine.drops == {"undecodable": 2, "bad-field": 1}
    assert wire.machine.state == state


# Heartbeats


def test_first_heartbeat_comes_one_interval_after_hello() -> None:
    wire = identifying()
    assert wire.machine.next_timeout() == OPENED + 5
    wire.machine.handle_timeout(OPENED + 4.9)
    assert wire.raw() == []
    wire.tick()
    assert wire.raw() == [{"op": 3, "d": {"t": 12000, "seq_ack": -1}}]


@pytest.mark.parametrize(("hello", "interval"), [(41250, 5), (5000, 5), (1000, 1), (0.001, 0.02)])
def test_interval_is_the_servers_but_5_seconds_at_most(hello: float, interval: float) -> None:
    wire = Wire()
    wire.feed(Hello(hello))
    assert wire.events() == [Greeted(interval)]
    assert wire.machine.next_timeout() == OPENED + interval


def test_heartbeat_is_a_bare_integer_below_version_8() -> None:
    wire = identifying(VoiceOptions(version=7))
    wire.tick()
    assert wire.raw() == [{"op": 3, "d": 12000}]
    wire.now += 0.25
    wire.feed(HeartbeatAck(12000))
    assert wire.events() == [HeartbeatAnswered(0.25)]


def test_heartbeats_go_on_while_the_transport_is_being_chosen() -> None:
    wire = selecting()
    for beat in range(1, 20):
        assert wire.tick() == OPENED + 5 * beat
        (message,) = wire.sent()
        assert isinstance(message, Heartbeat)
        wire.feed(HeartbeatAck(message.t))
    assert wire.machine.state == Selecting(READY)


def test_answer_tells_the_round_trip_time() -> None:
    wire = live()
    wire.tick()
    (beat,) = wire.sent()
    assert isinstance(beat, Heartbeat)
    wire.now += 0.125
    wire.feed(HeartbeatAck(beat.t))
    assert wire.events() == [HeartbeatAnswered(0.125)]
    wire.feed(HeartbeatAck(beat.t))
    assert wire.events() == []


@pytest.mark.parametrize(
    "make", [selecting, lambda: live(VoiceOptions(version=7))], ids=["selecting", "version 7"]
)
def test_three_missed_answers_close_a_session_that_cannot_be_resumed(
    make: Callable[[], Wire],
) -> None:
    wire = make()
    for _ in range(3):
        wire.tick()
        assert len(wire.sent()) == 1
        assert wire.events() == []
    wire.tick()
    assert wire.events() == [HeartbeatMissed()]
    assert wire.sent() == []
    assert isinstance(wire.machine.state, Closed)
    assert wire.machine.next_timeout() is None


def test_any_answer_proves_that_the_server_is_there() -> None:
    wire = live()
    for _ in range(9):
        wire.tick()
        wire.feed(HeartbeatAck(-1))
    assert wire.events() == []
    assert isinstance(wire.machine.state, Live)


def test_late_timer_sends_one_heartbeat_not_a_burst() -> None:
    wire = live()
    wire.now += 60
    wire.machine.handle_timeout(wire.now)
    assert len(wire.sent()) == 1
    assert wire.machine.next_timeout() == wire.now + 5


def test_heartbeat_asked_for_is_sent_at_once_with_the_last_sequence_number() -> None:
    wire = live()
    wire.feed(Speaking(1, 9, user_id=4), seq=0)
    wire.now += 1
    wire.feed(Heartbeat(0))
    assert wire.raw() == [{"op": 3, "d": {"t": 8000, "seq_ack": 0}}]
    assert wire.machine.next_timeout() == OPENED + 5


def test_heartbeats_are_told_apart_within_one_millisecond() -> None:
    wire = live()
    for _ in range(6):
        wire.feed(Heartbeat(0))
    beats = [message.t for message in wire.sent() if isinstance(message, Heartbeat)]
    assert beats == [7000, 7001, 7002, 7003, 7004, 7005]
    wire.now += 0.5
    wire.feed(HeartbeatAck(7000))  # no longer remembered
    assert wire.events() == []
    wire.feed(HeartbeatAck(7005))
    assert wire.events() == [HeartbeatAnswered(0.5)]


# Websockets that are lost


RESUME = Resume(2, "hunter3", "hunter2", -1)
"""What goes out on the next websocket; the channel is on the wire in version 9 only."""


def lost(wire: Wire | None = None, code: int | None = None) -> Wire:
    """A live session whose websocket is gone."""
    wire = wire or live()
    assert wire.machine.socket_lost(code, wire.now)
    return wire


def asking(wire: Wire | None = None) -> Wire:
    """The same, with Resume sent on another websocket."""
    wire = wire or lost()
    wire.machine.socket_opened(wire.now)
    wire.feed(Hello(13750))
    return wire


def resumed() -> Wire:
    wire = asking()
    wire.feed(Resumed())
    wire.forget()
    return wire


@pytest.mark.parametrize("code", [None, 1006, 1001, 1005, 1011, 3000, 4013, 4015])
def test_a_live_session_survives_its_websocket(code: int | None) -> None:
    wire = live()
    assert wire.machine.socket_lost(code, OPENED + 3)
    assert wire.machine.state == Resuming(READY, DESCRIPTION, OPENED + 3, OPENED + 18)
    assert (wire.machine.ready, wire.machine.description) == (READY, DESCRIPTION)
    assert wire.machine.next_timeout() == OPENED + 18  # no heartbeats without a websocket
    assert (wire.events(), wire.sent()) == ([], [])


@pytest.mark.parametrize(
    "code", [1000, 4001, 4003, 4004, 4005, 4006, 4009, 4011, 4014, 4017, 4021, 4022]
)
def test_these_closes_are_the_end(code: int) -> None:
    for wire in (live(), lost(), asking()):
        wire.forget()
        assert not wire.machine.socket_lost(code, wire.now)
        assert isinstance(wire.machine.state, Closed)
        assert wire.machine.next_timeout() is None
        assert not wire.machine.socket_lost(None, wire.now)


@pytest.mark.parametrize("make", [Wire, identifying, selecting])
def test_a_session_that_is_not_live_ends_with_its_websocket(make: Callable[[], Wire]) -> None:
    wire = make()
    assert not wire.machine.socket_lost(None, wire.now)
    assert wire.machine.state == Closed("The connection broke without a close frame.")


@pytest.mark.parametrize(("version", "survives"), [(7, False), (8, True), (9, True)])
def test_without_sequence_numbers_nothing_is_resumed(version: int, survives: bool) -> None:
    wire = live(VoiceOptions(version=version))
    assert wire.machine.socket_lost(None, wire.now) is survives


def test_the_first_websocket_sets_the_time_for_hello() -> None:
    machine = VoiceSession(CREDENTIALS, now=OPENED)
    machine.socket_opened(OPENED + 4)
    assert machine.next_timeout() == OPENED + 14


def test_another_websocket_resumes_with_the_last_number_seen() -> None:
    wire = live()
    wire.feed(ClientsConnect((4,)), seq=65_535)
    wire.feed(ClientsConnect((5,)), seq=0)
    lost(wire)
    wire.forget()
    wire.machine.socket_opened(wire.now)
    assert wire.sent() == []
    wire.feed(Hello(13750))
    assert wire.raw() == [
        {
            "op": 7,
            "d": {"server_id": "2", "session_id": "hunter3", "token": "hunter2", "seq_ack": 0},
        }
    ]
    assert wire.events() == []


def test_version_9_resumes_with_the_channel() -> None:
    wire = asking(lost(live(VoiceOptions(version=9))))
    assert wire.sent() == [Resume(2, "hunter3", "hunter2", -1, 3)]


def test_resumed_is_live_again_and_says_the_flags_again() -> None:
    wire = lost()
    wire.now += 2
    asking(wire)
    assert wire.sent() == [RESUME]
    wire.now += 1
    wire.feed(Resumed())
    assert wire.events() == [SessionResumed(3.0)]
    assert wire.machine.state == Live(READY, DESCRIPTION)
    assert wire.sent() == [
        Speaking(0, 713745, delay=0),
        Video(713745, 0, 0),
        Heartbeat(10_000, -1),
    ]
    assert wire.machine.next_timeout() == wire.now + 4  # heartbeats since Hello


def test_what_surely_arrived_is_not_said_again() -> None:
    wire = live()
    wire.machine.send(MlsKeyPackage(b"old"), wire.now)
    wire.tick()
    *_, beat = wire.sent()
    assert isinstance(beat, Heartbeat)
    wire.machine.send(MlsKeyPackage(b"new"), wire.now)
    wire.feed(HeartbeatAck(beat.t))
    asking(lost(wire))
    wire.forget()
    wire.feed(Resumed())
    speaking, fence = wire.sent()
    assert speaking == Speaking(0, 713745, delay=0)
    assert isinstance(fence, Heartbeat)
    wire.feed(HeartbeatAck(beat.t))
    assert wire.sent() == []
    wire.feed(HeartbeatAck(fence.t))
    assert wire.sent() == [MlsKeyPackage(b"new")]


def test_what_the_replay_proves_is_not_said_again() -> None:
    wire = live()
    wire.machine.send(MlsKeyPackage(b"arrived"), wire.now)
    asking(lost(wire))
    wire.feed(Resumed())
    *_, fence = wire.sent()
    assert isinstance(fence, Heartbeat)
    wire.feed(MlsWelcome(1, b"welcome"), seq=9)
    wire.feed(HeartbeatAck(fence.t))
    assert wire.sent() == []


def test_a_websocket_lost_during_the_replay_holds_back_until_the_next() -> None:
    wire = live()
    wire.machine.send(MlsKeyPackage(b"lost"), wire.now)
    asking(lost(wire))
    wire.feed(Resumed())
    asking(lost(wire))
    wire.forget()
    wire.feed(Resumed())
    *_, fence = wire.sent()
    assert isinstance(fence, Heartbeat)
    wire.feed(HeartbeatAck(fence.t))
    assert wire.sent() == [MlsKeyPackage(b"lost")]


def test_a_heartbeat_before_resumed_proves_nothing_about_the_lost_websocket() -> None:
    wire = live()
    wire.machine.send(MlsKeyPackage(b"lost"), wire.now)
    asking(lost(wire))
    wire.feed(Heartbeat(0))
    *_, beat = wire.sent()
    assert isinstance(beat, Heartbeat)
    wire.feed(HeartbeatAck(beat.t), Resumed())
    *_, fence = wire.sent()
    assert isinstance(fence, Heartbeat)
    wire.feed(HeartbeatAck(fence.t))
    assert wire.sent() == [MlsKeyPackage(b"lost")]


def test_what_is_sent_meanwhile_waits_for_resumed() -> None:
    wire = resumed()
    lost(wire)
    wire.machine.send(Speaking(1, 713745, delay=0), wire.now)
    asking(wire)
    wire.machine.send(NoRoute(), wire.now)
    assert wire.sent() == [RESUME]
    wire.feed(Resumed())
    assert wire.sent()[-3:-1] == [Speaking(1, 713745, delay=0), NoRoute()]


def test_frames_for_the_lost_websocket_are_not_sent_on_the_next() -> None:
    wire = live()
    wire.feed(Heartbeat(0))
    asking(lost(wire))
    assert wire.sent() == [RESUME]


@pytest.mark.parametrize("first", [True, False])
def test_what_is_replayed_may_come_before_or_after_resumed(first: bool) -> None:
    wire = asking()
    messages: tuple[ServerMessage, ...] = (MlsExternalSender(b"key"), ClientsConnect((4,)))
    order = (Resumed(), *messages) if first else (*messages, Resumed())
    wire.feed(*order, seq=7)
    told = [event for event in wire.events() if isinstance(event, Received)]
    assert told == [Received(message) for message in messages]
    assert isinstance(wire.machine.state, Live)
    assert wire.machine.seq_ack == 7


@pytest.mark.parametrize("make", [asking, resumed])
def test_a_description_that_is_repeated_is_told_if_it_says_something_new(
    make: Callable[[], Wire],
) -> None:
    wire = make()
    wire.forget()
    wire.feed(DESCRIPTION)
    assert wire.events() == []
    changed = SessionDescription("opus", "VP8", "m2", "aead_aes256_gcm_rtpsize", bytes(32))
    wire.feed(changed)
    assert wire.events() == [Described(changed)]
    assert wire.machine.description == changed


def test_a_websocket_may_be_lost_again_before_it_resumed_anything() -> None:
    wire = asking()
    wire.forget()
    wire.now += 4
    assert wire.machine.socket_lost(1006, wire.now)
    assert wire.machine.state == Resuming(READY, DESCRIPTION, OPENED, OPENED + 15)
    assert wire.machine.next_timeout() == OPENED + 15
    asking(wire)
    assert wire.sent() == [RESUME]


@pytest.mark.parametrize("hello", [True, False])
def test_a_websocket_that_does_not_answer_in_5_s_is_given_up(hello: bool) -> None:
    wire = lost()
    wire.now += 1
    wire.machine.socket_opened(wire.now)
    if hello:
        wire.feed(Hello(41_250))
    wire.forget()
    while not (events := wire.events()):
        wire.tick()
    assert events == [Stalled()]
    assert wire.now == OPENED + 6
    assert wire.machine.state == Resuming(READY, DESCRIPTION, OPENED, OPENED + 15)
    wire.feed(Resumed())  # too late: the websocket is being cut
    assert wire.events() == [Unexpected("Resuming", 9)]


def test_no_resume_in_time_is_the_end() -> None:
    wire = lost(live(VoiceOptions(resume_timeout=6)))
    wire.now += 5
    wire.machine.socket_opened(wire.now)
    wire.tick()
    assert wire.now == OPENED + 6
    assert wire.events() == [ResumeFailed()]
    assert wire.machine.state == Closed("not resumed in time")
    wire.machine.socket_opened(wire.now)
    assert wire.machine.state == Closed("not resumed in time")


def test_three_missed_answers_of_a_live_session_are_a_dead_websocket() -> None:
    wire = live()
    for _ in range(3):
        wire.tick()
    wire.forget()
    wire.tick()
    assert wire.events() == [Stalled()]
    assert wire.sent() == []
    assert wire.machine.state == Resuming(READY, DESCRIPTION, wire.now, wire.now + 15)
    wire.feed(ClientsConnect((4,)), seq=9)  # a last word, while it is being cut
    assert wire.events() == [Received(ClientsConnect((4,)))]
    assert wire.machine.socket_lost(1006, wire.now)
    asking(wire)
    assert wire.sent() == [replace(RESUME, seq_ack=9)]


def test_hello_and_resumed_come_once() -> None:
    wire = lost()
    wire.feed(Hello(13750))  # there is no websocket
    asking(wire)
    wire.forget()
    wire.feed(Hello(13750), READY)
    assert wire.events() == [Unexpected("Resuming", 8), Unexpected("Resuming", 2)]
    wire.feed(Resumed(), Resumed())
    assert wire.events() == [SessionResumed(0.0), Unexpected("Live", 9)]


def test_a_protocol_is_not_selected_while_resuming() -> None:
    with pytest.raises(InvalidState):
        lost().machine.select_protocol(SELECT, OPENED)


# Sequence numbers


def test_text_and_binary_frames_share_the_sequence_number() -> None:
    wire = live()
    assert wire.machine.seq_ack == -1
    wire.feed(ClientsConnect(()), seq=0)
    assert wire.machine.seq_ack == 0
    wire.feed(MlsExternalSender(b"key"), seq=65535)
    assert wire.machine.seq_ack == 65535
    wire.feed(ClientsConnect(()))
    assert wire.machine.seq_ack == 65535
    wire.feed(ClientsConnect(()), seq=1)
    assert wire.machine.seq_ack == 1


# Deadlines


@pytest.mark.parametrize(
    ("make", "phase"), [(Wire, "hello"), (identifying, "ready"), (selecting, "description")]
)
def test_phase_that_takes_too_long_closes(make: Callable[[], Wire], phase: str) -> None:
    wire = make()
    if phase == "description":
        wire.machine.select_protocol(SELECT, wire.now)
    while not isinstance(wire.machine.state, Closed):
        wire.tick()
    assert wire.now == OPENED + 10
    assert wire.events() == [TimedOut(phase)]
    assert wire.machine.state == Closed(f"no {phase} in time")
    assert wire.machine.next_timeout() is None


def test_timeout_is_an_option() -> None:
    assert Wire(VoiceOptions(timeout=3)).machine.next_timeout() == OPENED + 3


def test_choosing_the_transport_may_take_its_time() -> None:
    wire = selecting()
    wire.now += 60
    wire.machine.select_protocol(SELECT, wire.now)
    assert wire.machine.state == Selecting(READY, wire.now + 10)


# The end


def test_closed_session_does_nothing() -> None:
    wire = live()
    wire.machine.close("the socket broke")
    wire.feed(DESCRIPTION, Heartbeat(0))
    wire.machine.receive_text("no json", wire.now)
    wire.machine.handle_timeout(wire.now + 100)
    assert wire.events() == []
    assert wire.machine.messages_to_send() == []
    assert wire.machine.ready is None
    assert wire.machine.description is None
    assert wire.machine.drops == {}
    assert wire.machine.state == Closed("the socket broke")


def test_what_is_sent_after_the_end_is_counted_not_raised() -> None:
    wire = selecting()
    wire.machine.close("the socket broke")
    wire.machine.select_protocol(SELECT, wire.now)
    wire.machine.send(Speaking(1, 1), wire.now)
    assert wire.machine.messages_to_send() == []
    assert wire.machine.drops == {"send-after-end": 2}


@pytest.mark.parametrize("make", [Wire, identifying, live])
def test_protocol_is_selected_after_ready_only(make: Callable[[], Wire]) -> None:
    wire = make()
    with pytest.raises(InvalidState):
        wire.machine.select_protocol(SELECT, wire.now)


def test_protocol_is_selected_once() -> None:
    wire = selecting()
    wire.machine.select_protocol(SELECT, wire.now)
    with pytest.raises(InvalidState):
        wire.machine.select_protocol(SELECT, wire.now)
    assert wire.sent() == [SELECT]


def test_caller_that_never_drains_loses_the_oldest_events() -> None:
    wire = live()
    for _ in range(1100):
        wire.feed(Heartbeat(0), UnknownMessage(99))
    assert wire.machine.drops == {"event-overflow": 76, "outgoing-overflow": 76}
    assert len(wire.machine.messages_to_send()) == 1024


def test_no_secret_shows_in_any_state_or_event() -> None:
    wire = Wire()
    shown = [repr(CREDENTIALS), repr(wire.machine), repr(wire.machine.state)]
    wire.feed(Hello(13750), READY)
    wire.machine.select_protocol(SELECT, wire.now)
    wire.feed(SessionDescription("opus", None, "hunter4", "m", b"hunter5".ljust(32)))
    wire.feed(MlsExternalSender(b"hunter6"), UnknownMessage(99, "hunter7"))
    shown += [repr(event) for event in wire.events()]
    shown.append(repr(wire.machine.state))
    assert len(shown) == 9
    assert "hunter" not in "".join(shown)
