"""The bench runs: every answer, every body at the upstream and every record is what it must be. No number is asserted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.full
def test_a_short_bench_finds_every_answer_body_and_record_right() -> None:
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must be able to run this: no C compiler", pytrace=False)
        pytest.skip("no C compiler")
    done = subprocess.run(
        [sys.executable, str(REPO / "bench" / "run.py"), "--smoke"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every answer, body and record was right" in done.stdout


@pytest.mark.full
def test_a_short_bench_of_the_bridge_finds_every_answer_and_record_right() -> None:
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must be able to run this: no C compiler", pytrace=False)
        pytest.skip("no C compiler")
    done = subprocess.run(
        [sys.executable, str(REPO / "bench" / "bridging.py"), "--smoke"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a parked call:" in done.stdout and "us added" in done.stdout
