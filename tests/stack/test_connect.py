"""Accounts at upstreams: each user links their own in a browser, and nobody else's attempt, answer or token does for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from tests.oauth.kit import Browser, Page
from tests.stack.kit import Stack, running
from tests.stack.wire import Answer, until
from tests.stand_ins.oauth_server import OAuthServer, ProtectedUpstream

ECHO = {"name": "echo", "arguments": {"a": 1}}
MISSING = -31007


@contextmanager
def stack_of(
    server: OAuthServer, upstream: ProtectedUpstream, *, allow: tuple[str, ...] = (), workers: int = 1,
    allow_requests: list[str] | None = None, **credentials: Any,
) -> Iterator[Stack]:  # fmt: skip
    tables = {
        "servers.up": {
            "url": upstream.url,
            "credentials": {"type": "oauth", **credentials},
            "allow_requests": allow_requests or [],
        },
        "network": {"allow": [server.host, *allow]},
    }
    try:
        with running({"up": upstream}, workers=workers, tables=tables) as stack:
            stack.wait_admin()
            yield stack
    finally:
        server.close()


def call(stack: Stack, user: str = "alice") -> Answer:
    return stack.modern("up", "tools/call", ECHO, user=user)


def away(url: str) -> str:
    """Follow a URL to another server, as a browser would; where it sends back to."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=15)
    connection.request("GET", f"{parts.path}?{parts.query}")
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 302, body
    return str(answer.getheader("location"))


def page_of(browser: Browser, url: str) -> Page:
    page = browser.get(url)
    assert page.status == 200, page
    return page


def decide(
    browser: Browser, page: Page, decision: str = "link", *, server: str = "up", **fields: Any
) -> Page:
    form = {"transaction": page.hidden(), "client": page.hidden("client"), "decision": decision}
    return browser.post(f"/connect/{server}", form, **fields)


def begin(browser: Browser, url: str, server: str = "up") -> str:
    """Agree; the URL that the browser is sent to."""
    sent = decide(browser, page_of(browser, url), server=server)
    assert sent.status == 303, sent
    return sent.location


def link(stack: Stack, user: str = "alice") -> Browser:
    refused = call(stack, user)
    assert refused.code == MISSING, refused
    browser = Browser(stack).sign_in(user)
    done = browser.get(away(begin(browser, refused.json["error"]["data"]["url"])))
    assert done.status == 200, done
    assert "is linked" in done.text
    return browser


def codes_spent(server: OAuthServer) -> int:
    return len(server.grants("authorization_code"))


# -- the way that works -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_each_user_links_their_own_account_and_calls_with_it(workers: int) -> None:
    server = OAuthServer(path="/tenant")
    upstream = ProtectedUpstream(server, scope="tickets.read")
    with stack_of(server, upstream, workers=workers) as stack:
        refused = call(stack)
        data = refused.json["error"]["data"]
        assert refused.code == MISSING
        assert data["url"] == f"{stack.url}/connect/up?client=doorward-cli"
        assert data["control"] == "present-credential"
        assert data["url"] in data["help"]
        row = stack.row_of(refused)
        assert (row["verdict"], row["control"], row["reason"]) == (
            "refuse",
            "present-credential",
            "credential-missing",
        )
        assert not upstream.calls()

        for user, theirs in (("alice", "ulla"), ("bob", "bert")):
            server.user = theirs
            browser = link(stack, user)
            request = next(one for one in reversed(server.asked) if one["path"] == "/authorize")["query"]
            assert request["scope"] == "tickets.read"
            assert request["resource"] == upstream.url
            assert request["code_challenge_method"] == "S256"
            assert request["redirect_uri"] == f"{stack.url}/connect/up/callback"
            until(lambda user=user: call(stack, user).text == '{"a": 1}', "a call with the link")
            assert (upstream.row(upstream.calls()[-1]) or {})["subject"] == theirs
            session = stack.session("up", user=user)
            assert stack.legacy("up", session, "tools/call", ECHO, user=user).text == '{"a": 1}'
            assert (upstream.row(upstream.calls()[-1]) or {})["subject"] == theirs
            told = browser.get(data["url"]).body
            assert not any(token in told for token in (*server.tokens, *server.refresh))
        registrations = [one["registration"] for one in server.asked if "registration" in one]
        assert len(registrations) == 1
        assert registrations[0]["application_type"] == "native", "its redirect URI is on loopback"
        assert "refresh_token" in registrations[0]["grant_types"]
        rows = stack.admin("/api/v1/links").json
        assert {(row["subject"], row["server"]) for row in rows} == {("alice", "up"), ("bob", "up")}

        # Nothing of it lies open: not in files, log, records, answers or what operators see.
        secrets = [*server.tokens, *server.refresh]
        seen = json.dumps([rows, stack.rows()]) + stack.log()
        files = b"".join(path.read_bytes() for path in stack.data_dir.rglob("*") if path.is_file())
        for secret in secrets:
            assert secret not in seen
            assert secret.encode() not in files
        for user in ("alice", "bob"):
            assert stack.token("up", user).encode() not in upstream.seen_bytes()


def test_a_link_outlives_a_restart_and_a_change_of_the_master_key_and_is_renewed() -> None:
    server = OAuthServer()
    server.lifetime = 3
    upstream = ProtectedUpstream(server)
    with stack_of(server, upstream) as stack:
        link(stack)
        until(lambda: call(stack).text == '{"a": 1}', "a call")
        assert stack.command("keys", "rotate", "master").returncode == 0
        stack.stop()
        stack.start()

        def renewed() -> bool:
            assert call(stack).text == '{"a": 1}'
            return len(server.grants("refresh_token")) >= 3

        until(renewed, "three renewals")
        used = [one["form"]["refresh_token"] for one in server.grants("refresh_token")]
        assert len(set(used)) == len(used), "each refresh token is used once"
        assert codes_spent(server) == 1


def test_a_link_that_the_other_side_ended_is_refused_and_can_be_made_anew() -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server)
    with stack_of(server, upstream) as stack:
        link(stack)
        until(lambda: call(stack).text == '{"a": 1}', "a call")
        server.tokens.clear()
        assert call(stack).text == '{"a": 1}', "renewed, for the token was refused"
        server.tokens.clear()
        server.refresh.clear()
        answer = call(stack)
        assert answer.code == MISSING
        assert answer.json["error"]["data"]["url"].startswith(f"{stack.url}/connect/up")
        assert stack.admin("/api/v1/links").json == []
        link(stack)
        until(lambda: call(stack).text == '{"a": 1}', "a call with the new link")


def test_removing_a_link_ends_it_at_the_other_side_and_for_every_worker() -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server)
    with stack_of(server, upstream, workers=2) as stack:
        browser = link(stack)
        until(lambda: call(stack).text == '{"a": 1}', "a call")
        url = f"{stack.url}/connect/up?client=doorward-cli"
        assert "removed" in decide(browser, page_of(browser, url), "unlink").text
        assert len([one for one in server.asked if one["path"] == "/revoke"]) == 2
        assert not server.tokens
        assert not server.refresh
        until(lambda: all(call(stack).code == MISSING for _ in range(6)), "the refusal by both workers")


def test_more_rights_are_asked_for_with_those_there_are_and_not_for_ever() -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server, scope="read", needs="write")
    with stack_of(server, upstream) as stack:
        link(stack)
        until(lambda: "more rights" in call(stack).json["error"]["message"], "the step-up")
        browser = Browser(stack).sign_in()
        sent = begin(browser, f"{stack.url}/connect/up?client=doorward-cli")
        assert dict(parse_qsl(urlsplit(sent).query))["scope"] == "read write"
        assert browser.get(away(sent)).status == 200
        until(lambda: call(stack).text == '{"a": 1}', "a call with more rights")
        upstream.needs = "never-enough"
        told = {call(stack).json["error"]["message"] for _ in range(5)}
        assert any("again and again" in one for one in told)


def test_a_client_that_shows_urls_is_asked_to_show_this_one_where_questions_are_allowed() -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server)
    with stack_of(server, upstream, allow_requests=["elicitation"]) as stack:
        browser = link(stack)
        until(lambda: call(stack).text == '{"a": 1}', "a call")
        session = stack.session("up", {"elicitation": {"url": {}, "form": {}}})
        url = f"{stack.url}/connect/up?client=doorward-cli"
        decide(browser, page_of(browser, url), "unlink")
        until(lambda: stack.legacy("up", session, "tools/call", ECHO).code is not None, "the refusal")
        answer = stack.legacy("up", session, "tools/call", ECHO)
        assert answer.code == -32042
        [asked] = answer.json["error"]["data"]["elicitations"]
        assert (asked["mode"], asked["url"]) == ("url", url)
        assert asked["elicitationId"]


# -- attacks ----------------------------------------------------------------------------------------------------------


def test_only_the_user_and_browser_that_began_can_finish() -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server)
    with stack_of(server, upstream) as stack:
        url = f"{stack.url}/connect/up?client=doorward-cli"
        assert Browser(stack).get(url).status == 401, "nobody is signed in"
        alice, bob, twin = (Browser(stack).sign_in(user) for user in ("alice", "bob", "alice"))
        # The answer to Alice's attempt is opened by Bob, by nobody, by Alice elsewhere: not even a token request is made.
        for other in (bob, Browser(stack), twin):
            back = away(begin(alice, url))
            refused = other.get(back)
            assert refused.status == 400, refused
            if other.cookies:
                assert alice.get(back).status == 400, "the attempt is over with the first answer"
        assert codes_spent(server) == 0
        # Bob sends Alice's page from his browser, and the other way round.
        page = page_of(alice, url)
        for fields in ({}, {"Sec_Fetch_Site": "cross-site"}, {"Origin": "https://evil.example"}):
            assert decide(bob, page, **fields).status == 403
        assert decide(alice, page, Sec_Fetch_Site="cross-site").status == 403
        good = page_of(alice, url)
        assert decide(alice, good).status == 303
        assert decide(alice, good).status == 403, "a form comes back once"
        assert call(stack).code == MISSING
        assert call(stack, "bob").code == MISSING
        # With the very browser it works.
        assert alice.get(away(begin(alice, url))).status == 200
        until(lambda: call(stack).text == '{"a": 1}', "Alice's call")
        assert call(stack, "bob").code == MISSING


def test_nothing_is_kept_or_asked_before_the_user_agreed() -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server)
    with stack_of(server, upstream) as stack:
        alice = Browser(stack).sign_in()
        page = page_of(alice, f"{stack.url}/connect/up?client=doorward-cli")
        assert not [one for one in server.asked if one["path"] in ("/authorize", "/register", "/token")]
        assert "default-src 'none'" in page.fields["content-security-policy"]
        assert "frame-ancestors 'none'" in page.fields["content-security-policy"]
        assert server.host in page.text
        for query in (
            "state=x&code=y",
            "code=y",
            "state=&code=y",
            f"state=a&state=b&code=y&iss={server.issuer}",
        ):
            assert alice.get(f"/connect/up/callback?{query}").status == 400
        assert codes_spent(server) == 0
        hostile = '"><script>alert(1)</script>'
        shown = alice.get("/connect/up?" + urlencode({"client": hostile}))
        assert "<script>" not in shown.body
        assert alice.get("/connect/up?client=%00").status == 400
        assert alice.get("/connect/nobody?client=x").status == 404


@pytest.mark.parametrize(
    "answers",
    [
        {"iss": "https://evil.example"}, {"iss": ""}, {"iss": "SAME/"}, {"code": ""},
        {"iss": "https://evil.example", "error": "access_denied", "error_description": "pwned-7c2", "code": ""},
    ],
)  # fmt: skip
def test_an_answer_of_another_issuer_sends_no_code_and_shows_no_word_of_it(answers: dict[str, str]) -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server)
    with stack_of(server, upstream) as stack:
        server.answers = {name: value.replace("SAME", server.issuer) for name, value in answers.items()}
        alice = Browser(stack).sign_in()
        refused = alice.get(away(begin(alice, f"{stack.url}/connect/up?client=doorward-cli")))
        assert refused.status == 400, refused
        assert "pwned" not in refused.body + stack.log() + json.dumps(stack.rows())
        assert codes_spent(server) == 0


@pytest.mark.parametrize(
    ("metadata", "resource"),
    [
        ({"issuer": "https://other.example"}, ""),
        ({"code_challenge_methods_supported": None}, ""),
        ({"code_challenge_methods_supported": ["plain"]}, ""),
        ({"authorization_endpoint": "javascript:alert(1)"}, ""),
        ({"token_endpoint": "file:///etc/passwd"}, ""),
        ({}, "https://another.example/mcp"),
    ],
)
def test_metadata_that_does_not_hold_leads_nowhere(metadata: dict[str, Any], resource: str) -> None:
    server = OAuthServer()
    server.metadata = metadata
    upstream = ProtectedUpstream(server)
    upstream.resource = resource
    with stack_of(server, upstream) as stack:
        alice = Browser(stack).sign_in()
        page = alice.get(f"{stack.url}/connect/up?client=doorward-cli")
        if page.status == 200:
            page = decide(alice, page)
        assert page.status == 502, page
        assert not page.location
        assert "javascript:" not in page.body
        assert not [one for one in server.asked if one["path"] in ("/authorize", "/token")]


def test_a_token_of_one_authorization_server_is_not_presented_after_a_move_to_another() -> None:
    first, second = OAuthServer(), OAuthServer()
    upstream = ProtectedUpstream(first)
    try:
        with stack_of(first, upstream, allow=(second.host,)) as stack:
            link(stack)
            until(lambda: call(stack).text == '{"a": 1}', "a call")
            old = next(iter(first.tokens))
            upstream.server = second
            moved = len(upstream.asks)
            until(lambda: call(stack).code == MISSING, "the refusal")
            assert call(stack).code == MISSING
            link(stack)
            until(lambda: call(stack).text == '{"a": 1}', "a call with the new link")
            late = [
                ask.fields.get("authorization")
                for ask in upstream.calls()
                if ask in upstream.asks[moved + 4 :]
            ]
            assert f"Bearer {old}" not in late
            assert {one["registration"]["client_name"] for one in second.asked if "registration" in one}
            assert not [one for one in second.asked if old in str(one["body"])]
    finally:
        second.close()


def test_inner_networks_are_out_of_reach_for_what_a_server_names() -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server)
    sink = OAuthServer()  # on loopback, and not allowed
    upstream.server = sink
    try:
        with stack_of(server, upstream) as stack:
            alice = Browser(stack).sign_in()
            assert alice.get(f"{stack.url}/connect/up?client=doorward-cli").status == 502
            assert sink.asked == []
    finally:
        sink.close()
