"""Every change is told once."""

from __future__ import annotations

from discord_rtc.protocol.dave.events import DaveEvent, Sending, SendingChanged, StateChanged
from discord_rtc.protocol.dave.status import Status

CODE = "090606058512110636351516066685"  # of 32 bytes 00 to 1f; protocol reference, A.2


def events(status: Status) -> list[DaveEvent]:
    return status.events.drain()


def test_it_begins_off_and_waiting() -> None:
    status = Status()
    assert (status.state, status.privacy_code, status.sending) == ("off", None, Sending.WAIT)


def test_a_state_is_told_once_and_again_with_another_code() -> None:
    status = Status()
    status.set_state("off")
    status.set_state("active", authenticator=bytes(range(32)))
    status.set_state("active", authenticator=bytes(range(32)))
    status.set_state("active", authenticator=bytes(32))
    status.set_state("pending", reason="a commit was bad")
    assert events(status) == [
        StateChanged("active", CODE, None),
        StateChanged("active", "0" * 30, None),
        StateChanged("pending", None, "a commit was bad"),
    ]


def test_frames_after_a_wait_are_fresh_also_when_they_were_held_in_between() -> None:
    status = Status()
    for sending in (Sending.WAIT, Sending.HOLD, Sending.ENCRYPT, Sending.ENCRYPT):
        status.set_sending(sending)
    assert events(status) == [
        SendingChanged(Sending.HOLD, fresh=False),
        SendingChanged(Sending.ENCRYPT, fresh=True),
    ]


def test_frames_after_a_mere_hold_are_not_fresh() -> None:
    status = Status()
    for sending in (Sending.CLEAR, Sending.WAIT, Sending.ENCRYPT, Sending.HOLD, Sending.ENCRYPT):
        status.set_sending(sending)
    status.set_sending(Sending.CLEAR)
    told = [
        (event.sending, event.fresh)
        for event in events(status)
        if isinstance(event, SendingChanged)
    ]
    assert told == [
        (Sending.CLEAR, True),
        (Sending.WAIT, False),
        (Sending.ENCRYPT, True),
        (Sending.HOLD, False),
        (Sending.ENCRYPT, False),
        (Sending.CLEAR, False),
    ]
