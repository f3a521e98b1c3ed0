"""The short form of `make soak`: two thousand clients and twenty server processes leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).resolve().parents[2] / "bench" / "soak.py"


def soak(folder: Path, cycles: int, starts: int) -> None:
    done = subprocess.run(
        [sys.executable, str(SOAK), "--cycles", str(cycles), "--starts", str(starts), "--out", str(folder)],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(next(folder.glob("soak-*.json")).read_text())
    assert result["flat"] and result["cycles"] == cycles and result["starts"] == starts


@pytest.mark.full
def test_two_thousand_clients_leave_nothing_behind(tmp_path: Path) -> None:
    soak(tmp_path, 2_000, 0)


@pytest.mark.full
@pytest.mark.cage
def test_twenty_server_processes_leave_nothing_behind(tmp_path: Path) -> None:
    soak(tmp_path, 0, 20)
