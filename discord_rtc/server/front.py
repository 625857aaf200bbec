"""The TCP ports of the local server: websockets of both gateways, and HTTP.

The main gateway is at ``/gateway`` (and at any path with an ``encoding`` in its query, which
is how client libraries ask for it), the voice gateway at every other path. What is no
websocket is answered by `discord_rtc.server.rest` below ``/api``, else by
`discord_rtc.server.web`.

A second port may do the same over TLS. Each client is told addresses of the port that it came
to, so libraries that hard-code TLS and those that do without meet in one room.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.http11 import Response

from discord_rtc.errors import InvalidState, UsageError
from discord_rtc.server import rest, web
from discord_rtc.server.websocket import Link

if TYPE_CHECKING:
    import ssl
    from collections import Counter
    from collections.abc import Mapping

    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request

    from discord_rtc.clock import Clock
    from discord_rtc.server.hub import GatewayHub
    from discord_rtc.server.voice_gateway import VoiceGateway

_LOG = logging.getLogger("discord_rtc.server")

# websockets' own log holds whole frames (tokens!) at DEBUG and tracebacks for mere junk at
# ERROR; what matters of it is counted or logged here.
_WEBSOCKETS_LOG = logging.getLogger("discord_rtc.server.websockets")
_WEBSOCKETS_LOG.setLevel(logging.CRITICAL)

_CLOSE_TIMEOUT = 2.5  # seconds for all websockets to close; then they are cut
_ABORT_TIMEOUT = 0.5  # seconds for the cut ones to be gone
_PEER_TIMEOUT = 2.0  # seconds that a client gets for its part of opening or closing
_MAX_MESSAGE = 1 << 18  # bytes; the largest real ones are SDP offers of some 20 kB
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared with, not bound to


class AddressInUse(UsageError):
    """Another program listens on the port that was asked for."""


class Front:
    """Accepts websockets and runs each with its gateway.

    Args:
        host: Name or address to listen on.
        port: 0 for any free one.
        ssl_context: For TLS on this port.
        clock: Ticks like the running loop's time.
        counters: Gets ``crashed``, connections that failed by a bug of the server.

    Attributes:
        address: Address and port, once `bind` has returned.
        tls_address: Address and port of the second port, once `bind_tls` has returned.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ssl_context: ssl.SSLContext | None,
        clock: Clock,
        counters: Counter[str],
    ) -> None:
        self.address = (host, port)
        self.tls_address: tuple[str, int] | None = None
        self._host = host
        self._ssl_context = ssl_context
        self._clock = clock
        self._counters = counters
        self._links: set[Link] = set()
        self._servers: list[Server] = []
        self._gateways: tuple[GatewayHub, VoiceGateway] | None = None

    def endpoint(self, connection: ServerConnection | None = None) -> str:
        """Host and port of the voice gateway, as reached by one client, or from here.

        Raises:
            InvalidState: There is no port yet.
        """
        if not self._servers:
            raise InvalidState("the server was not started")
        host, port = _WILDCARDS.get(self._host, self._host), self.address[1]
        if connection is not None:
            port = connection.local_address[1]
            if self._host in _WILDCARDS:
                host = str(connection.local_address[0])
        return _endpoint(host, port)

    def url(self, connection: ServerConnection | None = None) -> str:
        """Where the main gateway is, as reached by one client, or from here."""
        secure = self._ssl_context is not None
        if connection is not None:
            secure = connection.transport.get_extra_info("ssl_object") is not None
        return f"{'wss' if secure else 'ws'}://{self.endpoint(connection)}/gateway"

    def page_url(self) -> str:
        """Where the web page is, as reached from here."""
        scheme = "http" if self._ssl_context is None else "https"
        return f"{scheme}://{self.endpoint()}/"

    def tls_endpoint(self) -> str:
        """Host and port of the second port, as reached from here.

        Raises:
            InvalidState: There is none.
        """
        if self.tls_address is None:
            raise InvalidState("the server has no TLS port; it has one with tls=True once started")
        return _endpoint(_WILDCARDS.get(self._host, self._host), self.tls_address[1])

    async def bind(self) -> None:
        """Take the port, without accepting anybody yet.

        Raises:
            AddressInUse: The port is taken.
            UsageError: The host is not an address of this machine, or not allowed.
        """
        self.address = await self._bind(*self.address, self._ssl_context)

    async def bind_tls(self, port: int, ssl_context: ssl.SSLContext) -> None:
        """Take a second port of the same address, for TLS.

        Raises:
            AddressInUse: The port is taken.
        """
        self.tls_address = await self._bind(self.address[0], port, ssl_context)

    async def accept(self, hub: GatewayHub, voice: VoiceGateway) -> None:
        """Begin to accept websockets, for these two."""
        assert self._servers
        self._gateways = (hub, voice)
        for server in self._servers:
            await server.start_serving()

    async def aclose(self) -> None:
        """Close all websockets (1001) and the ports, within 3 s."""
        assert self._servers
        for server in self._servers:
            server.close()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._wait_closed()
        except TimeoutError:
            for link in tuple(self._links):
                link.abort()
            with suppress(TimeoutError):
                async with asyncio.timeout(_ABORT_TIMEOUT):
                    await self._wait_closed()

    async def _wait_closed(self) -> None:
        for server in self._servers:
            await server.wait_closed()

    async def _bind(
        self, host: str, port: int, ssl_context: ssl.SSLContext | None
    ) -> tuple[str, int]:
        try:
            infos = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )
            # One address, IPv4 when there is one: all of Discord's media servers have IPv4.
            infos.sort(key=lambda info: info[0] != socket.AF_INET)
            ip = str(infos[0][4][0])
            server = await serve(
                self._serve,
                ip,
                port,
                ssl=ssl_context,
                ssl_handshake_timeout=None if ssl_context is None else _PEER_TIMEOUT,
                process_request=self._answer_http,
                # Frames are small and the machine is near: compression costs more than it saves.
                compression=None,
                open_timeout=_PEER_TIMEOUT,
                close_timeout=_PEER_TIMEOUT,
                ping_interval=None,  # both protocols have heartbeats of their own
                max_size=_MAX_MESSAGE,
                logger=_WEBSOCKETS_LOG,
                server_header=None,
                start_serving=False,
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(f"port {port} on {host} is already in use") from error
            raise UsageError(f"cannot listen on {host}: {error.strerror}") from error
        self._servers.append(server)
        return ip, next(iter(server.sockets)).getsockname()[1]

    async def _serve(self, connection: ServerConnection) -> None:
        link = Link(connection, self._clock)
        self._links.add(link)
        try:
            await self._run(link, connection)
        except Exception:
            self._counters["crashed"] += 1
            _LOG.exception("! a connection failed; this is a bug of the server")
            raise
        finally:
            self._links.discard(link)

    def _answer_http(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return None
        assert self._gateways is not None
        hub, voice = self._gateways
        # Older versions of websockets parse nothing but GET, and do not say so.
        method: str = getattr(request, "method", "GET")
        path = request.path.partition("?")[0]
        if path.startswith(rest.PREFIX):
            token = next(iter(request.headers.get_all("Authorization")), None)
            url = self.url(connection)
            answer = rest.answer(method, path, token, gateway_url=url, directory=hub)
        else:
            answer = web.answer(
                method,
                path,
                endpoint=self.endpoint(connection),
                rooms=lambda: web.rooms_json(voice.rooms.values(), hub.name_of, voice.dave),
            )
        return Response(
            answer.status.value, answer.status.phrase, Headers(answer.headers), answer.body
        )

    async def _run(self, link: Link, connection: ServerConnection) -> None:
        assert connection.request is not None
        assert self._gateways is not None
        hub, voice = self._gateways
        path, _, query = connection.request.path.partition("?")
        asked = parse_qs(query)
        if path.rstrip("/") == "/gateway" or "encoding" in asked:
            # Who asks for zstd-stream gets text, which such clients read just as well.
            compress = asked.get("compress") == ["zlib-stream"]
            url, endpoint = self.url(connection), self.endpoint(connection)
            client = hub.connect(url, endpoint, link.wake, compress=compress)
            await link.run(client.session, partial(hub.drain, client))
        else:
            # Where the client reached the gateway it reaches the media too, wildcard or not.
            ip = str(connection.local_address[0])
            # Only pages come from somewhere (Fetch standard, "Origin header").
            browser = "Origin" in connection.request.headers
            peer = voice.connect(_version(asked), ip, link.wake, abort=link.abort, browser=browser)
            await link.run(peer.session, partial(voice.drain, peer))


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _version(query: Mapping[str, list[str]]) -> int | None:
    values = query.get("v", [])
    digits = values[-1] if values else ""
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 4 else None
