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
from typing import TYPE_CHECKING

from discord_rtc.connection.announcing import Announcements
from discord_rtc.connection.causes import first_cause
from discord_rtc.connection.encrypting import EncryptingLink
from discord_rtc.connection.encryption import Encryption
from discord_rtc.connection.encryption_settings import EncryptionSettings
from discord_rtc.connection.events import CodecsChanged, LayerWanted, UnknownReceived
from discord_rtc.connection.futures import retire, settle
from discord_rtc.connection.gateway import VoiceGateway
from discord_rtc.connection.link import MediaLink
from discord_rtc.connection.outgoing import Outgoing
from discord_rtc.connection.receiving import Receiver
from discord_rtc.connection.worker import Worker
from discord_rtc.errors import ConnectionLost, NoRoute, PathLost, SignalingTimeout
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
    from discord_rtc.connection.publication import Publication
    from discord_rtc.connection.roles import SessionOwner, SessionTimeouts
    from discord_rtc.errors import DaveUnavailable
    from discord_rtc.frames import MediaKind
    from discord_rtc.protocol.dave.events import E2eeState
    from discord_rtc.protocol.messages import ServerMessage
    from discord_rtc.protocol.voice import VoiceCredentials, VoiceEvent
    from discord_rtc.rtp.session import FrameReceived, SenderReportReceived
    from discord_rtc.transport.base import MediaOffer, NegotiatedMedia, Transport

_LOG = logging.getLogger("discord_rtc.connection")

CLOSING_GRACE = 0.5
"""Seconds between the end of a media path and that of its session: a server that ends a session
closes both, and it is the socket's close code that says why."""


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
        encryption: What the user chose about end-to-end encryption.
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
        encryption: EncryptionSettings | None = None,
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
        settings = encryption or EncryptionSettings()
        # The group of a channel has the channel's id; that of a stream will be another value.
        group_id = credentials.channel_id
        self._refusal = settings.refusal(group_id)
        self._encryption = Encryption(
            settings,
            user_id=credentials.user_id,
            group_id=group_id,
            send=self._gateway.send,
            handler=self,
            clock=clock,
        )
        self._receiver = Receiver(
            people=owner.people,
            roster=self._roster,
            worker=self._worker,
            clock=clock,
            epoch=epoch,
            ask_keyframe=self._ask_keyframe,
            decrypt=self._encryption.decrypt,
        )
        self._protocol: str | None = None
        self._link: MediaLink | None = None
        self._encrypting: EncryptingLink | None = None
        self._outgoing: Outgoing | None = None
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

    @property
    def encryption(self) -> Encryption:
        """End-to-end encryption, for statistics and verification."""
        return self._encryption

    @property
    def websockets(self) -> Mapping[str, int]:
        """How often the websocket had to be replaced, see `VoiceGateway.counters`."""
        return self._gateway.counters

    def queues(self) -> tuple[QueueStats, ...]:
        """The bounded queues of this session."""
        worker, encrypting = self._worker, self._encrypting
        return (
            QueueStats("decode", worker.high_water, worker.bound, worker.refused),
            *self._receiver.queues(),
            *(encrypting.queues() if encrypting else ()),
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
                group.create_task(self._gateway.run(timeouts.signaling), name="voice-gateway")
                group.create_task(self._watch(), name="session-watch")
                group.create_task(self._transport.prepare(), name="transport-prepare")
                media = await self._negotiate(timeouts.connect)
                self._go_live(media, group)
                for publication in tuple(publications.values()):
                    self.start(publication)
                self._owner.session_live()
        except BaseExceptionGroup as failures:
            raise first_cause(failures, unencrypted=self._refusal) from None
        finally:
            await self._aclose()

    def start(self, publication: Publication) -> None:
        """Begin to send a publication on this live session, in place of one of its kind.

        Nothing happens when the session is ending: the next one begins with it.
        """
        assert self._outgoing is not None
        self._outgoing.start(publication)

    async def stop(self, kind: MediaKind) -> None:
        """Stop sending what is published as this kind."""
        assert self._outgoing is not None
        await self._outgoing.stop(kind)

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
                self._encryption.receive(description)
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
        if not isinstance(message, UnknownMessage):
            self._encryption.receive(message)
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
        if self._outgoing is not None:
            self._outgoing.keyframe_requested()

    def link_lost(self, error: Exception) -> None:
        """From the link."""
        self._fail(error)

    # Events of encryption

    def e2ee_changed(self, state: E2eeState, privacy_code: str | None, reason: str | None) -> None:
        """From the encryption shell."""
        self._owner.e2ee_changed(state, privacy_code, reason)

    def sending_changed(self, *, fresh: bool) -> None:
        """From the encryption shell."""
        if self._encrypting is not None:
            self._encrypting.sending_changed(fresh=fresh)

    def receive_keys_changed(self) -> None:
        """From the encryption shell."""
        self._receiver.retry()

    def encryption_failed(self, error: DaveUnavailable) -> None:
        """From the encryption shell."""
        self._fail(error)

    # Inside

    async def _negotiate(self, timeout: float) -> NegotiatedMedia:
        try:
            async with asyncio.timeout(timeout):
                media = await self._find_path(await self._ready)
        except TimeoutError:
            raise SignalingTimeout(
                f"the voice server did not bring up media within {timeout:g} s"
            ) from None
        self._done("path")
        return media

    def _go_live(self, media: NegotiatedMedia, group: asyncio.TaskGroup) -> None:
        self._link = MediaLink(self._transport, media, self, self._clock)
        self._encrypting = EncryptingLink(self._link, self._encryption, self._clock)
        announcements = Announcements(media, self._gateway.send)
        self._outgoing = Outgoing(self._owner, self._encrypting, announcements, group)
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

    def _ask_keyframe(self, ssrc: int) -> None:
        if self._link is not None:
            self._link.request_keyframe(ssrc)

    def _done(self, step: str) -> None:
        self._steps.setdefault(step, self._clock.now() - self._begun)

    def _fail(self, error: Exception) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    async def _aclose(self) -> None:
        self._encryption.close()
        self._receiver.close()
        if self._link is not None:
            self._link.close()
        await self._transport.aclose()
        await self._worker.aclose()
        await self._encryption.aclose()
        retire(self._ready)
        retire(self._described)
        retire(self._failed)
        if self._versions is not None and not self._versions.done():
            self._versions.set_exception(
                ConnectionLost(None, "the session ended before the server told its versions")
            )
            retire(self._versions)
