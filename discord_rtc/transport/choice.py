"""Which transport to try. The only place above the transports that knows their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

from discord_rtc.errors import UsageError
from discord_rtc.transport.udp import UdpTransport

if TYPE_CHECKING:
    from discord_rtc.clock import Clock
    from discord_rtc.transport.base import Transport

TransportName: TypeAlias = Literal["auto", "udp", "webrtc"]

TransportFactory: TypeAlias = Callable[["Clock"], "Transport"]
"""Makes a fresh transport for one voice session."""


def transport_factory(choice: TransportName | TransportFactory) -> TransportFactory:
    """The factory for a user's choice.

    Args:
        choice: ``"auto"`` (the best that is built: ``"udp"``), ``"udp"``, or a factory, e.g.
            ``lambda clock: one_end_of_a_memory_pair``.

    Raises:
        UsageError: An unknown name, or a transport that this version does not have.
    """
    if callable(choice):
        return choice
    if choice in {"auto", "udp"}:
        return UdpTransport
    if choice == "webrtc":
        raise UsageError('transport="webrtc" is not built yet in this version; use "udp"')
    raise UsageError(f'transport must be "auto", "udp" or "webrtc", not {choice!r}')
