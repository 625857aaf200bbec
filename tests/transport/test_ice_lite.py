"""The path of our own agent by itself: sockets, ports, and what it says when nothing answers."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from discord_rtc.clock import SystemClock
from discord_rtc.errors import ConnectError, IceFailed
from discord_rtc.ice.agent import IceTimings
from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.ice.stun import build_request
from discord_rtc.transport.ice_lite import LitePath
from discord_rtc.transport.ice_options import IceOptions
from discord_rtc.transport.ice_path import PathOwner, WebRtcTimings

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator, Callable

    from .conftest import WebRtcServer

pytestmark = pytest.mark.asyncio

TIMINGS = WebRtcTimings(
    ice=IceTimings(
        schedule=tuple(n * 0.02 for n in range(10)), consent_interval=0.02, consent_timeout=0.3
    )
)


class Owner:
    """Keeps what a path tells it."""

    def __init__(self, drops: Counter[str]) -> None:
        self.received: list[bytes] = []
        self.lost = asyncio.Event()
        self.reasons: list[str] = []
        self.as_owner = PathOwner(self.received.append, self._lose, drops, SystemClock())

    def _lose(self, reason: str) -> None:
        self.reasons.append(reason)
        self.lost.set()


@pytest.fixture
def owner(drops: Counter[str]) -> Owner:
    return Owner(drops)


@pytest_asyncio.fixture
async def make(owner: Owner) -> AsyncIterator[Callable[[IceOptions], LitePath]]:
    paths: list[LitePath] = []

    def make(options: IceOptions) -> LitePath:
        paths.append(LitePath(IceCredentials.generate(), options, owner.as_owner, TIMINGS))
        return paths[-1]

    yield make
    for path in paths:
        await path.aclose()


def free_ports(count: int) -> tuple[int, int]:
    """A range of ports that was free a moment ago."""
    for first in range(40_000, 60_000, count):
        try:
            for port in range(first, first + count):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first, first + count - 1
    pytest.skip("no free ports")


async def test_nothing_is_opened_before_the_server_is_known(
    make: Callable[[IceOptions], LitePath],
) -> None:
    path = make(IceOptions())
    await path.gather(None)
    assert (path.local_address, path.candidates, path.rtt) == (None, (), None)
    assert path.counters == {}
    assert not path.send(b"too early")


async def test_port_comes_from_the_range(
    make: Callable[[IceOptions], LitePath], webrtc_server: WebRtcServer
) -> None:
    first, last = free_ports(4)
    ports = set()
    for _ in range(4):
        path = make(IceOptions(bind=("127.0.0.1", 0), port_range=(first, last)))
        await path.gather(webrtc_server.address)
        assert path.local_address is not None
        assert f"127.0.0.1 {path.local_address[1]} typ host" in path.candidates[0]
        ports.add(path.local_address[1])
    assert ports == set(range(first, last + 1))
    path = make(IceOptions(port_range=(first, last)))
    with pytest.raises(ConnectError, match=f"{first} to {last}"):
        await path.gather(webrtc_server.address)


async def test_bind_address_is_used_and_must_exist(
    make: Callable[[IceOptions], LitePath], webrtc_server: WebRtcServer
) -> None:
    path = make(IceOptions(bind=("127.0.0.1", 0)))
    await path.connect(webrtc_server.fragment, 3)
    assert webrtc_server.responder.address == path.local_address
    with pytest.raises(ConnectError):
        await make(IceOptions(bind=("203.0.113.7", 0))).gather(webrtc_server.address)


async def test_connects_without_gathering_and_hands_on_what_is_not_stun(
    make: Callable[[IceOptions], LitePath], webrtc_server: WebRtcServer, owner: Owner
) -> None:
    path = make(IceOptions())
    await path.connect(webrtc_server.fragment, 3)
    webrtc_server.send(b"\x80 media")
    assert path.send(b"\x80 back")
    async with asyncio.timeout(3):
        while not owner.received:  # noqa: ASYNC110 - a list
            await asyncio.sleep(0.001)
    assert owner.received == [b"\x80 media"]


async def test_silence_names_address_time_and_remedy(
    make: Callable[[IceOptions], LitePath], webrtc_server: WebRtcServer
) -> None:
    webrtc_server.answers_checks = False
    path = make(IceOptions())
    assert "no answer" in path.explain()
    with pytest.raises(IceFailed) as caught:
        await path.connect(webrtc_server.fragment, 0.1)
    ip, port = webrtc_server.address
    for part in (f"{ip} port {port} within 0.", "allow outgoing UDP", "TURN"):
        assert part in str(caught.value)
    assert not path.send(b"nobody agreed")


async def test_wrong_password_is_not_taken_for_a_blocked_port(
    make: Callable[[IceOptions], LitePath], webrtc_server: WebRtcServer
) -> None:
    path = make(IceOptions())
    with pytest.raises(IceFailed, match="refuses the credentials"):
        await path.connect(replace(webrtc_server.fragment, password="x" * 22), 0.1)
    assert path.counters["stun-errors"] > 0


async def test_path_can_be_checked_again_after_it_failed(
    make: Callable[[IceOptions], LitePath], webrtc_server: WebRtcServer
) -> None:
    path = make(IceOptions())
    webrtc_server.answers_checks = False
    with pytest.raises(IceFailed):
        await path.connect(webrtc_server.fragment, 0.05)
    webrtc_server.answers_checks = True
    await path.connect(webrtc_server.fragment, 3)
    assert path.rtt is not None


async def test_first_candidate_is_the_one_with_the_highest_priority(
    make: Callable[[IceOptions], LitePath], webrtc_server: WebRtcServer
) -> None:
    good = webrtc_server.fragment.candidates[0]
    worse = f"candidate:2 1 UDP 1 127.0.0.1 {webrtc_server.address[1] ^ 1} typ host"
    path = make(IceOptions())
    await path.connect(replace(webrtc_server.fragment, candidates=(worse, good)), 3)
    assert webrtc_server.responder.address == path.local_address


async def test_consent_is_asked_for_and_its_end_is_told_once(
    make: Callable[[IceOptions], LitePath], webrtc_server: WebRtcServer, owner: Owner
) -> None:
    path = make(IceOptions())
    await path.connect(webrtc_server.fragment, 3)
    webrtc_server.answers_checks = False
    async with asyncio.timeout(3):
        await owner.lost.wait()
    await asyncio.sleep(0.05)
    assert len(owner.reasons) == 1
    assert "consent" in owner.reasons[0]
    assert not path.send(b"\x80")


async def test_flood_of_forged_checks_is_counted_and_hardly_answered(
    make: Callable[[IceOptions], LitePath], webrtc_server: WebRtcServer, owner: Owner
) -> None:
    path = make(IceOptions())
    await path.connect(webrtc_server.fragment, 3)
    forged = build_request(
        bytes(12),
        username=f"{path.credentials.ufrag}:{webrtc_server.credentials.ufrag}",
        password="not the password at all",
        priority=1,
        tie_breaker=1,
    )
    for _ in range(100):
        webrtc_server.send(forged)
    webrtc_server.send(b"\x80 media")
    async with asyncio.timeout(3):
        while not owner.received:  # noqa: ASYNC110 - a list
            await asyncio.sleep(0.001)
    assert path.counters["stun-bad-integrity"] == 100
    assert path.counters["stun-limited"] >= 80
    assert path.send(b"\x80")
    assert owner.reasons == []


async def test_closing_in_between_ends_everything(
    make: Callable[[IceOptions], LitePath], webrtc_server: WebRtcServer, drops: Counter[str]
) -> None:
    webrtc_server.answers_checks = False
    path = make(IceOptions())
    connecting = asyncio.create_task(path.connect(webrtc_server.fragment, 3))
    await webrtc_server.until(lambda: webrtc_server.responder.last_check is not None)
    await path.aclose()
    await path.aclose()
    with pytest.raises(ConnectError, match="closed"):
        await connecting
    assert not path.send(b"\x80")
    assert drops["closed"] == 1


async def test_closing_while_the_socket_is_being_opened(
    loop_without_readers: Callable[[], asyncio.AbstractEventLoop], drops: Counter[str]
) -> None:
    async def story() -> None:
        owner = Owner(drops)
        path = LitePath(IceCredentials.generate(), IceOptions(), owner.as_owner, TIMINGS)
        opening = asyncio.create_task(path.gather(("127.0.0.1", 9)))
        await asyncio.sleep(0)
        await path.aclose()
        with pytest.raises(ConnectError, match="closed"):
            await opening

    def run() -> None:
        with asyncio.Runner(loop_factory=loop_without_readers) as runner:
            runner.run(story())

    await asyncio.to_thread(run)
