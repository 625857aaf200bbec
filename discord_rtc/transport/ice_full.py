"""The path of aioice: a full agent with STUN, TURN over UDP, TCP and TLS. Its only importer.

What is known of aioice (0.12 and 0.13; older ones leak sockets) and dealt with here:

- It gathers for up to 5 s when a STUN or TURN server is dead, cannot be told to hurry, and cannot
  connect before it is done. So a gathering that holds up a connection is left to itself, and the
  connection is made without servers.
- It keeps to itself why a TURN server refused, and which pair was chosen. The first is asked for
  (`turn_inquiry`), the second is only told where there is nothing to choose.
- Closing waits until the TURN server has released the allocation, a minute when that is dead, so
  it goes on in the background.
- Consent expires after six unanswered checks, 27 to 39 s, and not the 30 s of RFC 7675.
- ``Connection.send`` is a coroutine that never suspends, not even through a relay, so it is
  driven by a plain call. Should a version suspend, a task takes over, with a bounded queue.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import aioice

from discord_rtc.errors import ConnectError, IceFailed
from discord_rtc.transport.base import CLOSED_MEANWHILE
from discord_rtc.transport.turn_inquiry import ask_turn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from discord_rtc.ice.credentials import IceCredentials
    from discord_rtc.protocol.sdp import ServerFragment
    from discord_rtc.transport.ice_options import IceOptions
    from discord_rtc.transport.ice_path import Address, PathOwner, WebRtcTimings

_LOG = logging.getLogger("discord_rtc.transport")

MAX_CANDIDATES = 8
"""Candidates of the server that are tried; there has only ever been one."""

SEND_QUEUE = 64
"""Datagrams that wait for a send that suspended; the newest ones are dropped."""

_CHANNEL_HEADER = 4  # RFC 8656 section 12.4
_IPV6_EXTRA = 20  # where the TURN server is reached by IPv6: 40 bytes instead of 20
_PRIORITY = (126 << 24) | (65535 << 8) | 255  # RFC 8445 section 5.1.2.1: host, component 1

_closers: set[asyncio.Task[None]] = set()  # strong references: nobody may be waiting for them


class _Attempt:
    """One aioice connection, from gathering to closing; it can connect once."""

    def __init__(self, connection: aioice.Connection, version: int, closing: float) -> None:
        self.connection = connection
        self.version = version
        self.gathering = asyncio.create_task(self._gather(), name="ice-gathering")
        self._closing = closing
        self._closer: asyncio.Task[None] | None = None

    @property
    def relayed(self) -> bool:
        """Whether the TURN server gave a relay."""
        return any(candidate.type == "relay" for candidate in self.connection.local_candidates)

    async def connect(self, fragment: ServerFragment) -> bool:
        """Check the pairs until one is nominated, or none is left."""
        connection = self.connection
        connection.remote_username = fragment.ufrag
        connection.remote_password = fragment.password
        connection.remote_is_lite = True
        addresses = fragment.addresses[:MAX_CANDIDATES]
        for rank, (host, port) in enumerate(addresses):
            candidate = aioice.Candidate(
                foundation=str(rank + 1),
                component=1,
                transport="udp",
                priority=_PRIORITY - rank,
                host=host,
                port=port,
                type="host",
            )
            await connection.add_remote_candidate(candidate)
        await connection.add_remote_candidate(None)
        try:
            await connection.connect()
        except ConnectionError as error:
            _LOG.debug("! aioice: %s", error)
            return False
        return True

    def close(self) -> asyncio.Task[None]:
        """Close it in the background, as soon as aioice can."""
        if self._closer is None:
            self._closer = asyncio.create_task(self._close(), name="ice-closing")
            _closers.add(self._closer)
            self._closer.add_done_callback(_closers.discard)
        return self._closer

    async def _gather(self) -> None:
        try:
            await self.connection.gather_candidates()
        except OSError as error:  # the system does not show its interfaces
            _LOG.info("! aioice: %s", error)

    async def _close(self) -> None:
        try:
            await asyncio.wait({self.gathering})
        finally:
            with suppress(TimeoutError):  # what is left then is aioice's own task
                async with asyncio.timeout(self._closing):
                    await self.connection.close()


class FullPath:
    """An `IcePath` over aioice in the controlling role.

    Drops: ``no-consent`` (sending after the path was lost), ``closed``, ``blocked`` (more than
    `SEND_QUEUE` datagrams wait).

    Args:
        credentials: Ours.
        options: Servers, and whether only the relay may be used.
        owner: Who uses it.
        timings: How long to wait for servers.
        connection_class: What to connect with; tests give a subclass.
    """

    rtt = None  # aioice does not tell

    def __init__(
        self,
        credentials: IceCredentials,
        options: IceOptions,
        owner: PathOwner,
        timings: WebRtcTimings,
        *,
        connection_class: type[aioice.Connection] = aioice.Connection,
    ) -> None:
        self._timings = timings
        self._connection_class = connection_class
        self._credentials = credentials
        self._options = options
        self._owner = owner
        self._attempt: _Attempt | None = None
        self._working: asyncio.Task[bool] | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._queue: asyncio.Queue[bytes] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._refusal: str | None = None
        self._server: Address | None = None
        self._started = 0.0
        self._consent = False
        self._closed = False

    @property
    def credentials(self) -> IceCredentials:
        """Ours, for the offer."""
        return self._credentials

    @property
    def overhead(self) -> int:
        """What TURN may add; aioice does not tell whether the relay was chosen."""
        turn = self._options.turn
        if turn is None:
            return 0
        return _CHANNEL_HEADER + (_IPV6_EXTRA if ":" in turn.host else 0)

    @property
    def local_address(self) -> Address | None:
        """Our only candidate, such as the relay; None where aioice had a choice."""
        candidates = [] if self._attempt is None else self._attempt.connection.local_candidates
        return (candidates[0].host, candidates[0].port) if len(candidates) == 1 else None

    @property
    def candidates(self) -> tuple[str, ...]:
        """What aioice has gathered so far; it shows all at once."""
        gathered = [] if self._attempt is None else self._attempt.connection.local_candidates
        return tuple(f"candidate:{candidate.to_sdp()}" for candidate in gathered)

    @property
    def counters(self) -> Mapping[str, int]:
        """Nothing: aioice does not count."""
        return {}

    async def gather(self, server: Address | None) -> None:
        """Let aioice gather in the background; as `IcePath.gather`."""
        try:
            # Voice servers have been IPv4 ever since, so that is what to begin with.
            version = 4 if server is None else ipaddress.ip_address(server[0]).version
        except ValueError as error:
            raise ConnectError(f"the voice server has no usable address: {error}") from None
        if self._closed:
            raise ConnectError(CLOSED_MEANWHILE)
        if self._attempt is None or self._attempt.version != version:
            self._begin(version, servers=True)

    async def connect(self, fragment: ServerFragment, timeout: float) -> None:
        """Let aioice connect; as `IcePath.connect`."""
        await self.gather(fragment.addresses[0])
        assert self._attempt is not None
        if self._working is not None:
            self._begin(self._attempt.version, servers=True)
        self._consent = False
        await self._end(self._receiving, self._sending)
        self._queue = self._refusal = None
        self._server, self._started = fragment.addresses[0], self._owner.clock.now()
        working = self._working = asyncio.create_task(
            self._establish(fragment, timeout), name="ice-connecting"
        )
        try:
            await asyncio.wait({working}, timeout=timeout)
        finally:
            await self._end(working)
        if self._closed:
            raise ConnectError(CLOSED_MEANWHILE)
        if working.cancelled() or not working.result():
            raise IceFailed(self.explain())
        self._consent = True
        self._receiving = asyncio.create_task(self._receive(self._attempt), name="ice-receiving")

    def explain(self) -> str:
        """What is known of the server and of TURN; as `IcePath.explain`."""
        ip, port = self._server or ("", 0)
        elapsed = self._owner.clock.now() - self._started
        text = f"no answer to connectivity checks from {ip} port {port} within {elapsed:.1f} s"
        attempt = self._attempt
        turn = self._options.turn
        if turn is None:
            if attempt is None or not attempt.connection.local_candidates:
                return f'{text}: no network interface but loopback leads there; use agent="lite"'
            return (
                f"{text}; UDP seems to be blocked: allow outgoing UDP to it in the firewall, or "
                "give a TURN server"
            )
        server = f"the TURN server {turn.host} port {turn.port}"
        if self._refusal is not None:
            said = f"{server} gave no relay: {self._refusal}"
        elif attempt is not None and attempt.relayed:
            said = f"{server} gave a relay, but the voice server did not answer through it, either"
        else:
            said = f"{server} did not answer; check its address, port and transport"
        return said if self._options.relay_only else f"{text}; {said}"

    def send(self, datagram: bytes) -> bool:
        """Send one datagram; as `IcePath.send`."""
        if not self._consent or self._attempt is None:
            self._owner.drops["closed" if self._closed else "no-consent"] += 1
            return False
        if self._queue is None:
            sending = self._attempt.connection.send(datagram)
            try:
                sending.send(None)
            except StopIteration:
                return True
            except ConnectionError:  # closed by aioice when consent expired
                self._lose()
                self._owner.drops["no-consent"] += 1
                return False
            sending.close()  # it suspended, which only a task can wait for
            self._queue = asyncio.Queue(SEND_QUEUE)
            self._sending = asyncio.create_task(
                self._send_queued(self._attempt, self._queue), name="ice-sending"
            )
        try:
            self._queue.put_nowait(datagram)
        except asyncio.QueueFull:
            self._owner.drops["blocked"] += 1
            return False
        return True

    async def aclose(self) -> None:
        """Close; as `IcePath.aclose`.

        Returns after ``timings.closing`` at the latest. Where a TURN server is dead, aioice goes on
        in the background until it has given up on it.
        """
        self._closed = True
        self._consent = False
        await self._end(self._working, self._receiving, self._sending)
        if self._attempt is not None:
            await asyncio.wait({self._attempt.close()}, timeout=self._timings.closing)

    def _begin(self, version: int, *, servers: bool) -> _Attempt:
        if self._attempt is not None:
            self._attempt.close()
        connection = self._new_connection(version, servers=servers)
        self._attempt = _Attempt(connection, version, self._timings.closing)
        return self._attempt

    def _new_connection(self, version: int, *, servers: bool) -> aioice.Connection:
        options = self._options
        stun, turn = (options.stun, options.turn) if servers else (None, None)
        return self._connection_class(
            ice_controlling=True,
            stun_server=None if stun is None else (stun.host, stun.port),
            turn_server=None if turn is None else (turn.host, turn.port),
            turn_username=None if turn is None else turn.username,
            turn_password=None if turn is None else turn.credential,
            turn_ssl=turn is not None and turn.scheme == "turns",
            turn_transport="tcp" if turn is not None and turn.over_tcp else "udp",
            use_ipv4=version == 4,
            use_ipv6=version == 6,
            transport_policy=(
                aioice.TransportPolicy.RELAY if options.relay_only else aioice.TransportPolicy.ALL
            ),
            local_username=self._credentials.ufrag,
            local_password=self._credentials.password,
        )

    async def _establish(self, fragment: ServerFragment, timeout: float) -> bool:
        attempt = self._attempt
        assert attempt is not None
        patience = None if self._options.relay_only else self._timings.gathering
        await asyncio.wait({attempt.gathering}, timeout=patience)
        if not attempt.gathering.done():
            _LOG.info("! a STUN or TURN server is silent, going on without")
            attempt = self._begin(attempt.version, servers=False)
            # Not awaited itself: that would cut it short with us, and lose its sockets.
            await asyncio.wait({attempt.gathering})
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._inquire(attempt, fragment, timeout), name="ice-turn")
            connected = await attempt.connect(fragment)
            if connected:
                asking.cancel()
        return connected

    async def _inquire(self, attempt: _Attempt, fragment: ServerFragment, timeout: float) -> None:
        if self._options.turn is None:
            return
        if attempt.relayed:
            await asyncio.sleep(timeout / 2)  # nothing is wrong so far
        self._refusal = await ask_turn(self._options.turn, fragment.addresses[0])

    async def _receive(self, attempt: _Attempt) -> None:
        try:
            while True:
                self._owner.receive(await attempt.connection.recv())
        except ConnectionError:
            _LOG.debug("! aioice has lost the path")
        finally:
            self._lose()

    async def _send_queued(self, attempt: _Attempt, queue: asyncio.Queue[bytes]) -> None:
        with suppress(ConnectionError):  # the receiving task notices, too
            while True:
                await attempt.connection.send(await queue.get())

    def _lose(self) -> None:
        if self._consent:
            self._consent = False
            self._owner.lost(
                "the path to the voice server is gone: it does not answer consent checks any more "
                "(RFC 7675), or the TURN server ended the relay"
            )

    @staticmethod
    async def _end(*tasks: asyncio.Task[bool] | asyncio.Task[None] | None) -> None:
        running = {task for task in tasks if task is not None and not task.done()}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
