"""Sans-I/O code is covered whole, every branch, by the tests of its own folder."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future

TESTS = Path(__file__).parent

COVERED = {
    "protocol": "protocol",
    "crypto": "crypto",
    "rtp": "rtp",
    "ice": "ice",
    "server.session": "server/test_session.py",
}
"""What is covered, by which tests; those that take longest first."""


def run(covered: str, results: Path) -> subprocess.CompletedProcess[str]:
    """The tests of one package, with a report of what they leave out."""
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            str(TESTS / COVERED[covered]),
            f"--cov=discord_rtc.{covered}", "--cov-branch", "--cov-fail-under=100",
            "--cov-report=term-missing:skip-covered",
        ],
        cwd=TESTS.parent,
        env={**os.environ, "COVERAGE_FILE": str(results / covered)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[str, Future[subprocess.CompletedProcess[str]]]]:
    """All of them, two at a time: nothing in them looks at a clock."""
    results = tmp_path_factory.mktemp("coverage")
    with ThreadPoolExecutor(2) as pool:
        yield {covered: pool.submit(run, covered, results) for covered in COVERED}


@pytest.mark.parametrize("covered", COVERED)
def test_own_tests_cover_every_branch(
    covered: str, runs: Mapping[str, Future[subprocess.CompletedProcess[str]]]
) -> None:
    result = runs[covered].result()
    assert result.returncode == 0, result.stdout + result.stderr
