"""``discord-rtc serve``: the local server, until Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from discord_rtc.cli.shell import EXIT_INTERRUPTED, Interrupted, not_built, refuse, run
from discord_rtc.errors import RtcError

if TYPE_CHECKING:
    from discord_rtc.server import LocalServer

WELCOME = """\
Page     {page}  (a browser joins the call here)
Gateway  {url}
Voice    {voice}, media on UDP port {udp_port}
Tokens   user-1 is user 1, user-2 is user 2 and so on: nobody needs to sign up
Guilds   every guild and channel exists as soon as somebody joins it
E2EE     off

A client that sends a tone for ten seconds:

    import asyncio
    from discord_rtc import Gateway, RtcClient, TestTone

    async def main():
        async with (
            Gateway("{token}", url="{url}") as gateway,
            RtcClient(gateway) as client,
        ):
            voice = await client.join(guild_id=10, channel_id=20)
            await voice.publish(microphone=TestTone())
            await asyncio.sleep(10)

    asyncio.run(main())

Ctrl-C ends the server."""


class ServeDave(StrEnum):
    """Choices of ``--dave``."""

    OFF = "off"
    OPTIONAL = "optional"
    REQUIRED = "required"


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for every one of this machine.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", help="TCP and UDP port; 0 takes a free one.")
    ] = 8585,
    dave: Annotated[
        ServeDave, typer.Option(help="End-to-end encryption (DAVE); only off is built yet.")
    ] = ServeDave.OFF,
) -> None:
    """Run the local voice server until Ctrl-C and print what a client needs.

    Exit codes: 2 usage or a busy port, 130 Ctrl-C.
    """
    if dave is not ServeDave.OFF:
        not_built(f"--dave {dave}")
    if not 0 <= port <= 65535:
        refuse(f"--port is 0 to 65535, not {port}")
    # It takes a quarter of a second to import, which --help need not wait for.
    from discord_rtc.server import LocalServer  # noqa: PLC0415 - see above

    try:
        run(_serve(LocalServer(host=host, port=port)))
    except Interrupted:
        if sys.stdout.isatty():
            print()  # below the ^C of the terminal
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except RtcError as error:
        refuse(str(error))


async def _serve(server: LocalServer) -> None:
    async with server:
        welcome = WELCOME.format(
            page=server.page_url,
            url=server.gateway_url,
            voice=server.voice_endpoint,
            udp_port=server.media_address[1],
            token=server.token_for(1),
        )
        print(welcome, flush=True)
        await asyncio.Event().wait()
