"""Messages survive the wire, parsers survive anything, machines never fall asleep."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from discord_rtc.errors import MalformedMessage
from discord_rtc.protocol.messages import (
    BackendVersion,
    BackendVersionRequest,
    ClientDisconnect,
    ClientFlags,
    ClientMessage,
    ClientPlatform,
    ClientsConnect,
    CodecInfo,
    ExecuteTransition,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Identify,
    InvalidCommitWelcome,
    MediaSinkWants,
    MlsAnnounceCommit,
    MlsCommitWelcome,
    MlsExternalSender,
    MlsKeyPackage,
    MlsProposals,
    MlsWelcome,
    NoRoute,
    PrepareEpoch,
    PrepareTransition,
    Ready,
    Resolution,
    Resume,
    Resumed,
    SelectProtocol,
    ServerMessage,
    SessionDescription,
    SessionUpdate,
    Speaking,
    StreamInfo,
    TransitionReady,
    UnknownMessage,
    Video,
    build,
    opcode_of,
    parse_from_client,
    parse_from_server,
)
from discord_rtc.protocol.roster import (
    Roster,
    SsrcNamed,
    SsrcRemoved,
    UserJoined,
    UserLeft,
)
from discord_rtc.protocol.signaling import JoinSignaling, ServerAssigned
from discord_rtc.protocol.voice import (
    Closed,
    HeartbeatMissed,
    Live,
    ResumeFailed,
    Resuming,
    Selecting,
    TimedOut,
    VoiceCredentials,
    VoiceOptions,
    VoiceSession,
)
from discord_rtc.protocol.voice_state import parse_voice_server, parse_voice_state

if TYPE_CHECKING:
    from discord_rtc.frames import MediaKind

texts = st.text(st.characters(codec="utf-8"), max_size=12)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFF_FFFF)
u63 = st.integers(0, (1 << 63) - 1)
snowflakes = st.integers(0, (1 << 64) - 1)
numbers = st.floats(0, 1e9, allow_nan=False)
mls = st.binary(max_size=40)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def several(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=3).map(tuple)


payload_types = st.integers(0, 255)
percents = st.integers(0, 100)
codecs = st.builds(
    CodecInfo,
    texts,
    st.sampled_from(["audio", "video"]),
    u32,
    payload_types,
    maybe(payload_types),
    st.booleans(),
    st.booleans(),
)
streams = st.builds(
    StreamInfo,
    texts,
    texts,
    percents,
    maybe(u32),
    maybe(u32),
    maybe(st.booleans()),
    maybe(u63),
    maybe(numbers),
    maybe(st.builds(Resolution, texts, numbers, numbers)),
)
versions = st.integers(4, 9)
both_speaking = st.builds(Speaking, u32, u32, maybe(snowflakes), maybe(u63))
both_video = st.builds(Video, u32, u32, maybe(u32), several(streams), maybe(snowflakes))
both_updates = st.builds(
    SessionUpdate, several(codecs), maybe(texts), maybe(texts), maybe(texts), maybe(u63)
)
both_wants = st.builds(
    MediaSinkWants,
    maybe(percents),
    st.dictionaries(u32, percents, max_size=3),
    st.dictionaries(u32, numbers, max_size=3),
)


@cache
def heartbeats(version: int) -> st.SearchStrategy[Heartbeat]:
    acks = st.none() if version < 8 else maybe(st.integers(-1, 0xFFFF))
    return st.builds(Heartbeat, st.integers(-(1 << 63), (1 << 63) - 1), acks)


@cache
def from_server(version: int) -> st.SearchStrategy[ServerMessage]:
    return st.one_of(
        st.builds(Ready, u32, texts, u16, several(texts), several(texts), several(streams)),
        heartbeats(version),
        st.builds(
            SessionDescription,
            maybe(texts),
            maybe(texts),
            maybe(texts),
            maybe(texts),
            maybe(st.binary(min_size=32, max_size=32)),
            maybe(texts),
            maybe(u63),
            u16,
        ),
        both_speaking,
        st.builds(HeartbeatAck, st.integers(-(1 << 63), (1 << 63) - 1)),
        st.builds(Hello, st.floats(1e-3, 1e9), maybe(u16)),
        st.just(Resumed()),
        st.builds(ClientsConnect, several(snowflakes)),
        both_video,
        st.builds(ClientDisconnect, snowflakes),
        both_updates,
        both_wants,
        st.builds(BackendVersion, texts, texts),
        st.builds(ClientFlags, snowflakes, maybe(u63)),
        st.builds(ClientPlatform, snowflakes, maybe(u63)),
        st.builds(PrepareTransition, u16, u16),
        st.builds(ExecuteTransition, u16),
        st.builds(PrepareEpoch, u16, u63),
        st.builds(MlsExternalSender, mls),
        st.builds(MlsProposals, mls),
        st.builds(MlsAnnounceCommit, u16, mls),
        st.builds(MlsWelcome, u16, mls),
    )


@cache
def from_client(version: int) -> st.SearchStrategy[ClientMessage]:
    channels = st.none() if version < 9 else maybe(snowflakes)
    acks = st.just(-1) if version < 8 else st.integers(-1, 0xFFFF)
    return st.one_of(
        st.builds(
            Identify,
            snowflakes,
            snowflakes,
            texts,
            texts,
            channels,
            st.booleans(),
            several(streams),
            u16,
        ),
        st.builds(
            SelectProtocol,
            texts,
            texts,
            u16,
            texts,
            st.none(),
            several(codecs),
            maybe(texts),
            several(texts),
        ),
        st.builds(SelectProtocol, texts, sdp=texts, codecs=several(codecs)),
        heartbeats(version),
        both_speaking,
        st.builds(Resume, snowflakes, texts, texts, acks, channels),
        both_video,
        both_updates,
        both_wants,
        st.just(BackendVersionRequest()),
        st.builds(TransitionReady, u16),
        st.builds(InvalidCommitWelcome, u16),
        st.just(NoRoute()),
        st.builds(MlsKeyPackage, mls),
        st.builds(MlsCommitWelcome, mls),
    )


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["1", "video", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELD_NAMES = """
server_id user_id session_id token channel_id video streams protocol data codecs ssrc ip port
modes experiments t seq_ack audio_codec secret_key speaking delay v heartbeat_interval
user_ids audio_ssrc video_ssrc rtx_ssrc any 1 pixelCounts voice rtc_worker flags platform
protocol_version transition_id epoch rid quality max_resolution guild_id endpoint
"""
field_names = st.sampled_from(FIELD_NAMES.split())
nearly = st.fixed_dictionaries(
    {"op": st.integers(-1, 34) | json_values},
    optional={
        "d": json_values | st.dictionaries(field_names, json_values, max_size=8),
        "seq": json_values,
    },
).map(json.dumps)
frames = st.text() | st.binary() | json_values.map(json.dumps) | nearly


# Property 1


@given(st.data(), versions, u16)
def test_server_messages_survive_the_wire(data: st.DataObject, version: int, seq: int) -> None:
    message = data.draw(from_server(version))
    frame = build(message, version=version, seq=seq)
    seen = None if isinstance(frame, str) and version < 8 else seq
    assert parse_from_server(frame, version=version) == (message, seen)


@given(st.data(), versions)
def test_client_messages_survive_the_wire(data: st.DataObject, version: int) -> None:
    message = data.draw(from_client(version))
    assert parse_from_client(build(message, version=version), version=version) == message


# Property 2


@given(frames, st.integers(1, 9))
def test_any_frame_is_a_value_or_malformed(frame: str | bytes, version: int) -> None:
    for parse in (parse_from_client, parse_from_server):
        with suppress(MalformedMessage):
            assert parse(frame, version=version) is not None


@given(frames, versions)
def test_whatever_is_understood_can_be_said_again(frame: str | bytes, version: int) -> None:
    try:
        message = parse_from_client(frame, version=version)
    except MalformedMessage:
        return
    if not isinstance(message, UnknownMessage | SelectProtocol):
        again = parse_from_client(build(message, version=version), version=version)
        assert again == message
        assert opcode_of(again) == opcode_of(message)


@given(json_values | st.dictionaries(field_names, json_values))
def test_any_dispatch_is_a_value_or_malformed(data: object) -> None:
    for parse in (parse_voice_state, parse_voice_server):
        with suppress(MalformedMessage):
            assert parse(data) is not None


# Property 8


DESCRIPTION = SessionDescription("opus", "H264", "m", "x", bytes(32))


class VoiceSessionMachine(RuleBasedStateMachine):
    """Any order of messages, calls and time: a deadline exists until the machine is closed."""

    @initialize(version=versions, steps=st.integers(0, 3))
    def connect(self, version: int, steps: int) -> None:
        self.version = version
        self.now = 1000.0
        self.machine = VoiceSession(
            VoiceCredentials("voice.example", "t", "s", 1, 2, 3),
            VoiceOptions(version=version),
            now=self.now,
        )
        self.greeted = False
        self.identified = False
        self.last_beat = self.now
        self.ended = False
        ready = Ready(7, "192.0.2.1", 5, ("m",))
        for message in (Hello(13750), ready, DESCRIPTION)[:steps]:
            self.server_goes_on(message)
            if message is ready and steps == 3:
                self.select()

    def flush(self) -> None:
        for frame in self.machine.messages_to_send():
            message = parse_from_client(frame, version=self.version)
            assert not isinstance(message, UnknownMessage)
            assert self.greeted, "nothing goes out before Hello"
            if isinstance(message, Identify):
                assert not self.identified
                self.identified = True
                self.last_beat = self.now
            else:
                assert self.identified, "Identify comes first"
            if isinstance(message, Heartbeat):
                self.last_beat = self.now
                if self.version >= 8:
                    assert message.seq_ack == self.machine.seq_ack
        while (event := self.machine.next_event()) is not None:
            assert not self.ended, "nothing comes after the end"
            self.ended = isinstance(event, TimedOut | HeartbeatMissed | ResumeFailed)

    @rule(data=st.data(), seq=maybe(u16))
    def server_says(self, data: st.DataObject, seq: int | None) -> None:
        message = data.draw(from_server(self.version))
        self.greeted = self.greeted or isinstance(message, Hello)
        before = self.machine.seq_ack
        binary = isinstance(
            message, MlsExternalSender | MlsProposals | MlsAnnounceCommit | MlsWelcome
        )
        seq = 0 if binary and seq is None else seq
        frame = build(message, version=self.version, seq=seq)
        if isinstance(frame, str):
            self.machine.receive_text(frame, self.now)
        else:
            self.machine.receive_binary(frame, self.now)
        counts = seq is not None and (binary or self.version >= 8)
        if not isinstance(self.machine.state, Closed):
            assert self.machine.seq_ack == (seq if counts else before)
        self.flush()

    @rule(
        message=st.builds(Hello, st.floats(100, 20_000))
        | st.builds(Ready, u32, texts, u16, several(texts))
        | st.just(DESCRIPTION)
    )
    def server_goes_on(self, message: ServerMessage) -> None:
        self.greeted = self.greeted or isinstance(message, Hello)
        frame = build(message, version=self.version)
        assert isinstance(frame, str)
        self.machine.receive_text(frame, self.now)
        self.flush()

    @rule(frame=frames)
    def server_talks_nonsense(self, frame: str | bytes) -> None:
        with suppress(MalformedMessage):
            message, _ = parse_from_server(frame, version=self.version)
            self.greeted = self.greeted or isinstance(message, Hello)
        if isinstance(frame, str):
            self.machine.receive_text(frame, self.now)
        else:
            self.machine.receive_binary(frame, self.now)
        self.flush()

    @precondition(lambda self: _may_select(self.machine))
    @rule()
    def select(self) -> None:
        self.machine.select_protocol(SelectProtocol("p", "192.0.2.1", 1, "m"), self.now)
        self.flush()

    @rule(message=both_speaking | both_video | st.builds(MlsKeyPackage, mls))
    def client_sends(self, message: Speaking | Video | MlsKeyPackage) -> None:
        self.machine.send(message, self.now)
        self.flush()

    @precondition(lambda self: not isinstance(self.machine.state, Closed))
    @rule(answer=st.booleans(), late=st.floats(0, 3))
    def time_passes_to_the_deadline(self, answer: bool, late: float) -> None:
        deadline = self.machine.next_timeout()
        assert deadline is not None
        self.now = max(self.now, deadline) + late
        self.machine.handle_timeout(self.now)
        self.flush()
        if answer and self.identified:
            frame = build(HeartbeatAck(-1), version=self.version)
            assert isinstance(frame, str)
            self.machine.receive_text(frame, self.now)
            self.flush()

    @precondition(lambda self: isinstance(self.machine.state, Live | Resuming))
    @rule(code=st.sampled_from([None, 1001, 4015]), opens=st.booleans())
    def the_websocket_is_lost(self, code: int | None, opens: bool) -> None:
        if self.version < 8:
            return
        assert self.machine.socket_lost(code, self.now)
        self.flush()
        if opens:
            self.machine.socket_opened(self.now)
            self.flush()

    @precondition(lambda self: isinstance(self.machine.state, Resuming))
    @rule()
    def server_resumes(self) -> None:
        for message in (Hello(13_750), Resumed()):
            frame = build(message, version=self.version)
            assert isinstance(frame, str)
            self.machine.receive_text(frame, self.now)
            self.flush()
        opened = isinstance(self.machine.state, Live)
        self.last_beat = self.now if opened else self.last_beat

    @invariant()
    def a_deadline_exists_until_closed(self) -> None:
        closed = isinstance(self.machine.state, Closed)
        assert (self.machine.next_timeout() is None) == closed
        assert closed == self.ended

    @invariant()
    def heartbeats_continue(self) -> None:
        deadline = self.machine.next_timeout()
        if isinstance(self.machine.state, Resuming):
            assert deadline is not None
            assert deadline <= self.now + 15.0
        elif self.identified and deadline is not None:
            # The longest interval is 5 s; a timer that fired late moves the schedule, not more.
            assert deadline <= max(self.last_beat, self.now) + 5.0


def _may_select(machine: VoiceSession) -> bool:
    return isinstance(machine.state, Selecting) and machine.state.deadline is None


TestVoiceSession = VoiceSessionMachine.TestCase
TestVoiceSession.settings = settings(max_examples=100, stateful_step_count=40)


# The roster and the joining machine agree with what they told


few_users = st.integers(1, 4)
few_ssrcs = st.integers(0, 12)
few_streams = several(st.builds(StreamInfo, ssrc=few_ssrcs, rtx_ssrc=maybe(few_ssrcs)))
roster_messages = st.one_of(
    st.builds(Speaking, st.integers(0, 5), few_ssrcs, few_users),
    st.builds(Video, few_ssrcs, few_ssrcs, maybe(few_ssrcs), few_streams, few_users),
    st.builds(ClientsConnect, several(few_users)),
    st.builds(ClientDisconnect, few_users),
)


@given(st.lists(roster_messages, max_size=30))
def test_following_the_changes_gives_the_roster(messages: list[ServerMessage]) -> None:
    roster = Roster(1)
    owners: dict[int, tuple[int, MediaKind]] = {}
    users: list[int] = []
    for message in messages:
        for change in roster.apply(message):
            match change:
                case UserJoined(user_id):
                    assert user_id not in users
                    users.append(user_id)
                case UserLeft(user_id):
                    users.remove(user_id)
                case SsrcNamed(ssrc, user_id, kind):
                    assert user_id in users
                    assert owners.get(ssrc, (user_id, kind)) == (user_id, kind)
                    owners[ssrc] = user_id, kind
                case SsrcRemoved(ssrc, user_id):
                    assert owners.pop(ssrc)[0] == user_id
                case _:
                    pass
        assert roster.users == tuple(users)
        assert 1 not in users
        for ssrc in range(15):
            owner = owners.get(ssrc)
            assert roster.user_of(ssrc) == (None if owner is None else owner[0])
            assert roster.kind_of(ssrc) == (None if owner is None else owner[1])
            rtx = roster.rtx_of(ssrc)
            assert rtx is None or roster.user_of(rtx) == roster.user_of(ssrc)


signaling_inputs = st.one_of(
    st.tuples(st.just("join"), st.integers(100, 101)),
    st.tuples(st.just("leave"), st.none()),
    st.tuples(st.just("state"), maybe(st.integers(100, 102))),
    st.tuples(st.just("server"), maybe(st.sampled_from(["a", "b"]))),
    st.tuples(st.just("time"), st.floats(0, 12)),
)


@given(st.lists(signaling_inputs, max_size=30))
def test_a_server_is_assigned_only_with_the_newest_of_both_events(
    inputs: list[tuple[str, Any]],
) -> None:
    machine = JoinSignaling(1, 10)
    now, session, token = 0.0, 0, 0
    for verb, value in inputs:
        match verb:
            case "join":
                machine.join(value, now=now)
            case "leave":
                machine.leave(now)
            case "state":
                session += 1
                data = {"user_id": "1", "guild_id": "10", "session_id": f"s{session}"}
                if value is not None:
                    data["channel_id"] = str(value)
                machine.receive_event("VOICE_STATE_UPDATE", data, now)
            case "server":
                token += 1
                server = {"token": f"t{token}", "guild_id": "10", "endpoint": value}
                machine.receive_event("VOICE_SERVER_UPDATE", server, now)
            case _:
                now += value
                machine.handle_timeout(now)
        while (event := machine.next_event()) is not None:
            if isinstance(event, ServerAssigned):
                assert event.credentials == machine.credentials
                assert verb in {"state", "server"}
                assert event.credentials.token == f"t{token}"
        deadline = machine.next_timeout()
        assert deadline is None or deadline > now - 12
