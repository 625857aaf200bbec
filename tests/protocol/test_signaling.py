"""Joining, moving and leaving through the main gateway."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from discord_rtc.errors import InvalidState
from discord_rtc.protocol.signaling import (
    MOVE_WINDOW,
    Disconnected,
    JoinSignaling,
    ServerAssigned,
    ServerUnavailable,
    SignalingEvent,
    TimedOut,
    VoiceCredentials,
    VoiceState,
    VoiceStateChanged,
)

OWN, GUILD, CHANNEL, ELSEWHERE = 1, 10, 100, 101
ENDPOINT = "c-ams20-20d36bc4.discord.media:2087"


class Account:
    """Plays the main gateway to one machine, by hand."""

    def __init__(self, guild_id: int | None = GUILD) -> None:
        self.guild_id = guild_id
        self.machine = JoinSignaling(OWN, guild_id)
        self.now = 50.0

    def join(self, channel_id: int = CHANNEL) -> None:
        self.machine.join(channel_id, now=self.now)
        self.machine.commands_to_send()

    def state(
        self, channel_id: int | None = CHANNEL, session_id: str = "s1", **fields: object
    ) -> None:
        data: dict[str, object] = {
            "user_id": str(OWN),
            "session_id": session_id,
            "channel_id": None if channel_id is None else str(channel_id),
        }
        if self.guild_id is not None:
            data["guild_id"] = str(self.guild_id)
        self.machine.receive_event("VOICE_STATE_UPDATE", data | fields, self.now)

    def server(self, token: str = "t1", endpoint: str | None = ENDPOINT, **fields: object) -> None:
        data: dict[str, object] = {
            "token": token,
            "endpoint": endpoint,
            "guild_id": None if self.guild_id is None else str(self.guild_id),
        }
        self.machine.receive_event("VOICE_SERVER_UPDATE", data | fields, self.now)

    def wait(self) -> None:
        """Longer than the other half of a move may take."""
        self.now += 1.0
        self.machine.handle_timeout(self.now)

    def events(self) -> list[SignalingEvent]:
        events = []
        while (event := self.machine.next_event()) is not None:
            events.append(event)
        return events

    def assigned(self) -> list[VoiceCredentials]:
        return [event.credentials for event in self.events() if isinstance(event, ServerAssigned)]


def connected(guild_id: int | None = GUILD) -> Account:
    account = Account(guild_id)
    account.join()
    account.state()
    account.server()
    account.events()
    return account


def credentials(
    token: str = "t1", session_id: str = "s1", channel_id: int = CHANNEL
) -> VoiceCredentials:
    return VoiceCredentials(ENDPOINT, token, session_id, OWN, GUILD, channel_id)


def own_state(channel_id: int = CHANNEL, **fields: bool) -> VoiceState:
    return VoiceState(OWN, "s1", channel_id, GUILD, **fields)


# Commands


def test_joining_sends_op_4() -> None:
    machine = JoinSignaling(OWN, 41771983423143937)
    machine.join(127121515262115840, now=0)
    vectors = json.loads(
        (Path(__file__).parents[1] / "vectors" / "gateway_events.json").read_text()
    )
    (example,) = (v["frame"] for v in vectors if v["name"] == "voice_state_update_command")
    assert machine.commands_to_send() == [(example["op"], example["d"] | {"self_video": False})]
    assert machine.commands_to_send() == []


def test_update_changes_only_what_is_named() -> None:
    account = connected()
    account.machine.join(
        CHANNEL, self_mute=True, self_deaf=True, self_video=True, flags=2, now=account.now
    )
    ((_, before),) = account.machine.commands_to_send()
    assert before == {
        "guild_id": "10",
        "channel_id": "100",
        "self_mute": True,
        "self_deaf": True,
        "self_video": True,
        "flags": 2,
    }
    account.machine.update(now=account.now)
    account.machine.update(self_mute=False, now=account.now)
    account.machine.update(self_deaf=False, self_video=False, flags=0, now=account.now)
    (_, same), (_, unmuted), (_, after) = account.machine.commands_to_send()
    assert same == before
    assert unmuted == before | {"self_mute": False}
    assert after == {
        "guild_id": "10",
        "channel_id": "100",
        "self_mute": False,
        "self_deaf": False,
        "self_video": False,
    }


def test_update_outside_a_channel_is_refused() -> None:
    with pytest.raises(InvalidState):
        JoinSignaling(OWN, GUILD).update(self_mute=True, now=0)


def test_leaving_sends_no_channel() -> None:
    account = connected()
    account.machine.leave(account.now)
    ((opcode, data),) = account.machine.commands_to_send()
    assert (opcode, data["guild_id"], data["channel_id"]) == (4, "10", None)
    assert account.machine.credentials is None
    account.state(None)
    assert account.events() == [Disconnected()]


# Joining


@pytest.mark.parametrize("server_first", [False, True])
def test_both_events_in_either_order_assign_a_server(server_first: bool) -> None:
    account = Account()
    account.join()
    if server_first:
        account.server()
        assert account.events() == []
        account.state()
    else:
        account.state()
        assert account.events() == [VoiceStateChanged(own_state())]
        account.server()
    assert ServerAssigned(credentials()) in account.events()
    assert account.machine.next_timeout() is None
    assert account.machine.credentials == credentials()


def test_the_last_of_each_event_counts() -> None:
    account = Account()
    account.join()
    account.server("t1")
    account.server("t2")
    account.state()
    assert account.assigned() == [credentials("t2")]


def test_events_of_others_do_not_concern_us() -> None:
    account = Account()
    account.join()
    account.state(user_id="999")
    account.state(guild_id="11")
    account.state(guild_id=None)
    account.server(guild_id="11")
    account.server(guild_id=None)
    account.machine.receive_event("MESSAGE_CREATE", {"user_id": 5}, account.now)
    assert account.events() == []


def test_events_without_a_wish_to_join_are_ignored() -> None:
    account = Account()
    account.state()
    account.server()
    account.state(None)
    assert account.events() == []
    assert account.machine.next_timeout() is None
    assert account.machine.credentials is None


def test_malformed_event_is_counted_not_raised() -> None:
    account = Account()
    account.join()
    account.state(session_id=5)  # type: ignore[arg-type] # what a broken gateway sends
    account.server(endpoint="")
    assert account.events() == []
    assert account.machine.drops == {
        "malformed VOICE_STATE_UPDATE": 1,
        "malformed VOICE_SERVER_UPDATE": 1,
    }


def test_attempt_without_answer_times_out() -> None:
    account = Account()
    account.join()
    assert account.machine.next_timeout() == account.now + 10
    account.machine.handle_timeout(account.now + 9.9)
    assert account.events() == []
    account.machine.handle_timeout(account.now + 10)
    assert account.events() == [TimedOut()]
    assert account.machine.next_timeout() is None
    account.machine.handle_timeout(account.now + 20)
    account.state()
    account.server()
    assert account.events() == []


def test_half_an_answer_times_out_too() -> None:
    account = Account()
    account.join()
    account.state()
    account.machine.handle_timeout(account.now + 10)
    assert account.events()[-1] == TimedOut()


def test_timeout_is_a_parameter() -> None:
    machine = JoinSignaling(OWN, GUILD, timeout=2.5)
    machine.join(CHANNEL, now=1)
    assert machine.next_timeout() == 3.5


def test_granted_and_refused_video_are_visible() -> None:
    account = connected()
    account.machine.update(self_video=True, now=account.now)
    account.state(self_video=True)
    account.state(self_video=False)
    assert account.events() == [
        VoiceStateChanged(own_state(self_video=True)),
        VoiceStateChanged(own_state()),
    ]


def test_voice_state_of_the_old_channel_does_not_complete_a_new_attempt() -> None:
    account = connected()
    account.join(ELSEWHERE)
    account.server("t2")
    account.state(CHANNEL, self_mute=True)
    assert account.assigned() == []
    account.state(ELSEWHERE)
    assert account.assigned() == [credentials("t2", channel_id=ELSEWHERE)]


# While connected


def test_mute_changes_the_state_but_not_the_server() -> None:
    account = connected()
    account.state(self_mute=True)
    assert account.events() == [VoiceStateChanged(own_state(self_mute=True))]


def test_new_token_at_the_same_endpoint_is_a_new_assignment() -> None:
    account = connected()
    account.server("t2")
    account.wait()
    assert account.events() == [ServerAssigned(credentials("t2"))]


def test_a_server_that_comes_unasked_is_taken_after_a_moment() -> None:
    account = connected()
    account.server("t2")
    assert account.events() == []
    assert account.machine.next_timeout() == account.now + MOVE_WINDOW
    account.machine.handle_timeout(account.now + MOVE_WINDOW - 0.01)
    assert account.events() == []
    account.wait()
    assert account.assigned() == [credentials("t2")]
    assert account.machine.next_timeout() is None


@pytest.mark.parametrize("server_first", [False, True])
def test_a_forced_move_is_assigned_with_its_new_channel(server_first: bool) -> None:
    account = connected()
    if server_first:
        account.server("t2")
    account.state(CHANNEL + 1)
    if not server_first:
        account.server("t2")
    assert account.assigned() == [credentials("t2", channel_id=CHANNEL + 1)]
    account.wait()
    assert account.events() == []


def test_a_mute_does_not_end_the_moment() -> None:
    account = connected()
    account.server("t2")
    account.state(self_mute=True)
    assert account.assigned() == []
    account.state(CHANNEL + 1)
    assert account.assigned() == [credentials("t2", channel_id=CHANNEL + 1)]


def test_repeated_voice_server_is_no_new_assignment() -> None:
    account = connected()
    account.server()
    assert account.events() == []


def test_newest_session_id_counts() -> None:
    account = connected()
    account.state(session_id="s2")
    assert account.machine.credentials == credentials(session_id="s2")
    account.server("t2")
    account.wait()
    assert account.assigned() == [credentials("t2", "s2")]


def test_endpoint_null_waits_without_a_timer() -> None:
    account = connected()
    account.server(endpoint=None)
    assert account.events() == [ServerUnavailable()]
    assert account.machine.next_timeout() is None
    assert account.machine.credentials is None
    account.now += 3600
    account.server()
    assert account.events() == [ServerAssigned(credentials())]


def test_endpoint_null_while_joining_waits_as_well() -> None:
    account = Account()
    account.join()
    account.server(endpoint=None)
    account.state()
    assert account.events() == [ServerUnavailable(), VoiceStateChanged(own_state())]
    assert account.machine.next_timeout() is None
    account.server()
    assert account.assigned() == [credentials()]


def test_forced_move_is_told_and_followed() -> None:
    account = connected()
    account.state(ELSEWHERE)
    assert account.events() == [VoiceStateChanged(own_state(ELSEWHERE))]
    account.server("t2")
    assert account.assigned() == [credentials("t2", channel_id=ELSEWHERE)]
    account.machine.update(self_mute=True, now=account.now)
    ((_, data),) = account.machine.commands_to_send()
    assert data["channel_id"] == str(ELSEWHERE)


def test_move_that_fails_leaves_us_where_we_were() -> None:
    account = connected()
    account.join(ELSEWHERE)
    account.machine.handle_timeout(account.now + 10)
    assert account.events() == [TimedOut()]
    account.machine.update(now=account.now)
    ((_, data),) = account.machine.commands_to_send()
    assert data["channel_id"] == str(CHANNEL)
    assert account.machine.credentials == credentials()


def test_rejoin_of_the_same_channel_waits_for_fresh_events() -> None:
    account = connected()
    account.join()
    account.state()
    assert account.assigned() == []
    account.server("t1")
    assert account.assigned() == [credentials("t1")]


def test_kick_disconnects() -> None:
    account = connected()
    account.state(None)
    assert account.events() == [Disconnected()]
    assert account.machine.credentials is None
    account.server("t2")
    assert account.events() == []


def test_kick_while_joining_ends_the_attempt() -> None:
    account = Account()
    account.join()
    account.state()
    account.events()
    account.state(None)
    assert account.events() == [Disconnected()]
    assert account.machine.next_timeout() is None


def test_what_was_left_before_this_machine_existed_does_not_disturb_its_attempt() -> None:
    account = Account()
    account.join()
    account.state(None)  # the echo of an earlier connection's leaving
    account.state()
    account.server()
    assert account.assigned() == [credentials()]


def test_echo_of_leaving_does_not_disturb_the_next_attempt() -> None:
    account = connected()
    account.machine.leave(account.now)
    account.join(ELSEWHERE)
    account.state(None)
    account.state(ELSEWHERE)
    account.server("t2")
    assert account.assigned() == [credentials("t2", channel_id=ELSEWHERE)]
    account.state(None)
    assert account.events() == [Disconnected()]


# Private calls


def test_private_call_is_its_own_server() -> None:
    account = Account(None)
    account.machine.join(CHANNEL, now=account.now)
    ((_, data),) = account.machine.commands_to_send()
    assert data["guild_id"] is None
    account.server("t9", channel_id="555")
    account.server("t1", channel_id=str(CHANNEL))
    account.state(guild_id=None)
    assert account.assigned() == [VoiceCredentials(ENDPOINT, "t1", "s1", OWN, CHANNEL, CHANNEL)]


def test_private_call_accepts_a_server_without_channel() -> None:
    account = connected(None)
    account.server("t2")
    assert account.assigned()[0].token == "t2"


# Bounds


def test_caller_that_never_drains_loses_the_oldest() -> None:
    account = connected()
    for _ in range(257):
        account.state()
        account.machine.update(now=account.now)
    assert account.machine.drops == {"event-overflow": 1, "command-overflow": 1}
    assert len(account.events()) == 256


def test_credentials_show_no_secret() -> None:
    assert "hunter2" not in repr(ServerAssigned(credentials("hunter2", "hunter2")))
