"""A DTLS endpoint on the loop, against another one in memory."""

from __future__ import annotations

import asyncio

import pytest

from discord_rtc.clock import SystemClock
from discord_rtc.crypto.certificate import Certificate
from discord_rtc.crypto.dtls import DtlsEndpoint, KeysAgreed
from discord_rtc.errors import ConnectError, DtlsFailed
from discord_rtc.transport.dtls_channel import DtlsChannel

pytestmark = pytest.mark.asyncio

CLOCK = SystemClock()


class Pair:
    """A channel and its server, with datagrams that can be held back."""

    def __init__(self, *, announced: str | None = None) -> None:
        ours, theirs = Certificate.generate(), Certificate.generate()
        self.server = DtlsEndpoint(theirs, client=False, fingerprints=(ours.fingerprint,))
        self.server.start(CLOCK.now())
        self.reasons: list[str] = []
        self.sent = 0
        self.connected = True
        self.server_keys: object = None
        endpoint = DtlsEndpoint(ours, client=True, fingerprints=(announced or theirs.fingerprint,))
        self.channel = DtlsChannel(endpoint, self._send, self.reasons.append, CLOCK)

    def flush(self) -> None:
        """Carry what the server has to say."""
        for datagram in self.server.datagrams_to_send():
            asyncio.get_running_loop().call_soon(self.channel.receive, datagram, CLOCK.now())
        while (event := self.server.next_event()) is not None:
            if isinstance(event, KeysAgreed):
                self.server_keys = event.keys

    def _send(self, datagram: bytes) -> bool:
        self.sent += 1
        if self.connected:
            self.server.receive_datagram(datagram, CLOCK.now())
            self.flush()
        return self.connected


async def test_both_ends_have_the_same_keys() -> None:
    pair = Pair()
    keys = await pair.channel.handshake()
    assert keys == pair.server_keys
    assert not pair.channel.counters
    pair.channel.close()


async def test_another_certificate_than_announced_is_a_failure() -> None:
    pair = Pair(announced=Certificate.generate().fingerprint)
    with pytest.raises(DtlsFailed, match="announced was"):
        await pair.channel.handshake()
    assert pair.server_keys is None


async def test_goodbye_after_the_handshake_is_told() -> None:
    pair = Pair()
    await pair.channel.handshake()
    pair.server.close(CLOCK.now())
    pair.flush()
    await asyncio.sleep(0.01)
    assert pair.reasons == ["the voice server closed the DTLS association"]
    pair.channel.close()


async def test_closing_ends_a_handshake_and_its_repetitions() -> None:
    pair = Pair()
    pair.connected = False
    shaking = asyncio.create_task(pair.channel.handshake())
    await asyncio.sleep(0)
    pair.channel.close()
    pair.channel.close()
    with pytest.raises(ConnectError, match="closed"):
        await shaking
    sent = pair.sent
    await asyncio.sleep(0.15)  # longer than until the first repetition
    assert pair.sent == sent


async def test_cancelled_handshake_repeats_nothing() -> None:
    pair = Pair()
    pair.connected = False
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await pair.channel.handshake()
    sent = pair.sent
    await asyncio.sleep(0.15)
    assert pair.sent == sent


async def test_garbage_is_counted() -> None:
    pair = Pair()
    await pair.channel.handshake()
    pair.channel.receive(b"\x16 garbage", CLOCK.now())
    assert pair.channel.counters == {"dtls-junk": 1}
    pair.channel.close()
