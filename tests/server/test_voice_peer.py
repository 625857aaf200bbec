from __future__ import annotations

import json

from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.server.events import Closed, VoiceServerEvent
from discord_rtc.server.negotiation import Admission
from discord_rtc.server.session import SessionConfig, VoiceServerSession
from discord_rtc.server.voice_peer import Absences, VoicePeer
from discord_rtc.server.world import RoomKey, Ticket

MODE = "aead_aes256_gcm_rtpsize"
IDENTIFY = {"server_id": "1", "user_id": "2", "session_id": "s", "token": "t"}
SELECT = {"protocol": "udp", "data": {"address": "127.0.0.1", "port": 5, "mode": MODE}}


def admission(_identify: object) -> Admission:
    return Admission(500, "127.0.0.1", 40_000, "sha-256 AB", IceCredentials.generate)


def live_peer() -> VoicePeer:
    session = VoiceServerSession(8, SessionConfig((MODE,)), admission)
    session.open(100.0)
    for opcode, data in ((0, IDENTIFY), (1, SELECT)):
        session.receive_text(json.dumps({"op": opcode, "d": data}), 100.0)
    return VoicePeer(session, lambda: None, Ticket("t", "s", 2, RoomKey(1, 3)), browser=True)


def test_a_websocket_takes_over_all_that_another_one_was() -> None:
    old, new = live_peer(), live_peer()
    new.ticket, new.browser = None, False
    new.take_over(old)
    assert new.ticket == Ticket("t", "s", 2, RoomKey(1, 3))
    assert (new.occupant, new.channel, new.browser) == (None, None, True)
    assert old.ticket is None


def test_those_who_are_away_are_woken_one_by_one() -> None:
    ended: list[tuple[VoicePeer, VoiceServerEvent]] = []

    def drain(peer: VoicePeer) -> None:
        while (event := peer.session.next_event()) is not None:
            ended.append((peer, event))

    absences = Absences(drain)
    assert absences.next_timeout() is None
    first, second, third = live_peer(), live_peer(), live_peer()
    for when, peer in ((200.0, first), (205.0, second), (206.0, third)):
        peer.session.connection_lost(None, when)
        absences.add(peer)
    absences.discard(third)
    assert (first in absences, third in absences) == (True, False)
    assert absences.next_timeout() == 230.0
    ended.clear()
    absences.handle_timeout(229.0)
    assert [event for _, event in ended if isinstance(event, Closed)] == []
    absences.handle_timeout(230.0)
    over = [(peer, event) for peer, event in ended if isinstance(event, Closed)]
    assert over == [(first, Closed(None, "not resumed in time", expired=True))]
    assert absences.next_timeout() == 235.0


def test_a_websocket_is_closed_later_than_its_session() -> None:
    absences = Absences(lambda _peer: None)
    woken: list[str] = []
    first, second = live_peer(), live_peer()
    first.wake, second.wake = lambda: woken.append("first"), lambda: woken.append("second")
    absences.wake_later(first, 100.5)
    absences.wake_later(second, 100.2)
    assert first not in absences
    assert absences.next_timeout() == 100.2
    absences.handle_timeout(100.2)
    assert (woken, absences.next_timeout()) == (["second"], 100.5)
    absences.handle_timeout(101.0)
    assert (woken, absences.next_timeout()) == (["second", "first"], None)


def test_whose_websocket_is_only_being_closed_has_no_deadline_yet() -> None:
    absences = Absences(lambda _peer: None)
    peer = live_peer()
    peer.session.close(4015, "crashed")
    absences.add(peer)
    assert absences.next_timeout() is None
