from __future__ import annotations

import datetime
import ssl
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from discord_rtc.crypto.authority import TlsCertificate, make_tls_certificate
from discord_rtc.crypto.certificate import LIFETIME

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("localhost", "127.0.0.1", "::1")
STRICT = 0x20  # X509_V_FLAG_X509_STRICT, which Python 3.13 sets by default


def server_context(made: TlsCertificate, folder: Path) -> ssl.SSLContext:
    file = folder / "server.pem"
    file.write_bytes(made.private_key + made.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def client_context(authority: bytes) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.decode())
    context.verify_flags |= ssl.VerifyFlags(STRICT)
    return context


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """A handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[0].version() == "TLSv1.3"


@pytest.mark.parametrize("name", NAMES)
def test_openssl_accepts_it_with_every_check_on(name: str, tmp_path: Path) -> None:
    made = make_tls_certificate(NAMES)
    shake_hands(server_context(made, tmp_path), client_context(made.authority), name)


def test_another_name_is_refused(tmp_path: Path) -> None:
    made = make_tls_certificate(NAMES)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(server_context(made, tmp_path), client_context(made.authority), "example.org")


def test_each_authority_stands_for_its_own_server_only(tmp_path: Path) -> None:
    made, other = make_tls_certificate(NAMES), make_tls_certificate(NAMES)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server_context(made, tmp_path), client_context(other.authority), "localhost")


def test_a_second_checker_accepts_it_too() -> None:
    made = make_tls_certificate(NAMES)
    leaf = x509.load_pem_x509_certificate(made.certificate)
    store = Store([x509.load_pem_x509_certificate(made.authority)])
    local = x509.IPAddress(ip_address("127.0.0.1"))
    chain = PolicyBuilder().store(store).build_server_verifier(local).verify(leaf, [])
    assert len(chain) == 2
    elsewhere = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("example.org"))
    with pytest.raises(VerificationError):
        elsewhere.verify(leaf, [])


def test_it_is_valid_now_and_not_for_long() -> None:
    made = make_tls_certificate(["here"])
    now = datetime.datetime.now(tz=datetime.UTC)
    for data in (made.authority, made.certificate):
        certificate = x509.load_pem_x509_certificate(data)
        assert certificate.not_valid_before_utc < now
        assert now < certificate.not_valid_after_utc <= now + LIFETIME


def test_a_name_of_any_length_will_do() -> None:
    name = f"{'long.' * 30}name"
    certificate = x509.load_pem_x509_certificate(make_tls_certificate([name]).certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name]


def test_the_key_is_not_shown() -> None:
    made = make_tls_certificate(NAMES)
    assert "PRIVATE" not in repr(made)
    assert b"PRIVATE KEY" in made.private_key
