"""How the WebRTC transport finds its path: STUN and TURN servers, addresses, ports. No I/O.

Spec: RFC 7064 (``stun:`` URIs), RFC 7065 (``turn:`` URIs).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Literal

from discord_rtc.errors import UsageError

_URL = re.compile(
    r"(?P<scheme>stun|turns?):"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.\-]+)"
    r"(?::(?P<port>\d{1,5}))?"
    r"(?:\?transport=(?P<transport>udp|tcp))?"
)
_PORTS = {"stun": 3478, "turn": 3478, "turns": 5349}  # RFC 7064 section 3.2, RFC 7065 section 3.2


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server.

    Attributes:
        url: ``stun:host[:port]``, ``turn:host[:port][?transport=udp|tcp]`` or
            ``turns:host[:port]`` (TLS over TCP).
        username: For TURN.
        credential: For TURN.

    Raises:
        UsageError: Not such a URL, or a TURN server without credentials.
    """

    url: str
    username: str | None = None
    credential: str | None = field(default=None, repr=False)
    scheme: str = field(init=False, repr=False, default="")
    host: str = field(init=False, repr=False, default="")
    port: int = field(init=False, repr=False, default=0)
    over_tcp: bool = field(init=False, repr=False, default=False)

    def __post_init__(self) -> None:
        if "@" in self.url:  # what stands in front of it must not get into a log
            raise UsageError("give username and credential of an ICE server beside the URL")
        found = _URL.fullmatch(self.url)
        if found is None:
            raise UsageError(
                f"an ICE server is stun:host:port, turn:host:port?transport=udp (or tcp) or "
                f"turns:host:port, not {self.url!r:.80}"
            )
        scheme, transport = found["scheme"], found["transport"]
        port = int(found["port"] or _PORTS[scheme])
        if not 0 < port <= 0xFFFF:
            raise UsageError(f"{self.url!r:.80} has no valid port")
        if scheme == "stun" and transport == "tcp":
            raise UsageError("STUN is used over UDP only; leave ?transport=tcp out")
        if scheme == "turns" and transport == "udp":
            raise UsageError("turns: is TLS over TCP; there is no TURN over DTLS here")
        if scheme != "stun" and (self.username is None or self.credential is None):
            raise UsageError(f"the TURN server {found['host']} needs a username and a credential")
        object.__setattr__(self, "scheme", scheme)
        object.__setattr__(self, "host", found["host"].strip("[]"))
        object.__setattr__(self, "port", port)
        object.__setattr__(self, "over_tcp", scheme == "turns" or transport == "tcp")

    @property
    def is_relay(self) -> bool:
        """Whether it is a TURN server."""
        return self.scheme != "stun"


@dataclass(frozen=True, slots=True)
class IceOptions:
    """How the WebRTC transport finds its path.

    Attributes:
        servers: At most one STUN and one TURN server.
        relay_only: Media goes through the TURN server only; the voice server never learns our
            address.
        agent: ``"lite"`` is our own agent for one socket and a server with a public address,
            ``"full"`` is aioice with STUN and TURN. ``"auto"`` takes the full one when a server
            is given.
        bind: Local address and port to send from; with the lite agent, and over plain UDP.
        port_range: First and last local port to choose from; likewise.

    Raises:
        UsageError: A combination that does not exist.
    """

    servers: tuple[IceServer, ...] = ()
    relay_only: bool = False
    agent: Literal["auto", "full", "lite"] = "auto"
    bind: tuple[str, int] | None = None
    port_range: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        relays = sum(server.is_relay for server in self.servers)
        if relays > 1 or len(self.servers) - relays > 1:
            raise UsageError("give at most one STUN and one TURN server: aioice uses one of each")
        if self.relay_only and not relays:
            raise UsageError("relay_only needs a TURN server among the servers")
        if self.agent not in {"auto", "full", "lite"}:
            raise UsageError(f'agent must be "auto", "full" or "lite", not {self.agent!r}')
        if self.agent == "lite" and self.servers:
            raise UsageError('the lite agent knows neither STUN nor TURN; use agent="auto"')
        if (self.agent == "full" or self.servers) and (self.bind or self.port_range):
            raise UsageError(
                "aioice cannot be told a local address or port range; leave bind and port_range "
                "out, or the servers"
            )
        if self.bind is not None and not _is_address(*self.bind):
            raise UsageError(
                f"bind is a local IP address and a port, 0 for any port, not {self.bind!r:.80}"
            )
        if self.port_range is not None:
            first, last = self.port_range
            if not 0 < first <= last <= 0xFFFF:
                raise UsageError(
                    f"port_range is (first, last) from 1 to 65535, not {self.port_range}"
                )
            if self.bind is not None and self.bind[1]:
                raise UsageError("give either a port in bind or a port_range")

    @property
    def stun(self) -> IceServer | None:
        """The STUN server, if any."""
        return next((server for server in self.servers if not server.is_relay), None)

    @property
    def turn(self) -> IceServer | None:
        """The TURN server, if any."""
        return next((server for server in self.servers if server.is_relay), None)

    @property
    def has_relay(self) -> bool:
        """Whether there is a TURN server."""
        return self.turn is not None


def _is_address(host: str, port: int) -> bool:
    try:
        ipaddress.ip_address(host)  # a name would have to be looked up, which blocks
    except ValueError:
        return False
    return 0 <= port <= 0xFFFF
