"""Properties 1 and 2 for ICE: identity, and a value, an error or a counter for any bytes."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.errors import MalformedPacket
from discord_rtc.ice.agent import IceTimings, LiteAgent
from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.ice.responder import LiteResponder
from discord_rtc.ice.stun import (
    MessageClass,
    build_error,
    build_request,
    build_success,
    is_stun,
    parse_stun,
    requested_ufrag,
)

SERVER = IceCredentials("serv", "the+password/of+server")
CLIENT = IceCredentials("client", "password+of+the/client")
COOKIE = bytes.fromhex("2112a442")

transactions = st.binary(min_size=12, max_size=12)
mapped = st.ip_addresses(v=4).map(lambda ip: f"::ffff:{ip}")
addresses = st.tuples(st.ip_addresses().map(str) | mapped, st.integers(0, 0xFFFF))
ice_text = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/")
passwords = ice_text.map(lambda text: ("p" * 22 + text)[:256])

known_types = (0x06, 0x08, 0x09, 0x0A, 0x20, 0x24, 0x25, 0x1C, 0x8022, 0x8028, 0x8029, 0x802A)
attributes = st.builds(
    lambda kind, value: (
        kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) & 3)
    ),
    st.sampled_from(known_types) | st.integers(0, 0xFFFF),
    st.binary(max_size=24) | st.sampled_from([b"serv:client", b"client:serv", bytes(20)]),
)
framed = st.builds(
    lambda kind, transaction, body: (
        kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + COOKIE + transaction + body
    ),
    st.sampled_from([0x0001, 0x0011, 0x0101, 0x0111]) | st.integers(0, 0x3FF),
    transactions,
    st.lists(attributes, max_size=40).map(b"".join) | st.binary(max_size=100),
)
good = st.one_of(
    st.builds(
        lambda transaction, nominate: build_request(
            transaction,
            username="serv:client",
            password=SERVER.password,
            priority=1,
            tie_breaker=2,
            use_candidate=nominate,
        ),
        transactions,
        st.booleans(),
    ),
    st.builds(build_success, transactions, addresses, st.just(SERVER.password)),
    st.builds(build_error, transactions, st.integers(300, 699)),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good message, or one with a byte changed or its end cut off."""
    data = bytearray(draw(good))
    for _ in range(draw(st.integers(0, 2))):
        data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
    return bytes(data[: draw(st.integers(0, len(data)) | st.just(len(data)))])


anything = st.binary(max_size=200) | framed | damaged()


@given(anything)
def test_any_bytes_give_a_message_or_a_typed_error(datagram: bytes) -> None:
    ufrag = requested_ufrag(datagram)
    assert ufrag is None or isinstance(ufrag, str)
    try:
        message = parse_stun(datagram)
    except MalformedPacket:
        return
    assert is_stun(datagram)
    assert len(message.transaction_id) == 12
    assert message.authentic("x" * 22) is False
    assert (message.error_code is not None) == (message.message_class is MessageClass.ERROR)
    if ufrag is not None and message.username is not None:
        assert message.username.startswith(f"{ufrag}:")


@given(
    transactions,
    st.text(min_size=1, max_size=100),
    passwords,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.booleans(),
)
def test_requests_come_back(
    transaction: bytes,
    username: str,
    password: str,
    priority: int,
    tie_breaker: int,
    nominate: bool,
) -> None:
    datagram = build_request(
        transaction,
        username=username,
        password=password,
        priority=priority,
        tie_breaker=tie_breaker,
        use_candidate=nominate,
    )
    request = parse_stun(datagram)
    assert request.message_class is MessageClass.REQUEST
    assert request.transaction_id == transaction
    assert request.username == username
    assert (request.priority, request.controlling) == (priority, tie_breaker)
    assert request.use_candidate is nominate
    assert request.unknown == ()
    assert request.authentic(password)
    assert not request.authentic(password + "x")


@given(transactions, addresses, passwords)
def test_successes_come_back(transaction: bytes, source: tuple[str, int], password: str) -> None:
    success = parse_stun(build_success(transaction, source, password))
    assert success.message_class is MessageClass.SUCCESS
    assert success.transaction_id == transaction
    assert success.authentic(password)
    ip = ip_address(source[0])
    seen = ip if isinstance(ip, IPv4Address) else ip.ipv4_mapped or ip
    assert success.xor_mapped_address == (str(seen), source[1])


@given(
    transactions,
    st.integers(300, 699),
    st.none() | passwords,
    st.lists(st.integers(0, 0xFFFF), max_size=20),
)
def test_errors_come_back(
    transaction: bytes, code: int, password: str | None, unknown: list[int]
) -> None:
    error = parse_stun(build_error(transaction, code, password=password, unknown=unknown))
    assert error.message_class is MessageClass.ERROR
    assert (error.transaction_id, error.error_code) == (transaction, code)
    assert error.authentic(password or "") is (password is not None)
    listed = error.attributes.get(0x000A, b"")
    assert [
        int.from_bytes(listed[at : at + 2], "big") for at in range(0, len(listed), 2)
    ] == unknown


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=22, max_size=22))
def test_any_randomness_makes_valid_credentials(ufrag: bytes, password: bytes) -> None:
    made = IceCredentials.generate({4: ufrag, 22: password}.__getitem__)
    assert (len(made.ufrag), len(made.password)) == (4, 22)


steps = st.lists(st.floats(0, 3) | anything | st.just("answer") | st.just("flush"), max_size=60)


@given(st.lists(st.tuples(anything, addresses), max_size=40))
def test_a_responder_takes_anything_and_only_checks_move_it(
    datagrams: list[tuple[bytes, tuple[str, int]]],
) -> None:
    responder = LiteResponder(SERVER)
    responder.set_remote("client")
    for datagram, source in datagrams:
        before = responder.address
        answer = responder.receive_datagram(datagram, source, 1.0)
        if responder.address != before:
            assert parse_stun(datagram).authentic(SERVER.password)
            assert responder.address == source
        if answer is not None:
            assert parse_stun(answer).transaction_id == datagram[8:20]
    checks = responder.counters["stun-checks"]
    assert (responder.address is None) == (responder.last_check is None) == (checks == 0)
    moved, limited = responder.counters["stun-moved"], responder.counters["stun-limited"]
    assert responder.counters.total() - moved - limited == len(datagrams)


@given(steps)
def test_an_agent_takes_anything_and_always_comes_to_an_end(
    steps: list[float | bytes | str],
) -> None:
    now = 1000.0
    timings = IceTimings(consent_timeout=8.0)
    agent = LiteAgent(CLIENT, timings=timings, random=Random(0))
    agent.start(SERVER, now, address=("192.0.2.1", 9))
    asked: list[bytes] = []
    events = []
    answered = False
    for step in steps:
        asked += agent.datagrams_to_send()
        if isinstance(step, bytes):
            agent.receive_datagram(step, now)
        elif isinstance(step, float):
            now += step
            agent.handle_timeout(now)
        elif step == "answer" and asked:
            transaction = asked[-1][8:20]
            agent.receive_datagram(
                build_success(transaction, ("192.0.2.7", 1), SERVER.password), now
            )
            answered = True
        due = agent.next_timeout()
        assert due is None or due <= now + max(timings.deadline, timings.consent_timeout)
    for _ in range(100):
        due = agent.next_timeout()
        if due is None:
            break
        agent.handle_timeout(max(due, now))
    while (event := agent.next_event()) is not None:
        events.append(type(event).__name__)
    assert agent.next_timeout() is None
    assert events == ["PathFailed"] or (answered and events == ["PathValid", "ConsentExpired"])
