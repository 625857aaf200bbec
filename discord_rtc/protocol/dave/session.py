"""The DAVE machine of one voice session. Sans-I/O. Spec: DAVE protocol whitepaper 1.1.4.

All members of a call form an MLS group, and each epoch of the group gives every member one
sending key that all others can derive. The voice server is the group's delivery service: it
proposes who is added and removed (op 27), every member answers with a commit (op 28), one of
them wins and is announced (op 29), and those it adds get a welcome (op 30). So whoever makes a
commit does not know yet whether it counts: it is merged only when it is announced.

Nobody can change keys at the same instant as everybody else. Each change is therefore a
*transition*: receive keys of the new epoch are there at once, and the old ones stay for ten
seconds; one tells the server "ready" (op 23) and goes on *sending* with the old key until the
server says that all are ready (op 22). Transition 0 skips that and is executed at once. The
same two steps change the protocol version, down to 0 (no encryption) and up again.

========  ===========  ============================  =========================================
state     sending      means                         leaves on
========  ===========  ============================  =========================================
off       WAIT         nothing was described yet     Session Description
off       CLEAR        version 0                     op 24 epoch 1 -> pending (an upgrade)
pending   WAIT         no group, or not yet ours to  op 29 or 30, executed -> active;
                       send in                       version 0 executed -> off
pending   HOLD         as active, HOLD: the first    executed, or 2 s -> active
                       epoch of ours
active    ENCRYPT      the sending key is that of    version 0 executed -> off; op 24 epoch 1,
                       the last executed transition  op 29 or 30 that fails -> pending
active    HOLD         the library changed the       executed, or 2 s -> ENCRYPT
                       sending key by itself
========  ===========  ============================  =========================================

Rules that hold in every state:

* A frame leaves in the clear only at version 0. From the moment a version above 0 is described
  or prepared with a new group, frames wait until there is a sending key. A downgrade takes
  effect when it is executed, not when it is prepared.
* An op 22 that is lost is made up for: a later transition supersedes the earlier ones, and 2.5 s
  after "ready" a transition is executed unasked. Who goes on with the old key any longer falls
  silent when the others forget it, ten seconds after their commit.
* davey changes the sending key within the commit. Frames are held then until the transition is
  executed, at most 2 s, because the others may not have processed the same commit.
* A commit or welcome that cannot be processed: op 31 with its transition, a new group from
  scratch, a fresh key package. The same when a commit must have been lost: op 22 for a
  transition that nobody prepared while one is awaited, or frames that fail for long without a
  transition to blame (`recovery`). What the others send with the keys of the group given up
  still decrypts for ten seconds (`groups`).
* Messages before the first Session Description are kept (64, the oldest dropped and counted)
  and applied after it. The external sender and who is in the call count from whenever they come.
* Proposals that were refused are tried once more when the epoch changes or the external sender
  comes: they may have overtaken what they build on (4 are kept, the oldest dropped).
* Nothing in here raises for what a server says. A deadline exists whenever something is open:
  a transition, a hold, a recovery that was put off, keys of a former group.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from discord_rtc.errors import DaveError, NotReady
from discord_rtc.protocol.dave.events import DaveEvent, E2eeState, Sending, Undecrypted
from discord_rtc.protocol.dave.lifecycle import Announcement, DaveMessage, Lifecycle
from discord_rtc.protocol.dave.recognised import RecognisedUsers
from discord_rtc.protocol.messages import (
    ClientDisconnect,
    ClientsConnect,
    MlsExternalSender,
    ServerMessage,
    SessionDescription,
)
from discord_rtc.queues import RollingQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from discord_rtc.frames import Codec, MediaKind
    from discord_rtc.protocol.dave.backend import DaveBackend

__all__ = ["DaveSession", "DaveMessage"]

_EARLY_LIMIT = 64  # one burst of a server that describes last

logger = logging.getLogger("discord_rtc.protocol.dave")


class DaveSession:
    """All of DAVE of one voice session, seen from the client.

    Contract of every machine here: one input, then flush `messages_to_send`, drain
    `next_event`, and re-arm the timer with `next_timeout`. For `decrypt` that is needed only
    when it gave `Undecrypted`.

    Args:
        make_backend: Makes the membership in a group. Called when the first version above 0 is
            described, and again for each group that replaces one we were a member of; never for
            version 0. All should have the same identity key, or else fingerprints change with
            each. May raise `DaveUnavailable`, which becomes `Unsupported`.
        user_id: Ourselves.
        required: Treat version 0 as unsupported: then no frame ever leaves in the clear.

    Attributes:
        counters: What happened how often, by name.
    """

    def __init__(
        self, make_backend: Callable[[], DaveBackend], *, user_id: int, required: bool = False
    ) -> None:
        self._counters: Counter[str] = Counter()
        self._recognised = RecognisedUsers(user_id, self._counters)
        self._life = Lifecycle(make_backend, self._recognised, self._counters, required=required)
        self._early: RollingQueue[Announcement] = RollingQueue(_EARLY_LIMIT)

    @property
    def state(self) -> E2eeState:
        """Off, pending or active; see the table above."""
        return self._life.status.state

    @property
    def version(self) -> int:
        """Protocol version in force; 0 also before the first Session Description."""
        return self._life.version or 0

    @property
    def privacy_code(self) -> str | None:
        """30 digits that all members of the epoch share, while active."""
        return self._life.status.privacy_code

    @property
    def epoch_authenticator(self) -> bytes | None:
        """What the privacy code is made of: 32 bytes; None while not in a group."""
        return self._life.groups.epoch_authenticator

    @property
    def members(self) -> frozenset[int]:
        """Users in the current epoch, ourselves among them; empty while not in a group."""
        return self._life.groups.members

    @property
    def sending(self) -> Sending:
        """What is to be done with a frame of ours now."""
        return self._life.status.sending

    @property
    def counters(self) -> Mapping[str, int]:
        """What happened how often, by name."""
        overflows = {
            "early-dropped": self._early.dropped,
            "outgoing-overflow": self._life.outgoing.dropped,
            "event-overflow": self._life.status.events.dropped,
        }
        return dict(self._counters) | {name: count for name, count in overflows.items() if count}

    def receive(self, message: ServerMessage, now: float) -> None:
        """Take a message of the server, in order of arrival; those of no concern are ignored."""
        match message:
            case SessionDescription(dave_protocol_version=version):
                self._life.describe(version, now)
                if self._life.version is not None:
                    for early in self._early.drain():
                        self._life.apply(early, now)
            case ClientsConnect(user_ids):
                self._recognised.join(user_ids)
            case ClientDisconnect(user_id):
                self._recognised.leave(user_id, now)
            case MlsExternalSender(payload):
                self._life.set_external_sender(payload, now)
            case _ if not isinstance(message, Announcement):
                pass
            case _ if self._life.version is None:
                self._counters["early-messages"] += 1
                self._early.append(message)
            case _:
                self._life.apply(message, now)

    def messages_to_send(self) -> list[DaveMessage]:
        """Take what is to be sent, in order."""
        return self._life.outgoing.drain()

    def next_event(self) -> DaveEvent | None:
        """Take the oldest event."""
        return self._life.status.events.pop()

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is due; None when nothing is open."""
        return self._life.next_timeout()

    def handle_timeout(self, now: float) -> None:
        """Do what is due: execute, stop holding, recover, forget. Early calls do nothing."""
        self._life.handle_timeout(now)

    def encrypt(self, frame: bytes, codec: Codec, now: float) -> bytes | None:  # noqa: ARG002 - an input has a time
        """Encrypt one frame of ours.

        Args:
            frame: One access unit; H.264 and H.265 as Annex B.
            codec: What it is.
            now: Monotonic seconds.

        Returns:
            None when it cannot be: sending is not ENCRYPT (counted as ``not-encrypting``), or it
            is no frame of that codec (``unencryptable``). It must be dropped then.
        """
        backend = self._life.groups.current
        if self.sending is not Sending.ENCRYPT or backend is None:
            self._counters["not-encrypting"] += 1
            return None
        try:
            return backend.encrypt(frame, codec)
        except DaveError as error:
            self._counters["unencryptable"] += 1
            logger.debug("! a frame of %d bytes was not encrypted: %s", len(frame), error)
            return None

    def decrypt(
        self, user_id: int, kind: MediaKind, frame: bytes, now: float
    ) -> bytes | Undecrypted:
        """Decrypt one frame of somebody else, or let it pass where plain frames are allowed.

        Args:
            user_id: Who sent it.
            kind: Audio or video.
            frame: As it came out of the depacketizer.
            now: Monotonic seconds.
        """
        return self._life.decrypt(user_id, kind, frame, now)

    def fingerprint(self, user_id: int) -> bytes:
        """The 64 bytes by which we and another member verify each other.

        Takes some 0.3 s: run it in a worker.

        Raises:
            NotReady: There is no group, or the user is no member of it.
        """
        backend = self._life.groups.current
        if backend is None:
            raise NotReady("there is no encrypted group")
        return backend.fingerprint(user_id)
