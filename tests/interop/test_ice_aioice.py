"""Our ICE against aioice: its messages, its controlling side, and its controlled one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from aioice import Candidate, Connection, stun

from discord_rtc.clock import SystemClock
from discord_rtc.ice.agent import ConsentExpired, IceEvent, IceTimings, LiteAgent, PathValid
from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.ice.responder import LiteResponder
from discord_rtc.ice.stun import (
    MessageClass,
    build_error,
    build_request,
    build_success,
    is_stun,
    parse_stun,
)
from discord_rtc.pump import Pump

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from discord_rtc.ice.stun import Address

pytestmark = pytest.mark.interop

TRANSACTION = b"transaction!"
PASSWORD = "the+password/of+server"
SOURCES = [("192.0.2.1", 5000), ("2001:db8::7", 443)]


def test_aioice_reads_our_request() -> None:
    theirs = stun.parse_message(
        build_request(
            TRANSACTION,
            username="serv:client",
            password=PASSWORD,
            priority=0x6EFFFFFF,
            tie_breaker=2**63 + 1,
            use_candidate=True,
        )
    )
    assert theirs.message_class is stun.Class.REQUEST
    assert theirs.message_method is stun.Method.BINDING
    assert theirs.transaction_id == TRANSACTION
    assert theirs.check_message_integrity(PASSWORD.encode())
    assert theirs.attributes == {
        "USERNAME": "serv:client",
        "PRIORITY": 0x6EFFFFFF,
        "ICE-CONTROLLING": 2**63 + 1,
        "USE-CANDIDATE": None,
        "MESSAGE-INTEGRITY": theirs.attributes["MESSAGE-INTEGRITY"],
        "FINGERPRINT": theirs.attributes["FINGERPRINT"],
    }


@pytest.mark.parametrize("source", SOURCES)
def test_aioice_reads_our_answers(source: Address) -> None:
    success = stun.parse_message(build_success(TRANSACTION, source, PASSWORD))
    assert success.message_class is stun.Class.RESPONSE
    assert success.attributes["XOR-MAPPED-ADDRESS"] == source
    assert success.check_message_integrity(PASSWORD.encode())
    error = stun.parse_message(build_error(TRANSACTION, 487, password=PASSWORD))
    assert error.message_class is stun.Class.ERROR
    assert error.error_code == 487
    assert error.check_message_integrity(PASSWORD.encode())


@pytest.mark.parametrize("source", SOURCES)
def test_we_read_messages_of_aioice(source: Address) -> None:
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, TRANSACTION)
    request.attributes |= {
        "USERNAME": "serv:client",
        "PRIORITY": 7,
        "ICE-CONTROLLED": 2**64 - 1,
        "SOFTWARE": "a name",
    }
    request.add_message_integrity(PASSWORD.encode())
    read = parse_stun(bytes(request))
    assert (read.username, read.priority, read.controlled) == ("serv:client", 7, 2**64 - 1)
    assert read.authentic(PASSWORD)
    assert read.unknown == ()
    answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, TRANSACTION)
    answer.attributes["XOR-MAPPED-ADDRESS"] = source
    answer.add_message_integrity(PASSWORD.encode())
    assert parse_stun(bytes(answer)).xor_mapped_address == source
    error = stun.Message(stun.Method.BINDING, stun.Class.ERROR, TRANSACTION)
    error.attributes["ERROR-CODE"] = (401, "Unauthenticated")
    error.add_fingerprint()
    assert parse_stun(bytes(error)).error_code == 401
    assert parse_stun(bytes(error)).message_class is MessageClass.ERROR


class Socket(asyncio.DatagramProtocol):
    """One UDP socket of ours: STUN goes to its owner, all the rest is kept."""

    def __init__(self, on_stun: Callable[[bytes, Address], None]) -> None:
        self._on_stun = on_stun
        self.data: asyncio.Queue[tuple[bytes, Address]] = asyncio.Queue()
        self.transport: asyncio.DatagramTransport

    @property
    def candidate(self) -> Candidate:
        host, port = self.transport.get_extra_info("sockname")[:2]
        return Candidate("1", 1, "udp", 2130706431, host, port, "host")

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        source = (str(addr[0]), int(addr[1]))
        if is_stun(data):
            self._on_stun(data, source)
        else:
            self.data.put_nowait((data, source))


@asynccontextmanager
async def open_socket(
    host: str, on_stun: Callable[[bytes, Address], None]
) -> AsyncIterator[Socket]:
    transport, socket = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Socket(on_stun), local_addr=(host, 0)
    )
    socket.transport = transport
    try:
        yield socket
    finally:
        transport.close()


@asynccontextmanager
async def gathered(
    *, controlling: bool, ours: IceCredentials, family: int
) -> AsyncIterator[tuple[Connection, Address]]:
    """An aioice side that knows our credentials, and its host candidate."""
    connection = Connection(ice_controlling=controlling, use_ipv4=family == 4, use_ipv6=family == 6)
    connection.remote_username = ours.ufrag
    connection.remote_password = ours.password
    await connection.gather_candidates()
    candidates = connection.local_candidates
    if not candidates:
        pytest.skip("aioice gathers nothing here: it never uses the loopback interface")
    try:
        yield connection, (candidates[0].host, candidates[0].port)
    finally:
        await connection.close()


async def connect(connection: Connection, candidate: Candidate) -> None:
    await connection.add_remote_candidate(candidate)
    await connection.add_remote_candidate(None)
    async with asyncio.timeout(10):
        await connection.connect()


@pytest.mark.asyncio
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("controlling", "lite"), [(True, True), (True, False), (False, True)])
async def test_aioice_connects_to_our_responder(controlling: bool, lite: bool, family: int) -> None:
    """By regular and by aggressive nomination, and after it gave up the controlled role."""
    responder = LiteResponder(IceCredentials.generate())
    loop = asyncio.get_running_loop()

    def answer(datagram: bytes, source: Address) -> None:
        reply = responder.receive_datagram(datagram, source, loop.time())
        if reply is not None:
            socket.transport.sendto(reply, source)

    async with gathered(controlling=controlling, ours=responder.credentials, family=family) as (
        connection,
        address,
    ):
        connection.remote_is_lite = lite
        responder.set_remote(connection.local_username)
        async with open_socket(address[0], answer) as socket:
            await connect(connection, socket.candidate)
            assert connection.ice_controlling
            assert responder.address == address
            assert responder.counters["stun-checks"] >= (2 if lite else 1)
            assert responder.counters["stun-role-conflict"] == (0 if controlling else 1)
            assert set(responder.counters) <= {"stun-checks", "stun-role-conflict"}
            await connection.send(b"from aioice")
            assert await socket.data.get() == (b"from aioice", address)
            socket.transport.sendto(b"from us", responder.address)
            assert await connection.recv() == b"from us"


@pytest.mark.asyncio
@pytest.mark.parametrize("part", ["password", "ufrag"])
async def test_aioice_with_wrong_credentials_is_told_401(part: str) -> None:
    """It takes no notice, as 401 is not signed, and asks again until its own patience ends."""
    server, wrong = IceCredentials.generate(), IceCredentials.generate()
    believed = IceCredentials(
        wrong.ufrag if part == "ufrag" else server.ufrag,
        wrong.password if part == "password" else server.password,
    )
    responder = LiteResponder(server)
    replies: asyncio.Queue[bytes] = asyncio.Queue()

    def answer(datagram: bytes, source: Address) -> None:
        reply = responder.receive_datagram(datagram, source, 0.0)
        assert reply is not None
        socket.transport.sendto(reply, source)
        replies.put_nowait(reply)

    async with gathered(controlling=True, ours=believed, family=4) as (connection, address):
        responder.set_remote(connection.local_username)
        async with open_socket(address[0], answer) as socket:
            attempt = asyncio.create_task(connect(connection, socket.candidate))
            async with asyncio.timeout(10):
                for _ in range(2):
                    theirs = stun.parse_message(await replies.get())
                    assert theirs.error_code == 401
            assert not attempt.done()
            assert responder.address is None
            attempt.cancel()
            with suppress(asyncio.CancelledError):
                await attempt


class Ours:
    """Our agent on a socket, toward one address."""

    def __init__(self, credentials: IceCredentials, timings: IceTimings) -> None:
        self.agent = LiteAgent(credentials, timings=timings)
        self.events: asyncio.Queue[IceEvent] = asyncio.Queue()
        self.clock = SystemClock()
        self.pump = Pump(self.agent, self._flush, self.clock)
        self.peer: Address = ("", 0)
        self.socket: Socket
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    def receive(self, datagram: bytes, source: Address) -> None:
        if source == self.peer:
            self.pump.run(self.agent.receive_datagram, datagram, self.clock.now())
            self.received.put_nowait(datagram)

    def start(self, remote: IceCredentials) -> None:
        now = self.clock.now()
        self.pump.run(self.agent.start, remote, now, address=self.peer)

    def _flush(self, now: float) -> None:  # noqa: ARG002 - time has no say here
        for datagram in self.agent.datagrams_to_send():
            self.socket.transport.sendto(datagram, self.peer)
        while (event := self.agent.next_event()) is not None:
            self.events.put_nowait(event)

    async def next_event(self) -> IceEvent:
        async with asyncio.timeout(10):
            return await self.events.get()


@asynccontextmanager
async def both_ends(
    *, controlling: bool = False, family: int = 4, timings: IceTimings | None = None
) -> AsyncIterator[tuple[Ours, Connection]]:
    """Our agent, started, and the aioice side that is going to connect."""
    credentials = IceCredentials.generate()
    ours = Ours(credentials, timings or IceTimings())
    async with (
        gathered(controlling=controlling, ours=credentials, family=family) as (
            connection,
            ours.peer,
        ),
        open_socket(ours.peer[0], ours.receive) as ours.socket,
    ):
        ours.start(IceCredentials(connection.local_username, connection.local_password))
        yield ours, connection
        ours.pump.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("controlling", [False, True])
async def test_our_agent_connects_to_aioice(controlling: bool, family: int) -> None:
    """Also when aioice claims our role at first: one of its checks fails, and it gives way."""
    async with both_ends(controlling=controlling, family=family) as (ours, connection):
        await connect(connection, ours.socket.candidate)
        valid = await ours.next_event()
        assert isinstance(valid, PathValid)
        own = ours.socket.candidate
        assert valid.mapped == (own.host, own.port)
        assert 0 < valid.rtt < 5
        assert not connection.ice_controlling
        counters = ours.agent.counters
        assert counters["stun-checks"] >= 1  # aioice makes sure of the path itself
        assert counters["stun-forged"] == counters["stun-malformed"] == 0
        await connection.send(b"from aioice")
        assert await ours.socket.data.get() == (b"from aioice", ours.peer)
        ours.socket.transport.sendto(b"from us", ours.peer)
        assert await connection.recv() == b"from us"


@pytest.mark.asyncio
async def test_our_agent_keeps_and_loses_the_consent_of_aioice() -> None:
    timings = IceTimings(consent_interval=0.05, consent_timeout=0.5)
    async with both_ends(timings=timings) as (ours, connection):
        await connect(connection, ours.socket.candidate)
        assert isinstance(await ours.next_event(), PathValid)
        async with asyncio.timeout(10):
            while ours.agent.counters["stun-answers"] < 20:  # for longer than one answer lasts
                await ours.received.get()
        assert ours.events.empty()
        assert ours.agent.rtt is not None
        assert 0 < ours.agent.rtt < 0.5
        await connection.close()
        assert await ours.next_event() == ConsentExpired()
