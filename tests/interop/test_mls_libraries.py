"""Both DAVE libraries accept what our delivery service writes, and we read what they write.

The libraries are driven directly here, as members of a call whose server is this file: no part of
ours but the formats is involved, so that they are the witnesses.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from typing import TYPE_CHECKING, Protocol

import dave
import davey
import pytest

from discord_rtc.crypto.p256 import verify
from discord_rtc.errors import MalformedMessage
from discord_rtc.frames import OPUS_SILENCE
from discord_rtc.protocol.dave.codes import privacy_code
from discord_rtc.protocol.dave.frame import is_encrypted, parse_trailer
from discord_rtc.server.mls import (
    CommitWelcome,
    ExternalSender,
    KeyPackage,
    Proposal,
    parse_commit_welcome,
    parse_key_package,
    proposals_payload,
    revoke_payload,
    welcome_for,
)
from discord_rtc.server.mls_wire import Reader, signed_content, vector

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

pytestmark = pytest.mark.interop

GROUP = 1278201813102755891
USERS = (104694319306248192, 852892297661906993, 193696591125807105, 2**63 + 12345)


class Member(Protocol):
    """One user's library, spoken to with the payloads of the gateway's operations."""

    user_id: int

    def key_package(self) -> bytes: ...
    def proposals(self, payload: bytes, known: Collection[int]) -> bytes | None: ...
    def commit(self, commit: bytes) -> None: ...
    def welcome(self, welcome: bytes, known: Collection[int]) -> None: ...
    def authenticator(self) -> bytes | None: ...


class Libdave:
    def __init__(self, user_id: int, sender: ExternalSender) -> None:
        self.user_id = user_id
        self.session = dave.Session()
        self.session.init(1, GROUP, str(user_id))
        self.session.set_external_sender(sender.payload)

    def key_package(self) -> bytes:
        package = self.session.get_marshalled_key_package()
        assert package is not None
        return package

    def proposals(self, payload: bytes, known: Collection[int]) -> bytes | None:
        return self.session.process_proposals(payload, {str(user_id) for user_id in known})

    def commit(self, commit: bytes) -> None:
        assert isinstance(self.session.process_commit(commit), dict)

    def welcome(self, welcome: bytes, known: Collection[int]) -> None:
        assert self.session.process_welcome(welcome, {str(user_id) for user_id in known})

    def authenticator(self) -> bytes | None:
        return self.session.get_last_epoch_authenticator()


class Davey:
    def __init__(self, user_id: int, sender: ExternalSender) -> None:
        self.user_id = user_id
        self.session = davey.DaveSession(1, user_id, GROUP)
        self.session.set_external_sender(sender.payload)

    def key_package(self) -> bytes:
        return self.session.get_serialized_key_package()

    def proposals(self, payload: bytes, known: Collection[int]) -> bytes | None:
        operations = (davey.ProposalsOperationType.append, davey.ProposalsOperationType.revoke)
        made = self.session.process_proposals(operations[payload[0]], payload[1:], list(known))
        return None if made is None else made.commit + (made.welcome or b"")

    def commit(self, commit: bytes) -> None:
        self.session.process_commit(commit)

    def welcome(self, welcome: bytes, known: Collection[int]) -> None:
        del known  # davey does not ask
        self.session.process_welcome(welcome)

    def authenticator(self) -> bytes | None:
        return self.session.get_epoch_authenticator()


LIBRARIES = (Libdave, Davey)
PAIRS = list(itertools.product(LIBRARIES, repeat=2))
TRIOS = list(itertools.product(LIBRARIES, repeat=3))


class Call:
    """A delivery service reduced to the order of messages."""

    def __init__(self, libraries: Sequence[type[Libdave | Davey]]) -> None:
        self.sender = ExternalSender()
        self.epoch = 0
        self.members: list[Member] = []
        self.packages: dict[int, KeyPackage] = {}
        self.joiners = [self.arrive(library) for library in libraries]

    def arrive(self, library: type[Libdave | Davey]) -> Member:
        member = library(USERS[len(self.packages)], self.sender)
        self.packages[member.user_id] = parse_key_package(member.key_package(), member.user_id)
        return member

    def add(self, member: Member) -> Proposal:
        return self.sender.add(GROUP, self.epoch, self.packages[member.user_id])

    def create(self) -> CommitWelcome:
        """Everybody commits to what he got, the first one wins."""
        adds = {member.user_id: self.add(member) for member in self.joiners}
        commits = []
        for member in self.joiners:
            others = [add for user_id, add in adds.items() if user_id != member.user_id]
            made = member.proposals(proposals_payload(others), USERS)
            assert made is not None
            parsed = self.check(made, others)
            assert (parsed.sender_leaf, parsed.path_leaf) == (0, None)
            commits.append(parsed)
        winner, *losers = self.joiners
        winner.commit(commits[0].commit)
        self.members = [winner]
        self.let_in(commits[0], losers)
        return commits[0]

    def change(self, proposals: Sequence[Proposal], *joiners: Member) -> CommitWelcome:
        """All members commit, the last one wins, so that it is not always leaf 0."""
        commits = []
        for leaf, member in enumerate(self.members):
            made = member.proposals(proposals_payload(proposals), USERS)
            assert made is not None
            parsed = self.check(made, proposals)
            assert parsed.sender_leaf == leaf
            commits.append(parsed)
        for member in self.members:
            member.commit(commits[-1].commit)
        self.let_in(commits[-1], joiners)
        return commits[-1]

    def check(self, made: bytes, proposals: Sequence[Proposal]) -> CommitWelcome:
        parsed = parse_commit_welcome(made)
        assert parsed.commit + (parsed.welcome or b"") == made
        assert (parsed.group_id, parsed.epoch) == (GROUP, self.epoch)
        assert set(parsed.refs) == {proposal.ref for proposal in proposals}
        added = {p.package.ref for p in proposals if p.package is not None}
        assert set(parsed.welcome_refs) == added
        return parsed

    def let_in(self, made: CommitWelcome, joiners: Sequence[Member]) -> None:
        for member in joiners:
            assert made.welcome is not None
            ref = self.packages[member.user_id].ref
            member.welcome(welcome_for(made.welcome, ref), USERS)
        self.members += joiners
        self.epoch += 1
        codes = {privacy_code(member.authenticator() or b"") for member in self.members}
        assert len(codes) == 1


def names(libraries: Sequence[type[Libdave | Davey]]) -> str:
    return "-".join(library.__name__ for library in libraries)


@pytest.mark.parametrize("libraries", PAIRS + TRIOS, ids=names)
def test_a_group_is_made(libraries: Sequence[type[Libdave | Davey]]) -> None:
    call = Call(libraries)
    made = call.create()
    assert len(made.welcome_refs) == len(libraries) - 1


@pytest.mark.parametrize("libraries", TRIOS, ids=names)
def test_somebody_comes_later_and_somebody_goes(
    libraries: Sequence[type[Libdave | Davey]],
) -> None:
    call = Call(libraries[:2])
    call.create()
    late = call.arrive(libraries[2])
    made = call.change([call.add(late)], late)
    assert made.path_leaf is None
    before = call.members[0].authenticator()

    gone, *call.members = call.members
    call.members.insert(0, gone)  # leaves keep their places until the commit
    removal = call.sender.remove(GROUP, call.epoch, 0)
    remaining = call.members[1:]
    commits = []
    for leaf, member in enumerate(remaining, start=1):
        payload = member.proposals(proposals_payload([removal]), USERS)
        assert payload is not None
        parsed = call.check(payload, [removal])
        assert parsed.sender_leaf == leaf
        assert parsed.path_leaf is not None
        assert parsed.path_leaf.user_id == member.user_id
        assert parsed.path_leaf.signature_key == call.packages[member.user_id].signature_key
        assert parsed.welcome is None
        commits.append(parsed)
    for member in remaining:
        member.commit(commits[0].commit)
    after = {member.authenticator() for member in remaining}
    assert len(after) == 1
    assert before not in after


@pytest.mark.parametrize("libraries", PAIRS, ids=names)
def test_one_goes_and_another_comes_in_one_commit(
    libraries: Sequence[type[Libdave | Davey]],
) -> None:
    call = Call([libraries[0], libraries[1], libraries[0]])
    call.create()
    late = call.arrive(libraries[1])
    del call.members[2]
    made = call.change([call.sender.remove(GROUP, 1, 2), call.add(late)], late)
    assert made.path_leaf is not None
    assert len(made.refs) == 2


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_revoked_is_not_committed(library: type[Libdave | Davey]) -> None:
    call = Call([library, library])
    call.create()
    late = call.arrive(library)
    add = call.add(late)
    for member in call.members:
        assert member.proposals(proposals_payload([add]), USERS) is not None
        left = member.proposals(revoke_payload([add.ref]), USERS)
        if library is Davey:
            assert left is None
        else:  # libdave commits to nothing, with a path
            assert left is not None
            assert call.check(left, []).path_leaf is not None
    made = call.change([call.add(late)], late)
    assert add.ref not in made.refs


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_of_two_proposals_is_revoked(library: type[Libdave | Davey]) -> None:
    call = Call([library, library])
    call.create()
    one, other = call.arrive(library), call.arrive(library)
    adds = [call.add(one), call.add(other)]
    member = call.members[0]
    assert member.proposals(proposals_payload(adds), USERS) is not None
    made = member.proposals(revoke_payload([adds[0].ref]), USERS)
    assert made is not None
    assert parse_commit_welcome(made).refs == (adds[1].ref,)


def test_proposals_of_another_sender_are_refused() -> None:
    forger = ExternalSender()
    for library in LIBRARIES:
        call = Call([library, library])
        forged = forger.add(GROUP, 0, call.packages[USERS[1]])
        member = call.joiners[0]
        if isinstance(member, Davey):
            with pytest.raises(ValueError, match="InvalidSignature"):
                member.proposals(proposals_payload([forged]), USERS)
        else:
            assert member.proposals(proposals_payload([forged]), USERS) is None


def test_changed_bits_of_a_commit_never_do_more_than_raise() -> None:
    call = Call([Libdave, Davey])
    call.create()
    for member in call.members:
        made = member.proposals(proposals_payload([call.add(call.arrive(Davey))]), USERS)
        assert made is not None
        for position in range(0, len(made), 3):
            changed = bytearray(made)
            changed[position] ^= 1 << position % 8
            with contextlib.suppress(MalformedMessage):
                parse_commit_welcome(bytes(changed))


@pytest.mark.parametrize("library", LIBRARIES)
def test_only_libdave_signs_its_first_commit_over_what_a_server_knows(
    library: type[Libdave | Davey],
) -> None:
    """Why `discord_rtc.server.mls` checks no signature of a commit.

    At epoch 0 the transcript is empty and the tree is the committer's leaf. libdave puts the leaf
    of its key package there, davey another one.
    """
    call = Call([library, library])
    committer = call.joiners[0]
    package = call.packages[committer.user_id]
    made = committer.proposals(proposals_payload([call.add(call.joiners[1])]), USERS)
    assert made is not None

    reader = Reader(package.data, "key package")
    reader.take(4)
    reader.vector()
    start = reader.position
    for _ in range(2):
        reader.vector()
    reader.take(2)
    for _ in range(6):
        reader.vector()
    reader.take(17)
    for _ in range(2):
        reader.vector()
    leaf = reader.since(start)
    tree_hash = hashlib.sha256(b"\1" + bytes(4) + b"\1" + leaf).digest()
    extensions = b"\0\5" + vector(vector(call.sender.payload))
    context = b"\0\1\0\2" + vector(GROUP.to_bytes(8, "big")) + bytes(8)
    context += vector(tree_hash) + vector(b"") + vector(extensions)

    reader = Reader(made, "commit")
    reader.take(4 + 9 + 8 + 5 + 1 + 1)
    reader.vector()
    assert reader.uint(1) == 0  # no path
    signed = signed_content("FramedContentTBS", reader.since(0) + context)
    verifies = verify(package.signature_key, reader.vector(), signed)
    assert verifies == (library is Libdave)


# Frames

VP8_KEY = bytes.fromhex("1002009d012a80020e01") + bytes(range(200))
H264_KEY = b"".join(
    b"\0\0\0\1" + unit
    for unit in (
        bytes.fromhex("6742c01fd9014016ec044000000300400000078232"),
        bytes.fromhex("68cb8cb2"),
        bytes.fromhex("6588840a") + bytes(range(1, 250)),
    )
)
AV1_FRAME = bytes.fromhex("12000a0b00000024c4ffdf3c0ffd80") + b"\x32\x40" + bytes(range(64))


@pytest.mark.parametrize(
    ("name", "frame", "clear"),
    [
        ("opus", bytes(range(120)), ()),
        ("vp9", bytes(range(120)), ()),
        ("vp8", VP8_KEY, ((0, 10),)),
        ("h264", H264_KEY, ((0, 40),)),
        ("av1", AV1_FRAME, ((0, 2), (13, 1))),
    ],
)
def test_encrypted_frames_of_both_are_told_from_plain_ones(
    name: str, frame: bytes, clear: tuple[tuple[int, int], ...]
) -> None:
    assert not is_encrypted(frame)
    call = Call([Libdave, Davey])
    call.create()
    libdave, davey_member = call.members
    assert isinstance(libdave, Libdave)
    assert isinstance(davey_member, Davey)

    encryptor = dave.Encryptor()
    encryptor.set_key_ratchet(libdave.session.get_key_ratchet(str(libdave.user_id)))
    encryptor.assign_ssrc_to_codec(1, dave.Codec[name])
    audio = name == "opus"
    media = dave.MediaType.audio if audio else dave.MediaType.video
    kind = davey.MediaType.audio if audio else davey.MediaType.video
    for number in range(1, 4):
        theirs = (
            encryptor.encrypt(media, 1, frame),
            davey_member.session.encrypt(kind, getattr(davey.Codec, name), frame),
        )
        for encrypted in theirs:
            assert encrypted is not None
            assert is_encrypted(encrypted)
            trailer = parse_trailer(encrypted)
            assert trailer is not None
            assert trailer.nonce == number
            assert trailer.ranges == clear
            assert not is_encrypted(encrypted[:-1])
            assert not is_encrypted(encrypted + bytes(1))  # padding would hide the trailer


def test_silence_is_plain_where_davey_sends_it() -> None:
    call = Call([Davey, Davey])
    call.create()
    member = call.members[0]
    assert isinstance(member, Davey)
    assert member.session.encrypt_opus(OPUS_SILENCE) == OPUS_SILENCE
    assert not is_encrypted(OPUS_SILENCE)
