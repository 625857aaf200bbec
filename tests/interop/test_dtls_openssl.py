"""DTLS-SRTP over a real socket with the openssl program: it prints the keys that it exported."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from discord_rtc.crypto.certificate import Certificate, Fingerprint
from discord_rtc.crypto.dtls import DtlsEndpoint, HandshakeFailed, KeysAgreed
from discord_rtc.crypto.srtp import SrtpProfile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPENSSL = shutil.which("openssl") or ""

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(not OPENSSL, reason="the openssl program is not installed"),
]

TIMEOUT = 20
EXPORTED = re.compile(r"Keying material: ([0-9A-F]+)")


class Identity(NamedTuple):
    """Files of the other end, and what identifies it."""

    certificate: Path
    key: Path
    fingerprint: str


@pytest.fixture(scope="module", params=["rsa:4096", "ec"])
def identity(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Identity:
    folder = tmp_path_factory.mktemp("openssl")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    curve = ["-pkeyopt", "ec_paramgen_curve:P-256"] if request.param == "ec" else []
    command = [OPENSSL, "req", "-x509", "-nodes", "-newkey", request.param, *curve]
    files = ["-subj", "/CN=other", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *files], check=True, capture_output=True, timeout=60)
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    return Identity(certificate, key, str(Fingerprint.of(found.public_bytes(Encoding.DER))))


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(0.05)
        yield bound


class Program:
    """The openssl program at the other end of the socket, with all that it prints."""

    def __init__(self, *arguments: str, profile: SrtpProfile) -> None:
        length = 2 * (profile.key_length + profile.salt_length)
        self.process = subprocess.Popen(
            [
                *(OPENSSL, *arguments, "-dtls1_2", "-use_srtp", profile.openssl_name),
                *("-keymatexport", "EXTRACTOR-dtls_srtp", "-keymatexportlen", str(length)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def exported(self) -> bytes:
        """Wait for the keys."""
        end = time.monotonic() + TIMEOUT
        while not (found := EXPORTED.search(self.output)):
            assert time.monotonic() < end, self.output
            time.sleep(0.02)
        return bytes.fromhex(found[1])

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=TIMEOUT)
        self.reader.join(TIMEOUT)


def converse(
    end: DtlsEndpoint, udp: socket.socket, peer: tuple[str, int] | None
) -> KeysAgreed | HandshakeFailed:
    """Run a handshake in real time."""
    end.start(time.monotonic())
    give_up, event = time.monotonic() + TIMEOUT, end.next_event()
    while time.monotonic() < give_up:
        if peer is not None:
            for datagram in end.datagrams_to_send():
                udp.sendto(datagram, peer)
        if isinstance(event, KeysAgreed | HandshakeFailed):
            return event
        try:
            datagram, peer = udp.recvfrom(2048)
        except OSError:  # nothing yet, or nobody there yet
            due = end.next_timeout()
            if due is not None and due <= time.monotonic():
                end.handle_timeout(time.monotonic())
        else:
            end.receive_datagram(datagram, time.monotonic())
            event = end.next_event()
    raise AssertionError("no end to the handshake")


def assert_same_keys(event: KeysAgreed | HandshakeFailed, exported: bytes) -> None:
    assert isinstance(event, KeysAgreed)
    key, salt = event.keys.profile.key_length, event.keys.profile.salt_length
    assert event.keys.client == exported[:key] + exported[2 * key : 2 * key + salt]
    assert event.keys.server == exported[key : 2 * key] + exported[2 * key + salt :]


@pytest.mark.parametrize("profile", list(SrtpProfile), ids=lambda p: p.name)
def test_openssl_as_client(identity: Identity, udp: socket.socket, profile: SrtpProfile) -> None:
    end = DtlsEndpoint(Certificate.generate(), client=False, fingerprints=[identity.fingerprint])
    port = udp.getsockname()[1]
    files = ["-cert", str(identity.certificate), "-key", str(identity.key)]
    program = Program("s_client", "-connect", f"127.0.0.1:{port}", *files, profile=profile)
    try:
        assert_same_keys(converse(end, udp, None), program.exported())
    finally:
        program.end()


@pytest.mark.parametrize("profile", list(SrtpProfile), ids=lambda p: p.name)
def test_openssl_as_server(identity: Identity, udp: socket.socket, profile: SrtpProfile) -> None:
    end = DtlsEndpoint(Certificate.generate(), client=True, fingerprints=[identity.fingerprint])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = ["-cert", str(identity.certificate), "-key", str(identity.key), "-verify", "1"]
    program = Program("s_server", "-accept", f"127.0.0.1:{port}", *files, profile=profile)
    try:
        assert_same_keys(converse(end, udp, ("127.0.0.1", port)), program.exported())
    finally:
        program.end()
