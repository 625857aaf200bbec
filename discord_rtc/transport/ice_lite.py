"""The path of our own agent: one UDP socket, one candidate pair, a server with a public address.

It is what the web client's full ICE comes down to toward such a server, in one round trip and
without looking at network interfaces, so it works where there is only a loopback one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from discord_rtc.errors import ConnectError, IceFailed
from discord_rtc.ice.agent import ConsentExpired, LiteAgent, PathFailed, PathValid
from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.ice.stun import is_stun
from discord_rtc.protocol.sdp import host_candidate
from discord_rtc.pump import Pump
from discord_rtc.transport.base import CLOSED_MEANWHILE
from discord_rtc.transport.datagrams import DatagramSocket

if TYPE_CHECKING:
    from collections.abc import Mapping

    from discord_rtc.protocol.sdp import ServerFragment
    from discord_rtc.transport.ice_options import IceOptions
    from discord_rtc.transport.ice_path import Address, PathOwner, WebRtcTimings

_NO_DROPS = frozenset({"stun-checks-sent", "stun-answers", "stun-checks"})  # all went well


class LitePath:
    """An `IcePath` over one connected socket.

    Drops: those of `DatagramSocket`; the refusals of `LiteAgent`; ``stun-early`` (checks of the
    server before its credentials are known), ``no-consent`` (sending after the server stopped
    answering checks, which RFC 7675 forbids).

    Args:
        credentials: Ours.
        options: Address and ports to bind to.
        owner: Who uses it.
        timings: Of the agent.
    """

    overhead = 0

    def __init__(
        self,
        credentials: IceCredentials,
        options: IceOptions,
        owner: PathOwner,
        timings: WebRtcTimings,
    ) -> None:
        self._credentials = credentials
        self._options = options
        self._owner = owner
        self._timings = timings
        self._socket: DatagramSocket | None = None
        self._server: Address | None = None
        self._agent: LiteAgent | None = None
        self._pump: Pump | None = None
        self._valid: asyncio.Future[None] | None = None
        self._started = 0.0
        self._mapped: Address | None = None
        self._consent = False
        self._closed = False

    @property
    def credentials(self) -> IceCredentials:
        """Ours, for the offer."""
        return self._credentials

    @property
    def rtt(self) -> float | None:
        """Round trip of the latest answered check, seconds."""
        return None if self._agent is None else self._agent.rtt

    @property
    def local_address(self) -> Address | None:
        """What the server says that it sees, otherwise the socket's own address."""
        if self._mapped is None and self._socket is not None:
            return self._socket.local_address
        return self._mapped

    @property
    def candidates(self) -> tuple[str, ...]:
        """The socket, once there is one."""
        return () if self._socket is None else (host_candidate(*self._socket.local_address),)

    @property
    def counters(self) -> Mapping[str, int]:
        """What the agent did not accept, by reason."""
        counters = Counter() if self._agent is None else self._agent.counters
        return {reason: count for reason, count in counters.items() if reason not in _NO_DROPS}

    async def gather(self, server: Address | None) -> None:
        """Open the socket as soon as the server's address is known; as `IcePath.gather`."""
        if server is not None and server != self._server:
            await self._open(server)

    async def connect(self, fragment: ServerFragment, timeout: float) -> None:
        """Check the path; as `IcePath.connect`."""
        server = fragment.addresses[0]
        await self.gather(server)
        self._consent = False
        if self._pump is not None:
            self._pump.close()
        self._started = self._owner.clock.now()
        timings = replace(self._timings.ice, deadline=timeout)
        self._agent = agent = LiteAgent(self._credentials, timings=timings)
        self._pump = pump = Pump(agent, self._flush, self._owner.clock)
        self._valid = asyncio.get_running_loop().create_future()
        remote = IceCredentials(fragment.ufrag, fragment.password)
        try:
            pump.run(agent.start, remote, self._started, address=server)
            await self._valid
        finally:
            if not self._consent:
                pump.close()

    def explain(self) -> str:
        """What the server did with our checks; as `IcePath.explain`."""
        ip, port = self._server or ("", 0)
        seen = Counter() if self._agent is None else self._agent.counters
        sent, refused = seen["stun-checks-sent"], seen["stun-errors"] + seen["stun-forged"]
        if refused:
            return (
                f"the voice server at {ip} port {port} can be reached, but it refuses the "
                f"credentials of its own session description ({refused} of {sent} checks); a "
                "fresh session may help"
            )
        elapsed = self._owner.clock.now() - self._started
        return (
            f"no answer to {sent} connectivity checks from {ip} port {port} within "
            f"{elapsed:.1f} s; UDP seems to be blocked: allow outgoing UDP to it in the "
            "firewall, or give a TURN server"
        )

    def send(self, datagram: bytes) -> bool:
        """Send one datagram; as `IcePath.send`."""
        if self._socket is None or not self._consent:
            self._owner.drops["closed" if self._closed else "no-consent"] += 1
            return False
        return self._socket.send(datagram)

    async def aclose(self) -> None:
        """Close the socket and stop the timer; as `IcePath.aclose`."""
        self._closed = True
        self._consent = False
        if self._pump is not None:
            self._pump.close()
        if self._valid is not None and not self._valid.done():
            self._valid.set_exception(ConnectError(CLOSED_MEANWHILE))
        if self._socket is not None:
            await self._socket.aclose()

    async def _open(self, server: Address) -> None:
        self._consent = False
        if self._socket is not None:
            await self._socket.aclose()
        socket = await DatagramSocket.connect(
            server,
            bind=self._options.bind,
            receive=self._receive,
            drops=self._owner.drops,
            port_range=self._options.port_range,
        )
        self._socket, self._server = socket, server
        if self._closed:
            await socket.aclose()
            raise ConnectError(CLOSED_MEANWHILE)

    def _receive(self, datagram: bytes) -> None:
        if not is_stun(datagram):
            self._owner.receive(datagram)
        elif self._agent is None or self._pump is None:
            self._owner.drops["stun-early"] += 1
        else:
            self._pump.run(self._agent.receive_datagram, datagram, self._owner.clock.now())

    def _flush(self, now: float) -> None:  # noqa: ARG002 - nothing here depends on the time
        assert self._agent is not None
        assert self._socket is not None
        for datagram in self._agent.datagrams_to_send():
            self._socket.send(datagram)
        while (event := self._agent.next_event()) is not None:
            match event:
                case PathValid(mapped=mapped):
                    self._mapped = mapped
                    self._consent = True
                    self._settle(None)
                case PathFailed():
                    self._settle(IceFailed(self.explain()))
                case ConsentExpired():
                    self._consent = False
                    self._owner.lost(
                        "the voice server does not answer consent checks any more (RFC 7675)"
                    )

    def _settle(self, error: Exception | None) -> None:
        if self._valid is None or self._valid.done():
            return
        if error is None:
            self._valid.set_result(None)
        else:
            self._valid.set_exception(error)
