"""``discord-rtc serve``: the local server, until Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from discord_rtc.cli.shell import EXIT_INTERRUPTED, Interrupted, refuse, run
from discord_rtc.errors import RtcError

if TYPE_CHECKING:
    from discord_rtc.server import LocalServer
    from discord_rtc.server.channel import RoomInfo

WELCOME = """\
Page     {page}  (a browser joins the call here)
Gateway  {url}
Voice    {voice}, media on UDP port {udp_port}
Tokens   user-1 is user 1, user-2 is user 2 and so on: nobody needs to sign up
Guilds   every guild and channel exists as soon as somebody joins it
E2EE     {e2ee}
{tls}
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

TLS = """\
REST     {api_url}
TLS      {tls_gateway_url}  (gateway for bots of other libraries)
Trust    {ca_file}  (as SSL_CERT_FILE)
Bots     see guild {guild_id} with voice channel {channel_id}
"""

GUILD_ID, CHANNEL_ID = 10, 20
"""What bots see: their libraries join only what the login showed them."""

_E2EE = {
    "required": "required (a browser, which has none, is refused)",
    "optional": "optional (off in rooms with a browser, which has none)",
    "off": "off",
}


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
        ServeDave,
        typer.Option(
            help="End-to-end encryption (DAVE): required refuses who has none, optional switches "
            "it off in rooms with one of them, which browsers are."
        ),
    ] = ServeDave.OPTIONAL,
    tls: Annotated[
        bool,
        typer.Option(
            "--tls",
            help="Serve bots of other libraries, too: REST and gateway over TLS on the next port, "
            "with a certificate made for this run.",
        ),
    ] = False,
) -> None:
    """Run the local voice server until Ctrl-C and print what a client needs.

    Exit codes: 2 usage or a busy port, 130 Ctrl-C.
    """
    if not 0 <= port <= 65535:
        refuse(f"--port is 0 to 65535, not {port}")
    if tls and port == 65535:
        refuse("--tls needs the port after --port, and there is none after 65535")
    # It takes a quarter of a second to import, which --help need not wait for.
    from discord_rtc.server import LocalServer  # noqa: PLC0415 - see above

    try:
        server = LocalServer(
            host=host,
            port=port,
            dave=dave,
            tls=tls,
            tls_port=port and port + 1,
            on_encryption=_tell,
        )
        run(_serve(server, tls=tls))
    except Interrupted:
        if sys.stdout.isatty():
            print()  # below the ^C of the terminal
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except RtcError as error:
        refuse(str(error))


def _tell(room: RoomInfo) -> None:
    if room.e2ee == "off":
        print(f"encryption off in room {room.channel_id}: {room.e2ee_reason}", flush=True)
    else:
        print(f"encryption on in room {room.channel_id}", flush=True)


async def _serve(server: LocalServer, *, tls: bool) -> None:
    async with server:
        if tls:
            server.add_guild(GUILD_ID, {CHANNEL_ID: "lounge"})
        welcome = WELCOME.format(
            page=server.page_url,
            url=server.gateway_url,
            voice=server.voice_endpoint,
            udp_port=server.media_address[1],
            token=server.token_for(1),
            e2ee=_E2EE[server.dave],
            tls=_tls_lines(server) if tls else "",
        )
        print(welcome, flush=True)
        await asyncio.Event().wait()


def _tls_lines(server: LocalServer) -> str:
    return TLS.format(
        api_url=server.api_url,
        tls_gateway_url=server.tls_gateway_url,
        ca_file=server.ca_file,
        guild_id=GUILD_ID,
        channel_id=CHANNEL_ID,
    )
