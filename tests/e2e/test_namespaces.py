"""Machines with no network interface but ``lo``, and packet filters of the kernel on the way.

Network namespaces stand in for both. They need root, ``unshare``, ``ip`` and ``nft``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from discord_rtc import ConnectionOptions, IceOptions
from discord_rtc.errors import DiscoveryTimeout, DtlsFailed, IceFailed, NoRoute, PathLost
from discord_rtc.ice.agent import IceTimings
from discord_rtc.lab import Lab
from discord_rtc.transport import webrtc
from discord_rtc.transport.webrtc import WebRtcTimings, WebRtcTransport

from .calls import assert_media_flows, assert_media_goes_on, eventually, join, note
from .namespace import FIREWALLS, alone, in_namespace, in_namespaces, require_namespaces
from .turn import RELAY_PORTS, WAYS, running_turn_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from .calls import Join
    from .namespace import Firewall, Network
    from .turn import TurnServer, Way

FAILURE_COST = 5.0
"""Seconds that each path may take to fail."""

STUN = "@th,96,32 0x2112a442"
"""The magic cookie (RFC 8489 section 5), which is 4 bytes into what UDP carries."""

DTLS = "@th,64,8 20-63"
"""The first byte of what UDP carries (RFC 7983 section 7)."""

RELAYS = f"{RELAY_PORTS[0]}-{RELAY_PORTS[-1]}"


def media(lab: Lab, *matches: str, but_relays: bool = False) -> list[str]:
    """Rules for datagrams to and from the voice server's media port.

    Args:
        lab: Its server.
        matches: What else must be true of them; by default nothing.
        but_relays: Leave those of the TURN server's relays alone.
    """
    port = lab.server.media_address[1]
    other = f"!= {RELAYS} " if but_relays else "!= 0 "
    return [
        f"udp {here} {port} udp {there} {other}{match}".rstrip()
        for here, there in (("dport", "sport"), ("sport", "dport"))
        for match in (matches or ("",))
    ]


def each_firewall(call: Callable[[Firewall, Network], Awaitable[Join]]) -> list[Join]:
    """The same call behind each kind of firewall, side by side."""
    return in_namespaces([partial(call, firewall) for firewall in FIREWALLS])


@pytest.mark.parametrize(
    ("transport", "to"), [("webrtc", "webrtc"), ("webrtc", "udp"), ("udp", "webrtc")]
)
def test_the_demo_meets_its_marks_where_there_is_only_lo(
    transport: str, to: str, tmp_path: Path
) -> None:
    require_namespaces()
    demo = ("demo", "--transport", transport, "--to", to, "--seconds", "3", "--json", "out.json")
    done = subprocess.run(
        alone(sys.executable, "-m", "discord_rtc", *demo),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    note(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (report["transport"], report["receiver_transport"]) == (transport, to)
    assert report["finished"] is True
    assert report["video_frames_sent"] >= 30 * 3 - 2
    assert report["audio_frames_sent"] >= 50 * 3 - 3
    for kind in ("video", "audio"):
        assert report[f"{kind}_frames_received"] >= 0.995 * report[f"{kind}_frames_sent"]
    assert report["video_frames_damaged"] == 0
    assert report["latency_ms"]["p50"] <= 40
    assert report["av_skew_ms"]["p95"] <= 40


def test_stun_is_filtered_so_auto_is_live_on_udp() -> None:
    async def call(firewall: Firewall, network: Network) -> Join:
        network.require_filters()
        async with Lab() as lab:
            network.filter(*media(lab, STUN), firewall=firewall)
            joined = await join(lab, "ann")
            assert joined.error is None
            assert network.dropped() > 0
            bob = await lab.user("bob", "udp")
            await assert_media_flows(joined.connection, bob)
            await joined.connection.disconnect()
            again = await join(lab, "ann")
            assert (again.failures, again.transports) == ([], ["udp"])  # it is remembered
        return joined

    for joined, firewall in zip(each_firewall(call), FIREWALLS, strict=True):
        note(f"firewall {firewall}: live on udp after {joined.seconds:.2f} s")
        assert joined.seconds < FAILURE_COST
        assert (joined.failures, joined.transports) == ([("webrtc", IceFailed)], ["udp"])


def test_dtls_is_filtered_so_auto_is_live_on_udp() -> None:
    async def call(network: Network) -> Join:
        network.require_filters()
        async with Lab() as lab:
            network.filter(*media(lab, DTLS))
            joined = await join(lab, "ann")
            assert joined.error is None
            assert network.dropped() > 0
            bob = await lab.user("bob", "udp")
            await assert_media_flows(joined.connection, bob)
        return joined

    joined = in_namespace(call)
    note(f"live on udp after {joined.seconds:.2f} s")
    assert joined.seconds < FAILURE_COST
    assert (joined.failures, joined.transports) == ([("webrtc", DtlsFailed)], ["udp"])


@pytest.mark.parametrize("way", WAYS)
def test_direct_udp_is_filtered_so_auto_is_live_through_the_relay(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def call(turn: TurnServer, network: Network) -> tuple[Join, Join]:
        async with Lab() as lab:
            network.filter(*media(lab, but_relays=True))
            options = ConnectionOptions(ice=IceOptions(servers=(turn.ice_server(way),)))
            ann, bob = await join(lab, "ann", options), await join(lab, "bob", options)
            await assert_media_flows(ann.connection, bob.connection)
            assert network.dropped() > 0  # IP discovery was asked beside it
        return ann, bob

    async def beside_a_relay(network: Network) -> tuple[Join, Join]:
        network.require_filters()
        with running_turn_server(tmp_path) as turn:
            monkeypatch.setenv("SSL_CERT_FILE", str(turn.certificate))
            return await call(turn, network)

    for joined in in_namespace(beside_a_relay):
        note(f"live through TURN over {way} after {joined.seconds:.2f} s")
        assert joined.seconds < FAILURE_COST
        assert (joined.failures, joined.transports) == ([], ["webrtc"])


def test_all_udp_is_filtered_so_there_is_no_route() -> None:
    async def call(firewall: Firewall, network: Network) -> Join:
        network.require_filters()
        async with Lab() as lab:
            network.filter(*media(lab), firewall=firewall)
            joined = await join(lab, "ann")
            assert network.dropped() > 0
            assert lab.server.counters["voice.no-route"] == 1
            assert not lab.server.rooms
        return joined

    for joined, firewall in zip(each_firewall(call), FIREWALLS, strict=True):
        note(f"firewall {firewall}: no route after {joined.seconds:.2f} s: {joined.error}")
        assert isinstance(joined.error, NoRoute)
        assert sorted(joined.failures) == [("udp", DiscoveryTimeout), ("webrtc", IceFailed)]
        assert joined.seconds < FAILURE_COST  # it tries both side by side
        for part in ("udp: ", "webrtc: ", "Allow outgoing UDP", "TURN server"):
            assert part in str(joined.error)


def test_a_filter_in_mid_call_changes_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    timings = WebRtcTimings(deadline=1, ice=IceTimings(consent_interval=0.2, consent_timeout=1))
    monkeypatch.setattr(webrtc, "WebRtcTransport", partial(WebRtcTransport, timings=timings))

    async def call(firewall: Firewall, network: Network) -> Join:
        network.require_filters()
        async with Lab() as lab:
            joined = await join(lab, "ann")
            bob = await lab.user("bob", "udp")
            await assert_media_flows(joined.connection, bob)
            assert joined.transports == ["webrtc"]
            before = bob.users[joined.connection.id]
            network.filter(*media(lab, STUN, DTLS), firewall=firewall)
            await eventually(lambda: joined.transports == ["webrtc", "udp"], within=10)
            await assert_media_goes_on(bob, before, joined.connection)
            assert network.dropped() > 0
        return joined

    for joined in each_firewall(call):
        assert joined.failures == [("webrtc", PathLost), ("webrtc", IceFailed)]
