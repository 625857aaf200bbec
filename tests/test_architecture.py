"""Rules of the house that import-linter cannot express."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import discord_rtc

PACKAGE = Path(discord_rtc.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Library to the only modules that may import it: one border for each.
QUARANTINE = {
    "aiortc": {"media/track.py", "transport/description.py"},
    "aioice": {"transport/ice_full.py"},
    "OpenSSL": {"crypto/dtls.py", "crypto/certificate.py"},
    "pylibsrtp": {"crypto/srtp.py"},
    "websockets": {"connection/gateway.py", "gateway.py", "server/*"},
    "nacl": {"crypto/aead.py", "crypto/xsalsa20.py"},
    "cryptography": {
        "crypto/aead.py",
        "crypto/authority.py",
        "crypto/certificate.py",
        "crypto/dtls.py",
        "crypto/p256.py",
    },
    "dave": {"protocol/dave/libdave.py"},
    "davey": {"protocol/dave/davey.py"},
    "typer": {"cli/*"},
    "rich": {"cli/*"},
}

# Transport names are words of these places only; everywhere else media is just media.
TRANSPORT_WORDS = {
    "transport/*",
    "protocol/messages.py",
    "protocol/handshake.py",
    "server/*",
    "client.py",
    "lab.py",
    "cli/*",
}


def _allowed(module: str, places: set[str]) -> bool:
    return any(
        module == place or (place.endswith("*") and module.startswith(place[:-1]))
        for place in places
    )


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_libraries_stay_behind_their_border(path: Path) -> None:
    imported = _imports(ast.parse(path.read_text(encoding="utf-8")))
    strays = {
        library
        for library, places in QUARANTINE.items()
        if library in imported and not _allowed(_name(path), places)
    }
    assert strays == set()


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_transport_names_stay_where_transports_are_chosen(path: Path) -> None:
    if _allowed(_name(path), TRANSPORT_WORDS):
        return
    strings = {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert strings & {"udp", "webrtc"} == set()


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_module_owns_everything(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


@pytest.mark.parametrize("package", ["rtp", "crypto", "ice", "protocol", "netem"])
def test_sans_io_code_runs_without_any_io_module(package: str) -> None:
    modules = [
        "discord_rtc." + _name(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in MODULES
        if re.match(rf"{package}(/|\.py$)", _name(path))
    ]
    # Compiled third-party modules and the standard library (logging) do as they like.
    code = (
        "import sys\n"
        "import discord_rtc, random, nacl.bindings, cryptography.hazmat.primitives.ciphers.aead\n"
        "import cryptography.x509, OpenSSL.SSL, pylibsrtp\n"
        "for name in ('asyncio', 'socket', 'ssl', 'threading', 'selectors'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {modules!r}:\n"
        "    __import__(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
