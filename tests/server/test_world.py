from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.protocol.messages import Identify, Resume
from discord_rtc.server.world import Denial, RoomKey, Ticket, VoiceChange, VoiceRequest, World

ANN, BOB, EVE = 1, 2, 3
GUILD, LOUNGE, OFFICE = 10, 20, 21


def make_world(*refused_video: int) -> World:
    numbers = itertools.count()
    return World(
        grant_video=lambda user_id: user_id not in refused_video,
        new_token=lambda: f"token-{next(numbers)}",
    )


def join(world: World, user_id: int, channel_id: int | None = LOUNGE) -> VoiceChange:
    return world.update_voice(user_id, f"s{user_id}", VoiceRequest(GUILD, channel_id))


def issued(change: VoiceChange) -> Ticket:
    assert change.issued is not None
    return change.issued


def identify(ticket: Ticket, **changed: object) -> Identify:
    shown: dict[str, object] = {
        "server_id": ticket.server_id,
        "user_id": ticket.user_id,
        "session_id": ticket.session_id,
        "token": ticket.token,
    }
    return Identify(**{**shown, **changed})  # type: ignore[arg-type]  # wrong on purpose


def test_joining_makes_guild_and_channel_and_issues_a_ticket() -> None:
    world = make_world()
    change = join(world, ANN)
    assert change.previous is None
    assert (change.new_member, change.new_channel) == (True, True)
    assert issued(change) == Ticket("token-0", "s1", ANN, RoomKey(GUILD, LOUNGE))
    assert issued(change).server_id == GUILD
    assert world.state_of(GUILD, ANN) == change.state
    assert world.ticket_of(GUILD, ANN) == change.issued
    assert world.guilds[GUILD].channels == {LOUNGE: f"voice-{LOUNGE}"}


def test_a_second_user_finds_the_channel_there() -> None:
    world = make_world()
    join(world, ANN)
    change = join(world, BOB)
    assert (change.new_member, change.new_channel) == (True, False)
    assert {state.user_id for state in world.states_in(GUILD)} == {ANN, BOB}


def test_a_private_call_is_its_own_server() -> None:
    world = make_world()
    change = world.update_voice(ANN, "s1", VoiceRequest(None, 77))
    assert issued(change).server_id == 77
    assert (change.new_member, change.new_channel) == (False, False)
    assert dict(world.guilds) == {}


def test_a_change_of_flags_keeps_the_ticket() -> None:
    world = make_world()
    ticket = issued(join(world, ANN))
    world.claim(identify(ticket))
    muted = VoiceRequest(GUILD, LOUNGE, self_mute=True, self_deaf=True, flags=2)
    change = world.update_voice(ANN, "s1", muted)
    assert (change.issued, change.revoked) == (None, None)
    assert (change.state.self_mute, change.state.self_deaf, change.state.flags) == (True, True, 2)


def test_a_change_of_flags_while_connecting_keeps_the_ticket() -> None:
    world = make_world()
    join(world, ANN)
    change = world.update_voice(ANN, "s1", VoiceRequest(GUILD, LOUNGE, self_mute=True))
    assert change.issued is None


def test_the_same_request_again_gets_a_new_ticket_while_the_first_is_unused() -> None:
    world = make_world()
    first = issued(join(world, ANN))
    change = join(world, ANN)
    assert issued(change) != first
    assert change.revoked == first


def test_the_same_request_again_changes_nothing_in_a_live_session() -> None:
    world = make_world()
    world.claim(identify(issued(join(world, ANN))))
    assert join(world, ANN).issued is None


def test_any_request_after_the_voice_session_ended_gets_a_new_ticket() -> None:
    world = make_world()
    ticket = issued(join(world, ANN))
    world.claim(identify(ticket))
    world.release(ticket)
    change = world.update_voice(ANN, "s1", VoiceRequest(GUILD, LOUNGE, self_mute=True))
    assert issued(change) != ticket


def test_a_move_issues_a_new_ticket_and_revokes_the_old_one() -> None:
    world = make_world()
    first = issued(join(world, ANN))
    change = join(world, ANN, OFFICE)
    assert change.revoked == first
    assert issued(change).room == RoomKey(GUILD, OFFICE)
    assert (change.new_member, change.new_channel) == (False, True)


def test_another_gateway_session_takes_over() -> None:
    world = make_world()
    first = issued(join(world, ANN))
    world.claim(identify(first))
    change = world.update_voice(ANN, "other", VoiceRequest(GUILD, LOUNGE))
    assert change.revoked == first
    assert issued(change).session_id == "other"


def test_leaving_revokes_the_ticket() -> None:
    world = make_world()
    ticket = issued(join(world, ANN))
    change = join(world, ANN, None)
    assert change.revoked == ticket
    assert change.state.channel_id is None
    assert world.state_of(GUILD, ANN) is None
    assert world.ticket_of(GUILD, ANN) is None


def test_leaving_from_nowhere_concerns_only_oneself() -> None:
    world = make_world()
    join(world, BOB)
    change = join(world, ANN, None)
    assert (change.previous, change.revoked) == (None, None)
    assert world.audience(change) == {ANN}


def test_a_user_can_be_in_several_guilds() -> None:
    world = make_world()
    join(world, ANN)
    change = world.update_voice(ANN, "s1", VoiceRequest(11, 30))
    assert change.revoked is None
    assert world.state_of(GUILD, ANN) is not None


def test_the_end_of_a_gateway_session_leaves_all_its_channels() -> None:
    world = make_world()
    join(world, ANN)
    world.update_voice(ANN, "s1", VoiceRequest(11, 30))
    world.update_voice(ANN, "other", VoiceRequest(12, 40))
    join(world, BOB)
    changes = world.remove_session("s1")
    assert [change.state.guild_id for change in changes] == [GUILD, 11]
    assert all(change.revoked is not None for change in changes)
    assert world.state_of(12, ANN) is not None
    assert world.state_of(GUILD, BOB) is not None


def test_members_of_the_guild_are_told() -> None:
    world = make_world()
    join(world, ANN)
    world.update_voice(EVE, "s3", VoiceRequest(11, 30))
    assert world.audience(join(world, BOB)) == {ANN, BOB}


def test_participants_of_a_call_are_told_also_by_who_leaves_it() -> None:
    world = make_world()
    for user_id, channel_id in ((ANN, 77), (EVE, 78)):
        world.update_voice(user_id, f"s{user_id}", VoiceRequest(None, channel_id))
    joined = world.update_voice(BOB, "s2", VoiceRequest(None, 77))
    assert world.audience(joined) == {ANN, BOB}
    moved = world.update_voice(BOB, "s2", VoiceRequest(None, 78))
    assert world.audience(moved) == {ANN, BOB, EVE}
    left = world.update_voice(BOB, "s2", VoiceRequest(None, None))
    assert world.audience(left) == {BOB, EVE}


def test_video_is_refused_to_those_who_may_not() -> None:
    world = make_world(ANN)
    request = VoiceRequest(GUILD, LOUNGE, self_video=True)
    assert not world.update_voice(ANN, "s1", request).state.self_video
    assert world.update_voice(BOB, "s2", request).state.self_video


def test_guilds_for_everyone_are_seen_from_the_login_on() -> None:
    world = make_world()
    world.add_guild(GUILD, "open", {LOUNGE: "lounge"})
    world.update_voice(BOB, "s2", VoiceRequest(11, 30))
    assert [guild.name for guild in world.guilds_of(ANN)] == ["open"]
    assert [guild.guild_id for guild in world.guilds_of(BOB)] == [GUILD, 11]
    assert world.guilds[GUILD].members == {ANN, BOB}


def test_adding_a_guild_again_extends_it() -> None:
    world = make_world()
    join(world, ANN)
    world.add_guild(GUILD, "renamed", {OFFICE: "office"})
    assert world.guilds[GUILD].name == "renamed"
    assert world.guilds[GUILD].channels.keys() == {LOUNGE, OFFICE}
    assert world.guilds[GUILD].everyone


def test_a_ticket_opens_one_session() -> None:
    world = make_world()
    ticket = issued(join(world, ANN))
    assert world.claim(identify(ticket, channel_id=LOUNGE)) == ticket
    assert world.claim(identify(ticket)) is Denial.OVER
    world.release(ticket)
    assert world.claim(identify(ticket)) is Denial.OVER


@pytest.mark.parametrize(
    "changed", [{"token": "x"}, {"user_id": BOB}, {"server_id": LOUNGE}, {"channel_id": OFFICE}]
)
def test_a_wrong_token_user_server_or_channel_is_denied(changed: dict[str, object]) -> None:
    world = make_world()
    ticket = issued(join(world, ANN))
    assert world.claim(identify(ticket, **changed)) is Denial.NOT_YOURS
    assert world.claim(identify(ticket)) == ticket


def test_a_wrong_session_is_over() -> None:
    world = make_world()
    ticket = issued(join(world, ANN))
    assert world.claim(identify(ticket, session_id="old")) is Denial.OVER


def test_a_revoked_ticket_is_over_and_not_unknown() -> None:
    world = make_world()
    ticket = issued(join(world, ANN))
    join(world, ANN, OFFICE)
    assert world.claim(identify(ticket)) is Denial.OVER


def resume(ticket: Ticket, **changed: object) -> Resume:
    shown: dict[str, object] = {
        "server_id": ticket.server_id,
        "session_id": ticket.session_id,
        "token": ticket.token,
    }
    return Resume(**{**shown, **changed})  # type: ignore[arg-type]  # wrong on purpose


def live(world: World, user_id: int = ANN) -> Ticket:
    ticket = issued(join(world, user_id))
    world.claim(identify(ticket))
    return ticket


def test_a_session_is_resumed_with_its_ticket_as_often_as_it_takes() -> None:
    world = make_world()
    ticket = live(world)
    for _ in range(2):
        world.detach(ticket)
        assert world.resume(resume(ticket, channel_id=LOUNGE)) == (ticket, False)
    assert world.resume(resume(ticket)) == (ticket, False)  # the old websocket is still open


@pytest.mark.parametrize("changed", [{"token": "x"}, {"server_id": 5}, {"channel_id": OFFICE}])
def test_a_resume_with_a_wrong_token_server_or_channel_is_denied(
    changed: dict[str, object],
) -> None:
    world = make_world()
    ticket = live(world)
    world.detach(ticket)
    assert world.resume(resume(ticket, **changed)) is Denial.NOT_YOURS
    assert world.resume(resume(ticket, session_id="old")) is Denial.OVER
    assert world.resume(resume(ticket)) == (ticket, False)


def test_there_is_nothing_to_resume_before_a_session_or_after_it() -> None:
    world = make_world()
    ticket = issued(join(world, ANN))
    assert world.resume(resume(ticket)) is Denial.OVER
    world.claim(identify(ticket))
    world.detach(ticket)
    world.release(ticket)
    assert world.resume(resume(ticket)) is Denial.OVER


def test_who_identifies_again_after_losing_the_websocket_is_refused() -> None:
    world = make_world()
    ticket = live(world)
    world.detach(ticket)
    assert world.claim(identify(ticket)) is Denial.OVER


@pytest.mark.parametrize("muted", [False, True])
def test_another_request_repeats_the_ticket_of_a_lost_websocket(muted: bool) -> None:
    world = make_world()
    ticket = live(world)
    request = VoiceRequest(GUILD, LOUNGE, self_mute=muted)
    assert world.update_voice(ANN, "s1", request).repeated is None
    world.detach(ticket)
    for _ in range(2):
        change = world.update_voice(ANN, "s1", request)
        assert (change.repeated, change.issued, change.revoked) == (ticket, None, None)
    assert world.resume(resume(ticket)) == (ticket, True)
    assert world.resume(resume(ticket)) == (ticket, False)
    assert world.update_voice(ANN, "s1", request).repeated is None


def test_a_repeated_ticket_opens_a_new_session_as_well() -> None:
    world = make_world()
    ticket = live(world)
    world.detach(ticket)
    join(world, ANN)
    assert world.claim(identify(ticket)) == ticket
    assert world.claim(identify(ticket)) is Denial.OVER


def test_a_move_revokes_the_ticket_of_a_lost_websocket() -> None:
    world = make_world()
    ticket = live(world)
    world.detach(ticket)
    change = join(world, ANN, OFFICE)
    assert (change.revoked, change.repeated) == (ticket, None)
    assert issued(change) != ticket
    assert world.resume(resume(ticket)) is Denial.OVER


def test_very_old_tickets_are_forgotten() -> None:
    world = make_world()
    first = last = issued(join(world, ANN))
    for _ in range(300):
        last = issued(join(world, ANN))
    assert world.claim(identify(first)) is Denial.NOT_YOURS
    assert world.claim(identify(last)) == last


def test_a_user_whose_session_ended_long_ago_gets_another_ticket() -> None:
    world = make_world()
    first = live(world)
    world.release(first)
    for _ in range(300):
        join(world, BOB)
    change = join(world, ANN)
    assert (change.revoked, world.ticket_of(GUILD, ANN)) == (first, change.issued)
    assert world.claim(identify(issued(change))) == change.issued


def test_tokens_are_not_in_the_representation() -> None:
    world = make_world()
    shown = repr(join(world, ANN))
    assert "token-0" not in shown
    assert "s1" not in shown


def test_tokens_are_random_by_default() -> None:
    world = World()
    first = issued(join(world, ANN)).token
    assert len(first) == 32
    assert issued(join(world, ANN)).token != first
    assert world.update_voice(
        ANN, "s1", VoiceRequest(GUILD, LOUNGE, self_video=True)
    ).state.self_video


REQUESTS = st.builds(
    VoiceRequest,
    guild_id=st.sampled_from([None, 10, 11]),
    channel_id=st.sampled_from([None, 20, 21]),
    self_mute=st.booleans(),
)


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.sampled_from("abc"), REQUESTS, st.booleans()))
)
def test_whoever_is_in_a_channel_has_a_ticket_and_nobody_else(
    steps: list[tuple[int, str, VoiceRequest, bool]],
) -> None:
    world = make_world()
    open_tickets: set[str] = set()
    for user_id, session_id, request, claims in steps:
        change = world.update_voice(user_id, session_id, request)
        if change.revoked is not None:
            open_tickets.discard(change.revoked.token)
        ticket = world.ticket_of(request.guild_id, user_id)
        assert (ticket is None) == (change.state.channel_id is None)
        if ticket is not None:
            assert ticket.session_id == session_id
            assert ticket.room == RoomKey(request.guild_id, change.state.channel_id or 0)
            if claims and world.claim(identify(ticket)) == ticket:
                assert ticket.token not in open_tickets
                open_tickets.add(ticket.token)
