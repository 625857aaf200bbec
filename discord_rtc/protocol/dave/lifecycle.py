"""Groups, epochs and transitions: what the server's messages change. Sans-I/O. Spec: `session`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, assert_never

from discord_rtc.errors import DaveError, DaveUnavailable
from discord_rtc.protocol.dave.backend import PROTOCOL_VERSION
from discord_rtc.protocol.dave.events import (
    ProposalsRefused,
    ReceiveKeysChanged,
    Recovering,
    Sending,
    Undecrypted,
    Unsupported,
)
from discord_rtc.protocol.dave.groups import Groups
from discord_rtc.protocol.dave.proposals import ProposalIntake
from discord_rtc.protocol.dave.reception import Reception
from discord_rtc.protocol.dave.recovery import Recovery, RecoveryRequest
from discord_rtc.protocol.dave.status import Status
from discord_rtc.protocol.dave.transitions import EXECUTE_TIMEOUT, OpenTransitions, Transition
from discord_rtc.protocol.messages import (
    ExecuteTransition,
    InvalidCommitWelcome,
    MlsAnnounceCommit,
    MlsCommitWelcome,
    MlsKeyPackage,
    MlsProposals,
    MlsWelcome,
    PrepareEpoch,
    PrepareTransition,
    TransitionReady,
)
from discord_rtc.queues import RollingQueue

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from discord_rtc.frames import MediaKind
    from discord_rtc.protocol.dave.backend import DaveBackend
    from discord_rtc.protocol.dave.recognised import RecognisedUsers

HOLD_LIMIT = 2.0
"""Seconds that frames are held for a transition; the server takes about as long at most."""

_QUEUE_LIMIT = 256  # drained after each input, so only a caller that never drains gets here

DaveMessage = TransitionReady | MlsKeyPackage | MlsCommitWelcome | InvalidCommitWelcome
"""What the machine sends."""

Announcement = (
    PrepareTransition
    | ExecuteTransition
    | PrepareEpoch
    | MlsProposals
    | MlsAnnounceCommit
    | MlsWelcome
)
"""What the server says about groups and transitions."""

logger = logging.getLogger("discord_rtc.protocol.dave")


class Lifecycle:
    """The part of `DaveSession` that changes groups and keys; see there for the rules.

    Args:
        make_backend: See `DaveSession`.
        recognised: Who is in the call.
        counters: Where to count.
        required: Treat version 0 as unsupported.

    Attributes:
        groups: The keys.
        status: What is told.
        outgoing: What is to be sent; 256 messages are kept, the oldest dropped and counted.
        version: Protocol version in force; None before the first Session Description.
    """

    def __init__(
        self,
        make_backend: Callable[[], DaveBackend],
        recognised: RecognisedUsers,
        counters: Counter[str],
        *,
        required: bool,
    ) -> None:
        self._recognised = recognised
        self._counters = counters
        self._required = required
        self._transitions = OpenTransitions(counters)
        self._proposals = ProposalIntake(counters)
        self._recovery = Recovery()
        self._coming_version: int | None = None
        self._hold_until: float | None = None
        self._is_sender_behind = False  # the sending key is that of an epoch before, or none
        self._is_commit_awaited = False  # proposals were taken, and no epoch has come of them
        self._last_transition = 0
        self.groups = Groups(make_backend, counters)
        self._reception = Reception(self.groups, self._transitions)
        self.status = Status()
        self.outgoing: RollingQueue[DaveMessage] = RollingQueue(_QUEUE_LIMIT)

    @property
    def version(self) -> int | None:
        """Protocol version in force; None before the first Session Description."""
        return self._reception.version

    def describe(self, version: int, now: float) -> None:
        """Take the version of a Session Description. The same again changes nothing."""
        if version == self.version or not self._accepts(version):
            return  # as after a resume: the group goes on
        if version == 0:
            self._turn_off("the server asks for no encryption", now)
        else:
            self._transitions.clear()
            self._open_group(version, None, now)

    def set_external_sender(self, payload: bytes, now: float) -> None:
        """Take op 25, whenever it comes."""
        if self.groups.set_external_sender(payload):
            self._retry_proposals(now)

    def apply(self, message: Announcement, now: float) -> None:
        """Take a message after the first Session Description."""
        match message:
            case PrepareTransition(version, transition_id):
                if self._accepts(version):
                    self._prepare(transition_id, version, now, new_epoch=False)
            case ExecuteTransition(transition_id):
                self._take_execute(transition_id, now)
            case PrepareEpoch(version, epoch):
                if self._accepts(version):
                    self._prepare_epoch(version, epoch, now)
            case MlsProposals(payload):
                self._take_proposals(payload, now)
            case MlsAnnounceCommit(transition_id, commit):
                self._take_commit(transition_id, commit, now)
            case MlsWelcome(transition_id, welcome):
                self._take_welcome(transition_id, welcome, now)
            case _:  # pragma: no cover - the type checker proves that there is no other
                assert_never(message)

    def decrypt(
        self, user_id: int, kind: MediaKind, frame: bytes, now: float
    ) -> bytes | Undecrypted:
        """Decrypt a frame, and ask for a recovery when too many have failed."""
        result = self._reception.decrypt(user_id, kind, frame, now)
        if isinstance(result, Undecrypted):
            distress = self._reception.take_distress()
            if distress is not None:
                self._recovery.request(RecoveryRequest(self._last_transition, distress), now)
        return result

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is due; None when nothing is open."""
        deadlines = (
            self._transitions.next_timeout(),
            self._hold_until,
            self._recovery.next_timeout(),
            self.groups.next_timeout(),
        )
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Execute, stop holding, recover and forget what is due."""
        while (transition := self._transitions.overdue(now)) is not None:
            self._counters["self-executed"] += 1
            logger.warning(
                "%% transition %d: no op 22 within %.1f s, executing it unasked",
                transition.transition_id,
                EXECUTE_TIMEOUT,
            )
            self._execute(transition, now)
        if self._hold_until is not None and now >= self._hold_until:
            self._counters["holds-expired"] += 1
            logger.warning("%% held frames for %.1f s, sending without op 22", HOLD_LIMIT)
            self._start_sending(now)
        self._recover_if_due(now)
        self.groups.handle_timeout(now)

    def _accepts(self, version: int) -> bool:
        if version == 0 and self._required:
            reason = "the call is not end-to-end encrypted, although that is required"
        elif version > PROTOCOL_VERSION:
            reason = f"the call uses DAVE version {version}; only {PROTOCOL_VERSION} is supported"
        else:
            return True
        self._refuse(version, reason)
        return False

    def _refuse(self, version: int, reason: str) -> None:
        self._counters["unsupported"] += 1
        logger.warning("! %s", reason)
        self.status.events.append(Unsupported(version, reason))

    def _take_execute(self, transition_id: int, now: float) -> None:
        is_news = self._transitions.is_unheard_of(transition_id)
        transition = self._transitions.execute(transition_id)
        if transition is not None:
            self._execute(transition, now)
        elif is_news and self._is_commit_awaited:
            self._give_up(transition_id, "a commit never came, but its transition is executed", now)

    def _prepare_epoch(self, version: int, epoch: int, now: float) -> None:
        if version == 0:
            self._counters["unexpected"] += 1  # a group without encryption
        elif epoch == 1:
            self._counters["resets"] += 1
            self._transitions.clear()
            self._open_group(version, "the server began a new group", now)
        else:
            self._coming_version = version

    def _open_group(self, version: int, reason: str | None, now: float) -> None:
        logger.info("= joining a group of version %d", version)
        if self.version == 0:
            self._reception.upgrade_begun(now)
        self._leave_epoch(version)
        self.status.set_sending(Sending.WAIT)
        self.status.set_state("pending", reason=reason)
        try:
            package = self.groups.begin(version, now)
        except DaveUnavailable as error:
            self._refuse(version, str(error))
        except DaveError as error:
            self._counters["begin-failed"] += 1
            self._recovery.request(RecoveryRequest(self._last_transition, str(error)), now)
        else:
            self.outgoing.append(MlsKeyPackage(package))

    def _turn_off(self, reason: str, now: float) -> None:
        logger.info("= encryption off: %s", reason)
        self._transitions.clear()
        self._leave_epoch(0)
        self.groups.end(now)
        self.status.set_state("off", reason=reason)
        self.status.set_sending(Sending.CLEAR)

    def _leave_epoch(self, version: int) -> None:
        self._reception.version = version
        self._coming_version = None
        self._hold_until = None
        self._is_sender_behind = False
        self._is_commit_awaited = False
        self._proposals.forget()
        self._recovery.cancel()
        self._reception.keys_changed()

    def _take_proposals(self, payload: bytes, now: float) -> None:
        backend = self.groups.current
        if backend is None:
            self._counters["unexpected"] += 1
            return
        try:
            commit = self._proposals.take(backend, payload, self._recognised.present)
        except DaveError as error:
            logger.warning("! proposals were refused: %s", error)
            self.status.events.append(ProposalsRefused(str(error)))
            return
        self._await_commit(commit, now)

    def _retry_proposals(self, now: float) -> None:
        backend = self.groups.current
        if backend is not None:
            for commit in self._proposals.retry(backend, self._recognised.present):
                self._await_commit(commit, now)

    def _await_commit(self, own: bytes | None, now: float) -> None:
        self._is_commit_awaited = True
        self._reception.expect_commit(now)
        if own is not None:
            self.outgoing.append(MlsCommitWelcome(own))

    def _take_commit(self, transition_id: int, commit: bytes, now: float) -> None:
        backend = self.groups.current
        if backend is None:
            self._counters["unexpected"] += 1
            return
        try:
            is_ours = backend.process_commit(commit)
        except DaveError as error:
            self._counters["invalid-commits"] += 1
            self._give_up(transition_id, f"a commit could not be processed: {error}", now)
            return
        if is_ours:
            self._counters["commits"] += 1
            self._enter_epoch(transition_id, now)
        else:
            self._counters["foreign-commits"] += 1

    def _take_welcome(self, transition_id: int, welcome: bytes, now: float) -> None:
        backend = self.groups.current
        if backend is None:
            self._counters["unexpected"] += 1
            return
        try:
            backend.process_welcome(welcome, self._recognised.present_or_just_left(now))
        except DaveError as error:
            self._counters["invalid-welcomes"] += 1
            self._give_up(transition_id, f"a welcome could not be processed: {error}", now)
            return
        self._counters["welcomes"] += 1
        self._enter_epoch(transition_id, now)

    def _enter_epoch(self, transition_id: int, now: float) -> None:
        added = self.groups.refresh()
        logger.info(
            "= new epoch with %d members, transition %d", len(self.groups.members), transition_id
        )
        self._is_sender_behind = True
        self._is_commit_awaited = False
        self._recovery.succeeded()
        self._reception.keys_changed()
        self.status.events.append(ReceiveKeysChanged(added))
        version = self._coming_version or self.version or PROTOCOL_VERSION
        self._coming_version = None
        if self.status.state == "active":  # and stays so, with another code
            self.status.set_state("active", authenticator=self.groups.epoch_authenticator)
        self._prepare(transition_id, version, now, new_epoch=True)
        self._retry_proposals(now)

    def _prepare(self, transition_id: int, version: int, now: float, *, new_epoch: bool) -> None:
        self._last_transition = transition_id
        transition = Transition(transition_id, version, now + EXECUTE_TIMEOUT, new_epoch)
        if transition_id == 0:
            self._execute(transition, now)
            return
        logger.info("= transition %d to version %d is prepared", transition_id, version)
        self._transitions.open(transition)
        self._reception.keys_changed()
        self.outgoing.append(TransitionReady(transition_id))
        backend = self.groups.current
        if new_epoch and backend is not None and backend.sender_follows_commit:
            self._hold(now)

    def _hold(self, now: float) -> None:
        if self._hold_until is None:
            self._counters["holds"] += 1
            self._hold_until = now + HOLD_LIMIT
            self.status.set_sending(Sending.HOLD)

    def _execute(self, transition: Transition, now: float) -> None:
        version = transition.version
        self._counters["executed"] += 1
        logger.info("= transition %d to version %d", transition.transition_id, version)
        self._reception.keys_changed()
        if version == 0:
            self._turn_off("the server ended encryption for this call", now)
        elif self.version == 0:  # announced without the op 24 that belongs to it
            self._open_group(version, "the server began encryption for this call", now)
        else:
            self._reception.version = version
            self._start_sending(now)

    def _start_sending(self, now: float) -> None:
        self._hold_until = None
        backend = self.groups.current
        if backend is None or not self.groups.members:
            return  # alone: the group comes with the next who joins
        if self._is_sender_behind:  # once per epoch only: it starts the nonces anew
            backend.switch_sender()
            self._is_sender_behind = False
        if not backend.can_encrypt():
            self._counters["no-sending-key"] += 1
            self.status.set_sending(Sending.WAIT)
            return
        self._reception.upgrade_executed(now)
        self.status.set_state("active", authenticator=self.groups.epoch_authenticator)
        self.status.set_sending(Sending.ENCRYPT)

    def _give_up(self, transition_id: int, reason: str, now: float) -> None:
        self._last_transition = transition_id
        self._recovery.request(RecoveryRequest(transition_id, reason), now)
        self._recover_if_due(now)

    def _recover_if_due(self, now: float) -> None:
        request = self._recovery.take(now)
        version = self.version
        if request is None or version is None:
            return
        self._counters["recovered"] += 1
        logger.warning("! joining the group anew: %s", request.reason)
        self.status.events.append(Recovering(request.transition_id, request.reason))
        self.outgoing.append(InvalidCommitWelcome(request.transition_id))
        self._transitions.forget_epochs()
        self._open_group(version, request.reason, now)
