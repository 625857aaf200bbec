"""Two ends agree on keys or say why not, whatever is lost, repeated or thrown in between."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from discord_rtc.crypto.certificate import Certificate, Fingerprint
from discord_rtc.crypto.dtls import (
    MAX_UNSENT,
    MIN_MTU,
    PROFILES,
    REPEATS,
    DtlsEndpoint,
    DtlsEvent,
    HandshakeFailed,
    KeysAgreed,
    PeerClosed,
    describe_failure,
    is_dtls,
)
from discord_rtc.crypto.srtp import SrtpProfile
from discord_rtc.errors import InvalidState, MalformedSdp, UsageError

CLIENT, SERVER = Certificate.generate(), Certificate.generate()

Lose = Callable[[str, int], bool]
"""Sender's role and running number of a datagram; whether it gets lost."""


def nothing(_sender: str, _number: int) -> bool:
    return False


@dataclass
class Pair:
    """A client, a server and the path between them, which loses what it is told to."""

    client: DtlsEndpoint
    server: DtlsEndpoint
    lose: Lose = nothing
    sent: dict[str, list[bytes]] = field(default_factory=lambda: {"client": [], "server": []})

    def start(self, now: float = 0) -> None:
        self.server.start(now)
        self.client.start(now)

    def exchange(self, now: float = 0) -> None:
        """Carry datagrams until there are none."""
        while self.carry("client", now) | self.carry("server", now):
            pass

    def carry(self, sender: str, now: float = 0) -> bool:
        source, target = self.client, self.server
        if sender == "server":
            source, target = target, source
        datagrams = source.datagrams_to_send()
        for datagram in datagrams:
            number = len(self.sent[sender])
            self.sent[sender].append(datagram)
            if not self.lose(sender, number):
                target.receive_datagram(datagram, now)
        return bool(datagrams)

    def run_clock(self, until: float = 10) -> float:
        """Go from timeout to timeout of our own clock; return when the last one was."""
        now = 0.0
        self.exchange(now)
        while True:
            times = [end.next_timeout() for end in (self.client, self.server)]
            following = min((time for time in times if time is not None), default=until)
            if following >= until:
                return now
            now = following
            for end in (self.client, self.server):
                due = end.next_timeout()
                if due is not None and due <= now:
                    end.handle_timeout(now)
            self.exchange(now)

    def events(self) -> list[list[DtlsEvent]]:
        return [drain(self.client), drain(self.server)]


def drain(end: DtlsEndpoint) -> list[DtlsEvent]:
    return list(iter(end.next_event, None))


def make_pair(
    *,
    lose: Lose = nothing,
    expected_client: str = CLIENT.fingerprint,
    expected_server: str = SERVER.fingerprint,
    client_profiles: tuple[SrtpProfile, ...] = PROFILES,
    server_profiles: tuple[SrtpProfile, ...] = PROFILES,
    mtu: int = 1200,
) -> Pair:
    client = DtlsEndpoint(
        CLIENT, client=True, fingerprints=[expected_server], profiles=client_profiles, mtu=mtu
    )
    server = DtlsEndpoint(
        SERVER, client=False, fingerprints=[expected_client], profiles=server_profiles, mtu=mtu
    )
    return Pair(client, server, lose)


def connect(**options: object) -> Pair:
    pair = make_pair(**options)  # type: ignore[arg-type]
    pair.start()
    pair.exchange()
    return pair


def agreed(pair: Pair) -> KeysAgreed:
    """The one event that both ends have."""
    (ours,), (theirs,) = pair.events()
    assert isinstance(ours, KeysAgreed)
    assert ours == theirs
    return ours


def failures(pair: Pair) -> tuple[str, str]:
    (ours,), (theirs,) = pair.events()
    assert isinstance(ours, HandshakeFailed)
    assert isinstance(theirs, HandshakeFailed)
    return ours.reason, theirs.reason


# --- agreement -----------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", list(SrtpProfile), ids=lambda p: p.name)
def test_both_ends_agree_on_the_keys_of_each_profile(profile: SrtpProfile) -> None:
    keys = agreed(connect(client_profiles=(profile,))).keys
    assert keys.profile is profile
    assert len(keys.client) == len(keys.server) == profile.key_length + profile.salt_length
    assert keys.client != keys.server


def test_keys_are_new_each_time_and_do_not_show() -> None:
    one, other = agreed(connect()), agreed(connect())
    assert one.keys != other.keys
    assert "b'" not in repr(one)


def test_best_common_profile_wins() -> None:
    assert agreed(connect()).keys.profile is SrtpProfile.AEAD_AES_256_GCM
    two = (SrtpProfile.AES128_CM_SHA1_80, SrtpProfile.AEAD_AES_128_GCM)
    assert agreed(connect(client_profiles=two)).keys.profile is SrtpProfile.AEAD_AES_128_GCM
    assert agreed(connect(server_profiles=two)).keys.profile is SrtpProfile.AES128_CM_SHA1_80


def test_without_a_common_profile_there_are_no_keys() -> None:
    pair = connect(
        client_profiles=(SrtpProfile.AEAD_AES_256_GCM,),
        server_profiles=(SrtpProfile.AES128_CM_SHA1_80,),
    )
    for reason in failures(pair):
        assert "no SRTP profile in common" in reason


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-384", "sha-512"])
def test_any_strong_hash_identifies_the_peer_in_either_case(algorithm: str) -> None:
    der = SERVER.certificate.public_bytes(Encoding.DER)
    agreed(connect(expected_server=str(Fingerprint.of(der, algorithm)).lower()))


def test_one_matching_fingerprint_of_several_is_enough() -> None:
    pair = make_pair()
    announced = [Certificate.generate().fingerprint, "sha-1 00", SERVER.fingerprint]
    pair.client = DtlsEndpoint(CLIENT, client=True, fingerprints=announced)
    pair.start()
    pair.exchange()
    agreed(pair)


def test_wrong_server_certificate_fails_both_ends_before_there_are_keys() -> None:
    other = Certificate.generate().fingerprint
    client, server = failures(connect(expected_server=other))
    assert client == f"the peer's certificate is {SERVER.fingerprint}, announced was {other}"
    assert server.startswith("the peer sent alert")


def test_wrong_client_certificate_fails_both_ends_before_there_are_keys() -> None:
    other = Certificate.generate().fingerprint
    client, server = failures(connect(expected_client=other))
    assert server == f"the peer's certificate is {CLIENT.fingerprint}, announced was {other}"
    assert client.startswith("the peer sent alert")


def test_unusable_arguments_are_refused() -> None:
    with pytest.raises(MalformedSdp):
        DtlsEndpoint(CLIENT, client=True, fingerprints=["sha-1 00"])
    with pytest.raises(MalformedSdp):
        DtlsEndpoint(CLIENT, client=True, fingerprints=[])
    with pytest.raises(UsageError):
        make_pair(mtu=MIN_MTU - 1)
    with pytest.raises(UsageError):
        make_pair(client_profiles=())


@pytest.mark.parametrize("mtu", [MIN_MTU, 300, 500, 1200])
def test_datagrams_are_whole_records_within_the_mtu(mtu: int) -> None:
    pair = connect(mtu=mtu)
    agreed(pair)
    for datagram in pair.sent["client"] + pair.sent["server"]:
        assert is_dtls(datagram)
        assert len(datagram) <= mtu
        assert record_ends(datagram)[-1] == len(datagram)
    assert len(pair.sent["server"]) == (2 if mtu == 1200 else 4 if mtu < 500 else 3)


def record_ends(datagram: bytes) -> list[int]:
    ends = [0]
    while ends[-1] < len(datagram):
        at = ends[-1]
        ends.append(at + 13 + int.from_bytes(datagram[at + 11 : at + 13], "big"))
    return ends


def test_first_byte_tells_dtls_from_the_rest() -> None:
    assert [byte for byte in range(256) if is_dtls(bytes([byte]))] == list(range(20, 64))
    assert not is_dtls(b"")


# --- loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [("client", 0), ("server", 0), ("client", 1), ("server", 1)])
def test_lost_flight_is_repeated_by_our_own_clock(lost: tuple[str, int]) -> None:
    pair = make_pair(lose=lambda sender, number: (sender, number) == lost)
    pair.start()
    pair.exchange()
    assert [len(events) for events in pair.events()] != [1, 1]
    pair = make_pair(lose=lambda sender, number: (sender, number) == lost)
    pair.start()
    finished = pair.run_clock()
    agreed(pair)
    assert finished <= 2 * sum(REPEATS)
    repeats = pair.client.counters["dtls-repeated"] + pair.server.counters["dtls-repeated"]
    assert repeats > 0
    assert pair.client.counters["dtls-timeouts"] == pair.server.counters["dtls-timeouts"] == 0


def test_repeats_are_the_same_datagrams_and_end() -> None:
    pair = make_pair(lose=lambda _sender, _number: True)
    pair.start()
    assert pair.client.next_timeout() == pytest.approx(REPEATS[0])
    pair.exchange()
    for step in range(1, len(REPEATS) + 1):
        pair.client.handle_timeout(sum(REPEATS[:step]) - 0.01)
        pair.exchange()
        assert len(pair.sent["client"]) == step
        pair.client.handle_timeout(sum(REPEATS[:step]))
        pair.exchange()
        assert len(pair.sent["client"]) == step + 1
    assert len(set(pair.sent["client"])) == 1
    following = pair.client.next_timeout()
    assert following is not None  # OpenSSL's, by its own wall clock
    assert sum(REPEATS) < following <= sum(REPEATS) + 1.1


def test_timers_end_with_the_handshake() -> None:
    pair = connect()
    assert pair.client.next_timeout() is None  # the server must have had its flight
    assert pair.server.next_timeout() == pytest.approx(REPEATS[0])  # the client may have not
    pair.run_clock()
    assert pair.server.next_timeout() is None
    assert pair.server.counters["dtls-repeated"] == len(REPEATS)
    agreed(pair)


def test_repeated_last_flight_changes_nothing() -> None:
    pair = connect()
    agreed(pair)
    pair.run_clock()
    for datagram in [*pair.sent["server"], *pair.sent["client"]]:
        pair.client.receive_datagram(datagram, 5)
        pair.server.receive_datagram(datagram, 5)
    assert pair.events() == [[], []]
    assert pair.client.counters["dtls-ignored"] >= len(REPEATS)
    assert pair.client.datagrams_to_send() == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_duplicates_and_disorder_do_no_harm(order: tuple[int, ...]) -> None:
    pair = make_pair(mtu=MIN_MTU)
    pair.start()
    pair.carry("client")
    flight = pair.server.datagrams_to_send()
    for number in order + order:
        pair.client.receive_datagram(flight[number], 0)
    # The other way only duplicates: OpenSSL drops a cipher change that comes before its turn, and
    # then it takes a second. At the usual MTU a flight of ours is one datagram.
    for datagram in pair.client.datagrams_to_send() * 2:
        pair.server.receive_datagram(datagram, 0)
    pair.exchange()
    agreed(pair)


@pytest.mark.parametrize("seed", range(12))
def test_handshake_survives_loss_within_a_second(seed: int) -> None:
    dice = random.Random(seed)
    pair = make_pair(lose=lambda _sender, _number: dice.random() < 0.2)
    pair.start()
    pair.run_clock(until=3)
    agreed(pair)


def run_wall_clock(pair: Pair, until: Callable[[], bool], seconds: float) -> None:
    """Let OpenSSL's clock run while ours stands still, so that nothing is repeated by ours."""
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        time.sleep(0.02)
        for side in (pair.client, pair.server):
            side.handle_timeout(0)
        pair.exchange()


def test_lost_flight_is_sent_again_by_openssl_after_a_second() -> None:
    pair = make_pair(lose=lambda sender, number: (sender, number) == ("client", 0))
    pair.start()
    pair.exchange()
    run_wall_clock(pair, lambda: pair.client.counters["dtls-timeouts"] > 0, 5)
    agreed(pair)
    assert pair.client.counters["dtls-repeated"] == 0


def test_server_answers_a_client_whose_last_flight_comes_again() -> None:
    pair = make_pair(lose=lambda sender, number: (sender, number) == ("server", 1))
    pair.start()
    pair.exchange()
    assert isinstance(pair.server.next_event(), KeysAgreed)
    assert pair.client.next_event() is None
    run_wall_clock(pair, lambda: pair.client.counters["dtls-timeouts"] > 0, 5)
    assert isinstance(pair.client.next_event(), KeysAgreed)
    assert pair.server.next_event() is None


@pytest.mark.slow
def test_heavy_loss_in_real_time() -> None:
    """30 % of the datagrams, both ways: nearly all are through before the deadline of 4.5 s."""
    dice = random.Random(30)
    pairs = [make_pair(lose=lambda _sender, _number: dice.random() < 0.3) for _ in range(50)]
    begin = time.monotonic()
    for pair in pairs:
        pair.start(begin)
    done: list[float] = []
    while (now := time.monotonic()) < begin + 4.5 and len(done) < 50:
        for pair in list(pairs):
            for side in (pair.client, pair.server):
                due = side.next_timeout()
                if due is not None and due <= now:
                    side.handle_timeout(now)
            pair.exchange(now)
            if isinstance(pair.client.next_event(), KeysAgreed):
                done.append(now - begin)
                pairs.remove(pair)
        time.sleep(0.005)
    assert len(done) >= 49
    assert sorted(done)[25] < 0.7


def test_datagrams_that_nobody_takes_are_bounded() -> None:
    pair = make_pair(mtu=MIN_MTU)
    pair.start()
    pair.carry("client")
    for step in range(1, len(REPEATS) + 1):
        pair.server.handle_timeout(sum(REPEATS[:step]))
    sent = 3 * (1 + len(REPEATS))
    assert len(pair.server.datagrams_to_send()) == MAX_UNSENT
    assert pair.server.counters["dtls-unsent"] == sent - MAX_UNSENT > 0


# --- junk ----------------------------------------------------------------------------------------


def record(kind: int, body: bytes, *, epoch: int = 0, number: int = 0) -> bytes:
    head = bytes([kind]) + b"\xfe\xfd" + epoch.to_bytes(2, "big") + number.to_bytes(6, "big")
    return head + len(body).to_bytes(2, "big") + body


JUNK = {
    "noise": b"\x16" + random.Random(1).randbytes(200),
    "a lone byte": b"\x16",
    "a huge datagram": b"\x16" + bytes(60_000),
    "noise in a handshake record": record(22, random.Random(2).randbytes(60)),
    "an unknown record": record(24, b"heartbeat"),
    "application data in the clear": record(23, b"hello?"),
    "protected noise": record(23, random.Random(3).randbytes(60), epoch=1),
    "protected noise of many records": record(22, random.Random(4).randbytes(30), epoch=1) * 40,
    "an early cipher change": record(20, b"\1", number=2**20)[:13] + b"\2",
    "a warning alert": record(21, b"\1\x5a"),
    "a no-renegotiation alert": record(21, b"\1\x64"),
    "an alert of one byte": record(21, b"\2"),
    "half a ClientHello": record(22, b"\1\0\0\xa0")[:-2],
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
@pytest.mark.parametrize("steps", range(5))
def test_junk_at_any_point_does_not_matter(junk: bytes, steps: int) -> None:
    pair = make_pair()
    pair.start()

    def throw() -> None:
        for end in (pair.client, pair.server):
            for _ in range(8):
                end.receive_datagram(junk, 0)

    if not steps:
        throw()
    for step in range(4):
        pair.carry("server" if step % 2 else "client")
        if step == steps - 1:
            throw()
    agreed(pair)


def test_junk_is_counted() -> None:
    pair = make_pair()
    pair.start()
    protected = JUNK["protected noise"]
    pair.server.receive_datagram(JUNK["noise"], 0)
    pair.server.receive_datagram(protected, 0)  # kept: it could be a reordered last message
    assert pair.server.counters == {"dtls-junk": 1}
    pair.exchange()
    agreed(pair)
    pair.server.receive_datagram(JUNK["noise"] + protected, 0)
    pair.server.receive_datagram(protected + JUNK["noise"], 0)
    pair.server.receive_datagram(protected, 0)
    assert pair.server.counters == {"dtls-junk": 3, "dtls-ignored": 2}


def test_datagrams_before_the_start_are_counted() -> None:
    pair = make_pair()
    pair.client.start(0)
    (hello,) = pair.client.datagrams_to_send()
    pair.server.receive_datagram(hello, 0)
    assert pair.server.counters == {"dtls-early": 1}
    pair.server.start(0)
    pair.server.receive_datagram(hello, 0)
    assert pair.server.datagrams_to_send()


def test_forged_alert_after_the_handshake_is_ignored() -> None:
    pair = connect()
    agreed(pair)
    for end in (pair.client, pair.server):
        end.receive_datagram(record(21, b"\2\x28"), 0)
        end.receive_datagram(record(21, b"\1\0"), 0)
        assert end.counters["dtls-ignored"] == 2
    assert pair.events() == [[], []]


# --- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("closing", ["client", "server"])
def test_goodbye_is_an_event_at_the_other_end(closing: str) -> None:
    pair = connect()
    agreed(pair)
    end, other = pair.client, pair.server
    if closing == "server":
        end, other = other, end
    end.close(1)
    end.close(1)
    pair.exchange(1)
    assert drain(other) == [PeerClosed()]
    assert drain(end) == []
    assert end.next_timeout() is other.next_timeout() is None
    other.receive_datagram(pair.sent[closing][-1], 1)
    assert other.counters["dtls-stray"] == 1


def test_closing_without_keys_is_silent() -> None:
    pair = make_pair()
    pair.server.close(0)
    pair.client.start(0)
    pair.client.datagrams_to_send()
    pair.client.close(0)
    assert pair.client.datagrams_to_send() == []
    assert pair.client.next_timeout() is None
    pair.client.handle_timeout(9)
    assert pair.events() == [[], []]


def test_an_endpoint_starts_once() -> None:
    pair = make_pair()
    pair.start()
    with pytest.raises(InvalidState):
        pair.client.start(0)
    pair.server.close(0)
    with pytest.raises(InvalidState):
        pair.server.start(0)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\2\x28", "the peer sent alert handshake failure"),
        (b"\1\0", "the peer closed the association during the handshake"),
    ],
)
def test_alert_in_the_handshake_ends_it(body: bytes, reason: str) -> None:
    pair = make_pair()
    pair.start()
    for end in (pair.client, pair.server):
        end.receive_datagram(record(21, body, number=99), 0)
        end.receive_datagram(record(21, body, number=99), 0)
        assert end.counters["dtls-stray"] == 1
    assert failures(pair) == (reason, reason)


def test_every_failure_of_openssl_has_words() -> None:
    assert (
        describe_failure(SSL.Error([("SSL routines", "", "no shared cipher")]))
        == "no shared cipher"
    )
    assert describe_failure(SSL.SysCallError(-1, "Unexpected EOF")) == (
        "SysCallError(-1, 'Unexpected EOF')"
    )
    assert describe_failure(SSL.Error([])) == "Error([])"
    assert describe_failure(SSL.Error()) == "Error()"


# --- strangers: OpenSSL as others use it ---------------------------------------------------------


@dataclass
class Stranger:
    """A DTLS peer with OpenSSL's defaults, which sends one record per datagram."""

    client: bool
    ciphers: bytes = b"DEFAULT"
    profiles: bytes = b"SRTP_AES128_CM_SHA1_80"
    version: int = 0xFEFD
    credentials: tuple[ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, x509.Certificate] | None = (
        CLIENT.private_key,
        CLIENT.certificate,
    )
    issuers: tuple[x509.Certificate, ...] = ()

    def __post_init__(self) -> None:
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_min_proto_version(self.version)
        context.set_max_proto_version(self.version)
        context.set_cipher_list(self.ciphers)
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        if self.profiles:
            context.set_tlsext_use_srtp(self.profiles)
        if self.credentials:
            key, certificate = self.credentials
            context.use_certificate(certificate)
            context.use_privatekey(key)
        for issuer in self.issuers:
            context.add_extra_chain_cert(issuer)
        self.ssl = SSL.Connection(context, None)
        if self.client:
            self.ssl.set_connect_state()
        else:
            self.ssl.set_accept_state()

    def meet(self, end: DtlsEndpoint) -> None:
        """Talk until there is nothing left to say."""
        end.start(0)
        for _ in range(8):
            self.turn(end)

    def turn(self, end: DtlsEndpoint) -> None:
        for datagram in end.datagrams_to_send():
            self.ssl.bio_write(datagram)
        for act in (self.ssl.do_handshake, lambda: self.ssl.recv(100)):
            with contextlib.suppress(SSL.Error):
                act()
        try:
            flight = self.ssl.bio_read(60_000)
        except SSL.WantReadError:
            return
        ends = record_ends(flight)
        for begin, stop in itertools.pairwise(ends):
            end.receive_datagram(flight[begin:stop], 0)

    @property
    def fingerprint(self) -> str:
        assert self.credentials is not None
        return str(Fingerprint.of(self.credentials[1].public_bytes(Encoding.DER)))


def issue(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    *,
    issuer_key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    issuer: str = "itself",
    subject: str = "itself",
    names: int = 1,
    expired: bool = False,
) -> x509.Certificate:
    """Issue a certificate of any size, by anybody."""
    end = datetime.datetime(2020, 1, 1) if expired else datetime.datetime(2100, 1, 1)  # noqa: DTZ001
    alternatives = [x509.DNSName(f"{n}.name.example") for n in range(names)]
    builder = x509.CertificateBuilder(
        subject_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]),
        issuer_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=datetime.datetime(2019, 1, 1),  # noqa: DTZ001
        not_valid_after=end,
    ).add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(issuer_key or key, hashes.SHA256())


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("profile", list(SrtpProfile), ids=lambda p: p.name)
def test_keys_are_those_that_a_stranger_exports(client: bool, profile: SrtpProfile) -> None:
    stranger = Stranger(client=not client, profiles=profile.openssl_name.encode())
    end = DtlsEndpoint(SERVER, client=client, fingerprints=[stranger.fingerprint])
    stranger.meet(end)
    (event,) = drain(end)
    assert isinstance(event, KeysAgreed)
    keys, salts = profile.key_length, profile.salt_length
    material = stranger.ssl.export_keying_material(b"EXTRACTOR-dtls_srtp", 2 * (keys + salts))
    parts = []
    for length in (keys, keys, salts, salts):  # RFC 5764 section 4.2
        parts.append(material[:length])
        material = material[length:]
    assert event.keys.client == parts[0] + parts[2]
    assert event.keys.server == parts[1] + parts[3]


@pytest.mark.parametrize("client", [True, False])
def test_large_rsa_certificates_of_others_are_read(
    client: bool, rsa_key: rsa.RSAPrivateKey
) -> None:
    """Their flight has several datagrams, each a fragment of one message."""
    stranger = Stranger(client=not client, credentials=(rsa_key, issue(rsa_key, names=300)))
    end = DtlsEndpoint(SERVER, client=client, fingerprints=[stranger.fingerprint])
    stranger.meet(end)
    assert [type(event) for event in drain(end)] == [KeysAgreed]
    if client:
        assert stranger.ssl.get_cipher_name() == "ECDHE-RSA-AES128-GCM-SHA256"


def test_issuers_and_dates_do_not_count(rsa_key: rsa.RSAPrivateKey) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = issue(rsa_key, subject="an issuer", issuer="an issuer")
    leaf = issue(key, issuer_key=rsa_key, issuer="an issuer", subject="leaf", expired=True)
    stranger = Stranger(client=False, credentials=(key, leaf), issuers=(issuer,))
    end = DtlsEndpoint(SERVER, client=True, fingerprints=[stranger.fingerprint])
    stranger.meet(end)
    assert [type(event) for event in drain(end)] == [KeysAgreed]


def test_fingerprint_of_an_issuer_is_no_identity(rsa_key: rsa.RSAPrivateKey) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = issue(rsa_key, subject="an issuer", issuer="an issuer")
    leaf = issue(key, issuer_key=rsa_key, issuer="an issuer", subject="leaf")
    stranger = Stranger(client=False, credentials=(key, leaf), issuers=(issuer,))
    announced = str(Fingerprint.of(issuer.public_bytes(Encoding.DER)))
    end = DtlsEndpoint(SERVER, client=True, fingerprints=[announced])
    stranger.meet(end)
    (event,) = drain(end)
    assert isinstance(event, HandshakeFailed)
    assert stranger.fingerprint in event.reason


@pytest.mark.parametrize(
    ("client", "stranger", "reason"),
    [
        (True, Stranger(False, ciphers=b"ECDHE-ECDSA-AES128-SHA"), "alert handshake failure"),
        (False, Stranger(True, ciphers=b"ECDHE-ECDSA-AES128-SHA"), "no shared cipher"),
        (False, Stranger(True, credentials=None), "peer did not return a certificate"),
        (True, Stranger(False, profiles=b""), "no SRTP profile in common"),
        (False, Stranger(True, profiles=b""), "no SRTP profile in common"),
    ],
    ids=["no cipher as client", "no cipher", "no certificate", "no SRTP as client", "no SRTP"],
)
def test_stranger_with_nothing_in_common_is_told_why(
    client: bool, stranger: Stranger, reason: str
) -> None:
    end = DtlsEndpoint(SERVER, client=client, fingerprints=[CLIENT.fingerprint])
    stranger.meet(end)
    (event,) = drain(end)
    assert isinstance(event, HandshakeFailed)
    assert reason in event.reason
    assert end.next_timeout() is None


def meet_stranger() -> tuple[Stranger, DtlsEndpoint]:
    stranger = Stranger(client=True)
    end = DtlsEndpoint(SERVER, client=False, fingerprints=[stranger.fingerprint])
    stranger.meet(end)
    assert [type(event) for event in drain(end)] == [KeysAgreed]
    return stranger, end


def test_application_data_is_counted_and_dropped() -> None:
    stranger, end = meet_stranger()
    stranger.ssl.send(b"data channel?")
    stranger.ssl.send(b"anybody?")
    stranger.turn(end)
    assert end.counters["dtls-data"] == 2
    assert drain(end) == []
    stranger.ssl.shutdown()
    stranger.turn(end)
    assert drain(end) == [PeerClosed()]


def test_renegotiation_is_declined_without_harm() -> None:
    stranger, end = meet_stranger()
    stranger.ssl.renegotiate()
    for _ in range(4):
        stranger.turn(end)
    assert [event for event in drain(end) if isinstance(event, KeysAgreed)] == []
