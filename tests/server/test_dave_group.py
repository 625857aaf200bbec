"""Leaves, batches, and which commits count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from discord_rtc.crypto.p256 import SigningKey
from discord_rtc.server.dave_group import (
    SPARE_COMMITS,
    Batch,
    CommitRefused,
    Leaves,
    check_commit,
)
from discord_rtc.server.mls import (
    CommitWelcome,
    ExternalSender,
    LeafIdentity,
    parse_commit_welcome,
    parse_key_package,
    proposals_payload,
)

from .dave_clients import GROUP, Davey

KEY = b"\4" * 65
SENDER = ExternalSender(SigningKey.generate())


def identity(user_id: int) -> LeafIdentity:
    return LeafIdentity(user_id, KEY)


def test_newcomers_take_the_leftmost_blank_leaf() -> None:
    leaves = Leaves()
    assert not leaves
    assert [leaves.add(identity(user_id)) for user_id in (5, 6, 7, 8)] == [0, 1, 2, 3]
    leaves.remove(2)
    leaves.remove(0)
    assert [(index, leaf.user_id) for index, leaf in leaves] == [(1, 6), (3, 8)]
    assert [leaves.add(identity(user_id)) for user_id in (9, 10, 11)] == [0, 2, 4]
    assert leaves[2].user_id == 10


def test_the_tree_shrinks_when_its_end_is_blank() -> None:
    leaves = Leaves()
    for user_id in (5, 6, 7):
        leaves.add(identity(user_id))
    leaves.remove(1)
    with pytest.raises(LookupError):
        leaves[1]
    leaves.remove(2)
    assert [index for index, _ in leaves] == [0]
    leaves.remove(0)
    assert not leaves


def test_a_forgotten_group_is_none() -> None:
    leaves = Leaves()
    leaves.add(identity(5))
    leaves.clear()

    assert list(leaves) == []


def package(user_id: int) -> tuple[Davey, bytes]:
    library = Davey(user_id)
    library.external_sender(SENDER.payload)
    return library, library.begin()


def test_a_batch_gives_each_receiver_what_he_has_not() -> None:
    batch = Batch(0, 0.0, 1.0)
    adds = {}
    for user_id in (1, 2):
        parsed = parse_key_package(package(user_id)[1], user_id)
        adds[user_id] = SENDER.add(GROUP, 0, parsed)
    batch.put(adds.values())
    assert batch.deliver(1) == [adds[2]]
    assert batch.deliver(2) == [adds[1]]

    late = SENDER.add(GROUP, 0, parse_key_package(package(3)[1], 3))
    batch.put([late])
    assert batch.deliver(1) == [late]
    assert batch.deliver(3) == [adds[1], adds[2]]
    assert batch.added.keys() == {1, 2, 3}
    assert batch.removed == frozenset()


def test_so_many_commits_of_a_receiver_are_read() -> None:
    batch = Batch(0, 0.0, 1.0)
    batch.put([SENDER.remove(GROUP, 0, 4)])
    batch.deliver(1)
    assert batch.removed == {4}

    read = [batch.spend_commit(1) for _ in range(SPARE_COMMITS + 2)]
    assert read == [True] * (SPARE_COMMITS + 1) + [False]


class Scene:
    """Users 1 and 2 in a group with 1 on leaf 0; user 2 is to be removed and user 3 to be added."""

    def __init__(self) -> None:
        self.one, own = package(1)
        _, second = package(2)
        self.key = parse_key_package(own, 1).signature_key
        first = SENDER.add(GROUP, 0, parse_key_package(second, 2))
        started = self.one.proposals(proposals_payload([first]), {1, 2})
        assert started is not None
        self.one.commit(parse_commit_welcome(started).commit)
        self.remove = SENDER.remove(GROUP, 1, 1)
        self.add = SENDER.add(GROUP, 1, parse_key_package(package(3)[1], 3))
        self.batch = Batch(1, 0.0, 1.0)
        self.batch.put([self.remove, self.add])
        told = self.one.proposals(proposals_payload(self.batch.deliver(1)), {1, 2, 3})
        assert told is not None
        self.commit = parse_commit_welcome(told)

    def check(self, commit: CommitWelcome, place: tuple[int, bytes] | None = None) -> None:
        check_commit(commit, GROUP, self.batch, 1, place or (0, self.key))


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def test_a_commit_to_what_its_sender_was_given_counts(scene: Scene) -> None:
    scene.check(scene.commit)


def test_a_commit_may_have_a_path_that_it_does_not_need(scene: Scene) -> None:
    batch = Batch(1, 0.0, 1.0)
    batch.put([scene.add])
    batch.deliver(1)
    commit = replace(scene.commit, refs=(scene.add.ref,))

    check_commit(commit, GROUP, batch, 1, (0, scene.key))
    check_commit(replace(commit, path_leaf=None), GROUP, batch, 1, (0, scene.key))


def test_any_other_commit_is_refused_with_its_reason(scene: Scene) -> None:
    commit, others = scene.commit, (bytes(32),)
    assert commit.path_leaf is not None
    cases = {
        "commit-of-another-group": replace(commit, group_id=GROUP + 1),
        "commit-of-another-epoch": replace(commit, epoch=0),
        "commit-of-another-leaf": replace(commit, sender_leaf=1),
        "commit-to-other-proposals": replace(commit, refs=commit.refs[:1]),
        "commit-without-path": replace(commit, path_leaf=None),
        "commit-of-another-identity": replace(commit, path_leaf=LeafIdentity(1, KEY)),
        "commit-without-welcome": replace(commit, welcome=None, welcome_refs=()),
    }
    for reason, wrong in cases.items():
        with pytest.raises(CommitRefused, match=f"^{reason}$"):
            scene.check(wrong)
    for refs in ((), others, commit.refs + others):
        with pytest.raises(CommitRefused, match="other-proposals"):
            scene.check(replace(commit, refs=refs))
    with pytest.raises(CommitRefused, match="without-welcome"):
        scene.check(replace(commit, welcome_refs=others))
    with pytest.raises(CommitRefused, match="another-identity"):
        scene.check(replace(commit, path_leaf=LeafIdentity(2, scene.key)))
    with pytest.raises(CommitRefused, match="another-identity"):
        scene.check(commit, (0, KEY))


def test_a_commit_to_nothing_is_refused(scene: Scene) -> None:
    batch = Batch(1, 0.0, 1.0)
    batch.deliver(1)

    with pytest.raises(CommitRefused, match="other-proposals"):
        check_commit(
            replace(scene.commit, refs=(), welcome=None, welcome_refs=()),
            GROUP,
            batch,
            1,
            (0, scene.key),
        )
