"""Networks of their own for tests: only ``lo`` in them, and packet filters between all sockets."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

CLONE_NEWNET = 0x40000000  # linux/sched.h

T = TypeVar("T")

Firewall: TypeAlias = Literal["on the way", "of this machine", "that refuses"]
"""Who drops packets: somebody far away without a word, the own kernel (``send`` fails with
EPERM), or somebody who says so (ICMP, ``send`` fails with ECONNREFUSED)."""

FIREWALLS: tuple[Firewall, ...] = ("on the way", "of this machine", "that refuses")

_HOOKS = {"on the way": "input", "of this machine": "output", "that refuses": "input"}


def require_namespaces() -> None:
    """Skip the test where there can be none."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    for program in ("unshare", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if subprocess.run(alone("true"), capture_output=True, check=False).returncode != 0:
        pytest.skip("this system makes no network namespaces")


def alone(*command: str) -> list[str]:
    """A command that runs in a new network namespace in which only ``lo`` is up."""
    return ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', *command]


class Network:
    """A network namespace, as seen by the thread that is in it."""

    def filter(self, *rules: str, firewall: Firewall = "on the way") -> None:
        """Drop the packets that match, in place of those that were dropped so far.

        Args:
            rules: Of nftables, without the verdict.
            firewall: Who does it.
        """
        verdict = "reject" if firewall == "that refuses" else "drop"
        lines = [f"{rule} counter {verdict}" for rule in rules]
        self._nft(
            "table inet hostile\n"
            "delete table inet hostile\n"
            "table inet hostile {\n"
            f"  chain packets {{ type filter hook {_HOOKS[firewall]} priority 0;\n"
            f"    {'; '.join(lines)}\n"
            "  }\n"
            "}\n"
        )

    def dropped(self) -> int:
        """How many packets were dropped since the last change."""
        counted = subprocess.run(
            ["nft", "list", "table", "inet", "hostile"], capture_output=True, text=True, check=True
        )
        return sum(int(count) for count in re.findall(r"counter packets (\d+)", counted.stdout))

    def require_filters(self) -> None:
        """Skip the test where the kernel, or the system, has no packet filter."""
        if shutil.which("nft") is None:
            pytest.skip("nft is not installed")
        try:
            self.filter("udp dport 9 @th,96,32 0x2112a442")
            self.filter("udp dport 9", firewall="that refuses")
        except subprocess.CalledProcessError as error:
            if "syntax error" in error.stderr:
                raise
            pytest.skip(f"this kernel has no nftables: {error.stderr}")
        self.filter()

    @staticmethod
    def _nft(script: str) -> None:
        subprocess.run(["nft", "-f", "-"], input=script, capture_output=True, text=True, check=True)


Scenario: TypeAlias = "Callable[[Network], Awaitable[T]]"


def in_namespaces(scenarios: Sequence[Scenario[T]]) -> list[T]:
    """Run each scenario on an event loop in a network namespace of its own, all at once.

    A network namespace belongs to a thread and to what it starts, processes and threads alike;
    with the thread it ends.
    """
    require_namespaces()
    with ThreadPoolExecutor(len(scenarios), thread_name_prefix="namespace") as pool:
        return list(pool.map(_run, scenarios))


def in_namespace(scenario: Scenario[T]) -> T:
    """As `in_namespaces`, for one."""
    return in_namespaces([scenario])[0]


def _run(scenario: Scenario[T]) -> T:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    async def run() -> T:
        return await scenario(Network())

    return asyncio.run(run())
