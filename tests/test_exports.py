"""The public names are what is listed, and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import discord_rtc


def test_every_listed_name_exists() -> None:
    for name in discord_rtc.__all__:
        assert getattr(discord_rtc, name) is not None


def test_the_three_lists_of_names_agree() -> None:
    tree = ast.parse(Path(discord_rtc.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == set(discord_rtc.__all__)
    assert set(dir(discord_rtc)) == {*discord_rtc.__all__, "__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        discord_rtc.Nonsense  # noqa: B018 - the access is the test


def test_every_public_name_has_a_docstring() -> None:
    missing = [
        name
        for name in discord_rtc.__all__
        if not (getattr(discord_rtc, name).__doc__ or "").strip()
    ]
    assert missing == []


def test_importing_the_package_or_the_plugin_costs_nothing() -> None:
    code = (
        "import sys, discord_rtc, discord_rtc.testing\n"
        "heavy = {'av', 'aiortc', 'numpy', 'websockets', 'cryptography'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
