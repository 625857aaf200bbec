"""A real TURN server on loopback: coturn, as Debian packages it."""

from __future__ import annotations

import datetime
import ipaddress
import re
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from discord_rtc import IceServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "127.0.0.1"
USERNAME = "ann"
START_DEADLINE = 10.0
STOP_DEADLINE = 5.0

# Below the ports that the system hands out by itself (from 32768 on Linux, 49152 elsewhere), so
# that a port of this range is a relay's and nobody else's.
RELAY_PORTS = range(20_000, 20_400)

Way: TypeAlias = Literal["udp", "tcp", "tls"]
"""How a client reaches its TURN server."""

WAYS: tuple[Way, ...] = ("udp", "tcp", "tls")


@dataclass(frozen=True)
class TurnServer:
    """Where it is, and who may use it.

    Attributes:
        port: For UDP and TCP.
        tls_port: For TLS.
        certificate: Self-signed, as a PEM file.
        log_file: What it says.
        credential: Of `USERNAME`.
    """

    port: int
    tls_port: int
    certificate: Path
    log_file: Path
    credential: str = field(default_factory=lambda: secrets.token_urlsafe(12), repr=False)

    def ice_server(self, way: Way, credential: str | None = None) -> IceServer:
        """As a client names it."""
        url = f"turns:{HOST}:{self.tls_port}"
        if way != "tls":
            url = f"turn:{HOST}:{self.port}?transport={way}"
        return IceServer(url, USERNAME, self.credential if credential is None else credential)

    def streams(self) -> int:
        """Connections of this process to it, over TCP, with or without TLS."""
        own = psutil.Process().net_connections("tcp4")
        ports = {self.port, self.tls_port}
        return sum(one.status == "ESTABLISHED" and one.raddr.port in ports for one in own)

    def allocations_over_tls(self) -> int:
        """Relays that it gave to clients that came over TLS."""
        return len(re.findall(r": new, .*method=TLS", self.log()))

    def allocations_released(self) -> int:
        """Relays that were given back by those who had them."""
        return len(re.findall(r": refreshed, .*lifetime=0\b", self.log()))

    def log(self) -> str:
        """What it has said so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""


def is_relay(address: tuple[str, int]) -> bool:
    """Whether datagrams from there come through the TURN server."""
    return address[1] in RELAY_PORTS


def free_port(*, avoid: int = 0) -> int:
    """A port that is free for UDP and TCP."""
    for _ in range(100):
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            stream.bind((HOST, 0))
            port = int(stream.getsockname()[1])
            with suppress(OSError):
                datagrams.bind((HOST, port))
                if port != avoid:
                    return port
    raise AssertionError("no port is free for both UDP and TCP")


def write_certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for the loopback address, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "TURN server of a test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "turn-certificate.pem", directory / "turn-key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_file, key_file


@contextmanager
def running_turn_server(directory: Path) -> Iterator[TurnServer]:
    """A TURN server, started and stopped; it inherits the network of the calling thread.

    Args:
        directory: For its files.
    """
    program = shutil.which("turnserver")
    if program is None:
        pytest.skip("coturn is not installed")
    certificate, key = write_certificate(directory)
    port = free_port()
    server = TurnServer(port, free_port(avoid=port), certificate, directory / "turn.log")
    command = [
        *(program, "-n", f"--listening-ip={HOST}", f"--relay-ip={HOST}", "--allow-loopback-peers"),
        *(f"--listening-port={server.port}", f"--tls-listening-port={server.tls_port}"),
        *(f"--min-port={RELAY_PORTS[0]}", f"--max-port={RELAY_PORTS[-1]}"),
        *("--lt-cred-mech", "--realm=test", f"--user={USERNAME}:{server.credential}"),
        *(f"--cert={certificate}", f"--pkey={key}", "--no-cli", "--relay-threads=1"),
        *(f"--userdb={directory / 'turn.db'}", f"--pidfile={directory / 'turn.pid'}"),
        *(f"--log-file={server.log_file}", "--simple-log", "--verbose", "--fingerprint"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory
    ) as process:
        try:
            _await_ports(process, server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _await_ports(process: subprocess.Popen[bytes], server: TurnServer) -> None:
    deadline = time.monotonic() + START_DEADLINE
    for port in (server.port, server.tls_port):
        while True:
            assert process.poll() is None, server.log()
            assert time.monotonic() < deadline, server.log()
            with suppress(OSError):
                socket.create_connection((HOST, port), timeout=1).close()
                break
            time.sleep(0.02)
