"""What a voice client has to say: until it may, and until it surely was heard. Sans-I/O.

The voice gateway numbers what the server says, so that a resume can replay it. What the client
says has no numbers: a message that went out shortly before the websocket broke may or may not
have arrived. But messages of a websocket keep their order, so an answered heartbeat proves that
all that went out before it has arrived. What is not proven is sent again after a resume. Of
messages that set a state only the newest counts, and it may arrive twice. The speaking flags
are always sent again, as the protocol wants it.

MLS messages are different: a key package serves once, and a server that gets it twice takes us
out of the group to add us again, with a key package that is used up (seen with our own server:
half a second of media was lost). What the server says about the group proves that they arrived,
and that may be in the replay. So they are held back until a heartbeat that was sent after
Resumed is answered, for then the replay is over. A newer key package or commit that goes out
meanwhile makes those held back void.

Spec: userdoccers, "Voice Connections", resuming.
"""

from __future__ import annotations

from collections import deque
from itertools import compress
from typing import TYPE_CHECKING

from discord_rtc.protocol.messages import (
    BackendVersionRequest,
    ExecuteTransition,
    InvalidCommitWelcome,
    MediaSinkWants,
    MlsAnnounceCommit,
    MlsCommitWelcome,
    MlsKeyPackage,
    MlsProposals,
    MlsWelcome,
    NoRoute,
    SessionUpdate,
    Speaking,
    TransitionReady,
    Video,
)
from discord_rtc.queues import RollingQueue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from discord_rtc.protocol.messages import ServerMessage

KEPT_LIMIT = 256  # more than a user action or two per participant of a full channel
UNPROVEN_LIMIT = 256  # what goes out between two heartbeats, 5 s at the most

Sendable = (
    Speaking
    | Video
    | SessionUpdate
    | MediaSinkWants
    | BackendVersionRequest
    | TransitionReady
    | MlsKeyPackage
    | MlsCommitWelcome
    | InvalidCommitWelcome
    | NoRoute
)
"""What a client may say; all other client messages are the machine's own."""

_STATES = (Speaking, Video, SessionUpdate, MediaSinkWants)
_GROUP = (TransitionReady, MlsKeyPackage, MlsCommitWelcome, InvalidCommitWelcome)


class Outbox:
    """Messages that wait, and messages that may have been lost.

    Both are bounded; the oldest is dropped and counted.
    """

    def __init__(self) -> None:
        self._waiting: RollingQueue[Sendable] = RollingQueue(KEPT_LIMIT)
        self._unproven: deque[tuple[int, Sendable]] = deque()
        self._held: list[Sendable] = []
        self._forgotten = 0
        self._speaking: Speaking | None = None

    @property
    def drops(self) -> dict[str, int]:
        """Messages dropped because of a bound, by reason."""
        return {"send-overflow": self._waiting.dropped, "unproven-overflow": self._forgotten}

    def keep(self, message: Sendable) -> None:
        """It may not be said yet."""
        self._waiting.append(message)

    def take(self) -> list[Sendable]:
        """What may be said now, oldest first."""
        return self._waiting.drain()

    def said(self, message: Sendable, beat: int) -> None:
        """It goes out, after the heartbeat with that integer."""
        if isinstance(message, Speaking):
            self._speaking = message
        elif isinstance(message, MlsKeyPackage):
            # For a new group. What is held back was about the one before and would come after
            # it: the server would add us with a key package that we know no more.
            self._held = []
        elif isinstance(message, MlsCommitWelcome):
            self._held = [each for each in self._held if not isinstance(each, MlsCommitWelcome)]
        if len(self._unproven) >= UNPROVEN_LIMIT:
            self._unproven.popleft()
            self._forgotten += 1
        self._unproven.append((beat, message))

    def proven(self, beat: int) -> None:
        """That heartbeat was answered: whatever went out before it has arrived."""
        while self._unproven and self._unproven[0][0] < beat:
            self._unproven.popleft()

    def proven_by(self, heard: ServerMessage) -> None:
        """What the server says about the group proves that ours has arrived."""
        match heard:
            case MlsProposals():  # only those get them whose key package is there
                self._forget(MlsKeyPackage)
            case MlsAnnounceCommit():
                self._forget(MlsKeyPackage, MlsCommitWelcome)
            case MlsWelcome():
                self._forget_up_to_package()
                self._forget(MlsCommitWelcome)
            case ExecuteTransition():
                self._forget(TransitionReady)
            case _:
                pass

    def again(self) -> list[Sendable]:
        """What has to be said after a resume, in order; then what has waited meanwhile."""
        unproven = [message for _, message in self._unproven]
        self._unproven.clear()
        self._held += [message for message in unproven if isinstance(message, _GROUP)]
        newest: dict[type[Sendable], Sendable] = {
            type(message): message for message in unproven if isinstance(message, _STATES)
        }
        newest.pop(Speaking, None)
        speaking: list[Sendable] = [] if self._speaking is None else [self._speaking]
        repeated = [
            message
            for message in unproven
            if newest.get(type(message)) is message or not isinstance(message, (*_STATES, *_GROUP))
        ]
        return speaking + repeated + self.take()

    def held_back(self) -> list[Sendable]:
        """What has to be said now that the replay is over, and nothing in it proved it."""
        held, self._held = self._held, []
        return held

    def _forget(self, *kinds: type[Sendable]) -> None:
        """Forget messages of these kinds, but for those behind a complaint (op 31).

        As long as the server has not heard the complaint, it speaks of the group before it.
        """
        said = self._said()
        end = max(_places(said, InvalidCommitWelcome), default=len(said))
        self._keep(at > end or not isinstance(each, kinds) for at, each in enumerate(said))

    def _forget_up_to_package(self) -> None:
        """The newest key package has arrived, and so has all about groups that was said before."""
        said = self._said()
        end = max(_places(said, MlsKeyPackage), default=-1)
        self._keep(at > end or not isinstance(each, _GROUP) for at, each in enumerate(said))

    def _said(self) -> list[Sendable]:
        return [*self._held, *(message for _, message in self._unproven)]

    def _keep(self, kept: Iterable[bool]) -> None:
        keep = list(kept)
        held = len(self._held)
        self._held = list(compress(self._held, keep[:held]))
        self._unproven = deque(compress(self._unproven, keep[held:]))


def _places(said: list[Sendable], kind: type[Sendable]) -> list[int]:
    return [at for at, message in enumerate(said) if isinstance(message, kind)]
