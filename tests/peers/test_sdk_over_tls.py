"""The official SDK clients over https, as a person sets it up: `doorward keys ca`, one line of settings, one variable for the client."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.suite import everything_over_http
from tests.peers.test_sdk_clients import (
    ASKS,
    CLIENT_SECONDS,
    MARKED,
    PEERS,
    comparable,
    directly,
    target,
    visits,
)
from tests.stack.kit import DOORWARD, Stack, running


@pytest.fixture(scope="module")
def direct() -> Iterator[str]:
    """The server itself."""
    with everything_over_http() as port:
        yield f"http://127.0.0.1:{port}/mcp"


@pytest.fixture(scope="module")
def stack(direct: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Doorward before that server, with a certificate of the local authority."""
    folder = tmp_path_factory.mktemp("authority") / "tls"
    done = subprocess.run(
        [*DOORWARD, "keys", "ca", "--json", "--folder", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    made = json.loads(done.stdout)
    with running(
        {"everything": {"url": direct, "allow_requests": ASKS}},
        workers=2,
        tables={"gateway": {"tls": {"cert": made["cert"], "key": {"file": made["key"]}}}},
        tls=ssl.create_default_context(cafile=made["ca"]),
    ) as one:
        one.folder.joinpath("ca.pem").write_bytes(Path(made["ca"]).read_bytes())
        yield one


@pytest.mark.parametrize("name", MARKED)
def test_a_client_that_trusts_the_authority_sees_what_it_sees_without_tls(
    stack: Stack, direct: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = json.loads(directly(name, direct))
    at = target(stack.url + stack.path("everything"), stack.token("everything"))
    for variable in ("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"):
        monkeypatch.setenv(variable, str(stack.folder / "ca.pem"))
    found = visits(PEERS[name], at)[0]
    assert found["version"] == PEERS[name].version
    assert comparable(found) == comparable(wanted)


@pytest.mark.parametrize("name", [MARKED[2], MARKED[5]])
def test_a_client_that_does_not_trust_it_says_nothing_to_it(stack: Stack, name: str) -> None:
    at = target(stack.url + stack.path("everything"), "a-token-that-must-not-leave")
    done = subprocess.run(
        PEERS[name].command(),
        input=json.dumps([at]),
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS,
        check=False,
    )
    assert done.returncode != 0
    assert "certificate" in done.stderr.lower()
