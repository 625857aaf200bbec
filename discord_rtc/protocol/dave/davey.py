"""The DAVE port over `davey`, which it imports. Sans-I/O.

Behaviour of davey 0.1.7 that shapes this module, each seen by trying:

- The sending key changes inside ``process_commit`` and ``process_welcome``.
- A welcome is taken whoever is in the group; a user may be in it twice. So the members are
  looked at afterwards.
- A commit comes without a welcome when the newest list of proposals adds nobody, although
  an earlier one does. So such a list is followed by all of them as one.
- After ``reset`` it still encrypts, with the old key. So every membership gets a fresh session.
- Refusals are `ValueError`; a Rust panic is a `BaseException` and prints to stderr.
- The keys of a member who leaves are gone at once.
- Frames that the first one under a new key has overtaken are lost.
- It holds the GIL throughout, 0.3 s for a fingerprint.

Spec: DAVE protocol whitepaper 1.1.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import davey

from discord_rtc.errors import DaveError, InvalidCommit, NotReady
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.protocol.dave.backend import DaveLibrary, Undecryptable
from discord_rtc.protocol.dave.preflight import (
    check_external_sender,
    check_frame,
    check_proposals,
    is_own_commit,
)
from discord_rtc.protocol.dave.proposal_messages import (
    ProposalMessage,
    parse_appended,
    parse_revoked,
    vector,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from discord_rtc.protocol.dave.identity import IdentityKey

_T = TypeVar("_T")

_CODECS = {
    Codec.OPUS: davey.Codec.opus,
    Codec.H264: davey.Codec.h264,
    Codec.H265: davey.Codec.h265,
    Codec.VP8: davey.Codec.vp8,
    Codec.VP9: davey.Codec.vp9,
    Codec.AV1: davey.Codec.av1,
}
_MEDIA = {MediaKind.AUDIO: davey.MediaType.audio, MediaKind.VIDEO: davey.MediaType.video}
_OPERATIONS = (davey.ProposalsOperationType.append, davey.ProposalsOperationType.revoke)

_FINGERPRINT_FORMAT = 0
"""The only version of the whitepaper's fingerprint format; not that of the protocol."""


class DaveyBackend:
    """A `DaveBackend` over davey.

    Args:
        user_id: Who we are.
        group_id: Of the call.
        identity: The key that others know us by; without it one for this object's life.
    """

    def __init__(self, user_id: int, group_id: int, identity: IdentityKey | None = None) -> None:
        self._user_id = user_id
        self._group_id = group_id
        self._signer = (
            davey.generate_p256_keypair()
            if identity is None
            else davey.SigningKeyPair(identity.private, identity.public)
        )
        self._external_sender: bytes | None = None
        self._session: davey.DaveSession | None = None
        self._made: bytes | None = None
        self._proposals: dict[bytes, ProposalMessage] = {}
        self._members: frozenset[int] = frozenset()
        self._authenticator: bytes | None = None

    @property
    def library(self) -> DaveLibrary:
        """See `DaveBackend`."""
        return "davey"

    @property
    def sender_follows_commit(self) -> bool:
        """See `DaveBackend`: it does."""
        return True

    @property
    def members(self) -> frozenset[int]:
        """See `DaveBackend`."""
        return self._members

    @property
    def epoch_authenticator(self) -> bytes | None:
        """See `DaveBackend`."""
        return self._authenticator

    def begin(self, version: int) -> bytes:
        """See `DaveBackend`."""
        self.reset()
        session = davey.DaveSession(version, self._user_id, self._group_id, self._signer)
        if self._external_sender is not None:
            session.set_external_sender(self._external_sender)
        self._session = session
        return session.get_serialized_key_package()

    def reset(self) -> None:
        """See `DaveBackend`."""
        self._session = None
        self._made = None
        self._proposals.clear()
        self._members = frozenset()
        self._authenticator = None

    def set_external_sender(self, payload: bytes) -> None:
        """See `DaveBackend`.

        Another one after our first commit counts from the next `begin` on.
        """
        check_external_sender(payload)
        # Taking the same one again would throw away the proposals taken so far.
        if payload == self._external_sender or self._members:
            return
        self._external_sender = payload
        session = self._session
        if session is not None and session.status is not davey.SessionStatus.awaiting_response:
            guarded(lambda: session.set_external_sender(payload))

    def process_proposals(self, payload: bytes, recognised: AbstractSet[int]) -> bytes | None:
        """See `DaveBackend`."""
        check_proposals(payload)
        session = self._session
        if session is None:
            raise DaveError("there is no group that proposals could be for")
        users = sorted(recognised)
        made = _propose(session, payload, users)
        if payload[0]:
            for ref in parse_revoked(payload):
                self._proposals.pop(ref, None)  # unknown: of a list refused as a whole
        else:
            self._proposals |= {each.ref: each for each in parse_appended(payload)}
        known = self._proposals.values()
        if made is not None and made.welcome is None and any(each.adds for each in known):
            # Somebody is added, but not by the newest list.
            _propose(session, b"\1" + vector(b"".join(vector(each.ref) for each in known)))
            made = _propose(session, b"\0" + vector(b"".join(each.message for each in known)))
        self._made = None if made is None else made.commit + (made.welcome or b"")
        return self._made

    def process_commit(self, commit: bytes) -> bool:
        """See `DaveBackend`."""
        session = self._session
        if session is None:
            return False
        if not self._members and not is_own_commit(commit, self._made, self._group_id):
            return False
        guarded(lambda: session.process_commit(commit), InvalidCommit)
        self._enter_epoch(session)
        return True

    def process_welcome(self, welcome: bytes, recognised: AbstractSet[int]) -> None:
        """See `DaveBackend`."""
        session = self._session
        if session is None:
            raise InvalidCommit("there is nothing to enter with this welcome")
        guarded(lambda: session.process_welcome(welcome), InvalidCommit)
        self._enter_epoch(session)
        if not self._members <= recognised:
            self.reset()
            raise InvalidCommit("the welcome is to a group with a user who is not in the call")

    def switch_sender(self) -> None:
        """See `DaveBackend`: the library has done so already."""

    def can_encrypt(self) -> bool:
        """See `DaveBackend`."""
        return bool(self._members)

    def encrypt(self, frame: bytes, codec: Codec) -> bytes:
        """See `DaveBackend`; an Opus silence frame comes out as it is."""
        session = self._session
        if session is None or not self._members:
            raise NotReady("there is no sending key")
        check_frame(frame, codec)
        return guarded(lambda: session.encrypt(_MEDIA[codec.kind], _CODECS[codec], frame))

    def decrypt(self, user_id: int, kind: MediaKind, frame: bytes) -> bytes | Undecryptable:
        """See `DaveBackend`."""
        session = self._session
        if session is None or user_id not in self._members or user_id == self._user_id:
            return Undecryptable.NO_KEY
        try:
            return session.decrypt(user_id, _MEDIA[kind], frame)
        except ValueError:
            return Undecryptable.FAILED

    def fingerprint(self, user_id: int) -> bytes:
        """See `DaveBackend`; other threads stand still meanwhile."""
        session = self._session
        if session is None or user_id not in self._members:
            raise NotReady("the user is no member of the group")
        return guarded(lambda: session.get_pairwise_fingerprint(_FINGERPRINT_FORMAT, user_id))

    def _enter_epoch(self, session: davey.DaveSession) -> None:
        self._made = None
        self._proposals.clear()
        users = [int(user_id) for user_id in session.get_user_ids()]
        members = frozenset(users)
        if len(members) != len(users):
            self.reset()
            raise InvalidCommit("a user is in the group twice")
        self._members = members
        self._authenticator = session.get_epoch_authenticator()


def _propose(
    session: davey.DaveSession, payload: bytes, recognised: list[int] | None = None
) -> davey.CommitWelcome | None:
    operation = _OPERATIONS[payload[0]]
    return guarded(lambda: session.process_proposals(operation, payload[1:], recognised))


def guarded(call: Callable[[], _T], refusal: type[DaveError] = DaveError) -> _T:
    """Call the library, with its ways to refuse made ours.

    Raises:
        DaveError: Or the other class given: it refused, or panicked.
    """
    try:
        return call()
    except ValueError as error:
        raise refusal(str(error)) from None
    except BaseException as error:
        # Its class cannot be imported, and is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise refusal(f"davey panicked: {error}") from None
