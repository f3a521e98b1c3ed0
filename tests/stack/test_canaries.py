"""Secrets in every place that takes one, and then everything that Doorward wrote, said or started is searched for them."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from urllib.parse import quote

from tests.oauth.kit import Browser
from tests.stack.kit import Stack, descendants, running
from tests.stack.test_connect import away, begin
from tests.stack.wire import until
from tests.stand_ins.http_server import HttpUpstream
from tests.stand_ins.oauth_server import OAuthServer, ProtectedUpstream
from tests.stand_ins.secret_stores import FakeVault

ECHO = {"name": "echo", "arguments": {"a": 1}}
STDIO = ["python3", str(Path(__file__).parents[1] / "stand_ins" / "plain_stdio.py"), "legacy"]


def forms_of(secret: str) -> set[bytes]:
    """A secret as it is, and as it may hide."""
    raw = secret.encode()
    found = {raw, raw.hex().encode(), quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode()}
    for shift in range(3):  # Base64 at each alignment, without what its neighbours decide
        found.add(base64.b64encode(b"x" * shift + raw)[4 if shift else 0 : -4])
    return found


def holds(content: bytes, secret: str) -> bool:
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    return any(form in content for form in forms_of(secret))


def test_the_search_finds_a_secret_in_each_of_its_forms() -> None:
    secret = "canary-secret-0001"
    for content in (
        b"a canary-secret-0001 b", base64.b64encode(b"Basic canary-secret-0001:"), base64.b64encode(b"ab canary-secret-0001 cd"),
        b"63616e6172792d7365637265742d30303031", gzip.compress(b"canary-secret-0001"),
    ):  # fmt: skip
        assert holds(content, secret), content
    assert not holds(b"canary-secret-0002", secret)


def test_no_secret_is_anywhere_but_where_it_belongs(tmp_path: Path) -> None:
    canaries = {name: f"canary-{name}-{number:04d}-7f1e" for number, name in enumerate(
        ("header", "environ", "client", "stored", "vaulttoken", "hook", "stdioenv")
    )}  # fmt: skip
    for name in ("header", "client", "hook", "stdioenv"):
        (tmp_path / name).write_text(canaries[name])
        (tmp_path / name).chmod(0o600)
    vault = FakeVault()
    vault.tokens = {canaries["vaulttoken"]}
    vault.data["secret/tickets"] = {"token": canaries["stored"]}
    (tmp_path / "vaulttoken").write_text(canaries["vaulttoken"])
    (tmp_path / "vaulttoken").chmod(0o600)
    server = OAuthServer()
    server.on["/hook"] = (200, {})
    server.clients["doorward"] = canaries["client"]
    plain, second, third = HttpUpstream(), HttpUpstream(), HttpUpstream()
    machine, person = ProtectedUpstream(server), ProtectedUpstream(server)

    def file(name: str) -> dict[str, str]:
        return {"file": str(tmp_path / name)}

    def header(value: dict[str, str]) -> dict[str, object]:
        return {"type": "header", "prefix": "Bearer ", "value": value}

    client = {"issuer": server.issuer, "client_id": "doorward", "client_secret": file("client")}
    servers = {"plain": plain, "second": second, "third": third, "machine": machine, "person": person}
    tables = {
        "servers.plain": {"url": plain.url, "credentials": header(file("header"))},
        "servers.second": {"url": second.url, "credentials": header({"env": "CANARY_7"})},
        "servers.third": {"url": third.url, "credentials": header({"vault": "secret/tickets#token"})},
        "servers.machine": {"url": machine.url, "credentials": {"type": "client-credentials", **client}},
        "servers.person": {"url": person.url, "credentials": {"type": "oauth"}},
        "servers.child": {"command": STDIO, "env": {"API_KEY": file("stdioenv")}},
        "secrets": {
            "reread_seconds": 0.3,
            "vault": {"url": f"http://127.0.0.1:{vault.port}", "token": file("vaulttoken")},
        },
        "alerts": {"webhooks": [{"url": f"http://{server.host}/hook", "secret": file("hook")}]},
        "network": {"allow": [server.host, f"127.0.0.1:{vault.port}"]},
    }
    try:
        with running(
            servers, workers=2, tables=tables, environment={"CANARY_7": canaries["environ"]}
        ) as stack:
            stack.wait_admin()
            answers = [
                stack.modern(name, "tools/call", ECHO).body
                for name in ("plain", "second", "third", "machine")
            ]
            presented = [upstream.calls()[-1].fields["authorization"] for upstream in (plain, second, third)]
            assert presented == [f"Bearer {canaries[name]}" for name in ("header", "environ", "stored")], (
                "each is used"
            )
            browser = Browser(stack).sign_in()
            browser.get(away(begin(browser, f"{stack.url}/connect/person?client=doorward-cli", "person")))
            until(
                lambda: stack.modern("person", "tools/call", ECHO).text == '{"a": 1}', "a call with the link"
            )
            child = stack.initialize("child")
            assert child.status == 200, child
            assert "result" in child.json, child
            answers.append(child.body)
            plain.on["tools/call"] = lambda ask: ask.reply(
                500, ask.raw
            )  # a server that says back what it was sent
            machine.needs = "more"
            answers += [stack.modern(name, "tools/call", ECHO).body for name in ("plain", "machine")]
            for path in (
                "/connect/person?client=x",
                "/connect/person/callback?code=a&state=b",
                "/oauth/jwks",
                "/nothing",
            ):
                answers.append(browser.get(path).body.encode())
            for path in ("status", "secrets", "keys", "links", "alerts", "servers", "controls", "overview"):
                answers.append(stack.admin(f"/api/v1/{path}").body)
            answers.append(stack.admin("/metrics").body)
            for words in (
                ("secrets", "check"),
                ("keys", "list"),
                ("check", "--explain"),
                ("doctor",),
                ("audit", "query", "--raw"),
            ):
                done = stack.command(*words)
                answers.append((done.stdout + done.stderr).encode())
            tokens = [stack.token(name) for name in ("plain", "machine", "person")]
            secrets = [*canaries.values(), *server.tokens, *server.refresh, *tokens]
            assert len(server.refresh) == 1

            found = _everywhere(stack, answers, secrets, own=canaries["stdioenv"])
            assert not found, found
            for pid in [stack.process.pid, *stack.pids()] if stack.process else []:
                limits = Path(f"/proc/{pid}/limits").read_text()
                assert "Max core file size        0 " in limits, pid
    finally:
        server.close()
        vault.close()


def _everywhere(stack: Stack, answers: list[bytes], secrets: list[str], own: str) -> list[tuple[str, str]]:
    """(place, beginning of the secret) for each that lies open; ``own`` may be in the child's environment alone."""
    places = {f"answer {number}": body for number, body in enumerate(answers)}
    places["log"] = stack.log_path.read_bytes()
    places["records"] = json.dumps(stack.rows()).encode()
    places |= {str(path): path.read_bytes() for path in stack.data_dir.rglob("*") if path.is_file()}
    assert any("state.db" in place for place in places)
    found = [
        (place, secret[:12])
        for place, content in places.items()
        for secret in secrets
        if holds(content, secret)
    ]
    assert stack.process is not None
    for pid in [stack.process.pid, *descendants(stack.process.pid)]:
        for name in ("environ", "cmdline"):
            try:
                content = Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:
                continue
            is_child = b"plain_stdio" in Path(f"/proc/{pid}/cmdline").read_bytes()
            for secret in secrets:
                if holds(content, secret) and not (is_child and secret == own and name == "environ"):
                    found.append((f"{pid} {name}", secret[:12]))
    return found
