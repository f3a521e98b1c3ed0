"""Doorward as an OAuth client before the official suite: ``python -m tests.peers.oauth_face URL`` is the suite's client command.

Starts Doorward before the suite's server, calls its tools, and whenever Doorward says that an account has to be linked, links it
in a browser without a screen; the suite's authorization server agrees by itself.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from doorward.identity.oauth_metadata import parse_challenge, resource_metadata_urls
from tests.oauth.kit import Browser
from tests.stack.kit import Stack, running
from tests.stack.wire import Answer

SCENARIO = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
CONTEXT: dict[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
ATTEMPTS = 6


def fetch(url: str, verb: str = "GET", body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """One plain request."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=10)
    fields = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    connection.request(verb, parts.path + (f"?{parts.query}" if parts.query else ""), body or None, fields)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


def hosts(url: str) -> list[str]:
    """The server's host and those of its authorization servers: what an operator would allow."""
    found = [urlsplit(url).netloc]
    _, fields, _ = fetch(url, "POST", b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
    place = parse_challenge(fields.get("www-authenticate", "")).get("resource_metadata")
    for one in [place] if place else resource_metadata_urls(url):
        status, _, body = fetch(one)
        if status == 200:
            found += [urlsplit(issuer).netloc for issuer in json.loads(body).get("authorization_servers", [])]
            break
    return sorted(set(found))


def allow_more(stack: Stack, url: str) -> None:
    """The server names other authorization servers now: allow them as well, as an operator would, while Doorward serves."""
    fresh = sorted({*stack.tables["network"]["allow"], *hosts(url)})
    if fresh != stack.tables["network"]["allow"]:
        stack.tables["network"]["allow"] = fresh
        stack.write_settings()
        assert stack.admin("/api/v1/reload", {}).status == 200


def link(stack: Stack, url: str) -> bool:
    """Link an account as a person would; False where Doorward refuses to."""
    browser = Browser(stack).sign_in()
    page = browser.get(url)
    if page.status != 200:
        print("refused:", page.text)
        return False
    form = {"transaction": page.hidden(), "client": page.hidden("client"), "decision": "link"}
    sent = browser.post("/connect/suite", form)
    if sent.status != 303:
        print("refused:", sent.text)
        return False
    status, fields, body = fetch(sent.location)
    if status not in (302, 303):
        print("not sent back:", status, body[:300])
        return False
    done = browser.get(fields["location"])
    print("linked" if done.status == 200 else f"refused: {done.text}")
    return done.status == 200


def ask(stack: Stack, method: str, params: dict[str, Any]) -> Answer:
    """One request to the server, in a session of its own where there can be one."""
    begun = stack.initialize("suite")
    if "result" not in (begun.json or {}):
        return begun
    session = begun.fields["mcp-session-id"]
    stack.legacy("suite", session, "notifications/initialized", id=None)
    return stack.legacy("suite", session, method, params)


def reach(stack: Stack, method: str, params: dict[str, Any]) -> Any:
    """The result, once what has to be linked is linked; None where that does not help."""
    for _ in range(ATTEMPTS):
        answer = ask(stack, method, params)
        error = (answer.json or {}).get("error")
        if error is None:
            return answer.json["result"]
        print("refused:", error)
        url = error.get("data", {}).get("url")
        allow_more(stack, sys.argv[-1])
        if error["code"] != -31007 or (url and not link(stack, url)):
            return None
    return None


def credentials(folder: Path, url: str) -> dict[str, Any]:
    """What the operator would write for this scenario."""
    given: dict[str, Any] = {"type": "oauth"}
    if (
        SCENARIO == "auth/basic-cimd"
    ):  # our own document is served over https only; the suite wants its own named
        given["client_id"] = "https://conformance-test.local/client-metadata.json"
    if "client_id" in CONTEXT:
        given["client_id"] = CONTEXT["client_id"]
    for name, key in (("client_secret", "client_secret"), ("private_key_pem", "private_key")):
        if name in CONTEXT:
            path = folder / key
            path.write_text(CONTEXT[name])
            path.chmod(0o600)
            given[key] = {"file": str(path)}
    if "client-credentials" in SCENARIO:
        given["type"] = "client-credentials"
        given["issuer"] = f"http://{next(one for one in hosts(url) if one != urlsplit(url).netloc)}"
    return given


def main() -> None:
    url = sys.argv[-1]
    with tempfile.TemporaryDirectory() as folder:
        tables = {
            "servers.suite": {"url": url, "credentials": credentials(Path(folder), url)},
            "network": {"allow": hosts(url)},
        }
        with running({"suite": {"url": url}}, tables=tables) as stack:
            stack.wait_admin()
            try:
                tools = (reach(stack, "tools/list", {}) or {}).get("tools", [])
                for tool in tools:
                    reach(stack, "tools/call", {"name": tool["name"], "arguments": {}})
            finally:
                print(stack.log())


if __name__ == "__main__":
    main()
