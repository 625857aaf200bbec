"""What happens to protected datagrams before and after there is a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from discord_rtc.crypto.modes import create_cipher
from discord_rtc.transport.delivery import Delivery
from discord_rtc.transport.inbox import EARLY_DATAGRAMS, ProtectedInbox

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from discord_rtc.crypto.cipher import TransportCipher

    from .conftest import RecordingSink

MODE = "aead_aes256_gcm_rtpsize"


@pytest.fixture
def server() -> TransportCipher:
    return create_cipher(MODE, bytes(32), side="server")


@pytest.fixture
def inbox(drops: Counter[str], sink: RecordingSink) -> ProtectedInbox:
    delivery = Delivery(drops)
    delivery.attach(sink)
    return ProtectedInbox(delivery, drops)


def test_packets_are_told_apart_and_delivered(
    inbox: ProtectedInbox,
    server: TransportCipher,
    sink: RecordingSink,
    rtp: Callable[[int], bytes],
    report: bytes,
) -> None:
    inbox.unlock(create_cipher(MODE, bytes(32), side="client"))
    inbox.receive(server.protect_rtp(rtp(1)), 1.0)
    inbox.receive(server.protect_rtcp(report), 2.0)
    assert (sink.rtp_packets, sink.rtcp_packets) == ([rtp(1)], [report])
    assert sink.times == [1.0, 2.0]


def test_early_datagrams_wait_with_their_time_and_are_bounded(
    inbox: ProtectedInbox,
    server: TransportCipher,
    sink: RecordingSink,
    rtp: Callable[[int], bytes],
    drops: Counter[str],
) -> None:
    for number in range(EARLY_DATAGRAMS + 2):
        inbox.receive(server.protect_rtp(rtp(number)), float(number))
    assert sink.rtp_packets == []
    inbox.unlock(create_cipher(MODE, bytes(32), side="client"))
    assert sink.rtp_packets == [rtp(number) for number in range(EARLY_DATAGRAMS)]
    assert sink.times == [float(number) for number in range(EARLY_DATAGRAMS)]
    assert drops == {"early": 2}


def test_rejected_datagrams_are_counted_by_reason(
    inbox: ProtectedInbox,
    server: TransportCipher,
    sink: RecordingSink,
    rtp: Callable[[int], bytes],
    drops: Counter[str],
) -> None:
    inbox.unlock(create_cipher(MODE, bytes(32), side="client"))
    datagram = server.protect_rtp(rtp(1))
    inbox.receive(datagram, 0.0)
    inbox.receive(datagram, 0.0)
    inbox.receive(bytes((*datagram[:-5], 0, 0, 0, 0, 9)), 0.0)
    assert sink.rtp_packets == [rtp(1)]
    assert drops["replay"] == drops["bad-auth"] == 1


def test_cleared_datagrams_never_come(
    inbox: ProtectedInbox,
    server: TransportCipher,
    sink: RecordingSink,
    rtp: Callable[[int], bytes],
) -> None:
    inbox.receive(server.protect_rtp(rtp(1)), 0.0)
    inbox.clear()
    inbox.unlock(create_cipher(MODE, bytes(32), side="client"))
    assert sink.rtp_packets == []
