from __future__ import annotations

import json
import re
from http import HTTPStatus
from types import MappingProxyType

import pytest

from discord_rtc.server.channel import RoomInfo
from discord_rtc.server.web import ROOMS_PATH, Answer, answer, page_files, rooms_json

ENDPOINT = "127.0.0.1:8585"


def ask(path: str, method: str = "GET") -> Answer:
    return answer(method, path, endpoint=ENDPOINT, rooms=lambda: b'{"rooms": []}')


def source(name: str) -> str:
    return page_files()[name][1].decode()


def test_the_page_is_at_the_root() -> None:
    found = ask("/")
    assert found.status == HTTPStatus.OK
    assert found.headers["Content-Type"] == "text/html; charset=utf-8"
    assert found.body.startswith(b"<!doctype html>")


def test_everything_that_the_page_names_is_there() -> None:
    named = set(re.findall(r'(?:src|href)="(/[^"]*)"', source("/")))
    assert named
    for name in page_files():
        if name.endswith(".js"):
            imports = re.findall(r'from "\./([\w.]+)"|new URL\("([\w.]+)"', source(name))
            named |= {f"/page/{one or other}" for one, other in imports}
    assert named <= page_files().keys()
    assert named | {"/"} == set(page_files()), "a file of the page that nothing asks for"


@pytest.mark.parametrize("path", sorted(page_files()))
def test_nothing_comes_from_elsewhere(path: str) -> None:
    text = source(path).replace("http://www.w3.org/2000/svg", "")
    # Header extensions of RTP have addresses for names; nobody ever loads them.
    urls = re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s\"'`]*", text)
    assert [url for url in urls if "rtp-hdrext" not in url and "rmcat" not in url] == []


@pytest.mark.parametrize("path", sorted(page_files()))
def test_text_of_people_never_becomes_markup(path: str) -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", source(path))


@pytest.mark.parametrize("path", sorted(page_files()))
def test_every_file_comes_with_its_type_and_the_policy(path: str) -> None:
    headers = ask(path).headers
    assert "text/" in headers["Content-Type"] or "image/svg" in headers["Content-Type"]
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'; ")
    assert f"connect-src 'self' ws://{ENDPOINT} wss://{ENDPOINT};" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_head_is_get_without_the_body() -> None:
    got, head = ask("/page/style.css"), ask("/page/style.css", "HEAD")
    assert head.body == b""
    assert head.headers == got.headers
    assert int(head.headers["Content-Length"]) == len(got.body)


@pytest.mark.parametrize("path", ["/", "/page/main.js", ROOMS_PATH])
def test_other_methods_are_refused(path: str) -> None:
    found = ask(path, "POST")
    assert found.status == HTTPStatus.METHOD_NOT_ALLOWED
    assert found.headers["Allow"] == "GET, HEAD"
    assert json.loads(found.body) == {"message": "405: Method Not Allowed", "code": 0}


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page",
        "/index.html",
        "/page/index.html",
        "/page/../web.py",
        "/page/..%2fweb.py",
        "/page/%2e%2e/web.py",
        "//etc/passwd",
        "/page/main.js/",
        "/api/v10/gateway",
        "",
    ],
)
def test_anything_else_is_not_found(path: str) -> None:
    found = ask(path)
    assert found.status == HTTPStatus.NOT_FOUND
    assert found.headers["Content-Type"] == "application/json"
    assert json.loads(found.body) == {"message": "404: Not Found", "code": 0}


def test_rooms_tell_who_is_there_and_how() -> None:
    names = {1: "Ann", 2: "Bob \N{SNOWMAN}"}
    rooms = [
        RoomInfo(10, 20, (1, 2), (2,), MappingProxyType({1: "udp", 2: "webrtc"})),
        RoomInfo(None, 30, (), (), e2ee="off", e2ee_reason="a browser is in the room"),
        RoomInfo(None, 31, (), (), e2ee="active", e2ee_epoch=3, e2ee_members=frozenset({5})),
    ]
    assert json.loads(rooms_json(rooms, names.__getitem__, "optional")) == {
        "dave": "optional",
        "rooms": [
            {
                "guild_id": "10",
                "channel_id": "20",
                "e2ee": "off",
                "e2ee_reason": None,
                "users": [
                    {"id": "1", "name": "Ann", "transport": "udp"},
                    {"id": "2", "name": "Bob \N{SNOWMAN}", "transport": "webrtc"},
                ],
            },
            {
                "guild_id": None,
                "channel_id": "30",
                "e2ee": "off",
                "e2ee_reason": "a browser is in the room",
                "users": [],
            },
            {
                "guild_id": None,
                "channel_id": "31",
                "e2ee": "active",
                "e2ee_reason": None,
                "users": [],
            },
        ],
    }


def test_rooms_are_never_kept() -> None:
    found = ask(ROOMS_PATH)
    assert found.headers["Cache-Control"] == "no-store"
    assert found.headers["Content-Type"] == "application/json"
    assert found.body == b'{"rooms": []}'
