"""TLS for the local server without anything to install or to buy: a certificate of its own.

Spec: RFC 8446. Made anew for each server object; who shall trust it gets the file of its
authority, by ``SSL_CERT_FILE`` (Python) or ``NODE_EXTRA_CA_CERTS`` (Node.js), or by a context
made from it.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from discord_rtc.crypto.authority import make_tls_certificate

if TYPE_CHECKING:
    from typing import Self

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class LocalTls:
    """A TLS context for a server of this machine, and the file that makes clients trust it.

    Attributes:
        context: For the server's side.
        ca_file: Certificate of the authority, in PEM; there until `close`.
    """

    def __init__(self, context: ssl.SSLContext, directory: TemporaryDirectory[str]) -> None:
        self.context = context
        self.ca_file = Path(directory.name, "ca.pem")
        self._directory = directory

    @classmethod
    def make(cls, host: str) -> Self:
        """Make a certificate for this machine.

        Args:
            host: What the server listens on. Loopback addresses are valid beside it, and for
                ``0.0.0.0`` and ``::`` what the machine is called, with its addresses.
        """
        made = make_tls_certificate(_names(host))
        directory = TemporaryDirectory(prefix="discord-rtc-")
        tls = cls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), directory)
        tls.ca_file.write_bytes(made.authority)
        # The ssl module takes a key from a file only. The directory is its owner's alone, and
        # the key does not stay in it.
        key_file = Path(directory.name, "server.pem")
        try:
            key_file.write_bytes(made.private_key + made.certificate)
            tls.context.load_cert_chain(key_file)
        finally:
            key_file.unlink()
        return tls

    def close(self) -> None:
        """Remove the file."""
        self._directory.cleanup()


def _names(host: str) -> list[str]:
    names = dict.fromkeys(LOOPBACK)
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104  compared with, not bound to
        own = socket.gethostname()
        names[own] = None
        with suppress(OSError):  # a machine whose own name is not known to it
            infos = socket.getaddrinfo(own, None, type=socket.SOCK_STREAM)
            names |= dict.fromkeys(str(info[4][0]).partition("%")[0] for info in infos)
    else:
        names[host] = None
    return list(names)
