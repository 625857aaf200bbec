from __future__ import annotations

import socket
import ssl
import stat
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from discord_rtc.server.certificate import LocalTls

if TYPE_CHECKING:
    from collections.abc import Iterator


def names_of(tls: LocalTls) -> set[str]:
    """What a client may call the server, as a handshake shows it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    trust = ssl.create_default_context(cafile=tls.ca_file)
    client = trust.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = tls.context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    certificate = x509.load_der_x509_certificate(shown)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = [str(one) for one in names.get_values_for_type(x509.IPAddress)]
    return {*names.get_values_for_type(x509.DNSName), *addresses}


@pytest.fixture
def made() -> Iterator[list[LocalTls]]:
    made: list[LocalTls] = []
    yield made
    for tls in made:
        tls.close()


@pytest.mark.parametrize(
    ("host", "more"),
    [("127.0.0.1", set()), ("192.0.2.7", {"192.0.2.7"}), ("box.example", {"box.example"})],
)
def test_loopback_and_the_host_are_its_names(
    made: list[LocalTls], host: str, more: set[str]
) -> None:
    made.append(LocalTls.make(host))
    assert names_of(made[0]) == {"localhost", "127.0.0.1", "::1"} | more


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_wildcard_stands_for_the_machine(made: list[LocalTls], host: str) -> None:
    made.append(LocalTls.make(host))
    assert socket.gethostname() in names_of(made[0])
    assert host not in names_of(made[0])


def test_a_machine_whose_name_is_unknown_still_has_loopback(
    made: list[LocalTls], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "nobody.invalid")
    made.append(LocalTls.make("0.0.0.0"))
    assert names_of(made[0]) == {"localhost", "127.0.0.1", "::1", "nobody.invalid"}


def test_the_key_does_not_stay_on_the_disk(made: list[LocalTls]) -> None:
    made.append(LocalTls.make("127.0.0.1"))
    folder = made[0].ca_file.parent
    assert [entry.name for entry in folder.iterdir()] == ["ca.pem"]
    assert b"PRIVATE" not in made[0].ca_file.read_bytes()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_closing_leaves_nothing() -> None:
    tls = LocalTls.make("127.0.0.1")
    tls.close()
    assert not tls.ca_file.parent.exists()
    tls.close()
