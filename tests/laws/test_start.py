"""What a start may import: `doorward serve` has to be ready in well under 1.5 seconds on two idle cores."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.ports import free_port

# Needed by nobody before the first call can be answered, or by an operator's page only.
NOT_BEFORE_READY = {
    "alembic", "h11", "jsonschema_rs", "mako", "mcp", "playwright", "prometheus_client", "pydantic", "rich", "sqlalchemy",
    "starlette", "tomlkit", "uvicorn",
}  # fmt: skip
NOT_OURS_BEFORE_READY = {
    "doorward.adapters.packages", "doorward.adapters.stdio_pool", "doorward.app.admin", "doorward.app.admin_view",
    "doorward.app.metrics", "doorward.console.plane",
}  # fmt: skip
CPU_SECONDS = 2.0  # of supervisor and worker together, of which the machine of 2026-11 needed 0.55


def serve(folder: Path, **more: str) -> tuple[str, float]:
    """Start, stop; what was said until it was ready, and the CPU seconds of all its processes to the end."""
    config = folder / "doorward.toml"
    config.write_text(
        f'[gateway]\nlisten = "127.0.0.1:{free_port()}"\ndata_dir = "./data"\n'
        f'[admin]\nlisten = "127.0.0.1:{free_port()}"\n'
        '[servers.one]\ncommand = ["/bin/cat"]\n[servers.two]\nurl = "http://127.0.0.1:9/mcp"\n'
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "doorward"), "serve", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **more},
    )
    said = []
    assert process.stderr is not None
    try:
        for line in process.stderr:
            said.append(line)
            if line.startswith("Doorward is ready"):
                break
    finally:
        process.send_signal(signal.SIGTERM)
        with process.stderr:
            process.stderr.read()
        assert process.wait(30) == 0, "".join(said[-20:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return "".join(said), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("start", ["the first", "a later"])
def test_neither_supervisor_nor_worker_imports_more_than_a_call_needs(tmp_path: Path, start: str) -> None:
    if start == "a later":
        serve(tmp_path)
    said, _ = serve(tmp_path, PYTHONPROFILEIMPORTTIME="1")  # inherited by the worker
    assert said.rstrip().splitlines()[-1].startswith("Doorward is ready"), said[-2000:]
    imported = set(re.findall(r"^import time:[^|]+\|[^|]+\|\s+(\S+)$", said, re.MULTILINE))
    assert {"doorward.app.supervisor", "doorward.app.data_plane"} <= imported
    assert {one.partition(".")[0] for one in imported} & NOT_BEFORE_READY == set()
    assert imported & NOT_OURS_BEFORE_READY == set()


def test_a_start_and_its_end_cost_little_processor_time(tmp_path: Path) -> None:
    serve(tmp_path)  # byte code is compiled once
    _, seconds = serve(tmp_path)
    assert seconds < CPU_SECONDS
