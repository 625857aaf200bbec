from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.server.gateway import (
    MAX_UNREAD,
    GatewayConfig,
    GatewayServerEvent,
    GatewayServerSession,
    LoggedIn,
    LoggedOut,
    MembersRequested,
    VoiceRequested,
)
from discord_rtc.server.world import VoiceRequest


class Client:
    """The other end of a session, at times that the test chooses."""

    def __init__(self, *, compress: bool = False) -> None:
        config = GatewayConfig(heartbeat_interval_ms=1000, new_session_id=lambda: "the-session")
        users = {"the-token": 5}
        self.session = GatewayServerSession(config, users.get, compress=compress)
        self.now = 100.0
        self.session.open(self.now)

    def send(self, opcode: int, data: object = None) -> None:
        self.session.receive_text(json.dumps({"op": opcode, "d": data}), self.now)

    def received(self) -> list[dict[str, object]]:
        return [json.loads(frame) for frame in self.session.messages_to_send()]

    def opcodes(self) -> list[object]:
        return [message["op"] for message in self.received()]

    def events(self) -> list[GatewayServerEvent]:
        found = []
        while (event := self.session.next_event()) is not None:
            found.append(event)
        return found

    def logged_in(self) -> Client:
        self.send(2, {"token": "the-token", "intents": 0, "properties": {}})
        self.received()
        self.events()
        return self

    @property
    def code(self) -> int | None:
        return None if self.session.closing is None else self.session.closing[0]


def test_the_server_says_hello_first() -> None:
    hello = {"op": 10, "d": {"heartbeat_interval": 1000}, "s": None, "t": None}
    assert Client().received() == [hello]


def test_identify_logs_in() -> None:
    client = Client()
    client.send(2, {"token": "the-token", "intents": 0, "properties": {}})
    assert client.events() == [LoggedIn(5)]
    assert client.session.user_id == 5
    assert client.session.session_id == "the-session"


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("Ann", "Ann"),
        ("  Ann \n of\tGables\x00", "Ann of Gables"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}nnA", "nnA"),
        ("x" * 40, "x" * 32),
        (" \r\n ", None),
        ("", None),
        (None, None),
    ],
)
def test_identify_may_carry_a_name(wanted: str | None, name: str | None) -> None:
    client = Client()
    client.send(2, {"token": "the-token", "properties": {"os": "web", "name": wanted}})
    assert client.events() == [LoggedIn(5, name)]


@pytest.mark.parametrize("identify", [{"token": "guess", "intents": 0}, {"token": None}, {}])
def test_a_wrong_token_is_refused(identify: dict[str, object]) -> None:
    client = Client()
    client.send(2, identify)
    assert client.code == 4004
    assert client.events() == [LoggedOut(4004, "authentication failed")]


def test_a_second_identify_is_refused() -> None:
    client = Client().logged_in()
    client.send(2, {"token": "the-token"})
    assert client.code == 4005


def test_nothing_but_identify_comes_first() -> None:
    client = Client()
    client.send(4, {"guild_id": "1", "channel_id": "2"})
    assert client.code == 4003


def test_heartbeats_are_acknowledged_before_and_after_identify() -> None:
    client = Client()
    client.opcodes()
    client.send(1, None)
    assert client.session.next_timeout() == 130.0
    client.logged_in().send(1, 7)
    assert client.opcodes() == [11]


def test_resume_is_answered_with_invalid_session() -> None:
    client = Client()
    client.opcodes()
    client.send(6, {"token": "the-token", "session_id": "x", "seq": 4})
    assert [(m["op"], m["d"]) for m in client.received()] == [(9, False)]
    client.logged_in()
    assert client.session.user_id == 5


def test_a_voice_request_is_reported() -> None:
    client = Client().logged_in()
    client.send(
        4,
        {
            "guild_id": "1",
            "channel_id": "2",
            "self_mute": True,
            "self_deaf": True,
            "self_video": True,
            "flags": 2,
        },
    )
    client.send(4, {"guild_id": None, "channel_id": None})
    full = VoiceRequest(1, 2, self_mute=True, self_deaf=True, self_video=True, flags=2)
    assert client.events() == [VoiceRequested(5, full), VoiceRequested(5, VoiceRequest(None, None))]


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "[]",
        "{",
        '{"d": {}}',
        '{"op": 4}',
        '{"op": 4, "d": {"guild_id": "x"}}',
        '{"op": 1, "d": "x"}',
    ],
)
def test_what_cannot_be_read_closes_with_4002(frame: str) -> None:
    client = Client().logged_in()
    client.session.receive_text(frame, 100.0)
    assert client.code == 4002


@pytest.mark.parametrize("opcode", [0, 7, 9, 10, 11, 44, 5000])
def test_an_unknown_opcode_closes_with_4001(opcode: int) -> None:
    client = Client().logged_in()
    client.send(opcode)
    assert client.code == 4001


@pytest.mark.parametrize("opcode", [3, 5, 18, 20])
def test_what_voice_does_not_need_is_ignored(opcode: int) -> None:
    client = Client().logged_in()
    client.send(opcode, {})
    assert (client.code, client.opcodes(), client.events()) == (None, [], [])


def test_a_request_for_members_is_read_in_every_shape_that_libraries_give_it() -> None:
    client = Client().logged_in()
    client.send(8, {"guild_id": 10, "presences": False, "limit": 5, "query": "a", "nonce": "n"})
    client.send(8, {"guild_id": "10", "user_ids": ["1", 2]})
    client.send(8, {"guild_id": "10", "user_ids": "1", "limit": 0, "query": ""})
    assert client.events() == [
        MembersRequested(10, "a", 5, (), "n"),
        MembersRequested(10, "", 0, (1, 2), None),
        MembersRequested(10, "", 0, (1,), None),
    ]


@pytest.mark.parametrize("data", [{}, {"guild_id": []}, {"guild_id": "1", "limit": -1}, None])
def test_a_request_for_members_of_nothing_closes_with_4002(data: object) -> None:
    client = Client().logged_in()
    client.send(8, data)
    assert client.code == 4002


def test_json_in_binary_frames_is_taken() -> None:
    client = Client()
    client.session.receive_binary(b'{"op": 2, "d": {"token": "the-token"}}', 100.0)
    assert client.session.user_id == 5


def test_events_are_numbered() -> None:
    client = Client().logged_in()
    client.session.dispatch("READY", {"v": 10})
    client.session.dispatch("RESUMED", {})
    assert client.received() == [
        {"op": 0, "d": {"v": 10}, "s": 1, "t": "READY"},
        {"op": 0, "d": {}, "s": 2, "t": "RESUMED"},
    ]


def test_compression_is_one_stream_with_a_flush_after_each_message() -> None:
    client = Client(compress=True)
    client.session.dispatch("READY", {"v": 10})
    inflate = zlib.decompressobj()
    messages = []
    for frame in client.session.messages_to_send():
        assert isinstance(frame, bytes)
        assert frame.endswith(b"\x00\x00\xff\xff")
        messages.append(json.loads(inflate.decompress(frame)))
    assert [message["op"] for message in messages] == [10, 0]


def test_a_client_that_does_not_identify_is_closed() -> None:
    client = Client()
    client.session.handle_timeout(129.9)
    assert client.code is None
    client.session.handle_timeout(130.0)
    assert client.code == 4009
    client.session.handle_timeout(200.0)
    assert len(client.events()) == 1


def test_two_intervals_without_a_heartbeat_close_the_session() -> None:
    client = Client().logged_in()
    assert client.session.next_timeout() == 102.0
    client.now = 101.0
    client.send(1, 1)
    assert client.session.next_timeout() == 103.0
    client.session.handle_timeout(103.0)
    assert client.code == 4009


def test_nothing_is_taken_or_said_after_the_end() -> None:
    client = Client().logged_in()
    client.session.connection_lost(1000, 100.0)
    client.session.connection_lost(None, 100.0)
    client.session.close(4000, "too late")
    client.session.dispatch("READY", {})
    client.send(1, 1)
    assert client.received() == []
    assert client.events() == [LoggedOut(1000, "closed by the client")]
    assert client.code is None
    assert client.session.next_timeout() is None


def test_a_client_that_does_not_read_is_closed() -> None:
    client = Client().logged_in()
    for _ in range(MAX_UNREAD):
        client.session.dispatch("TYPING_START", {})
    assert client.code is None
    client.session.dispatch("TYPING_START", {})
    assert client.code == 4008
    assert client.session.messages_to_send() == []


def test_a_flood_is_closed() -> None:
    client = Client().logged_in()
    for _ in range(500):
        client.send(1, 1)
    assert client.code == 4008


def test_session_ids_are_random_by_default() -> None:
    ids = {GatewayServerSession(GatewayConfig(), lambda _: None).session_id for _ in range(3)}
    assert len(ids) == 3


@given(st.lists(st.one_of(st.text(), st.binary(), st.integers(0, 50)), max_size=6))
def test_any_input_is_answered_or_closed(inputs: list[str | bytes | int]) -> None:
    client = Client().logged_in()
    for item in inputs:
        if isinstance(item, int):
            client.send(item, {"guild_id": item})
        elif isinstance(item, str):
            client.session.receive_text(item, client.now)
        else:
            client.session.receive_binary(item, client.now)
    ends = [event for event in client.events() if isinstance(event, LoggedOut)]
    assert len(ends) == (client.code is not None)
    assert client.session.next_timeout() == (None if ends else 102.0)
