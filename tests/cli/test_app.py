"""What every user sees first: versions, help, and how fast they come."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Shell


def test_the_version(shell: Shell) -> None:
    ended = shell.run("--version")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout == f"discord-rtc {version('discord-rtc')}\n"


def test_the_installed_command_is_the_same(shell: Shell) -> None:
    command = Path(sys.executable).with_name("discord-rtc")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout == shell.run("--help").stdout


def test_help_names_the_commands(shell: Shell) -> None:
    ended = shell.run("--help")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith("Usage: discord-rtc [OPTIONS] COMMAND")
    assert "demo   A call through a local server" in ended.stdout
    assert "serve  Run the local voice server" in ended.stdout


def test_no_arguments_show_the_help(shell: Shell) -> None:
    ended = shell.run()
    # Typer's code for this changed from 0 to 2.
    assert ended.code in {0, 2}
    assert ended.stdout + ended.stderr == shell.run("--help").stdout


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            "demo",
            "--media --transport --to --dave --codec --golive --loss --seed --seconds --out --json",
        ),
        ("serve", "--host --port --dave --tls"),
        ("bench", "--rtt --json"),
    ],
    ids=["demo", "serve", "bench"],
)
def test_the_help_of_a_command(command: str, options: str, shell: Shell) -> None:
    ended = shell.run(command, "--help")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout == shell.run(command, "-h").stdout
    for option in options.split():
        assert f"  {option} " in ended.stdout
    assert "Exit codes: " in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 80


def test_an_unknown_command_is_a_usage_error(shell: Shell) -> None:
    ended = shell.run("sing")
    assert ended.code == 2
    assert "Error: No such command 'sing'" in ended.stderr


def test_help_does_not_wait_for_what_only_calls_need() -> None:
    code = (
        "import sys, discord_rtc.cli.app\n"
        "heavy = {'av', 'aiortc', 'numpy', 'asyncio.events', 'websockets', 'rich.progress'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # asyncio is what the commands are run with.
    assert done.stdout.strip() in {"[]", "['asyncio.events']"}
