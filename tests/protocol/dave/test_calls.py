"""Several machines in one call: no frame is lost for good, whatever library, whatever fault."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from discord_rtc.protocol.dave.choose import make_backend
from discord_rtc.protocol.dave.frame import is_encrypted
from discord_rtc.protocol.messages import (
    ExecuteTransition,
    MlsAnnounceCommit,
    MlsProposals,
    MlsWelcome,
    ServerMessage,
)

from .fake_call import Call, Person
from .fake_group import FakeBackend, FakeWire, MlsWire, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.protocol.dave.backend import DaveBackend, DaveLibrary

GROUP = 77
ANN, BOB, CAT, DAN = 101, 102, 103, 104


LIBRARIES: dict[str, DaveLibrary] = {"dave.py": "dave.py", "davey": "davey"}


class Scene:
    """A call with one kind of library, or with several by turns."""

    def __init__(self, kinds: str, *, first_transition: int = 0) -> None:
        self._kinds = kinds.split("+")
        self.group = GROUP
        self.call = Call(self._wire(), first_transition=first_transition)
        self._turn = count()

    @property
    def is_fake(self) -> bool:
        return self._kinds[0].startswith("fake")

    def _wire(self) -> Wire:
        return FakeWire() if self.is_fake else MlsWire(self.group)

    def join(self, *users: int) -> tuple[Person, ...]:
        return tuple(
            self.call.join(user, self._maker(user), 0.01 + 0.003 * (user % 5)) for user in users
        )

    def _maker(self, user: int) -> Callable[[], DaveBackend]:
        kind = self._kinds[next(self._turn) % len(self._kinds)]
        if kind.startswith("fake"):
            return lambda: FakeBackend(user, follows=kind == "fake-davey")
        group, library = self.group, LIBRARIES[kind]
        return lambda: make_backend(user, group, library=library)

    def move(self) -> None:
        """Everybody goes to another channel."""
        self.group += 1
        self.call = Call(self._wire())

    def fault(self, times: int, kind: type[ServerMessage], outcome: object, user: int = 0) -> None:
        """Let the next messages of a kind, to one user or to all, come to harm."""
        left = [times]

        def fault(to: int, message: ServerMessage) -> ServerMessage | float | None:
            if not left[0] or not isinstance(message, kind) or (user and to != user):
                return message
            left[0] -= 1
            return outcome(message) if callable(outcome) else outcome  # type: ignore[return-value]

        self.call.fault = fault


KINDS = ["fake", "fake-davey", "fake+fake-davey", "dave.py", "davey", "dave.py+davey"]


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene(request.param)


def assert_all_is_well(scene: Scene, *, since: float = 0.0) -> None:
    """Everybody present is active with the same code, and lost nothing after getting in.

    Args:
        scene: The call.
        since: Frames sent before are not asked for.
    """
    people = [person for person in scene.call.people.values() if person.here]
    assert {person.session.state for person in people} == {"active"}
    assert len({person.session.epoch_authenticator for person in people}) == 1
    assert len({person.session.privacy_code for person in people}) == 1
    for person in scene.call.people.values():
        assert_nothing_slipped(person)
        # For a moment the others go on sending with the key of before a newcomer was in.
        entered = 0.1 + (person.active_since or 0.0)
        assert lost_after(person, max(since, entered)) == []


def assert_nothing_slipped(person: Person) -> None:
    for _, version, plain, frame in person.wire:
        assert is_encrypted(frame) if version else frame == plain


def lost_after(person: Person, start: float) -> list[tuple[float, int, str]]:
    return [each for each in person.lost if each[0] >= start]


def assert_heard_all(listener: Person, *speakers: Person) -> None:
    """Everything that was sent since the listener is in, each frame once."""
    assert listener.active_since is not None
    for speaker in speakers:
        sent = speaker.wire[:-10]  # the last ones are under way
        said = {plain for at, _, plain, _ in sent if at >= listener.active_since}
        assert len(said) > 20
        heard = listener.heard[speaker.user_id]
        assert said - set(heard) == set()
        assert len(heard) == len(set(heard))


def counted(scene: Scene, name: str) -> int:
    return sum(person.session.counters.get(name, 0) for person in scene.call.people.values())


def test_a_first_group_of_three(scene: Scene) -> None:
    people = scene.join(ANN, BOB, CAT)
    scene.call.run(2.0)
    assert_all_is_well(scene)
    for person in people:
        assert_heard_all(person, *(other for other in people if other is not person))


@pytest.mark.parametrize("kinds", KINDS)
def test_a_first_group_with_a_transition_of_its_own(kinds: str) -> None:
    scene = Scene(kinds, first_transition=1)
    ann, bob = scene.join(ANN, BOB)
    scene.call.run(2.0)
    assert_all_is_well(scene)
    assert_heard_all(ann, bob)
    assert_heard_all(bob, ann)


def test_members_join_and_leave_while_all_talk(scene: Scene) -> None:
    ann, bob = scene.join(ANN, BOB)
    scene.call.run(1.0)
    scene.join(CAT)
    scene.call.run(1.0)
    scene.join(DAN)
    scene.call.leave(CAT)
    scene.call.run(1.0)
    assert_all_is_well(scene)
    assert_heard_all(ann, bob)
    assert_heard_all(bob, ann)
    assert scene.call.people[DAN].session.members == {ANN, BOB, DAN}


def test_one_who_stays_alone_finds_the_next(scene: Scene) -> None:
    (ann, _) = scene.join(ANN, BOB)
    scene.call.run(1.0)
    scene.call.leave(BOB)
    scene.call.run(1.0)
    assert ann.session.state == "pending"
    (cat,) = scene.join(CAT)
    scene.call.run(1.0)
    assert_all_is_well(scene)
    assert_heard_all(cat, ann)


@pytest.mark.parametrize("outcome", [None, 4.0], ids=["lost", "late"])
@pytest.mark.parametrize("victim", [ANN, 0], ids=["one", "all"])
def test_an_execute_that_is_lost_or_late(scene: Scene, outcome: float | None, victim: int) -> None:
    ann, bob = scene.join(ANN, BOB)
    scene.call.run(1.0)
    scene.fault(1 if victim else 3, ExecuteTransition, outcome, victim)
    scene.join(CAT)
    scene.call.run(15.0)  # and the old keys end
    assert_all_is_well(scene, since=4.0)  # Cat cannot know the key of before she came
    assert_heard_all(ann, bob)
    assert_heard_all(bob, ann)
    assert counted(scene, "self-executed") == (1 if victim else 3)


def test_a_bad_commit_is_recovered_from(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    ann, bob = scene.join(ANN, BOB)
    scene.call.run(1.0)
    scene.fault(1, MlsAnnounceCommit, corrupting(scene), BOB)
    scene.join(CAT)
    scene.call.run(3.0)
    assert_all_is_well(scene)
    assert_heard_all(ann, bob)
    assert_heard_all(bob, ann)
    assert counted(scene, "recovered") == 1
    assert "a commit could not be processed" in caplog.text


def test_a_bad_welcome_is_recovered_from(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    ann, bob = scene.join(ANN, BOB)
    scene.call.run(1.0)
    scene.fault(2, MlsWelcome, corrupting(scene), CAT)
    (cat,) = scene.join(CAT)
    scene.call.run(3.0)
    assert_all_is_well(scene)
    assert_heard_all(ann, bob, cat)
    assert "a welcome could not be processed" in caplog.text


def test_a_commit_that_never_comes_is_noticed_by_its_frames(scene: Scene) -> None:
    ann, bob = scene.join(ANN, BOB)
    scene.call.run(1.0)
    scene.fault(1, MlsAnnounceCommit, None, BOB)
    scene.join(CAT)
    scene.call.run(6.0)
    people = [ann, bob, scene.call.people[CAT]]
    assert len({person.session.privacy_code for person in people}) == 1
    assert_all_is_well(scene, since=4.0)
    assert_heard_all(ann, bob)


def test_a_welcome_that_never_comes_is_noticed_by_the_frames_of_the_others(scene: Scene) -> None:
    scene.join(ANN, BOB)
    scene.call.run(1.0)
    scene.fault(1, MlsWelcome, None, CAT)
    (cat,) = scene.join(CAT)
    scene.call.run(3.0)
    assert cat.session.counters["recovered"] == 1
    assert_all_is_well(scene)


def test_proposals_that_overtake_a_commit(scene: Scene) -> None:
    ann, bob = scene.join(ANN, BOB)
    scene.call.run(1.0)
    scene.fault(1, MlsAnnounceCommit, 0.05, BOB)
    scene.join(CAT)
    scene.call.run(0.06)
    scene.join(DAN)
    scene.call.run(3.0)
    assert_all_is_well(scene)
    assert_heard_all(ann, bob)
    assert_heard_all(bob, ann)
    assert bob.session.counters["reordered-proposals"] == 1
    assert counted(scene, "recovered") == 0


def test_a_sender_that_is_in_the_next_epoch_before_us() -> None:
    scene = Scene("fake")
    ann = scene.call.join(ANN, lambda: FakeBackend(ANN, impatient=True))
    (bob,) = scene.join(BOB)
    scene.call.run(1.0)
    scene.fault(1, MlsAnnounceCommit, 0.4, BOB)
    scene.join(CAT)
    scene.call.run(2.0)
    assert_all_is_well(scene)
    assert_heard_all(bob, ann)


def test_a_downgrade_and_an_upgrade(scene: Scene) -> None:
    people = scene.join(ANN, BOB, CAT)
    scene.call.run(1.0)
    scene.call.downgrade()
    scene.call.run(1.0)
    assert {person.session.state for person in people} == {"off"}
    scene.call.upgrade()
    scene.call.run(1.0)
    assert_all_is_well(scene)
    for person in people:
        versions = [version for _, version, _, _ in person.wire]
        assert sorted(set(versions)) == [0, 1]
        assert_heard_all(person, *(other for other in people if other is not person))


def test_a_downgrade_whose_execute_is_lost(scene: Scene) -> None:
    ann, bob = scene.join(ANN, BOB)
    scene.call.run(1.0)
    scene.fault(1, ExecuteTransition, None, ANN)
    scene.call.downgrade()
    scene.call.run(3.0)
    assert (ann.session.state, bob.session.state) == ("off", "off")
    assert_heard_all(ann, bob)
    assert_heard_all(bob, ann)


def test_a_move_to_another_channel_is_a_new_group(scene: Scene) -> None:
    people = scene.join(ANN, BOB, CAT)
    scene.call.run(1.0)
    codes = {person.session.privacy_code for person in people}
    scene.move()
    moved = scene.join(ANN, BOB, CAT)
    scene.call.run(1.0)
    assert_all_is_well(scene)
    assert_heard_all(moved[0], *moved[1:])
    assert codes.isdisjoint({person.session.privacy_code for person in moved})


def test_a_member_whose_proposals_were_lost(scene: Scene) -> None:
    ann, bob = scene.join(ANN, BOB)
    scene.call.run(1.0)
    scene.fault(1, MlsProposals, None, BOB)
    scene.join(CAT)
    scene.call.run(3.0)
    assert_all_is_well(scene)
    assert_heard_all(bob, ann)


def corrupting(scene: Scene) -> Callable[[ServerMessage], ServerMessage]:
    def corrupt(message: ServerMessage) -> ServerMessage:
        wire = FakeWire() if scene.is_fake else MlsWire(GROUP)
        if isinstance(message, MlsAnnounceCommit):
            return MlsAnnounceCommit(message.transition_id, wire.corrupt(message.commit))
        assert isinstance(message, MlsWelcome)
        return MlsWelcome(message.transition_id, wire.corrupt(message.welcome))

    return corrupt
