"""Fixtures for the RTP tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vectors() -> dict[str, bytes]:
    """The byte vectors of tests/vectors/rtp.json by name."""
    path = Path(__file__).parents[1] / "vectors" / "rtp.json"
    return {name: bytes.fromhex(text) for name, text in json.loads(path.read_text()).items()}
