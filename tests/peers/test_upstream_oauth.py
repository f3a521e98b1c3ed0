"""Doorward as an OAuth client of an authorization server that we did not write: discovery, registration, code flow, renewal."""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from tests.oauth.kit import Browser
from tests.peers.places import NODE_FOLDER, node, node_package
from tests.ports import free_port
from tests.stack.kit import Stack, running
from tests.stack.wire import until
from tests.stand_ins.http_server import Ask, HttpUpstream

ECHO = {"name": "echo", "arguments": {"a": 1}}
SECRET = "s3cret: with/odd+signs-0123456789"


class JwtUpstream(HttpUpstream):
    """An MCP server that verifies tokens of the provider by its published keys, for exactly itself."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.subjects: list[str] = []
        super().__init__()

    def _answer(self, ask: Ask) -> None:
        place = f"http://127.0.0.1:{self.port}/.well-known/oauth-protected-resource/mcp"
        if ask.target == urlsplit(place).path:
            told = {
                "resource": self.url,
                "authorization_servers": [self.issuer],
                "scopes_supported": ["tickets.read"],
            }
            return ask.say(told)
        try:
            keys = KeySet.import_key_set(json.loads(fetch(f"{self.issuer}/jwks")[2]))
            token = jwt.decode(
                ask.fields.get("authorization", "").removeprefix("Bearer "), keys, algorithms=["RS256"]
            )
            checks = jwt.JWTClaimsRegistry(
                iss={"essential": True, "value": self.issuer}, aud={"essential": True, "value": self.url}
            )
            checks.validate(token.claims)
        except Exception:  # noqa: BLE001 - whatever is wrong with it
            return ask.reply(
                401, WWW_Authenticate=f'Bearer resource_metadata="{place}", scope="tickets.read"'
            )
        if ask.method == "tools/call":
            self.subjects.append(str(token.claims["sub"]))
        return super()._answer(ask)


Jar = dict[tuple[str, str], str]  # (name, path) -> value


def fetch(
    url: str, *, cookies: Jar | None = None, form: dict[str, str] | None = None
) -> tuple[int, str, bytes]:
    """One request to the provider, keeping its cookies: status, location, body."""
    parts = urlsplit(url)
    fitting = [
        f"{name}={value}" for (name, path), value in (cookies or {}).items() if parts.path.startswith(path)
    ]
    fields = {"Cookie": "; ".join(fitting)} if fitting else {}
    if form is not None:
        fields["Content-Type"] = "application/x-www-form-urlencoded"
    connection = HTTPConnection(parts.netloc, timeout=15)
    verb, body = ("GET", None) if form is None else ("POST", urlencode(form))
    connection.request(verb, f"{parts.path}?{parts.query}", body, fields)
    answer = connection.getresponse()
    content = answer.read()
    for name, value in answer.getheaders():
        if name.lower() == "set-cookie" and cookies is not None:
            key, _, text = value.partition(";")[0].partition("=")
            place = re.search(r"path=([^;]+)", value, re.I)
            cookies[key, place[1] if place else "/"] = text
    connection.close()
    return answer.status, urljoin(url, answer.getheader("location") or ""), content


def walk(url: str, user: str, stop: str) -> str:
    """Sign in and consent at the provider as a person does, until it sends the browser back to ``stop``."""
    cookies: Jar = {}
    form: dict[str, str] | None = None
    for _ in range(16):
        status, location, body = fetch(url, cookies=cookies, form=form)
        form = None
        if status in (302, 303):
            if location.startswith(stop):
                return location
            url = location
            continue
        text = body.decode()
        action = re.search(r'<form[^>]*action="([^"]+)"', text)
        assert status == 200 and action is not None, (status, text[:800])
        url = urljoin(url, html.unescape(action[1]))
        prompt = re.search(r'name="prompt" value="(login|consent)"', text)
        assert prompt is not None, text[:800]
        form = {"prompt": prompt[1], **({"login": user, "password": "x"} if prompt[1] == "login" else {})}
    raise AssertionError("the provider sends in circles")


@contextmanager
def provider(resource: str, port: int) -> Iterator[None]:
    node_package("oidc-provider")
    process = subprocess.Popen(
        [str(node()), "oidc_provider.mjs", str(port), resource],
        cwd=NODE_FOLDER,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"listening\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def stack_of(**credentials: Any) -> Iterator[tuple[Stack, JwtUpstream]]:
    port = free_port()
    upstream = JwtUpstream(f"http://127.0.0.1:{port}")
    tables = {
        "servers.up": {"url": upstream.url, "credentials": credentials},
        "network": {"allow": [f"127.0.0.1:{port}"]},
    }
    with provider(upstream.url, port), running({"up": upstream}, tables=tables) as stack:
        stack.wait_admin()
        yield stack, upstream


def test_users_link_accounts_at_a_real_provider_and_links_are_renewed() -> None:
    with stack_of(type="oauth") as (stack, upstream):
        refused = stack.modern("up", "tools/call", ECHO)
        assert refused.code == -31007, refused
        for user in ("alice", "bob"):
            browser = Browser(stack).sign_in(user)
            page = browser.get(refused.json["error"]["data"]["url"])
            assert page.status == 200, page
            assert "tickets.read" in page.text
            form = {"transaction": page.hidden(), "client": page.hidden("client"), "decision": "link"}
            sent = browser.post("/connect/up", form)
            assert sent.status == 303, sent
            back = walk(sent.location, f"{user}-there", f"{stack.url}/connect/up/callback")
            done = browser.get(back)
            assert done.status == 200, done
            until(
                lambda user=user: stack.modern("up", "tools/call", ECHO, user=user).text == '{"a": 1}',
                "a call",
            )
            assert upstream.subjects[-1] == f"{user}-there"
        links = stack.admin("/api/v1/links").json
        assert {(row["subject"], row["renews"]) for row in links} == {("alice", True), ("bob", True)}
        before = {row["subject"]: row["expires_at"] for row in links}

        def renewed() -> bool:
            answer = stack.modern("up", "tools/call", ECHO)
            assert answer.text == '{"a": 1}', answer
            now = {row["subject"]: row["expires_at"] for row in stack.admin("/api/v1/links").json}
            return now["alice"] > before["alice"]

        until(renewed, "the renewal with a rotated refresh token")
        assert set(upstream.subjects) == {"alice-there", "bob-there"}


@pytest.mark.parametrize("scopes", [[], ["tickets.read"]])
def test_client_credentials_of_a_real_provider(tmp_path: Path, scopes: list[str]) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    port = free_port()
    upstream = JwtUpstream(f"http://127.0.0.1:{port}")
    credentials = {
        "type": "client-credentials", "issuer": upstream.issuer, "client_id": "doorward",
        "client_secret": {"file": str(secret)}, "scopes": scopes,
    }  # fmt: skip
    tables = {
        "servers.up": {"url": upstream.url, "credentials": credentials},
        "network": {"allow": [f"127.0.0.1:{port}"]},
    }
    with provider(upstream.url, port), running({"up": upstream}, tables=tables) as stack:
        answer = stack.modern("up", "tools/call", ECHO)
        assert answer.text == '{"a": 1}', answer
        assert upstream.subjects == ["doorward"]
