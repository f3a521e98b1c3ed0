"""The authorization server before clients that we did not write: the official conformance suite and Authlib."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from authlib.oauth2.base import OAuth2Error
from authlib.oauth2.client import OAuth2Client
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import ECKey

from tests.oauth.kit import CALLBACK, VERIFIER, Browser, call
from tests.peers.places import node, node_package
from tests.ports import free_port
from tests.stack.kit import Stack
from tests.stack.wire import until
from tests.stand_ins.http_server import HttpUpstream, tool

KEY = ECKey.generate_key("P-256", private=True)
SUITE_PORT = free_port()


class Prepared(Stack):
    """A stack that has written what its clients prove themselves with."""

    def start(self) -> Stack:
        """See ``Stack.start``."""
        (self.folder / "robot.json").write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
        secret = self.folder / "shop-secret"
        secret.write_text("a secret: with %&+ signs")
        secret.chmod(0o600)
        return super().start()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    clients = [
        {"id": "suite", "redirect_uris": [f"http://127.0.0.1:{SUITE_PORT}/callback"]},
        {"id": "shop", "redirect_uris": [CALLBACK], "secret": {"file": "shop-secret"}},
        {"id": "robot", "grants": ["client_credentials"], "jwks_file": "robot.json", "roles": ["user"]},
    ]
    identity = {"users": [{"name": "alice", "roles": ["user"]}], "clients": clients}
    servers: dict[str, Any] = {"notes": HttpUpstream(tools=[tool("list")])}
    started = Prepared(tmp_path_factory.mktemp("authorization"), servers, tables={"identity": identity})
    try:
        yield started.start()
    finally:
        try:
            started.stop()
        finally:
            servers["notes"].close()


@pytest.mark.node
def test_the_official_suite_finds_nothing_wrong(stack: Stack) -> None:
    script = node_package("@modelcontextprotocol/conformance") / "dist" / "index.js"
    with tempfile.TemporaryDirectory(prefix="doorward-conformance-") as folder:
        words = [
            "authorization", "--url", stack.url, "--client-id", "suite", "--resource", f"{stack.url}/notes/mcp",
            "-p", str(SUITE_PORT), "-o", folder,
        ]  # fmt: skip
        process = subprocess.Popen(
            [str(node()), str(script), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
        )  # fmt: skip
        try:
            assert process.stdout is not None
            said = ""
            browser = Browser(stack).sign_in()
            for line in process.stdout:
                said += line
                if found := re.search(r"http://127\S+/oauth/authorize\?\S+", line):
                    page = browser.get(found[0])
                    back = browser.post(
                        "/oauth/consent", {"transaction": page.hidden(), "decision": "approve"}
                    )
                    until(lambda: _visited(back.location), "the suite's callback")  # noqa: B023
            assert process.wait(60) == 0, said
        finally:
            process.kill()
            process.communicate()
        checks = [
            check for path in Path(folder).glob("*/checks.json") for check in json.loads(path.read_text())
        ]
    assert len(checks) >= 3
    assert {check["status"] for check in checks} <= {"SUCCESS", "INFO"}, checks


def _visited(url: str) -> bool:
    import http.client

    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


class Session:
    """What Authlib needs of an HTTP library: a POST, with the authentication that Authlib itself prepares."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def post(self, url: str, data: dict[str, str], headers: dict[str, str], auth: Any, **more: Any) -> Any:
        url, headers, body = auth.prepare("POST", url, dict(headers), urlencode(data))
        fields = {
            name.replace("-", "_"): value
            for name, value in headers.items()
            if name.lower() != "content-length"
        }
        fields = {
            name: value.decode() if isinstance(value, bytes) else value for name, value in fields.items()
        }
        page = Browser(self.stack).ask(
            "POST", url, body.decode() if isinstance(body, bytes) else body, **fields
        )
        return Response(page.status, page.body)


class Response:
    """What Authlib reads of an answer."""

    def __init__(self, status_code: int, text: str) -> None:
        self.status_code = status_code
        self.text = text

    def json(self) -> Any:
        return json.loads(self.text)

    def raise_for_status(self) -> None:
        assert self.status_code < 400, self.text


def client(stack: Stack, method: str) -> OAuth2Client:
    """Authlib's client as the shop."""
    return OAuth2Client(
        Session(stack),
        client_id="shop",
        client_secret="a secret: with %&+ signs",
        token_endpoint_auth_method=method,
        revocation_endpoint_auth_method=method,
        redirect_uri=CALLBACK,
        scope="mcp",
        code_challenge_method="S256",
    )


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_authlib_goes_the_whole_way(stack: Stack, method: str) -> None:
    document = Browser(stack).get("/.well-known/oauth-authorization-server").json
    shop, resource = client(stack, method), f"{stack.url}/notes/mcp"
    url, state = shop.create_authorization_url(
        document["authorization_endpoint"], code_verifier=VERIFIER, resource=resource
    )
    browser = Browser(stack).sign_in()
    page = browser.get(url)
    done = browser.post("/oauth/consent", {"transaction": page.hidden(), "decision": "approve"})
    token = shop.fetch_token(
        document["token_endpoint"],
        authorization_response=done.location,
        state=state,
        code_verifier=VERIFIER,
        resource=resource,
    )
    assert call(stack, token["access_token"]) == 200
    before = token["refresh_token"]
    renewed = shop.refresh_token(document["token_endpoint"], refresh_token=before)
    assert renewed["refresh_token"] != before
    assert call(stack, renewed["access_token"]) == 200
    asked = shop.introspect_token(document["introspection_endpoint"], token=renewed["access_token"])
    assert asked.json()["active"] is True
    assert (
        shop.revoke_token(document["revocation_endpoint"], token=renewed["refresh_token"]).status_code == 200
    )
    until(lambda: call(stack, renewed["access_token"]) == 401, "the family's end")
    with pytest.raises(OAuth2Error, match="invalid_grant"):
        shop.refresh_token(document["token_endpoint"], refresh_token=renewed["refresh_token"])


def test_authlib_proves_itself_with_a_key_and_each_proof_counts_once(stack: Stack) -> None:
    document = Browser(stack).get("/.well-known/oauth-authorization-server").json
    robot = OAuth2Client(
        Session(stack),
        client_id="robot",
        client_secret=KEY,
        token_endpoint_auth_method="private_key_jwt",
    )
    robot.register_client_auth_method(PrivateKeyJWT(document["token_endpoint"], alg="ES256"))
    token = robot.fetch_token(
        document["token_endpoint"], grant_type="client_credentials", resource=f"{stack.url}/notes/mcp"
    )
    assert call(stack, token["access_token"]) == 200
    seen: list[str] = []

    class Listening(Session):
        def post(
            self, url: str, data: dict[str, str], headers: dict[str, str], auth: Any, **more: Any
        ) -> Any:
            prepare = auth.prepare

            def kept(*given: Any) -> Any:
                found = prepare(*given)
                seen.append(found[2].decode() if isinstance(found[2], bytes) else found[2])
                return found

            auth.prepare = kept
            return super().post(url, data, headers, auth, **more)

    robot.session = Listening(stack)
    robot.fetch_token(
        document["token_endpoint"], grant_type="client_credentials", resource=f"{stack.url}/notes/mcp"
    )
    replayed = Browser(stack).ask("POST", "/oauth/token", seen[0])
    assert (replayed.status, replayed.json["error"]) == (401, "invalid_client")
