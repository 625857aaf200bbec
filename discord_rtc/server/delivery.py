"""The MLS delivery service of one call. Sans-I/O. Spec: DAVE protocol whitepaper 1.1.4.

It proposes whom to add and whom to remove, decides which commit wins, tells the members and the
newcomers, and says when everybody changes keys. It holds no key of the group.

After each input the service looks at what is and what should be, and takes the next step, if
there is one:

====================================  =========================================================
when                                  then
====================================  =========================================================
a transition is open                  wait: op 23 of all, or 2 s; then op 22 to all
somebody cannot encrypt               forget the group; op 21 version 0 to all who do
nobody of those any more              op 24 epoch 1 to all: a new group
one user is left in a group           op 24 epoch 1, op 21 transition 0; forget the group
no member has an intact group         forget the group
otherwise                             proposals for who came and who left (`dave_epochs`)
====================================  =========================================================

Who does not answer with op 23 is not waited for a second time, and gets op 24 too: the commit or
welcome seems not to have arrived. When nobody commits, three times in a row, everybody gets it.

The first group of a call begins with transition 0, without ops 22 and 23, as seen of Discord.
After an upgrade it has an ordinary transition: plain media flows until all have the keys.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedMessage
from discord_rtc.protocol.messages import (
    InvalidCommitWelcome,
    MlsCommitWelcome,
    MlsExternalSender,
    MlsKeyPackage,
    PrepareEpoch,
    PrepareTransition,
    TransitionReady,
)
from discord_rtc.server.dave_epochs import CallGroup
from discord_rtc.server.dave_outbox import Outbox
from discord_rtc.server.dave_participants import Participant
from discord_rtc.server.dave_transitions import READY_TIMEOUT, OpenTransition, TransitionIds
from discord_rtc.server.mls import parse_key_package

if TYPE_CHECKING:
    from collections.abc import Mapping

    from discord_rtc.protocol.messages import ServerMessage
    from discord_rtc.server.dave_faults import DaveFaults
    from discord_rtc.server.mls import ExternalSender

    DaveClientMessage = MlsKeyPackage | MlsCommitWelcome | TransitionReady | InvalidCommitWelcome

VERSION = 1
"""The protocol version of encrypted calls."""

_LOG = logging.getLogger("discord_rtc.server")


@dataclass(frozen=True, slots=True)
class DeliveryInfo:
    """A snapshot of the encryption of one call.

    Attributes:
        version: Protocol version in force; 0 while the call is not encrypted.
        epoch: Of the group; 0 while there is none.
        established: Whether there is a group.
        members: Users with an intact group, by leaf index.
        pending: Users who can encrypt and are no members, in the order of joining.
        reason: Why the call is not encrypted.
    """

    version: int
    epoch: int
    established: bool
    members: Mapping[int, int]
    pending: tuple[int, ...]
    reason: str | None = None


class DeliveryService:
    """Who proposes, which commit wins, when a transition executes.

    Contract of every machine here: one input, then send `messages_to_send`, and re-arm the timer
    with `next_timeout`. Op 25 follows op 4 and is the business of whoever sends op 4.

    Args:
        group_id: Channel id, or ``rtc_server_id - 1`` of a stream.
        sender: Signs the proposals; must not change while the call lives.
        faults: What goes wrong on purpose.
        counters: Where to count what was refused or went wrong.
    """

    def __init__(
        self,
        group_id: int,
        sender: ExternalSender,
        *,
        faults: DaveFaults | None = None,
        counters: Counter[str] | None = None,
    ) -> None:
        self._group_id = group_id
        self._sender = sender
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._outbox = Outbox(faults)
        self._users: dict[int, Participant] = {}
        self._group = CallGroup(group_id, sender, self._users, self._outbox, self._counters)
        self._version = VERSION
        self._upgrading = False  # plain media flows until the new group takes over
        self._ids = TransitionIds()
        self._transition: OpenTransition | None = None

    @property
    def version(self) -> int:
        """Protocol version in force: 0 or 1. A downgrade counts when it is executed."""
        return self._version

    @property
    def info(self) -> DeliveryInfo:
        """How things are now."""
        able = [user for user in self._users.values() if user.max_version]
        return DeliveryInfo(
            self._version,
            self._group.epoch,
            self._group.established,
            {user.leaf: user.user_id for user in able if user.leaf is not None},
            tuple(user.user_id for user in able if user.leaf is None),
            self._reason(),
        )

    def version_for(self, max_version: int) -> int:
        """What op 4 has to say to a newcomer.

        Args:
            max_version: From his Identify.
        """
        return VERSION if max_version and not self._lacking() else 0

    def told(self, user_id: int) -> int:
        """The protocol version that a user in the call was told last: 0 or 1."""
        return self._users[user_id].told

    def join(
        self, user_id: int, max_version: int, now: float, *, described: int | None = None
    ) -> None:
        """Somebody is in the call now: op 4 went to him, and op 11 to everybody.

        Args:
            user_id: Who. If there already, he has left and come back.
            max_version: From his Identify.
            now: Monotonic seconds.
            described: What op 4 said, if that was before the latest call of this object.
        """
        if user_id in self._users:
            self.leave(user_id, now)
        told = self.version_for(max_version) if described is None else described
        self._users[user_id] = Participant(user_id, max_version, told, has_sender=told > 0)
        self._settle(now)

    def leave(self, user_id: int, now: float) -> None:
        """Somebody's session has ended."""
        if self._users.pop(user_id, None) is None:
            return
        self._retire(user_id)
        if not self._users:
            self._forget_call()
        self._settle(now)

    def set_away(self, user_id: int, now: float, *, away: bool, described: bool = False) -> None:
        """Somebody's websocket has gone and may come back, or is back: he is not waited for.

        Args:
            user_id: Who.
            now: Monotonic seconds.
            away: Whether it has gone.
            described: Whether, being back, he got the Session Description once more.
        """
        user = self._users.get(user_id)
        if user is None:
            return
        user.away = away
        if described:
            user.described_again(now)
        if away and self._transition is not None:
            self._transition.answered(user_id)
        self._settle(now)

    def receive(self, user_id: int, message: DaveClientMessage, now: float) -> None:
        """Take a message of a client. What is wrong or too late with it is only counted."""
        user = self._users.get(user_id)
        if user is None or not user.max_version:
            self._counters["dave-unexpected"] += 1
            return
        match message:
            case MlsKeyPackage(payload):
                self._take_key_package(user, payload, now)
            case MlsCommitWelcome(payload):
                self._take_commit(user, payload, now)
            case TransitionReady(transition_id):
                self._take_ready(user, transition_id)
            case InvalidCommitWelcome(transition_id):
                self._take_invalid(user, transition_id, now)
        self._settle(now)

    def messages_to_send(self) -> list[tuple[int, ServerMessage]]:
        """Take ``(user id, message)``, in order."""
        return self._outbox.drain()

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is due; None when nothing is waited for."""
        due = [user.read_at for user in self._users.values() if user.unread is not None]
        transition = self._transition
        step = self._group.next_timeout() if transition is None else transition.deadline
        return min(due if step is None else [*due, step], default=None)

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Early calls do nothing."""
        transition = self._transition
        if transition is not None and now >= transition.deadline:
            self._transition_is_due(transition, now)
        if self._group.handle_timeout(now):
            self._restart(now)
        for user in self._users.values():
            if user.unread is not None and now >= user.read_at:
                self._take_key_package(user, user.unread, now)
        self._settle(now)

    def _take_key_package(self, user: Participant, payload: bytes, now: float) -> None:
        if user.floods(payload, now):
            self._counters["key-package-flood"] += 1
            return
        try:
            package = parse_key_package(payload, user.user_id)
        except MalformedMessage as error:
            self._counters["key-package-malformed"] += 1
            _LOG.warning("! key package of user %d: %s", user.user_id, error)
            return
        if not user.told:
            self._counters["dave-unexpected"] += 1
            return
        user.silent = False
        user.restarted(now)
        if user.package is not None and user.package.ref == package.ref:
            return
        if user.leaf is not None:
            self._lose(user, "sent another key package", now)
        elif user.has_proposals:
            user.unsure = True
            self._group.retire(user.user_id)
        if user.package is not None:
            user.addition_spent(now)
        user.package = package

    def _take_commit(self, user: Participant, payload: bytes, now: float) -> None:
        epoch = self._group.take_commit(user, payload, now)
        if epoch is None:
            return
        silent_start = epoch.is_first and not self._upgrading
        transition_id = 0 if silent_start else self._ids.take()
        self._upgrading = False
        affected = epoch.affected
        _LOG.info(
            "= call %d: epoch %d by user %d, transition %d: %d members, new %s, removed leaves %s",
            self._group_id,
            self._group.epoch,
            user.user_id,
            transition_id,
            len(affected),
            [added.user_id for added, _ in epoch.welcomes],
            sorted(epoch.removed),
        )
        self._outbox.announce(transition_id, [one.user_id for one in epoch.receivers], epoch.commit)
        for added, welcome in epoch.welcomes:
            self._outbox.welcome(transition_id, added.user_id, welcome)
        if transition_id:
            self._open(transition_id, VERSION, affected, now)

    def _take_ready(self, user: Participant, transition_id: int) -> None:
        user.silent = False
        transition = self._transition
        if transition is None or transition.transition_id != transition_id:
            self._counters["ready-late"] += 1
        elif not transition.answered(user.user_id):
            self._counters["ready-unexpected"] += 1

    def _take_invalid(self, user: Participant, transition_id: int, now: float) -> None:
        user.silent = False
        if user.leaf is None:
            self._counters["invalid-commit-unexpected"] += 1
            return
        self._counters["invalid-commit"] += 1
        self._lose(user, f"could not process transition {transition_id}", now)

    def _transition_is_due(self, transition: OpenTransition, now: float) -> None:
        silent = [self._users[user_id] for user_id in transition.awaited]
        self._execute(transition, now)
        for user in silent:
            self._counters["ready-timeouts"] += 1
            user.silent = True
            if transition.version and user.may_be_invited(now):
                _LOG.warning("%% user %d does not answer, op 24 for a new start", user.user_id)
                self._begin_anew(user, now)

    def _settle(self, now: float) -> None:
        transition = self._transition
        if transition is not None and not transition.awaited and not transition.late:
            self._execute(transition, now)
        if self._transition is not None:
            return
        if self._lacking():
            self._downgrade(now)
        elif self._users:
            self._upgrade(now)
            self._settle_group(now)

    def _settle_group(self, now: float) -> None:
        members = self._group.members
        if self._group.established and not members:
            _LOG.info("= call %d: no member is left, the group is over", self._group_id)
            self._group.forget()
        elif self._group.established and len(self._users) == 1:
            (user,) = members
            _LOG.info("= call %d: user %d is alone", self._group_id, user.user_id)
            self._begin_anew(user, now)
            self._outbox.send(user.user_id, PrepareTransition(VERSION, 0))
            self._group.forget()
        if not self._group.advance(now):
            self._restart(now)

    def _downgrade(self, now: float) -> None:
        self._group.forget()
        told = [user for user in self._users.values() if user.told]
        if not told:
            self._version = 0
            return
        _LOG.info("= call %d: encryption goes off, %s", self._group_id, self._reason())
        transition_id = self._ids.take()
        for user in told:
            user.told = 0
            self._outbox.send(user.user_id, PrepareTransition(0, transition_id))
        self._open(transition_id, 0, told, now)

    def _upgrade(self, now: float) -> None:
        if not self._version:
            self._upgrading = True
            _LOG.info("= call %d: encryption goes on, everybody can do it", self._group_id)
            self._version = VERSION
        for user in self._users.values():
            if not user.told:
                user.told = VERSION
                self._begin_anew(user, now)
                if not user.has_sender:  # dropped by clients that had no use for it yet
                    user.has_sender = True
                    self._outbox.send(user.user_id, MlsExternalSender(self._sender.payload))

    def _open(
        self, transition_id: int, version: int, affected: list[Participant], now: float
    ) -> None:
        self._transition = OpenTransition(
            transition_id,
            version,
            [user.user_id for user in affected],
            {user.user_id for user in affected if not user.silent and not user.away},
            now + READY_TIMEOUT,
        )

    def _execute(self, transition: OpenTransition, now: float) -> None:
        delay = 0.0 if transition.late else self._outbox.delay_of_execute()
        if delay:
            transition.late = True
            transition.awaited.clear()
            transition.deadline = now + delay
            return
        self._transition = None
        self._outbox.execute(transition.transition_id, transition.affected)
        self._version = transition.version

    def _lose(self, user: Participant, why: str, now: float) -> None:
        _LOG.info("= call %d: user %d %s, to be added anew", self._group_id, user.user_id, why)
        user.lost_group(now)
        self._retire(user.user_id)

    def _begin_anew(self, user: Participant, now: float) -> None:
        user.begin_anew(now)
        self._retire(user.user_id)
        self._outbox.send(user.user_id, PrepareEpoch(VERSION, 1))

    def _retire(self, user_id: int) -> None:
        """A user is no receiver of what is in flight any more."""
        self._group.retire(user_id)
        if self._transition is not None:
            self._transition.forget(user_id)

    def _restart(self, now: float) -> None:
        self._counters["restarts"] += 1
        _LOG.warning("= call %d: everybody begins anew", self._group_id)
        self._group.forget()
        for user in self._users.values():
            self._begin_anew(user, now)

    def _forget_call(self) -> None:
        self._group.forget()
        self._transition = None
        self._upgrading = False
        self._version = VERSION

    def _lacking(self) -> list[int]:
        return [user.user_id for user in self._users.values() if not user.max_version]

    def _reason(self) -> str | None:
        lacking = self._lacking()
        if not lacking:
            return None
        who = ", ".join(map(str, lacking))
        return f"user {who} joined without end-to-end encryption"
