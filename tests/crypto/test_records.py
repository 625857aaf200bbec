"""DTLS records are cut where they end, and only what a peer may send gets past the screen."""

from __future__ import annotations

import pytest

from discord_rtc.crypto.records import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    MAX_MESSAGE,
    MAX_RECORD,
    pack_records,
    screen_records,
)

CLIENT_HELLO, SERVER_HELLO, CERTIFICATE = 1, 2, 11


def record(
    kind: int,
    body: bytes,
    *,
    version: bytes = b"\xfe\xfd",
    epoch: int = 0,
    length: int | None = None,
) -> bytes:
    length = len(body) if length is None else length
    return (
        bytes([kind])
        + version
        + epoch.to_bytes(2, "big")
        + bytes(6)
        + length.to_bytes(2, "big")
        + body
    )


def message(
    kind: int,
    fragment: bytes,
    *,
    length: int | None = None,
    offset: int = 0,
    claimed: int | None = None,
) -> bytes:
    length = len(fragment) if length is None else length
    claimed = len(fragment) if claimed is None else claimed
    head = bytes([kind]) + length.to_bytes(3, "big") + bytes(2)
    return head + offset.to_bytes(3, "big") + claimed.to_bytes(3, "big") + fragment


def from_client(datagram: bytes) -> bytes:
    return screen_records(datagram, from_client=True)


HELLO = record(HANDSHAKE, message(CLIENT_HELLO, b"hello"), version=b"\xfe\xff")


def test_records_share_a_datagram_while_they_fit() -> None:
    records = [record(HANDSHAKE, bytes(n)) for n in (100, 200, 300, 50)]
    assert pack_records(b"".join(records), 700) == [b"".join(records[:3]), records[3]]
    assert pack_records(b"".join(records), 10_000) == [b"".join(records)]


def test_records_fill_a_datagram_to_the_last_byte() -> None:
    records = [record(HANDSHAKE, bytes(87)) for _ in range(4)]
    assert pack_records(b"".join(records), 200) == [records[0] * 2, records[2] * 2]
    assert pack_records(b"".join(records), 199) == records


def test_record_over_the_limit_stays_whole() -> None:
    large, small = record(HANDSHAKE, bytes(500)), record(HANDSHAKE, bytes(10))
    assert pack_records(small + large + small, 100) == [small, large, small]


def test_nothing_is_no_datagram() -> None:
    assert pack_records(b"", 100) == []


@pytest.mark.parametrize(
    "datagram",
    [
        HELLO,
        record(HANDSHAKE, message(CERTIFICATE, b"part", length=4000, offset=1200)),
        record(HANDSHAKE, message(15, b"") + message(16, b"key")),
        record(CHANGE_CIPHER_SPEC, b"\1") + record(HANDSHAKE, b"sealed", epoch=1),
        record(ALERT, b"\2\x28"),
        record(ALERT, b"\1\0"),
        record(ALERT, b"sealed", epoch=1),
        record(APPLICATION_DATA, b"sealed", epoch=1),
        record(APPLICATION_DATA, bytes(MAX_RECORD), epoch=1),
    ],
)
def test_what_a_client_may_send_passes_unchanged(datagram: bytes) -> None:
    assert from_client(datagram) == datagram


@pytest.mark.parametrize(
    ("kind", "client", "server"),
    [
        (0, False, False),  # HelloRequest: begins a renegotiation
        (1, True, False),
        (2, False, True),
        (3, False, True),
        (4, False, True),
        (11, True, True),
        (12, False, True),
        (13, False, True),
        (14, False, True),
        (15, True, False),
        (16, True, False),
        (20, False, False),  # Finished: never in the clear
        (22, False, True),
        (99, False, False),
    ],
)
def test_each_role_has_its_own_messages(kind: int, client: bool, server: bool) -> None:
    datagram = record(HANDSHAKE, message(kind, b"body"))
    assert bool(screen_records(datagram, from_client=True)) is client
    assert bool(screen_records(datagram, from_client=False)) is server


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x16",
        HELLO[:12],
        HELLO[:-1],
        record(HANDSHAKE, b""),
        record(HANDSHAKE, message(CLIENT_HELLO, b"hello"), version=b"\3\3"),
        record(HANDSHAKE, message(CLIENT_HELLO, b"hello"), version=b"\xfe\xfc"),
        record(HANDSHAKE, message(CLIENT_HELLO, b"hello"), length=1000),
        record(HANDSHAKE, message(CLIENT_HELLO, b"hello"), epoch=2),
        record(HANDSHAKE, message(CLIENT_HELLO, b"hello")[:11]),
        record(HANDSHAKE, message(CLIENT_HELLO, b"hello", claimed=6)),
        record(HANDSHAKE, message(CLIENT_HELLO, b"hello", length=4)),
        record(HANDSHAKE, message(CLIENT_HELLO, b"hello", length=20, offset=16)),
        record(HANDSHAKE, message(CLIENT_HELLO, b"hello", length=MAX_MESSAGE + 1)),
        record(HANDSHAKE, message(CLIENT_HELLO, b"hello") + b"rest"),
        record(HANDSHAKE, message(CLIENT_HELLO, b"hello") + message(SERVER_HELLO, b"")),
        record(CHANGE_CIPHER_SPEC, b"\2"),
        record(CHANGE_CIPHER_SPEC, b"\1\1"),
        record(ALERT, b"\1\x64"),  # a warning: no_renegotiation
        record(ALERT, b"\3\0"),
        record(ALERT, b"\2"),
        record(ALERT, b"\2\x28\0"),
        record(APPLICATION_DATA, b"in the clear"),
        record(24, b"heartbeat"),
        record(24, b"heartbeat", epoch=1),
        record(19, b"?", epoch=1),
        record(APPLICATION_DATA, bytes(MAX_RECORD + 1), epoch=1),
    ],
)
def test_anything_else_is_dropped(datagram: bytes) -> None:
    assert from_client(datagram) == b""


def test_good_records_beside_bad_ones_pass() -> None:
    bad = record(APPLICATION_DATA, b"in the clear")
    assert from_client(bad + HELLO + bad + HELLO + b"\x16garbage") == HELLO + HELLO
