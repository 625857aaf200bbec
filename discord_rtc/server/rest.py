"""The REST requests that bot libraries make before they connect to the gateway. Sans-I/O.

What discord.py, its forks, hikari and discord.js ask for on the way to a voice channel, and
nothing that would change anything: a bot's voice can be tried without an account, its commands
and messages cannot. Whoever shows the token of a user is that user.

Spec: Discord docs, "API Reference" (authentication, errors), "Gateway" (get gateway bot), and
the resources "User", "Application", "Guild" and "Channel"; JSON error codes from "Opcodes and
Status Codes".
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from discord_rtc.server.objects import (
    application_object,
    channel_object,
    current_user_object,
    member_object,
    user_object,
)
from discord_rtc.server.web import METHODS, Answer, answer_json, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from discord_rtc.server.world import Guild

PREFIX = "/api/"

_UNKNOWN_CHANNEL = (10003, "Unknown Channel")
_UNKNOWN_GUILD = (10004, "Unknown Guild")
_UNKNOWN_MEMBER = (10007, "Unknown Member")

# Of several versions of the path every library has its own; without one Discord takes 6.
_VERSION = re.compile(r"/api(?:/v(?:6|7|8|9|10))?(/.+)")

_SESSION_STARTS = {"total": 1000, "remaining": 1000, "reset_after": 0, "max_concurrency": 1}
"""Nobody counts logins here; these are Discord's numbers for a bot that did not log in today."""


class Directory(Protocol):
    """Who and what there is, which the main gateway's hub knows."""

    def user_of(self, token: str) -> int | None:
        """Whose token it is."""
        ...

    def name_of(self, user_id: int) -> str:
        """What a user is called."""
        ...

    def guilds_seen_by(self, user_id: int) -> tuple[Guild, ...]:
        """The guilds that a user sees, or would see after a login."""
        ...

    def describe(self, guild: Guild) -> dict[str, object]:
        """A guild's object, as in GUILD_CREATE."""
        ...


class _Asked(NamedTuple):
    user_id: int
    gateway_url: str
    directory: Directory


class _Missing(NamedTuple):
    code: int
    sentence: str


_Route: TypeAlias = "Callable[[_Asked, Mapping[str, int]], object]"


def answer(
    method: str, path: str, token: str | None, *, gateway_url: str, directory: Directory
) -> Answer:
    """Answer a request below `PREFIX`.

    Args:
        method: As it was sent.
        path: Without the query, not decoded.
        token: Value of the Authorization header, None without one.
        gateway_url: Where this client reaches the main gateway.
        directory: Looked things up in.
    """
    found = _VERSION.fullmatch(path)
    if found is None:
        return refuse(HTTPStatus.NOT_FOUND, method)
    route = found[1]
    if route == "/gateway" and method in METHODS:  # the one thing that needs no token
        return answer_json({"url": gateway_url}, method)
    user_id = None if token is None else directory.user_of(token)
    if user_id is None:
        return refuse(HTTPStatus.UNAUTHORIZED, method)
    asked = _Asked(user_id, gateway_url, directory)
    for pattern, make in _ROUTES.items():
        matched = pattern.fullmatch(route)
        if matched is not None:
            return _answer(method, make, asked, matched.groupdict())
    return refuse(HTTPStatus.NOT_FOUND, method)


def _answer(method: str, make: _Route, asked: _Asked, ids: Mapping[str, str]) -> Answer:
    if method not in METHODS:
        return refuse(HTTPStatus.METHOD_NOT_ALLOWED, method)
    made = make(asked, {name: int(text) for name, text in ids.items()})
    if isinstance(made, _Missing):
        return refuse(HTTPStatus.NOT_FOUND, method, made)
    return answer_json(made, method)


def _get_gateway_bot(asked: _Asked, _ids: Mapping[str, int]) -> object:
    return {"url": asked.gateway_url, "shards": 1, "session_start_limit": _SESSION_STARTS}


def _get_current_user(asked: _Asked, _ids: Mapping[str, int]) -> object:
    return current_user_object(asked.user_id, asked.directory.name_of(asked.user_id))


def _get_user(asked: _Asked, ids: Mapping[str, int]) -> object:
    return user_object(ids["user"], asked.directory.name_of(ids["user"]))


def _get_application(asked: _Asked, _ids: Mapping[str, int]) -> object:
    return application_object(asked.user_id, asked.directory.name_of(asked.user_id))


def _get_guilds(asked: _Asked, _ids: Mapping[str, int]) -> object:
    return [
        {
            "id": str(guild.guild_id),
            "name": guild.name,
            "icon": None,
            "owner": False,
            "permissions": "0",
            "features": [],
        }
        for guild in asked.directory.guilds_seen_by(asked.user_id)
    ]


def _guild_of(asked: _Asked, guild_id: int) -> Guild | None:
    seen = asked.directory.guilds_seen_by(asked.user_id)
    return next((guild for guild in seen if guild.guild_id == guild_id), None)


def _get_guild(asked: _Asked, ids: Mapping[str, int]) -> object:
    guild = _guild_of(asked, ids["guild"])
    return _Missing(*_UNKNOWN_GUILD) if guild is None else asked.directory.describe(guild)


def _get_channels(asked: _Asked, ids: Mapping[str, int]) -> object:
    guild = _guild_of(asked, ids["guild"])
    if guild is None:
        return _Missing(*_UNKNOWN_GUILD)
    return [channel_object(guild.guild_id, *channel) for channel in guild.channels.items()]


def _get_member(asked: _Asked, ids: Mapping[str, int]) -> object:
    guild = _guild_of(asked, ids["guild"])
    if guild is None:
        return _Missing(*_UNKNOWN_GUILD)
    user_id = ids["user"]
    if user_id not in guild.members:
        return _Missing(*_UNKNOWN_MEMBER)
    return member_object(user_id, asked.directory.name_of(user_id))


def _get_channel(asked: _Asked, ids: Mapping[str, int]) -> object:
    channel_id = ids["channel"]
    for guild in asked.directory.guilds_seen_by(asked.user_id):
        if channel_id in guild.channels:
            return channel_object(guild.guild_id, channel_id, guild.channels[channel_id])
    return _Missing(*_UNKNOWN_CHANNEL)


def _get_no_sounds(_asked: _Asked, _ids: Mapping[str, int]) -> object:
    return []  # py-cord asks at the login, and never gets ready without an answer


def _path(text: str) -> re.Pattern[str]:
    """``{name}`` stands for an id, which has at most 19 digits here as in tokens."""
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[0-9]{1,19})", text))


_ROUTES: Mapping[re.Pattern[str], _Route] = {
    _path("/gateway/bot"): _get_gateway_bot,
    _path("/users/@me"): _get_current_user,
    _path("/users/@me/guilds"): _get_guilds,
    _path("/users/{user}"): _get_user,
    _path("/applications/@me"): _get_application,
    _path("/oauth2/applications/@me"): _get_application,
    _path("/guilds/{guild}"): _get_guild,
    _path("/guilds/{guild}/channels"): _get_channels,
    _path("/guilds/{guild}/members/{user}"): _get_member,
    _path("/channels/{channel}"): _get_channel,
    _path("/soundboard-default-sounds"): _get_no_sounds,
}
