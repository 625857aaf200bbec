"""The life of one connection: its state, its sessions, its end. The core of `VoiceConnection`."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING, Literal, TypeAlias

from discord_rtc.connection.encryption_settings import (
    EncryptionSettings,
    encryption_settings,
    with_identity,
)
from discord_rtc.connection.events import (
    E2eeChanged,
    Invalidated,
    StateChanged,
    TransportChanged,
    TransportFailed,
)
from discord_rtc.connection.identity import EphemeralIdentity
from discord_rtc.connection.options import codec_offers
from discord_rtc.connection.people import CallPeople
from discord_rtc.connection.publishing import Publisher
from discord_rtc.connection.session import LiveSession
from discord_rtc.connection.supervisor import supervise
from discord_rtc.errors import ConnectionLost, InvalidState, NotReady, RtcError
from discord_rtc.protocol.opcodes import VoiceCloseCode
from discord_rtc.protocol.voice import VoiceOptions
from discord_rtc.transport.base import MediaOffer
from discord_rtc.transport.choice import TransportChoice

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.clock import Clock
    from discord_rtc.connection.options import ConnectionOptions
    from discord_rtc.connection.publication import Publication
    from discord_rtc.connection.signaling import Signaling
    from discord_rtc.frames import MediaKind
    from discord_rtc.protocol.dave.events import E2eeState
    from discord_rtc.protocol.voice import VoiceCredentials
    from discord_rtc.transport.choice import TransportMemory

_LOG = logging.getLogger("discord_rtc.connection")

State: TypeAlias = Literal["new", "connecting", "connected", "reconnecting", "closed"]

CLOSE_DEADLINE = 3.0
"""Seconds that closing a connection may take at most."""


class Call:
    """What the supervisor and the voice sessions of a connection work on.

    Args:
        signaling: Where voice servers come from.
        options: How to behave.
        clock: Source of ``now``.
        memory: What is known of voice endpoints.
        closed: Called once when the connection is over.
        identity: Who we are to the others where there is no persistent key; its own by default.

    Attributes:
        signaling: As given.
        options: As given.
        people: The others in the call.
        publisher: What is sent.
    """

    def __init__(
        self,
        signaling: Signaling,
        options: ConnectionOptions,
        clock: Clock,
        *,
        memory: TransportMemory,
        closed: Callable[[], None],
        identity: EphemeralIdentity | None = None,
    ) -> None:
        self.signaling = signaling
        self.options = options
        self.people = CallPeople(self._demand_changed, self._fingerprint)
        self.publisher = Publisher(signaling, self.people.emit)
        self._clock = clock
        self._closed = closed
        self._choice = TransportChoice(
            options.transport,
            modes=bool(options.modes),
            ice=options.ice,
            memory=memory,
            failed=self._transport_failed,
        )
        self._encryption = EncryptionSettings(options.dave)
        self._identity = identity or EphemeralIdentity()
        self._e2ee = E2eeChanged("off", None, None)
        self._changing_path = False
        self._transport: str | None = None
        self._epoch = clock.now()
        self._session: LiveSession | None = None
        self._live = asyncio.Event()  # and at the end for good, so that nobody waits for ever
        self._was_live = False
        self._state: State = "new"
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._invalidation: Invalidated | None = None

    @property
    def state(self) -> State:
        """See `VoiceConnection.state`."""
        return self._state

    @property
    def invalidation(self) -> Invalidated | None:
        """Why the connection is over, or None."""
        return self._invalidation

    @property
    def session(self) -> LiveSession | None:
        """The voice session, from its first attempt to its end."""
        return self._session

    @property
    def e2ee(self) -> E2eeChanged:
        """End-to-end encryption as it was told last."""
        return self._e2ee

    def begin(self) -> None:
        """Start to hold the connection; `ready` tells when it stands.

        Raises:
            DaveUnavailable: Encryption is required and there is no library for it.
        """
        self._encryption = encryption_settings(self.options)
        self._set_state("connecting")
        # The one long-lived task of a connection: it lets notebooks hold a connection
        # open without a surrounding `async with`.
        self._task = asyncio.get_running_loop().create_task(
            self._supervise(), name="discord-rtc-supervisor"
        )

    async def ready(self) -> None:
        """Wait until media can flow.

        Raises:
            InvalidState: It was not begun.
            RtcError: The connection ended instead; this is the reason.
        """
        if self._state == "new":
            raise InvalidState("connect() comes first")
        await self._live.wait()
        if self._invalidation is not None:
            raise self._invalidation.error or ConnectionLost(None, "the connection was closed")

    async def aclose(self) -> None:
        """Leave the channel and release everything. Idempotent, bounded to 3 s."""
        try:
            async with asyncio.timeout(CLOSE_DEADLINE):
                await self._stop()
        except TimeoutError:
            _LOG.warning("= closing took longer than %s s", CLOSE_DEADLINE)
        self._invalidate("normal", None)

    # For the supervisor

    async def run_session(self, credentials: VoiceCredentials) -> None:
        """Run a voice session to its end, which is always an exception."""
        options, encryption = self.options, self._encryption
        self._was_live = self._changing_path = False
        self._session = LiveSession(
            credentials,
            VoiceOptions(
                version=options.gateway_version,
                timeout=options.timeouts.signaling,
                max_dave_protocol_version=encryption.max_version(credentials.channel_id),
            ),
            MediaOffer(
                codecs=codec_offers(options.codecs),
                receive=options.receive,
                modes=options.modes,
                rtc_connection_id=str(uuid.uuid4()),
                experiments=options.experiments,
            ),
            transport=self._choice.transport(
                credentials.endpoint, self._clock, renewable=self.signaling.renewable
            ),
            owner=self,
            secure=self.signaling.secure,
            clock=self._clock,
            epoch=self._epoch,
            encryption=encryption,
        )
        try:
            await self._session.run(self.publisher.publications, options.timeouts)
        except ConnectionLost as lost:
            if lost.close_code != VoiceCloseCode.UNKNOWN_PROTOCOL:
                raise
            # The selected transport is one that this server does not have.
            if self._session.protocol is not None:
                self._choice.refused(self._session.protocol, lost)
            raise self.path_failed(lost) from lost.__cause__
        finally:
            self._session = self.publisher.session = None
            self._live.clear()
            if self._e2ee.state == "active" and not self._closing:
                self.e2ee_changed("pending", None, "the voice session ended")

    @property
    def was_live(self) -> bool:
        """Whether the last session got as far as media."""
        return self._was_live

    @property
    def changing_path(self) -> bool:
        """Whether the last session ended only to try another media path in the next one."""
        return self._changing_path

    def session_over(self, error: Exception, *, retry: bool) -> None:
        """A session ended; another one will be tried, or not."""
        _LOG.info("= session over: %s", error)
        if retry and not self._closing:
            self._set_state("reconnecting")

    # For the sessions

    def session_live(self) -> None:
        """Media can flow."""
        self._was_live = True
        self.publisher.session = self._session
        self._live.set()
        if self._session is not None and self._session.encryption.state == "off":
            # A new session begins there and says nothing about it.
            self.e2ee_changed("off", None, "the call is not encrypted")
        name = self._session.protocol if self._session is not None else None
        if name is not None:
            self._choice.worked(name)
            if name != self._transport:
                self._transport = name
                self.people.emit(TransportChanged(name))
        self._set_state("connected")

    def e2ee_changed(self, state: E2eeState, privacy_code: str | None, reason: str | None) -> None:
        """End-to-end encryption went on, off or to wait, or the code is another."""
        before, self._e2ee = self._e2ee, E2eeChanged(state, privacy_code, reason)
        if (before.state, before.privacy_code) != (state, privacy_code):
            self.people.emit(self._e2ee)

    def path_failed(self, error: Exception) -> Exception:
        """No media path came up in this session; returns what to end it with."""
        final = self._choice.path_failed(error)
        self._changing_path = self._choice.undecided
        return final

    def path_lost(self, error: Exception) -> None:
        """The media path of the live session died."""
        self._choice.path_lost(error)

    async def allow(self, publication: Publication) -> None:
        """Make sure that the gateway grants what is about to be sent."""
        await self.publisher.allow(publication)

    async def publication_ended(self, publication: Publication, error: Exception | None) -> None:
        """A published track came to its end or failed."""
        await self.publisher.publication_ended(publication, error)

    # Inside

    async def _supervise(self) -> None:
        reason, failure, joined = "normal", None, False
        try:
            self._encryption = await with_identity(
                self._encryption, self.options.identity, self._identity
            )
            joined = True
            await supervise(self, self.signaling)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for it
            if not isinstance(error, RtcError):
                _LOG.error("= a bug ended the connection", exc_info=error)
            if self._closing:
                # `_stop` is still waiting for the gateway's word that we left; then it ends this.
                await asyncio.Event().wait()
            reason, failure = type(error).__name__, error
            if joined:
                await self._leave()
        finally:
            self._invalidate(reason, failure)

    async def _leave(self) -> None:
        """However the connection ended, the user must not stay behind in the channel."""
        try:
            async with asyncio.timeout(CLOSE_DEADLINE):
                await self.signaling.leave()
        except (TimeoutError, RtcError) as error:
            _LOG.warning("= the channel could not be left: %r", error)

    async def _stop(self) -> None:
        task = self._task
        if task is None:
            return
        if not self._closing:
            self._closing = True
            try:
                await self._leave()
            finally:
                task.cancel()
        await asyncio.wait([task])

    def _invalidate(self, reason: str, error: Exception | None) -> None:
        if self._invalidation is not None:
            return
        self._invalidation = Invalidated(reason, error)
        self.e2ee_changed("off", None, "the connection is over")
        self.signaling.close()
        self._set_state("closed")
        self.people.emit(self._invalidation)
        self.people.close()
        self._live.set()
        self._closed()

    def _set_state(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self.people.emit(StateChanged(state))

    def _transport_failed(self, name: str, error: Exception) -> None:
        _LOG.warning("! %s: %s", name, error)
        self.people.emit(TransportFailed(name, error))

    async def _fingerprint(self, user_id: int) -> str:
        if self._session is None:
            raise NotReady("the connection is not live")
        return await self._session.encryption.fingerprint(user_id)

    def _demand_changed(self, user_id: int, kind: MediaKind, wanted: bool) -> None:
        if self._session is not None:
            self._session.receiver.demand_changed(user_id, kind, wanted)
