"""The path of aioice: through a TURN server, and what is said when it does not work."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import logging
import socket
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

import aioice
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from discord_rtc.clock import SystemClock
from discord_rtc.errors import ConnectError, IceFailed, PathLost
from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.transport.base import MediaOffer
from discord_rtc.transport.ice_full import SEND_QUEUE, FullPath
from discord_rtc.transport.ice_options import IceOptions, IceServer
from discord_rtc.transport.ice_path import PathOwner, WebRtcTimings
from discord_rtc.transport.webrtc import WebRtcTransport

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from pathlib import Path

    from discord_rtc.protocol.messages import Ready
    from discord_rtc.transport.base import NegotiatedMedia

    from .conftest import RecordingSink, TurnServer, WebRtcServer

pytestmark = pytest.mark.asyncio

QUICK = WebRtcTimings(deadline=1.0, closing=0.1)


def relay_only(
    server: TurnServer, *, transport: str = "udp", port: int | None = None, credential: str = ""
) -> IceOptions:
    url = f"turn:127.0.0.1:{port or server.port}?transport={transport}"
    turn = IceServer(url, server.username, credential or server.credential)
    return IceOptions(servers=(turn,), relay_only=True)


async def join(transport: WebRtcTransport, ready: Ready, server: WebRtcServer) -> NegotiatedMedia:
    select = await transport.open(ready, MediaOffer())
    return await transport.accept(server.expect(select.sdp))


async def failure(ice: IceOptions, ready: Ready, server: WebRtcServer) -> str:
    """What is said when no path works."""
    transport = WebRtcTransport(ice=ice, timings=QUICK)
    try:
        with pytest.raises(IceFailed) as caught:
            await join(transport, ready, server)
    finally:
        await transport.aclose()
    return str(caught.value)


@pytest.fixture
def silent_port() -> int:
    """A UDP port at which nobody ever answers, and a TCP port that refuses."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("over", ["udp", "tcp"])
async def test_relay_carries_media_both_ways(
    over: str,
    turn_server: TurnServer,
    webrtc_server: WebRtcServer,
    webrtc_ready: Ready,
    sink: RecordingSink,
    rtp: Callable[[int], bytes],
) -> None:
    transport = WebRtcTransport(ice=relay_only(turn_server, transport=over))
    media = await join(transport, webrtc_ready, webrtc_server)
    assert media.max_packet_size == 1280 - 28 - 4 - 16  # ChannelData, AES-GCM's tag
    transport.deliver_to(sink)
    relayed = turn_server.relayed
    transport.send_rtp(rtp(1))
    await webrtc_server.until(lambda: webrtc_server.rtp == [rtp(1)])
    assert turn_server.relayed == relayed + 1
    webrtc_server.send_rtp(rtp(2))
    await sink.holds(1)
    assert transport.stats().local_address == webrtc_server.responder.address
    assert "typ relay" in (transport.local_description or "")
    await transport.aclose()
    await webrtc_server.until(lambda: webrtc_server.goodbyes > 0)
    assert turn_server.allocations == 0


async def test_gathering_runs_beside_the_signalling(
    turn_server: TurnServer, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    transport = WebRtcTransport(ice=relay_only(turn_server))
    await transport.prepare()
    async with asyncio.timeout(3):
        while not turn_server.allocations:  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.001)
    await join(transport, webrtc_ready, webrtc_server)
    assert turn_server.requests.count(turn_server.ALLOCATE) == 1
    await transport.aclose()


async def test_refused_credentials_name_server_and_error(
    turn_server: TurnServer, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    ice = relay_only(turn_server, credential="a wrong credential")
    text = await failure(ice, webrtc_ready, webrtc_server)
    for part in ("TURN", "127.0.0.1", str(turn_server.port), "401 Unauthorized"):
        assert part in text
    assert "wrong credential" not in text + repr(ice)


async def test_refused_allocation_is_named(
    turn_server: TurnServer, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    turn_server.refusals[turn_server.ALLOCATE] = 486
    text = await failure(relay_only(turn_server), webrtc_ready, webrtc_server)
    assert "486 No such luck" in text


async def test_refused_peer_is_named(
    turn_server: TurnServer, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    turn_server.refusals[turn_server.CHANNEL_BIND] = 403
    turn_server.refusals[turn_server.CREATE_PERMISSION] = 403
    text = await failure(relay_only(turn_server), webrtc_ready, webrtc_server)
    assert "403 No such luck" in text


async def test_relay_without_an_answer_through_it_is_told_apart(
    turn_server: TurnServer, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    webrtc_server.answers_checks = False
    text = await failure(relay_only(turn_server), webrtc_ready, webrtc_server)
    assert "gave a relay, but the voice server did not answer through it" in text


async def test_silent_turn_server_is_named(
    turn_server: TurnServer, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    turn_server.silent = True
    text = await failure(relay_only(turn_server), webrtc_ready, webrtc_server)
    assert f"127.0.0.1 port {turn_server.port} did not answer" in text


async def test_refused_connection_is_named(
    turn_server: TurnServer, webrtc_server: WebRtcServer, webrtc_ready: Ready, silent_port: int
) -> None:
    ice = relay_only(turn_server, transport="tcp", port=silent_port)
    text = await failure(ice, webrtc_ready, webrtc_server)
    assert f"port {silent_port} gave no relay" in text
    assert "refused" in text.lower() or "connect" in text.lower()


async def test_server_without_tls_is_named(
    turn_server: TurnServer, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    turn = IceServer(f"turns:127.0.0.1:{turn_server.port}", "user", "secret")
    ice = IceOptions(servers=(turn,), relay_only=True)
    text = await failure(ice, webrtc_ready, webrtc_server)
    assert f"the TURN server 127.0.0.1 port {turn_server.port}" in text


@pytest.fixture
def certified(tmp_path: Path) -> Path:
    """A PEM file with key and certificate of 127.0.0.1, which nobody signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(tz=datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "turn.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "untrusted"])
async def test_tls_needs_a_trusted_certificate(
    *,
    trusted: bool,
    certified: Path,
    turn_server: TurnServer,
    webrtc_server: WebRtcServer,
    webrtc_ready: Ready,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certified)
    listener = await asyncio.start_server(turn_server.serve, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    turn = IceServer(f"turns:127.0.0.1:{port}", turn_server.username, turn_server.credential)
    ice = IceOptions(servers=(turn,), relay_only=True)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certified))
        transport = WebRtcTransport(ice=ice)
        await join(transport, webrtc_ready, webrtc_server)
        await transport.aclose()
        assert turn_server.allocations == 0
    else:
        text = await failure(ice, webrtc_ready, webrtc_server)
        assert "certificate verify failed" in text
    listener.close()


@pytest.mark.usefixtures("interface")
@pytest.mark.parametrize("kind", ["stun", "turn"])
async def test_dead_servers_do_not_keep_the_direct_path_from_working(
    kind: str, turn_server: TurnServer, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    turn_server.silent = True
    server = IceServer(f"{kind}:127.0.0.1:{turn_server.port}", "user", "secret")
    timings = WebRtcTimings(gathering=0.1, closing=0.1)
    transport = WebRtcTransport(ice=IceOptions(servers=(server,)), timings=timings)
    await join(transport, webrtc_ready, webrtc_server)
    assert webrtc_server.handshakes == 1
    await transport.aclose()


@pytest.mark.usefixtures("interface")
async def test_direct_path_failure_says_that_the_relay_did_not_help(
    turn_server: TurnServer, webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    webrtc_server.answers_checks = False
    turn_server.refusals[turn_server.ALLOCATE] = 486
    ice = replace(relay_only(turn_server), relay_only=False)
    text = await failure(ice, webrtc_ready, webrtc_server)
    ip, port = webrtc_server.address
    assert f"no answer to connectivity checks from {ip} port {port}" in text
    assert "486 No such luck" in text


async def test_server_of_the_other_ip_version_gets_its_own_candidates(
    webrtc_server: WebRtcServer, webrtc_ready: Ready
) -> None:
    transport = WebRtcTransport(ice=IceOptions(agent="full"), timings=QUICK)
    await transport.prepare()
    select = await transport.open(replace(webrtc_ready, ip="2001:db8::1"), MediaOffer())
    answer = webrtc_server.expect(select.sdp)
    fragment = replace(
        webrtc_server.fragment,
        ip="2001:db8::1",
        candidates=("candidate:1 1 UDP 1 2001:db8::1 9 typ host",),
    )
    with pytest.raises(IceFailed, match=r"2001:db8::1 port 9"):
        await transport.accept(replace(answer, sdp=fragment.to_text()))
    await transport.aclose()


async def test_allocation_that_ends_is_a_lost_path(
    turn_server: TurnServer,
    webrtc_server: WebRtcServer,
    webrtc_ready: Ready,
    sink: RecordingSink,
    rtp: Callable[[int], bytes],
) -> None:
    transport = WebRtcTransport(ice=relay_only(turn_server, transport="tcp"))
    await join(transport, webrtc_ready, webrtc_server)
    transport.deliver_to(sink)
    turn_server.hang_up()
    await sink.ends()
    assert [type(error) for error in sink.errors] == [PathLost]
    transport.send_rtp(rtp(1))
    assert transport.stats().drops["no-consent"] == 1
    await transport.aclose()


class HesitantConnection(aioice.Connection):
    """As aioice might become: sending suspends, and for how long depends on the test."""

    may_send = asyncio.Event()

    async def send(self, data: bytes) -> None:
        await self.may_send.wait()
        await asyncio.sleep(0)
        await super().send(data)


class BrokenConnection(aioice.Connection):
    """Notices at the next send that it is closed."""

    broken = False

    async def send(self, data: bytes) -> None:
        if self.broken:
            raise ConnectionError("Cannot send data, not connected")
        await super().send(data)


class SlowConnection(aioice.Connection):
    """Gathers when the test allows it."""

    may_gather = asyncio.Event()
    finished = 0

    async def gather_candidates(self) -> None:
        await self.may_gather.wait()
        await super().gather_candidates()
        type(self).finished += 1


def path_of(
    connection_class: type[aioice.Connection],
    ice: IceOptions,
    lost: list[str],
    drops: Counter[str],
) -> FullPath:
    owner = PathOwner(lambda _: None, lost.append, drops, SystemClock())
    credentials = IceCredentials.generate()
    return FullPath(credentials, ice, owner, WebRtcTimings(), connection_class=connection_class)


async def test_sending_that_suspends_is_queued_in_order_and_bounded(
    turn_server: TurnServer, webrtc_server: WebRtcServer, drops: Counter[str]
) -> None:
    HesitantConnection.may_send = asyncio.Event()
    path = path_of(HesitantConnection, relay_only(turn_server), [], drops)
    await path.connect(webrtc_server.fragment, 3)
    datagrams = [b"\x80" + bytes((number,)) for number in range(SEND_QUEUE + 2)]
    assert [path.send(datagram) for datagram in datagrams].count(False) == 2
    assert drops == {"blocked": 2}
    seen = webrtc_server.unknown
    HesitantConnection.may_send.set()
    await webrtc_server.until(lambda: len(seen) == SEND_QUEUE)
    assert seen == datagrams[:SEND_QUEUE]
    await path.aclose()
    assert not path.send(b"\x80")
    assert drops["closed"] == 1


async def test_path_lost_while_sending_is_told_once(
    turn_server: TurnServer, webrtc_server: WebRtcServer, drops: Counter[str]
) -> None:
    lost: list[str] = []
    path = path_of(BrokenConnection, relay_only(turn_server), lost, drops)
    assert not path.send(b"\x80 too early")
    await path.connect(webrtc_server.fragment, 3)
    BrokenConnection.broken = True
    assert [path.send(b"\x80"), path.send(b"\x80")] == [False, False]
    BrokenConnection.broken = False
    assert len(lost) == 1
    assert "consent" in lost[0]
    assert drops == {"no-consent": 3}
    await path.aclose()
    assert len(lost) == 1


@pytest.mark.parametrize("after", [0.02, 0.2], ids=["with servers", "without"])
async def test_gathering_is_never_cut_short_as_its_sockets_would_be_lost(
    after: float, turn_server: TurnServer, webrtc_server: WebRtcServer, drops: Counter[str]
) -> None:
    SlowConnection.may_gather = asyncio.Event()
    SlowConnection.finished = 0
    ice = replace(relay_only(turn_server), relay_only=False)
    owner = PathOwner(lambda _: None, lambda _: None, drops, SystemClock())
    path = FullPath(
        IceCredentials.generate(),
        ice,
        owner,
        WebRtcTimings(gathering=0.1, closing=0.1),
        connection_class=SlowConnection,
    )
    connecting = asyncio.create_task(path.connect(webrtc_server.fragment, 3))
    await asyncio.sleep(after)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    await path.aclose()
    SlowConnection.may_gather.set()
    async with asyncio.timeout(3):
        while SlowConnection.finished < (1 if after < 0.1 else 2):  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.001)
    closing = {task for task in asyncio.all_tasks() if task.get_name() == "ice-closing"}
    async with asyncio.timeout(3):
        await asyncio.gather(*closing)


async def test_closed_path_does_not_gather(
    turn_server: TurnServer, drops: Counter[str], webrtc_server: WebRtcServer
) -> None:
    path = path_of(aioice.Connection, relay_only(turn_server), [], drops)
    await path.aclose()
    with pytest.raises(ConnectError, match="closed"):
        await path.connect(webrtc_server.fragment, 3)
    assert (path.candidates, path.local_address, path.counters) == ((), None, {})
    assert "no answer" in path.explain() or "TURN" in path.explain()


async def test_credential_stays_out_of_logs(
    turn_server: TurnServer,
    webrtc_server: WebRtcServer,
    webrtc_ready: Ready,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="discord_rtc")
    ice = relay_only(turn_server)
    transport = WebRtcTransport(ice=ice)
    await join(transport, webrtc_ready, webrtc_server)
    await transport.aclose()
    assert turn_server.credential not in caplog.text + repr(ice) + repr(transport)
