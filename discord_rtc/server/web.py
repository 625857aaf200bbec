"""Plain HTTP of the local server: its web page, and who is in which room. Sans-I/O.

The files of the page are read once into a table, and a request is looked up in it: no path of
a request ever reaches the file system. REST routes of Discord live below ``/api``, in
`discord_rtc.server.rest`.

Spec: W3C CSP level 3; RFC 9110 section 9.3 (GET, HEAD) and 15.5.6 (405).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from discord_rtc.server.channel import RoomInfo
    from discord_rtc.server.encryption import DaveMode

ROOMS_PATH = "/rooms.json"

METHODS = ("GET", "HEAD")

_INDEX = "index.html"
_ASSETS = "/page/"

_JSON = "application/json"  # exactly this: discord.py does not parse JSON of a type with a charset

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# The page talks to both gateways. 'self' covers the host that it was loaded from (CSP 3 section
# 6.7.2.8 lets an http origin match ws), the rest is where the voice gateway says that it is:
# the page may have been loaded from "localhost" or a name of the machine.
_POLICY = (
    "default-src 'self'; connect-src 'self' ws://{endpoint} wss://{endpoint}; "
    "img-src 'self' data:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer a request with.

    Attributes:
        status: Of HTTP.
        headers: In order, Content-Length included.
        body: Empty for HEAD.
    """

    status: HTTPStatus
    headers: Mapping[str, str]
    body: bytes


@cache
def page_files() -> Mapping[str, tuple[str, bytes]]:
    """Content type and content of every file of the page, by the path of its URL."""
    files: dict[str, tuple[str, bytes]] = {}
    for entry in resources.files("discord_rtc.server").joinpath("page").iterdir():
        _, dot, suffix = entry.name.rpartition(".")
        path = "/" if entry.name == _INDEX else f"{_ASSETS}{entry.name}"
        files[path] = (_TYPES[dot + suffix], entry.read_bytes())
    return MappingProxyType(files)


def rooms_json(
    rooms: Iterable[RoomInfo], name_of: Callable[[int], str], dave: DaveMode = "off"
) -> bytes:
    """Everybody in every room, for the page: what neither gateway tells its clients.

    Args:
        rooms: As `LocalServer.rooms` has them.
        name_of: What a user is called.
        dave: What holds for end-to-end encryption.
    """
    described = [
        {
            "guild_id": None if room.guild_id is None else str(room.guild_id),
            "channel_id": str(room.channel_id),
            "e2ee": room.e2ee,
            "e2ee_reason": room.e2ee_reason,
            "users": [
                {
                    "id": str(user_id),
                    "name": name_of(user_id),
                    "transport": room.transports.get(user_id),
                }
                for user_id in room.user_ids
            ],
        }
        for room in rooms
    ]
    return json.dumps({"dave": dave, "rooms": described}).encode()


def answer(method: str, path: str, *, endpoint: str, rooms: Callable[[], bytes]) -> Answer:
    """Answer a request that is no websocket.

    Args:
        method: As it was sent.
        path: Without the query, not decoded: no path of ours needs an escape.
        endpoint: Host and port that this client reaches the voice gateway at.
        rooms: Makes the body for `ROOMS_PATH`.
    """
    extra = {"X-Content-Type-Options": "nosniff"}
    if path == ROOMS_PATH:
        extra["Cache-Control"] = "no-store"
    elif path in page_files():
        extra["Cache-Control"] = "no-cache"  # the next version of the server has other files
        extra["Content-Security-Policy"] = _POLICY.format(endpoint=endpoint)
        extra["Referrer-Policy"] = "no-referrer"
    else:
        return refuse(HTTPStatus.NOT_FOUND, method)
    if method not in METHODS:
        return refuse(HTTPStatus.METHOD_NOT_ALLOWED, method)
    content_type, body = (_JSON, rooms()) if path == ROOMS_PATH else page_files()[path]
    return _make(HTTPStatus.OK, method, content_type, body, extra)


def answer_json(
    data: object, method: str, status: HTTPStatus = HTTPStatus.OK, *, allow: bool = False
) -> Answer:
    """Answer with an object of Discord's.

    Args:
        data: What `json.dumps` takes.
        method: As it was sent.
        status: Of HTTP.
        allow: Whether to say which methods there are.
    """
    extra = {"Allow": ", ".join(METHODS)} if allow else {}
    return _make(status, method, _JSON, json.dumps(data).encode(), extra)


def refuse(status: HTTPStatus, method: str, reason: tuple[int, str] | None = None) -> Answer:
    """Answer with an error in the shape that Discord gives it.

    Args:
        status: Of HTTP.
        method: As it was sent.
        reason: Discord's JSON error code and its sentence; without, the status in words.
    """
    code, sentence = reason or (0, f"{status.value}: {status.phrase}")
    error = {"message": sentence, "code": code}
    return answer_json(error, method, status, allow=status is HTTPStatus.METHOD_NOT_ALLOWED)


def _make(
    status: HTTPStatus, method: str, content_type: str, body: bytes, extra: Mapping[str, str]
) -> Answer:
    headers = {
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
        "Connection": "close",
        **extra,
    }
    return Answer(status, headers, b"" if method == "HEAD" else body)
