from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.protocol.messages import (
    ClientsConnect,
    Identify,
    InvalidCommitWelcome,
    MlsCommitWelcome,
    MlsKeyPackage,
    Resume,
    SessionDescription,
    Speaking,
    StreamInfo,
    TransitionReady,
    Video,
    parse_from_server,
)
from discord_rtc.server.events import (
    Closed,
    CodecsSet,
    DaveReceived,
    Detached,
    Identified,
    NoRouteTold,
    ProtocolSelected,
    SessionResumed,
    SpeakingSet,
    VideoSet,
    VoiceServerEvent,
    WantsSet,
)
from discord_rtc.server.negotiation import MAX_LAYERS, Admission, Refusal
from discord_rtc.server.session import MAX_UNREAD, SessionConfig, VoiceServerSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.server.events import DaveMessage
    from discord_rtc.server.replay import Continuation

MODE = "aead_aes256_gcm_rtpsize"
FINGERPRINT = "sha-256 " + ":".join(["AB"] * 32)
OURS = IceCredentials("ours", "p" * 22)
IDENTIFY: dict[str, object] = {
    "server_id": "1",
    "user_id": "2",
    "session_id": "the-session",
    "token": "the-token",
    "video": True,
}
RESUME: dict[str, object] = {
    "server_id": "1",
    "session_id": "the-session",
    "token": "the-token",
    "seq_ack": 3,
}
SELECT: dict[str, object] = {
    "protocol": "udp",
    "data": {"address": "127.0.0.1", "port": 5, "mode": MODE},
}


def admit(identify: Identify) -> Admission | Refusal:
    if identify.token == "the-token":
        return Admission(500, "127.0.0.1", 40_000, FINGERPRINT, lambda: OURS)
    return Refusal(4004, "wrong")


class Client:
    """The other end of a session, at times that the test chooses."""

    def __init__(
        self,
        version: int | None = 8,
        *,
        interval_ms: float = 1000,
        describe_dave: Callable[[], int] | None = None,
        find: Callable[[Resume], Continuation | Refusal] | None = None,
        resume_window: float = 30.0,
    ) -> None:
        config = SessionConfig(
            (MODE,),
            interval_ms,
            random_bytes=lambda count: b"\7" * count,
            resume_window=resume_window,
        )
        self.counters: Counter[str] = Counter()

        def admit_with_dave(identify: Identify) -> Admission | Refusal:
            found = admit(identify)
            if isinstance(found, Admission):
                return replace(found, describe_dave=describe_dave)
            return found

        finders = () if find is None else (find,)
        self.session = VoiceServerSession(
            version, config, admit_with_dave, *finders, counters=self.counters
        )
        self.version = version or 9
        self.now = 100.0
        self.session.open(self.now)

    def send(self, opcode: int, data: object = None) -> None:
        self.session.receive_text(json.dumps({"op": opcode, "d": data}), self.now)

    def take(self, frame: str | bytes) -> None:
        if isinstance(frame, str):
            self.session.receive_text(frame, self.now)
        else:
            self.session.receive_binary(frame, self.now)

    def received(self) -> list[tuple[int, object, int | None]]:
        """Opcode, data and seq of all messages since the last call."""
        frames = [json.loads(frame) for frame in self.session.messages_to_send()]
        return [(frame["op"], frame["d"], frame.get("seq")) for frame in frames]

    def opcodes(self) -> list[int]:
        return [opcode for opcode, _, _ in self.received()]

    def events(self) -> list[VoiceServerEvent]:
        found = []
        while (event := self.session.next_event()) is not None:
            found.append(event)
        return found

    def identify(self, **fields: object) -> Client:
        self.send(0, IDENTIFY | fields)
        return self

    def live(self) -> Client:
        self.identify().send(1, SELECT)
        self.received()
        self.events()
        return self

    @property
    def code(self) -> int | None:
        """With which code the session was closed."""
        return None if self.session.closing is None else self.session.closing[0]


def test_the_server_says_hello_first() -> None:
    client = Client(interval_ms=13_750)
    assert client.received() == [(8, {"v": 8, "heartbeat_interval": 13_750}, None)]


@pytest.mark.parametrize("version", [4, 5, 6, 7, 8, 9])
def test_versions_4_to_9_are_served(version: int) -> None:
    client = Client(version).live()
    assert client.code is None


@pytest.mark.parametrize("version", [None, 0, 3, 10, 2**40])
def test_other_versions_are_closed_without_a_hello(version: int | None) -> None:
    client = Client(version)
    assert (client.code, client.opcodes()) == (4012, [])
    assert isinstance(client.events()[0], Closed)
    assert client.session.next_timeout() is None


def test_identify_is_answered_with_ready() -> None:
    client = Client()
    client.opcodes()
    client.identify()
    ((opcode, data, seq),) = client.received()
    assert (opcode, seq) == (2, 1)
    ready = cast("dict[str, object]", data)
    assert (ready["ssrc"], ready["ip"], ready["port"]) == (500, "127.0.0.1", 40_000)
    assert ready["modes"] == [MODE]
    (event,) = client.events()
    assert isinstance(event, Identified)
    assert event.identify.user_id == 2
    assert [stream.ssrc for stream in event.ready.streams] == [501]


def test_select_protocol_is_answered_with_the_key() -> None:
    client = Client().identify()
    client.opcodes()
    client.events()
    client.send(1, SELECT)
    ((opcode, data, seq),) = client.received()
    description = cast("dict[str, object]", data)
    assert (opcode, seq, description["mode"]) == (4, 2, MODE)
    assert description["secret_key"] == [7] * 32
    assert description["media_session_id"] == "07" * 16
    assert (description["audio_codec"], description["video_codec"]) == ("opus", "H264")
    assert description["dave_protocol_version"] == 0
    (event,) = client.events()
    assert isinstance(event, ProtocolSelected)
    assert event.description.secret_key == bytes([7] * 32)
    assert event.select.address == "127.0.0.1"


def test_every_key_is_a_fresh_one() -> None:
    keys = set()
    for _ in range(2):
        session = VoiceServerSession(8, SessionConfig((MODE,)), admit)
        session.open(0.0)
        session.receive_text(json.dumps({"op": 0, "d": IDENTIFY}), 0.0)
        session.receive_text(json.dumps({"op": 1, "d": SELECT}), 0.0)
        message, _ = parse_from_server(session.messages_to_send()[-1], version=8)
        assert isinstance(message, SessionDescription)
        assert message.secret_key is not None
        assert len(message.secret_key) == 32
        keys.add(message.secret_key)
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("opcode", "data"),
    [
        (1, SELECT),
        (3, {"t": 1, "seq_ack": -1}),
        (5, {"speaking": 1, "ssrc": 5}),
        (16, {}),
        (17, {}),
    ],
)
def test_nothing_but_identify_comes_first(opcode: int, data: object) -> None:
    client = Client()
    client.send(opcode, data)
    assert client.code == 4003


def test_resume_finds_no_session() -> None:
    client = Client()
    client.send(7, RESUME)
    assert client.code == 4006


def test_resume_in_a_session_is_refused() -> None:
    client = Client().live()
    client.send(7, RESUME)
    assert (client.code, client.opcodes()) == (4005, [])


class Comeback:
    """A session that loses its websocket, and another websocket that resumes it."""

    def __init__(self, version: int = 8, *, describe: bool = False) -> None:
        self.first = Client(version).live()
        self.describe = describe
        self.second = Client(version, find=self.find)
        self.second.received()

    def find(self, resume: Resume) -> Continuation | Refusal:
        continuation = self.first.session.hand_over(resume, self.second.version)
        if continuation is None:
            return Refusal(4006, "gone")
        return replace(continuation, describe=self.describe)

    def resume(self, seq_ack: int = 2) -> Client:
        self.second.send(7, RESUME | {"seq_ack": seq_ack})
        return self.second


@pytest.mark.parametrize("code", [None, 1005, 1006, 1009, 4000, 4014])
def test_a_session_waits_30_s_for_a_client_that_did_not_say_goodbye(code: int | None) -> None:
    client = Client().live()
    client.session.connection_lost(code, 200.0)
    assert client.session.detached
    assert client.events() == [Detached(code, "websocket lost")]
    assert client.session.next_timeout() == 230.0
    client.session.handle_timeout(229.9)
    assert client.events() == []
    client.session.handle_timeout(230.0)
    assert client.events() == [Closed(code, "not resumed in time", expired=True)]
    assert not client.session.detached
    assert client.session.next_timeout() is None


@pytest.mark.parametrize("code", [1000, 1001])
def test_a_client_that_says_goodbye_is_gone(code: int) -> None:
    client = Client().live()
    client.session.connection_lost(code, 200.0)
    assert client.events() == [Closed(code, "closed by the client")]


def test_a_session_that_was_not_live_does_not_wait() -> None:
    client = Client().identify()
    client.events()
    client.session.connection_lost(None, 200.0)
    assert client.events() == [Closed(None, "closed by the client")]


@pytest.mark.parametrize("code", [None, 4015])
def test_without_a_resume_window_nothing_waits(code: int | None) -> None:
    client = Client(resume_window=0).live()
    if code is None:
        client.session.connection_lost(None, 200.0)
    else:
        client.session.close(code, "crashed")
    assert [type(event) for event in client.events()] == [Closed]


@pytest.mark.parametrize(
    "code",
    [4001, 4002, 4003, 4004, 4005, 4006, 4009, 4011, 4012, 4014, 4016, 4017, 4020, 4021, 4022],
)
def test_these_closes_of_ours_end_a_session_at_once(code: int) -> None:
    client = Client().live()
    client.session.close(code, "over")
    assert client.events() == [Closed(code, "over")]


@pytest.mark.parametrize("code", [4013, 4015, 1001, 1011])
def test_these_closes_of_ours_leave_a_session_to_be_resumed(code: int) -> None:
    client = Client().live()
    client.session.send(ClientsConnect((7,)))
    client.session.close(code, "crashed")
    assert client.code == code
    assert client.events() == [Detached(code, "crashed")]
    assert client.opcodes() == [11]  # what was sent before is still delivered
    assert client.session.next_timeout() is None  # closing may take its time
    client.session.handle_timeout(10_000.0)
    client.session.connection_lost(code, 200.0)
    assert client.session.next_timeout() == 230.0
    assert client.events() == []


def test_what_a_dead_websocket_still_brings_is_not_listened_to() -> None:
    client = Client().live()
    client.session.close(4015, "crashed")
    client.events()
    client.send(5, {"speaking": 1, "ssrc": 500, "delay": 0})
    client.session.receive_binary(b"\x1a" + bytes(300), client.now)
    assert client.events() == []


def test_a_session_without_websocket_can_still_be_ended() -> None:
    client = Client().live()
    client.session.connection_lost(None, 200.0)
    client.events()
    client.session.close(4014, "kicked")
    assert client.events() == [Closed(4014, "kicked")]
    assert client.session.hand_over(Resume(1, "s", "t", 2), 8) is None


def test_a_resume_goes_on_with_everything_that_was_missed() -> None:
    back = Comeback()
    back.first.session.send(ClientsConnect((7,)))
    back.first.received()  # lost on the way
    back.first.session.connection_lost(None, 200.0)
    back.first.session.send(ClientsConnect((8,)))
    second = back.resume()
    assert second.received() == [
        (9, None, None),
        (11, {"user_ids": ["7"]}, 3),
        (11, {"user_ids": ["8"]}, 4),
    ]
    assert second.events() == [SessionResumed(2, described=False)]
    second.session.send(ClientsConnect((9,)))
    assert [seq for _, _, seq in second.received()] == [5]
    second.send(5, {"speaking": 1, "ssrc": 500, "delay": 0})
    second.send(3, {"t": 1, "seq_ack": 5})
    assert second.events() == [SpeakingSet(1, 500)]
    assert second.opcodes() == [6]
    second.send(5, {"speaking": 1, "ssrc": 501, "delay": 0})
    assert second.code == 4020  # it knows which SSRCs are ours


def test_heartbeats_are_demanded_on_the_new_websocket() -> None:
    back = Comeback()
    back.first.session.connection_lost(None, 200.0)
    back.second.now = 205.0
    second = back.resume()
    assert second.session.next_timeout() == 207.0
    assert back.first.session.next_timeout() is None
    second.session.handle_timeout(207.0)
    assert second.code == 4009


def test_a_resume_takes_over_from_a_websocket_that_is_still_open() -> None:
    back = Comeback()
    second = back.resume()
    assert second.opcodes() == [9]
    assert back.first.code == 4006
    back.first.session.connection_lost(4006, 200.0)
    assert back.first.events() == []


def test_a_websocket_that_was_taken_over_is_written_nothing_more() -> None:
    back = Comeback()
    back.first.session.send(ClientsConnect((7,)))
    second = back.resume()
    second.session.send(ClientsConnect((8,)))
    assert back.first.opcodes() == []  # whichever of the two is written first
    assert [(opcode, seq) for opcode, _, seq in second.received()] == [(9, None), (11, 3), (11, 4)]


def test_a_resume_that_overtakes_hello_gets_both() -> None:
    first = Client().live()
    second = Client(find=lambda resume: first.session.hand_over(resume, 8) or Refusal(4006, ""))
    second.send(7, RESUME | {"seq_ack": 2})
    assert second.opcodes() == [8, 9]


@pytest.mark.parametrize("opcode", [0, 7])
def test_a_resumed_session_is_identified(opcode: int) -> None:
    second = Comeback().resume()
    second.send(opcode, IDENTIFY if opcode == 0 else RESUME)
    assert second.code == 4005


def test_a_resume_with_a_number_that_is_not_there_any_more_is_refused() -> None:
    second = Comeback().resume(seq_ack=9)
    assert second.code == 4006
    assert second.events() == [Closed(4006, "gone")]


def test_a_resume_without_a_number_gets_everything() -> None:
    second = Comeback().resume(seq_ack=-1)
    assert [(opcode, seq) for opcode, _, seq in second.received()] == [(9, None), (2, 1), (4, 2)]


def test_below_version_8_a_session_is_resumed_and_nothing_replayed() -> None:
    back = Comeback(7)
    back.first.session.connection_lost(None, 200.0)
    back.first.session.send(ClientsConnect((8,)))
    back.second.send(7, {key: RESUME[key] for key in ("server_id", "session_id", "token")})
    assert back.second.opcodes() == [9]
    assert back.second.events() == [SessionResumed(0, described=False)]


def test_the_description_is_sent_again_to_those_who_need_it() -> None:
    back = Comeback(describe=True)
    back.first.session.connection_lost(None, 200.0)
    back.first.session.send(ClientsConnect((8,)))
    second = back.resume()
    resumed, missed, description = second.received()
    assert (resumed[0], missed[0], description[0]) == (9, 11, 4)
    assert cast("dict[str, object]", description[1])["secret_key"] == [7] * 32
    assert description[2] == 4
    assert second.events() == [SessionResumed(1, described=True)]


def test_a_resumed_webrtc_session_names_its_own_ssrcs() -> None:
    back = Comeback()
    back.first = webrtc()
    second = back.resume()
    second.events()
    second.send(5, {"speaking": 1, "ssrc": 7, "delay": 5})
    assert second.events() == [SpeakingSet(1, 7)]


def test_a_websocket_that_did_not_get_live_has_nothing_to_hand_over() -> None:
    client = Client().identify()
    assert client.session.hand_over(Resume(1, "s", "t", -1), 8) is None
    assert client.code is None


def test_a_refused_identify_closes_with_the_code_of_the_refusal() -> None:
    client = Client().identify(token="another")
    assert client.code == 4004
    assert client.events() == [Closed(4004, "wrong")]


def test_a_second_identify_is_refused() -> None:
    client = Client().identify().identify()
    assert client.code == 4005


def test_a_second_select_protocol_is_refused() -> None:
    client = Client().live()
    client.send(1, SELECT)
    assert client.code == 4020


def test_an_unknown_transport_is_refused() -> None:
    client = Client().identify()
    client.send(1, {"protocol": "carrier pigeon", "data": "a message"})
    assert client.code == 4012


def test_too_many_layers_are_refused() -> None:
    layer = {"type": "video", "rid": "100", "quality": 100}
    assert Client().identify(streams=[layer] * MAX_LAYERS).code is None
    assert Client().identify(streams=[layer] * (MAX_LAYERS + 1)).code == 4020


@pytest.mark.parametrize("frame", ["", "{", "[]", "7", '{"d": 1}', '{"op": "0"}', "NaN"])
def test_what_is_no_message_closes_with_4002(frame: str) -> None:
    client = Client()
    client.session.receive_text(frame, 100.0)
    assert client.code == 4002


@pytest.mark.parametrize("field", [{"token": 5}, {"user_id": "x"}, {"streams": {}}, {"video": 1}])
def test_wrong_fields_close_with_4020(field: dict[str, object]) -> None:
    client = Client().identify(**field)
    assert client.code == 4020


@pytest.mark.parametrize("opcode", [2, 10, 33, 99, -1])
def test_an_unknown_opcode_closes_with_4001(opcode: int) -> None:
    client = Client().live()
    client.send(opcode)
    assert client.code == 4001


@pytest.mark.parametrize("opcode", [17, 19])
def test_dead_opcodes_are_ignored(opcode: int) -> None:
    client = Client().live()
    client.send(opcode, {})
    assert (client.code, client.events()) == (None, [])


def test_binary_frames_are_ignored_in_every_state() -> None:
    client = Client()
    client.session.receive_binary(b'{"op": 0, "d": {}}', 100.0)
    client.live().session.receive_binary(b"\x1a" + bytes(300), 100.0)
    assert (client.code, client.events()) == (None, [])


def test_the_dave_version_is_asked_for_when_it_is_due() -> None:
    version = 0
    client = Client(describe_dave=lambda: version).identify()
    version = 1
    client.opcodes()
    client.send(1, SELECT)
    ((_, data, _),) = client.received()
    assert cast("dict[str, object]", data)["dave_protocol_version"] == 1


DAVE_MESSAGES = [
    (MlsKeyPackage(b"package"), b"\x1apackage"),
    (MlsCommitWelcome(b"commit"), b"\x1ccommit"),
    (MlsKeyPackage(b""), b"\x1a"),
    (TransitionReady(7), '{"op": 23, "d": {"transition_id": 7}}'),
    (InvalidCommitWelcome(8), '{"op": 31, "d": {"transition_id": 8}}'),
]


@pytest.mark.parametrize(("message", "frame"), DAVE_MESSAGES)
def test_dave_messages_are_reported(message: DaveMessage, frame: str | bytes) -> None:
    client = Client(describe_dave=lambda: 1).live()
    client.take(frame)
    assert client.events() == [DaveReceived(message)]
    assert client.counters == {}


@pytest.mark.parametrize(("message", "frame"), DAVE_MESSAGES)
def test_dave_messages_mean_nothing_before_session_description_or_without_dave(
    message: DaveMessage, frame: str | bytes
) -> None:
    early = Client(describe_dave=lambda: 1).identify()
    without = Client().live()
    for client in (early, without):
        client.events()
        client.take(frame)
        assert (client.code, client.events()) == (None, [])
        assert client.counters == {f"voice.ignored.{int(message.opcode)}": 1}


def test_key_packages_before_identify_are_ignored_too() -> None:
    client = Client(describe_dave=lambda: 1)
    client.take(b"\x1apackage")
    assert (client.code, client.counters) == (None, {"voice.ignored.26": 1})


@pytest.mark.parametrize("frame", [b"", b"\x00", b'{"op": 26}', b"\x19sender", b"\xff" * 500])
def test_other_binary_frames_are_only_counted(frame: bytes) -> None:
    client = Client(describe_dave=lambda: 1).live()
    client.take(frame)
    assert (client.code, client.events()) == (None, [])
    assert client.counters == {"voice.ignored.binary": 1}


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ('{"op": 23, "d": {"transition_id": 65536}}', 4020),
        ('{"op": 31, "d": {}}', 4020),
        ('{"op": 26, "d": {}}', 4001),
    ],
)
def test_malformed_dave_messages_close(frame: str, code: int) -> None:
    client = Client(describe_dave=lambda: 1).live()
    client.take(frame)
    assert client.code == code


def test_too_many_binary_frames_close() -> None:
    client = Client(describe_dave=lambda: 1).live()
    for _ in range(1000):
        client.take(b"\x1apackage")
    assert client.code == 4021
    assert len(client.events()) <= 501


def test_heartbeats_are_acknowledged_in_the_shape_of_the_version() -> None:
    client = Client(8).live()
    client.send(3, {"t": 77, "seq_ack": 2})
    assert client.received() == [(6, {"t": 77}, None)]
    old = Client(7).live()
    old.send(3, 77)
    assert old.received() == [(6, 77, None)]


def test_a_client_that_does_not_identify_is_closed_after_30_s() -> None:
    client = Client()
    assert client.session.next_timeout() == 130.0
    client.session.handle_timeout(129.9)
    assert client.code is None
    client.session.handle_timeout(130.0)
    assert client.code == 4009
    assert client.session.next_timeout() is None
    client.session.handle_timeout(500.0)
    assert client.events() == [Closed(4009, "no Identify")]


def test_two_intervals_without_a_heartbeat_close_the_session() -> None:
    client = Client(interval_ms=1000).live()
    assert client.session.next_timeout() == 102.0
    client.now = 101.5
    client.send(3, {"t": 1, "seq_ack": 2})
    assert client.session.next_timeout() == 103.5
    client.session.handle_timeout(103.5)
    assert client.events() == [Closed(4009, "no heartbeat")]


def test_seq_counts_all_messages_but_heartbeats_and_wraps_at_16_bits() -> None:
    client = Client().identify()
    client.opcodes()
    last: list[int | None] = []
    for _ in range(0xFFFF - 1):
        client.session.send(ClientsConnect((1,)))
        last = [seq for _, _, seq in client.received()]
    assert last == [0xFFFF]
    client.send(3, {"t": 1, "seq_ack": 0})
    client.session.send(ClientsConnect((1,)))
    assert [(opcode, seq) for opcode, _, seq in client.received()] == [(6, None), (11, 0)]


def test_below_version_8_there_is_no_seq() -> None:
    client = Client(7).identify()
    assert [seq for _, _, seq in client.received()] == [None, None]


@pytest.mark.parametrize("ssrc", [500, 0])
def test_speaking_is_reported(ssrc: int) -> None:
    client = Client().live()
    client.send(5, {"speaking": 5, "ssrc": ssrc, "delay": 0})
    assert client.events() == [SpeakingSet(5, ssrc)]


def test_speaking_before_select_protocol_is_reported_too() -> None:
    client = Client().identify()
    client.events()
    client.send(5, {"speaking": 1, "ssrc": 500, "delay": 0})
    assert client.events() == [SpeakingSet(1, 500)]


def test_speaking_with_a_foreign_ssrc_is_refused() -> None:
    client = Client().live()
    client.send(5, {"speaking": 1, "ssrc": 501, "delay": 0})
    assert client.code == 4020


VIDEO: dict[str, object] = {
    "audio_ssrc": 500,
    "video_ssrc": 501,
    "rtx_ssrc": 502,
    "streams": [{"type": "video", "rid": "100", "ssrc": 501, "rtx_ssrc": 502, "active": True}],
}


def test_video_is_reported_and_answered_with_sink_wants() -> None:
    client = Client().live()
    client.send(12, VIDEO)
    assert [(opcode, data) for opcode, data, _ in client.received()] == [(15, {"any": 100})]
    (event,) = client.events()
    assert isinstance(event, VideoSet)
    assert event.video.video_ssrc == 501


def test_sink_wants_exist_from_version_5_on() -> None:
    client = Client(4).live()
    client.send(12, VIDEO)
    assert client.opcodes() == []


@pytest.mark.parametrize(
    "foreign",
    [
        {"audio_ssrc": 1},
        {"video_ssrc": 600},
        {"rtx_ssrc": 600},
        {"streams": [{"ssrc": 600}]},
        {"streams": [{"ssrc": 501, "rtx_ssrc": 600}]},
    ],
)
def test_video_with_a_foreign_ssrc_is_refused(foreign: dict[str, object]) -> None:
    client = Client().live()
    client.send(12, VIDEO | foreign)
    assert client.code == 4020


def test_cleared_video_is_accepted() -> None:
    client = Client().live()
    client.send(12, {"audio_ssrc": 500, "video_ssrc": 0, "rtx_ssrc": 0, "streams": []})
    (event,) = client.events()
    assert event == VideoSet(Video(500, 0, 0, ()))


WEBRTC: dict[str, object] = {
    "protocol": "webrtc",
    "data": f"a=ice-ufrag:abcd\na=ice-pwd:{'q' * 22}\na=fingerprint:{FINGERPRINT}\n"
    "a=rtpmap:111 opus/48000/2\na=rtpmap:96 VP8/90000\na=rtpmap:97 rtx/90000",
}


def webrtc() -> Client:
    client = Client().identify()
    client.received()
    client.events()
    client.send(1, WEBRTC)
    return client


def test_a_webrtc_client_is_answered_with_a_fragment() -> None:
    client = webrtc()
    ((opcode, data, seq),) = client.received()
    description = cast("dict[str, object]", data)
    assert (opcode, seq) == (4, 2)
    assert description.keys().isdisjoint({"mode", "secret_key"})
    assert (description["audio_codec"], description["video_codec"]) == ("opus", "VP8")
    assert description["sdp"] == (
        "m=audio 40000 ICE/SDP\n"
        f"a=fingerprint:{FINGERPRINT}\n"
        "c=IN IP4 127.0.0.1\n"
        "a=rtcp:40000\n"
        "a=ice-ufrag:ours\n"
        f"a=ice-pwd:{'p' * 22}\n"
        f"a=fingerprint:{FINGERPRINT}\n"
        "a=candidate:1 1 UDP 4261412862 127.0.0.1 40000 typ host\n"
    )
    (event,) = client.events()
    assert isinstance(event, ProtocolSelected)
    assert event.webrtc is not None
    assert (event.webrtc.client.ufrag, event.webrtc.credentials) == ("abcd", OURS)
    assert [codec.name for codec in event.codecs] == ["opus", "VP8"]


def test_no_secret_of_a_webrtc_client_reaches_a_log() -> None:
    (event,) = webrtc().events()
    assert "q" * 22 not in repr(event)
    assert "p" * 22 not in repr(event)


@pytest.mark.parametrize(
    ("sdp", "reason"),
    [
        ("", "has no a=ice-ufrag"),
        (f"a=ice-ufrag:abcd\na=ice-pwd:{'q' * 22}", "has no a=fingerprint"),
        (f"a=ice-ufrag:abcd\na=ice-pwd:short\na=fingerprint:{FINGERPRINT}", "a=ice-pwd is not"),
    ],
)
def test_lines_of_sdp_that_cannot_be_used_are_refused_with_the_reason(
    sdp: str, reason: str
) -> None:
    client = Client().identify()
    client.send(1, {"protocol": "webrtc", "data": sdp})
    assert client.session.closing is not None
    code, said = client.session.closing
    assert code == 4020
    assert reason in said


def test_webrtc_without_any_sdp_is_refused() -> None:
    client = Client().identify()
    client.send(1, {"protocol": "webrtc"})
    assert client.code == 4020


def test_a_second_select_protocol_is_refused_whatever_it_selects() -> None:
    client = webrtc()
    client.send(1, SELECT)
    assert client.code == 4020


def test_a_webrtc_client_names_its_own_ssrcs() -> None:
    client = webrtc()
    client.events()
    client.send(5, {"speaking": 1, "ssrc": 7, "delay": 5})
    client.send(12, {"audio_ssrc": 7, "video_ssrc": 8, "rtx_ssrc": 9, "streams": [{"ssrc": 8}]})
    assert client.code is None
    speaking, video = client.events()
    assert speaking == SpeakingSet(1, 7)
    assert isinstance(video, VideoSet)
    assert video.video.video_ssrc == 8


def test_before_the_choice_only_the_ssrcs_of_ready_count() -> None:
    client = Client().identify()
    client.send(5, {"speaking": 1, "ssrc": 7, "delay": 5})
    assert client.code == 4020


def test_a_client_without_a_route_says_so_and_may_go_on() -> None:
    client = Client().identify()
    client.events()
    client.send(32, {})
    client.send(1, SELECT)
    client.send(32, {})
    told = [event for event in client.events() if isinstance(event, NoRouteTold)]
    assert len(told) == 2
    assert client.code is None


def test_sink_wants_are_reported() -> None:
    client = Client().live()
    client.send(15, {"501": 0, "any": 100})
    (event,) = client.events()
    assert isinstance(event, WantsSet)
    assert dict(event.wants.ssrcs) == {501: 0}


def test_new_codecs_are_reported_and_answered_with_the_choice() -> None:
    client = Client().live()
    vp8 = {"name": "VP8", "type": "video", "priority": 1000, "payload_type": 105}
    client.send(14, {"codecs": [vp8]})
    ((opcode, data, _),) = client.received()
    assert opcode == 14
    assert cast("dict[str, object]", data)["video_codec"] == "VP8"
    (event,) = client.events()
    assert isinstance(event, CodecsSet)
    assert [codec.name for codec in event.codecs] == ["VP8"]


def test_new_codecs_with_an_impossible_payload_type_are_refused() -> None:
    client = Client().live()
    bad = {"name": "VP8", "type": "video", "priority": 1000, "payload_type": 128}
    client.send(14, {"codecs": [bad]})
    assert client.code == 4020


def test_backend_versions_are_answered() -> None:
    client = Client().live()
    client.send(16, {})
    assert [(op, data) for op, data, _ in client.received()] == [
        (16, {"voice": "0.0", "rtc_worker": "0.0"})
    ]


def test_what_was_sent_before_a_close_is_still_delivered() -> None:
    client = Client().live()
    client.session.send(Speaking(1, 9, user_id=3))
    client.session.close(4014, "kicked")
    client.session.close(4015, "too late")
    client.session.send(Speaking(0, 9, user_id=3))
    assert client.opcodes() == [5]
    assert client.session.closing == (4014, "kicked")
    assert client.events() == [Closed(4014, "kicked")]


def test_nothing_is_taken_after_the_end() -> None:
    client = Client().live()
    client.session.connection_lost(1000, 101.0)
    client.send(3, {"t": 1, "seq_ack": 0})
    client.session.connection_lost(None, 101.0)
    assert client.opcodes() == []
    assert client.events() == [Closed(1000, "closed by the client")]
    assert client.code is None


def test_a_client_that_does_not_read_is_closed() -> None:
    client = Client().live()
    for _ in range(MAX_UNREAD):
        client.session.send(ClientsConnect((1,)))
    assert client.code is None
    client.session.send(ClientsConnect((1,)))
    assert client.code == 4021
    assert client.opcodes() == []


def test_a_flood_is_closed() -> None:
    client = Client().live()
    for _ in range(500):
        client.send(16, {})
    assert client.code == 4021


def test_secrets_are_not_in_the_representation_of_events() -> None:
    client = Client().identify()
    client.send(1, SELECT)
    shown = repr(client.events())
    assert "the-token" not in shown
    assert "the-session" not in shown
    assert repr(bytes([7] * 32)) not in shown
    assert "07" * 16 not in shown


@given(st.lists(st.one_of(st.text(), st.binary()), max_size=5), st.integers(0, 2))
def test_any_frames_at_any_stage_leave_a_sane_session(
    frames: list[str | bytes], stage: int
) -> None:
    client = Client()
    if stage >= 1:
        client.identify()
    if stage == 2:
        client.send(1, SELECT)
    for frame in frames:
        if isinstance(frame, str):
            client.session.receive_text(frame, client.now)
        else:
            client.session.receive_binary(frame, client.now)
    assert (client.session.next_timeout() is None) == (client.code is not None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 700) | st.floats() | st.text(max_size=5),
    lambda of: (
        st.lists(of, max_size=3)
        | st.dictionaries(
            st.sampled_from(["ssrc", "audio_ssrc", "streams", "codecs", "any", "t", "speaking"]), of
        )
    ),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.integers(-1, 35), JSON), max_size=5))
def test_any_json_in_a_live_session_is_answered_or_closed(
    messages: list[tuple[int, object]],
) -> None:
    client = Client().live()
    for opcode, data in messages:
        client.send(opcode, data)
    client.received()
    ends = [event for event in client.events() if isinstance(event, Closed)]
    assert len(ends) == (client.code is not None)
    assert client.code in {None, 4001, 4002, 4005, 4020}


def test_a_layer_keeps_its_type() -> None:
    client = Client().identify(streams=[{"type": "screen", "rid": "100", "quality": 100}])
    (event,) = client.events()
    assert isinstance(event, Identified)
    assert event.ready.streams[0] == StreamInfo("screen", "100", 100, 501, 502, active=False)
