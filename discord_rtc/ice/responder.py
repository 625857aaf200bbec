"""The lite side of ICE: answers the checks of one peer and learns its address. Sans-I/O.

Spec: RFC 8445 sections 2.5 (lite), 7.3 (answering) and 8.1.1 (nomination).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedPacket
from discord_rtc.ice.gate import RequestGate
from discord_rtc.ice.stun import BINDING, MessageClass, build_success, parse_stun

if TYPE_CHECKING:
    from discord_rtc.ice.credentials import IceCredentials
    from discord_rtc.ice.stun import Address


class LiteResponder:
    """Answers checks. It never sends any, so it has no timers and no transactions.

    Args:
        credentials: Of this side.
        counters: Where things are counted; one of its own when left out.

    Attributes:
        counters: ``stun-checks`` that were authentic; ``stun-moved``, how often one of them
            nominated another address than the one before; what was refused (``stun-incomplete``,
            ``stun-wrong-username``, ``stun-bad-integrity``, ``stun-unknown-attribute``,
            ``stun-role-conflict``), of which ``stun-limited`` got no answer; and what is not
            answered at all (``stun-malformed``, ``stun-unexpected``).
    """

    def __init__(
        self, credentials: IceCredentials, *, counters: Counter[str] | None = None
    ) -> None:
        self.counters: Counter[str] = Counter() if counters is None else counters
        self._credentials = credentials
        self._gate = RequestGate(credentials, self.counters, controlling=False)
        self._address: Address | None = None
        self._last_check: float | None = None

    @property
    def credentials(self) -> IceCredentials:
        """Those of this side, for its description."""
        return self._credentials

    @property
    def address(self) -> Address | None:
        """Where the peer is; None before its first authentic check.

        The first authentic check sets it, so that an answer can be sent before anything is
        nominated. Later on only nominations move it: a peer that still probes its other paths
        keeps the one it chose, and one that nominates again and again may change its mind.
        """
        return self._address

    @property
    def last_check(self) -> float | None:
        """When the latest authentic check came, monotonic seconds."""
        return self._last_check

    def set_remote(self, ufrag: str) -> None:
        """Expect this peer from now on: both halves of USERNAME must match."""
        self._gate.set_remote(ufrag)

    def receive_datagram(self, datagram: bytes, source: Address, now: float) -> bytes | None:
        """Take a datagram that looks like STUN. Never raises for what it holds.

        Args:
            datagram: As received.
            source: Where it came from, an IP address as text and a port.
            now: Monotonic seconds.

        Returns:
            What to send back to ``source``, if anything.
        """
        try:
            message = parse_stun(datagram)
        except MalformedPacket:
            self.counters["stun-malformed"] += 1
            return None
        if message.message_class is not MessageClass.REQUEST or message.method != BINDING:
            self.counters["stun-unexpected"] += 1
            return None
        refusal = self._gate.refusal(message)
        if refusal is not None:
            return self._gate.refuse(message, refusal, now)
        self.counters["stun-checks"] += 1
        self._last_check = now
        if self._address is None:
            self._address = source
        elif message.use_candidate and self._address != source:
            self._address = source
            self.counters["stun-moved"] += 1
        return build_success(message.transaction_id, source, self._credentials.password)
