"""Sans-I/O code is covered whole, every branch, by the tests of its own folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    ("tests", "covered"),
    [
        ("rtp", "rtp"),
        ("crypto", "crypto"),
        ("ice", "ice"),
        ("protocol", "protocol"),
        ("server/test_session.py", "server.session"),
    ],
)
def test_own_tests_cover_every_branch(tests: str, covered: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / tests),
            f"--cov=discord_rtc.{covered}", "--cov-branch", "--cov-fail-under=100",
            "--cov-report=term-missing:skip-covered",
        ],
        cwd=TESTS.parent,
        env={**os.environ, "COVERAGE_FILE": str(tmp_path / "coverage")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
