"""The client's side of the main gateway."""

from __future__ import annotations

import json

import pytest

from discord_rtc.protocol.main_gateway import (
    COMMAND_BOUND,
    SHORTEST_INTERVAL,
    Dispatched,
    Established,
    GatewayEvent,
    GatewayFailed,
    GatewaySession,
)

HELLO = json.dumps({"op": 10, "d": {"heartbeat_interval": 40_000}})
READY = {"user": {"id": "7", "username": "ann"}, "guilds": []}


def dispatch(name: object, data: object, sequence: object = 1) -> str:
    return json.dumps({"op": 0, "t": name, "d": data, "s": sequence})


def sent(session: GatewaySession) -> list[tuple[int, object]]:
    messages = [json.loads(message) for message in session.messages_to_send()]
    return [(message["op"], message["d"]) for message in messages]


def events(session: GatewaySession) -> list[GatewayEvent]:
    found = []
    while (event := session.next_event()) is not None:
        found.append(event)
    return found


@pytest.fixture
def session() -> GatewaySession:
    return GatewaySession("secret", 129, now=100.0)


@pytest.fixture
def established(session: GatewaySession) -> GatewaySession:
    session.receive_text(HELLO, 100.0)
    session.receive_text(dispatch("READY", READY), 100.0)
    sent(session)
    events(session)
    return session


def test_hello_is_answered_with_identify_once(session: GatewaySession) -> None:
    assert session.messages_to_send() == []
    session.receive_text(HELLO, 100.0)
    session.receive_text(HELLO, 100.0)
    [(opcode, data)] = sent(session)
    assert opcode == 2
    assert isinstance(data, dict)
    assert (data["token"], data["intents"]) == ("secret", 129)


def test_ready_establishes_the_session(session: GatewaySession) -> None:
    session.receive_text(HELLO, 100.0)
    assert session.user_id is None
    session.receive_text(dispatch("READY", READY), 100.5)
    assert session.user_id == 7
    assert events(session) == [Established(7), Dispatched("READY", READY)]


def test_a_second_ready_is_a_mere_dispatch(established: GatewaySession) -> None:
    established.receive_text(dispatch("READY", {"user": {"id": "8"}}), 101.0)
    assert established.user_id == 7
    assert events(established) == [Dispatched("READY", {"user": {"id": "8"}})]


def test_dispatches_are_handed_on(established: GatewaySession) -> None:
    established.receive_text(dispatch("VOICE_STATE_UPDATE", {"a": [1]}), 101.0)
    assert events(established) == [Dispatched("VOICE_STATE_UPDATE", {"a": [1]})]


def test_commands_before_ready_are_kept_bounded_and_in_order(session: GatewaySession) -> None:
    session.receive_text(HELLO, 100.0)
    sent(session)
    for number in range(COMMAND_BOUND + 3):
        session.send(4, {"n": number})
    assert sent(session) == []
    session.receive_text(dispatch("READY", READY), 100.0)
    assert sent(session) == [(4, {"n": number}) for number in range(3, COMMAND_BOUND + 3)]


def test_commands_after_ready_go_at_once(established: GatewaySession) -> None:
    established.send(4, {"guild_id": "1"})
    assert sent(established) == [(4, {"guild_id": "1"})]


def test_heartbeats_carry_the_last_sequence_number(established: GatewaySession) -> None:
    assert established.next_timeout() == 140.0
    established.receive_text(dispatch("X", {}, 41), 101.0)
    established.receive_text(dispatch("X", {}, None), 101.0)
    established.receive_text(dispatch("X", {}, True), 101.0)
    established.handle_timeout(139.9)
    assert sent(established) == []
    established.handle_timeout(140.0)
    assert sent(established) == [(1, 41)]
    assert established.next_timeout() == 180.0


def test_answered_heartbeats_go_on(established: GatewaySession) -> None:
    for beat in range(1, 5):
        established.handle_timeout(100.0 + 40 * beat)
        established.receive_text('{"op": 11}', 100.1 + 40 * beat)
    assert len(sent(established)) == 4
    assert events(established) == []


def test_an_unanswered_heartbeat_ends_the_session(established: GatewaySession) -> None:
    established.handle_timeout(140.0)
    established.handle_timeout(180.0)
    [failed] = events(established)
    assert failed == GatewayFailed("the gateway stopped answering heartbeats", timed_out=True)
    assert established.next_timeout() is None
    established.handle_timeout(500.0)
    assert events(established) == []


def test_a_heartbeat_that_is_asked_for_is_sent_at_once(session: GatewaySession) -> None:
    session.receive_text('{"op": 1, "d": null}', 100.0)
    assert sent(session) == [(1, None)]
    session.receive_text(HELLO, 101.0)
    session.receive_text('{"op": 1, "d": null}', 110.0)
    assert sent(session)[1:] == [(1, None)]
    assert session.next_timeout() == 110.0  # READY is still awaited


def test_no_ready_in_time_ends_the_session() -> None:
    session = GatewaySession("secret", 129, now=100.0, timeout=3.0)
    assert session.next_timeout() == 103.0
    session.handle_timeout(103.0)
    assert events(session) == [
        GatewayFailed("the gateway did not send READY in time", timed_out=True)
    ]


def test_an_invalid_session_is_a_refusal(session: GatewaySession) -> None:
    session.receive_text('{"op": 9, "d": false}', 100.0)
    assert events(session) == [GatewayFailed("the gateway refused the session")]


@pytest.mark.parametrize(
    "interval", [None, True, "40", 0, -1, 10**400, [], {"a": 1}], ids=lambda value: repr(value)[:9]
)
def test_a_hello_without_a_sensible_interval_ends_the_session(
    session: GatewaySession, interval: object
) -> None:
    session.receive_text(json.dumps({"op": 10, "d": {"heartbeat_interval": interval}}), 100.0)
    assert events(session) == [GatewayFailed("the gateway greeted without a heartbeat interval")]
    assert session.messages_to_send() == []


def test_a_tiny_interval_does_not_make_the_timer_spin(session: GatewaySession) -> None:
    session.receive_text(json.dumps({"op": 10, "d": {"heartbeat_interval": 1e-9}}), 100.0)
    assert session.next_timeout() == 100.0 + SHORTEST_INTERVAL


@pytest.mark.parametrize("user", [None, 7, {}, {"id": "x"}, {"id": None}])
def test_a_ready_without_a_user_ends_the_session(session: GatewaySession, user: object) -> None:
    session.receive_text(HELLO, 100.0)
    session.receive_text(dispatch("READY", {"user": user}), 100.0)
    assert events(session) == [GatewayFailed("the gateway's READY names no user")]
    assert session.user_id is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "1",
        "null",
        '{"op": 99}',
        '{"op": "x"}',
        '{"op": 0, "t": 1, "d": {}}',
        '{"op": 0, "t": "X", "d": []}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:12],
)
def test_what_makes_no_sense_is_ignored(established: GatewaySession, text: str) -> None:
    established.receive_text(text, 101.0)
    assert events(established) == []
    assert established.messages_to_send() == []


def test_no_token_in_the_representation() -> None:
    assert "secret" not in repr(GatewaySession("secret", 129, now=0.0))
