"""STUN messages: the vectors of RFC 5769, strictness, and what we write ourselves."""

from __future__ import annotations

import hmac
from zlib import crc32

import pytest

from discord_rtc.errors import MalformedPacket
from discord_rtc.ice.stun import (
    BINDING,
    MAX_ATTRIBUTES,
    MessageClass,
    build_error,
    build_request,
    build_success,
    is_stun,
    parse_stun,
    requested_ufrag,
)

PASSWORD = "VOkJxbRl1RmTxUk/WvJxBt"
TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")

# RFC 5769 section 2.1: sample request, with SOFTWARE and padding that is not zero
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae"
    "802200105354554e207465737420636c69656e74"
    "002400046e0001ff"
    "80290008932ff9b151263b36"
    "000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
    "80280004e57a3bcf"
)
# RFC 5769 section 2.2: sample IPv4 response
RESPONSE_IPV4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
# RFC 5769 section 2.3: sample IPv6 response
RESPONSE_IPV6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)
VECTORS = [REQUEST, RESPONSE_IPV4, RESPONSE_IPV6]


def attribute(kind: int, value: bytes, *, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    return kind.to_bytes(2, "big") + size.to_bytes(2, "big") + value + bytes(-len(value) & 3)


def message(*attributes: bytes, kind: int = 1) -> bytes:
    """A message with neither integrity nor fingerprint."""
    body = b"".join(attributes)
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + REQUEST[4:20] + body


def fingerprinted(*before: bytes, after: bytes = b"") -> bytes:
    """The same with a fingerprint that fits what is before it."""
    draft = message(*before, attribute(0x8028, bytes(4)), after)[: -8 - len(after)]
    return draft + attribute(0x8028, (crc32(draft) ^ 0x5354554E).to_bytes(4, "big")) + after


def test_sample_request_is_read() -> None:
    request = parse_stun(REQUEST)
    assert request.message_class is MessageClass.REQUEST
    assert request.method == BINDING
    assert request.transaction_id == TRANSACTION
    assert request.username == "evtj:h6vY"
    assert request.priority == 0x6E0001FF
    assert request.controlled == 0x932FF9B151263B36
    assert request.controlling is None
    assert not request.use_candidate
    assert request.unknown == ()  # SOFTWARE is optional
    assert request.attributes[0x8022] == b"STUN test client"
    assert requested_ufrag(REQUEST) == "evtj"


@pytest.mark.parametrize(
    ("response", "host"),
    [(RESPONSE_IPV4, "192.0.2.1"), (RESPONSE_IPV6, "2001:db8:1234:5678:11:2233:4455:6677")],
)
def test_sample_responses_are_read(response: bytes, host: str) -> None:
    success = parse_stun(response)
    assert success.message_class is MessageClass.SUCCESS
    assert success.transaction_id == TRANSACTION
    assert success.xor_mapped_address == (host, 32853)
    assert (success.username, success.error_code, success.priority) == (None, None, None)
    assert requested_ufrag(response) is None


@pytest.mark.parametrize("vector", VECTORS)
def test_samples_authenticate_with_their_password_only(vector: bytes) -> None:
    sample = parse_stun(vector)
    assert sample.authentic(PASSWORD)
    assert not sample.authentic(PASSWORD[:-1])
    assert not sample.authentic("")


@pytest.mark.parametrize("vector", VECTORS)
def test_every_truncation_is_malformed(vector: bytes) -> None:
    for length in range(len(vector)):
        with pytest.raises(MalformedPacket):
            parse_stun(vector[:length])
    with pytest.raises(MalformedPacket):
        parse_stun(vector + bytes(4))


@pytest.mark.parametrize("vector", VECTORS)
def test_every_change_is_malformed_or_does_not_touch_what_is_signed(vector: bytes) -> None:
    passed = 0
    for position in range(len(vector)):
        for bit in range(8):
            data = bytearray(vector)
            data[position] ^= 1 << bit
            try:
                changed = parse_stun(bytes(data))
            except MalformedPacket:
                continue
            # only the type of the fingerprint may change: then there is none, and the rest is whole
            assert len(vector) - 8 <= position < len(vector) - 6
            assert changed.authentic(PASSWORD)
            passed += 1
    assert passed


@pytest.mark.parametrize("vector", VECTORS)
def test_without_fingerprint_integrity_still_counts(vector: bytes) -> None:
    whole = vector[:2] + (len(vector) - 28).to_bytes(2, "big") + vector[4:-8]
    assert parse_stun(whole).authentic(PASSWORD)
    broken = whole[:-1] + bytes([whole[-1] ^ 1])
    assert not parse_stun(broken).authentic(PASSWORD)


def test_a_message_without_integrity_never_authenticates() -> None:
    bare = parse_stun(message(attribute(0x0006, b"a:b")))
    assert bare.signed is None
    assert not bare.authentic("")


def test_what_follows_integrity_does_not_count() -> None:
    draft = message(attribute(0x0006, b"a:b"), attribute(0x0008, bytes(20)))[:-24]
    tag = attribute(0x0008, hmac.digest(PASSWORD.encode(), draft, "sha1"))
    late = attribute(0x0025, b"") + attribute(0x0024, b"wrong length") + attribute(0x7F00, b"")
    length = len(draft) - 20 + len(tag) + len(late)
    read = parse_stun(draft[:2] + length.to_bytes(2, "big") + draft[4:] + tag + late)
    assert read.authentic(PASSWORD)
    assert read.username == "a:b"
    assert not read.use_candidate
    assert read.unknown == ()


def test_of_an_attribute_given_twice_the_first_counts() -> None:
    read = parse_stun(message(attribute(0x0006, b"a:b"), attribute(0x0006, b"c:d")))
    assert read.username == "a:b"


def test_unknown_attributes_that_must_be_understood_are_listed() -> None:
    read = parse_stun(
        message(attribute(0x7FFF, b"x"), attribute(0x8000, b"y"), attribute(0x001C, bytes(32)))
    )
    assert read.unknown == (0x7FFF, 0x001C)


@pytest.mark.parametrize(
    ("kind", "message_class", "method"),
    [
        (0x0001, MessageClass.REQUEST, 1),
        (0x0011, MessageClass.INDICATION, 1),
        (0x0101, MessageClass.SUCCESS, 1),
        (0x0003, MessageClass.REQUEST, 3),  # TURN: Allocate
        (0x0017, MessageClass.INDICATION, 7),  # TURN: Data
        (0x02EF, MessageClass.REQUEST, 0xFF),  # the most that a first byte below 4 can say
    ],
)
def test_class_and_method_are_told_apart(
    kind: int, message_class: MessageClass, method: int
) -> None:
    read = parse_stun(message(kind=kind))
    assert (read.message_class, read.method) == (message_class, method)


@pytest.mark.parametrize(
    ("datagram", "complaint"),
    [
        (b"", "not STUN"),
        (bytes(20), "not STUN"),
        (REQUEST[:19], "not STUN"),
        (b"\x40" + REQUEST[1:], "not STUN"),
        (REQUEST[:3] + b"\x54" + REQUEST[4:], "another length"),
        (message()[:3] + b"\x02" + message()[4:] + b"ab", "another length"),
        (message(attribute(0x0006, b"a:b", length=5)), "behind the end"),
        (message(attribute(0x8022, b"", length=0xFFFF)), "behind the end"),
        (message(attribute(0x8028, bytes(4))), "FINGERPRINT"),
        (message(attribute(0x8028, b"")), "FINGERPRINT"),
        (message(attribute(0x0008, bytes(19))), "INTEGRITY"),
        (message(attribute(0x0008, bytes(32))), "INTEGRITY"),
        (message(attribute(0x0006, b"\xff:b")), "UTF-8"),
        (message(attribute(0x0024, bytes(3))), "0x0024"),
        (message(attribute(0x0025, bytes(4))), "0x0025"),
        (message(attribute(0x8029, bytes(4))), "0x8029"),
        (message(attribute(0x802A, bytes(9))), "0x802a"),
        (message(attribute(0x0020, bytes(3))), "IP address"),
        (message(attribute(0x0020, b"\0\1" + bytes(18))), "IP address"),
        (message(attribute(0x0020, b"\0\2" + bytes(6))), "IP address"),
        (message(attribute(0x0020, b"\0\3" + bytes(6))), "IP address"),
        (message(kind=0x0111), "error code"),
        (message(attribute(0x0009, b"\0\0\4"), kind=0x0111), "error code"),
        (message(attribute(0x0009, b"\0\0\2\1"), kind=0x0111), "error code"),
        (message(attribute(0x0009, b"\0\0\7\1"), kind=0x0111), "error code"),
        (message(attribute(0x0009, b"\0\0\4\x64"), kind=0x0111), "error code"),
    ],
)
def test_strict_about_form(datagram: bytes, complaint: str) -> None:
    with pytest.raises(MalformedPacket, match=complaint):
        parse_stun(datagram)


def test_the_fingerprint_is_the_last_attribute() -> None:
    username = attribute(0x0006, b"a:b")
    assert parse_stun(fingerprinted(username)).username == "a:b"
    with pytest.raises(MalformedPacket, match="FINGERPRINT"):
        parse_stun(fingerprinted(username, after=attribute(0x8022, b"")))


def test_a_flood_of_attributes_is_refused() -> None:
    full = message(*[attribute(0x8022, b"")] * MAX_ATTRIBUTES)
    assert parse_stun(full).attributes == {0x8022: b""}
    with pytest.raises(MalformedPacket, match="too many"):
        parse_stun(message(*[attribute(0x8022, b"")] * (MAX_ATTRIBUTES + 1)))


def test_only_what_carries_the_cookie_is_stun() -> None:
    assert is_stun(REQUEST)
    assert is_stun(message())
    assert not is_stun(bytes.fromhex("0001004611223344") + bytes(66))  # IP discovery
    assert is_stun(b"\x03" + REQUEST[1:])  # RFC 7983: 0 to 3
    assert not is_stun(b"\x04" + REQUEST[1:])
    assert not is_stun(b"\x80" + REQUEST[1:])  # RTP
    assert not is_stun(b"\x16" + REQUEST[1:])  # DTLS
    assert not is_stun(b"")


@pytest.mark.parametrize(
    ("datagram", "ufrag"),
    [
        (message(attribute(0x8022, b"x"), attribute(0x0006, b"ours:theirs")), "ours"),
        (message(attribute(0x0006, b"ours:")), "ours"),
        (message(attribute(0x0006, b":theirs")), ""),
        (message(attribute(0x0006, b"ours")), None),
        (message(attribute(0x0006, b"\xc3\xa4:b")), None),
        (message(attribute(0x0006, b"\xff:b")), None),
        (message(attribute(0x0006, b"ours:theirs", length=400)), "ours"),
        (message(attribute(0x8022, b"", length=400), attribute(0x0006, b"ours:theirs")), None),
        (message(), None),
        (message(b"\0\6\0"), None),
        (message(attribute(0x0006, b"a:b"), kind=0x0101), None),
        (message(*[attribute(0x8022, b"")] * MAX_ATTRIBUTES, attribute(0x0006, b"a:b")), None),
        (bytes(74), None),
        (b"", None),
    ],
)
def test_the_addressed_fragment_is_found_without_a_parse(
    datagram: bytes, ufrag: str | None
) -> None:
    assert requested_ufrag(datagram) == ufrag


def test_a_request_comes_back() -> None:
    datagram = build_request(
        TRANSACTION,
        username="theirs:ours",
        password=PASSWORD,
        priority=0x6EFFFFFF,
        tie_breaker=2**64 - 1,
        use_candidate=True,
    )
    request = parse_stun(datagram)
    assert request.message_class is MessageClass.REQUEST
    assert request.method == BINDING
    assert request.transaction_id == TRANSACTION
    assert request.username == "theirs:ours"
    assert request.priority == 0x6EFFFFFF
    assert request.controlling == 2**64 - 1
    assert request.controlled is None
    assert request.use_candidate
    assert request.authentic(PASSWORD)
    assert not request.authentic(PASSWORD + "x")
    assert requested_ufrag(datagram) == "theirs"
    assert PASSWORD not in repr(request)


def test_a_request_may_nominate_nothing() -> None:
    datagram = build_request(
        TRANSACTION, username="a:b", password=PASSWORD, priority=1, tie_breaker=2
    )
    assert not parse_stun(datagram).use_candidate


def test_we_write_the_addresses_of_the_samples_byte_for_byte() -> None:
    ipv4 = build_success(TRANSACTION, ("192.0.2.1", 32853), PASSWORD)
    assert ipv4[20:32] == RESPONSE_IPV4[36:48]
    ipv6 = build_success(TRANSACTION, ("2001:db8:1234:5678:11:2233:4455:6677", 32853), PASSWORD)
    assert ipv6[20:44] == RESPONSE_IPV6[36:60]


def test_we_sign_as_the_samples_are_signed() -> None:
    # ours differ from the samples in SOFTWARE only, which we do not send: so the same rule must
    # give the last 32 bytes of all of them
    ours = build_success(TRANSACTION, ("192.0.2.1", 32853), PASSWORD)
    for vector in (ours, *VECTORS):
        covered = vector[:2] + (len(vector) - 28).to_bytes(2, "big") + vector[4:-32]
        assert vector[-28:-8] == hmac.digest(PASSWORD.encode(), covered, "sha1")
        assert vector[-4:] == (crc32(vector[:-8]) ^ 0x5354554E).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),  # as a socket for both versions shows it
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_a_success_tells_the_source(source: str, seen: str) -> None:
    success = parse_stun(build_success(TRANSACTION, (source, 50_000), PASSWORD))
    assert success.message_class is MessageClass.SUCCESS
    assert success.xor_mapped_address == (seen, 50_000)
    assert success.authentic(PASSWORD)


def test_an_error_before_authentication_is_not_signed() -> None:
    datagram = build_error(TRANSACTION, 401)
    error = parse_stun(datagram)
    assert error.message_class is MessageClass.ERROR
    assert error.error_code == 401
    assert error.signed is None
    assert error.attributes[0x0009] == b"\0\0\4\1Unauthenticated"
    assert datagram[-8:-4] == b"\x80\x28\0\4"


def test_an_error_after_authentication_is_signed() -> None:
    error = parse_stun(build_error(TRANSACTION, 420, password=PASSWORD, unknown=(0x7FFF, 0x001C)))
    assert error.error_code == 420
    assert error.authentic(PASSWORD)
    assert error.attributes[0x000A] == b"\x7f\xff\0\x1c"


def test_an_error_without_a_known_phrase_is_just_its_code() -> None:
    error = parse_stun(build_error(TRANSACTION, 699))
    assert error.error_code == 699
    assert error.attributes[0x0009] == b"\0\0\6\x63"


def test_an_error_code_on_something_else_is_ignored() -> None:
    assert parse_stun(message(attribute(0x0009, b"\0\0\4\1"))).error_code is None
