"""Redirect URIs: which ones a client may have, which ones it may then use, and that nothing leaves before that holds (T-11)."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from doorward.app.oauth_pages import refusal
from doorward.identity.redirects import RedirectRules, is_private_scheme, with_query
from tests.oauth.kit import Browser, auth_rows, authorize_url, one_record
from tests.stack.kit import Stack

SPELLING = "is not an absolute URI in its one spelling: no user, fragment, wildcard, upper-case host or odd character"
DOTS = "has dots or escapes in its path that readers understand differently"
ELSEWHERE = "is http to another host than this machine"
SCHEME = "has a scheme that is not allowed"
BAD_HOST = "has a host that is no name or address"
OURS = "has a query parameter that belongs to the answer"
REFUSED = [
    ("", "is empty or too long"),
    ("https://a.example/" + "x" * 2_048, "is empty or too long"),
    ("http://evil.example/cb", ELSEWHERE),
    ("http://127.0.0.1.evil.example/cb", ELSEWHERE),
    ("http://localhost.evil.example/cb", ELSEWHERE),
    ("http://127.0.0.2/cb", ELSEWHERE),
    ("http://127.1/cb", ELSEWHERE),
    ("http://0x7f.0.0.1/cb", ELSEWHERE),
    ("http://2130706433/cb", ELSEWHERE),
    ("http://0177.0.0.1/cb", ELSEWHERE),
    ("http://0.0.0.0/cb", ELSEWHERE),
    ("http://[::ffff:127.0.0.1]/cb", ELSEWHERE),
    ("http://[::]/cb", ELSEWHERE),
    ("http://[0:0:0:0:0:0:0:1]/cb", ELSEWHERE),
    ("http://169.254.169.254/cb", ELSEWHERE),
    ("http://10.0.0.1/cb", ELSEWHERE),
    ("https://localhost/cb", "is https to this machine"),
    ("https://127.0.0.1/cb", "is https to this machine"),
    ("https://[::1]/cb", "is https to this machine"),
    ("https://a.example./cb", BAD_HOST),
    ("https://.a.example/cb", BAD_HOST),
    ("https://a..example/cb", BAD_HOST),
    ("https://-a.example/cb", BAD_HOST),
    ("https://127.1/cb", BAD_HOST),
    ("https://1.2.3.4.5/cb", BAD_HOST),
    ("HTTPS://a.example/cb", SPELLING),
    ("https://A.example/cb", SPELLING),
    ("https://a.example:0/cb", SPELLING),
    ("https://a.example:0443/cb", SPELLING),
    ("https://a.example:65536/cb", "has a port that does not exist"),
    ("https://user@a.example/cb", SPELLING),
    ("https://user:pw@a.example/cb", SPELLING),
    ("https://a.example@evil.example/cb", SPELLING),
    ("https://a.example/cb#part", SPELLING),
    ("https://a.example/cb#", SPELLING),
    ("https://*.a.example/cb", SPELLING),
    ("https://a.example/*", SPELLING),
    ("https://a.example\\@evil.example/cb", SPELLING),
    ("https:\\\\a.example/cb", SPELLING),
    ("https:/a.example/cb", SPELLING),
    ("https:a.example/cb", SPELLING),
    ("//a.example/cb", SPELLING),
    ("/cb", SPELLING),
    ("https://", SPELLING),
    ("https://ä.example/cb", SPELLING),
    ("https://a.example/c b", SPELLING),
    ("https://a.example/cb\n", SPELLING),
    ("https://a.example/cb\tx", SPELLING),
    (" https://a.example/cb", SPELLING),
    ("https://a.example%2eevil.example/cb", SPELLING),
    ("https://a.example/../cb", DOTS),
    ("https://a.example/./cb", DOTS),
    ("https://a.example/cb/..", DOTS),
    ("https://a.example/%2e%2e/cb", DOTS),
    ("https://a.example/a%2Fb", DOTS),
    ("https://a.example/a%5cb", DOTS),
    ("https://a.example/a%00b", DOTS),
    ("https://a.example/a%0d%0ab", DOTS),
    ("https://a.example/a%zz", DOTS),
    ("https://a.example/cb?code=x", OURS),
    ("https://a.example/cb?a=b&state=x", OURS),
    ("https://a.example/cb?iss=x", OURS),
    ("javascript:alert(1)", SPELLING),
    ("javascript://a.example/%0aalert(1)", DOTS),
    ("javascript://a.example/alert(1)", SCHEME),
    ("data:text/html,x", SPELLING),
    ("data://text/html", SCHEME),
    ("file:///etc/passwd", SPELLING),
    ("vbscript://x/y", SCHEME),
    ("ftp://a.example/cb", SCHEME),
    ("ws://127.0.0.1/cb", SCHEME),
    ("blob://a.example/x", SCHEME),
    ("cursor://anysphere.cursor-mcp/oauth/callback", SCHEME),
    ("com.example.app://callback", SCHEME),
    ("urn:ietf:wg:oauth:2.0:oob", SPELLING),
]  # fmt: skip
ALLOWED = [
    "https://a.example/cb",
    "https://a.example",
    "https://a.example/",
    "https://a.example:8443/cb",
    "https://a.example/cb?from=us&x=%20",
    "https://xn--bcher-kva.example/cb",
    "https://203.0.114.5/cb",
    "https://[2606:4700::1]/cb",
    "http://127.0.0.1/cb",
    "http://127.0.0.1:43127/",
    "http://127.0.0.1:43127",
    "http://[::1]:8080/cb",
    "http://localhost/cb",
    "http://localhost:3000/cb",
]


@pytest.mark.parametrize(("uri", "why"), REFUSED, ids=lambda one: one[:48])
def test_t11_no_client_may_have_this_redirect_uri(stack: Stack, uri: str, why: str) -> None:
    assert RedirectRules().judge(uri) == why
    body = json.dumps({"client_name": "x", "redirect_uris": ["https://good.example/cb", uri]})
    before, hits = len(auth_rows(stack)), stack.servers["notes"].hits
    made = Browser(stack).ask("POST", "/oauth/register", body, Content_Type="application/json")
    assert made.status == 400
    assert made.json == {"error": "invalid_redirect_uri", "error_description": f"A redirect URI {why}."}
    assert stack.servers["notes"].hits == hits
    one_record(stack, before, "register-refused")


@pytest.mark.parametrize("uri", ALLOWED)
def test_an_ordinary_redirect_uri_is_fine_and_matches_itself(uri: str) -> None:
    rules = RedirectRules()
    assert rules.judge(uri) == ""
    assert rules.find(uri, [uri]) is not None


FOREIGN = [  # what a client asks for that has http://127.0.0.1/callback, http://[::1]/callback and https://desk.example/cb
    "https://desk.example/cb/",
    "https://desk.example/cb/more",
    "https://desk.example/CB",
    "https://desk.example/c%62",
    "https://desk.example/cb?x=1",
    "https://desk.example/cb?",
    "https://desk.example/cb#",
    "https://desk.example:443/cb",
    "https://desk.example:8443/cb",
    "https://Desk.example/cb",
    "https://desk.example./cb",
    "https://sub.desk.example/cb",
    "https://desk.example.evil.example/cb",
    "https://desk.example@evil.example/cb",
    "https://evil.example/https://desk.example/cb",
    "https://desk.example/x/../cb",
    "https://desk.example//cb",
    "https://desk.example/cb\\",
    "https://desk.example/cb%00",
    "https://desk.example/cb ",
    "http://desk.example/cb",
    "//desk.example/cb",
    "javascript:alert(document.domain)",
    "data:text/html,<script>alert(1)</script>",
    "http://127.0.0.1:43127/callback/",
    "http://127.0.0.1:43127/callback?x=1",
    "http://127.0.0.1:43127/other",
    "http://127.0.0.1:0/callback",
    "http://127.0.0.1:99999/callback",
    "http://127.0.0.1:43127@evil.example/callback",
    "http://localhost/callback",
    "http://localhost:43127/callback",
    "http://127.0.0.2:43127/callback",
    "http://127.1:43127/callback",
    "http://2130706433:43127/callback",
    "http://[::ffff:127.0.0.1]:43127/callback",
    "http://[0:0:0:0:0:0:0:1]:43127/callback",
    "http://evil.example:43127/callback",
    "https://127.0.0.1:43127/callback",
    "cursor://anysphere.cursor-mcp/oauth/callback",
    "urn:ietf:wg:oauth:2.0:oob",
    "null",
]  # fmt: skip


@pytest.mark.parametrize("uri", FOREIGN)
def test_t11_a_foreign_redirect_uri_is_shown_and_never_followed(browser: Browser, uri: str) -> None:
    stack = browser.stack
    before, hits = len(auth_rows(stack)), stack.servers["notes"].hits
    page = browser.get(authorize_url(stack, redirect_uri=uri))
    tell = "The redirect URI is not one that this client has."
    assert page.status == 400
    assert page.body.encode() == refusal(tell, status=400).body
    assert "location" not in page.fields
    assert uri == "null" or uri not in page.body
    assert stack.servers["notes"].hits == hits
    row = one_record(stack, before, "authorize-refused")
    assert (row["verdict"], row["reason"]) == ("refuse", "invalid_request: foreign redirect URI")


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1/callback",
        "http://127.0.0.1:1/callback",
        "http://127.0.0.1:65535/callback",
        "http://[::1]:43127/callback",
        "https://desk.example/cb",
    ],
)
def test_its_own_redirect_uri_is_followed_and_a_loopback_port_may_vary(browser: Browser, uri: str) -> None:
    page = browser.get(authorize_url(browser.stack, redirect_uri=uri))
    done = browser.post("/oauth/consent", {"transaction": page.hidden(), "decision": "approve"})
    assert done.status == 303
    assert done.location.startswith(uri + "?code=")


def test_operators_may_name_private_schemes_and_let_localhost_vary() -> None:
    rules = RedirectRules(("cursor",), localhost_ports=True)
    cursor = "cursor://anysphere.cursor-mcp/oauth/callback"
    assert rules.judge(cursor) == ""
    assert rules.find(cursor, [cursor]) is not None
    assert rules.find("http://localhost:1/cb", ["http://localhost/cb"]) is not None
    assert rules.find("http://localhost:1/cb", ["http://127.0.0.1/cb"]) is None
    for scheme in ("javascript", "data", "file", "http", "https", "Cursor", "a b", ""):
        assert not is_private_scheme(scheme)


def test_the_answer_is_added_to_a_query_and_never_changes_what_stood_there() -> None:
    answer = [("code", "a&b=c#d"), ("state", "é ✓"), ("iss", "")]
    assert with_query("https://a.example/cb", answer) == (
        "https://a.example/cb?code=a%26b%3Dc%23d&state=" + quote("é ✓", safe="")
    )
    assert with_query("https://a.example/cb?x=1", [("code", "c")]) == "https://a.example/cb?x=1&code=c"
    assert with_query("https://a.example/cb?", [("code", "c")]) == "https://a.example/cb?code=c"
