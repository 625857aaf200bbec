"""The delivery service, driven by davey and dave.py: who gets what, and that all end up equal."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from discord_rtc.protocol.messages import (
    ExecuteTransition,
    InvalidCommitWelcome,
    MlsCommitWelcome,
    MlsExternalSender,
    MlsKeyPackage,
    MlsProposals,
    PrepareEpoch,
    PrepareTransition,
    TransitionReady,
)
from discord_rtc.server.delivery import DeliveryInfo

from .dave_clients import Call, Davey, Libdave

if TYPE_CHECKING:
    from .dave_clients import ClientMessage

MIXED = (Davey, Libdave)
Libraries = tuple[type[Davey | Libdave], ...]

KNOWN_REFUSALS = {"RejectType.failed"}
"""dave.py 1.1.0 cannot take about one in a hundred commits with a path while people come and go,
whoever made them ("bad_optional_access" in its MLS library); the other members can. It asks to be
added anew then, like any client."""


def call_of(count: int, libraries: Libraries = MIXED, *, seed: int = 0) -> Call:
    """A call with users from 1 on, who are all in the group."""
    call = Call(seed)
    for user_id in range(1, count + 1):
        call.join(user_id, libraries[user_id % len(libraries)])
    call.run()
    call.check_quiet()
    return call


def settle(call: Call, within: float = 1.0) -> None:
    """Nothing may take longer than that."""
    start = call.clock.now()
    call.run()
    assert call.clock.now() - start < within
    call.check_quiet()


@pytest.mark.parametrize("libraries", [(Davey,), (Libdave,), MIXED])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_group_is_made_of_everybody_who_commits_at_once(count: int, libraries: Libraries) -> None:
    call = call_of(count, libraries)

    assert call.service.info.members.keys() == set(range(count))
    assert call.refused() == []
    assert call.clock.now() < 101.0


def test_joins_within_one_moment_share_an_epoch() -> None:
    call = call_of(2)

    for user_id in range(3, 9):
        call.join(user_id, MIXED[user_id % 2])
    settle(call)

    assert call.service.info.epoch <= 4  # the first of them, and all others after it
    assert call.refused() == []


def test_the_first_group_begins_without_a_transition() -> None:
    call = call_of(2)

    for client in call.clients.values():
        assert client.seen.count(22) == 0
        assert client.sends_with is not None
    announced = [client.seen.count(29) for client in call.clients.values()]
    welcomed = [client.seen.count(30) for client in call.clients.values()]
    assert sorted(announced) == sorted(welcomed) == [0, 1]


def test_one_user_alone_is_told_nothing() -> None:
    call = Call()
    client = call.join(1)
    call.run()

    assert client.seen == [25, 11]
    assert call.service.info == DeliveryInfo(1, 0, established=False, members={}, pending=(1,))
    assert call.service.next_timeout() is None


@pytest.mark.parametrize("library", MIXED)
def test_a_newcomer_gets_one_welcome_and_no_proposals(library: type[Davey | Libdave]) -> None:
    call = call_of(3)
    client = call.join(4, library)
    settle(call)

    assert [op for op in client.seen if op >= 21] == [25, 30, 22]
    for other in (1, 2, 3):
        assert call.clients[other].seen[-4:] == [11, 27, 29, 22]
    assert call.refused() == []


def test_everybody_gets_the_same_proposals_and_nobody_his_own() -> None:
    call = Call()
    given: dict[int, set[bytes]] = {}
    packages = {}
    for user_id in (1, 2, 3):
        call.service.join(user_id, 1, 0.0)
        packages[user_id] = Davey(user_id).begin()
    for user_id in (1, 2, 3):
        call.service.receive(user_id, MlsKeyPackage(packages[user_id]), 0.0)
    for user_id, message in call.service.messages_to_send():
        assert isinstance(message, MlsProposals)
        given.setdefault(user_id, set()).add(message.payload)

    for user_id, payloads in given.items():
        told = b"".join(payloads)
        assert packages[user_id] not in told
        assert all(packages[other] in told for other in packages if other != user_id)
    assert given[1] & given[2]  # the addition of user 3, signed once


def test_all_members_get_the_same_bytes() -> None:
    call = call_of(4)
    call.service.join(5, 1, call.clock.now())
    call.service.receive(5, MlsKeyPackage(Davey(5).begin()), call.clock.now())
    told = call.service.messages_to_send()

    assert [user_id for user_id, _ in told] == [1, 2, 3, 4]
    assert len({message for _, message in told}) == 1


@pytest.mark.parametrize(("count", "leavers"), [(3, (1, 2, 3)), (8, (5,))])
def test_a_leaver_is_removed_whoever_it_is(count: int, leavers: tuple[int, ...]) -> None:
    for leaver in leavers:
        call = call_of(count)
        before = {client.sends_with for client in call.clients.values()}
        call.leave(leaver)
        settle(call)

        assert call.service.info.epoch == 2
        assert before.isdisjoint({client.sends_with for client in call.clients.values()})
        assert call.refused() == []


def test_the_committer_leaves_before_his_commit_arrives() -> None:
    call = call_of(4)
    call.join(5, Libdave)
    call.run_for(0.03)  # proposals are under way, and commits are
    committer = call.service.info.members[0]
    call.leave(committer)
    settle(call)

    assert call.members() == {1, 2, 3, 4, 5} - {committer}
    assert call.refused() == []


def test_joins_and_leaves_at_once_are_one_batch() -> None:
    call = call_of(5)
    call.leave(2)  # at once, all others in the epoch after it
    call.leave(3)
    call.join(6, Libdave)
    call.join(7, Davey)
    settle(call)

    assert call.members() == {1, 4, 5, 6, 7}
    assert call.service.info.epoch == 3
    assert call.refused() == []


@pytest.mark.parametrize("libraries", [(Davey,), (Libdave,), MIXED])
@pytest.mark.parametrize("moment", [0.0, 0.01, 0.025, 0.04, 0.06])
def test_a_user_leaves_while_he_is_being_added(moment: float, libraries: Libraries) -> None:
    call = call_of(3, libraries)
    call.join(4, libraries[0])
    call.join(5, libraries[-1])
    call.run_for(moment)
    call.leave(4)
    settle(call)

    assert call.members() == {1, 2, 3, 5}
    assert call.refused() == []


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.025, 0.04])
def test_a_user_leaves_before_there_is_a_group(moment: float) -> None:
    for left in ({2, 3}, {2}):
        call = Call(seed=3)
        for user_id in (1, 2, 3, 4):
            call.join(user_id, MIXED[user_id % 2])
        call.run_for(moment)
        for user_id in left:
            call.leave(user_id)
        settle(call)

        assert call.members() == {1, 2, 3, 4} - left
        assert call.refused() == []


def test_what_was_proposed_is_revoked_when_nobody_is_left_to_make_a_group_with() -> None:
    call = Call()
    call.join(1, Davey)
    call.join(2, Libdave)
    call.run_for(0.022)
    call.leave(2)
    call.run()

    assert call.clients[1].refused == []
    assert not call.service.info.established
    call.join(3, Libdave)
    settle(call)
    assert call.refused() == []


@pytest.mark.parametrize("libraries", [(Davey,), (Libdave,), MIXED])
def test_a_user_reconnects(libraries: Libraries) -> None:
    call = call_of(3, libraries)
    call.leave(2)
    call.join(2, libraries[0])
    settle(call)

    assert call.members() == {1, 2, 3}
    assert call.refused() == []


def test_a_second_session_of_a_user_takes_the_place_of_the_first() -> None:
    call = call_of(3)
    call.service.join(2, 1, call.clock.now())

    assert call.members() == {1, 3}
    assert call.service.info.pending == (2,)


def test_the_last_one_waits_for_the_next_to_come() -> None:
    call = call_of(2)
    epochs: list[bytes | None] = []
    for user_id in (3, 4):
        call.leave(user_id - 1)
        call.run()
        (alone,) = call.clients.values()
        assert alone.seen[-2:] == [24, 21]
        assert call.service.info == DeliveryInfo(1, 0, established=False, members={}, pending=(1,))
        call.join(user_id, MIXED[user_id % 2])
        settle(call)
        assert call.service.info.epoch == 1
        epochs.append(alone.sends_with)

    assert len(set(epochs)) == 2
    assert call.refused() == []


def test_the_other_one_of_two_is_replaced_at_once() -> None:
    call = call_of(2)
    call.leave(2)
    call.join(3, Davey)
    settle(call)

    assert call.members() == {1, 3}
    assert call.refused() == []


def test_nothing_stays_of_a_call_but_its_sender() -> None:
    call = call_of(3)
    for user_id in (1, 2, 3):
        call.leave(user_id)

    assert call.service.info == DeliveryInfo(1, 0, established=False, members={}, pending=())
    assert call.service.next_timeout() is None
    for user_id in (1, 4):
        call.join(user_id, MIXED[user_id % 2])
    settle(call)
    assert call.service.info.epoch == 1


@pytest.mark.parametrize("libraries", [(Davey,), (Libdave,), MIXED])
def test_who_cannot_process_a_commit_is_added_anew(libraries: Libraries) -> None:
    call = call_of(4, libraries)
    client = call.clients[3]
    client.send(InvalidCommitWelcome(0))
    client.begin()
    call.flush()
    settle(call)

    assert call.members() == {1, 2, 3, 4}
    assert call.counters["invalid-commit"] == 1
    assert call.service.info.epoch == 2  # removed and added by one commit
    assert call.refused() == []


def test_who_sends_no_key_package_after_that_is_removed() -> None:
    call = call_of(3)
    call.service.receive(3, InvalidCommitWelcome(0), call.clock.now())
    call.run()

    assert call.members() == {1, 2}
    assert call.service.info.epoch == 2
    assert call.service.info.pending == (3,)


def test_the_group_is_made_anew_when_all_have_lost_it() -> None:
    call = call_of(3)
    for client in call.clients.values():
        client.send(InvalidCommitWelcome(0))
        client.begin()
    call.flush()
    settle(call)

    assert call.service.info.epoch == 1
    assert call.members() == {1, 2, 3}


def test_a_key_package_of_a_member_means_that_he_has_lost_the_group() -> None:
    call = call_of(3)
    call.clients[2].begin()
    call.flush()
    settle(call)

    assert call.members() == {1, 2, 3}
    assert call.service.info.epoch == 2


def test_bad_key_packages_are_counted_and_another_one_may_follow() -> None:
    call = call_of(2)
    client = call.join(3)
    call.service.receive(3, MlsKeyPackage(b"\x00\x01\x00\x02nonsense"), call.clock.now())
    stolen = Davey(9).begin()
    call.service.receive(3, MlsKeyPackage(stolen), call.clock.now())
    settle(call)

    assert call.counters["key-package-malformed"] == 2
    assert client.refused == []


def test_the_same_key_package_again_changes_nothing() -> None:
    call = Call()
    package = MlsKeyPackage(Davey(1).begin())
    call.service.join(1, 1, 0.0)
    call.join(2)
    call.service.receive(1, package, 0.0)
    call.service.receive(2, MlsKeyPackage(Davey(2).begin()), 0.0)
    first = call.service.messages_to_send()
    call.service.receive(1, package, 0.0)

    assert len(first) == 2
    assert call.service.messages_to_send() == []


@pytest.mark.parametrize("library", MIXED)
def test_another_key_package_takes_the_place_of_one_in_flight_before_there_is_a_group(
    library: type[Davey | Libdave],
) -> None:
    call = Call()
    for user_id in (1, 2, 3):
        call.join(user_id, library)
    for client in call.clients.values():
        client.keeps = (MlsCommitWelcome,)
    call.run_for(0.1)
    call.clients[3].begin()
    for client in call.clients.values():
        client.keeps = ()
    call.flush()
    settle(call, within=0.5)  # a batch that nobody commits to is issued anew after that

    assert call.service.info.epoch == 1
    assert call.refused() == []


@pytest.mark.parametrize("library", MIXED)
def test_a_welcome_for_a_key_package_of_the_past_is_not_sent(
    library: type[Davey | Libdave],
) -> None:
    call = call_of(3)
    client = call.join(4, library)
    while 27 not in call.clients[1].seen[-2:]:
        call.run_for(0.001)
    call.service.receive(4, MlsKeyPackage(library(4).begin()), call.clock.now())
    client.begin()
    call.flush()
    settle(call)

    assert call.counters["additions-void"] == 1
    assert call.service.info.epoch == 3  # added in vain; removed and added
    assert call.refused() == []


# Versions


@pytest.mark.parametrize("libraries", [(Davey,), (Libdave,), MIXED])
def test_encryption_goes_off_and_on_again(
    libraries: Libraries, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "discord_rtc.server")
    call = call_of(3, libraries)
    plain = call.join(5, None)
    assert plain.version == 0
    assert call.service.version == 1  # until everybody is ready
    settle(call)
    assert call.service.version == 0
    assert call.service.info.reason == "user 5 joined without end-to-end encryption"
    assert "user 5 joined without end-to-end encryption" in caplog.text
    assert [op for op in plain.seen if op >= 21] == []

    late = call.join(4, libraries[0])  # described version 0, without op 25
    settle(call)
    assert late.version == 0

    call.leave(5)
    settle(call)
    assert call.service.version == 1
    assert call.service.info.reason is None
    assert call.members() == {1, 2, 3, 4}
    assert [op for op in late.seen if op >= 21][:2] == [24, 25]
    for client in call.clients.values():
        assert client.seen[-1] == 22  # plain media flowed until all had keys
    assert call.refused() == []


def test_a_call_that_begins_without_encryption_gets_it_later() -> None:
    call = Call()
    call.join(9, None)
    assert call.service.version == 0
    call.join(1)
    call.join(2, Libdave)
    call.leave(9)
    settle(call)

    assert call.members() == {1, 2}


@pytest.mark.parametrize("moment", [0.0, 0.005, 0.015, 0.03, 0.05, 0.08])
def test_versions_change_in_the_middle_of_everything(moment: float) -> None:
    call = call_of(3)
    call.join(4)
    call.run_for(moment)
    call.join(9, None)
    call.run_for(moment)
    call.leave(9)
    call.run_for(moment)
    call.leave(1)
    call.join(8, None)
    call.join(5, Libdave)
    call.run_for(moment)
    settle(call)
    call.leave(8)
    settle(call)

    assert call.members() == {2, 3, 4, 5}
    assert call.refused() == []


def test_what_was_described_too_early_is_put_right() -> None:
    call = call_of(2)
    call.join(9, None)
    call.run()
    call.service.join(3, 1, call.clock.now(), described=1)

    told = [message for user_id, message in call.service.messages_to_send() if user_id == 3]
    assert [type(message) for message in told] == [PrepareTransition]


def test_a_downgrade_does_not_wait_for_the_silent_for_ever() -> None:
    call = call_of(3)
    call.clients[2].keeps = (TransitionReady,)
    call.join(9, None)
    settle(call, within=2.2)

    assert call.service.version == 0
    assert call.counters["ready-timeouts"] == 1


# Silence and floods


def test_one_silent_committer_is_not_waited_for() -> None:
    call = call_of(4)
    call.clients[2].keeps = (MlsCommitWelcome,)
    call.join(5)
    settle(call)

    assert call.counters["commit-timeouts"] == 0


def test_a_batch_without_commit_is_proposed_again() -> None:
    call = call_of(3)
    for client in call.clients.values():
        client.keeps = (MlsCommitWelcome,)
    call.join(4, Davey)
    call.run_for(0.5)
    for client in call.clients.values():
        client.keeps = ()
    settle(call)

    assert call.counters["commit-timeouts"] == 1
    assert call.service.info.epoch == 2
    assert call.refused() == []


def test_everybody_begins_anew_when_nobody_ever_commits() -> None:
    call = call_of(3)
    for client in call.clients.values():
        client.keeps = (MlsCommitWelcome,)
    newcomer = call.join(4, Davey)
    call.run_for(3.2)
    assert call.counters["restarts"] == 1
    assert all(24 in client.seen for client in call.clients.values())
    settle(call)

    assert call.members() == {1, 2, 3, 4}
    assert newcomer.refused == []


def test_clients_that_never_commit_are_asked_less_and_less_often() -> None:
    call = Call()
    for user_id in (1, 2):
        call.join(user_id).keeps = (MlsCommitWelcome,)
    call.run_for(600.0)

    assert 20 < call.counters["commit-timeouts"] < 40
    assert call.counters["restarts"] <= 14


def test_who_does_not_get_ready_delays_others_once_and_is_asked_to_begin_anew() -> None:
    call = call_of(3)
    call.clients[3].keeps = (TransitionReady,)
    call.join(4)
    call.run_for(1.9)
    assert 22 not in call.clients[1].seen
    call.run_for(0.5)
    assert call.clients[1].seen.count(22) >= 1
    assert 24 in call.clients[3].seen

    call.run_for(5.0)
    seen = call.clients[3].seen.count(24)
    call.join(5)
    settle(call, within=2.5)
    assert call.clients[3].seen.count(24) == seen == 1  # not again so soon


def test_who_is_away_is_not_waited_for() -> None:
    call = call_of(3)
    call.service.set_away(3, call.clock.now(), away=True)
    call.clients[3].keeps = (TransitionReady,)
    call.join(4)
    settle(call)
    assert call.counters["ready-timeouts"] == 0

    call.service.set_away(3, call.clock.now(), away=False)
    call.service.set_away(99, call.clock.now(), away=True)
    call.join(5)
    call.run_for(1.0)
    assert call.counters["ready-timeouts"] == 0
    call.service.set_away(3, call.clock.now(), away=True)  # in the middle of a transition
    settle(call)


def come_back(call: Call, user_id: int, *, anew: bool) -> None:
    """A resume with the Session Description, which the client gets a little later."""
    call.service.set_away(user_id, call.clock.now(), away=True)
    call.service.set_away(user_id, call.clock.now(), away=False, described=True)
    if anew:
        call.clients[user_id].begin()  # its key package is under way


@pytest.mark.parametrize("anew", [True, False])
def test_who_may_be_beginning_anew_gets_no_proposal_before_it_is_known(anew: bool) -> None:
    call = call_of(3, (Davey,))
    come_back(call, 2, anew=anew)
    call.join(4)
    call.leave(3)
    settle(call)

    assert call.members() == {1, 2, 4}
    assert call.refused() == []


@pytest.mark.parametrize("anew", [True, False])
def test_nothing_is_revoked_from_who_may_be_beginning_anew(anew: bool) -> None:
    call = call_of(3, (Davey,))
    for client in call.clients.values():
        client.keeps = (MlsCommitWelcome,)
    call.join(4)
    call.run_for(0.9)
    come_back(call, 2, anew=anew)
    call.clients[2].outgoing, late = [], call.clients[2].outgoing
    call.run_for(0.3)  # the time to commit is over meanwhile
    assert call.counters["commit-timeouts"] == 0
    call.clients[2].outgoing = late
    for client in call.clients.values():
        client.keeps = ()
    call.flush()
    settle(call, within=1.5)

    assert call.members() == {1, 2, 3, 4}
    assert call.refused() == []


@pytest.mark.parametrize("leaver", [3, 4])
def test_a_commit_to_what_is_to_be_revoked_does_not_count(leaver: int) -> None:
    call = call_of(3, (Davey,))
    call.join(4)
    while not any(client.seen[-1:] == [27] for client in call.clients.values()):
        call.run_for(0.0005)
    come_back(call, 2, anew=False)
    call.leave(leaver)
    call.run_for(0.4)
    assert call.counters["commit-late"] > 0
    assert call.service.info.epoch == 1
    settle(call)

    assert call.members() == {1, 2, 3, 4} - {leaver}
    assert call.refused() == []


def test_who_may_be_beginning_anew_all_the_time_does_not_hold_up_the_others() -> None:
    call = call_of(3)
    call.join(4)
    for _ in range(20):
        come_back(call, 2, anew=False)
        call.run_for(0.1)

    assert call.members() == {1, 2, 3, 4}


def test_a_batch_waits_while_all_who_could_commit_are_away() -> None:
    call = call_of(2)
    for user_id in (1, 2):
        call.service.set_away(user_id, call.clock.now(), away=True)
        call.clients[user_id].keeps = (MlsCommitWelcome,)
    call.join(3)
    call.run_for(10.0)

    assert call.counters["commit-timeouts"] == 0
    assert call.service.info.epoch == 1


def test_a_flood_of_key_packages_costs_the_others_few_epochs() -> None:
    call = call_of(3)
    library = Davey(3)
    for _ in range(50):
        for _ in range(4):
            call.service.receive(3, MlsKeyPackage(library.begin()), call.clock.now())
        call.flush()
        call.run_for(0.1)

    assert call.counters["key-package-flood"] > 100
    assert call.service.info.epoch <= 2 * (4 + 5)  # four at once, one a second, removed again
    assert {1, 2} <= call.members()
    assert [*call.clients[1].refused, *call.clients[2].refused] == []


def test_the_last_key_package_of_a_flood_counts() -> None:
    call = call_of(3)
    for _ in range(20):
        call.clients[3].begin()
    call.flush()
    settle(call, within=8.0)

    assert call.counters["key-package-flood"] > 10
    assert call.members() == {1, 2, 3}


def test_a_flood_before_there_is_a_group_does_not_keep_the_others_from_making_one() -> None:
    call = Call()
    library = Davey(3)
    for user_id in (1, 2):
        call.join(user_id, MIXED[user_id % 2])
    call.service.join(3, 1, call.clock.now())
    for _ in range(100):
        call.service.receive(3, MlsKeyPackage(library.begin()), call.clock.now())
        call.flush()
        call.run_for(0.1)

    assert {1, 2} <= call.members()


def test_a_flood_of_commits_is_not_read() -> None:
    call = call_of(3)
    call.clients[1].keeps = call.clients[2].keeps = call.clients[3].keeps = (MlsCommitWelcome,)
    call.join(4)
    call.run_for(0.1)
    for _ in range(1000):
        call.service.receive(2, MlsCommitWelcome(bytes(500)), call.clock.now())

    assert call.counters["commit-malformed"] == 9
    assert call.counters["commit-flood"] == 991


def test_a_flood_of_op_31_costs_the_others_few_epochs() -> None:
    call = call_of(3)
    client = call.clients[3]
    for _ in range(200):
        client.send(InvalidCommitWelcome(0))
        if call.service.info.pending == ():
            client.begin()
        call.flush()
        call.run_for(0.05)

    assert call.service.info.epoch <= 2 * (4 + 10)
    assert call.counters["invalid-commit-unexpected"] > 100
    assert [*call.clients[1].refused, *call.clients[2].refused] == []


def test_strangers_and_users_without_encryption_are_not_listened_to() -> None:
    call = call_of(2)
    call.join(9, None)
    call.run()
    package = MlsKeyPackage(Davey(1).begin())
    for user_id in (9, 77, 1):  # user 1 was told that there is no encryption
        call.service.receive(user_id, package, call.clock.now())
    call.service.leave(77, call.clock.now())
    call.run()

    assert call.counters["dave-unexpected"] == 3
    assert call.service.messages_to_send() == []


def test_answers_to_no_question_are_counted() -> None:
    call = call_of(3)
    call.service.receive(1, TransitionReady(7), call.clock.now())
    call.join(4)
    call.clients[1].keeps = (TransitionReady,)
    while call.clients[2].seen[-1] != 29:
        call.run_for(0.002)
    call.run_for(0.05)
    for _ in range(2):
        call.service.receive(2, TransitionReady(1), call.clock.now())
    call.run()

    assert call.counters["ready-late"] >= 1
    assert call.counters["ready-unexpected"] >= 1


def test_transition_ids_are_never_used_twice_in_a_row() -> None:
    call = call_of(3)
    ids: list[int] = []
    client = call.clients[1]
    original = client.receive

    def receive(message: object) -> None:
        if isinstance(message, ExecuteTransition):
            ids.append(message.transition_id)
        original(message)  # type: ignore[arg-type]

    client.receive = receive  # type: ignore[method-assign]
    for user_id in range(4, 8):
        call.join(user_id)
        settle(call)

    assert ids[0] > 0
    assert all(later == earlier + 1 for earlier, later in pairwise(ids))


# Faults


def faulty_call() -> Call:
    return call_of(4, seed=1)


def test_lost_op_22_is_lost_for_everybody_or_for_one() -> None:
    call = faulty_call()
    call.faults.lose_execute()
    call.join(5)
    call.run()
    assert all(22 not in client.seen for client in call.clients.values())
    assert call.service.next_timeout() is None

    call.faults.lose_execute(user_id=2)
    call.join(6)
    call.run()
    assert 22 not in call.clients[2].seen
    assert 22 in call.clients[1].seen
    assert call.faults.counters["lost-execute"] == 2


def test_late_op_22_holds_up_what_comes_after_it() -> None:
    call = faulty_call()
    call.faults.delay_execute(1.5)
    call.join(5)
    call.run_for(0.2)
    call.join(6)
    call.run_for(1.2)
    assert 22 not in call.clients[1].seen
    assert 6 not in call.members()
    settle(call)


def test_an_altered_commit_is_recovered_from_by_everybody() -> None:
    call = faulty_call()
    call.faults.corrupt_commit()
    call.join(5)
    settle(call, within=3.0)

    assert call.counters["invalid-commit"] == 4
    assert call.members() == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("user_id", [1, 2, 3, 4])
def test_an_altered_commit_is_recovered_from_by_one(user_id: int) -> None:
    call = faulty_call()
    call.faults.corrupt_commit(user_id=user_id)
    call.leave(4 if user_id != 4 else 3)
    settle(call, within=3.0)

    assert call.counters["invalid-commit"] == 1
    assert len(call.clients[user_id].refused) == 1


@pytest.mark.parametrize("count", [1, 4])
def test_an_altered_welcome_is_recovered_from(count: int) -> None:
    call = call_of(count) if count > 1 else Call()
    if count == 1:
        call.join(1)
    call.faults.corrupt_welcome(user_id=9)
    call.faults.corrupt_welcome()
    call.join(5, Libdave)
    settle(call, within=3.0)

    assert call.faults.counters["corrupt-welcome"] == 1
    assert call.counters["invalid-commit"] == 1


@pytest.mark.parametrize("library", MIXED)
def test_a_lost_commit_or_welcome_shows_after_two_seconds(library: type[Davey | Libdave]) -> None:
    for lose in ("commit", "welcome"):
        call = faulty_call()
        if lose == "commit":
            call.faults.lose_commit()
        else:
            call.faults.lose_welcome()
        call.join(5, library)
        settle(call, within=3.0)

        assert call.faults.counters[f"lost-{lose}"] == 1
        assert call.counters["ready-timeouts"] == 1


def test_proposals_one_by_one_and_backwards() -> None:
    call = faulty_call()
    call.faults.proposals_out_of_order()
    call.join(5)
    call.run_for(0.005)
    call.join(6)
    call.join(7, Libdave)
    settle(call, within=3.0)

    assert call.faults.counters["proposals-out-of-order"] == 1
    assert call.refused() == []


def test_an_addition_before_a_removal_leaves_davey_without_a_welcome() -> None:
    call = call_of(3, (Davey,))
    for client in call.clients.values():
        client.keeps = (MlsCommitWelcome,)
    call.join(4, Davey)
    call.run_for(0.1)
    for client in call.clients.values():
        client.keeps = ()
    call.faults.proposals_out_of_order()
    call.leave(2)
    settle(call, within=3.0)

    assert call.faults.counters["proposals-out-of-order"] == 1
    assert call.counters["commit-without-welcome"] > 0
    assert call.counters["commit-timeouts"] == 1
    assert call.refused() == []


def test_proposals_after_their_commit() -> None:
    call = faulty_call()
    call.faults.proposals_out_of_order(after_commit=True)
    call.join(5)
    settle(call, within=3.0)

    assert call.faults.counters["proposals-after-commit"] == 1
    assert call.counters["invalid-commit"] == 1
    assert len(call.refused()) == 2  # the commit, and then the proposals


def test_held_proposals_come_before_they_are_revoked() -> None:
    call = faulty_call()
    call.faults.proposals_out_of_order(after_commit=True)
    for client in call.clients.values():
        client.keeps = (MlsCommitWelcome,)
    call.join(5)
    call.run_for(0.5)
    for client in call.clients.values():
        client.keeps = ()
    settle(call)

    assert call.refused() == []


def test_held_proposals_of_a_group_that_is_over_never_come() -> None:
    call = faulty_call()
    call.faults.proposals_out_of_order(after_commit=True)
    for client in call.clients.values():
        client.keeps = (MlsCommitWelcome,)
    call.join(5)
    call.run_for(0.5)
    call.join(9, None)
    call.run()
    for client in call.clients.values():
        client.keeps = ()
    call.leave(9)
    settle(call)

    assert call.refused() == []


# Everything at once


def churn(call: Call, steps: int, *, most: int = 8) -> None:
    """Joins, leaves and reconnects, most of them with no time in between."""
    newest = 100
    for step in range(steps):
        what, present = call.random.random(), list(call.clients)
        if len(present) < 2 or (what < 0.45 and len(present) < most):
            newest += 1
            call.join(newest, call.random.choice(MIXED))
        elif what < 0.85:
            call.leave(call.random.choice(present))
        else:
            user_id = call.random.choice(present)
            call.leave(user_id)
            call.join(user_id, call.random.choice(MIXED))
        call.run_for(call.random.choice([0.0, 0.0, 0.005, 0.02, 0.1]))
        if step % 10 == 9:
            call.run()
            call.check_quiet()


@pytest.mark.parametrize(("delay", "steps"), [(0.02, 100), (0.2, 100)])
def test_churn_ends_in_one_group_at_every_quiet_point(delay: float, steps: int) -> None:
    call = Call(seed=7, delay=delay)
    churn(call, steps)

    assert set(call.refused()) <= KNOWN_REFUSALS
    assert call.counters["ready-timeouts"] == 0


def test_churn_with_clients_that_answer_slower_than_they_are_waited_for() -> None:
    call = Call(seed=5, delay=1.5)
    churn(call, 60)

    assert call.counters["commit-timeouts"] > 0


def test_churn_in_which_clients_lose_their_group_whenever_they_like() -> None:
    call = Call(seed=11)
    for _ in range(12):
        churn(call, 5)
        for client in call.random.sample(list(call.clients.values()), len(call.clients) // 2):
            if client.version is not None:
                client.send(InvalidCommitWelcome(call.random.randrange(3)))
                client.begin()
        call.flush()
        call.run_for(call.random.choice([0.0, 0.03]))
    call.run()
    call.check_quiet()


@pytest.mark.parametrize("seed", [25, 130, 208])
def test_churn_with_resumes_replayed_commits_and_users_without_encryption(seed: int) -> None:
    call = Call(seed)
    commits: list[MlsCommitWelcome] = []
    away: set[int] = set()
    receive = call.service.receive

    def overhear(user_id: int, message: ClientMessage, now: float) -> None:
        if isinstance(message, MlsCommitWelcome):
            commits.append(message)
        receive(user_id, message, now)

    call.service.receive = overhear  # type: ignore[method-assign]
    for step in range(60):
        what, present = call.random.random(), list(call.clients)
        user_id = call.random.choice([*present, 9999])
        if what < 0.3 and len(present) < 7:
            call.join(1000 + step, call.random.choice([Davey, Libdave, Davey, Libdave, None]))
        elif what < 0.5 and user_id in call.clients:
            call.leave(user_id)
            away.discard(user_id)
        elif what < 0.65 and user_id in away:
            away.remove(user_id)
            able = call.clients[user_id].library is not None
            call.resume(user_id, anew=able and call.random.random() < 0.7)
        elif what < 0.65:
            away |= {user_id} & call.clients.keys()
            call.service.set_away(user_id, call.clock.now(), away=True)
        elif commits and what < 0.9:
            receive(user_id, call.random.choice(commits), call.clock.now())
            call.flush()
        call.run_for(call.random.choice([0.0, 0.0, 0.01, 0.05, 0.3]))
    for user_id in away:
        call.resume(user_id, anew=False)
    call.run()
    call.check_quiet()


def test_op_24_starts_everybody_over_when_nobody_knows_what_the_clients_have() -> None:
    call = Call()
    sessions = {1: Davey(1), 2: Davey(2)}
    for user_id, session in sessions.items():
        call.service.join(user_id, 1, 0.0)
        call.service.receive(user_id, MlsKeyPackage(session.begin()), 0.0)
    call.service.messages_to_send()
    for user_id, session in sessions.items():
        call.service.receive(user_id, MlsKeyPackage(session.begin()), 0.0)

    kinds = [(user_id, type(message)) for user_id, message in call.service.messages_to_send()]
    assert kinds[-2:] == [(1, PrepareEpoch), (2, PrepareEpoch)]
    assert call.counters["restarts"] == 1


def test_op_25_is_not_the_business_of_the_service_but_after_an_upgrade() -> None:
    call = Call()
    call.service.join(1, 1, 0.0)
    call.service.join(2, 0, 0.0)
    call.service.join(3, 1, 0.0)
    call.service.leave(2, 0.0)
    call.service.messages_to_send()
    call.service.handle_timeout(2.0)

    assert [
        user_id
        for user_id, message in call.service.messages_to_send()
        if isinstance(message, MlsExternalSender)
    ] == [3]
