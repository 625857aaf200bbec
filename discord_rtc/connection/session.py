"""One voice session: from Identify to the end of that identification.

    gateway socket --> Ready --> transport.open --> Select Protocol
                       Session Description --> transport.accept --> MediaLink, live

A session owns its gateway socket, its transport, its roster and its decoders. Users,
tracks, publications and subscriptions belong to the connection and outlive it.
"""

from __future__ import annotations

import asyncio
import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from discord_rtc.connection.announcing import Announcements
from discord_rtc.connection.causes import first_cause
from discord_rtc.connection.events import CodecsChanged, LayerWanted, UnknownReceived
from discord_rtc.connection.futures import retire, settle
from discord_rtc.connection.gateway import VoiceGateway
from discord_rtc.connection.link import MediaLink
from discord_rtc.connection.receiving import PARKING_BOUND, People, Receiver
from discord_rtc.connection.worker import Worker
from discord_rtc.errors import ConnectionLost, NoRoute, PathLost, SignalingTimeout
from discord_rtc.frames import MediaKind
from discord_rtc.protocol.messages import (
    BackendVersion,
    BackendVersionRequest,
    ClientsConnect,
    MediaSinkWants,
    Ready,
    SessionDescription,
    SessionUpdate,
    UnknownMessage,
)
from discord_rtc.protocol.messages import (
    NoRoute as NoRouteMessage,
)
from discord_rtc.protocol.opcodes import SpeakingFlags
from discord_rtc.protocol.roster import Roster
from discord_rtc.protocol.voice import (
    Described,
    Greeted,
    HeartbeatMissed,
    ReadyReceived,
    Received,
    TimedOut,
    VoiceOptions,
)
from discord_rtc.queues import QueueStats
from discord_rtc.transport.base import PATH_ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from discord_rtc.clock import Clock
    from discord_rtc.connection.sending import Publication
    from discord_rtc.protocol.messages import ServerMessage
    from discord_rtc.protocol.voice import VoiceCredentials, VoiceEvent
    from discord_rtc.rtp.session import FrameReceived, SenderReportReceived
    from discord_rtc.transport.base import MediaOffer, NegotiatedMedia, Transport

_LOG = logging.getLogger("discord_rtc.connection")

CLOSING_GRACE = 0.5
"""Seconds between the end of a media path and that of its session: a server that ends a session
closes both, and it is the socket's close code that says why."""


class SessionPeople(People, Protocol):
    """The users of a connection, of whom a new session says who is still there."""

    def keep_only(self, user_ids: frozenset[int]) -> None:
        """Let everybody go who is not among these."""
        ...


class SessionOwner(Protocol):
    """The connection, as its sessions see it."""

    @property
    def people(self) -> SessionPeople:
        """The users of the connection."""
        ...

    def session_live(self) -> None:
        """Media can flow from now on."""
        ...

    def path_failed(self, error: Exception) -> Exception:
        """No media path came up in this session; returns what to end it with."""
        ...

    def path_lost(self, error: Exception) -> None:
        """The media path of the live session died."""
        ...

    async def allow(self, publication: Publication) -> None:
        """Make sure that the gateway grants what is about to be sent."""
        ...

    async def publication_ended(self, publication: Publication, error: Exception | None) -> None:
        """A published track came to its end or failed."""
        ...


class SessionTimeouts(Protocol):
    """Deadlines in seconds, as the connection's options name them."""

    @property
    def connect(self) -> float:
        """From the opening of the socket to media."""
        ...

    @property
    def signaling(self) -> float:
        """Opening the socket."""
        ...


class LiveSession:
    """One attempt at a voice server, and the session that comes of it.

    Args:
        credentials: Where and as whom.
        options: Gateway version and capabilities.
        offer: Codecs and modes.
        transport: Carries the media; this session closes it.
        owner: The connection.
        secure: Whether an endpoint without a scheme is TLS.
        clock: Source of ``now``.
        epoch: Our time that pts 0 of received tracks stands for.
    """

    def __init__(  # noqa: PLR0913 - everything that a session is made of, named once
        self,
        credentials: VoiceCredentials,
        options: VoiceOptions,
        offer: MediaOffer,
        *,
        transport: Transport,
        owner: SessionOwner,
        secure: bool,
        clock: Clock,
        epoch: float,
    ) -> None:
        self._owner = owner
        self._offer = offer
        self._clock = clock
        self._transport = transport
        self._gateway = VoiceGateway(credentials, options, secure=secure, handler=self, clock=clock)
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[Ready] = loop.create_future()
        self._described: asyncio.Future[SessionDescription] = loop.create_future()
        self._failed: asyncio.Future[None] = loop.create_future()
        self._versions: asyncio.Future[BackendVersion] | None = None
        self._roster = Roster(credentials.user_id)
        self._worker = Worker("discord-rtc-decode")
        self._receiver = Receiver(
            people=owner.people,
            roster=self._roster,
            worker=self._worker,
            clock=clock,
            epoch=epoch,
            ask_keyframe=self._ask_keyframe,
        )
        self._protocol: str | None = None
        self._link: MediaLink | None = None
        self._group: asyncio.TaskGroup | None = None
        self._sending: dict[MediaKind, asyncio.Task[None]] = {}
        self._publications: dict[MediaKind, Publication] = {}
        self._announcements: Announcements | None = None
        self._greeted = False
        self._begun = clock.now()
        self._steps: dict[str, float] = {}

    @property
    def steps(self) -> Mapping[str, float]:
        """Steps of the join that are done, with the seconds since the session was made."""
        return MappingProxyType(self._steps)

    @property
    def protocol(self) -> str | None:
        """Name of the selected transport; None until selected."""
        return self._protocol

    @property
    def link(self) -> MediaLink | None:
        """The media link; None until live."""
        return self._link

    @property
    def receiver(self) -> Receiver:
        """The receiving half, for statistics and demand."""
        return self._receiver

    def queues(self) -> tuple[QueueStats, ...]:
        """The bounded queues of this session."""
        worker, receiver = self._worker, self._receiver
        return (
            QueueStats("decode", worker.high_water, worker.bound, worker.refused),
            QueueStats(
                "parking",
                receiver.parking_high_water,
                PARKING_BOUND,
                receiver.drops["unknown-ssrc"],
            ),
        )

    async def run(
        self, publications: Mapping[MediaKind, Publication], timeouts: SessionTimeouts
    ) -> None:
        """Connect, go live, and stay so until something ends it. Never returns normally.

        Args:
            publications: What to send from the start.
            timeouts: Deadlines in seconds.

        Raises:
            ConnectError: The session could not be made.
            NegotiationError: Nothing in common with the server.
            ConnectionLost: The session ended.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._gateway.run(timeouts.signaling), name="voice-gateway")
                group.create_task(self._watch(), name="session-watch")
                group.create_task(self._transport.prepare(), name="transport-prepare")
                await self._negotiate(timeouts.connect)
                for publication in tuple(publications.values()):
                    self.start(publication)
                self._owner.session_live()
        except BaseExceptionGroup as failures:
            raise first_cause(failures) from None
        finally:
            await self._aclose()

    def start(self, publication: Publication) -> None:
        """Begin to send a publication on this live session, in place of one of its kind.

        Nothing happens when the session is ending: the next one begins with it.
        """
        assert self._group is not None
        kind = publication.kind
        previous = self._sending.get(kind)
        sending = self._send(publication, previous)
        try:
            self._sending[kind] = self._group.create_task(sending, name=f"send:{kind}")
        except RuntimeError:  # the group is being cancelled
            sending.close()
            return
        self._publications[kind] = publication
        if previous is not None:
            previous.cancel()

    async def stop(self, kind: MediaKind) -> None:
        """Stop sending what is published as this kind."""
        publication = self._publications.pop(kind, None)
        if publication is None:
            return
        task = self._sending[kind]
        publication.stopped = True
        task.cancel()
        await asyncio.wait([task])
        if self._sending.get(kind) is task:  # nothing else was published meanwhile
            del self._sending[kind]
            self._withdraw(kind)

    async def backend_versions(self) -> BackendVersion:
        """Ask the server for its versions (op 16).

        Raises:
            ConnectionLost: The session ended first.
        """
        if self._versions is None or self._versions.done():
            self._versions = asyncio.get_running_loop().create_future()
            self._gateway.send(BackendVersionRequest())
        return await asyncio.shield(self._versions)

    # Events of the voice gateway

    def socket_open(self) -> None:
        """From the gateway shell."""
        self._done("socket")

    def voice_event(self, event: VoiceEvent) -> None:
        """From the gateway shell."""
        match event:
            case Greeted():
                self._done("hello")
            case ReadyReceived(message=ready):
                self._done("ready")
                settle(self._ready, ready)
            case Described(message=description):
                self._done("description")
                settle(self._described, description)
            case HeartbeatMissed():
                self._fail(ConnectionLost(None, "the voice server stopped answering heartbeats"))
            case TimedOut(phase=phase):
                self._fail(SignalingTimeout(f"the voice server did not send {phase} in time"))
            case Received(message=message):
                self._received(message)
            case _:
                # HeartbeatAnswered, Unexpected, Dropped: kept by the machine.
                pass

    def _received(self, message: ServerMessage | UnknownMessage) -> None:
        emit = self._owner.people.emit
        match message:
            case BackendVersion() if self._versions is not None:
                settle(self._versions, message)
            case SessionUpdate(codecs=codecs):
                emit(CodecsChanged(codecs))
            case MediaSinkWants():
                emit(LayerWanted(message.any, dict(message.ssrcs)))
            case UnknownMessage(opcode=opcode, data=data):
                emit(UnknownReceived(opcode, data))
            case _:
                if isinstance(message, ClientsConnect) and not self._greeted:
                    # The first list of a session is complete; later ones name newcomers.
                    self._greeted = True
                    self._owner.people.keep_only(frozenset(message.user_ids))
                self._receiver.apply(self._roster.apply(message))

    # Events of the media link

    def frame_received(self, frame: FrameReceived) -> None:
        """From the link."""
        self._receiver.frame_received(frame)

    def sender_report(self, report: SenderReportReceived) -> None:
        """From the link."""
        self._receiver.sender_report(report)

    def stream_ended(self, ssrc: int) -> None:
        """From the link."""
        self._receiver.stream_ended(ssrc)

    def keyframe_requested(self, ssrc: int) -> None:
        """From the link: only video streams get such requests."""
        del ssrc
        for publication in self._publications.values():
            publication.keyframe_requested()

    def link_lost(self, error: Exception) -> None:
        """From the link."""
        self._fail(error)

    # Inside

    async def _negotiate(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                media = await self._find_path(await self._ready)
        except TimeoutError:
            raise SignalingTimeout(
                f"the voice server did not bring up media within {timeout:g} s"
            ) from None
        self._done("path")
        self._announcements = Announcements(media, self._gateway.send)
        self._link = MediaLink(self._transport, media, self, self._clock)
        _LOG.info("= live as SSRC %d", media.audio_ssrc)

    async def _find_path(self, ready: Ready) -> NegotiatedMedia:
        try:
            select = await self._transport.open(ready, self._offer)
            self._protocol = select.protocol
            self._done("selection")
            self._gateway.select_protocol(select)
        except PATH_ERRORS as error:
            raise self._path_failed(error) from error
        described = await self._described
        try:
            return await self._transport.accept(described)
        except PATH_ERRORS as error:
            raise self._path_failed(error) from error

    def _path_failed(self, error: Exception) -> Exception:
        final = self._owner.path_failed(error)
        if isinstance(final, NoRoute):
            self._gateway.send(NoRouteMessage())
        return final

    async def _watch(self) -> None:
        try:
            await self._failed
        except PathLost as lost:
            await asyncio.sleep(CLOSING_GRACE)
            self._owner.path_lost(lost)
            raise

    async def _send(self, publication: Publication, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        assert self._link is not None
        assert self._announcements is not None
        error: Exception | None = None
        try:
            await self._owner.allow(publication)
            await publication.run(self._link, self._announcements)
        except Exception as caught:  # noqa: BLE001 - a failing track ends its own pipeline only
            error = caught
        if self._publications.get(publication.kind) is publication:
            del self._publications[publication.kind]
            del self._sending[publication.kind]
            self._withdraw(publication.kind)
            await self._owner.publication_ended(publication, error)

    def _withdraw(self, kind: MediaKind) -> None:
        assert self._announcements is not None
        if kind is MediaKind.AUDIO:
            self._announcements.speaking(SpeakingFlags.NONE)
        else:
            self._announcements.video(None)

    def _ask_keyframe(self, ssrc: int) -> None:
        if self._link is not None:
            self._link.request_keyframe(ssrc)

    def _done(self, step: str) -> None:
        self._steps.setdefault(step, self._clock.now() - self._begun)

    def _fail(self, error: Exception) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    async def _aclose(self) -> None:
        self._receiver.close()
        if self._link is not None:
            self._link.close()
        await self._transport.aclose()
        await self._worker.aclose()
        retire(self._ready)
        retire(self._described)
        retire(self._failed)
        if self._versions is not None and not self._versions.done():
            self._versions.set_exception(
                ConnectionLost(None, "the session ended before the server told its versions")
            )
            retire(self._versions)
