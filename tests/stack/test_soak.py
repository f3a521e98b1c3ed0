"""The short form of `make soak`: clients, server processes and calls that are broken off leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers.places import node_package

SOAK = Path(__file__).resolve().parents[2] / "bench" / "soak.py"
CELLS = {f"{client}-{server}" for client in ("legacy", "modern") for server in ("legacy", "modern")}


def soak(folder: Path, cycles: int, starts: int) -> None:
    done = subprocess.run(
        [sys.executable, str(SOAK), "--cycles", str(cycles), "--starts", str(starts), "--cancels", "0",
         "--out", str(folder)], capture_output=True, text=True, timeout=180, check=False,
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


@pytest.mark.node
def test_four_hundred_calls_that_are_broken_off_leave_nothing_and_reach_nobody_else(tmp_path: Path) -> None:
    """Two SDKs in all four cells, at random points by a seed: each answer, step and question has its own caller's nonce."""
    node_package("@modelcontextprotocol/client")
    command = [sys.executable, str(SOAK.with_name("soak_cancel.py")), "--cancels", "400", "--seed", "7"]
    done = subprocess.run(
        [*command, "--settle", "0", "--out", str(tmp_path)],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(next(tmp_path.glob("soak-cancel-*.json")).read_text())
    assert result["cancelled"] >= 400 and not result["faults"]
    assert {row["cell"] for row in result["rows"]} == CELLS
    assert all(row["cancelled"] and row["answered"] for row in result["rows"]), "both ways out were taken"
