"""The ledger's files are read and verified by the Go project's transparency-log libraries, which we did not write."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from doorward.adapters.ledger_files import LedgerWriter
from doorward.adapters.ledger_signer import LedgerSigner
from doorward.base.clock import SystemClock

pytestmark = [pytest.mark.anyio, pytest.mark.full]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "verify_ledger"
LIBRARIES = Path("/usr/share/gocode/src/golang.org/x/mod/sumdb")
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def verifier(tmp_path: Path) -> Path:
    if shutil.which("go") is None or not LIBRARIES.is_dir():
        pytest.skip(
            "no Go with x/mod. On Debian and Ubuntu: apt-get install golang-go golang-golang-x-mod-dev"
        )
    program = tmp_path / "verify"
    env = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(tmp_path / "go")}
    subprocess.run(["go", "build", "-o", str(program), "."], cwd=EXAMPLE, env=env, check=True, timeout=300)
    return program


def run(verifier: Path, data_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(verifier), str(data_dir)], capture_output=True, text=True, timeout=60, check=False
    )


async def write(data_dir: Path, count: int) -> None:
    signer = LedgerSigner(data_dir, KEY)

    async def sign(origin: str, size: int, root: bytes) -> str:
        return signer.sign(origin, size, root)

    for name in ("w0", "w1"):
        writer = LedgerWriter(data_dir / "ledger", signer.origin_of(name), sign, SystemClock(), 10)
        await writer.start()
        for number in range(count):
            writer.append(b'{"number":%d}' % number)
        writer.flush()
        await writer.close()


async def test_the_libraries_of_the_go_project_find_signatures_and_roots_in_order(verifier, tmp_path):
    await write(tmp_path / "data", 700)
    done = run(verifier, tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("700 entries, signature and root hold") == 2


async def test_they_notice_one_changed_byte(verifier, tmp_path):
    await write(tmp_path / "data", 300)
    bundle = next((tmp_path / "data" / "ledger").glob("*w0/tile/entries/000"))
    bundle.write_bytes(bundle.read_bytes().replace(b'"number":7}', b'"number":8}'))
    done = run(verifier, tmp_path / "data")
    assert done.returncode == 1
    assert "the root does not match" in done.stderr
