"""A group without cryptography: behaves as the libraries do, in plain bytes that tests can write.

Every message is JSON, so that it can be forged, corrupted and read. What real libraries refuse
is refused here too: a wrong epoch, a proposal that was not seen, a welcome for somebody else.
Frames are masked, not encrypted, but carry the trailer of real ones.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Protocol

from discord_rtc.errors import DaveError, InvalidCommit, NotReady
from discord_rtc.protocol.dave.backend import DaveLibrary, Undecryptable
from discord_rtc.protocol.dave.frame import MARKER, parse_trailer

from . import external

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from discord_rtc.frames import Codec, MediaKind

EXTERNAL_SENDER = b"the server"
_serials = count(1)


class Wire(Protocol):
    """How a server writes and reads the bytes of MLS."""

    payload: bytes

    def add(self, epoch: int, package: bytes) -> bytes: ...
    def remove(self, epoch: int, leaf: int) -> bytes: ...
    def append(self, proposals: Sequence[bytes]) -> bytes: ...
    def split(self, payload: bytes) -> tuple[bytes, bytes | None]: ...
    def targeted(self, welcome: bytes, package: bytes) -> bytes: ...
    def epoch_of(self, commit: bytes) -> int: ...
    def corrupt(self, message: bytes) -> bytes: ...


class MlsWire:
    """Real messages, by `external`."""

    def __init__(self, group_id: int) -> None:
        self._sender = external.ExternalSender(group_id)
        self.payload = self._sender.payload

    def add(self, epoch: int, package: bytes) -> bytes:
        return self._sender.add(epoch, package).message

    def remove(self, epoch: int, leaf: int) -> bytes:
        return self._sender.remove(epoch, leaf).message

    def append(self, proposals: Sequence[bytes]) -> bytes:
        return b"\x00" + external.vector(b"".join(proposals))

    def split(self, payload: bytes) -> tuple[bytes, bytes | None]:
        return external.split(payload)

    def targeted(self, welcome: bytes, package: bytes) -> bytes:
        return external.targeted(welcome, external.key_package_ref(package))

    def epoch_of(self, commit: bytes) -> int:
        return int.from_bytes(commit[13:21], "big")  # behind the header and the group id

    def corrupt(self, message: bytes) -> bytes:
        return message[:-1] + bytes([message[-1] ^ 1])


class FakeWire:
    """Messages for `FakeBackend`."""

    payload = EXTERNAL_SENDER

    def add(self, epoch: int, package: bytes) -> bytes:
        return proposal(epoch, add=package)

    def remove(self, epoch: int, leaf: int) -> bytes:
        return proposal(epoch, remove=leaf)

    def append(self, proposals: Sequence[bytes]) -> bytes:
        return append(*proposals)

    def split(self, payload: bytes) -> tuple[bytes, bytes | None]:
        return split(payload)

    def targeted(self, welcome: bytes, package: bytes) -> bytes:  # noqa: ARG002 - the port names it
        return welcome

    def epoch_of(self, commit: bytes) -> int:
        epoch = _parse(commit, DaveError).get("epoch")
        assert isinstance(epoch, int)
        return epoch

    def corrupt(self, message: bytes) -> bytes:
        return message.replace(b'"epoch"', b'"ehcop"')


def proposal(epoch: int, *, add: bytes | None = None, remove: int | None = None) -> bytes:
    """A proposal to add the owner of a key package or to remove a leaf."""
    body = {"epoch": epoch, "add": None if add is None else add.decode(), "remove": remove}
    return json.dumps(body).encode() + b"\n"


def append(*proposals: bytes) -> bytes:
    """Payload of op 27."""
    return b"\x00" + b"".join(proposals)


def split(payload: bytes) -> tuple[bytes, bytes | None]:
    """Cut the payload of op 28."""
    commit, welcome = payload.split(b"|")
    return commit, welcome or None


def welcome_of(members: dict[int, int], secret: str, epoch: int, packages: list[str]) -> bytes:
    """A welcome into a group: leaf to user, its secret, for the owners of these packages."""
    leaves = {str(leaf): user for leaf, user in members.items()}
    body = {"epoch": epoch, "leaves": leaves, "secret": secret, "packages": packages}
    return json.dumps(body).encode()


@dataclass(frozen=True)
class _Group:
    epoch: int = 0
    secret: str = ""
    leaves: dict[int, int] = field(default_factory=dict)


class FakeBackend:
    """A `DaveBackend` for tests.

    Args:
        user_id: Who we are.
        follows: Change the sending key with the commit.
        keyless: Never have a sending key.
        impatient: Change it with the commit and keep silent about it, as do programs that use
            davey and hold nothing.

    Attributes:
        failing: Exceptions to raise from the next calls of `begin`.
        switched: How often the sending key was changed.
    """

    def __init__(
        self,
        user_id: int,
        *,
        follows: bool = False,
        keyless: bool = False,
        impatient: bool = False,
    ) -> None:
        self.user_id = user_id
        self._follows = follows or impatient
        self.sender_follows_commit = follows
        self.failing: list[DaveError] = []
        self.switched = 0
        self.was_reset = False
        self.external_sender: bytes | None = None
        self._keyless = keyless
        self._package: bytes | None = None
        self._group: _Group | None = None
        self._cached: list[bytes] = []
        self._made: bytes | None = None
        self._keys: deque[tuple[str, frozenset[int]]] = deque(maxlen=8)
        self._send_secret: str | None = None
        self._nonce = 0

    @property
    def library(self) -> DaveLibrary:
        return "davey" if self.sender_follows_commit else "dave.py"

    @property
    def epoch(self) -> int:
        """That of the group; 0 without one."""
        return 0 if self._group is None else self._group.epoch

    @property
    def members(self) -> frozenset[int]:
        return frozenset() if self._group is None else frozenset(self._group.leaves.values())

    @property
    def epoch_authenticator(self) -> bytes | None:
        if self._group is None:
            return None
        return hashlib.sha256(self._group.secret.encode()).digest()

    def begin(self, version: int) -> bytes:
        assert version >= 1
        self.reset()
        self.was_reset = False
        if self.failing:
            raise self.failing.pop(0)
        self._package = f"{self.user_id}:{next(_serials)}".encode()
        return self._package

    def reset(self) -> None:
        self.was_reset = True
        self._package = self._group = self._made = self._send_secret = None
        self._cached.clear()
        self._keys.clear()

    def set_external_sender(self, payload: bytes) -> None:
        if not payload.startswith(b"the "):
            raise DaveError("that is no external sender")
        if self._group is None:
            self.external_sender = payload

    def process_proposals(self, payload: bytes, recognised: AbstractSet[int]) -> bytes | None:
        if self._package is None or self.external_sender is None:
            raise DaveError("there is no group to change")
        if payload[:1] != b"\x00":
            raise DaveError("cannot revoke")
        epoch = 0 if self._group is None else self._group.epoch
        proposals = payload[1:].splitlines()
        for each in proposals:
            body = _parse(each, DaveError)
            if body.get("epoch") != epoch:
                raise DaveError("wrong epoch")
            user = _user(body.get("add"))
            if user is not None and user not in recognised:
                raise DaveError(f"user {user} was not announced")
        self._cached += proposals
        if not self._cached:
            return None
        body_text = [each.decode() for each in self._cached]
        secret = f"{self.user_id}/{next(_serials)}"
        commit = {"epoch": epoch, "by": self.user_id, "secret": secret, "proposals": body_text}
        self._made = json.dumps(commit).encode()
        base = self._group or _Group(leaves={0: self.user_id})
        after = _apply(base, body_text, secret)
        packages = [str(_parse(each, DaveError).get("add")) for each in self._cached]
        packages = [package for package in packages if package != "None"]
        welcome = welcome_of(after.leaves, secret, after.epoch, packages) if packages else b""
        return self._made + b"|" + welcome

    def process_commit(self, commit: bytes) -> bool:
        if self._group is None:
            if self._made is None or commit != self._made:
                return False
            self._group = _Group(leaves={0: self.user_id})
        body = _parse(commit, InvalidCommit)
        proposals = body.get("proposals")
        if body.get("epoch") != self._group.epoch or not isinstance(proposals, list):
            raise InvalidCommit("a commit of another epoch")
        if not set(proposals) <= {each.decode() for each in self._cached}:
            raise InvalidCommit("a proposal is missing")
        group = _apply(self._group, proposals, str(body.get("secret")))
        if self.user_id not in group.leaves.values():
            raise InvalidCommit("it removes us")
        self._enter(group)
        return True

    def process_welcome(self, welcome: bytes, recognised: AbstractSet[int]) -> None:
        body = _parse(welcome, InvalidCommit)
        packages, leaves = body.get("packages"), body.get("leaves")
        if self._group is not None or not isinstance(packages, list):
            raise InvalidCommit("not a welcome that we wait for")
        if self._package is None or self._package.decode() not in packages:
            raise InvalidCommit("a welcome for somebody else")
        epoch = body.get("epoch")
        if not isinstance(leaves, dict) or not isinstance(epoch, int):
            raise InvalidCommit("a damaged welcome")
        if not set(leaves.values()) <= recognised:
            raise InvalidCommit("a member was not announced")
        members = {int(leaf): user for leaf, user in leaves.items()}
        self._enter(_Group(epoch, str(body.get("secret")), members))

    def switch_sender(self) -> None:
        if self._follows:
            return
        assert self._group is not None
        assert self._send_secret != self._group.secret, "nonces would repeat"
        self._use(self._group.secret)

    def can_encrypt(self) -> bool:
        return self._send_secret is not None and not self._keyless

    def encrypt(self, frame: bytes, codec: Codec) -> bytes:  # noqa: ARG002 - the port names it
        if self._send_secret is None:
            raise NotReady("no sending key")
        if not frame:
            raise DaveError("an empty frame")
        self._nonce = self._nonce % 127 + 1  # one byte; what counts is that `_use` begins anew
        body = bytes(byte ^ 0x55 for byte in frame)
        tag = _tag(self._send_secret, self.user_id, body)
        return body + tag + bytes([self._nonce, 12]) + MARKER

    def decrypt(self, user_id: int, kind: MediaKind, frame: bytes) -> bytes | Undecryptable:  # noqa: ARG002 - the port names it
        trailer = parse_trailer(frame)
        assert trailer is not None
        body = frame[: -trailer.size]
        known = False
        for secret, members in reversed(self._keys):
            known = known or user_id in members
            if user_id in members and _tag(secret, user_id, body) == trailer.tag:
                return bytes(byte ^ 0x55 for byte in body)
        return Undecryptable.FAILED if known else Undecryptable.NO_KEY

    def fingerprint(self, user_id: int) -> bytes:
        if user_id not in self.members:
            raise NotReady("not a member")
        return bytes(64)

    def _enter(self, group: _Group) -> None:
        self._group = group
        self._cached.clear()
        self._made = None
        self._keys.append((group.secret, self.members))
        if self._follows:
            self._use(group.secret)

    def _use(self, secret: str) -> None:
        self._send_secret = secret
        self._nonce = 0
        self.switched += 1


def _apply(group: _Group, proposals: Sequence[str], secret: str) -> _Group:
    bodies = [_parse(each.encode(), InvalidCommit) for each in proposals]
    removed = {body["remove"] for body in bodies if body.get("remove") is not None}
    leaves = {leaf: user for leaf, user in group.leaves.items() if leaf not in removed}
    for body in bodies:
        user = _user(body.get("add"))
        if user is not None:
            leaves[next(leaf for leaf in count() if leaf not in leaves)] = user
    return replace(group, epoch=group.epoch + 1, secret=secret, leaves=leaves)


def _user(package: object) -> int | None:
    return int(package.split(":")[0]) if isinstance(package, str) else None


def _parse(data: bytes, error: type[DaveError]) -> dict[str, object]:
    try:
        body = json.loads(data)
    except ValueError:
        raise error("unreadable") from None
    if not isinstance(body, dict):
        raise error("unreadable")
    return body


def _tag(secret: str, user_id: int, body: bytes) -> bytes:
    return hashlib.sha256(f"{secret}|{user_id}|".encode() + body).digest()[:8]


def form(first: FakeBackend, *others: FakeBackend) -> None:
    """Begin at all of them and make one group of them, the sending keys switched."""
    users = frozenset(backend.user_id for backend in (first, *others))
    packages = []
    for backend in (first, *others):
        backend.set_external_sender(EXTERNAL_SENDER)
        packages.append(backend.begin(1))
    meet(first, users, *zip(others, packages[1:], strict=True))
    first.switch_sender()


def meet(first: FakeBackend, users: AbstractSet[int], *others: tuple[FakeBackend, bytes]) -> None:
    """Add backends by their key packages to the group of the first, or make one."""
    proposals = [proposal(0, add=package) for _, package in others]
    made = first.process_proposals(append(*proposals), users)
    assert made is not None
    commit, welcome = split(made)
    assert first.process_commit(commit)
    for backend, _ in others:
        assert welcome is not None
        backend.process_welcome(welcome, users)
        backend.switch_sender()
