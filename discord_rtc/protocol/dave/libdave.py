"""The DAVE port over Discord's own library (PyPI ``dave.py``), which it imports. Sans-I/O.

Behaviour of dave.py 1.1.0 that shapes this module, each seen by trying:

- A `dave.Session` reports the members as changes to what it knew before, and goes on from
  there after ``init``. So every membership gets a fresh one.
- It gives a key ratchet for any user id, also of no member. So membership is asked of the
  roster.
- ``Encryptor.set_key_ratchet`` begins the nonce anew, also with the same key: used once for
  each epoch.
- It says why it refuses something in a callback, and returns None.
- It writes to the logger ``dave``, without a handler on stderr, as an error for each frame that
  cannot be decrypted.
- Some malformed input ends the process; see `discord_rtc.protocol.dave.preflight`.
- It holds the GIL throughout.

Spec: DAVE protocol whitepaper 1.1.4.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, TypeVar

import dave

from discord_rtc.errors import DaveError, InvalidCommit, NotReady, UsageError
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.protocol.dave.backend import (
    KEY_LIFETIME,
    PROTOCOL_VERSION,
    DaveLibrary,
    Undecryptable,
)
from discord_rtc.protocol.dave.identity import pairwise_fingerprint
from discord_rtc.protocol.dave.preflight import (
    check_external_sender,
    check_frame,
    check_proposals,
    is_empty_commit,
    is_own_commit,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from discord_rtc.protocol.dave.identity import IdentityKey

_T = TypeVar("_T")

_MAX_GROWTH = 75
"""Bytes that dave.py leaves behind a frame for what encryption adds; more is written all the
same, over whatever lies there (found with a checking allocator; libdave: 11 of trailer, 64 of
padding)."""

_MAX_DEPARTED = 64
"""Members gone whose last frames are still decrypted; the one who left first is forgotten."""

_CODECS = {
    Codec.OPUS: dave.Codec.opus,
    Codec.H264: dave.Codec.h264,
    Codec.H265: dave.Codec.h265,
    Codec.VP8: dave.Codec.vp8,
    Codec.VP9: dave.Codec.vp9,
    Codec.AV1: dave.Codec.av1,
}
# The encryptor knows a codec by an SSRC; these are ours alone and never on a wire.
_PSEUDO_SSRC = {codec: number for number, codec in enumerate(_CODECS, 1)}
_MEDIA = {MediaKind.AUDIO: dave.MediaType.audio, MediaKind.VIDEO: dave.MediaType.video}


def quieten(logger: logging.Logger) -> None:
    """Keep a logger from speaking unless its level was set or will be.

    What libdave logs our errors and counters say too, and it would say it on the stderr of
    programs that do not use logging.
    """
    logger.addHandler(logging.NullHandler())
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


quieten(logging.getLogger("dave"))


class LibdaveBackend:
    """A `DaveBackend` over libdave.

    Args:
        user_id: Who we are.
        group_id: Of the call.
        identity: The key that others know us by; without it one for this object's life.
        clock: Monotonic seconds, for how long members gone are remembered. The library uses
            its own clock for the keys of members who stay.

    Raises:
        UsageError: The identity is no key.
    """

    def __init__(
        self,
        user_id: int,
        group_id: int,
        identity: IdentityKey | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._user_id = user_id
        self._group_id = group_id
        self._clock = clock
        self._signer = _signer(identity)
        self._external_sender: bytes | None = None
        # The library keeps the callback: one that held `self` would be a cycle that no
        # garbage collector sees.
        self._complaints: deque[str] = deque(maxlen=1)
        self._session: dave.Session | None = None
        self._encryptor = make_encryptor()
        self._authenticator: bytes | None = None
        self._sending_epoch: bytes | None = None
        self._made: bytes | None = None
        self._roster: dict[int, bytes] = {}
        self._decryptors: dict[int, dave.Decryptor] = {}
        self._departed: dict[int, tuple[float, dave.Decryptor]] = {}

    @property
    def library(self) -> DaveLibrary:
        """See `DaveBackend`."""
        return "dave.py"

    @property
    def sender_follows_commit(self) -> bool:
        """See `DaveBackend`: it does not."""
        return False

    @property
    def members(self) -> frozenset[int]:
        """See `DaveBackend`."""
        return frozenset(self._roster)

    @property
    def epoch_authenticator(self) -> bytes | None:
        """See `DaveBackend`."""
        return self._authenticator

    def begin(self, version: int) -> bytes:
        """See `DaveBackend`."""
        self.reset()
        complaints = self._complaints
        session = self._session = dave.Session(
            lambda source, reason: complaints.append(f"{source}: {reason}")
        )
        session.init(version, self._group_id, str(self._user_id), self._signer)
        if self._external_sender is not None:
            session.set_external_sender(self._external_sender)
        package = self._ask(session.get_marshalled_key_package)
        assert package is not None  # a session that was initialised has one
        return package

    def reset(self) -> None:
        """See `DaveBackend`."""
        self._session = None
        self._made = None
        self._authenticator = None
        self._sending_epoch = None
        self._encryptor = make_encryptor()
        self._roster.clear()
        self._decryptors.clear()
        self._departed.clear()

    def set_external_sender(self, payload: bytes) -> None:
        """See `DaveBackend`."""
        check_external_sender(payload)
        # Taking the same one again would throw away the proposals taken so far.
        if payload == self._external_sender or self._roster:
            return
        self._external_sender = payload
        if self._session is not None:
            session = self._session
            self._ask(lambda: session.set_external_sender(payload))

    def process_proposals(self, payload: bytes, recognised: AbstractSet[int]) -> bytes | None:
        """See `DaveBackend`."""
        check_proposals(payload)
        session = self._session
        if session is None:
            raise DaveError("there is no group that proposals could be for")
        users = {str(user_id) for user_id in recognised}
        made = self._ask(lambda: session.process_proposals(payload, users))
        if made is None or is_empty_commit(made):
            made = None
        self._made = made
        return made

    def process_commit(self, commit: bytes) -> bool:
        """See `DaveBackend`."""
        session = self._session
        if session is None:
            return False
        if not self._roster and not is_own_commit(commit, self._made, self._group_id):
            return False
        changes = self._ask(lambda: session.process_commit(commit), InvalidCommit)
        assert isinstance(changes, dict)  # anything else was refused
        self._enter_epoch(session, changes)
        return True

    def process_welcome(self, welcome: bytes, recognised: AbstractSet[int]) -> None:
        """See `DaveBackend`."""
        session = self._session
        if session is None or not welcome:
            raise InvalidCommit("there is no welcome, or nothing to enter with it")
        users = {str(user_id) for user_id in recognised}
        changes = self._ask(lambda: session.process_welcome(welcome, users), InvalidCommit)
        assert changes is not None  # without a complaint there are members
        self._enter_epoch(session, changes)

    def switch_sender(self) -> None:
        """See `DaveBackend`."""
        epoch = self._authenticator
        # The same key with a nonce that begins anew would give the frames away.
        if self._session is None or epoch is None or epoch == self._sending_epoch:
            return
        self._sending_epoch = epoch
        self._encryptor.set_key_ratchet(self._session.get_key_ratchet(str(self._user_id)))

    def can_encrypt(self) -> bool:
        """See `DaveBackend`."""
        return self._sending_epoch is not None

    def encrypt(self, frame: bytes, codec: Codec) -> bytes:
        """See `DaveBackend`.

        Frames of very many slices (some fifteen) cannot be encrypted with this library.
        """
        if self._sending_epoch is None:
            raise NotReady("there is no sending key")
        if check_frame(frame, codec) > _MAX_GROWTH:
            raise DaveError(f"the {codec.value} frame is in too many pieces for dave.py")
        return encrypt_with(self._encryptor, codec, frame)

    def decrypt(self, user_id: int, kind: MediaKind, frame: bytes) -> bytes | Undecryptable:
        """See `DaveBackend`."""
        decryptor = self._decryptors.get(user_id)
        if decryptor is None:
            departed = self._departed.get(user_id)
            if departed is None or self._clock() > departed[0]:
                return Undecryptable.NO_KEY
            decryptor = departed[1]
        plain = decryptor.decrypt(_MEDIA[kind], frame)
        return Undecryptable.FAILED if plain is None else plain

    def fingerprint(self, user_id: int) -> bytes:
        """See `DaveBackend`; other threads run meanwhile."""
        # The library's own needs an event loop.
        own, other = self._roster.get(self._user_id), self._roster.get(user_id)
        if own is None or other is None:
            raise NotReady("the user is no member of the group")
        return pairwise_fingerprint({self._user_id: own, user_id: other})

    def _ask(self, question: Callable[[], _T], refusal: type[DaveError] = DaveError) -> _T:
        """Call the library; raise what it complained of meanwhile."""
        self._complaints.clear()
        answer = question()
        if self._complaints or isinstance(answer, dave.RejectType):
            raise refusal(" ".join(self._complaints) or "refused without a reason")
        return answer

    def _enter_epoch(self, session: dave.Session, changes: Mapping[int, list[int]]) -> None:
        self._made = None
        self._authenticator = session.get_last_epoch_authenticator()
        for user_id, key in changes.items():
            if key:
                self._roster[user_id] = bytes(key)
            else:
                del self._roster[user_id]
        self._let_go(self._decryptors.keys() - self._roster.keys())
        for user_id in self._roster.keys() - {self._user_id}:
            ratchet = session.get_key_ratchet(str(user_id))
            assert ratchet is not None  # the group is established
            if user_id not in self._decryptors:
                fresh = (0.0, dave.Decryptor())
                self._decryptors[user_id] = self._departed.pop(user_id, fresh)[1]
            self._decryptors[user_id].transition_to_key_ratchet(ratchet, KEY_LIFETIME)

    def _let_go(self, users: AbstractSet[int]) -> None:
        """Members who left: their last frames may be under way still."""
        now = self._clock()
        departed = {user: entry for user, entry in self._departed.items() if entry[0] >= now}
        for user_id in users:
            departed[user_id] = (now + KEY_LIFETIME, self._decryptors.pop(user_id))
        self._departed = dict(list(departed.items())[-_MAX_DEPARTED:])


def encrypt_with(encryptor: dave.Encryptor, codec: Codec, frame: bytes) -> bytes:
    """Encrypt with an encryptor of `make_encryptor` that has a key.

    Raises:
        DaveError: The library will not.
    """
    try:
        encrypted = encryptor.encrypt(_MEDIA[codec.kind], _PSEUDO_SSRC[codec], frame)
    except ValueError as error:  # sizes that do not add up
        raise DaveError(f"dave.py cannot encrypt this {codec.value} frame") from error
    if encrypted is None:
        raise DaveError(f"dave.py will not encrypt this {codec.value} frame")
    return encrypted


def make_encryptor() -> dave.Encryptor:
    """An encryptor that knows all codecs, without a key."""
    encryptor = dave.Encryptor()
    for codec, ssrc in _PSEUDO_SSRC.items():
        encryptor.assign_ssrc_to_codec(ssrc, _CODECS[codec])
    return encryptor


def _signer(identity: IdentityKey | None) -> dave.SignatureKeyPair:
    if identity is None:
        return dave.SignatureKeyPair.generate(PROTOCOL_VERSION)
    # A JSON Web Key (RFC 7518 section 6.2).
    numbers = {
        "d": identity.private,
        "x": identity.public[1:33],
        "y": identity.public[33:],
    }
    key = {"kty": "EC", "crv": "P-256"}
    for name, value in numbers.items():
        key[name] = base64.urlsafe_b64encode(value).rstrip(b"=").decode()
    try:
        return dave.SignatureKeyPair.load(PROTOCOL_VERSION, json.dumps(key))
    except RuntimeError:
        # Without its cause: that may quote the key.
        raise UsageError("the identity is no P-256 key") from None
