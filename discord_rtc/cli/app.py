"""The commands of ``discord-rtc``. Imports little: what is heavy waits inside the commands."""

from __future__ import annotations

from typing import Annotated

import typer

import discord_rtc
from discord_rtc.cli.bench import bench
from discord_rtc.cli.demo import demo
from discord_rtc.cli.serve import serve

app = typer.Typer(
    name="discord-rtc",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(short_help="A call through a local server: send, receive, record.")(demo)
app.command(short_help="What things cost here: joining, step by step.")(bench)
app.command(short_help="Run the local voice server until Ctrl-C.")(serve)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"discord-rtc {discord_rtc.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Speak, listen, show and watch on Discord voice, with a local server to try it on."""
