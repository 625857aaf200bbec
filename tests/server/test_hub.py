from __future__ import annotations

import json
from collections import Counter
from typing import cast

import pytest

from discord_rtc.protocol.messages import Identify
from discord_rtc.server.gateway import GatewayConfig
from discord_rtc.server.hub import (
    MOVE_NOTICE,
    GatewayHub,
    GatewayPeer,
    token_for,
    user_of_token,
)
from discord_rtc.server.world import Ticket, VoiceRequest, VoiceState, World

ANN, BOB, EVE = 1, 2, 3
GUILD, LOUNGE, OFFICE = 10, 20, 21

Json = dict[str, object]


class VoiceLog:
    """Stands in for the voice gateway and writes down what it is told."""

    def __init__(self) -> None:
        self.ended: list[tuple[Ticket, int]] = []
        self.notices: list[float] = []
        self.updated: list[VoiceState] = []

    def end(self, ticket: Ticket, code: int, reason: str, *, notice: float = 0.0) -> bool:
        assert reason
        self.notices.append(notice)
        self.ended.append((ticket, code))
        return True

    def update(self, state: VoiceState) -> None:
        self.updated.append(state)


class House:
    """A hub with its world."""

    def __init__(self, *, server_update_first: bool = False) -> None:
        self.voice = VoiceLog()
        self.world = World(grant_video=lambda user_id: user_id != EVE)
        self.counters: Counter[str] = Counter()
        self.hub = GatewayHub(
            self.world,
            self.voice,
            GatewayConfig(),
            self.counters,
            server_update_first=server_update_first,
        )

    def connect(self) -> Client:
        return Client(self)

    def user(self, user_id: int) -> Client:
        """A client that is logged in and has read everything."""
        client = self.connect()
        client.send(2, {"token": token_for(user_id)})
        client.received()
        return client


class Client:
    def __init__(self, house: House) -> None:
        self.hub = house.hub
        self.wakes = 0
        self.peer: GatewayPeer = house.hub.connect(
            "ws://here/gateway", "here:1", self.wake, compress=False
        )
        self.peer.session.open(0.0)

    def wake(self) -> None:
        self.wakes += 1

    def send(self, opcode: int, data: object) -> None:
        self.peer.session.receive_text(json.dumps({"op": opcode, "d": data}), 1.0)
        self.hub.drain(self.peer)

    def voice(self, channel_id: int | None, guild_id: int | None = GUILD, **flags: object) -> None:
        ids = {
            "guild_id": None if guild_id is None else str(guild_id),
            "channel_id": None if channel_id is None else str(channel_id),
        }
        self.send(4, ids | flags)

    def received(self) -> list[tuple[str, Json]]:
        """Name and data of the events since the last call."""
        messages = [json.loads(frame) for frame in self.peer.session.messages_to_send()]
        return [(m["t"], m["d"]) for m in messages if m["op"] == 0]

    def names(self) -> list[str]:
        return [name for name, _ in self.received()]

    def hang_up(self) -> None:
        self.peer.session.connection_lost(1000, 2.0)
        self.hub.drain(self.peer)


@pytest.mark.parametrize(
    ("token", "user_id"),
    [
        ("user-5", 5),
        ("Bot user-5", 5),
        (token_for(2**63), 2**63),
        ("user-", None),
        ("user-x", None),
        ("user-5 ", None),
        ("5", None),
        ("user-99999999999999999999", None),
        ("user-٣", None),
    ],
)
def test_tokens_name_their_user(token: str, user_id: int | None) -> None:
    assert user_of_token(token) == user_id


def test_login_is_answered_with_ready() -> None:
    house = House()
    house.hub.set_name(ANN, "ann")
    client = house.connect()
    client.send(2, {"token": "user-1"})
    ((name, ready),) = client.received()
    assert name == "READY"
    user = cast("Json", ready["user"])
    assert (user["id"], user["username"], user["bot"]) == ("1", "ann", True)
    assert ready["session_id"] == client.peer.session.session_id
    assert ready["resume_gateway_url"] == "ws://here/gateway"
    assert ready["guilds"] == []
    assert cast("Json", ready["application"])["id"] == "1"
    assert house.hub.users == {ANN: "ann"}
    assert client.wakes > 0


def test_a_name_may_come_with_the_login() -> None:
    house = House()
    house.hub.set_name(ANN, "user of before")
    client = house.connect()
    client.send(2, {"token": "user-1", "properties": {"name": "Ann"}})
    ((_, ready),) = client.received()
    assert cast("Json", ready["user"])["username"] == "Ann"
    assert [house.hub.name_of(user) for user in (ANN, BOB)] == ["Ann", "user-2"]


def test_guilds_follow_ready() -> None:
    house = House()
    house.hub.add_guild(GUILD, "guild", {LOUNGE: "lounge"})
    house.user(BOB).voice(LOUNGE)
    client = house.connect()
    client.send(2, {"token": "user-1"})
    (_, ready), (name, guild) = client.received()
    assert ready["guilds"] == [{"id": "10", "unavailable": True}]
    assert (name, guild["id"], guild["name"]) == ("GUILD_CREATE", "10", "guild")
    (channel,) = cast("list[Json]", guild["channels"])
    assert (channel["id"], channel["type"], channel["name"]) == ("20", 2, "lounge")
    (state,) = cast("list[Json]", guild["voice_states"])
    assert (state["user_id"], state["channel_id"]) == ("2", "20")
    assert "member" not in state
    assert len(cast("list[Json]", guild["members"])) == 2
    (role,) = cast("list[Json]", guild["roles"])
    assert role["id"] == "10"


def test_a_guild_added_later_is_shown_to_everyone() -> None:
    house = House()
    waiting, ann = house.connect(), house.user(ANN)
    house.hub.add_guild(GUILD, "guild", {})
    assert ann.names() == ["GUILD_CREATE"]
    assert waiting.names() == []
    house.user(BOB).voice(LOUNGE)
    assert ann.names() == ["GUILD_MEMBER_ADD", "CHANNEL_CREATE", "VOICE_STATE_UPDATE"]


def test_a_new_member_is_told_to_the_others_once() -> None:
    house = House()
    house.hub.add_guild(GUILD, "guild", {})
    ann = house.user(ANN)
    bob = house.connect()
    bob.send(2, {"token": token_for(BOB), "properties": {"name": "Bob"}})
    house.user(BOB)
    assert bob.names() == ["READY", "GUILD_CREATE"]
    ((name, member),) = ann.received()
    assert name == "GUILD_MEMBER_ADD"
    assert member["guild_id"] == str(GUILD)
    assert cast("Json", member["user"])["username"] == "Bob"


def test_joining_gets_the_guild_then_the_state_then_the_server() -> None:
    ann = House().user(ANN)
    ann.voice(LOUNGE)
    (first, _), (second, state), (third, server) = ann.received()
    assert (first, second, third) == ("GUILD_CREATE", "VOICE_STATE_UPDATE", "VOICE_SERVER_UPDATE")
    assert (state["guild_id"], state["channel_id"], state["user_id"]) == ("10", "20", "1")
    assert state["session_id"] == ann.peer.session.session_id
    assert (server["guild_id"], server["endpoint"]) == ("10", "here:1")
    assert server["token"]
    assert "channel_id" not in server


def test_the_server_update_can_come_first() -> None:
    ann = House(server_update_first=True).user(ANN)
    ann.voice(LOUNGE)
    assert ann.names() == ["GUILD_CREATE", "VOICE_SERVER_UPDATE", "VOICE_STATE_UPDATE"]


def test_the_ticket_of_a_lost_websocket_is_announced_again_and_first() -> None:
    house = House()
    ann = house.user(ANN)
    ann.voice(LOUNGE)
    ann.received()
    ticket = house.world.ticket_of(GUILD, ANN)
    assert ticket is not None
    house.world.claim(Identify(ticket.server_id, ANN, ticket.session_id, ticket.token))
    house.world.detach(ticket)
    ann.voice(LOUNGE)
    (name, server), (other, _) = ann.received()
    assert (name, other) == ("VOICE_SERVER_UPDATE", "VOICE_STATE_UPDATE")
    assert server["token"] == ticket.token


def test_members_see_who_joins_but_not_the_server_update() -> None:
    house = House()
    ann, bob, eve = house.user(ANN), house.user(BOB), house.user(EVE)
    ann.voice(LOUNGE)
    bob.voice(LOUNGE)
    ann.received()
    bob.received()
    bob.voice(OFFICE)
    assert ann.names() == ["CHANNEL_CREATE", "VOICE_STATE_UPDATE"]
    assert bob.names() == ["CHANNEL_CREATE", "VOICE_STATE_UPDATE", "VOICE_SERVER_UPDATE"]
    assert eve.names() == []


def test_only_the_session_that_asked_gets_the_server_update() -> None:
    house = House()
    first, second = house.user(ANN), house.user(ANN)
    first.voice(LOUNGE)
    assert "VOICE_SERVER_UPDATE" in first.names()
    assert second.names() == ["GUILD_CREATE", "VOICE_STATE_UPDATE"]
    assert len(house.hub.users) == 1


def test_a_move_ends_the_old_voice_session() -> None:
    house = House()
    ann = house.user(ANN)
    ann.voice(LOUNGE)
    old = house.world.ticket_of(GUILD, ANN)
    ann.voice(OFFICE)
    assert house.voice.ended == [(old, 4014)]
    assert house.voice.notices == [MOVE_NOTICE]


def test_mute_is_shown_and_keeps_the_voice_session() -> None:
    house = House()
    ann = house.user(ANN)
    ann.voice(LOUNGE)
    ann.received()
    ann.voice(LOUNGE, self_mute=True)
    ((name, state),) = ann.received()
    assert (name, state["self_mute"], state["self_deaf"]) == ("VOICE_STATE_UPDATE", True, False)
    assert house.voice.ended == []
    assert [state.self_mute for state in house.voice.updated] == [True]


def test_video_is_answered_as_granted() -> None:
    house = House()
    eve, ann = house.user(EVE), house.user(ANN)
    eve.voice(LOUNGE, self_video=True)
    ann.voice(LOUNGE, self_video=True)
    shown = {
        data["user_id"]: data["self_video"] for name, data in eve.received() if "STATE" in name
    }
    assert shown == {"3": False, "1": True}


def test_a_private_call_is_known_to_its_participants() -> None:
    house = House()
    ann, bob, eve = house.user(ANN), house.user(BOB), house.user(EVE)
    ann.voice(77, None)
    (_, state), (_, server) = ann.received()
    assert "guild_id" not in state
    assert "member" not in state
    assert (server["guild_id"], server["channel_id"]) == (None, "77")
    bob.voice(77, None)
    assert ann.names() == ["VOICE_STATE_UPDATE"]
    assert eve.names() == []


def test_leaving_ends_the_voice_session() -> None:
    house = House()
    ann = house.user(ANN)
    ann.voice(LOUNGE)
    ann.received()
    ann.voice(None)
    ((name, state),) = ann.received()
    assert (name, state["channel_id"]) == ("VOICE_STATE_UPDATE", None)
    assert [code for _, code in house.voice.ended] == [4014]


def test_leaving_from_nowhere_is_answered() -> None:
    ann = House().user(ANN)
    ann.voice(None, 4711)
    assert ann.names() == ["VOICE_STATE_UPDATE"]


def test_the_end_of_a_gateway_session_leaves_voice() -> None:
    house = House()
    ann, bob = house.user(ANN), house.user(BOB)
    ann.voice(LOUNGE)
    bob.voice(LOUNGE)
    bob.received()
    ann.hang_up()
    ((name, state),) = bob.received()
    assert (name, state["user_id"], state["channel_id"]) == ("VOICE_STATE_UPDATE", "1", None)
    assert [code for _, code in house.voice.ended] == [4014]
    assert house.hub.users == {BOB: "user-2"}
    assert house.counters["gateway.closed.1000"] == 1


def test_a_stranger_who_leaves_changes_nothing() -> None:
    house = House()
    stranger = house.connect()
    stranger.peer.session.connection_lost(None, 1.0)
    house.hub.drain(stranger.peer)
    assert house.counters == {"gateway.opened": 1, "gateway.closed.1006": 1}


def test_a_change_without_a_client_is_told_to_the_others() -> None:
    house = House()
    ann = house.user(ANN)
    ann.voice(LOUNGE)
    ann.received()
    house.hub.apply(house.world.update_voice(BOB, "nobody", VoiceRequest(GUILD, LOUNGE)))
    assert ann.names() == ["GUILD_MEMBER_ADD", "VOICE_STATE_UPDATE"]


@pytest.mark.parametrize(
    ("asked", "found", "missing"),
    [
        ({}, ["1", "2", "3"], []),
        ({"query": "", "limit": 0}, ["1", "2", "3"], []),
        ({"query": "B", "limit": 5}, ["2"], []),
        ({"query": "", "limit": 2}, ["1", "2"], []),
        ({"user_ids": ["3", "9"]}, ["3"], ["9"]),
    ],
)
def test_members_are_told_to_who_asks(asked: Json, found: list[str], missing: list[str]) -> None:
    house = House()
    house.hub.add_guild(GUILD, "guild", {LOUNGE: "lounge"})
    clients = [house.user(user_id) for user_id in (ANN, BOB, EVE)]
    house.hub.set_name(BOB, "bob")
    for client in clients:
        client.received()
    clients[0].send(8, asked | {"guild_id": str(GUILD), "nonce": "n"})
    ((name, chunk),) = clients[0].received()
    assert name == "GUILD_MEMBERS_CHUNK"
    assert (chunk["guild_id"], chunk["nonce"]) == ("10", "n")
    assert (chunk["chunk_index"], chunk["chunk_count"]) == (0, 1)
    members = cast("list[dict[str, Json]]", chunk["members"])
    assert [member["user"]["id"] for member in members] == found
    assert chunk["not_found"] == missing
    assert clients[1].received() == []


def test_members_of_a_guild_that_one_does_not_see_are_not_told() -> None:
    house = House()
    house.user(ANN).voice(LOUNGE)
    bob = house.user(BOB)
    bob.send(8, {"guild_id": str(GUILD)})
    bob.send(8, {"guild_id": "999"})
    assert bob.received() == []
    assert house.counters["gateway.unknown-guild"] == 2
