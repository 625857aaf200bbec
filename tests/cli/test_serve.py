"""``discord-rtc serve`` in a process of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Shell

LAST_LINE = "Ctrl-C ends the server.\n"


@pytest.fixture
def serving(shell: Shell) -> Iterator[subprocess.Popen[str]]:
    """A server on a free port, whatever it prints still unread."""
    with shell.start("serve", "--port", 0) as process:
        yield process
        if process.poll() is None:
            process.kill()


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
    assert "E2EE     off" in welcome
    assert max(map(len, welcome.splitlines())) <= 80
    assert end(serving, number) < 2


def test_the_client_that_it_shows_works_even_while_the_server_ends(
    serving: subprocess.Popen[str], shell: Shell
) -> None:
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
        (("--dave", "required"), "--dave required is not built yet in this version"),
        (("--dave", "optional"), "--dave optional is not built yet in this version"),
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
