"""One DTLS endpoint on the running loop: datagrams and timers in, keys or a reason out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from discord_rtc.crypto.dtls import HandshakeFailed, KeysAgreed, PeerClosed
from discord_rtc.errors import ConnectError, DtlsFailed
from discord_rtc.pump import Pump
from discord_rtc.transport.base import CLOSED_MEANWHILE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from discord_rtc.clock import Clock
    from discord_rtc.crypto.dtls import DtlsEndpoint
    from discord_rtc.crypto.srtp import SrtpKeys

_NO_DROPS = frozenset({"dtls-repeated", "dtls-timeouts", "dtls-ignored"})
"""How loss is repaired: flights sent again, and those of the server that were not missing."""


class DtlsChannel:
    """Lets an endpoint shake hands with the voice server over a path that works.

    Args:
        endpoint: Fresh, in the client role.
        send: Sends one datagram.
        lost: Called when the server says goodbye after the handshake.
        clock: Must tick like the running loop's time.
    """

    def __init__(
        self,
        endpoint: DtlsEndpoint,
        send: Callable[[bytes], bool],
        lost: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._endpoint = endpoint
        self._send = send
        self._lost = lost
        self._clock = clock
        self._pump = Pump(endpoint, self._flush, clock)
        self._keys: asyncio.Future[SrtpKeys] | None = None

    @property
    def counters(self) -> Mapping[str, int]:
        """Datagrams that were no part of the handshake, by reason."""
        counters = self._endpoint.counters
        return {reason: count for reason, count in counters.items() if reason not in _NO_DROPS}

    async def handshake(self) -> SrtpKeys:
        """Agree on keys.

        Raises:
            DtlsFailed: The handshake failed, or the server is not the one of the fragment.
            ConnectError: Closed meanwhile.
        """
        self._keys = asyncio.get_running_loop().create_future()
        keys = None
        try:
            self._pump.run(self._endpoint.start, self._clock.now())
            keys = await self._keys
        finally:
            if keys is None:
                self._pump.close()  # nothing is repeated any more
        return keys

    def receive(self, datagram: bytes, now: float) -> None:
        """Take one DTLS datagram; nothing in it can do harm."""
        self._pump.run(self._endpoint.receive_datagram, datagram, now)

    def close(self) -> None:
        """Say goodbye, while the path is still there. Idempotent; a handshake under way fails."""
        self._settle(ConnectError(CLOSED_MEANWHILE))
        self._pump.run(self._endpoint.close, self._clock.now())
        self._pump.close()

    def _flush(self, now: float) -> None:  # noqa: ARG002 - nothing here depends on the time
        for datagram in self._endpoint.datagrams_to_send():
            self._send(datagram)
        while (event := self._endpoint.next_event()) is not None:
            match event:
                case KeysAgreed(keys=keys):
                    self._settle(keys)
                case HandshakeFailed(reason=reason):
                    self._settle(DtlsFailed(f"no keys for the media: {reason}"))
                case PeerClosed():
                    self._lost("the voice server closed the DTLS association")

    def _settle(self, outcome: SrtpKeys | Exception) -> None:
        if self._keys is None or self._keys.done():
            return
        if isinstance(outcome, Exception):
            self._keys.set_exception(outcome)
        else:
            self._keys.set_result(outcome)
