"""The pytest plugin, as a stranger's suite would use it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from discord_rtc.clock import ManualClock
    from discord_rtc.server import LocalServer
    from discord_rtc.testing import LossyLink


@pytest.mark.asyncio
async def test_voice_server_is_running(voice_server: LocalServer) -> None:
    assert voice_server.gateway_url.startswith("ws://127.0.0.1:")
    async with voice_server.gateway(7, name="seven") as gateway:
        assert gateway.user_id == 7


def test_manual_clock_moves_only_by_hand(manual_clock: ManualClock) -> None:
    start = manual_clock.now()
    assert manual_clock.now() == start
    assert manual_clock.advance(1.5) == start + 1.5


class Sink:
    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def rtp(self, packet: bytes, now: float) -> None:
        del now
        self.packets.append(packet)

    def rtcp(self, packet: bytes, now: float) -> None: ...

    def lost(self, error: Exception) -> None: ...


@pytest.mark.asyncio
async def test_lossy_link_loses_by_its_seed(lossy_link: LossyLink) -> None:
    async def received(seed: int) -> list[bytes]:
        one, two = lossy_link(loss=0.5, seed=seed)
        sink = Sink()
        two.deliver_to(sink)
        for number in range(200):
            one.send_rtp(b"\x80\x78" + number.to_bytes(2, "big") + bytes(8))
        await asyncio.sleep(0.05)
        await one.aclose()
        await two.aclose()
        return sink.packets

    first = await received(seed=1)
    assert 60 < len(first) < 140
    assert first == await received(seed=1)
    assert first != await received(seed=2)


def test_the_plugin_serves_a_suite_that_does_not_know_us(tmp_path: Path) -> None:
    (tmp_path / "test_stranger.py").write_text(
        "import pytest\n"
        "@pytest.mark.asyncio\n"
        "async def test_call(lab):\n"
        "    ann, bob = await lab.users(ann='udp', bob='udp')\n"
        "    assert ann.id in bob.users\n"
        "@pytest.mark.discord_live\n"
        "def test_marker(): pass\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "2 passed" in result.stdout, result.stdout + result.stderr
