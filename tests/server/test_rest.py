from __future__ import annotations

import json
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from discord_rtc.server.gateway import GatewayConfig
from discord_rtc.server.hub import GatewayHub
from discord_rtc.server.rest import answer
from discord_rtc.server.world import VoiceRequest, World

if TYPE_CHECKING:
    from discord_rtc.server.web import Answer
    from discord_rtc.server.world import Ticket, VoiceState

ANN, BOB, EVE = 1, 2, 3
OPEN, CLOSED = 10, 11
LOUNGE, OFFICE, CELLAR = 20, 21, 22

GATEWAY = "wss://here:1/gateway"


class Silence:
    """A voice gateway that nobody is connected to."""

    def end(self, ticket: Ticket, code: int, reason: str, *, notice: float = 0.0) -> bool:
        raise AssertionError((ticket, code, reason, notice))

    def update(self, state: VoiceState) -> None:
        raise AssertionError(state)


@pytest.fixture
def hub() -> GatewayHub:
    """A guild that all see, and one that only Bob was ever in."""
    world = World()
    hub = GatewayHub(world, Silence(), GatewayConfig(), Counter())
    hub.add_guild(OPEN, "open", {LOUNGE: "lounge", OFFICE: "office"})
    world.update_voice(BOB, "session", VoiceRequest(CLOSED, CELLAR))
    hub.set_name(ANN, "Ann")
    return hub


def ask(
    hub: GatewayHub, path: str, token: str | None = f"Bot user-{ANN}", method: str = "GET"
) -> Answer:
    return answer(method, path, token, gateway_url=GATEWAY, directory=hub)


def got(hub: GatewayHub, path: str, token: str = f"Bot user-{ANN}") -> object:
    found = ask(hub, path, token)
    assert found.status == HTTPStatus.OK
    assert found.headers["Content-Type"] == "application/json"
    assert int(found.headers["Content-Length"]) == len(found.body)
    return json.loads(found.body)


def test_the_token_says_who_asks(hub: GatewayHub) -> None:
    ann = got(hub, "/api/v10/users/@me")
    assert isinstance(ann, dict)
    assert (ann["id"], ann["username"], ann["bot"]) == ("1", "Ann", True)
    bob = got(hub, "/api/v10/users/@me", f"user-{BOB}")
    assert isinstance(bob, dict)
    assert (bob["id"], bob["username"]) == ("2", "user-2")


@pytest.mark.parametrize("path", ["/users/@me", "/gateway/bot", "/guilds/10", "/no/such/thing"])
@pytest.mark.parametrize("token", [None, "", "Bot", "Bot abc", "Bearer user-1", "Bot user-x"])
def test_without_a_token_of_ours_there_is_discords_401(
    hub: GatewayHub, path: str, token: str | None
) -> None:
    found = ask(hub, f"/api/v10{path}", token)
    assert found.status == HTTPStatus.UNAUTHORIZED
    assert found.headers["Content-Type"] == "application/json"
    assert json.loads(found.body) == {"message": "401: Unauthorized", "code": 0}


def test_where_the_gateway_is_may_be_asked_by_anybody(hub: GatewayHub) -> None:
    assert json.loads(ask(hub, "/api/v10/gateway", None).body) == {"url": GATEWAY}


def test_bots_learn_that_one_connection_is_enough(hub: GatewayHub) -> None:
    found = got(hub, "/api/v10/gateway/bot")
    assert isinstance(found, dict)
    assert (found["url"], found["shards"]) == (GATEWAY, 1)
    limit = found["session_start_limit"]
    assert limit.keys() == {"total", "remaining", "reset_after", "max_concurrency"}


@pytest.mark.parametrize("path", ["/oauth2/applications/@me", "/applications/@me"])
def test_an_application_is_its_bot(hub: GatewayHub, path: str) -> None:
    found = got(hub, f"/api/v10{path}")
    assert isinstance(found, dict)
    assert (found["id"], found["name"], found["owner"]["id"]) == ("1", "Ann", "1")


@pytest.mark.parametrize("prefix", ["/api", "/api/v8", "/api/v9", "/api/v10"])
def test_every_version_of_the_interface_is_the_same(hub: GatewayHub, prefix: str) -> None:
    assert got(hub, f"{prefix}/users/@me") == got(hub, "/api/v10/users/@me")


def test_guilds_are_shown_to_those_who_see_them(hub: GatewayHub) -> None:
    ann, bob = got(hub, "/api/v10/users/@me/guilds"), got(hub, "/api/users/@me/guilds", "user-2")
    assert isinstance(ann, list)
    assert isinstance(bob, list)
    assert [guild["id"] for guild in ann] == ["10"]
    assert [guild["id"] for guild in bob] == ["10", "11"]


def test_a_guild_is_what_the_gateway_says_it_is(hub: GatewayHub) -> None:
    found = got(hub, "/api/v10/guilds/10")
    assert isinstance(found, dict)
    assert found == hub.describe(hub.guilds_seen_by(ANN)[0])
    assert [channel["name"] for channel in found["channels"]] == ["lounge", "office"]


def test_asking_changes_nothing(hub: GatewayHub) -> None:
    before = got(hub, "/api/v10/guilds/10")
    assert got(hub, "/api/v10/guilds/10") == before
    assert isinstance(before, dict)
    assert before["member_count"] == 0, "Ann has not logged in yet"


def test_channels_can_be_asked_for_alone_and_together(hub: GatewayHub) -> None:
    both = got(hub, "/api/v10/guilds/10/channels")
    assert isinstance(both, list)
    assert [(one["id"], one["name"], one["type"]) for one in both] == [
        ("20", "lounge", 2),
        ("21", "office", 2),
    ]
    assert got(hub, "/api/v10/channels/21") == both[1]


def test_there_are_no_default_sounds(hub: GatewayHub) -> None:
    assert got(hub, "/api/v10/soundboard-default-sounds") == []


def test_members_are_those_who_were_there(hub: GatewayHub) -> None:
    member = got(hub, "/api/v10/guilds/11/members/2", "user-2")
    assert isinstance(member, dict)
    assert member["user"] == got(hub, "/api/v10/users/2")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/guilds/11", 10004),
        ("/guilds/999", 10004),
        ("/guilds/11/channels", 10004),
        ("/guilds/11/members/2", 10004),
        ("/guilds/10/members/3", 10007),
        ("/channels/22", 10003),
        ("/channels/10", 10003),
    ],
)
def test_what_a_user_does_not_see_is_unknown(hub: GatewayHub, path: str, code: int) -> None:
    found = ask(hub, f"/api/v10{path}")
    assert found.status == HTTPStatus.NOT_FOUND
    error = json.loads(found.body)
    assert error["code"] == code
    assert error["message"].startswith("Unknown ")


@pytest.mark.parametrize(
    "path",
    [
        "/api/",
        "/api/v10",
        "/api/v10/",
        "/api/v11/users/@me",
        "/api/v5/users/@me",
        "/api/v10/users",
        "/api/v10/users/ann",
        "/api/v10/users/@me/",
        "/api/v10/users/12345678901234567890",
        "/api/v10/channels/20/messages",
        "/api/v10/applications/1/commands",
        "/api/v10/guilds/\N{ARABIC-INDIC DIGIT ONE}0",
    ],
)
def test_everything_else_is_discords_404(hub: GatewayHub, path: str) -> None:
    found = ask(hub, path)
    assert found.status == HTTPStatus.NOT_FOUND
    assert found.headers["Content-Type"] == "application/json"
    assert json.loads(found.body) == {"message": "404: Not Found", "code": 0}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_can_be_changed(hub: GatewayHub, method: str) -> None:
    found = ask(hub, "/api/v10/channels/20", method=method)
    assert found.status == HTTPStatus.METHOD_NOT_ALLOWED
    assert found.headers["Allow"] == "GET, HEAD"
    assert json.loads(found.body) == {"message": "405: Method Not Allowed", "code": 0}
    missing = ask(hub, "/api/v10/applications/1/commands", method=method)
    assert missing.status == HTTPStatus.NOT_FOUND


def test_head_is_get_without_the_body(hub: GatewayHub) -> None:
    for path in ("/api/v10/users/@me", "/api/v10/gateway"):
        head = ask(hub, path, method="HEAD")
        assert head.body == b""
        assert head.headers == ask(hub, path).headers
