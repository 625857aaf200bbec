"""``discord-rtc serve`` in a process of its own."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pytest
from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Shell

LAST_LINE = "Ctrl-C ends the server.\n"


@contextmanager
def served(shell: Shell, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A server on a free port, whatever it prints still unread."""
    with shell.start("serve", "--port", 0, *arguments) as process:
        yield process
        if process.poll() is None:
            process.kill()


@pytest.fixture
def serving(shell: Shell) -> Iterator[subprocess.Popen[str]]:
    with served(shell) as process:
        yield process


@pytest.fixture
def serving_clear(shell: Shell) -> Iterator[subprocess.Popen[str]]:
    """A server that has nothing to say about encryption."""
    with served(shell, "--dave", "off") as process:
        yield process


def read_welcome(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while lines[-1] not in {LAST_LINE, ""}:
        lines.append(process.stdout.readline())
    return "".join(lines)


def end(process: subprocess.Popen[str], number: signal.Signals) -> float:
    """Send a signal; how long the end took. Nothing more may be printed."""
    begun = time.monotonic()
    process.send_signal(number)
    assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 130
    return time.monotonic() - begun


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_interrupted(
    number: signal.Signals, serving: subprocess.Popen[str]
) -> None:
    welcome = read_welcome(serving)
    assert "Gateway  ws://127.0.0.1:" in welcome
    assert "E2EE     optional (off in rooms with a browser" in welcome
    assert max(map(len, welcome.splitlines())) <= 80
    assert end(serving, number) < 2


def test_bots_of_other_libraries_get_tls_and_a_guild(shell: Shell) -> None:
    with served(shell, "--tls") as process:
        welcome = read_welcome(process)
        assert max(map(len, welcome.splitlines())) <= 80
        lines = dict(line.split(maxsplit=1) for line in welcome.splitlines()[:10])
        rest, gateway, file = (lines[name].split()[0] for name in ("REST", "TLS", "Trust"))
        assert "E2EE" in lines
        trust = ssl.create_default_context(cafile=file)
        request = Request(f"{rest}/users/@me", headers={"Authorization": "Bot user-500"})
        with urlopen(request, context=trust, timeout=5) as answer:
            assert json.load(answer)["id"] == "500"
        with connect(f"{gateway}?v=10&encoding=json", ssl=trust) as websocket:
            assert json.loads(websocket.recv(timeout=5))["op"] == 10
            identify = {"token": "user-500", "intents": 0, "properties": {}}
            websocket.send(json.dumps({"op": 2, "d": identify}))
            assert json.loads(websocket.recv(timeout=5))["t"] == "READY"
            guild = json.loads(websocket.recv(timeout=5))
        assert guild["t"] == "GUILD_CREATE"
        assert lines["Bots"] == (
            f"see guild {guild['d']['id']} with voice channel {guild['d']['channels'][0]['id']}"
        )
        end(process, signal.SIGINT)
        assert not Path(file).exists()


def test_tls_is_on_the_port_after_the_other(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    with shell.start("serve", "--port", port, "--tls") as process:
        welcome = read_welcome(process)
        assert f"ws://127.0.0.1:{port}/gateway" in welcome
        assert f"wss://127.0.0.1:{port + 1}/gateway" in welcome
        end(process, signal.SIGINT)


CALL = """
import asyncio, sys
from discord_rtc import ConnectionOptions, Gateway, RtcClient

async def join(user_id, dave, stay):
    async with Gateway(f"user-{user_id}", url=sys.argv[1]) as gateway, RtcClient(gateway) as client:
        voice = await client.join(10, 20, options=ConnectionOptions(dave=dave))
        await stay(voice)

async def other(voice):
    while voice.e2ee != "active":
        await asyncio.sleep(0.02)
    await join(3, "off", lambda voice: asyncio.sleep(0))

async def first(voice):
    await join(2, "preferred", other)

asyncio.run(join(1, "preferred", first))
"""


def test_it_tells_when_the_encryption_of_a_room_goes_on_and_off(
    serving: subprocess.Popen[str],
) -> None:
    url = read_welcome(serving).partition("Gateway  ")[2].partition("\n")[0]
    subprocess.run([sys.executable, "-c", CALL, url], check=True, timeout=30)
    serving.send_signal(signal.SIGINT)
    lines = serving.communicate(timeout=10)[0].splitlines()
    assert lines[:2] == [
        "encryption on in room 20",
        "encryption off in room 20: user 3 does not support it",
    ]
    assert set(lines[2:]) <= {"encryption on in room 20"}


@pytest.mark.parametrize(
    ("mode", "text"),
    [("required", "required (a browser, which has none, is refused)"), ("off",) * 2],
)
def test_the_mode_is_printed(shell: Shell, mode: str, text: str) -> None:
    with served(shell, "--dave", mode) as process:
        welcome = read_welcome(process)
        assert f"E2EE     {text}\n" in welcome
        assert max(map(len, welcome.splitlines())) <= 80
        end(process, signal.SIGINT)


def test_an_unknown_mode_is_refused(shell: Shell) -> None:
    ended = shell.run("serve", "--dave", "preferred")
    assert ended.code == 2
    assert "'required'" in ended.stderr
    assert "'optional'" in ended.stderr


def test_the_client_that_it_shows_works_even_while_the_server_ends(
    serving_clear: subprocess.Popen[str], shell: Shell
) -> None:
    serving = serving_clear
    welcome = read_welcome(serving)
    code = welcome.partition("for ten seconds:")[2].partition("Ctrl-C")[0]
    lines = [line.removeprefix("    ") for line in code.splitlines()]
    script = "\n".join(lines).replace("asyncio.sleep(10)", "asyncio.sleep(0.5)")
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)

    stays = script.replace(
        "await asyncio.sleep(0.5)", "print(1, flush=True); await asyncio.Event().wait()"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", stays],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with client:
        assert client.stdout is not None
        assert client.stdout.readline() == "1\n"
        assert end(serving, signal.SIGINT) < 4
        client.kill()


def test_a_busy_port_is_one_sentence(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = shell.run("serve", "--port", port)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.sentence == f"port {port} on 127.0.0.1 is already in use"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--port", "99999"), "--port is 0 to 65535, not 99999"),
        (("--port", "-1"), "--port is 0 to 65535, not -1"),
        (
            ("--port", "65535", "--tls"),
            "--tls needs the port after --port, and there is none after 65535",
        ),
    ],
    ids=" ".join,
)
def test_what_is_refused(arguments: tuple[str, ...], sentence: str, shell: Shell) -> None:
    ended = shell.run("serve", *arguments)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.sentence == sentence


def test_an_address_of_another_machine_is_refused(shell: Shell) -> None:
    ended = shell.run("serve", "--host", "192.0.2.1")  # TEST-NET-1, RFC 5737
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.sentence.startswith("cannot listen on 192.0.2.1: ")


def test_usage_errors_are_exit_code_2(shell: Shell) -> None:
    ended = shell.run("serve", "--port", "http")
    assert ended.code == 2
    assert "Error: " in ended.stderr
