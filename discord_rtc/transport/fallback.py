"""One session's attempt at a media path: one transport after the other, a probe beside it.

Which ones, and in which order, is decided by `discord_rtc.transport.plan`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from discord_rtc.errors import InvalidState, RtcError
from discord_rtc.transport.base import PATH_ERRORS, TransportStats
from discord_rtc.transport.udp import UdpTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.clock import Clock
    from discord_rtc.protocol.messages import Ready, SelectProtocol, SessionDescription
    from discord_rtc.transport.base import MediaOffer, NegotiatedMedia, PacketSink, Transport
    from discord_rtc.transport.ice_options import IceOptions
    from discord_rtc.transport.plan import Attempt

_LOG = logging.getLogger("discord_rtc.transport")

GRACE = 1.5
"""Seconds that ICE and DTLS still get when the probe was answered: three round trips of half a
second, more than any path that carries a conversation takes."""


def make_transport(
    attempt: Attempt, ice: IceOptions, clock: Clock, note: Callable[[str, Exception], None]
) -> PlannedTransport:
    """The transport of one session.

    Args:
        attempt: What to try.
        ice: How the WebRTC transport finds its path.
        clock: Must tick like the running loop's time.
        note: Told name and error of each path that did not work.
    """
    _LOG.debug("= trying %s: %s", ", then ".join(attempt.names), attempt.reason)
    paths: list[tuple[str, Transport]] = []
    probe = None
    for name in attempt.names:
        if name == "udp":
            paths.append((name, _udp(clock, ice)))
            continue
        # OpenSSL and aiortc take a quarter of a second to import.
        from discord_rtc.transport.webrtc import WebRtcTransport  # noqa: PLC0415 - see above

        webrtc = WebRtcTransport(clock, ice=ice)
        paths.append((name, webrtc))
        if attempt.probe and not (ice.bind and ice.bind[1]):  # a fixed port is for one socket
            probe = Probe(_udp(clock, ice), webrtc.hurry)
    return PlannedTransport(paths, probe, note)


def _udp(clock: Clock, ice: IceOptions) -> UdpTransport:
    return UdpTransport(clock, bind=ice.bind, port_range=ice.port_range)


@dataclass(frozen=True, slots=True)
class Probe:
    """IP discovery beside another path.

    Attributes:
        transport: Opened and closed again, not used any further.
        answered: Called when the server answered, with the seconds that the other path still
            gets.
    """

    transport: Transport
    answered: Callable[[float], None]


class PlannedTransport:
    """A `Transport` that is the first of several which works, as far as one session can change.

    Args:
        paths: Name and transport, in the order of trying.
        probe: To learn, beside the first path, whether plain UDP works; None for no probe.
        note: Told name and error of each path that did not work.
    """

    def __init__(
        self,
        paths: list[tuple[str, Transport]],
        probe: Probe | None,
        note: Callable[[str, Exception], None],
    ) -> None:
        self._paths = paths
        self._probe = probe
        self._note = note
        self._chosen: tuple[str, Transport] | None = None
        self._question: tuple[Ready, MediaOffer] | None = None

    async def prepare(self) -> None:
        """Prepare all paths at once."""
        await asyncio.gather(*(transport.prepare() for _, transport in self._paths))

    async def open(self, ready: Ready, offer: MediaOffer) -> SelectProtocol:
        """Open the first path that can be opened; as `Transport.open`, whose errors it raises."""
        self._question = (ready, offer)
        while True:
            name, transport = self._paths[0]
            try:
                select = await transport.open(ready, offer)
            except PATH_ERRORS as error:
                self._note(name, error)
                if len(self._paths) == 1:
                    raise
                await transport.aclose()
                del self._paths[0]
            else:
                self._chosen = (name, transport)
                return select

    async def accept(self, answer: SessionDescription) -> NegotiatedMedia:
        """Finish the path that was selected; as `Transport.accept`, whose errors it raises."""
        name, transport = self._current()
        probe, self._probe = self._probe, None
        try:
            # Without a wish to receive, UDP is opened without asking anything.
            if probe is None or not self._receives:
                return await transport.accept(answer)
            return await self._accept_beside(probe, transport, answer)
        except PATH_ERRORS as error:
            self._note(name, error)
            raise

    def send_rtp(self, packet: bytes) -> None:
        """As `Transport.send_rtp`."""
        self._current()[1].send_rtp(packet)

    def send_rtcp(self, packet: bytes) -> None:
        """As `Transport.send_rtcp`."""
        self._current()[1].send_rtcp(packet)

    def deliver_to(self, sink: PacketSink) -> None:
        """As `Transport.deliver_to`."""
        self._current()[1].deliver_to(sink)

    def stats(self) -> TransportStats:
        """As `Transport.stats`."""
        return TransportStats() if self._chosen is None else self._chosen[1].stats()

    async def aclose(self) -> None:
        """Close all paths. Idempotent."""
        if self._probe is not None:
            await self._probe.transport.aclose()
        for _, transport in self._paths:
            await transport.aclose()

    async def _accept_beside(
        self, probe: Probe, transport: Transport, answer: SessionDescription
    ) -> NegotiatedMedia:
        outcome: NegotiatedMedia | Exception
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._ask(probe.transport), name="transport-probe")

            def answered(task: asyncio.Task[Exception | None]) -> None:
                if not task.cancelled() and task.result() is None:
                    probe.answered(GRACE)

            asking.add_done_callback(answered)
            try:
                outcome = await transport.accept(answer)
            except PATH_ERRORS as error:
                outcome = error
                # Both have the same deadline, so that this takes no time to speak of.
                unreachable = await asking
                if unreachable is not None:
                    self._note("udp", unreachable)
            except RtcError as error:  # no other path would mend it, so no answer is waited for
                outcome = error
            asking.cancel()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _ask(self, probe: Transport) -> Exception | None:
        """Whether plain UDP works: None, or what it saw."""
        assert self._question is not None
        try:
            await probe.open(*self._question)
        except PATH_ERRORS as error:
            return error
        finally:
            await probe.aclose()
        return None

    @property
    def _receives(self) -> bool:
        return self._question is not None and self._question[1].receive

    def _current(self) -> tuple[str, Transport]:
        if self._chosen is None:
            raise InvalidState("open comes first")
        return self._chosen
