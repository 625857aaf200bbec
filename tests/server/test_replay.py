from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.protocol.messages import ClientsConnect, HeartbeatAck, Hello, MlsProposals
from discord_rtc.server.replay import REPLAY_LIMIT, Output


def numbers(frames: list[str | bytes]) -> list[int | None]:
    """The seq of each frame, whichever kind it is."""
    return [
        int.from_bytes(frame[:2], "big")
        if isinstance(frame, bytes)
        else json.loads(frame).get("seq")
        for frame in frames
    ]


def said(count: int, *, version: int = 8, limit: int = REPLAY_LIMIT) -> Output:
    """An output whose client has been sent that many messages."""
    output = Output(version, limit=limit)
    for user_id in range(count):
        output.put(ClientsConnect((user_id,)))
    output.drain()
    return output


def resumed(output: Output, seq_ack: int, version: int = 8) -> list[str | bytes]:
    missed = output.missed(seq_ack, version)
    assert missed is not None
    output.attach(version, [], missed)
    return output.drain()


def test_json_and_binary_share_the_numbers_and_the_first_one_is_1() -> None:
    output = Output(8)
    output.put(Hello(1000))
    output.put(ClientsConnect((1,)))
    output.put(MlsProposals(b"p"))
    output.put(HeartbeatAck(5))
    assert numbers(output.drain()) == [None, 1, 2, None]


def test_below_version_8_json_has_no_number() -> None:
    output = Output(7)
    output.put(ClientsConnect((1,)))
    assert numbers(output.drain()) == [None]


def test_what_was_said_without_a_websocket_is_replayed_after_resumed() -> None:
    output = said(3)
    output.detach()
    output.put(ClientsConnect((77,)))
    assert (output.drain(), output.unread) == ([], 0)
    frames = resumed(output, 2)
    assert json.loads(frames[0]) == {"op": 9, "d": None}
    assert numbers(frames) == [None, 3, 4]
    output.put(ClientsConnect((78,)))
    assert numbers(output.drain()) == [5]


def test_replayed_messages_are_the_same_bytes_whatever_the_version_is_now() -> None:
    output = Output(8)
    output.put(ClientsConnect((1,)))
    before = output.drain()
    output.detach()
    assert resumed(output, 0, version=9)[1:] == before
    assert output.version == 9


def test_what_came_before_resume_on_the_new_websocket_comes_first() -> None:
    output = said(1)
    output.detach()
    output.attach(8, ["hello"], 0)
    frames = output.drain()
    assert frames[0] == "hello"
    assert len(frames) == 2


@pytest.mark.parametrize(
    ("count", "seq_ack", "missed"),
    [
        (0, -1, 0),
        (0, 0, 0),
        (3, 3, 0),
        (3, 2, 1),
        (3, 0, 3),  # numbers begin with 1
        (3, -1, 3),
        (3, 4, None),  # never used
        (3, 65_535, None),
        (600, 88, 512),
        (600, 87, None),  # gone
        (600, -1, None),
        (65_535, 65_535, 0),
        (65_536, 65_535, 1),  # number 0
        (65_536, 0, 0),
        (65_540, 65_535, 5),
        (65_540, 3, 1),
    ],
)
def test_what_is_missed_is_counted_across_the_wrap(
    count: int, seq_ack: int, missed: int | None
) -> None:
    output = said(count)
    assert output.missed(seq_ack, 8) == missed
    assert output.missed(seq_ack, 7) == 0  # no numbers, nothing to ask for


def test_messages_lost_while_away_are_counted() -> None:
    counters: Counter[str] = Counter()
    output = Output(8, counters=counters, limit=4)
    for user_id in range(10):
        output.put(ClientsConnect((user_id,)))
    assert counters == {}
    output.detach()
    output.put(ClientsConnect((11,)))
    output.put(ClientsConnect((12,)))
    assert counters == {"voice.replay-overflow": 2}
    assert output.missed(10, 8) == 2
    assert output.missed(7, 8) is None


@given(st.integers(0, 100), st.integers(0, 40), st.integers(0, 40))
def test_acknowledged_and_replayed_make_the_whole(before: int, lost: int, away: int) -> None:
    output = Output(8, limit=100)
    for _ in range(before):
        output.put(ClientsConnect(()))
    start = [seq for seq in numbers(output.drain()) if seq is not None]
    for _ in range(lost):
        output.put(ClientsConnect(()))
    unseen = numbers(output.drain())
    output.detach()
    for _ in range(away):
        output.put(ClientsConnect(()))
    frames = resumed(output, start[-1] if start else -1)
    assert numbers(frames)[1 : 1 + lost] == unseen
    assert len(frames) == 1 + lost + away
